//! What must fail under the same layer: files that are never synced, and a store that trusts sled's `flush`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use vault_core::store::{Batch, DiskOptions, DiskStore, EngineName, Store};

use super::disk::{Disk, Loss};
use super::journal::{Journal, length, watched};
use super::make_dir;
use crate::harness::{Choices, run, seed};

/// Images of a store.
const IMAGES: u64 = 30;
/// Images in which everything must be seen that can happen to a file.
const SMALL_IMAGES: u64 = 300;
const ROWS: u32 = 60;

/// Where a writer that runs under the tracer finds its directory, and beside it the journal.
const PLACE: &str = "UDV_TEST_CONTROL";
/// Which writer it is.
const WRITER: &str = "UDV_TEST_CONTROL_WRITER";

/// Runs a command on an empty directory, watched. Answers its output, and what it did.
fn watch(place: &TempDir, command: &Command) -> (String, Disk, Journal) {
    let (data, journal) = (make_dir(place), place.path().join("journal"));
    let disk = Disk::holding(&data);
    let out = run(watched(command, &journal, &data)).expect(0).out;
    (out, disk, Journal::read(&journal, &data))
}

fn image(disk: &Disk, journal: &Journal, choices: &mut Choices) -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let data = make_dir(&root);
    disk.image(Loss::choose(choices), choices, journal, &data);
    (root, data)
}

#[test]
fn what_is_not_synced_is_lost_in_some_images_and_what_is_in_none() {
    let place = tempfile::tempdir().unwrap();
    let mut shell = Command::new("sh");
    shell.current_dir(place.path()).args([
        "-c",
        "yes synced | head -c 20000 > data/synced && sync data/synced && mkdir data/d && echo first > data/d/name \
         && sync data/d/name data/d data && yes written | head -c 20000 > data/written && echo second > data/d/new \
         && sync data/d/new && mv data/d/new data/d/name && rm data/synced && echo new > data/unnamed && sync data/unnamed",
    ]);
    let (_, mut disk, journal) = watch(&place, &shell);
    disk.follow(&journal, 0..journal.records.len());
    disk.is_as_in(&place.path().join("data"), &journal);
    let whole = "written\n".repeat(2500).into_bytes();
    let mut choices = Choices::new(seed());
    let mut seen = BTreeSet::new();
    for _ in 0..SMALL_IMAGES {
        let (_root, data) = image(&disk, &journal, &mut choices);
        match fs::read(data.join("written")) {
            Err(_) => seen.insert("no name"),
            Ok(bytes) if bytes == whole => seen.insert("whole"),
            Ok(bytes) if bytes.is_empty() => seen.insert("empty"),
            Ok(bytes) if bytes.len() == whole.len() => seen.insert("torn"),
            Ok(_) => seen.insert("short"),
        };
        match fs::read(data.join("synced")) {
            Err(_) => seen.insert("removed"),
            Ok(bytes) => {
                assert_eq!(bytes, &"synced\n".repeat(2858).as_bytes()[..20000]);
                seen.insert("not removed")
            }
        };
        let name = fs::read_to_string(data.join("d/name")).unwrap();
        assert!(["first\n", "second\n"].contains(&name.as_str()), "{name:?}: a rename is done or not done");
        seen.insert(if name == "first\n" { "not renamed" } else { "renamed" });
        seen.insert(if data.join("unnamed").exists() { "named" } else { "synced, and no name" });
    }
    for expected in
        ["no name", "whole", "torn", "removed", "not removed", "not renamed", "renamed", "named", "synced, and no name"]
    {
        assert!(seen.contains(expected), "in no image: {expected}; there were {seen:?}");
    }
}

#[test]
fn a_store_that_trusts_a_bare_flush_loses_what_it_acknowledged() {
    let lost = rows_lost("bare");
    assert!(lost > 0, "a bare flush lost nothing: this layer drops nothing");
    assert_eq!(rows_lost("vault"), 0);
}

/// How many images lack a row that was acknowledged before.
fn rows_lost(writer: &str) -> u64 {
    let place = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["power::control::writes_rows", "--exact", "--ignored", "--nocapture"]);
    command.env(PLACE, place.path()).env(WRITER, writer);
    let (out, mut disk, journal) = watch(&place, &command);
    let told = out.lines().filter_map(|line| line.strip_prefix("acknowledged at "));
    let told: Vec<usize> = told.map(|at| at.parse().unwrap()).collect();
    assert_eq!(told.len(), ROWS as usize, "{out}");

    let seed = seed();
    let mut choices = Choices::new(seed);
    let first = journal.records.partition_point(|record| record.end <= told[0]);
    let later = (journal.records.len() - first) as u64;
    let mut cuts: Vec<_> = (0..IMAGES).map(|_| first + choices.below(later) as usize).collect();
    cuts.sort_unstable();
    let (mut done, mut lost) = (0, 0);
    for at in cuts {
        disk.follow(&journal, done..at);
        done = at;
        let (_root, data) = image(&disk, &journal, &mut choices);
        let known = told.partition_point(|told| *told <= journal.records[at - 1].end);
        lost += u64::from(!holds(&data, known as u32));
    }
    eprintln!("power losses, {writer} writer: seed {seed}, {lost} of {IMAGES} images lack what was acknowledged");
    lost
}

/// Whether a store opens and has the first rows.
fn holds(data: &Path, rows: u32) -> bool {
    block_on(async {
        let Ok(store) = open(data) else { return false };
        let mut all = true;
        for row in 0..rows {
            all &= store
                .get(&row.to_be_bytes())
                .await
                .is_ok_and(|value| value.is_some_and(|value| value == value_of(row)));
        }
        let _ = store.close().await;
        all
    })
}

fn open(data: &Path) -> Result<DiskStore, vault_core::store::StoreError> {
    let options = DiskOptions { cache_bytes: 1 << 20, reserve_bytes: 0, min_free_bytes: 0 };
    DiskStore::open(EngineName::Sled, &data.join("store"), options)
}

fn value_of(row: u32) -> Vec<u8> {
    row.to_be_bytes().repeat(200)
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(work)
}

#[test]
#[ignore = "a writer that other tests run under the tracer"]
fn writes_rows() {
    let Ok(place) = std::env::var(PLACE) else { return };
    let (data, journal) = (Path::new(&place).join("data"), Path::new(&place).join("journal"));
    let acknowledge = || println!("\nacknowledged at {}", length(&journal));
    if std::env::var(WRITER).unwrap() == "bare" {
        let dir = data.join("store");
        // Its names are durable: it is the flush that is tried.
        fs::create_dir(&dir).unwrap();
        File::open(&data).unwrap().sync_all().unwrap();
        let config = sled::Config::new().path(&dir).flush_every_ms(None).segment_size(8 << 20);
        let store = config.mode(sled::Mode::HighThroughput).open().unwrap();
        File::open(dir).unwrap().sync_all().unwrap();
        for row in 0..ROWS {
            store.insert(row.to_be_bytes(), value_of(row)).unwrap();
            store.flush().unwrap();
            acknowledge();
        }
        return;
    }
    block_on(async {
        let store = open(&data).unwrap();
        for row in 0..ROWS {
            let put = vec![(row.to_be_bytes().to_vec(), value_of(row))];
            store.commit(Batch { put, ..Batch::default() }).await.unwrap();
            acknowledge();
        }
        store.close().await.unwrap();
    });
}
