//! Who rotates: any layer at any time, and whoever pauses, resumes, throttles and cancels.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::model::{Trouble, answered};
use crate::harness::{Answer, Choices, Client, run};

const ROTATIONS: &str = "/v1/keys/rotations";
/// Ten times what the slowest is seen to take.
const END_LIMIT: Duration = Duration::from_secs(1800);
/// Milliseconds at most between two changes of the unlock key: about as long as one takes.
const UNLOCK_PAUSE: u64 = 200;

pub(crate) struct Rotator {
    admin: Client,
    /// Whether a server of this vault was killed before.
    killed: bool,
}

impl Rotator {
    pub(crate) fn new(admin: Client) -> Self {
        Self { admin, killed: false }
    }

    /// The same on a vault whose server was killed before.
    pub(crate) fn after_kills(self, killed: bool) -> Self {
        Self { killed, ..self }
    }

    /// Asks for one thing or another about rotations.
    pub(crate) fn step(&self, choices: &mut Choices, ids: &[String]) -> Result<(), Trouble> {
        if choices.one_in(3) {
            return self.change_one(choices);
        }
        let asked = match choices.below(8) {
            0 => json!({ "layer": "root" }),
            1 | 2 => json!({ "layer": "keks" }),
            3 => json!({ "layer": "deks" }),
            4 => json!({ "layer": "deks", "older_than": choices.below(4), "forget": choices.one_in(2) }),
            5 => {
                let count = 1 + choices.below(6);
                let chosen: Vec<_> = (0..count).map(|_| &ids[choices.below(ids.len() as u64) as usize]).collect();
                json!({ "layer": "deks", "subjects": chosen, "forget": choices.one_in(2) })
            }
            6 => json!({ "layer": "deks", "forget": true, "rate": 1 + choices.below(300) }),
            _ => json!({ "layer": "lookups" }),
        };
        // One of the chosen may not be there yet.
        let absent = asked.get("subjects").map(|_| 404);
        let allowed: Vec<u16> = [202, 409].into_iter().chain(absent).collect();
        self.expect(&allowed, self.send("POST", ROTATIONS, &asked)).map(drop)
    }

    fn change_one(&self, choices: &mut Choices) -> Result<(), Trouble> {
        let open = self.open()?;
        if open.is_empty() {
            return Ok(());
        }
        let rotation = &open[choices.below(open.len() as u64) as usize];
        let id = rotation["id"].as_str().unwrap_or_default();
        let asked = match choices.below(8) {
            0..3 => json!({ "state": "paused" }),
            3..6 => json!({ "state": "running" }),
            6 => json!({ "rate": 1 + choices.below(1000) }),
            _ => json!({ "state": "cancelled" }),
        };
        // It may have ended meanwhile.
        self.expect(&[200, 409], self.send("PATCH", &place(id), &asked)).map(drop)
    }

    /// The arguments that rotate every layer, as who thinks that all keys may be known.
    pub(crate) const ALL_NOW: &[&str] = &["--yes", "--no-progress", "key", "rotate", "all", "--now"];

    /// Does that. It may be refused, find a rotation of its own cancelled, or the server gone.
    pub(crate) fn all_now(command: Command) -> Result<(), Trouble> {
        let finished = run(command);
        match finished.code {
            Some(0 | 1 | 5 | 6) => Ok(()),
            _ => Err(Trouble::Deviation(format!("rotate all: {:?} {}", finished.code, finished.err))),
        }
    }

    /// Begins a rotation and returns its id. One of its layer that the vault began by itself comes to its end first.
    pub(crate) fn begin(&self, asked: &Value) -> Result<String, Trouble> {
        let given_up = Instant::now() + END_LIMIT;
        loop {
            let answer = self.expect(&[202, 409], self.send("POST", ROTATIONS, asked))?;
            match answer.status {
                202 => return Ok(answer.json()["id"].as_str().unwrap_or_default().to_owned()),
                _ if Instant::now() > given_up => {
                    return Err(Trouble::Deviation(format!("it cannot begin: {}", answer.body)));
                }
                _ => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Lifts its throttle, unless it has ended.
    pub(crate) fn hurry(&self, id: &str) -> Result<(), Trouble> {
        self.expect(&[200, 409], self.send("PATCH", &place(id), &json!({ "rate": 1_000_000 }))).map(drop)
    }

    pub(crate) fn rotation(&self, id: &str) -> Result<Value, Trouble> {
        let answer = self.expect(&[200], self.send("GET", &place(id), &Value::Null))?;
        let rotation = answer.json();
        self.allowed(&rotation).map(|()| rotation)
    }

    /// None may fail but one of unlock keys that a kill cut short: it does not go on, is listed as failed, and is to be done
    /// again (docs/rotation.md).
    pub(super) fn allowed(&self, rotation: &Value) -> Result<(), Trouble> {
        match rotation["state"] == "failed" && !(self.killed && is_cut_short(rotation)) {
            true => Err(Trouble::Deviation(format!("a rotation failed: {rotation}"))),
            false => Ok(()),
        }
    }

    /// Gives the vault another unlock key while it serves: the server draws a key file in place of its own.
    pub(crate) fn rotate_unlock(&self) -> Result<(), Trouble> {
        let mut asked = json!({ "layer": "unlock" });
        let mut answer = self.expect(&[202, 409], self.send("POST", ROTATIONS, &asked))?;
        if answer.status == 409 {
            // An attempt that was cut short has left a key that the server does not know: it is to be taken away.
            asked["replace_all"] = true.into();
            let again = self.expect(&[202], self.send("POST", ROTATIONS, &asked));
            answer = again.map_err(|trouble| match trouble {
                Trouble::Deviation(told) => Trouble::Deviation(format!("{told}, after {}", answer.body)),
                trouble => trouble,
            })?;
        }
        let rotation = answer.json();
        match is_done(&rotation) {
            true => Ok(()),
            false => Err(Trouble::Deviation(format!("unlock keys are not replaced: {rotation}"))),
        }
    }

    /// Does that again and again until the server is gone, which is at one of them as likely as not; returns how many were done.
    pub(crate) fn rotate_unlock_on_and_on(&self, mut choices: Choices) -> Result<u64, Trouble> {
        let mut done = 0;
        loop {
            thread::sleep(Duration::from_millis(choices.below(UNLOCK_PAUSE)));
            match self.rotate_unlock() {
                Ok(()) => done += 1,
                Err(Trouble::Busy) => {}
                Err(Trouble::Gone) => return Ok(done),
                Err(deviation) => return Err(deviation),
            }
        }
    }

    /// How many rotations of unlock keys were cut short.
    pub(crate) fn cut_short(&self) -> Result<usize, Trouble> {
        Ok(self.list()?.iter().filter(|rotation| is_cut_short(rotation)).count())
    }

    /// Waits until a rotation has come so far, or to its end; returns it as it is then.
    pub(crate) fn wait_until(&self, id: &str, far: impl Fn(&Value) -> bool) -> Result<Value, Trouble> {
        let deadline = Instant::now() + END_LIMIT;
        loop {
            let rotation = self.rotation(id)?;
            if far(&rotation) || is_done(&rotation) || is_cut_short(&rotation) {
                return Ok(rotation);
            }
            if Instant::now() > deadline {
                return Err(Trouble::Deviation(format!("a rotation does not end: {rotation}")));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Resumes whatever is paused, lifts every throttle, and waits until nothing is open. None may have failed that
    /// has to go on. Nothing may be on older keys then, but what a cancelled rotation left there, which another one takes along.
    pub(crate) fn let_all_end(&self) -> Result<(), Trouble> {
        for rotation in self.open()? {
            let id = rotation["id"].as_str().unwrap_or_default();
            self.expect(&[200, 409], self.send("PATCH", &place(id), &json!({ "state": "running" })))?;
            self.hurry(id)?;
            self.wait_until(id, |now| now["state"] == "cancelled")?;
        }
        self.list()?.iter().try_for_each(|rotation| self.allowed(rotation))?;
        while let Some(behind) = self.on_older_keys()? {
            let layer = &behind["layer"];
            let left = |rotation: &Value| Some(rotation["total"].as_u64()? - rotation["done"].as_u64()?);
            let cancelled = |rotation: &Value| rotation["layer"] == *layer && rotation["state"] == "cancelled";
            if !self.list()?.iter().any(|rotation| cancelled(rotation) && left(rotation) == behind["older"].as_u64()) {
                return Err(Trouble::Deviation(format!("something is on older keys: {behind}")));
            }
            let again = self.begin(&json!({ "layer": layer }))?;
            let ended = self.wait_until(&again, |_| false)?;
            if !is_done(&ended) || self.on_older_keys()?.is_some_and(|other| other["layer"] == *layer) {
                return Err(Trouble::Deviation(format!("something stays on older keys: {behind}, after {ended}")));
            }
        }
        Ok(())
    }

    /// A layer of which not everything is on the newest keys.
    fn on_older_keys(&self) -> Result<Option<Value>, Trouble> {
        let keys = self.expect(&[200], self.send("GET", "/v1/keys", &Value::Null))?.json();
        let older = |layer: &&Value| layer["older"].as_u64().is_some_and(|older| older > 0);
        Ok(keys["layers"].as_array().into_iter().flatten().find(older).cloned())
    }

    fn open(&self) -> Result<Vec<Value>, Trouble> {
        let open = |rotation: &Value| matches!(rotation["state"].as_str(), Some("queued" | "running" | "paused"));
        Ok(self.list()?.into_iter().filter(open).collect())
    }

    fn list(&self) -> Result<Vec<Value>, Trouble> {
        let answer = self.expect(&[200], self.send("GET", ROTATIONS, &Value::Null))?;
        Ok(answer.json()["data"].as_array().cloned().unwrap_or_default())
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Result<Answer, Trouble> {
        let body = (!body.is_null()).then(|| body.to_string());
        answered(self.admin.attempt(method, path, &[], body.as_deref().map(str::as_bytes)))
    }

    fn expect(&self, statuses: &[u16], answer: Result<Answer, Trouble>) -> Result<Answer, Trouble> {
        let answer = answer?;
        match statuses.contains(&answer.status) {
            true => Ok(answer),
            false => Err(Trouble::Deviation(format!("about a rotation: {} {}", answer.status, answer.body))),
        }
    }
}

fn is_done(rotation: &Value) -> bool {
    rotation["state"] == "done"
}

fn is_cut_short(rotation: &Value) -> bool {
    let told = || rotation["detail"].as_str().is_some_and(|detail| detail.contains("cut short"));
    rotation["layer"] == "unlock" && rotation["state"] == "failed" && told()
}

fn place(id: &str) -> String {
    format!("{ROTATIONS}/{id}")
}
