//! A mixed load on a watched server, and what each acknowledgement promises about the disk from then on.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;

use super::Choices;
use super::journal::length;
use crate::harness::{Client, Running};

pub(super) const WRITERS: u64 = 3;
const SUBJECTS: u64 = 8;

/// What a subject can be found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Absent,
    /// Holds the value of this number.
    Value(u64),
    Shredded,
}

/// A change that was asked for: how long the journal was then, and when it was acknowledged.
struct Step {
    asked: usize,
    told: Option<usize>,
    state: State,
}

/// A subject and all that was done to it.
pub(super) struct Subject {
    id: String,
    steps: Vec<Step>,
}

/// A signed head of the audit log, and how long the journal was when it was handed out.
pub(super) struct Head {
    pub(super) told: usize,
    pub(super) note: Vec<u8>,
}

/// A load and what it left behind.
pub(super) struct Load {
    journal: PathBuf,
    next: AtomicU64,
    pub(super) subjects: Vec<Vec<Subject>>,
    pub(super) heads: Mutex<Vec<Head>>,
}

/// Every written value is a new one, and has its own phone number.
fn phone(value: u64) -> String {
    format!("+97150{value:07}")
}

impl Load {
    /// Nothing was done yet.
    pub(super) fn new(journal: &Path) -> Self {
        let subject = |writer, n| Subject { id: format!("w{writer}-{n}"), steps: Vec::new() };
        let subjects = (0..WRITERS).map(|w| (0..SUBJECTS).map(|n| subject(w, n)).collect()).collect();
        Self { journal: journal.to_owned(), next: AtomicU64::new(1), subjects, heads: Mutex::default() }
    }

    /// Works on a server; every writer does so many steps.
    pub(super) fn run(&mut self, running: &Running, steps: u64, choices: &mut Choices) {
        let ended = AtomicBool::new(false);
        let (journal, next, heads) = (&self.journal, &self.next, &self.heads);
        thread::scope(|scope| {
            let mut seeds = || Choices::new(choices.below(u64::MAX));
            let (client, seed, over) = (running.admin.clone(), seeds(), &ended);
            let rotator = scope.spawn(move || rotate(&client, seed, over));
            let writers: Vec<_> = self
                .subjects
                .iter_mut()
                .map(|subjects| {
                    let (client, mut choices) = (running.admin.clone(), seeds());
                    scope.spawn(move || {
                        for _ in 0..steps {
                            match choices.below(25) {
                                0 => heads.lock().unwrap().push(head(&client, journal)),
                                _ => {
                                    let subject = &mut subjects[choices.below(SUBJECTS) as usize];
                                    subject.step(&client, &mut choices, journal, next);
                                }
                            }
                        }
                    })
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
        let steps = self.subjects.iter().flatten().flat_map(|subject| &subject.steps);
        let mut told: Vec<_> = steps.filter_map(|step| step.told).collect();
        told.sort_unstable();
        told
    }

    /// Asserts that a vault is as it may be when the journal ended at `cut`. Answers how many are live and shredded.
    pub(super) fn check(&self, client: &Client, cut: usize) -> [u64; 2] {
        let mut counts = [0; 2];
        for subject in self.subjects.iter().flatten() {
            match subject.check(client, cut) {
                State::Absent => {}
                State::Value(_) => counts[0] += 1,
                State::Shredded => counts[1] += 1,
            }
        }
        counts
    }
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

impl Subject {
    fn path(&self) -> String {
        format!("/v1/subjects/{}", self.id)
    }

    fn known(&self) -> State {
        self.steps.last().map_or(State::Absent, |step| step.state)
    }

    fn step(&mut self, client: &Client, choices: &mut Choices, journal: &Path, next: &AtomicU64) {
        let known = self.known();
        let (state, method, path, body) = match choices.below(10) {
            0 => (State::Shredded, "DELETE", self.path(), None),
            1 => {
                let body = json!({ "subjects": [self.id], "reason": "on request" });
                (State::Shredded, "POST", "/v1/erasures".to_owned(), Some(body))
            }
            choice => {
                let value = next.fetch_add(1, Ordering::Relaxed);
                let query = match (known, choice) {
                    (State::Shredded, 2..=5) => "?enrol=again",
                    (_, 2) => "?final=true",
                    _ => "",
                };
                let body = json!({ "fields": { "name": format!("v{value}"), "phone": phone(value) } });
                (State::Value(value), "PATCH", format!("{}/fields{query}", self.path()), Some(body))
            }
        };
        let asked = length(journal);
        let body = body.map(|body| body.to_string());
        let answer = client.send(method, &path, &[], body.as_deref());
        let told = Some(length(journal));
        let refused = match answer.status {
            200..=202 => false,
            404 => state == State::Shredded && known == State::Absent,
            410 => known == State::Shredded,
            // Enrolled again before its shred is final.
            409 => known == State::Shredded && matches!(state, State::Value(_)),
            _ => panic!("{method} {path} of {known:?}: {} {}", answer.status, answer.body),
        };
        assert!(refused || answer.status < 400, "{method} {path} of {known:?}: {}", answer.body);
        let of_nobody = method == "POST" && known == State::Absent;
        if !refused && !of_nobody {
            self.steps.push(Step { asked, told, state });
        }
    }

    /// What it may be when the journal ended at `cut`.
    fn allowed(&self, cut: usize) -> Vec<State> {
        let told = self.steps.iter().rposition(|step| step.told.is_some_and(|told| told <= cut));
        let known = told.map_or(State::Absent, |at| self.steps[at].state);
        let later = self.steps.iter().skip(told.map_or(0, |at| at + 1)).take_while(|step| step.asked < cut);
        std::iter::once(known).chain(later.map(|step| step.state)).collect()
    }

    fn check(&self, client: &Client, cut: usize) -> State {
        let answer = client.for_purpose("account").get(&format!("{}/fields?view=full", self.path()));
        let found = match answer.status {
            404 => State::Absent,
            410 => State::Shredded,
            200 => {
                let fields = answer.json()["fields"].clone();
                let value = fields["name"].as_str().unwrap()[1..].parse().unwrap();
                assert_eq!(fields["phone"], phone(value), "the fields of one write stay together");
                State::Value(value)
            }
            _ => panic!("{}: {} {}", self.id, answer.status, answer.body),
        };
        let allowed = self.allowed(cut);
        assert!(allowed.contains(&found), "{} is {found:?}, and of {allowed:?} there was told", self.id);
        for state in allowed {
            let State::Value(value) = state else { continue };
            let by_phone = client.find(&json!({ "field": "phone", "value": phone(value) }));
            let expected: &[&str] = if state == found { &[&self.id] } else { &[] };
            assert_eq!(by_phone, expected, "{} is {found:?}, looked up as {state:?}", self.id);
        }
        found
    }
}
