//! The clock jumps while the server runs and between its starts: nothing that is over comes back, and nothing that cannot
//! be undone is done before its time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use vault_core::time::Timestamp;

use crate::harness::{Client, Running, Vault, overwrite, wait_for};

const HOUR: i64 = 60 * 60 * 1000;
const DAY: i64 = 24 * HOUR;
/// Longer than tombstones last.
const LONG: i64 = 400 * DAY;

/// What is preloaded, compiled when it is first asked for.
fn shift() -> &'static Path {
    static SHIFT: OnceLock<PathBuf> = OnceLock::new();
    SHIFT.get_or_init(|| {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clock/shift.c");
        let place = |name: &str| Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let (library, fresh) = (place("shift.so"), place(&format!("shift.{}", std::process::id())));
        let cc = Command::new("cc").args(["-O1", "-shared", "-fPIC", "-o"]).arg(&fresh).arg(source).status().unwrap();
        assert!(cc.success(), "the clock's shift does not compile");
        fs::rename(fresh, &library).unwrap();
        library
    })
}

/// A vault whose server's clock can be set.
struct Shifted(Vault);

impl Shifted {
    fn new() -> Self {
        let vault = Vault::unmade(&format!("[retention]\nsweep_seconds = 1\n{}", Vault::KEY_FILE));
        fs::write(vault.root().join("clock"), 0_i64.to_ne_bytes()).unwrap();
        let key = vault.data().join("unlock.key");
        vault.init(&["--no-passphrase", "--key-file", key.to_str().unwrap()]).expect(0);
        Self(vault)
    }

    /// Sets the clock so many milliseconds ahead of the right time.
    fn set(&self, ahead: i64) {
        overwrite(&self.0.root().join("clock"), 0, &ahead.to_ne_bytes());
    }

    fn start(&self) -> Running {
        let mut command = self.0.command();
        command.env("LD_PRELOAD", shift()).env("UDV_TEST_CLOCK", self.0.root().join("clock"));
        self.0.start_with(command).unwrap()
    }
}

fn in_seconds(seconds: u64) -> String {
    Timestamp::now().plus_seconds(seconds).to_string()
}

/// A caller that reads, until a time.
fn guest(running: &Running, until: &str) -> Client {
    let body = json!({ "name": "guest", "role": "auditor", "expires_at": until });
    let made = running.admin.post("/v1/callers", &body).expect(201).json();
    running.admin.with_token(made["token"].as_str())
}

fn token(admin: &Client, more: &Value) -> String {
    let mut body = json!({ "subject": "jane", "field": "phone" });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    admin.post("/v1/tokens", &body).expect(201).json()["token"].as_str().unwrap().to_owned()
}

fn resolve(admin: &Client, token: &str) -> u16 {
    admin.for_purpose("account").post("/v1/tokens/resolve", &json!({ "token": token })).status
}

fn expires(admin: &Client, subject: &str, field: &str, at: &str) {
    let path = format!("/v1/subjects/{subject}/fields/{field}/metadata");
    admin.patch(&path, &json!({ "expires_at": at })).expect(200);
}

fn erase_later(admin: &Client, subject: &str, at: &str) -> String {
    let body = json!({ "subjects": [subject], "reason": "on request", "not_before": at });
    let made = admin.post("/v1/erasures", &body);
    assert!([201, 202].contains(&made.status), "{}", made.body);
    format!("/v1/erasures/{}", made.json()["id"].as_str().unwrap())
}

fn state(admin: &Client, erasure: &str) -> Value {
    admin.get(erasure).expect(200).json()["state"].clone()
}

/// Is enrolled once, however often it is asked.
fn once(admin: &Client) -> u16 {
    let body = json!({ "name": "guest", "role": "auditor" }).to_string();
    admin.send("POST", "/v1/callers", &[("idempotency-key", "the-same-key")], Some(&body)).status
}

fn enrol(admin: &Client) {
    for subject in ["jane", "joe", "gone", "soon"] {
        admin.set(subject, &json!({ "name": subject, "nickname": "x", "phone": "+971501234567" })).expect(201);
    }
    let answer = admin.delete("/v1/subjects/gone");
    wait_for("the shred", || {
        (state(admin, &format!("/v1/erasures/{}", answer.json()["id"].as_str()?)) == "final").then_some(())
    });
}

#[test]
fn a_clock_that_jumps_ahead_for_a_while_takes_nothing() {
    let shifted = Shifted::new();
    let running = shifted.start();
    let admin = &running.admin;
    enrol(admin);
    let tomorrow = in_seconds(24 * 60 * 60);
    let guest = guest(&running, &tomorrow);
    let kept = token(admin, &json!({ "ttl": 24 * 60 * 60 }));
    expires(admin, "jane", "nickname", &tomorrow);
    let later = erase_later(admin, "joe", &tomorrow);
    assert_eq!(once(admin), 201);
    guest.get("/v1/status").expect(200);

    shifted.set(LONG);
    // It is ahead: what can be undone goes by it.
    guest.get("/v1/status").problem(401, "unauthenticated");
    assert_eq!(resolve(admin, &kept), 404);
    assert_ne!(admin.field("jane", "nickname").status, 200);
    // What is due by time that has gone by is done nevertheless; with it whatever else was due would be.
    expires(admin, "soon", "nickname", &Timestamp(Timestamp::now().0 + LONG as u64 + 1000).to_string());
    let soon = erase_later(admin, "soon", &Timestamp(Timestamp::now().0 + LONG as u64 + 1000).to_string());
    thread::sleep(Duration::from_secs(4));
    assert_eq!(state(admin, &later), "pending");
    assert_eq!(state(admin, &soon), "pending", "it is not known to be due");
    assert_eq!(once(admin), 409, "what was to be done once is not done again");
    admin.get("/v1/subjects/gone").problem(410, "shredded");
    admin.set("gone", &json!({ "name": "x" })).problem(410, "shredded");

    shifted.set(0);
    guest.get("/v1/status").expect(200);
    assert_eq!(resolve(admin, &kept), 200);
    assert_eq!(admin.field("jane", "nickname").expect(200).json()["value"], "x");
    assert_eq!(admin.field("joe", "name").expect(200).json()["value"], "joe");
    // The control: by the right clock the same things are done.
    expires(admin, "jane", "nickname", &in_seconds(1));
    let soon = erase_later(admin, "joe", &in_seconds(1));
    wait_for("the erasure", || (state(admin, &soon) == "final").then_some(()));
    wait_for("the value to be forgotten", || {
        admin.get("/v1/subjects/jane/fields/nickname/metadata").status.eq(&404).then_some(())
    });
    running.stop();
    shifted.0.verify().expect(0);
}

#[test]
fn a_start_with_a_clock_far_ahead_takes_nothing() {
    let shifted = Shifted::new();
    let running = shifted.start();
    enrol(&running.admin);
    let tomorrow = in_seconds(24 * 60 * 60);
    expires(&running.admin, "jane", "nickname", &tomorrow);
    let later = erase_later(&running.admin, "joe", &tomorrow);
    running.stop();
    shifted.set(LONG);
    let running = shifted.start();
    thread::sleep(Duration::from_secs(4));
    assert_eq!(state(&running.admin, &later), "pending");
    running.admin.set("gone", &json!({ "name": "x" })).problem(410, "shredded");
    assert!(running.stop().contains("ahead of what was known"));
    shifted.set(0);
    let running = shifted.start();
    assert_eq!(running.admin.field("jane", "nickname").expect(200).json()["value"], "x");
    assert_eq!(running.admin.field("joe", "name").expect(200).json()["value"], "joe");
    running.stop();
    shifted.0.verify().expect(0);
}

#[test]
fn a_clock_that_is_set_back_brings_nothing_back() {
    let shifted = Shifted::new();
    let running = shifted.start();
    let admin = &running.admin;
    enrol(admin);
    let guest = guest(&running, &in_seconds(2));
    let [once, short] = [json!({ "single_use": true }), json!({ "ttl": 1 })].map(|more| token(admin, &more));
    assert_eq!(resolve(admin, &once), 200);
    expires(admin, "jane", "nickname", &in_seconds(2));
    wait_for("the value to be forgotten", || {
        admin.get("/v1/subjects/jane/fields/nickname/metadata").status.eq(&404).then_some(())
    });
    wait_for("the token to be over", || (resolve(admin, &short) == 404).then_some(()));
    let nothing_is_back = |running: &Running| {
        let guest = running.admin.with_token(guest.token());
        guest.get("/v1/status").problem(401, "unauthenticated");
        assert_eq!(resolve(&running.admin, &short), 404);
        nothing_used_is_back(&running.admin, &once);
    };
    for back in [HOUR, 10 * DAY] {
        shifted.set(-back);
        nothing_is_back(&running);
        assert_eq!(running.admin.find(&json!({ "field": "phone", "value": "+971501234567" })).len(), 3);
        shifted.set(0);
    }
    assert!(running.stop().contains("set back"));

    shifted.set(-HOUR);
    let running = shifted.start();
    nothing_is_back(&running);
    times_of_the_log_go_on(&running.admin);
    assert!(running.stop().contains("behind the time of the vault's last commit"));

    // So far back that nobody knows which clock was wrong: what was used and shredded stays so by what is written down.
    shifted.set(-10 * DAY);
    let running = shifted.start();
    nothing_used_is_back(&running.admin, &once);
    assert!(running.stop().contains("behind the time of the vault's last commit"));
    shifted.set(0);
    shifted.0.verify().expect(0);
}

fn nothing_used_is_back(admin: &Client, once: &str) {
    assert_eq!(resolve(admin, once), 404);
    admin.get("/v1/subjects/gone").problem(410, "shredded");
    assert_ne!(admin.field("jane", "nickname").status, 200);
}

/// Entries that follow each other are of times that do, but for a moment.
fn times_of_the_log_go_on(admin: &Client) {
    let page = admin.get("/v1/audit/entries?limit=1000").expect(200).json();
    let entries = page["data"].as_array().unwrap().iter();
    let times: Vec<_> = entries.map(|item| Timestamp::parse(item["entry"]["at"].as_str().unwrap()).unwrap()).collect();
    assert!(times.len() > 20);
    for pair in times.windows(2) {
        assert!(pair[1].plus_seconds(1) >= pair[0], "{} after {}", pair[1], pair[0]);
    }
}
