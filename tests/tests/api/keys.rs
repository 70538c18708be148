//! Rotations while the vault serves: started, watched, paused, resumed, cancelled, and resumed by a restart.

use std::fs;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Client, Vault, wait_for};

fn enrol(admin: &Client, count: usize) {
    let item = |number| {
        let phone = format!("+9715012{number:05}");
        json!({ "subject": format!("s{number}"), "fields": { "name": format!("n{number}"), "phone": phone } })
    };
    let items: Vec<_> = (0..count).map(item).collect();
    for chunk in items.chunks(500) {
        let answer = admin.post("/v1/batch/write", &json!({ "items": chunk })).expect(200).json();
        assert!(answer["results"].as_array().unwrap().iter().all(|result| result["status"] == 201), "{answer}");
    }
}

fn all_there(admin: &Client, count: usize) {
    for number in [0, 1, count / 2, count - 1] {
        let read = admin.field(&format!("s{number}"), "name").expect(200).json();
        assert_eq!(read["value"], format!("n{number}"));
        let found = admin.find(&json!({ "field": "phone", "value": format!("+9715012{number:05}") }));
        assert_eq!(found, [format!("s{number}")]);
    }
}

fn path(rotation: &Value) -> String {
    format!("/v1/keys/rotations/{}", rotation["id"].as_str().unwrap())
}

fn reaches(admin: &Client, rotation: &Value, state: &str) -> Value {
    wait_for(state, || {
        let shown = admin.get(&path(rotation)).expect(200).json();
        assert_ne!(shown["state"], "failed", "{shown}");
        (shown["state"] == state).then_some(shown)
    })
}

fn layer(admin: &Client, name: &str) -> Value {
    let keys = admin.get("/v1/keys").expect(200).json();
    keys["layers"].as_array().unwrap().iter().find(|layer| layer["layer"] == name).unwrap().clone()
}

#[test]
fn the_root_rotates() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    enrol(admin, 20);
    let slot = || std::fs::read(vault.data().join("root.slot")).unwrap();
    let (before, old_slot) = (layer(admin, "root"), slot());
    let started = admin.post("/v1/keys/rotations", &json!({ "layer": "root" })).expect(202);
    assert_eq!(started.header("location"), Some(path(&started.json()).as_str()));
    let done = reaches(admin, &started.json(), "done");
    assert_eq!((&done["layer"], done["done"] == done["total"]), (&json!("root"), true));
    assert!(done["finished_at"].is_string() && done["started_at"].is_string());
    let after = layer(admin, "root");
    assert!(after["version"].as_u64() > before["version"].as_u64(), "{before} {after}");
    assert_eq!(after["last_rotation"]["id"], done["id"]);
    assert_ne!(old_slot, slot());
    assert_eq!(layer(admin, "unlock")["methods"], json!(["key-file"]));
    all_there(admin, 20);
    running.stop();
    let running = vault.start();
    all_there(&running.admin, 20);
    running.stop();
}

#[test]
fn page_keys_rotate_can_be_paused_and_go_on_after_a_restart() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    enrol(admin, 1000);
    let started = admin.post("/v1/keys/rotations", &json!({ "layer": "keks", "rate": 1 })).expect(202).json();
    assert_eq!((&started["layer"], &started["rate"]), (&json!("keks"), &json!(1)));
    let paused = admin.patch(&path(&started), &json!({ "state": "paused" })).expect(200).json();
    assert_eq!(paused["state"], "paused");
    admin.set("late", &json!({ "name": "written meanwhile" })).expect(201);
    admin.delete("/v1/subjects/s5").expect(200);
    assert_eq!(admin.get(&path(&started)).expect(200).json()["state"], "paused");
    running.stop();

    let running = vault.start();
    let admin = &running.admin;
    assert_eq!(admin.get(&path(&started)).expect(200).json()["state"], "paused", "a rest outlives a restart");
    let resumed = admin.patch(&path(&started), &json!({ "state": "running", "rate": 1_000_000 })).expect(200).json();
    assert!(["running", "queued", "done"].contains(&resumed["state"].as_str().unwrap()), "{resumed}");
    let done = reaches(admin, &started, "done");
    assert!(done["done"].as_u64() > Some(0) && done["done"] == done["total"], "{done}");
    assert_eq!(layer(admin, "keks")["last_rotation"]["id"], done["id"]);
    all_there(admin, 1000);
    assert_eq!(admin.field("late", "name").expect(200).json()["value"], "written meanwhile");
    admin.get("/v1/subjects/s5").problem(410, "shredded");
    admin.patch(&path(&started), &json!({ "state": "paused" })).problem(409, "conflict");
    running.stop();
    vault.verify().expect(0);
}

#[test]
fn a_rotation_is_cancelled_and_the_vault_is_as_good_as_before() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    enrol(admin, 600);
    let started = admin.post("/v1/keys/rotations", &json!({ "layer": "keks", "rate": 1 })).expect(202).json();
    let cancelled = admin.patch(&path(&started), &json!({ "state": "cancelled" })).expect(200).json();
    assert_eq!(cancelled["state"], "cancelled");
    admin.patch(&path(&started), &json!({ "state": "running" })).problem(409, "conflict");
    all_there(admin, 600);
    let listed = admin.get("/v1/keys/rotations").expect(200).json();
    assert!(listed["data"].as_array().unwrap().iter().any(|rotation| rotation["id"] == started["id"]), "{listed}");
    let again = admin.post("/v1/keys/rotations", &json!({ "layer": "keks" })).expect(202).json();
    reaches(admin, &again, "done");
    all_there(admin, 600);
    running.stop();
    vault.verify().expect(0);
}

#[test]
fn data_keys_and_lookups_rotate_over_a_restart() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    enrol(admin, 600);
    let deks = admin.post("/v1/keys/rotations", &json!({ "layer": "deks", "rate": 50 })).expect(202).json();
    let lookups = admin.post("/v1/keys/rotations", &json!({ "layer": "lookups", "rate": 50 })).expect(202).json();
    assert_eq!((&deks["total"], &lookups["total"]), (&json!(600), &json!(1800)));
    admin.set("s7", &json!({ "phone": "+971509998877" })).expect(200);
    admin.delete("/v1/subjects/s5").expect(200);
    assert!(layer(admin, "deks")["older"].as_u64() > Some(0));
    let metrics = admin.get("/metrics").expect(200).body;
    for line in ["udv_rotation_total{layer=\"deks\"} 600", "udv_rotation_total{layer=\"lookups\"} 1800"] {
        assert!(metrics.contains(line), "{metrics}");
    }
    running.server.kill();

    let running = vault.start();
    let admin = &running.admin;
    for rotation in [&deks, &lookups] {
        admin.patch(&path(rotation), &json!({ "rate": 1_000_000 })).expect(200);
        let done = reaches(admin, rotation, "done");
        assert_eq!(done["done"], done["total"], "{done}");
        let name = rotation["layer"].as_str().unwrap();
        assert_eq!(layer(admin, name)["last_rotation"]["id"], done["id"]);
        assert_eq!(layer(admin, name)["older"], 0);
    }
    assert_eq!(layer(admin, "lookups")["version"], 2);
    all_there(admin, 600);
    assert_eq!(admin.find(&json!({ "field": "phone", "value": "+971509998877" })), ["s7"]);
    admin.get("/v1/subjects/s5").problem(410, "shredded");
    let chosen = json!({ "layer": "deks", "subjects": ["s1", "s2"], "forget": true });
    let chosen = admin.post("/v1/keys/rotations", &chosen).expect(202).json();
    assert_eq!(reaches(admin, &chosen, "done")["total"], 2);
    all_there(admin, 600);
    running.stop();
    vault.verify().expect(0);
}

#[test]
fn what_is_no_rotation_is_refused() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    for layer in ["nonsense", ""] {
        let refused = admin.post("/v1/keys/rotations", &json!({ "layer": layer }));
        assert_eq!(refused.problem(422, "invalid_value")["field"], "layer");
    }
    for (body, field) in [
        (json!({ "layer": "keks", "forget": true }), "forget"),
        (json!({ "layer": "keks", "passphrase": "correct horse" }), "passphrase"),
        (json!({ "layer": "unlock", "passphrase": "short" }), "passphrase"),
        (json!({ "layer": "unlock", "older_than": 5 }), "older_than"),
        (json!({ "layer": "lookups", "older_than": 5 }), "older_than"),
        (json!({ "layer": "root", "subjects": ["s1"] }), "subjects"),
        (json!({ "layer": "deks", "subjects": [] }), "subjects"),
        (json!({ "layer": "deks", "subjects": ["s1"], "older_than": 5 }), "subjects"),
    ] {
        let refused = admin.post("/v1/keys/rotations", &body);
        assert_eq!(refused.problem(422, "invalid_value")["field"], field);
    }
    let refused = admin.post("/v1/keys/rotations", &json!({ "layer": "keks", "rate": 0 }));
    assert_eq!(refused.problem(422, "invalid_value")["field"], "rate");
    admin.get("/v1/keys/rotations/nonsense").problem(404, "not_found");
    let absent = "/v1/keys/rotations/00000000000000000000000000000000";
    admin.patch(absent, &json!({ "state": "paused" })).problem(404, "not_found");
    let done = admin.post("/v1/keys/rotations", &json!({ "layer": "root" })).expect(202).json();
    reaches(admin, &done, "done");
    let odd = admin.patch(&path(&done), &json!({ "state": "done" }));
    assert_eq!(odd.problem(422, "invalid_value")["field"], "state");
    running.stop();
}

#[test]
fn the_command_line_rotates_and_shows_keys() {
    let vault = Vault::configured();
    let running = vault.start();
    enrol(&running.admin, 30);
    let status = running.cli(&["key", "status"]).expect(0);
    for layer in ["root", "keks", "lookups"] {
        assert!(status.out.contains(layer), "{}", status.out);
    }
    running.cli(&["key", "rotate", "root", "--wait"]).expect(0);
    let started = running.cli(&["--output", "json", "key", "rotate", "keks"]).expect(0);
    let started: Value = serde_json::from_str(&started.out).unwrap();
    running.cli(&["key", "watch", started["id"].as_str().unwrap()]).expect(0);
    running.cli(&["key", "watch", "nonsense"]).expect(3);
    running.cli(&["key", "rotate", "root", "--passphrase-file", "none"]).expect(2);
    let unlock = running.cli(&["key", "rotate", "unlock"]).expect(0);
    assert!(unlock.out.contains("keks follows"), "{}", unlock.out);
    running.cli(&["key", "rotate", "deks", "--older-than", "0s", "--wait"]).expect(0);
    running.cli(&["key", "rotate", "deks", "--subject", "s3", "--subject", "s4", "--forget", "--wait"]).expect(0);
    running.cli(&["key", "rotate", "lookups", "--wait"]).expect(0);
    let status = running.cli(&["key", "status"]).expect(0);
    running.cli(&["key", "rotate", "all"]).expect(2);
    running.cli(&["key", "rotate", "root", "--now"]).expect(2);
    // One that is paused is in the way, which is told before anything is begun.
    let keks = json!({ "layer": "keks", "rate": 1 });
    wait_for("the page keys after the unlock keys", || {
        let answer = running.admin.post("/v1/keys/rotations", &keks);
        (answer.status == 202).then_some(())
    });
    let open: Value = running.admin.get("/v1/keys/rotations").expect(200).json();
    let paused = open["data"].as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned();
    running.cli(&["key", "pause", &paused]).expect(0);
    let begun = || running.admin.get("/v1/keys/rotations").expect(200).json()["data"].as_array().unwrap().len();
    let before = begun();
    let refused = running.cli(&["--yes", "key", "rotate", "all", "--now"]);
    assert!(refused.code == Some(1) && refused.err.contains("is paused"), "{refused:?}");
    assert_eq!(begun(), before);
    running.cli(&["key", "resume", &paused]).expect(0);
    // One a second: it would take minutes.
    let all = running.cli(&["--yes", "--output", "json", "key", "rotate", "all", "--now"]).expect(0);
    assert!(all.err.contains(&format!("as fast as it can: `vault-cli key cancel {paused}`")), "{}", all.err);
    let all: Value = serde_json::from_str(&all.out).unwrap();
    let layers: Vec<_> = all["layers"].as_array().unwrap().iter().map(|ended| &ended["layer"]).collect();
    assert_eq!(layers, ["unlock", "root", "keks", "deks", "lookups"]);
    let times: Vec<_> =
        all["layers"].as_array().unwrap().iter().map(|ended| ended["finished_at"].as_str().unwrap()).collect();
    // The page keys follow other unlock keys by themselves, beside the root.
    assert!(times[..2].is_sorted() && times[2..].is_sorted() && !times[0].is_empty(), "{times:?}");
    assert!(times[0] <= times[2], "{times:?}");
    assert!(!status.out.contains("never"), "{}", status.out);
    all_there(&running.admin, 30);
    running.stop();
}

#[test]
fn keys_that_are_too_old_are_told_and_rotate_by_themselves() {
    let vault = Vault::configured();
    vault.configure("[rotation]\nunlock_days = 400\nlookups_shreds = 1\nwhen_due = \"rotate\"\n");
    let running = vault.start();
    enrol(&running.admin, 20);
    assert_eq!(layer(&running.admin, "lookups")["overdue"], false);
    let in_400_days = layer(&running.admin, "unlock");
    assert!(in_400_days["due_at"].as_str() > in_400_days["created_at"].as_str(), "{in_400_days}");
    running.admin.delete("/v1/subjects/s7").expect(200);
    let overdue = layer(&running.admin, "lookups");
    assert_eq!((&overdue["shreds"], &overdue["overdue"]), (&json!(1), &json!(true)), "{overdue}");
    let told = running.cli(&["key", "status"]).expect(0);
    assert!(told.out.contains("overdue ") && told.out.contains("1 shred of at most 1"), "{}", told.out);
    assert!(told.err.contains("vault-cli key rotate lookups"), "{}", told.err);
    let log = running.stop();

    // It is looked at soon after each start.
    let running = vault.start();
    let rotated = wait_for("another key of lookups", || {
        Some(layer(&running.admin, "lookups")).filter(|layer| layer["version"] == 2 && layer["older"] == 0)
    });
    assert_eq!((&rotated["shreds"], &rotated["overdue"]), (&json!(0), &json!(false)));
    let metrics = running.nobody().get("/metrics").expect(200).body;
    assert!(metrics.contains("udv_key_overdue{layer=\"unlock\"} 0"), "{metrics}");
    assert!(metrics.contains("udv_key_age_seconds{layer=\"deks\"}"), "{metrics}");
    all_there(&running.admin, 20);
    let log = log + &running.stop();
    assert!(log.contains("older than the policy allows, or saw too many shreds"), "{log}");
}

#[test]
fn unlock_keys_are_replaced_while_the_vault_serves() {
    let vault = Vault::configured();
    let key = vault.data().join("unlock.key");
    let slot = vault.data().join("root.slot");
    let running = vault.start();
    enrol(&running.admin, 20);
    let mut known = vec![(fs::read(&key).unwrap(), fs::read(&slot).unwrap())];
    for _ in 0..2 {
        let done = running.admin.post("/v1/keys/rotations", &json!({ "layer": "unlock" })).expect(202).json();
        assert_eq!((&done["layer"], &done["state"]), (&json!("unlock"), &json!("done")), "{done}");
        known.push((fs::read(&key).unwrap(), fs::read(&slot).unwrap()));
        // The server goes on with its slot.
        running.admin.delete(&format!("/v1/subjects/s{}", 9 + known.len())).expect(200);
    }
    all_there(&running.admin, 10);
    let status = running.cli(&["key", "status"]).expect(0);
    assert!(status.out.lines().any(|line| line.starts_with("unlock") && line.contains("ago")), "{}", status.out);
    let log = running.server.kill();
    assert!(!log.contains("udv-unlock-key"), "{log}");

    // Each earlier key opens the slot no more; the control: the present one does.
    let present = fs::read(&key).unwrap();
    for (old, _) in &known[..2] {
        fs::write(&key, old).unwrap();
        vault.refusal().says("does not open the root slot");
    }
    fs::write(&key, &present).unwrap();
    let running = vault.start();
    all_there(&running.admin, 10);
    running.stop();
    // An old image of the slot opens with the key of its time, and leads to no store of now.
    let today = fs::read(&slot).unwrap();
    fs::write(&key, &known[0].0).unwrap();
    fs::write(&slot, &known[0].1).unwrap();
    vault.refusal().says("root");
    fs::write(&key, present).unwrap();
    fs::write(&slot, today).unwrap();
    let running = vault.start();
    all_there(&running.admin, 10);
    running.stop();
}

/// Killed at any moment of it, the vault starts with the key file that is in its place.
#[test]
fn a_server_that_is_killed_while_unlock_keys_change_starts_again() {
    let vault = Vault::configured();
    let running = vault.start();
    enrol(&running.admin, 20);
    running.stop();
    for round in 0..8u64 {
        let running = vault.start();
        all_there(&running.admin, 20);
        thread::scope(|scope| {
            let admin = running.admin.clone();
            scope.spawn(move || {
                while admin
                    .attempt("POST", "/v1/keys/rotations", &[], Some(br#"{"layer":"unlock","replace_all":true}"#))
                    .is_ok()
                {}
            });
            thread::sleep(Duration::from_millis(20 + 37 * round));
            let log = running.server.kill();
            assert!(!log.contains("panicked"), "{log}");
        });
    }
    let running = vault.start();
    let all = json!({ "layer": "unlock", "replace_all": true });
    running.admin.post("/v1/keys/rotations", &all).expect(202);
    running.stop();
    assert!(!vault.data().join("unlock.key.new").exists() && !vault.data().join("unlock.key.old").exists());
    vault.verify().expect(0);
}
