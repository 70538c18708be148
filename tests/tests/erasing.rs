//! A large erasure is killed in the middle, again and again: it goes on by itself, and the log tells each subject once.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Running, Vault, wait_for};

/// Subjects of the erasure; as many others stay.
fn subjects() -> usize {
    if std::env::var_os("UDV_TEST_LONG").is_some() { 10_000 } else { 1_500 }
}

fn enrol(running: &Running, prefix: &str, count: usize) {
    for from in (0..count).step_by(500) {
        let item =
            |n| json!({ "subject": format!("{prefix}{n}"), "fields": { "email": format!("{prefix}{n}@example.org") } });
        let items: Vec<Value> = (from..count.min(from + 500)).map(item).collect();
        running.admin.post("/v1/batch/write", &json!({ "items": items })).expect(200);
    }
}

/// Every entry that tells of a shred.
fn shredded(running: &Running) -> Vec<Value> {
    let mut entries = Vec::new();
    let mut from = 0;
    loop {
        let page = running.admin.get(&format!("/v1/audit/entries?from={from}&limit=1000")).expect(200).json();
        let data = page["data"].as_array().unwrap();
        entries.extend(data.iter().map(|item| item["entry"].clone()).filter(|entry| entry["what"] == "shredded"));
        match page["next"].as_u64() {
            // The looking is logged as well.
            Some(next) if data.len() > 1 => from = next,
            _ => return entries,
        }
    }
}

#[test]
fn an_erasure_that_is_killed_again_and_again_shreds_and_tells_each_subject_once() {
    let vault = Vault::configured();
    let count = subjects();
    let mut running = vault.start();
    enrol(&running, "gone", count);
    enrol(&running, "stays", 50);
    let ids: Vec<String> = (0..count).map(|n| format!("gone{n}")).collect();
    let asked = json!({ "subjects": ids, "reason": "all of them" });
    let erasure = running.admin.post("/v1/erasures", &asked).expect(201).json();
    let path = format!("/v1/erasures/{}", erasure["id"].as_str().unwrap());
    // It is acknowledged: from here on it must come to its end, whatever happens.
    for pause in [0, 5, 20, 60, 150] {
        std::thread::sleep(Duration::from_millis(pause));
        running.server.kill();
        running = vault.start();
    }
    let ended = wait_for("the erasure", || {
        let shown = running.admin.get(&path).expect(200).json();
        (shown["state"] == "final").then_some(shown)
    });
    assert_eq!((&ended["counts"]["final"], &ended["counts"]["refused"]), (&json!(count), &json!(0)));
    let entries = shredded(&running);
    let commitments: BTreeSet<&str> =
        entries.iter().map(|entry| entry["shred"]["commitment"].as_str().unwrap()).collect();
    assert_eq!((entries.len(), commitments.len()), (count, count), "each once");
    for n in [0, count / 2, count - 1] {
        running.admin.get(&format!("/v1/subjects/gone{n}")).problem(410, "shredded");
        let lookup = json!({ "field": "email", "value": format!("gone{n}@example.org") });
        assert_eq!(running.admin.find(&lookup), Vec::<String>::new());
    }
    for n in 0..50 {
        running.admin.get(&format!("/v1/subjects/stays{n}")).expect(200);
    }
    let status = running.admin.get("/v1/status").expect(200).json();
    assert_eq!((&status["counts"]["subjects"], &status["counts"]["refused"]), (&json!(50), &json!(0)));
    running.stop();
    vault.verify().expect(0);
}
