//! The log on disk: crashes, many that append, tiles as they are handed out.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::crypto::{LogKey, Random};
use crate::ids::VaultId;

pub(super) const VAULT: VaultId = VaultId([7; 16]);

pub(super) fn key() -> LogKey {
    LogKey::draw(&mut Random::for_keys(1))
}

pub(super) fn entry(n: u64) -> Entry {
    Entry { count: Some(n), ..Entry::new(Action::Read, Outcome::Done) }
}

pub(super) fn append(log: &Log, range: std::ops::Range<u64>) {
    for n in range {
        log.append(&[entry(n)]).unwrap();
    }
}

pub(super) async fn settle(log: &Log) {
    log.durable(log.size()).await.unwrap();
    // Bundles are written right after.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
}

/// A log of some bundles and a journal, whose key was changed once; and its first key.
pub(super) async fn made(dir: &Path, size: u64) -> String {
    let log = Log::open(dir).unwrap();
    let (first, second) = (key(), key());
    let trusted = Log::vkey_of(VAULT, &first);
    log.unlock(VAULT, first).unwrap();
    append(&log, 0..size / 2);
    settle(&log).await;
    log.checkpoint().unwrap();
    let change = KeyChange { old: trusted.clone(), new: Log::vkey_of(VAULT, &second) };
    log.append(&[Entry { log_key: Some(change), ..Entry::new(Action::LogKey, Outcome::Done) }]).unwrap();
    settle(&log).await;
    log.change_key(second).unwrap();
    append(&log, size / 2 + 1..size);
    settle(&log).await;
    log.checkpoint().unwrap();
    log.close();
    trusted
}

pub(super) fn copy(from: &Path) -> TempDir {
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

pub(super) fn files_of(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for item in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if item.file_type().unwrap().is_dir() { files.extend(files_of(&item.path())) } else { files.push(item.path()) }
    }
    files.retain(|path| !path.ends_with("lock") && !path.ends_with("reserve"));
    files.retain(|path| fs::metadata(path).unwrap().len() > 0);
    files.sort();
    files
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

/// Until it takes entries again, or not any more.
async fn until(log: &Log, takes: bool) {
    for _ in 0..500 {
        if log.takes_entries() == takes {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("it does not become {takes}");
}

#[tokio::test]
async fn nothing_is_taken_while_the_journal_is_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let (place, away) = (dir.path().join("audit"), dir.path().join("away"));
    let log = Log::open(&place).unwrap();
    log.unlock(VAULT, key()).unwrap();
    append(&log, 0..300);
    settle(&log).await;
    fs::rename(&place, &away).unwrap();
    let refused = log.append(&[entry(300)]).unwrap_err().to_string();
    assert!(refused.contains("put it back"), "{refused}");
    until(&log, false).await;
    // The thread has had its turns, and made nothing in its place.
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert!(!place.exists());
    fs::rename(&away, &place).unwrap();
    until(&log, true).await;
    append(&log, 300..301);
    settle(&log).await;
    log.close();
    let log = Log::open(&place).unwrap();
    assert_eq!(log.size(), 301);
    log.close();

    // Another file of that name is not the journal either.
    let log = Log::open(&place).unwrap();
    fs::remove_dir_all(place.join("journal")).unwrap();
    fs::create_dir(place.join("journal")).unwrap();
    fs::write(place.join("journal/0000000000000000"), "").unwrap();
    log.append(&[entry(301)]).unwrap_err();
}

/// At a turn-over, say, when it was there a moment before.
#[tokio::test]
async fn no_segment_follows_one_that_is_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, away) = (dir.path().join("journal"), dir.path().join("away"));
    let log = Log::open(dir.path()).unwrap();
    append(&log, 0..10);
    settle(&log).await;
    fs::rename(&journal, &away).unwrap();
    log.inner().state().segment.next(dir.path(), 10).err().unwrap();
    assert!(!journal.exists());
    fs::create_dir(&journal).unwrap();
    let refused = log.inner().state().segment.next(dir.path(), 10).err().unwrap();
    assert!(refused.to_string().contains("put it back"), "{refused}");
    assert_eq!(fs::read_dir(&journal).unwrap().count(), 0, "it leaves none behind");
    fs::remove_dir(&journal).unwrap();
    fs::rename(away, journal).unwrap();
    append(&log, 10..12);
    settle(&log).await;
    log.close();
    assert_eq!(Log::open(dir.path()).unwrap().size(), 12);
}

/// Somebody who tidies up by hand: what the journal still has to do goes on.
#[tokio::test]
async fn a_segment_that_was_taken_away_stops_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    append(&log, 0..100);
    settle(&log).await;
    log.inner().state().older.push_front((dir.path().join("journal/gone"), 50));
    let waits = || log.inner().state().older.iter().any(|(path, _)| path.ends_with("gone"));
    // It is in the way of the turn-over, and of nothing else.
    log.inner().failing.store(true, std::sync::atomic::Ordering::Relaxed);
    until(&log, true).await;
    append(&log, 100..600);
    for _ in 0..100 {
        settle(&log).await;
        if !waits() {
            break;
        }
    }
    assert!(!waits(), "it is forgotten once its entries lie in tiles");
    log.close();
    assert_eq!(Log::open(dir.path()).unwrap().size(), 600);
}

/// A disk that became read-only, say: neither writing nor cutting off works for a while.
#[tokio::test]
async fn a_write_that_cannot_be_taken_back_is_so_later() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    append(&log, 0..3);
    let unwritable = {
        let mut state = log.inner().state();
        let file = std::sync::Arc::new(fs::File::open(&state.segment.path).unwrap());
        std::mem::replace(&mut state.segment.file, file)
    };
    for _ in 0..2 {
        log.append(&[entry(3)]).unwrap_err();
    }
    assert!(!log.takes_entries());
    // What a write left behind half way.
    (&*unwritable).write_all(b"half a frame").unwrap();
    log.inner().state().segment.file = unwritable;
    until(&log, true).await;
    append(&log, 3..5);
    settle(&log).await;
    log.close();
    let log = Log::open(dir.path()).unwrap();
    let counts: Vec<_> = log.read(0, 9).unwrap().iter().map(|line| Entry::decode(line).unwrap().count).collect();
    assert_eq!(counts, (0..5).map(Some).collect::<Vec<_>>());
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

/// Segments turn over after a few hundred entries here, so that the copies come from between all of its steps.
#[tokio::test]
async fn wherever_a_crash_comes_the_log_goes_on_with_the_same_tree() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    log.unlock(VAULT, key()).unwrap();
    let mut segments: Vec<(std::ffi::OsString, Vec<u8>)> = Vec::new();
    let mut gone = 0;
    for step in 0..16 {
        append(&log, step * 97..(step + 1) * 97);
        settle(&log).await;
        let head = log.checkpoint().unwrap();
        let crashed = copy(dir.path());
        let journal = crashed.path().join("journal");
        // Segments whose entries lie in tiles, as if the crash had come before they were removed.
        for (name, bytes) in &segments {
            if !journal.join(name).exists() {
                fs::write(journal.join(name), bytes).unwrap();
                gone += 1;
            }
        }
        for path in files_of(&journal) {
            let name = path.file_name().unwrap().to_owned();
            segments.retain(|(known, _)| *known != name);
            segments.push((name, fs::read(&path).unwrap()));
        }
        let again = Log::open(crashed.path()).unwrap();
        let size = log.size();
        assert_eq!((again.size(), again.checkpoint().unwrap()), (size, head), "{step}");
        assert_eq!(again.consistency(size / 2, size), log.consistency(size / 2, size));
        append(&again, size..size + 300);
        settle(&again).await;
        assert_eq!(again.read(0, usize::MAX).unwrap().len() as u64, size + 300);
        again.close();
        assert_eq!(check(crashed.path(), None, &|_, _| ()).unwrap().problems, [""; 0], "{step}");
    }
    assert!(gone > 3, "segments turned over: {gone}");
}

#[tokio::test]
async fn a_segment_that_was_begun_and_not_used_is_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    append(&log, 0..100);
    settle(&log).await;
    log.close();
    // The turn-over failed, and the segment before went on.
    fs::write(dir.path().join("journal").join(format!("{:016x}", 60)), b"").unwrap();
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.size(), 100);
    append(&log, 100..101);
    settle(&log).await;
    log.close();
    assert_eq!(Log::open(dir.path()).unwrap().size(), 101);
    // Nor is it once the segments before it are gone.
    let log = Log::open(dir.path()).unwrap();
    append(&log, 101..4000);
    for _ in 0..100 {
        settle(&log).await;
        if !dir.path().join("journal").join(format!("{:016x}", 0)).exists() {
            break;
        }
        append(&log, log.size()..log.size() + 300);
    }
    let size = log.size();
    log.close();
    let left = fs::read_dir(dir.path().join("journal")).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = left.map(|name| name.into_string().unwrap()).collect();
    assert!(left.contains(&format!("{:016x}", 60)) && !left.contains(&format!("{:016x}", 0)), "{left:?}");
    let log = Log::open(dir.path()).unwrap();
    assert_eq!(log.size(), size);
    log.close();
    // One with something in it is not passed over.
    fs::write(dir.path().join("journal").join(format!("{:016x}", 60)), b"x").unwrap();
    assert!(matches!(Log::open(dir.path()), Err(LogError::Damaged { .. })));
}
