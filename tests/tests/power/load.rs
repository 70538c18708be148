//! A mixed load on a watched server, and what each acknowledgement promises about the disk from then on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::journal::length;
use crate::harness::{Choices, Client, Running};
use crate::torture::model::{Change, Model, PHONE, Refusal, State, Tally, Trouble};

pub(super) const WRITERS: usize = 3;
const SUBJECTS: u64 = 8;
/// Numbers that are looked up in an image, of all that were ever given.
const LOOKUPS: u64 = 30;

/// A request: how long the journal was when it was asked, and when it was answered.
struct Request {
    asked: usize,
    told: usize,
    changes: Vec<(String, Change)>,
    /// For each change.
    refusals: Vec<Option<Refusal>>,
}

/// A signed head of the audit log, and how long the journal was when it was handed out.
pub(super) struct Head {
    pub(super) told: usize,
    pub(super) note: Vec<u8>,
}

/// One writer, whose subjects nobody else writes.
struct Writer {
    number: usize,
    written: u64,
    /// As of now.
    model: Model,
    requests: Vec<Request>,
}

/// A load and what it left behind.
pub(super) struct Load {
    journal: PathBuf,
    writers: Vec<Writer>,
    pub(super) heads: Mutex<Vec<Head>>,
}

impl Load {
    /// Nothing was done yet.
    pub(super) fn new(journal: &Path) -> Self {
        let writer = |number| Writer { number, written: 0, model: known(number), requests: Vec::new() };
        Self { journal: journal.to_owned(), writers: (0..WRITERS).map(writer).collect(), heads: Mutex::default() }
    }

    /// Works on a server: so many requests of each writer, while keys are rotated.
    pub(super) fn run(&mut self, running: &Running, requests: u64, choices: &mut Choices) {
        let ended = AtomicBool::new(false);
        let (journal, heads) = (&self.journal, &self.heads);
        thread::scope(|scope| {
            let mut seeds = || Choices::new(choices.below(u64::MAX));
            let (client, seed, over) = (running.admin.clone(), seeds(), &ended);
            let rotator = scope.spawn(move || rotate(&client, seed, over));
            let work = |writer: &mut Writer, client: &Client, mut choices: Choices| {
                for _ in 0..requests {
                    match choices.below(25) {
                        0 => heads.lock().unwrap().push(head(client, journal)),
                        _ => writer.step(client, &mut choices, journal),
                    }
                }
            };
            let writers: Vec<_> = self
                .writers
                .iter_mut()
                .map(|writer| {
                    let (client, choices) = (running.admin.clone(), seeds());
                    scope.spawn(move || work(writer, &client, choices))
                })
                .collect();
            let done: Vec<_> = writers.into_iter().map(thread::ScopedJoinHandle::join).collect();
            ended.store(true, Ordering::Relaxed);
            rotator.join().unwrap();
            done.into_iter().for_each(Result::unwrap);
        });
    }

    /// The journal's lengths at which something was acknowledged.
    pub(super) fn acknowledged(&self) -> Vec<usize> {
        let requests = self.writers.iter().flat_map(|writer| &writer.requests);
        requests.map(|request| request.told).collect()
    }

    /// Asserts that a vault is as it may be when the journal ended at `cut`.
    pub(super) fn check(&self, client: &Client, cut: usize, choices: &mut Choices) -> Tally {
        let client = client.for_purpose("account");
        let mut all = Tally::default();
        for writer in &self.writers {
            let mut model = writer.at(cut);
            let tally = model.settle(&client).unwrap_or_else(|trouble| panic!("{trouble:?}"));
            all.absent += tally.absent;
            all.live += tally.live;
            all.shredded += tally.shredded;
            let phones: Vec<_> = model.phones().collect();
            let chosen = (0..LOOKUPS / WRITERS as u64).filter(|_| !phones.is_empty());
            for phone in chosen.map(|_| phones[choices.below(phones.len() as u64) as usize]) {
                model.look_up(&client, phone).unwrap_or_else(|trouble| panic!("{trouble:?}"));
            }
        }
        all
    }
}

fn id(writer: usize, subject: u64) -> String {
    format!("w{writer}-{subject}")
}

/// A model that knows a writer's subjects, and nothing of them.
fn known(writer: usize) -> Model {
    let mut model = Model::default();
    (0..SUBJECTS).for_each(|subject| model.know(&id(writer, subject)));
    model
}

/// Asks for the log's head.
fn head(client: &Client, journal: &Path) -> Head {
    let note = client.get("/v1/audit/checkpoint").expect(200).body.into_bytes();
    Head { told: length(journal), note }
}

/// Rotates one layer after the other.
fn rotate(client: &Client, mut choices: Choices, ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        let layer = ["root", "keks", "deks", "lookups"][choices.below(4) as usize];
        let answer = client.post("/v1/keys/rotations", &json!({ "layer": layer }));
        assert!([202, 409].contains(&answer.status), "{layer}: {}", answer.body);
        thread::sleep(Duration::from_millis(20 + choices.below(100)));
    }
}

impl Writer {
    /// One of its subjects, and what that is now.
    fn choose(&self, choices: &mut Choices) -> (String, State) {
        let id = id(self.number, choices.below(SUBJECTS));
        let state = self.model.allowed(&id).into_iter().next().unwrap();
        (id, state)
    }

    /// Every value is a new one, and has its own phone number.
    fn values(&mut self) -> [(&'static str, String); 2] {
        self.written += 1;
        let value = self.written * WRITERS as u64 + self.number as u64;
        [("name", format!("v{value}")), (PHONE, format!("+97150{value:07}"))]
    }

    fn step(&mut self, client: &Client, choices: &mut Choices, journal: &Path) {
        let (id, state) = self.choose(choices);
        let kind = choices.below(12);
        let path = format!("/v1/subjects/{id}");
        match kind {
            0 => self.ask(client, journal, "DELETE", &path, None, vec![(id, Change::Shred)]),
            1 if state != State::Absent => {
                let body = json!({ "subjects": [id], "reason": "on request" });
                self.ask(client, journal, "POST", "/v1/erasures", Some(body), vec![(id, Change::Shred)]);
            }
            // Neither is refused.
            2 if state != State::Shredded => {
                let other = Some(self.choose(choices)).filter(|(_, state)| *state != State::Shredded);
                let ids: BTreeSet<_> = [id].into_iter().chain(other.map(|(id, _)| id)).collect();
                let changes: Vec<_> = ids.into_iter().map(|id| (id, Change::set(self.values()))).collect();
                let items: Vec<_> =
                    changes.iter().map(|(id, change)| json!({ "subject": id, "fields": fields(change) })).collect();
                self.ask(client, journal, "POST", "/v1/batch/write", Some(json!({ "items": items })), changes);
            }
            _ => {
                let again = state == State::Shredded && kind < 9;
                let query = if again {
                    "?enrol=again"
                } else if kind == 3 {
                    "?final=true"
                } else {
                    ""
                };
                let change = Change::set(self.values());
                let change = if again { change.enrolling_again() } else { change };
                let body = json!({ "fields": fields(&change) });
                self.ask(client, journal, "PATCH", &format!("{path}/fields{query}"), Some(body), vec![(id, change)]);
            }
        }
    }

    fn ask(
        &mut self,
        client: &Client,
        journal: &Path,
        method: &str,
        path: &str,
        body: Option<Value>,
        changes: Vec<(String, Change)>,
    ) {
        let asked = length(journal);
        let body = body.map(|body| body.to_string());
        let answer = client.send(method, path, &[], body.as_deref());
        let told = length(journal);
        let refusals = match answer.status {
            200 if path == "/v1/batch/write" => {
                let results = answer.json()["results"].clone();
                let statuses = results.as_array().unwrap().iter().map(|result| result["status"].as_u64().unwrap());
                statuses.map(refusal).collect()
            }
            status => vec![refusal(status.into())],
        };
        assert!(refusals.len() == changes.len(), "{method} {path}: {}", answer.body);
        let request = Request { asked, told, changes, refusals };
        request.replay(&mut self.model, usize::MAX).unwrap_or_else(|trouble| panic!("{method} {path}: {trouble:?}"));
        self.requests.push(request);
    }

    /// What is known of its subjects when the journal ended at `cut`.
    fn at(&self, cut: usize) -> Model {
        let mut model = known(self.number);
        for request in self.requests.iter().take_while(|request| request.asked < cut) {
            request.replay(&mut model, cut).unwrap();
        }
        model
    }
}

impl Request {
    fn replay(&self, model: &mut Model, cut: usize) -> Result<(), Trouble> {
        let ask = model.ask(self.changes.iter().map(|(id, change)| (id.as_str(), change.clone())));
        if self.told > cut {
            return Ok(());
        }
        self.changes.iter().zip(&self.refusals).try_for_each(|((id, _), refusal)| match refusal {
            None => model.done(ask, id),
            Some(refusal) => model.refused(ask, id, *refusal),
        })
    }
}

fn refusal(status: u64) -> Option<Refusal> {
    match status {
        200..=202 => None,
        404 => Some(Refusal::Absent),
        // Shredded, or enrolled again before its shred is final.
        409 | 410 => Some(Refusal::Shredded),
        _ => panic!("{status}"),
    }
}

fn fields(change: &Change) -> Value {
    match change {
        Change::Write { fields, .. } => json!(fields),
        Change::Shred => Value::Null,
    }
}
