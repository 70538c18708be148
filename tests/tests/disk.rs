//! A full disk: writes are refused whole, reads and shreds go on, and all is well once there is room again.

use std::fs::{self, File};
use std::io::Write;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use serde_json::json;
use tempfile::TempDir;
use vault_core::store::EngineName;

use crate::harness::{Running, Vault, skip, wait_for};

/// A small disk of its own, taken away when dropped.
struct Disk(TempDir);

impl Disk {
    /// None where this may not be done.
    fn mount() -> Option<Self> {
        let disk = Self(tempfile::tempdir().unwrap());
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=160m", "tmpfs"]).arg(disk.0.path()).output();
        mount.is_ok_and(|mount| mount.status.success()).then_some(disk)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file until nothing more fits.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = File::create(&path).unwrap();
        for size in [1 << 20, 4096] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn refuses_writes(running: &Running) {
    let admin = &running.admin;
    for number in 0..20 {
        let body = json!({ "name": "n".repeat(300), "phone": format!("+9715012{number:05}") });
        admin.set(&format!("refused-{number}"), &body).problem(507, "disk_full");
    }
    admin.set("a", &json!({ "name": "changed" })).problem(507, "disk_full");
    admin.put("/v1/subjects/a/fields/name", &json!({ "value": "changed" })).problem(507, "disk_full");
    let item = |n: usize| json!({ "subject": format!("refused-b{n}"), "fields": { "name": "n" } });
    let items: Vec<_> = (0..10).map(item).collect();
    let answer = admin.post("/v1/batch/write", &json!({ "items": items }));
    if answer.status == 200 {
        let results = answer.json()["results"].clone();
        assert!(results.as_array().unwrap().iter().all(|result| result["status"] == 507), "{results}");
    } else {
        answer.problem(507, "disk_full");
    }
}

fn nothing_half_written(running: &Running) {
    for number in 0..10 {
        running.admin.get(&format!("/v1/subjects/refused-{number}")).problem(404, "unknown_subject");
        running.admin.get(&format!("/v1/subjects/refused-b{number}")).problem(404, "unknown_subject");
        let lookup = json!({ "field": "phone", "value": format!("+9715012{number:05}") });
        assert_eq!(running.admin.find(&lookup), Vec::<String>::new());
    }
    assert_eq!(running.admin.field("a", "name").expect(200).json()["value"], "before");
}

/// Shreds beside others that go on trying to write.
fn are_final_beside_writes(running: &Running, subjects: &[String]) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let admin = running.admin.clone();
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    admin.set("a", &json!({ "name": "changed" })).problem(507, "disk_full");
                }
            });
        }
        let shreds = panic::catch_unwind(AssertUnwindSafe(|| subjects.iter().for_each(|s| is_final(running, s))));
        over.store(true, Ordering::Relaxed);
        shreds.unwrap();
    });
}

fn is_final(running: &Running, subject: &str) {
    let answer = running.admin.delete(&format!("/v1/subjects/{subject}"));
    assert!([200, 202].contains(&answer.status), "{}", answer.body);
    let path = format!("/v1/erasures/{}", answer.json()["id"].as_str().unwrap());
    wait_for("the shred on a full disk to be final", || {
        (running.admin.get(&path).expect(200).json()["state"] == "final").then_some(())
    });
    running.admin.get(&format!("/v1/subjects/{subject}")).problem(410, "shredded");
}

#[test]
fn a_full_disk_refuses_writes_and_still_forgets() {
    fill_and_free(EngineName::Sled);
}

#[test]
fn a_full_disk_refuses_writes_and_still_forgets_with_fjall() {
    fill_and_free(EngineName::Fjall);
}

fn fill_and_free(engine: EngineName) {
    let Some(disk) = Disk::mount() else {
        return skip("needs to mount a tmpfs");
    };
    let vault = Vault::configured_in(tempfile::tempdir_in(disk.path()).unwrap(), engine);
    let text = fs::read_to_string(vault.config()).unwrap();
    let text =
        text.replace("min_free_mib = 1\n", "min_free_mib = 24\n").replace("reserve_mib = 1\n", "reserve_mib = 32\n");
    fs::write(vault.config(), text).unwrap();
    let running = vault.start();
    for id in ["a", "b", "c", "d"] {
        running.admin.set(id, &json!({ "name": "before", "email": format!("{id}@example.org") })).expect(201);
    }

    let many: Vec<String> = (0..30).map(|n| format!("s{n}")).collect();
    for id in &many {
        running.admin.set(id, &json!({ "name": "before" })).expect(201);
    }

    let filler = disk.fill();
    refuses_writes(&running);
    nothing_half_written(&running);
    assert_eq!(running.admin.get("/v1/status").expect(200).json()["store"]["state"], "full");
    is_final(&running, "b");
    is_final(&running, "c");
    are_final_beside_writes(&running, &many);
    assert_eq!(running.admin.find(&json!({ "field": "email", "value": "b@example.org" })), Vec::<String>::new());
    assert_eq!(running.admin.find(&json!({ "field": "email", "value": "d@example.org" })), ["d"]);
    refuses_writes(&running);
    running.stop();

    // It starts on the full disk, too, and remembers.
    let running = vault.start();
    running.admin.get("/v1/subjects/b").problem(410, "shredded");
    nothing_half_written(&running);
    refuses_writes(&running);

    fs::remove_file(filler).unwrap();
    running.admin.set("a", &json!({ "name": "after" })).expect(200);
    running.admin.set("e", &json!({ "name": "new" })).expect(201);
    assert_eq!(running.admin.get("/v1/status").expect(200).json()["store"]["state"], "ok");
    running.stop();
    let running = vault.start();
    assert_eq!(running.admin.field("a", "name").expect(200).json()["value"], "after");
    running.admin.get("/v1/subjects/c").problem(410, "shredded");
    running.stop();
    vault.verify().expect(0);
}

#[test]
fn a_full_disk_of_the_audit_log_is_left_to_reading_and_forgetting_and_locks_all_the_same() {
    let Some(disk) = Disk::mount() else {
        return skip("needs to mount a tmpfs");
    };
    let vault = Vault::configured();
    let audit = disk.path().join("audit");
    let moved = Command::new("cp").arg("-a").arg(vault.root().join("data/audit")).arg(&audit).status();
    assert!(moved.unwrap().success());
    vault.configure(&format!("[audit]\ndir = {audit:?}\n"));
    let running = vault.start();
    let admin = &running.admin;
    for id in ["a", "b", "c"] {
        admin.set(id, &json!({ "name": "before" })).expect(201);
    }

    let first = Instant::now();
    let filler = disk.fill();
    // What is left of the last page, then what is kept back, which takes one entry of a write at most.
    let write = |number: usize| admin.set("a", &json!({ "name": number.to_string() }));
    let taken = (0..100).take_while(|number| write(*number).status == 200).count();
    assert!(taken < 100, "the disk is not full");
    write(taken).problem(507, "disk_full");
    assert_eq!(admin.field("a", "name").expect(200).json()["value"], (taken - 1).to_string());
    is_final(&running, "b");
    admin.post("/v1/tokens", &json!({ "items": [{ "subject": "a", "field": "name" }] })).problem(507, "disk_full");

    // It goes on by itself once there is room.
    fs::remove_file(filler).unwrap();
    wait_for("room to be kept back again", || (write(1000).status == 200).then_some(()));

    // Without what was kept back there is no reading either; locking is done and not acknowledged.
    let filler = disk.fill();
    let last = (1001..1100).take_while(|number| write(*number).status == 200).last().unwrap_or(1000).to_string();
    let more = disk.path().join("more");
    fs::rename(&filler, &more).unwrap();
    let other = disk.fill();
    let refused = wait_for("no room for an entry", || {
        let answer = admin.field("a", "name");
        (answer.status != 200).then_some(answer)
    });
    // Nothing was done that could be looked for.
    assert!(!refused.body.contains("is done already"), "{}", refused.body);
    refused.problem(507, "disk_full");
    // Who sends much is told as well, and the operator not for each.
    for _ in 0..100 {
        admin.set("a", &json!({ "name": "n".repeat(60 << 10) })).problem(507, "disk_full");
    }
    let locked = admin.send("POST", "/v1/lock", &[], None);
    assert!(locked.body.contains("is done already"), "{}", locked.body);
    locked.problem(507, "disk_full");
    running.nobody().get("/readyz").expect(503);
    [more, other].iter().for_each(|filler| fs::remove_file(filler).unwrap());
    let log = running.stop();
    let told = log.lines().filter(|line| line.contains("ERROR") && line.contains("disk_full")).count();
    let at_most = usize::try_from(first.elapsed().as_secs()).unwrap() + 1;
    assert!((1..=at_most).contains(&told), "{told} lines, of at most {at_most}");

    let running = vault.start();
    assert_eq!(running.admin.field("a", "name").expect(200).json()["value"], last);
    running.admin.get("/v1/subjects/b").problem(410, "shredded");
    running.admin.set("a", &json!({ "name": "after" })).expect(200);
    running.stop();
    vault.verify_as_configured().expect(0);
}
