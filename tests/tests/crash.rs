//! kill -9 under a mixed load, again and again: what was acknowledged is there, what was shredded stays so.
//!
//! `UDV_TEST_KILLS=100` kills more often, `UDV_TEST_SEED=7` repeats a run's choices (not the moments of its kills).

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;
use vault_core::store::EngineName;

use crate::harness::{Client, Running, Vault, engine, number_from};

const WRITERS: u64 = 4;
const SUBJECTS: u64 = 25;

/// What a subject can be found to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Absent,
    /// Holds the value of this number.
    Value(u64),
    Shredded,
}

/// What is known of one subject: the last acknowledged state, and what was asked for but not answered.
struct Subject {
    id: String,
    known: State,
    unanswered: Option<State>,
}

/// A small generator of choices (xorshift), the same for the same seed.
struct Choices(u64);

impl Choices {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

static NEXT: AtomicU64 = AtomicU64::new(1);

/// Every written value is a new one, and has its own phone number.
fn phone(value: u64) -> String {
    format!("+97150{value:07}")
}

impl Subject {
    fn path(&self) -> String {
        format!("/v1/subjects/{}", self.id)
    }

    /// Does one thing to it; false if the server did not answer.
    fn step(&mut self, client: &Client, choices: &mut Choices) -> bool {
        match choices.below(10) {
            0 => self.ask(client, State::Shredded, "DELETE", "", None),
            1 => {
                let body = json!({ "subjects": [self.id], "reason": "on request" }).to_string();
                self.ask(client, State::Shredded, "POST", "/v1/erasures", Some(body))
            }
            choice => {
                let value = NEXT.fetch_add(1, Ordering::Relaxed);
                let body = json!({ "fields": { "name": format!("v{value}"), "phone": phone(value) } }).to_string();
                let query = match (self.known, choice) {
                    (State::Shredded, 2..=5) => "?enrol=again",
                    (_, 2) => "?final=true",
                    _ => "",
                };
                self.ask(client, State::Value(value), "PATCH", &format!("/fields{query}"), Some(body))
            }
        }
    }

    fn ask(&mut self, client: &Client, wanted: State, method: &str, path: &str, body: Option<String>) -> bool {
        let path = if path.starts_with("/v1") { path.to_owned() } else { format!("{}{path}", self.path()) };
        self.unanswered = Some(wanted);
        let Ok(answer) = client.attempt(method, &path, &[], body.as_deref().map(str::as_bytes)) else { return false };
        let refused = match answer.status {
            200..=202 => false,
            404 => wanted == State::Shredded && self.known == State::Absent,
            410 => self.known == State::Shredded,
            // Enrolled again before its shred is final.
            409 => self.known == State::Shredded && matches!(wanted, State::Value(_)),
            // The engine is going away under it; whether the write is there shows after the restart.
            503 => return false,
            _ => panic!("{method} {path} of {:?}: {} {}", self.known, answer.status, answer.body),
        };
        // A refusal that is right for what is known; any other contradicts what was acknowledged.
        assert!(refused || answer.status < 400, "{method} {path} of {:?}: {}", self.known, answer.body);
        let of_nobody = method == "POST" && self.known == State::Absent;
        if !refused && !of_nobody {
            self.known = wanted;
        }
        self.unanswered = None;
        true
    }

    /// Looks at it after a restart.
    fn check(&mut self, client: &Client) {
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
            _ => panic!("{} is {:?}: {}", self.id, self.known, answer.body),
        };
        let allowed = [Some(self.known), self.unanswered];
        assert!(allowed.contains(&Some(found)), "{} is {found:?}, and of {allowed:?} there was told", self.id);
        for state in allowed.into_iter().flatten() {
            let State::Value(value) = state else { continue };
            let by_phone = client.find(&json!({ "field": "phone", "value": phone(value) }));
            let expected: &[&str] = if state == found { &[&self.id] } else { &[] };
            assert_eq!(by_phone, expected, "{} is {found:?}, looked up as {state:?}", self.id);
        }
        (self.known, self.unanswered) = (found, None);
    }
}

/// Works until the server is gone.
fn work(client: &Client, subjects: &mut [Subject], mut choices: Choices) -> u64 {
    let mut steps = 0;
    loop {
        let chosen = choices.below(SUBJECTS) as usize;
        if !subjects[chosen].step(client, &mut choices) {
            return steps;
        }
        steps += 1;
    }
}

/// Rotates whatever can be rotated until the server is gone.
fn rotate(client: &Client, mut choices: Choices) {
    loop {
        let layer = ["root", "keks"][choices.below(2) as usize];
        let body = json!({ "layer": layer }).to_string();
        let Ok(answer) = client.attempt("POST", "/v1/keys/rotations", &[], Some(body.as_bytes())) else { return };
        assert!([202, 409, 503].contains(&answer.status), "{}", answer.body);
        thread::sleep(Duration::from_millis(choices.below(60)));
    }
}

fn round(running: Running, groups: &mut [Vec<Subject>], choices: &mut Choices) -> u64 {
    let load = Duration::from_millis(80 + choices.below(500));
    thread::scope(|scope| {
        let rotator = running.admin.clone();
        let seeds = Choices(choices.below(u64::MAX) | 1);
        scope.spawn(move || rotate(&rotator, seeds));
        let writers: Vec<_> = groups
            .iter_mut()
            .map(|subjects| {
                let (client, seeds) = (running.admin.clone(), Choices(choices.below(u64::MAX) | 1));
                scope.spawn(move || work(&client, subjects, seeds))
            })
            .collect();
        thread::sleep(load);
        let log = running.server.kill();
        assert!(!log.contains("a panic was caught"), "{log}");
        writers.into_iter().map(|writer| writer.join().unwrap()).sum()
    })
}

/// A start that is killed as well, somewhere in its recovery.
fn crash_while_starting(vault: &Vault, choices: &mut Choices) {
    let quiet = std::process::Stdio::null;
    let mut child = vault.command().stdout(quiet()).stderr(quiet()).spawn().unwrap();
    thread::sleep(Duration::from_millis(choices.below(250)));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn kills_lose_nothing_acknowledged_and_undo_no_shred() {
    torture(engine(), number_from("UDV_TEST_KILLS").unwrap_or(15));
}

#[test]
fn kills_lose_nothing_with_the_other_engine_either() {
    let other = if engine() == EngineName::Sled { EngineName::Fjall } else { EngineName::Sled };
    torture(other, number_from("UDV_TEST_KILLS").unwrap_or(5));
}

fn torture(engine: EngineName, kills: u64) {
    let clock = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed = number_from("UDV_TEST_SEED").unwrap_or(clock);
    eprintln!("crash test of {engine}: seed {seed}, {kills} kills");
    let mut choices = Choices(seed | 1);
    let subject = |writer, n| Subject { id: format!("w{writer}-{n}"), known: State::Absent, unanswered: None };
    let mut groups: Vec<Vec<_>> = (0..WRITERS).map(|w| (0..SUBJECTS).map(|n| subject(w, n)).collect()).collect();

    let vault = Vault::configured_in(tempfile::tempdir().unwrap(), engine);
    let mut steps = 0;
    for kill in 0..kills {
        if kill % 3 == 2 {
            crash_while_starting(&vault, &mut choices);
        }
        let running = vault.start();
        groups.iter_mut().flatten().for_each(|subject| subject.check(&running.admin));
        steps += round(running, &mut groups, &mut choices);
    }
    let running = vault.start();
    groups.iter_mut().flatten().for_each(|subject| subject.check(&running.admin));
    running.stop();
    let states: Vec<_> = groups.iter().flatten().map(|subject| subject.known).collect();
    let count = |wanted: fn(&State) -> bool| states.iter().filter(|state| wanted(state)).count();
    let (values, shredded) = (count(|s| matches!(s, State::Value(_))), count(|s| *s == State::Shredded));
    eprintln!("crash test of {engine}: {steps} acknowledged steps; at the end {values} live, {shredded} shredded");
    assert!(steps > kills * 5 && values > 0 && shredded > 0, "the load was no load");
    vault.verify().expect(0);
}
