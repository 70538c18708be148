//! The whole story with real customers: stored, found, rotated, half of them shredded, and no trace of anybody at rest.

use std::fs;

use serde_json::json;

use crate::harness::{CUSTOMERS, Customer, Running, Traces, Vault, customers, files_under};

/// Logs as much as can be logged.
fn start(vault: &Vault, format: &str) -> Running {
    let mut command = vault.command();
    command.env("UDV_LOG", "trace").args(["--log-format", format]);
    vault.start_with(command).unwrap_or_else(|refusal| panic!("{}", refusal.text))
}

/// Reads and finds everybody.
fn all_there(running: &Running, customers: &[&Customer]) {
    let reader = running.admin.for_purpose("account");
    for customer in customers {
        let answer = reader.get(&format!("/v1/subjects/{}/fields?view=full", customer.id)).expect(200);
        customer.check(&answer.body);
        for lookup in customer.lookups() {
            assert!(running.admin.find(&lookup).contains(&customer.id), "{lookup}");
        }
    }
}

/// Each answers 410 and is found by nothing.
fn all_gone(running: &Running, customers: &[&Customer]) {
    let reader = running.admin.for_purpose("account");
    for customer in customers {
        reader.get(&format!("/v1/subjects/{}/fields?view=full", customer.id)).problem(410, "shredded");
        for lookup in customer.lookups() {
            assert_eq!(running.admin.find(&lookup), Vec::<String>::new(), "{lookup}");
        }
    }
}

#[test]
fn customers_are_kept_found_and_forgotten_and_leave_no_trace() {
    let everybody = customers();
    assert_eq!(everybody.len(), 225);
    let (shredded, living): (Vec<_>, Vec<_>) = everybody.iter().enumerate().partition(|(at, _)| at % 2 == 1);
    let [shredded, living] = [shredded, living].map(|half| half.into_iter().map(|(_, c)| c).collect::<Vec<_>>());
    let vault = Vault::dev();
    let mut said = Vec::new();

    let running = start(&vault, "json");
    let import = running.cli(&["subject", "import", CUSTOMERS]).expect(0);
    assert!(import.out.contains("225 lines: 225 created, 0 merged, 0 failed"), "{}", import.out);
    all_there(&running, &everybody.iter().collect::<Vec<_>>());

    let ids = vault.root().join("ids.txt");
    fs::write(&ids, shredded.iter().map(|customer| format!("{}\n", customer.id)).collect::<String>()).unwrap();
    let ids = ids.to_str().unwrap();
    running.cli(&["erase", "--file", ids]).refused(2, "--yes");
    let dry = running.cli(&["erase", "--file", ids, "--dry-run"]).expect(0);
    assert!(dry.out.contains("112"), "{}", dry.out);
    let erase = running.cli(&["erase", "--file", ids, "--yes"]).expect(0);
    assert!(erase.out.contains("112"), "{}", erase.out);
    all_gone(&running, &shredded);
    all_there(&running, &living);
    running.cli(&["erase", "--file", ids, "--yes"]).expect(7);
    said.push(running.stop());

    let running = start(&vault, "text");
    all_gone(&running, &shredded);
    all_there(&running, &living);
    running.cli(&["key", "rotate", "root", "--wait"]).expect(0);
    running.cli(&["key", "rotate", "keks", "--wait"]).expect(0);
    all_there(&running, &living);
    said.push(running.stop());

    let running = start(&vault, "json");
    all_gone(&running, &shredded);
    all_there(&running, &living);
    let status = running.admin.get("/v1/status").expect(200).json();
    assert_eq!((&status["counts"]["subjects"], &status["counts"]["tombstones"]), (&json!(113), &json!(112)));
    let metrics = running.nobody().get("/metrics").expect(200).body;
    said.extend([running.stop(), metrics]);

    vault.verify().expect(0);
    no_trace(&vault, &everybody, &said);
}

fn no_trace(vault: &Vault, everybody: &[Customer], said: &[String]) {
    let searched = Traces::at_rest(everybody).absent_under(&vault.data());
    assert!(searched > 100_000, "{searched} bytes are no vault of 225 customers");
    let traces = Traces::in_text(everybody);
    for text in said {
        assert!(text.len() > 1000, "{text}");
        assert_eq!(traces.find(text.as_bytes()), Vec::<String>::new());
    }
    the_search_finds(vault, everybody);
}

/// The control: what is planted in copies of the same bytes is found.
fn the_search_finds(vault: &Vault, everybody: &[Customer]) {
    let file = files_under(&vault.data().join("store")).into_iter().find(|path| path.ends_with("db")).unwrap();
    let bytes = fs::read(file).unwrap();
    for customer in [&everybody[0], &everybody[77], &everybody[224]] {
        for needle in [customer.text("phone_e164"), customer.text("email"), customer.id.clone()] {
            let mut copy = bytes.clone();
            let at = copy.len() / 2 + 1;
            copy[at..at + needle.len()].copy_from_slice(needle.as_bytes());
            assert!(Traces::at_rest(everybody).find(&copy).contains(&needle), "{needle}");
        }
    }
}
