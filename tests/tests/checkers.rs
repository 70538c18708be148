//! What the vault hands out as evidence, held against checkers that are not it: certificates and checkpoints, changed ones too.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::{Finished, Running, Vault, able_python, copy_dir, run, skip, wait_for};

/// Subjects that are enrolled; every other one is shredded.
fn subjects() -> usize {
    if std::env::var_os("UDV_TEST_LONG").is_some() { 20_000 } else { 600 }
}

fn enrol(running: &Running, count: usize) {
    for from in (0..count).step_by(500) {
        let item = |n| json!({ "subject": format!("kunde/{n} ü"), "fields": { "phone": format!("+9715012{n:05}") } });
        let items: Vec<Value> = (from..count.min(from + 500)).map(item).collect();
        running.admin.post("/v1/batch/write", &json!({ "items": items })).expect(200);
    }
}

fn python(arguments: &[&str]) -> Option<Finished> {
    let Some(python) = able_python() else {
        skip("there is no python3 with the package cryptography");
        return None;
    };
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/udv_check.py")).args(arguments);
    Some(run(command))
}

fn certificates_in(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn paths(files: &[PathBuf]) -> Vec<&str> {
    files.iter().map(|file| file.to_str().unwrap()).collect()
}

/// Changes of one byte, spread over the file.
fn changed(certificate: &Path, into: &Path) -> Vec<PathBuf> {
    fs::create_dir(into).unwrap();
    let bytes = fs::read(certificate).unwrap();
    let at = (0..bytes.len()).step_by(37).chain([bytes.len() - 1]);
    at.map(|at| {
        let mut other = bytes.clone();
        other[at] ^= 1;
        let path = into.join(format!("{at}.json"));
        fs::write(&path, other).unwrap();
        path
    })
    .collect()
}

/// What it is called, and what it does to a certificate.
type Reshape = (&'static str, fn(&mut Value));

/// Changes that leave it well-formed and written as certificates are.
fn reshaped(certificate: &Path, into: &Path) -> Vec<PathBuf> {
    let whole: Value = serde_json::from_slice(&fs::read(certificate).unwrap()).unwrap();
    let changes: [Reshape; 8] = [
        ("negative", |c| {
            c["subject"]["evidence"]["index"] = json!(c["subject"]["evidence"]["index"].as_i64().unwrap() - (1 << 20))
        }),
        ("reordered", |c| {
            let request = c["request"].as_object_mut().unwrap();
            let reason = request.shift_remove("reason").unwrap();
            request.insert("reason".to_owned(), reason);
        }),
        ("no-request", |c| c["request"] = Value::Null),
        ("no-subject", |c| c["subject"] = Value::Null),
        ("a-list", |c| c["subject"] = json!([])),
        ("a-text", |c| c["levels"] = json!("")),
        ("doubled", |c| {
            let level = c["levels"][0].clone();
            c["levels"].as_array_mut().unwrap().push(level);
        }),
        ("more", |c| c["note"] = json!("x")),
    ];
    let change = |(name, change): Reshape| {
        let mut other = whole.clone();
        change(&mut other);
        let path = into.join(format!("{name}.json"));
        fs::write(&path, format!("{}\n", serde_json::to_string_pretty(&other).unwrap())).unwrap();
        path
    };
    changes.into_iter().map(change).collect()
}

#[test]
fn a_file_of_ids_is_shredded_and_every_certificate_holds() {
    let vault = Vault::dev();
    let running = vault.start();
    let count = subjects();
    enrol(&running, count);
    let ids: Vec<String> = (0..count).step_by(2).map(|n| format!("kunde/{n} ü")).collect();
    let (list, dir) = (vault.root().join("ids.txt"), vault.root().join("certificates"));
    fs::write(&list, ids.join("\n")).unwrap();
    let asked = ["erase", "--yes", "--reason", "asked for", "--file", list.to_str().unwrap(), "--certificates"];
    running.cli(&[&asked[..], &[dir.to_str().unwrap()]].concat()).expect(0);

    // One of the request and one of each subject, and nothing else is there.
    let files = certificates_in(&dir);
    assert_eq!(files.len(), ids.len() + 1);
    let first: Value = serde_json::from_slice(&fs::read(&files[0]).unwrap()).unwrap();
    let key = first["log_key"].as_str().unwrap();
    let named: std::collections::BTreeSet<String> = files
        .iter()
        .filter_map(|file| {
            let certificate: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
            assert_eq!(certificate["request"]["reason"], "asked for");
            Some(certificate["subject"]["id"].as_str()?.to_owned())
        })
        .collect();
    assert_eq!(named, ids.iter().cloned().collect());
    let checked = running.cli(&[&["erase", "check", "--log-key", key][..], &paths(&files)].concat()).expect(0);
    assert_eq!(checked.out.lines().filter(|line| line.contains(": holds")).count(), files.len());
    if let Some(checked) = python(&[&["certificate", "--log-key", key][..], &paths(&files)].concat()) {
        assert_eq!(checked.expect(0).out.matches("it holds").count(), files.len());
    }

    // Changed ones are refused by both, each of them.
    let mut changed = changed(&files[1], &vault.root().join("changed"));
    changed.extend(reshaped(&files[1], &vault.root().join("changed")));
    let refused = running.cli(&[&["erase", "check"][..], &paths(&changed)].concat()).expect(8);
    assert_eq!(refused.out.matches("REFUSED").count(), changed.len(), "{}", refused.out);
    if let Some(refused) = python(&[&["certificate"][..], &paths(&changed)].concat()) {
        assert_eq!(refused.expect(8).err.matches("refused: ").count(), changed.len());
    }
    // Held against another key none holds.
    let other = key.replacen("udv/", "udv/0", 1);
    running.cli(&["erase", "check", "--log-key", &other, paths(&files)[0]]).expect(8);
    running.stop();

    // The vault itself holds them against its log, and tells changed ones and those of another vault.
    let verified = vault.verify_with(&["--certificates", dir.to_str().unwrap()]).expect(0);
    assert!(verified.out.contains(&format!("{} certificates hold", files.len())), "{}", verified.out);
    let broken = vault.verify_with(&["--certificates", vault.root().join("changed").to_str().unwrap()]).expect(8);
    assert!(broken.out.contains(".json: "), "{}", broken.out);
    let other = Vault::dev();
    let running = other.start();
    enrol(&running, 10);
    running.stop();
    let foreign = other.verify_with(&["--certificates", dir.to_str().unwrap()]).expect(8);
    assert!(foreign.out.contains("another log") || foreign.out.contains("not of this log"), "{}", foreign.out);
}

#[test]
fn a_log_that_was_put_back_is_noticed() {
    let vault = Vault::dev();
    let running = vault.start();
    enrol(&running, 10);
    running.stop();
    let (log, older) = (vault.data().join("audit"), vault.root().join("older"));
    copy_dir(&log, &older);
    let running = vault.start();
    enrol(&running, 20);
    running.stop();
    vault.verify().expect(0);
    fs::remove_dir_all(&log).unwrap();
    copy_dir(&older, &log);
    assert!(vault.verify().expect(8).out.contains("it is an older copy, or its end was removed"));
    let told = vault.refusal().text;
    assert!(told.contains("the audit log is not the one that this vault wrote to"), "{told}");
    // Nor is another one begun in its place where it is elsewhere altogether.
    fs::remove_dir_all(log.join("journal")).unwrap();
    let told = vault.refusal().text;
    assert!(told.contains("its journal is missing") && !log.join("journal").exists(), "{told}");
    fs::remove_dir_all(&log).unwrap();
    assert!(vault.refusal().text.contains("the audit log is not the one that this vault wrote to"));
    // Who takes it upon himself goes on with what there is.
    fs::remove_dir_all(&log).unwrap();
    copy_dir(&older, &log);
    let mut accepting = vault.command();
    accepting.arg("--accept-loss");
    vault.start_with(accepting).unwrap_or_else(|refusal| panic!("{}", refusal.text)).stop();
    vault.start().stop();
    vault.verify().expect(0);
}

/// The log's signed head, once it speaks of `size` entries.
fn checkpoint(running: &Running, size: u64) -> String {
    wait_for("a checkpoint of that size", || {
        let note = running.admin.get("/v1/audit/checkpoint").expect(200).body;
        let signed: u64 = note.lines().nth(1).unwrap().parse().unwrap();
        (signed >= size).then_some(note)
    })
}

fn size_of(note: &str) -> u64 {
    note.lines().nth(1).unwrap().parse().unwrap()
}

#[test]
fn two_checkpoints_far_apart_are_consistent_for_another_verifier() {
    let vault = Vault::dev();
    let running = vault.start();
    running.admin.set("a", &json!({ "nickname": "x" })).expect(201);
    let old = checkpoint(&running, 1);
    let target = size_of(&old) + 10_000;
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let reader = running.admin.clone();
            std::thread::spawn(move || (0..2500).for_each(|_| drop(reader.get("/v1/subjects/a").expect(200))))
        })
        .collect();
    readers.into_iter().for_each(|reader| reader.join().unwrap());
    let new = checkpoint(&running, target);
    let (from, to) = (size_of(&old), size_of(&new));
    let proof = running.admin.get(&format!("/v1/audit/consistency?from={from}&to={to}")).expect(200).body;
    let keys = running.admin.get("/v1/audit/keys").expect(200).json();
    let key = keys["current"].as_str().unwrap();

    let place = |name: &str, text: &str| {
        let path = vault.root().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (old_file, new_file, proof_file) = (place("old", &old), place("new", &new), place("proof", &proof));
    let Some(checked) = python(&["consistency", &old_file, &new_file, &proof_file, "--log-key", key]) else { return };
    checked.expect(0);
    // A head that the old one does not lead to, and a proof with another hash in it.
    let swapped = python(&["consistency", &new_file, &old_file, &proof_file, "--log-key", key]).unwrap();
    swapped.expect(8);
    let at = proof.find("proof").unwrap() + 12;
    let other = if &proof[at..=at] == "0" { "1" } else { "0" };
    let forged = place("forged", &format!("{}{other}{}", &proof[..at], &proof[at + 1..]));
    python(&["consistency", &old_file, &new_file, &forged, "--log-key", key]).unwrap().expect(8);
    running.stop();
}
