//! Who is in the vault under measurement: picks the subjects of each request, and remembers who came and who is gone.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::task::LocalSet;
use vault_bench::seeded::Seeded;
use vault_bench::wide;
use vault_core::schema::{Document, View};

use crate::Failure;
use crate::customers::{WIDE, id, wide_fields, wide_id};
use crate::http::{Connection, Endpoint, Request};
use crate::work::Work;

/// Subjects in a request that enrols those who are there from the start.
const ENROL_BATCH: u64 = 500;
/// Connections that enrol them.
const ENROL_CONNECTIONS: u16 = 8;
/// Value tokens that are there to be resolved.
const TOKENS: u64 = 1000;
/// Who is next to be shredded is not read any more, for the shred may be under way.
const MARGIN: u64 = 256;

/// The subjects of a vault.
pub(crate) struct Population {
    /// Subjects from here on are not enrolled yet.
    enrolled: Cell<u64>,
    /// Subjects before this are shredded.
    shredded: Cell<u64>,
    tokens: RefCell<Vec<String>>,
    chooser: RefCell<Seeded>,
}

impl Population {
    /// Nobody.
    pub(crate) fn new() -> Rc<Population> {
        Rc::new(Population {
            enrolled: Cell::new(0),
            shredded: Cell::new(0),
            tokens: RefCell::default(),
            chooser: RefCell::new(Seeded::new(1)),
        })
    }

    /// How many subjects there are.
    pub(crate) fn living_count(&self) -> u64 {
        self.enrolled.get() - self.shredded.get()
    }

    /// How many more could be shredded.
    pub(crate) fn shreddable(&self) -> u64 {
        self.living_count().saturating_sub(2 * MARGIN)
    }

    /// Puts the schema of docs/schema into force and enrols everybody; nothing here is measured.
    pub(crate) async fn settle(self: &Rc<Self>, endpoint: &Endpoint, subjects: u64) -> Result<(), Failure> {
        let body = Document::from_toml(wide::SCHEMA)?.to_json();
        endpoint.connect().await?.expect(&Request::new("PUT", "/v1/schema", body)).await?;

        let local = LocalSet::new();
        let mut tasks = Vec::new();
        for mut connection in endpoint.connect_all(ENROL_CONNECTIONS).await? {
            let people = Rc::clone(self);
            tasks.push(local.spawn_local(async move { people.enrol(&mut connection, subjects).await }));
        }
        local.await;
        for task in tasks {
            task.await??;
        }
        let wide: Vec<_> = (0..WIDE).map(|n| format!(r#"{{"subject":"{}",{}}}"#, wide_id(n), wide_fields())).collect();
        let mut connection = endpoint.connect().await?;
        batch(&mut connection, "/v1/batch/write", &wide).await?;
        self.make_tokens(&mut connection, subjects).await
    }

    async fn enrol(&self, connection: &mut Connection, subjects: u64) -> Result<(), Failure> {
        while self.enrolled.get() < subjects {
            let count = ENROL_BATCH.min(subjects - self.enrolled.get());
            let first = self.enrolled.replace(self.enrolled.get() + count);
            let work = Work::New { batch: count };
            let (request, expected) = work.request(first);
            ask(connection, work, &request, expected).await?;
        }
        Ok(())
    }

    /// Tokens of those who are shredded last.
    async fn make_tokens(&self, connection: &mut Connection, subjects: u64) -> Result<(), Failure> {
        let of = subjects.saturating_sub(TOKENS)..subjects;
        let items: Vec<_> = of.map(|n| format!(r#"{{"subject":"{}","field":"phone"}}"#, id(n))).collect();
        let made = batch(connection, "/v1/tokens", &items).await?;
        let tokens = made["results"].as_array().into_iter().flatten().filter_map(|made| made["token"].as_str());
        *self.tokens.borrow_mut() = tokens.map(str::to_owned).collect();
        Ok(())
    }

    /// One request of this work, to its end.
    pub(crate) async fn once(&self, connection: &mut Connection, work: Work) -> Result<(), Failure> {
        let work = if work == Work::Mixed { self.mixed() } else { work };
        let (request, expected) = match work {
            Work::Resolve => (self.resolve()?, 200),
            _ => work.request(self.choose(work)?),
        };
        ask(connection, work, &request, expected).await
    }

    /// A request of this work that changes nothing, to learn how large the answer is or to ask somebody else.
    pub(crate) fn sample(&self, work: Work) -> Result<Request, Failure> {
        match work {
            Work::Resolve => self.resolve(),
            _ => Ok(work.request(self.choose(work)?).0),
        }
    }

    fn mixed(&self) -> Work {
        match self.chooser.borrow_mut().below(100) {
            0..80 => Work::Read { fields: 1, view: View::Full },
            80..95 => Work::Update,
            95..99 => Work::Lookup,
            _ => Work::Shred { batch: 1 },
        }
    }

    fn resolve(&self) -> Result<Request, Failure> {
        let tokens = self.tokens.borrow();
        let at = self.chooser.borrow_mut().below(tokens.len().max(1) as u64);
        let token = tokens.get(at as usize).ok_or("no token was made")?;
        Ok(Request::post("/v1/tokens/resolve", format!(r#"{{"token":"{token}"}}"#)))
    }

    /// The first subject of the next request.
    fn choose(&self, work: Work) -> Result<u64, Failure> {
        match work {
            Work::New { batch } => Ok(self.enrolled.replace(self.enrolled.get() + batch)),
            Work::Shred { batch } if self.shreddable() < batch => {
                Err("no subject is left to be shredded: start with more --subjects, or with fewer --seconds".into())
            }
            Work::Shred { batch } => Ok(self.shredded.replace(self.shredded.get() + batch)),
            Work::ReadBatch { batch } => Ok(self.living(batch)),
            Work::Update | Work::Read { .. } | Work::Lookup | Work::Resolve | Work::Mixed => Ok(self.living(1)),
        }
    }

    fn living(&self, count: u64) -> u64 {
        let (from, to) = (self.shredded.get() + MARGIN, self.enrolled.get().saturating_sub(count + MARGIN));
        from + self.chooser.borrow_mut().below(to.saturating_sub(from).max(1))
    }
}

/// Asks, and waits until what was asked for is done.
async fn ask(connection: &mut Connection, work: Work, request: &Request, expected: u16) -> Result<(), Failure> {
    let (status, body) = connection.ask(request).await?;
    if status != expected || !work.succeeded(body) {
        let told = String::from_utf8_lossy(&body[..body.len().min(300)]);
        return Err(format!("{}: the server answered {status} {told}", work.name()).into());
    }
    match work {
        Work::Shred { batch: 2.. } => {
            let answer: serde_json::Value = serde_json::from_slice(body)?;
            let erasure = answer["id"].as_str().ok_or("an erasure without an id")?;
            until_final(connection, erasure).await
        }
        _ => Ok(()),
    }
}

/// A batch, of which every item must be done.
async fn batch(connection: &mut Connection, path: &str, items: &[String]) -> Result<serde_json::Value, Failure> {
    let answer = connection.expect(&Request::post(path, format!(r#"{{"items":[{}]}}"#, items.join(",")))).await?;
    match answer["results"].as_array().into_iter().flatten().find(|result| !result["problem"].is_null()) {
        Some(failed) => Err(format!("{path}: {failed}").into()),
        None => Ok(answer),
    }
}

async fn until_final(connection: &mut Connection, erasure: &str) -> Result<(), Failure> {
    let request = Request::get(format!("/v1/erasures/{erasure}?wait=10"));
    loop {
        let answer = connection.expect(&request).await?;
        match answer["state"].as_str() {
            Some("final") => return Ok(()),
            Some("refused") => {}
            state => return Err(format!("an erasure is {state:?} and not on its way to be final").into()),
        }
    }
}
