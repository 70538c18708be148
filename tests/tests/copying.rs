//! A vault's store copied to another engine, or to a fresh one of the same: nothing is lost, whenever it is killed.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::thread;
use std::time::Instant;

use serde_json::json;
use vault_core::store::{DiskOptions, DiskStore, EngineName};

use crate::harness::{Finished, Vault, copy_dir, files_under, run, server_command};

const SUBJECTS: usize = 60;
const SHREDDED: &str = "s7";

fn sled_vault() -> Vault {
    Vault::configured_in(tempfile::tempdir().unwrap(), EngineName::Sled)
}

fn fill(vault: &Vault) {
    let running = vault.start();
    let fields = |n: usize| json!({ "name": format!("n{n}"), "device": { "n": "x".repeat(900) } });
    let items: Vec<_> = (0..SUBJECTS).map(|n| json!({ "subject": format!("s{n}"), "fields": fields(n) })).collect();
    running.admin.post("/v1/batch/write", &json!({ "items": items })).expect(200);
    running.admin.delete(&format!("/v1/subjects/{SHREDDED}")).expect(200);
    running.stop();
}

/// Everything is there, kept by `engine`, and the shredded stay so.
#[track_caller]
fn serves(vault: &Vault, engine: EngineName) {
    vault.verify().expect(0);
    let running = vault.start();
    assert_eq!(running.admin.get("/v1/status").expect(200).json()["store"]["engine"], engine.as_str());
    running.admin.get(&format!("/v1/subjects/{SHREDDED}")).problem(410, "shredded");
    for number in (0..SUBJECTS).filter(|number| format!("s{number}") != SHREDDED) {
        let read = running.admin.field(&format!("s{number}"), "name").expect(200).json();
        assert_eq!(read["value"], format!("n{number}"));
    }
    running.stop();
}

fn migrate_command(vault: &Vault, to: EngineName, more: &[&str]) -> std::process::Command {
    let mut command = server_command();
    command.args(["migrate", "--no-progress", "--to", to.as_str(), "--config"]).arg(vault.config()).args(more);
    command
}

fn migrate(vault: &Vault, to: EngineName, more: &[&str]) -> Finished {
    run(migrate_command(vault, to, more))
}

fn compact(vault: &Vault, more: &[&str]) -> Finished {
    let mut command = server_command();
    command.args(["compact", "--no-progress", "--data"]).arg(vault.data()).args(more);
    run(command)
}

fn store(vault: &Vault) -> PathBuf {
    vault.data().join("store")
}

fn beside(vault: &Vault, ending: &str) -> PathBuf {
    vault.data().join(format!("store{ending}"))
}

/// What there is beside the store.
fn left(vault: &Vault) -> Vec<String> {
    let names = fs::read_dir(vault.data()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut left: Vec<_> = names.filter(|name| name.starts_with("store.")).collect();
    left.sort();
    left
}

#[test]
fn a_vault_moves_to_the_other_engine_and_back() {
    let vault = sled_vault();
    fill(&vault);
    serves(&vault, EngineName::Sled);

    // Configured only, it is refused and told what to do.
    vault.set_engine(EngineName::Fjall);
    vault.refusal().says("made by sled").says("vault-server migrate --to fjall");
    vault.set_engine(EngineName::Sled);
    let moved = migrate(&vault, EngineName::Fjall, &[]).expect(0);
    assert!(moved.out.contains("engine = \"fjall\"") && moved.out.contains("no key opens them"), "{}", moved.out);
    assert_eq!(left(&vault), ["store.old-sled"]);
    vault.refusal().says("made by fjall");
    vault.set_engine(EngineName::Fjall);
    serves(&vault, EngineName::Fjall);

    let again = migrate(&vault, EngineName::Fjall, &[]).expect(0);
    assert!(again.out.contains("by fjall already") && again.out.contains("--remove"), "{}", again.out);
    let removed = migrate(&vault, EngineName::Fjall, &["--remove"]).expect(0);
    assert!(removed.out.contains("removed"), "{}", removed.out);
    assert_eq!(left(&vault), Vec::<String>::new());

    let back = migrate(&vault, EngineName::Sled, &["--remove"]).expect(0);
    assert!(back.out.contains("engine = \"sled\""), "{}", back.out);
    assert_eq!(left(&vault), Vec::<String>::new());
    vault.set_engine(EngineName::Sled);
    serves(&vault, EngineName::Sled);
    assert!(!store(&vault).join("copy").exists(), "the store is no copy any more");

    // There and back leaves two.
    migrate(&vault, EngineName::Fjall, &[]).expect(0);
    migrate(&vault, EngineName::Sled, &["--remove"]).expect(0);
    assert_eq!(left(&vault), Vec::<String>::new());
    serves(&vault, EngineName::Sled);
}

/// What an engine makes of a store that lost its rows is none to take its place.
#[test]
fn a_store_without_its_vault_is_not_copied_and_nothing_is_removed() {
    for engine in [EngineName::Sled, EngineName::Fjall] {
        let vault = Vault::configured_in(tempfile::tempdir().unwrap(), engine);
        fill(&vault);
        let place = store(&vault);
        let kept = vault.root().join("kept");
        fs::rename(&place, &kept).unwrap();
        fs::create_dir(&place).unwrap();
        // Empty, as the engine makes one.
        let options = DiskOptions { cache_bytes: 1 << 20, reserve_bytes: 0, min_free_bytes: 0 };
        drop(DiskStore::open(engine, &place, options).unwrap());
        let other = if engine == EngineName::Sled { EngineName::Fjall } else { EngineName::Sled };
        compact(&vault, &["--remove"]).refused(1, "there is no vault in");
        migrate(&vault, other, &["--remove"]).refused(1, "there is no vault in");
        assert_eq!(left(&vault), Vec::<String>::new());
        fs::remove_dir_all(&place).unwrap();
        fs::rename(&kept, &place).unwrap();
        compact(&vault, &["--remove"]).expect(0);
        serves(&vault, engine);
    }
}

#[test]
fn an_old_store_in_the_way_and_a_running_server_are_told() {
    let vault = sled_vault();
    fill(&vault);
    let old = beside(&vault, ".old-sled");
    fs::create_dir(&old).unwrap();
    migrate(&vault, EngineName::Fjall, &[]).refused(1, "store.old-sled is left of an earlier call");
    fs::remove_dir(&old).unwrap();
    let running = vault.start();
    migrate(&vault, EngineName::Fjall, &[]).refused(1, "Only a stopped vault");
    compact(&vault, &[]).refused(1, "Only a stopped vault");
    running.stop();
    let mut nowhere = server_command();
    nowhere.args(["compact", "--data"]).arg(vault.root());
    run(nowhere).refused(1, "there is no store");
    let mut unknown = server_command();
    unknown.args(["migrate", "--to", "rocksdb", "--config"]).arg(vault.config());
    run(unknown).refused(2, "sled and fjall");
    assert_eq!(left(&vault), Vec::<String>::new());
    serves(&vault, EngineName::Sled);
}

#[test]
fn without_room_for_a_copy_the_store_stays_as_it_is() {
    let vault = sled_vault();
    fill(&vault);
    let mut command = migrate_command(&vault, EngineName::Fjall, &[]);
    command.env("UDV_STORE__MIN_FREE_MIB", "999999999");
    run(command).refused(1, "has not room for a copy");
    assert_eq!(left(&vault), Vec::<String>::new());
    serves(&vault, EngineName::Sled);
}

#[test]
fn whatever_a_kill_leaves_is_put_in_order() {
    let vault = sled_vault();
    fill(&vault);
    let (store, new, old) = (store(&vault), beside(&vault, ".new"), beside(&vault, ".old-sled"));

    // While copying: half a copy, and half of one that was being removed.
    copy_dir(&store, &new);
    fs::write(new.join("copy"), "").unwrap();
    fs::create_dir(beside(&vault, ".gone")).unwrap();
    serves(&vault, EngineName::Sled);
    migrate(&vault, EngineName::Fjall, &[]).expect(0);
    assert_eq!(left(&vault), ["store.old-sled"]);

    // When they had changed places, before the old one got its name.
    fs::rename(&old, &new).unwrap();
    fs::write(store.join("copy"), "").unwrap();
    vault.set_engine(EngineName::Fjall);
    serves(&vault, EngineName::Fjall);
    assert!(migrate(&vault, EngineName::Fjall, &[]).expect(0).out.contains("store.old-sled"));
    assert!(old.join("db").is_file() && !new.exists() && !store.join("copy").exists());

    // Between two renames, where a filesystem cannot change places at once.
    fs::rename(&store, &new).unwrap();
    fs::write(new.join("copy"), "").unwrap();
    vault.refusal().says("no store");
    migrate(&vault, EngineName::Fjall, &["--remove"]).expect(0);
    assert_eq!(left(&vault), Vec::<String>::new());
    serves(&vault, EngineName::Fjall);
}

#[test]
fn a_copy_that_is_killed_loses_nothing() {
    let vault = sled_vault();
    fill(&vault);
    let whole = Instant::now();
    migrate(&vault, EngineName::Fjall, &["--remove"]).expect(0);
    let whole = whole.elapsed();
    let mut moves = 0;
    for kill in 1..=12_u32 {
        let engine = EngineName::found_in(&store(&vault)).unwrap();
        let to = if engine == EngineName::Sled { EngineName::Fjall } else { EngineName::Sled };
        let mut command = migrate_command(&vault, to, &[]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(whole * kill / 16);
        let _ = child.kill();
        child.wait().unwrap();

        let found = EngineName::found_in(&store(&vault)).unwrap();
        moves += u32::from(found == to);
        vault.verify().expect(0);
        migrate(&vault, found, &["--remove"]).expect(0);
        assert_eq!(left(&vault), Vec::<String>::new());
    }
    eprintln!("of 12 killed copies {moves} had come to their end; a whole one takes {whole:?}");
    let engine = EngineName::found_in(&store(&vault)).unwrap();
    vault.set_engine(engine);
    serves(&vault, engine);
}

#[test]
fn compacting_gives_back_what_was_removed() {
    for engine in [EngineName::Sled, EngineName::Fjall] {
        let vault = Vault::configured_in(tempfile::tempdir().unwrap(), engine);
        fill(&vault);
        let before = files_under(&store(&vault)).len();
        let done = compact(&vault, &[]).expect(0);
        assert!(done.out.contains("the store took ") && done.out.contains("compact --data"), "{}", done.out);
        assert_eq!(left(&vault), [format!("store.old-{engine}")]);
        assert!(before > 2 && files_under(&beside(&vault, &format!(".old-{engine}"))).len() > 2);
        compact(&vault, &[]).refused(1, "is left of an earlier call");
        serves(&vault, engine);
        assert!(compact(&vault, &["--remove"]).expect(0).out.contains("removed"));
        assert_eq!(left(&vault), Vec::<String>::new());
        compact(&vault, &["--remove"]).expect(0);
        assert_eq!(left(&vault), Vec::<String>::new());
        serves(&vault, engine);
    }
}
