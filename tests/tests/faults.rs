//! What an operator can meet: wrong keys, lost or damaged slots, a truncated store, two servers, a port in use.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use vault_core::store::EngineName;

use crate::harness::{Running, Vault, overwrite, plain_words, run, server_command, wait_for};

const SUBJECTS: usize = 40;
/// Each of a slot's two copies has a block of its own.
const COPY: u64 = 4096;

fn filled(vault: &Vault) {
    let running = vault.start();
    fill(&running);
    running.stop();
}

fn fill(running: &Running) {
    let items: Vec<_> = (0..SUBJECTS)
        .map(|n| json!({ "subject": format!("s{n}"), "fields": { "name": format!("n{n}"), "device": { "n": "x".repeat(500) } } }))
        .collect();
    let answer = running.admin.post("/v1/batch/write", &json!({ "items": items })).expect(200).json();
    assert!(answer["results"].as_array().unwrap().iter().all(|result| result["status"] == 201), "{answer}");
}

fn all_there(running: &Running) {
    for number in 0..SUBJECTS {
        let read = running.admin.field(&format!("s{number}"), "name").expect(200).json();
        assert_eq!(read["value"], format!("n{number}"));
    }
}

fn serves_all(vault: &Vault) {
    let running = vault.start();
    all_there(&running);
    running.stop();
}

#[test]
fn a_wrong_unlock_key_opens_nothing() {
    let [vault, other] = [Vault::configured(), Vault::configured()];
    filled(&vault);
    let key = vault.data().join("unlock.key");
    let kept = fs::read(&key).unwrap();

    fs::copy(other.data().join("unlock.key"), &key).unwrap();
    vault.refusal().says("does not open the root slot");
    vault.verify().refused(1, "does not open the root slot");
    fs::write(&key, "no key at all\n").unwrap();
    vault.refusal().says("not a key file").says("unlock.key");
    fs::write(&key, &kept[..kept.len() / 2]).unwrap();
    vault.refusal().says("unlock.key");
    fs::remove_file(&key).unwrap();
    vault.refusal().says("unlock.key");

    fs::write(&key, kept).unwrap();
    serves_all(&vault);
}

#[test]
fn a_missing_slot_is_named() {
    let vault = Vault::configured();
    filled(&vault);
    let [slot, kept] = [vault.data().join("root.slot"), vault.root().join("kept")];
    fs::rename(&slot, &kept).unwrap();
    vault.refusal().says("root.slot is missing");
    assert!(!slot.exists(), "no new slot takes its place");
    fs::rename(&kept, &slot).unwrap();
    serves_all(&vault);
}

#[test]
fn another_vaults_slot_is_refused() {
    let [vault, other] = [Vault::configured(), Vault::configured()];
    filled(&vault);
    let [slot, foreign] = [vault.data().join("root.slot"), other.data().join("root.slot")];
    let kept = fs::read(&slot).unwrap();
    fs::copy(&foreign, &slot).unwrap();
    vault.refusal().says("belongs to another vault");
    assert_eq!(fs::read(&slot).unwrap(), fs::read(&foreign).unwrap(), "nothing was written to it");
    fs::write(&slot, kept).unwrap();
    serves_all(&vault);
}

#[test]
fn one_damaged_copy_of_a_slot_is_repaired_and_two_are_told() {
    let vault = Vault::configured();
    filled(&vault);
    let slot = vault.data().join("root.slot");
    assert_eq!(fs::metadata(&slot).unwrap().len(), 2 * COPY);
    // Each round destroys the copy that the round before relied on.
    for round in 0..4 {
        overwrite(&slot, round % 2 * COPY, &[0xa5; COPY as usize]);
        serves_all(&vault);
    }
    let kept = fs::read(&slot).unwrap();
    for at in [0, 8, 20, 40, 300, COPY - 1] {
        let mut bytes = kept.clone();
        for copy in [0, COPY] {
            bytes[(copy + at) as usize] ^= 1;
        }
        fs::write(&slot, &bytes).unwrap();
        vault.refusal().says("root.slot").says("damaged");
        assert_eq!(fs::read(&slot).unwrap(), bytes, "what is damaged is left as it is");
    }
    for length in [0, 100, COPY as usize - 1] {
        fs::write(&slot, &kept[..length]).unwrap();
        vault.refusal().says("root.slot").says("damaged");
    }
    fs::write(&slot, kept).unwrap();
    serves_all(&vault);
}

#[test]
fn a_truncated_store_is_never_served_as_an_empty_vault() {
    let vault = Vault::configured_in(tempfile::tempdir().unwrap(), EngineName::Sled);
    filled(&vault);
    // Old epochs do not open, so that a shorter store is not simply an earlier one.
    let running = vault.start();
    let started = running.admin.post("/v1/keys/rotations", &json!({ "layer": "root" })).expect(202).json();
    let path = format!("/v1/keys/rotations/{}", started["id"].as_str().unwrap());
    wait_for("the rotation", || (running.admin.get(&path).json()["state"] == "done").then_some(()));
    running.stop();

    let db = vault.data().join("store/db");
    let whole = fs::read(&db).unwrap();
    let used = whole.len() - whole.iter().rev().take_while(|byte| **byte == 0).count();
    let mut refused = 0;
    for keep in [0, 1, 512, used / 4, used / 2, used * 9 / 10, used - 1] {
        fs::write(&db, &whole[..keep]).unwrap();
        match vault.try_start() {
            Err(refusal) => {
                refusal.says("");
                refused += 1;
            }
            Ok(running) => {
                let status = running.admin.get("/v1/status").expect(200).json();
                assert_eq!(status["counts"]["subjects"], SUBJECTS, "of {used} bytes {keep} are kept");
                for number in 0..SUBJECTS {
                    let read = running.admin.field(&format!("s{number}"), "name");
                    match read.status {
                        200 => assert_eq!(read.json()["value"], format!("n{number}")),
                        _ => _ = read.problem(500, "damaged"),
                    }
                }
                plain_words(&running.server.kill());
            }
        }
    }
    assert!(refused >= 4, "only {refused} were refused");
    fs::write(&db, &whole).unwrap();
}

#[test]
fn a_lost_store_is_not_replaced_by_an_empty_one() {
    for vault in [Vault::dev(), Vault::configured()] {
        filled(&vault);
        let [store, kept] = [vault.data().join("store"), vault.root().join("kept")];
        fs::rename(&store, &kept).unwrap();
        vault.refusal().says("no store");
        fs::create_dir(&store).unwrap();
        vault.refusal().says("META record is missing");
        fs::remove_dir_all(&store).unwrap();
        fs::rename(&kept, &store).unwrap();
        serves_all(&vault);
    }
}

#[test]
fn a_second_server_leaves_the_first_alone() {
    for vault in [Vault::dev(), Vault::configured()] {
        let running = vault.start();
        fill(&running);
        vault.refusal().says("in use by another process");
        vault.verify().refused(1, "in use by another process");
        all_there(&running);
        running.admin.set("later", &json!({ "name": "x" })).expect(201);
        running.stop();
        serves_all(&vault);
    }
}

#[test]
fn a_port_in_use_is_told_before_anything_is_made() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let vault = Vault::dev();
    let mut command = server_command();
    command.arg("dev").arg("--data").arg(vault.data());
    command.arg("--listen").arg(taken.local_addr().unwrap().to_string());
    run(command).refused(1, "is in use");
    assert!(!vault.data().exists());
}

#[test]
fn a_start_that_is_killed_leaves_nothing_half_made() {
    for after in [5, 30, 60, 100, 150, 250] {
        let vault = Vault::dev();
        let mut child =
            vault.command().stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(after));
        child.kill().unwrap();
        child.wait().unwrap();
        filled(&vault);
        serves_all(&vault);
    }
}

fn second_slot(vault: &Vault) -> std::path::PathBuf {
    let text = fs::read_to_string(vault.config()).unwrap();
    fs::write(vault.config(), text.replace("[\"root.slot\"]", "[\"root.slot\", \"second.slot\"]")).unwrap();
    let key = vault.data().join("unlock.key");
    vault.init(&["--no-passphrase", "--key-file", key.to_str().unwrap()]).expect(0);
    vault.data().join("second.slot")
}

fn slot<'a>(status: &'a Value, name: &str) -> &'a Value {
    let slots = status["slots"].as_array().unwrap();
    slots.iter().find(|slot| slot["name"].as_str().unwrap().ends_with(name)).unwrap()
}

#[test]
fn a_slot_that_goes_away_delays_what_is_final_and_nothing_else() {
    let vault = Vault::unmade("[unlock]\nkey_file = \"unlock.key\"\n");
    let second = second_slot(&vault);
    let running = vault.start();
    let admin = &running.admin;
    fill(&running);
    admin.delete("/v1/subjects/s0").expect(200);

    let away = vault.root().join("away");
    fs::rename(&second, &away).unwrap();
    let erasure = admin.post("/v1/erasures", &json!({ "subjects": ["s1"], "reason": "on request" })).expect(201).json();
    let path = format!("/v1/erasures/{}", erasure["id"].as_str().unwrap());
    let waiting = wait_for("the erasure to wait for the slot", || {
        let shown = admin.get(&path).expect(200).json();
        shown.get("waiting_for").is_some().then_some(shown)
    });
    assert_eq!((&waiting["state"], &waiting["counts"]["refused"]), (&json!("refused"), &json!(1)));
    assert!(waiting["waiting_for"][0].as_str().unwrap().contains("second.slot"), "{waiting}");
    assert!(waiting.get("f1_at").is_none());
    assert_eq!(waiting["items"][0]["subject"], "s1");
    // Refused durably, while others are served and written to.
    admin.get("/v1/subjects/s1").problem(410, "shredded");
    admin.set("s2", &json!({ "nickname": "meanwhile" })).expect(200);
    let status = admin.get("/v1/status").expect(200).json();
    assert_ne!(slot(&status, "second.slot")["state"], "ok", "{status}");
    assert!(slot(&status, "second.slot")["detail"].as_str().unwrap().contains("missing"), "{status}");
    assert_eq!(slot(&status, "root.slot")["state"], "ok", "{status}");
    assert_eq!(status["counts"]["refused"], 1, "{status}");
    assert!(running.cli(&["status"]).expect(0).out.contains("second.slot"));

    fs::rename(&away, &second).unwrap();
    let shown = wait_for("the erasure to finish by itself", || {
        let shown = admin.get(&path).expect(200).json();
        (shown["state"] == "final").then_some(shown)
    });
    assert!(shown["f1_at"].is_string() && shown.get("waiting_for").is_none(), "{shown}");
    wait_for("the slot to be well", || {
        let status = admin.get("/v1/status").expect(200).json();
        (slot(&status, "second.slot")["state"] == "ok").then_some(())
    });
    running.stop();
    let running = vault.start();
    running.admin.get("/v1/subjects/s1").problem(410, "shredded");
    assert_eq!(running.admin.field("s2", "nickname").expect(200).json()["value"], "meanwhile");
    running.stop();
}

#[test]
fn a_refusal_outlives_a_crash_and_becomes_final_after_it() {
    let vault = Vault::unmade("[unlock]\nkey_file = \"unlock.key\"\n");
    let second = second_slot(&vault);
    let running = vault.start();
    fill(&running);
    let away = vault.root().join("away");
    fs::rename(&second, &away).unwrap();
    let asked = json!({ "subjects": ["s1"], "reason": "on request" });
    let erasure = running.admin.post("/v1/erasures", &asked).expect(201).json();
    running.server.kill();

    vault.refusal().says("second.slot");
    fs::rename(&away, &second).unwrap();
    let running = vault.start();
    running.admin.get("/v1/subjects/s1").problem(410, "shredded");
    let path = format!("/v1/erasures/{}", erasure["id"].as_str().unwrap());
    wait_for("the erasure to finish by itself", || {
        (running.admin.get(&path).expect(200).json()["state"] == "final").then_some(())
    });
    running.stop();
    vault.verify().expect(0);
}

#[test]
fn a_directory_that_cannot_be_made_is_told() {
    let vault = Vault::dev();
    fs::write(vault.root().join("file"), "").unwrap();
    let mut command = server_command();
    command.args(["dev", "--listen", "127.0.0.1:0", "--data"]).arg(vault.root().join("file/data"));
    run(command).refused(1, "file/data");
    assert!(Path::new(&vault.root().join("file")).is_file());
}
