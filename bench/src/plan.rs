//! Which measurements are made, in which order, and what each is held against.

use std::path::Path;
use std::rc::Rc;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use vault_core::schema::View;
use vault_core::store::EngineName;

use crate::Failure;
use crate::figures::{Bench, Figures, Pattern};
use crate::http::Connection;
use crate::limits::engine::{Bed, Shape};
use crate::limits::route::Route;
use crate::limits::{disk, sealing};
use crate::personas;
use crate::population::Population;
use crate::process::{disk_bytes, resident};
use crate::report::{Limit, Line, Report, Setting, Size};
use crate::rotation;
use crate::server::{Program, Server, Vault};
use crate::settings::{Settings, Workload};
use crate::work::Work;

/// Connections: one alone, as many as a small service has, and as many as keep everything busy.
const FEW: [u16; 2] = [1, 16];
const MANY: u16 = 64;
/// Connections for requests that hold many subjects.
const OF_100: u16 = 8;
const OF_1000: u16 = 4;

const ONE_FIELD: Work = Work::Read { fields: 1, view: View::Full };
const TEN_FIELDS: Work = Work::Read { fields: 10, view: View::Full };
const NEW: Work = Work::New { batch: 1 };

/// Measures everything that is wanted, prints the tables, and writes the files.
pub(crate) fn run(settings: &Settings) -> Result<(), Failure> {
    // One thread for the client: the server is what should have the processors.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let program = Program::build()?;
    let route = Route::start()?;
    let scratch = settings.scratch()?;
    let sealing = sealing::measure(settings.rounds().round)?;
    let mut report = Report::new(settings, sealing, disk::sync_ms(scratch.path())?);
    let all: &[u64] = if settings.is_about_subjects() { &settings.subjects } else { &[] };
    for &subjects in all {
        for &engine in &settings.engines {
            let scratch = settings.scratch()?;
            let vault = Vault::make(&program, scratch.path().join("vault"), engine)?;
            let people = Population::new();
            let mut session = Session { settings, route: &route, report: &mut report, vault, people, engine, subjects };
            runtime.block_on(unless_interrupted(session.run(scratch.path())))?;
        }
    }
    if settings.wants(Workload::Personas) {
        let told = |what: &str| report.progress(what);
        report.personas = Some(runtime.block_on(unless_interrupted(personas::measure(settings, &program, told)))?);
    }
    report.finish()
}

/// Who interrupts a run leaves no server and no directory behind: both go with their owners.
async fn unless_interrupted<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
        _ = terminate.recv() => Err("interrupted".into()),
    }
}

/// The measurements of one engine with one number of subjects.
struct Session<'a> {
    settings: &'a Settings,
    route: &'a Route,
    report: &'a mut Report,
    vault: Vault<'a>,
    people: Rc<Population>,
    engine: EngineName,
    subjects: u64,
}

impl Session<'_> {
    async fn run(&mut self, scratch: &Path) -> Result<(), Failure> {
        let server = self.vault.start(&[])?;
        self.report.progress(&format!("{} with {} subjects: enrolling them", self.engine, self.subjects));
        self.people.settle(&server.endpoint, self.subjects).await?;
        self.report.memory(self.engine, self.subjects, resident(server.process())?);
        self.hot(&server).await?;
        server.stop()?;

        if self.wants(Workload::Size) {
            self.size(scratch)?;
        }
        if self.wants(Workload::Cold) {
            self.cold().await?;
        }
        if self.wants(Workload::Tls) {
            self.tls().await?;
        }
        if [Workload::Mixed, Workload::Shreds, Workload::Rotation].into_iter().any(|work| self.wants(work)) {
            let server = self.vault.start(&[])?;
            self.ending(&server).await?;
            server.stop()?;
        }
        if self.wants(Workload::Writes) || self.wants(Workload::Batches) {
            self.engine_limits(scratch).await?;
        }
        Ok(())
    }

    /// What leaves everybody alive, with the caches as they are configured by default.
    async fn hot(&mut self, server: &Server) -> Result<(), Failure> {
        let (rounds, paced) = (self.settings.rounds(), self.settings.rounds_and_pace());
        if self.wants(Workload::Reads) {
            self.against_route(server, Setting::Hot, ONE_FIELD, MANY, paced).await?;
            for few in FEW {
                self.against_route(server, Setting::Hot, ONE_FIELD, few, rounds).await?;
            }
            self.against_route(server, Setting::Hot, TEN_FIELDS, MANY, paced).await?;
            for fields in [1, 10] {
                let masked = Work::Read { fields, view: View::Masked };
                self.against_route(server, Setting::Hot, masked, MANY, rounds).await?;
            }
        }
        if self.wants(Workload::Lookups) {
            self.against_route(server, Setting::Hot, Work::Lookup, MANY, paced).await?;
        }
        if self.wants(Workload::Tokens) {
            self.against_route(server, Setting::Hot, Work::Resolve, MANY, rounds).await?;
        }
        if self.wants(Workload::Batches) {
            self.read_batches(server).await?;
        }
        if self.wants(Workload::Writes) {
            for work in [Work::Update, NEW] {
                self.alone(server, Setting::Hot, work, MANY, paced).await?;
                for few in FEW {
                    self.alone(server, Setting::Hot, work, few, rounds).await?;
                }
            }
        }
        if self.wants(Workload::Batches) {
            self.alone(server, Setting::Hot, Work::New { batch: 100 }, OF_100, rounds).await?;
            self.alone(server, Setting::Hot, Work::New { batch: 1000 }, OF_1000, rounds).await?;
        }
        Ok(())
    }

    async fn read_batches(&mut self, server: &Server) -> Result<(), Failure> {
        for (batch, connections) in [(100, OF_100), (1000, OF_1000)] {
            let work = Work::ReadBatch { batch };
            let figures = self.bench(server, work, connections).await?.alone(self.settings.rounds()).await?;
            let limit = Limit::of_rate("opening fields alone, one core", self.report.sealing.opens);
            self.note(Setting::Hot, work, connections, figures, Some(limit));
        }
        Ok(())
    }

    /// What ends with fewer subjects than it began with, and the rotation.
    async fn ending(&mut self, server: &Server) -> Result<(), Failure> {
        let (rounds, paced) = (self.settings.rounds(), self.settings.rounds_and_pace());
        if self.wants(Workload::Rotation) {
            let bench = self.bench(server, ONE_FIELD, MANY).await?;
            let rotated = rotation::measure(bench, server, paced, self.engine, self.subjects).await?;
            self.report.rotated(rotated);
        }
        if self.wants(Workload::Mixed) {
            self.alone(server, Setting::Hot, Work::Mixed, MANY, paced).await?;
        }
        if self.wants(Workload::Shreds) {
            for (batch, connections) in [(1, 1), (1, MANY), (100, OF_100), (1000, OF_1000)] {
                self.alone(server, Setting::Hot, Work::Shred { batch }, connections, rounds).await?;
            }
        }
        Ok(())
    }

    async fn cold(&mut self) -> Result<(), Failure> {
        // A subject takes some half KiB of pages and twice that in the engine: a sixteenth of both.
        let mib = (self.subjects / 2048 / 16).max(1).to_string();
        let overrides = [("UDV_CACHE__PAGES_MIB", mib.clone()), ("UDV_STORE__CACHE_MIB", mib)];
        let server = self.vault.start(&overrides)?;
        let rounds = self.settings.rounds();
        for work in [ONE_FIELD, Work::Lookup] {
            self.against_route(&server, Setting::Cold, work, MANY, rounds).await?;
        }
        self.alone(&server, Setting::Cold, Work::Update, MANY, rounds).await?;
        server.stop()
    }

    async fn tls(&mut self) -> Result<(), Failure> {
        let server = self.vault.start_with_tls()?;
        for work in [ONE_FIELD, TEN_FIELDS] {
            self.against_route(&server, Setting::Tls, work, MANY, self.settings.rounds()).await?;
        }
        server.stop()
    }

    /// In a copy, so that what is measured afterwards runs on a store as it grew.
    fn size(&mut self, scratch: &Path) -> Result<(), Failure> {
        let dir = scratch.join("compacted");
        let copy = self.vault.copy(dir.clone())?;
        let grown = disk_bytes(&copy.store())?;
        copy.compact()?;
        let compacted = disk_bytes(&copy.store())?;
        std::fs::remove_dir_all(dir)?;
        let (engine, subjects, living) = (self.engine, self.subjects, self.people.living_count());
        self.report.size(Size { engine, subjects, living, grown, compacted });
        Ok(())
    }

    /// The bare engine with the rows that the vault's had.
    async fn engine_limits(&mut self, scratch: &Path) -> Result<(), Failure> {
        self.report.progress("limit: filling the bare engine");
        let shape = Shape::of_store(self.engine, &self.vault.store()).await?;
        let bed = Rc::new(Bed::fill(self.engine, &scratch.join("engine"), shape).await?);
        let lines = self.report.writes(self.engine, self.subjects);
        for (work, connections) in lines {
            let figures = bed.measure(work, connections, self.settings.rounds()).await?;
            self.report.limit_of_write(self.engine, self.subjects, work, connections, figures);
        }
        bed.close().await
    }

    async fn alone(
        &mut self,
        server: &Server,
        setting: Setting,
        work: Work,
        connections: u16,
        pattern: Pattern,
    ) -> Result<(), Failure> {
        let figures = self.bench(server, work, connections).await?.alone(pattern).await?;
        self.note(setting, work, connections, figures, None);
        Ok(())
    }

    /// Beside the empty route, which is asked the same and answers as many bytes.
    async fn against_route(
        &mut self,
        server: &Server,
        setting: Setting,
        work: Work,
        connections: u16,
        pattern: Pattern,
    ) -> Result<(), Failure> {
        let mut connection = server.endpoint.connect().await?;
        connection.expect(&self.people.sample(work)?).await?;
        let path = self.route.path(connection.answer_bytes()).await?;
        let people = Rc::clone(&self.people);
        let limit = Bench {
            workers: self.route.endpoint.connect_all(connections).await?,
            once: Rc::new(async move |connection: &mut Connection| {
                let mut request = people.sample(work)?;
                request.path.clone_from(&path);
                match connection.ask(&request).await? {
                    (200, _) => Ok(()),
                    (status, _) => Err(format!("the empty route answered {status}").into()),
                }
            }),
            units: work.unit().1,
            process: self.route.process(),
        };
        let bench = self.bench(server, work, connections).await?;
        let (figures, limits) = bench.beside(limit, pattern).await?;
        self.note(setting, work, connections, figures, Some(Limit::of_figures("empty route", limits)));
        Ok(())
    }

    async fn bench(
        &self,
        server: &Server,
        work: Work,
        connections: u16,
    ) -> Result<Bench<Connection, impl AsyncFn(&mut Connection) -> Result<(), Failure> + 'static>, Failure> {
        let people = Rc::clone(&self.people);
        Ok(Bench {
            workers: server.endpoint.connect_all(connections).await?,
            once: Rc::new(async move |connection: &mut Connection| people.once(connection, work).await),
            units: work.unit().1,
            process: server.process(),
        })
    }

    fn note(&mut self, setting: Setting, work: Work, connections: u16, figures: Figures, limit: Option<Limit>) {
        let (engine, subjects) = (self.engine, self.subjects);
        self.report.add(Line { engine, subjects, setting, work, connections, figures, limit });
    }

    fn wants(&self, workload: Workload) -> bool {
        self.settings.wants(workload)
    }
}
