//! The log on disk: crashes, damage, moved bundles, keys that change; and that a check finds and places what is wrong.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::crypto::{LogKey, Random};
use crate::ids::VaultId;

const VAULT: VaultId = VaultId([7; 16]);

fn key() -> LogKey {
    LogKey::draw(&mut Random::for_keys(1))
}

fn entry(n: u64) -> Entry {
    Entry { count: Some(n), ..Entry::new(Action::Read, Outcome::Done) }
}

fn append(log: &Log, range: std::ops::Range<u64>) {
    for n in range {
        log.append(&[entry(n)]).unwrap();
    }
}

async fn settle(log: &Log) {
    log.durable(log.size()).await.unwrap();
    // Bundles are written right after.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
}

/// A log of some bundles and a journal, whose key was changed once; and its first key.
async fn made(dir: &Path, size: u64) -> String {
    let log = Log::open(dir).unwrap();
    let (first, second) = (key(), key());
    let trusted = log.vkey_of(VAULT, &first);
    log.unlock(VAULT, first).unwrap();
    append(&log, 0..size / 2);
    settle(&log).await;
    log.checkpoint().unwrap();
    let change = KeyChange { old: trusted.clone(), new: log.vkey_of(VAULT, &second) };
    log.append(&[Entry { log_key: Some(change), ..Entry::new(Action::LogKey, Outcome::Done) }]).unwrap();
    settle(&log).await;
    log.change_key(second).unwrap();
    append(&log, size / 2 + 1..size);
    settle(&log).await;
    log.checkpoint().unwrap();
    log.close();
    trusted
}

fn copy(from: &Path) -> TempDir {
    fn into(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for item in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let target = to.join(item.file_name());
            if item.file_type().unwrap().is_dir() {
                into(&item.path(), &target)
            } else {
                fs::copy(item.path(), target).unwrap();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    into(from, dir.path());
    dir
}

fn files_of(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for item in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if item.file_type().unwrap().is_dir() { files.extend(files_of(&item.path())) } else { files.push(item.path()) }
    }
    files.retain(|path| !path.ends_with("lock") && !path.ends_with("reserve"));
    files.retain(|path| fs::metadata(path).unwrap().len() > 0);
    files.sort();
    files
}

fn problems(dir: &Path, trusted: &str) -> Vec<String> {
    check(dir, Some(trusted), &|_, _| ()).unwrap().problems
}

#[tokio::test]
async fn a_whole_log_has_no_problems_and_goes_on_alike() {
    let dir = tempfile::tempdir().unwrap();
    let trusted = made(dir.path(), 700).await;
    let report = check(dir.path(), Some(&trusted), &|_, _| ()).unwrap();
    assert_eq!((report.size, report.signed, report.moved), (700, 700, 0));
    assert_eq!(report.problems, [""; 0]);
    assert_ne!(report.log_key.unwrap(), trusted, "the key was changed");
    let last = fs::read(dir.path().join("checkpoint")).unwrap();
    for round in 0..5 {
        let log = Log::open(dir.path()).unwrap();
        assert!(matches!(Log::open(dir.path()), Err(LogError::InUse { .. })));
        assert_eq!(log.size(), 700 + round * 3);
        assert_eq!(Entry::decode(&log.read(0, 1).unwrap()[0]).unwrap().count, Some(0));
        append(&log, log.size()..log.size() + 3);
        settle(&log).await;
        log.close();
        assert!(log.append(&[entry(0)]).is_err(), "closed");
    }
    // The heads of before are heads of this log, and one of another log is not.
    assert_eq!(check_two(dir.path(), [&last, &last]).unwrap(), [""; 0]);
    let other = tempfile::tempdir().unwrap();
    made(other.path(), 600).await;
    let foreign = fs::read(other.path().join("checkpoint")).unwrap();
    let told = check_two(dir.path(), [&last, &foreign]).unwrap();
    assert!(told.len() == 1 && told[0].contains("the second") && told[0].contains("600"), "{told:?}");
}

#[tokio::test]
async fn every_changed_byte_is_found_and_placed() {
    let dir = tempfile::tempdir().unwrap();
    let trusted = made(dir.path(), 600).await;
    let mut found = 0;
    for file in files_of(dir.path()) {
        let bytes = fs::read(&file).unwrap();
        let step = (bytes.len() / 40).max(1);
        for at in (0..bytes.len()).step_by(step).chain([bytes.len() - 1]) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            fs::write(&file, &changed).unwrap();
            let problems = problems(dir.path(), &trusted);
            let name = file.display().to_string();
            assert!(!problems.is_empty(), "byte {at} of {name}");
            if name.contains("entries") {
                let number: u64 = file.file_name().unwrap().to_str().unwrap().parse().unwrap();
                let placed = |told: &String| told.contains(&name) || told.contains(&format!("entry {}", number * 256));
                assert!(problems.iter().any(placed), "{at} of {name}: {problems:?}");
            }
            found += 1;
        }
        fs::write(&file, &bytes).unwrap();
    }
    assert!(found > 300, "{found}");
    assert_eq!(problems(dir.path(), &trusted), [""; 0]);
}

#[tokio::test]
async fn a_removed_entry_is_found_and_the_log_does_not_open_without_what_was_signed() {
    let dir = tempfile::tempdir().unwrap();
    let trusted = made(dir.path(), 600).await;
    // Out of a bundle.
    let first = copy(dir.path());
    let path = super::tree::bundle_path(first.path(), 1);
    let bytes = fs::read(&path).unwrap();
    let length = 2 + usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    fs::write(&path, &bytes[length..]).unwrap();
    let told = problems(first.path(), &trusted);
    assert!(told.iter().any(|told| told.contains("255 entries in place of 256")), "{told:?}");
    assert!(told.iter().any(|told| told.contains("entry 256 ")), "{told:?}");
    // Out of the end of the journal.
    let second = copy(dir.path());
    let journal = files_of(&second.path().join("journal")).pop().unwrap();
    let bytes = fs::read(&journal).unwrap();
    fs::write(&journal, &bytes[..bytes.len() - 20]).unwrap();
    assert!(problems(second.path(), &trusted).iter().any(|told| told.contains("checkpoint")));
    let refused = Log::open(second.path()).err().unwrap();
    assert!(matches!(refused, LogError::Damaged { index: 599, .. }), "{refused}");
    // A head signed by somebody else over the same entries.
    let third = copy(dir.path());
    fs::remove_file(third.path().join("checkpoint")).unwrap();
    let log = Log::open(third.path()).unwrap();
    log.unlock(VAULT, key()).unwrap();
    log.checkpoint().unwrap();
    log.close();
    assert!(problems(third.path(), &trusted).iter().any(|told| told.contains("not signed")));
}

#[tokio::test]
async fn a_torn_tail_that_nobody_was_told_of_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    append(&log, 0..200);
    settle(&log).await;
    log.close();
    let journal = files_of(&dir.path().join("journal")).pop().unwrap();
    let bytes = fs::read(&journal).unwrap();
    let mut ends = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        at += 8 + u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        ends.push(at);
    }
    for cut in ends[197]..bytes.len() {
        let torn = copy(dir.path());
        let path = torn.path().join("journal").join(journal.file_name().unwrap());
        fs::write(&path, &bytes[..cut]).unwrap();
        let whole = ends.iter().filter(|end| **end <= cut).count() as u64;
        let log = Log::open(torn.path()).unwrap();
        assert_eq!(log.size(), whole, "{cut}");
        append(&log, whole..whole + 1);
        settle(&log).await;
        assert_eq!(Entry::decode(&log.read(whole, 1).unwrap()[0]).unwrap().count, Some(whole));
        assert_eq!(log.read(0, 1000).unwrap().len() as u64, whole + 1);
    }
}

#[tokio::test]
async fn bundles_can_be_moved_away() {
    let dir = tempfile::tempdir().unwrap();
    let trusted = made(dir.path(), 700).await;
    let path = super::tree::bundle_path(dir.path(), 0);
    let kept = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let report = check(dir.path(), Some(&trusted), &|_, _| ()).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert_eq!((report.size, report.moved), (700, 256));
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.size(), 700);
    assert!(matches!(log.read(10, 1), Err(LogError::MovedAway { index: 0 })));
    // Proofs need the hashes only.
    assert!(!log.inclusion(10, 700).unwrap().is_empty());
    fs::write(&path, kept).unwrap();
    assert_eq!(log.read(10, 1).unwrap().len(), 1);
}

#[test]
fn many_append_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open_with(dir.path(), Sync::Entry).unwrap();
    assert!(log.sync_every_entry());
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let log = log.clone();
            std::thread::spawn(move || append(&log, thread * 1000..(thread + 1) * 1000))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(log.size(), 8000);
    let mut counts: Vec<u64> = Vec::new();
    log.scan(0..8000, |_, bytes| counts.push(Entry::decode(bytes).unwrap().count.unwrap())).unwrap();
    counts.sort_unstable();
    assert_eq!(counts, (0..8000).collect::<Vec<_>>());
    drop(log);
    let again = Log::open(dir.path()).unwrap();
    assert_eq!((again.size(), again.durable_size()), (8000, 8000));
    assert_eq!(again.tile("0/000").unwrap().unwrap().len(), 256 * 32);
    assert_eq!(again.tile("0/031.p/64").unwrap().unwrap().len(), 64 * 32);
    assert_eq!(again.tile("1/000.p/31").unwrap().unwrap().len(), 31 * 32);
    assert!(again.tile("entries/000").unwrap().unwrap().len() > 256 * 10);
    for none in ["0/032", "0/031", "1/000", "9/000", "entries/032", "x", "0/../../x", "00/000"] {
        assert_eq!(again.tile(none).unwrap(), None, "{none}");
    }
}
