//! Runs one kind of work on many connections for a while, and counts.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;
use vault_bench::seeded::Seeded;
use vault_bench::wide;
use vault_core::schema::Document;

use super::client::{Connection, Request};
use super::server::{Server, cpu_micros};
use super::work::{WIDE_SUBJECTS, Work, widen};
use super::{BATCH, Failure};

/// How long to wait before asking again whether an erasure is final.
const POLL: Duration = Duration::from_millis(2);

/// Drives a server, and remembers which subjects it has.
pub(super) struct Runner {
    address: std::net::SocketAddr,
    token: String,
    process: u32,
    /// Subjects from here on are not enrolled yet.
    enrolled: Cell<u64>,
    /// Subjects before this are shredded.
    shredded: Cell<u64>,
    chooser: RefCell<Seeded>,
}

/// What a measurement saw.
pub(super) struct Figures {
    /// Units done.
    pub(super) units: u64,
    /// From the first request to the last answer.
    pub(super) took: Duration,
    /// Of each request, ascending.
    pub(super) latencies: Vec<Duration>,
    /// Processor time of the measured process.
    pub(super) cpu: Duration,
}

impl Figures {
    /// Units a second.
    pub(super) fn rate(&self) -> f64 {
        self.units as f64 / self.took.as_secs_f64()
    }

    /// The latency in milliseconds that `share` of the requests do not exceed.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        self.latencies.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    }

    /// Microseconds of processor time a unit.
    pub(super) fn cpu_a_unit(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.units.max(1) as f64
    }
}

/// Repeats `once` until `deadline`; gives the latency of each time.
pub(super) async fn until(
    deadline: Instant,
    mut once: impl AsyncFnMut() -> Result<(), Failure>,
) -> Result<Vec<Duration>, Failure> {
    let mut latencies = Vec::new();
    loop {
        let begun = Instant::now();
        if begun >= deadline {
            return Ok(latencies);
        }
        once().await?;
        latencies.push(begun.elapsed());
    }
}

/// Runs `workers` side by side on this thread, and counts what they did; `units` for each repetition.
pub(super) async fn count<W>(workers: Vec<W>, units: u64, process: u32) -> Result<Figures, Failure>
where
    W: Future<Output = Result<Vec<Duration>, Failure>> + 'static,
{
    let (local, start, cpu) = (LocalSet::new(), Instant::now(), cpu(process)?);
    let tasks: Vec<_> = workers.into_iter().map(|worker| local.spawn_local(worker)).collect();
    local.await;
    let took = start.elapsed();
    let mut latencies = Vec::new();
    for task in tasks {
        latencies.append(&mut task.await??);
    }
    latencies.sort_unstable();
    let units = units * latencies.len() as u64;
    Ok(Figures { units, took, latencies, cpu: self::cpu(process)?.saturating_sub(cpu) })
}

impl Runner {
    /// A runner against `server`, which has no subject yet.
    pub(super) async fn new(server: &Server) -> Result<Runner, Failure> {
        Ok(Runner {
            address: server.address,
            token: unbounded(server).await?,
            process: server.process(),
            enrolled: Cell::new(0),
            shredded: Cell::new(0),
            chooser: RefCell::new(Seeded::new(1)),
        })
    }

    /// Enrols at least `subjects`, not measured.
    pub(super) async fn enrol(self: &Rc<Self>, subjects: u64, connections: u16) -> Result<(), Failure> {
        let work = Work::Enrol { batch: BATCH };
        while self.enrolled.get() < subjects {
            self.measure(work, connections, Duration::from_millis(200)).await?;
        }
        Ok(())
    }

    /// Puts the schema of docs/schema into force, which has more fields, and enrols subjects with ten of them.
    pub(super) async fn widen(&self) -> Result<(), Failure> {
        let mut connection = Connection::open(self.address, &self.token).await?;
        let body = Document::from_toml(wide::SCHEMA)?.to_json();
        let schema = Request { method: "PUT", path: "/v1/schema".to_owned(), body };
        for request in std::iter::once(schema).chain((0..WIDE_SUBJECTS).map(widen)) {
            let (status, body) = connection.ask(&request).await?;
            if !(200..300).contains(&status) {
                return Err(format!("{}: {status} {}", request.path, String::from_utf8_lossy(body)).into());
            }
        }
        Ok(())
    }

    /// Keeps `connections` busy with `work` for `time`.
    pub(super) async fn measure(
        self: &Rc<Self>,
        work: Work,
        connections: u16,
        time: Duration,
    ) -> Result<Figures, Failure> {
        let mut open = Vec::new();
        for _ in 0..connections {
            open.push(Connection::open(self.address, &self.token).await?);
        }
        let deadline = Instant::now() + time;
        let worker = |mut connection: Connection| {
            let runner = Rc::clone(self);
            async move { until(deadline, async || runner.once(&mut connection, work).await).await }
        };
        count(open.into_iter().map(worker).collect(), work.unit().1, self.process).await
    }

    async fn once(&self, connection: &mut Connection, work: Work) -> Result<(), Failure> {
        let (request, expected) = work.request(self.choose(work)?);
        let (status, body) = connection.ask(&request).await?;
        if status != expected || !work.succeeded(body) {
            let told = String::from_utf8_lossy(&body[..body.len().min(300)]);
            return Err(format!("{}: {status} {told}", work.name()).into());
        }
        match work {
            Work::Shred { batch: 2.. } => {
                let erasure = id_of(body)?;
                until_final(connection, &erasure).await
            }
            _ => Ok(()),
        }
    }

    /// The first subject of the next request.
    fn choose(&self, work: Work) -> Result<u64, Failure> {
        match work {
            Work::Enrol { batch } => Ok(self.enrolled.replace(self.enrolled.get() + batch)),
            Work::Shred { batch } if self.shredded.get() + batch > self.enrolled.get() => {
                Err("no subject is left to be shredded: start with more --subjects".into())
            }
            Work::Shred { batch } => Ok(self.shredded.replace(self.shredded.get() + batch)),
            Work::Health | Work::Update | Work::ReadWide { .. } | Work::Lookup => Ok(self.living(1)),
            Work::Read { batch } => Ok(self.living(batch)),
        }
    }

    fn living(&self, count: u64) -> u64 {
        let (from, to) = (self.shredded.get(), self.enrolled.get().saturating_sub(count));
        from + self.chooser.borrow_mut().below(to.saturating_sub(from).max(1))
    }
}

/// The API token of a caller that may look up as much as it likes: what is measured is not the budget.
async fn unbounded(server: &Server) -> Result<String, Failure> {
    let body = r#"{"name":"load","role":"admin","lookups_per_minute":0}"#.to_owned();
    let request = Request { method: "POST", path: "/v1/callers".to_owned(), body };
    let mut connection = Connection::open(server.address, &server.token).await?;
    let (status, answer) = connection.ask(&request).await?;
    let answer: serde_json::Value = serde_json::from_slice(answer)?;
    let token = answer["token"].as_str().filter(|_| status == 201);
    Ok(token.ok_or_else(|| format!("no caller could be made: {status}"))?.to_owned())
}

async fn until_final(connection: &mut Connection, erasure: &str) -> Result<(), Failure> {
    let request = Request { method: "GET", path: format!("/v1/erasures/{erasure}"), body: String::new() };
    loop {
        let (status, body) = connection.ask(&request).await?;
        let answer: serde_json::Value = serde_json::from_slice(body)?;
        match (status, answer["state"].as_str()) {
            (200, Some("final")) => return Ok(()),
            (200, Some("refused")) => tokio::time::sleep(POLL).await,
            _ => return Err(format!("an erasure's state was not told: {status}").into()),
        }
    }
}

fn id_of(body: &[u8]) -> Result<String, Failure> {
    let answer: serde_json::Value = serde_json::from_slice(body)?;
    Ok(answer["id"].as_str().ok_or("an erasure without an id")?.to_owned())
}

/// Processor time of a process so far, all its threads together.
fn cpu(process: u32) -> Result<Duration, Failure> {
    Ok(Duration::from_micros(cpu_micros(process)?))
}
