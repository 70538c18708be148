//! All that was measured: told line by line as it comes, then as tables, as JSON and as plots.

mod json;
mod machine;
mod plot;
mod svg;
mod table;
mod targets;

use std::path::PathBuf;
use std::time::Instant;

use vault_core::store::EngineName;

use crate::Failure;
use crate::drive::Latencies;
use crate::figures::{Figures, quantile};
use crate::limits::sealing::Sealing;
use crate::personas::Personas;
use crate::rotation::Rotated;
use crate::settings::{Settings, Workload};
use crate::work::Work;
use machine::Machine;

/// How the server was run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setting {
    /// With the caches that it has by default.
    Hot,
    /// With caches of a sixteenth of what is stored.
    Cold,
    /// Over TLS.
    Tls,
}

/// One kind of request under one load.
pub(crate) struct Line {
    pub(crate) engine: EngineName,
    pub(crate) subjects: u64,
    pub(crate) setting: Setting,
    pub(crate) work: Work,
    pub(crate) connections: u16,
    pub(crate) figures: Figures,
    pub(crate) limit: Option<Limit>,
}

/// What a line is held against: measured in the same run.
pub(crate) struct Limit {
    pub(crate) name: &'static str,
    /// Units a second.
    pub(crate) rate: f64,
    /// At the same fixed pace as the line.
    pub(crate) paced: Option<Latencies>,
}

/// What the disk takes for the subjects.
pub(crate) struct Size {
    pub(crate) engine: EngineName,
    pub(crate) subjects: u64,
    /// How many there were when it was measured.
    pub(crate) living: u64,
    pub(crate) grown: u64,
    pub(crate) compacted: u64,
}

/// Bytes that the server has resident.
pub(crate) struct Memory {
    pub(crate) engine: EngineName,
    pub(crate) subjects: u64,
    /// Once everybody was enrolled.
    pub(crate) enrolled: u64,
    /// At most, after any measurement with the usual caches.
    pub(crate) most: u64,
}

/// The report.
pub(crate) struct Report {
    quick: bool,
    workloads: Vec<Workload>,
    engines: Vec<EngineName>,
    out: PathBuf,
    begun: Instant,
    machine: Machine,
    /// One core, without store and HTTP.
    pub(crate) sealing: Sealing,
    /// Milliseconds until 4 KiB are durable.
    sync_ms: f64,
    lines: Vec<Line>,
    rotations: Vec<Rotated>,
    sizes: Vec<Size>,
    memory: Vec<Memory>,
    pub(crate) personas: Option<Personas>,
}

impl Limit {
    /// A limit that is no more than a rate.
    pub(crate) fn of_rate(name: &'static str, rate: f64) -> Limit {
        Limit { name, rate, paced: None }
    }

    /// A limit that was measured as the line was.
    pub(crate) fn of_figures(name: &'static str, figures: Figures) -> Limit {
        Limit { name, rate: figures.rate(), paced: figures.paced.map(|(_, latencies)| latencies) }
    }
}

impl Line {
    /// What it is called in tables.
    fn name(&self) -> String {
        let setting = match self.setting {
            Setting::Hot => "",
            Setting::Cold => ", cold",
            Setting::Tls => ", over TLS",
        };
        format!("{}{setting}", self.work.name())
    }

    /// Its rate as a share of its limit's.
    fn of_limit(&self) -> Option<f64> {
        self.limit.as_ref().map(|limit| self.figures.rate() / limit.rate)
    }

    /// How many times as long as its limit takes at the same pace, for all but one in a hundred.
    fn p99_of_limit(&self) -> Option<f64> {
        let (_, own) = self.figures.paced.as_ref()?;
        let limit = self.limit.as_ref()?.paced.as_ref()?;
        Some(quantile(own, 0.99) / quantile(limit, 0.99))
    }
}

impl Report {
    /// One without figures but these, which belong to no engine.
    pub(crate) fn new(settings: &Settings, sealing: Sealing, sync_ms: f64) -> Report {
        Report {
            quick: settings.quick,
            workloads: settings.workloads().to_vec(),
            engines: settings.engines.clone(),
            out: settings.out.clone(),
            begun: Instant::now(),
            machine: Machine::now(),
            sealing,
            sync_ms,
            lines: Vec::new(),
            rotations: Vec::new(),
            sizes: Vec::new(),
            memory: Vec::new(),
            personas: None,
        }
    }

    /// Tells people who wait what goes on.
    pub(crate) fn progress(&self, what: &str) {
        eprintln!("[{:>4} s] {what}", self.begun.elapsed().as_secs());
    }

    /// Notes a line.
    pub(crate) fn add(&mut self, line: Line) {
        let of_limit = line.of_limit().map(|ratio| format!(", {ratio:.2} of its limit")).unwrap_or_default();
        let (rate, unit) = (line.figures.rate(), line.work.unit().0);
        self.progress(&format!(
            "{}: {}, {} connections: {rate:.0} {unit}/s{of_limit}",
            line.engine,
            line.name(),
            line.connections
        ));
        let memory = self.memory.iter_mut().find(|of| of.engine == line.engine && of.subjects == line.subjects);
        if let Some(memory) = memory.filter(|_| line.setting == Setting::Hot) {
            memory.most = memory.most.max(line.figures.resident);
        }
        self.lines.push(line);
    }

    /// Notes the memory of a server that has enrolled everybody.
    pub(crate) fn memory(&mut self, engine: EngineName, subjects: u64, enrolled: u64) {
        self.memory.push(Memory { engine, subjects, enrolled, most: enrolled });
    }

    /// Notes a rotation.
    pub(crate) fn rotated(&mut self, rotated: Rotated) {
        let (seconds, pages) = (rotated.median_seconds(), rotated.pages);
        self.progress(&format!("{}: rotation of {pages} page keys: {seconds:.2} s", rotated.engine));
        self.rotations.push(rotated);
    }

    /// Notes a size.
    pub(crate) fn size(&mut self, size: Size) {
        let each = size.compacted / size.living.max(1);
        self.progress(&format!("{}: {each} bytes a subject when compacted", size.engine));
        self.sizes.push(size);
    }

    /// What was written with these, for each of which the bare engine is the limit.
    pub(crate) fn writes(&self, engine: EngineName, subjects: u64) -> Vec<(Work, u16)> {
        let lines = self.lines.iter().filter(|line| line.engine == engine && line.subjects == subjects);
        let writes = lines.filter(|line| line.setting == Setting::Hot);
        writes
            .filter(|line| matches!(line.work, Work::New { .. } | Work::Update))
            .map(|line| (line.work, line.connections))
            .collect()
    }

    /// Notes what the bare engine does with the same rows.
    pub(crate) fn limit_of_write(
        &mut self,
        engine: EngineName,
        subjects: u64,
        work: Work,
        connections: u16,
        figures: Figures,
    ) {
        let (rate, unit) = (figures.rate(), work.unit().0);
        self.progress(&format!("limit: bare {engine}, rows of {}: {rate:.0} {unit}/s", work.name()));
        let of = |line: &&mut Line| line.engine == engine && line.subjects == subjects && line.work == work;
        let same = |line: &&mut Line| line.setting == Setting::Hot && line.connections == connections;
        if let Some(line) = self.lines.iter_mut().filter(of).find(same) {
            line.limit = Some(Limit::of_figures("bare engine", figures));
        }
    }

    /// Prints the tables and writes the files.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.machine.ended();
        println!("{}", table::machine(&self));
        println!("{}", table::figures(&self));
        println!("{}", table::beside(&self));
        println!("{}", table::personas(&self));
        println!("{}", targets::table(&self));
        let told = |why: std::io::Error| format!("{} cannot be written: {why}", self.out.display());
        std::fs::create_dir_all(&self.out).map_err(told)?;
        let files = [
            ("bench.json", json::report(&self)),
            ("rates.svg", plot::rates(&self)),
            ("latencies.svg", plot::latencies(&self)),
        ];
        for (name, text) in files {
            std::fs::write(self.out.join(name), text).map_err(told)?;
        }
        println!("bench.json, rates.svg and latencies.svg are in {}", self.out.display());
        Ok(())
    }
}
