//! The tortures can fail: what a vault must not do is done to it, and has to be found.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::model::{Change, PHONE, Trouble};
use super::rotator::Rotator;
use super::stage::Stage;
use crate::harness::{Client, Keys, Running, copy_dir, engine};

/// Has the workers do so many steps each.
fn steps(stage: &mut Stage, running: &Running, each: u64) {
    let client = running.admin.for_purpose("account");
    for n in 0..stage.workers.len() {
        for _ in 0..each {
            stage.workers[n].step(&client).unwrap_or_else(|trouble| stage.fail(trouble));
        }
    }
}

fn deviates<T>(checked: Result<T, Trouble>) -> bool {
    matches!(checked, Err(Trouble::Deviation(_)))
}

#[test]
fn what_was_never_asked_for_is_missed() {
    let mut stage = Stage::new("control of the model", engine(), 2, 20);
    let running = stage.start();
    stage.workers.iter_mut().for_each(|worker| worker.enrol_all(&running.admin).unwrap());
    steps(&mut stage, &running, 30);
    stage.settle(&running.admin, usize::MAX);
    let client = running.admin.for_purpose("account");
    let worker = &mut stage.workers[0];
    let live =
        |id: &&String| worker.model.allowed(id).iter().all(|state| matches!(state, super::model::State::Live(_)));
    let id = worker.ids().iter().find(live).unwrap().clone();
    let phone = "+971509999999";
    for change in [Change::set([("name", "never sent".to_owned())]), Change::remove("name"), Change::Shred] {
        let mut model = worker.model.clone();
        let ask = model.ask([(id.as_str(), change.clone())]);
        // It may have been done, so the vault is as it may be ...
        model.read(&client, &id).unwrap();
        model.done(ask, &id).unwrap();
        // ... and once it was told that it is done, it is not.
        assert!(deviates(model.read(&client, &id)), "{change:?}");
        assert!(deviates(model.settle(&client)), "{change:?}");
    }
    let mut model = worker.model.clone();
    let ask = model.ask([(id.as_str(), Change::set([(PHONE, phone.to_owned())]))]);
    assert_eq!(model.look_up(&client, phone).unwrap(), 0);
    model.done(ask, &id).unwrap();
    assert!(deviates(model.look_up(&client, phone)), "a lookup misses who was told to have the number");
    // And somebody whom the model does not know to have it.
    running.admin.set("stranger", &serde_json::json!({ "phone": phone })).expect(201);
    assert!(deviates(worker.model.look_up(&client, phone)), "a lookup finds a stranger");
    running.stop();
}

/// What the vault was given back instead of its own store, and by what it showed.
fn rolled_back(between: impl FnOnce(&mut Stage, &Running)) -> &'static str {
    let mut stage = Stage::new("control of a rollback", engine(), 2, 20);
    let running = stage.start();
    stage.workers.iter_mut().for_each(|worker| worker.enrol_all(&running.admin).unwrap());
    running.stop();
    let (store, older) = (stage.vault.data().join("store"), stage.vault.root().join("older"));
    copy_dir(&store, &older);
    let running = stage.start();
    between(&mut stage, &running);
    running.server.kill();
    std::fs::remove_dir_all(&store).unwrap();
    copy_dir(&older, &store);
    match stage.vault.try_start() {
        Ok(_) => panic!("an older store was put back, and it is served without a word"),
        Err(refusal) if refusal.text.contains("older than its audit log") => {}
        Err(_) => return "refused",
    }
    // Who takes it upon himself has it served; the model must find it.
    let mut accepting = stage.vault.command();
    accepting.arg("--accept-loss");
    let running = stage.vault.start_with(accepting).unwrap_or_else(|refusal| panic!("{}", refusal.text));
    let told = running.admin.get("/v1/audit/entries?limit=1000").expect(200).body;
    assert!(told.contains("accept_loss"), "the log does not tell that it is served: {told}");
    running.stop();
    // From now on it is as new as its log.
    let running = stage.vault.start();
    let client = running.admin.for_purpose("account");
    match stage.workers.iter_mut().any(|worker| deviates(worker.model.settle(&client))) {
        true => "found by the model",
        false => panic!("an older store was put back, and nobody noticed"),
    }
}

#[test]
fn an_older_store_is_noticed() {
    let writes = rolled_back(|stage, running| {
        let worker = &mut stage.workers[0];
        let id = worker.ids()[0].clone();
        let change = Change::set([("name", "written later".to_owned())]);
        let ask = worker.model.ask([(id.as_str(), change)]);
        running.admin.set(&id, &serde_json::json!({ "name": "written later" })).expect(200);
        worker.model.done(ask, &id).unwrap();
    });
    let shreds = rolled_back(|stage, running| steps(stage, running, 60));
    eprintln!("an older store after writes: {writes}; after shreds: {shreds}");
    assert_eq!(shreds, "refused", "a slot knows a newer root than the older store has");
}

/// The keys once these layers were rotated, and the server is stopped.
fn keys_after(stage: &mut Stage, layers: &[&str]) -> Keys {
    let running = stage.start();
    let rotator = Rotator::new(running.admin.clone());
    for layer in layers {
        let id = rotator.begin(&json!({ "layer": layer })).unwrap();
        let rotation = rotator.wait_until(&id, |_| false).unwrap();
        assert_eq!(rotation["state"], "done");
    }
    running.stop();
    Keys::of(&stage.vault, engine())
}

#[test]
fn keys_that_are_left_old_are_found() {
    let mut stage = Stage::new("control of old keys", engine(), 2, 40);
    let running = stage.start();
    stage.workers.iter_mut().for_each(|worker| worker.enrol_all(&running.admin).unwrap());
    running.stop();
    let first = Keys::of(&stage.vault, engine());
    let deks = first.deks().count();
    assert_eq!((first.subjects.len(), deks), (80, 80));
    let layers = |left: &BTreeMap<&'static str, usize>| left.keys().copied().collect::<Vec<_>>();

    let left = keys_after(&mut stage, &[]).left_of(&first);
    assert_eq!(layers(&left), ["deks", "keks", "lookups", "root"], "nothing was rotated");
    assert!(left["deks"] == deks && left["keks"] > 10, "{left:?}");
    let left = keys_after(&mut stage, &["root"]).left_of(&first);
    assert_eq!(layers(&left), ["deks", "keks", "lookups"], "only the root was rotated");
    assert!(left["deks"] == deks && left["keks"] > 10, "{left:?}");
    let left = keys_after(&mut stage, &["keks"]).left_of(&first);
    assert_eq!(layers(&left), ["deks", "lookups"]);
    let left = keys_after(&mut stage, &["deks"]).left_of(&first);
    assert_eq!(layers(&left), ["lookups"]);
    let left = keys_after(&mut stage, &["lookups"]).left_of(&first);
    assert_eq!(layers(&left), [""; 0], "all were rotated");
}

#[test]
fn no_rotation_may_fail_but_one_of_unlock_keys_that_a_kill_cut_short() {
    let ended = |layer: &str, state: &str, detail: Value| json!({ "layer": layer, "state": state, "detail": detail });
    let cut_short = ended("unlock", "failed", "it was cut short: rotate unlock keys again".into());
    let rotator = |killed| Rotator::new(Client::new("http://127.0.0.1:1", None)).after_kills(killed);
    assert!(rotator(true).allowed(&cut_short).is_ok());
    assert!(deviates(rotator(false).allowed(&cut_short)), "nothing cut it short");
    for other in [
        ended("root", "failed", "it was cut short".into()),
        ended("unlock", "failed", "the new unlock keys are in use, and the root is still the one from before".into()),
        ended("unlock", "failed", Value::Null),
    ] {
        assert!(deviates(rotator(true).allowed(&other)), "{other}");
    }
    assert!(rotator(false).allowed(&ended("deks", "done", Value::Null)).is_ok());
}
