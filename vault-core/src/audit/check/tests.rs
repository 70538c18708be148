//! A check finds what is wrong and says where; what a crash leaves, or what was moved away, is not wrong.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use super::super::log_tests::{VAULT, append, copy, entry, files_of, key, made, settle};
use super::super::tree::bundle_path;
use super::super::{Action, Log, Outcome, is_continued, next_key, signed_size, size_of};
use super::*;

fn report(dir: &Path, trusted: Option<&str>) -> LogReport {
    check(dir, trusted, &|_, _| ()).unwrap()
}

fn problems(dir: &Path, trusted: &str) -> Vec<String> {
    report(dir, Some(trusted)).problems
}

/// What does not fit, with heads that somebody kept.
fn kept(dir: &Path, heads: &[(&str, &[u8])]) -> Vec<String> {
    let heads: Vec<KeptHead> = heads.iter().map(|(name, head)| ((*name).to_owned(), head.to_vec())).collect();
    check_with(dir, None, &heads, &|_, _| ()).unwrap().problems
}

fn told(problems: &[String], words: &str) -> bool {
    problems.iter().any(|told| told.contains(words))
}

fn change_entry(old: &str, new: &str) -> Entry {
    let change = KeyChange { old: old.to_owned(), new: new.to_owned() };
    Entry { log_key: Some(change), ..Entry::new(Action::LogKey, Outcome::Done) }
}

/// The bytes with one stretch of them replaced.
fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let at = bytes.windows(old.len()).position(|window| window == old).unwrap();
    [&bytes[..at], new, &bytes[at + old.len()..]].concat()
}

#[tokio::test]
async fn a_whole_log_has_no_problems_and_goes_on_alike() {
    let dir = tempfile::tempdir().unwrap();
    let trusted = made(dir.path(), 700).await;
    let seen = report(dir.path(), Some(&trusted));
    assert_eq!((seen.size, seen.signed, seen.moved), (700, 700, 0));
    assert_eq!(seen.problems, [""; 0]);
    let present = seen.log_key.clone().unwrap();
    assert_ne!(present, trusted, "the key was changed");
    // Any of its keys will do, and none as well; one of another log does not.
    for given in [Some(present.as_str()), None] {
        assert_eq!(report(dir.path(), given), seen);
    }
    let other = Log::vkey_of(VAULT, &key());
    assert!(told(&problems(dir.path(), &other), "none of this log's keys"));
    for round in 0..5 {
        let log = Log::open(dir.path()).unwrap();
        assert!(matches!(Log::open(dir.path()), Err(LogError::InUse { .. })));
        assert!(matches!(check(dir.path(), None, &|_, _| ()), Err(LogError::InUse { .. })));
        assert_eq!(log.size(), 700 + round * 3);
        assert_eq!(Entry::decode(&log.read(0, 1).unwrap()[0]).unwrap().count, Some(0));
        append(&log, log.size()..log.size() + 3);
        settle(&log).await;
        log.close();
        assert!(log.append(&[entry(0)]).is_err(), "closed");
        drop(log);
        assert_eq!(problems(dir.path(), &trusted), [""; 0], "entries that are not signed yet are no problem");
    }
}

#[tokio::test]
async fn every_changed_byte_is_found_and_placed() {
    let dir = tempfile::tempdir().unwrap();
    let trusted = made(dir.path(), 600).await;
    let mut found = 0;
    for file in files_of(dir.path()) {
        let bytes = fs::read(&file).unwrap();
        let name = file.display().to_string();
        // Every byte of what is signed, and many of the others.
        let step = if bytes.len() < 1024 { 1 } else { bytes.len() / 31 };
        for at in (0..bytes.len()).step_by(step).chain([bytes.len() - 1]) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            fs::write(&file, &changed).unwrap();
            let problems = problems(dir.path(), &trusted);
            assert!(!problems.is_empty(), "byte {at} of {name}");
            if name.contains("tile") || name.contains("journal") {
                assert!(told(&problems, &name), "{at} of {name}: {problems:?}");
            }
            found += 1;
        }
        // And cut short, by one byte and altogether.
        fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
        assert!(!problems(dir.path(), &trusted).is_empty(), "{name} cut short");
        fs::write(&file, "").unwrap();
        if problems(dir.path(), &trusted).is_empty() {
            // What a power loss may do to the newest tiles: the journal has what mends them.
            let mended = copy(dir.path());
            Log::open(mended.path()).unwrap().close();
            assert_eq!(fs::read(mended.path().join(file.strip_prefix(dir.path()).unwrap())).unwrap(), bytes, "{name}");
        }
        fs::write(&file, &bytes).unwrap();
    }
    assert!(found > 800, "{found}");
    assert_eq!(problems(dir.path(), &trusted), [""; 0]);
}

#[tokio::test]
async fn the_very_entry_that_was_changed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let trusted = made(dir.path(), 700).await;
    let path = bundle_path(dir.path(), 0);
    fs::write(&path, replaced(&fs::read(&path).unwrap(), br#""count":77}"#, br#""count":78}"#)).unwrap();
    let problems = problems(dir.path(), &trusted);
    assert!(told(&problems, &format!("entry 77 ({})", path.display())), "{problems:?}");
    assert!(told(&problems, "some were changed or removed"), "and the head does not fit: {problems:?}");
}

#[tokio::test]
async fn removed_entries_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let trusted = made(dir.path(), 600).await;
    // Out of a bundle.
    let first = copy(dir.path());
    let path = bundle_path(first.path(), 1);
    let bytes = fs::read(&path).unwrap();
    let length = 2 + usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
    fs::write(&path, &bytes[length..]).unwrap();
    let seen = problems(first.path(), &trusted);
    assert!(seen.len() == 1 && seen[0].contains("entry 256 (") && seen[0].contains("255 in place of 256"), "{seen:?}");
    // Out of the end of the journal, which is signed.
    let second = copy(dir.path());
    let journal = files_of(&second.path().join("journal")).pop().unwrap();
    let bytes = fs::read(&journal).unwrap();
    fs::write(&journal, &bytes[..bytes.len() - 20]).unwrap();
    let seen = problems(second.path(), &trusted);
    assert!(told(&seen, "cut short or changed at entry 599") && told(&seen, "checkpoint"), "{seen:?}");
    let refused = Log::open(second.path()).err().unwrap();
    assert!(matches!(refused, LogError::Damaged { index: 599, .. }), "{refused}");
    // The whole journal, with the head: what the tiles have tells of it, and nothing writes over them.
    let third = copy(dir.path());
    fs::remove_dir_all(third.path().join("journal")).unwrap();
    assert!(told(&problems(third.path(), &trusted), "checkpoint (size 600)"));
    fs::remove_file(third.path().join("checkpoint")).unwrap();
    assert!(told(&problems(third.path(), &trusted), "the checkpoint is missing"));
    let refused = Log::open(third.path()).err().unwrap();
    assert!(matches!(refused, LogError::Damaged { .. }), "{refused}");
}

/// Everything as it was signed once, but for tiles that are newer.
#[tokio::test]
async fn a_log_that_ends_before_its_tiles_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let first = key();
    let trusted = Log::vkey_of(VAULT, &first);
    log.unlock(VAULT, first).unwrap();
    append(&log, 0..10);
    settle(&log).await;
    log.checkpoint().unwrap();
    let old = copy(dir.path());
    append(&log, 10..300);
    settle(&log).await;
    log.close();
    assert_eq!(problems(old.path(), &trusted), [""; 0], "it was whole");
    fs::create_dir_all(old.path().join("tile/entries")).unwrap();
    fs::copy(bundle_path(dir.path(), 0), bundle_path(old.path(), 0)).unwrap();
    let problems = problems(old.path(), &trusted);
    assert!(told(&problems, "entry 10 and those behind it were removed"), "{problems:?}");
}

#[tokio::test]
async fn what_others_signed_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let trusted = made(dir.path(), 600).await;
    // A head by somebody else over the same entries.
    let forged = copy(dir.path());
    fs::remove_file(forged.path().join("checkpoint")).unwrap();
    let log = Log::open(forged.path()).unwrap();
    log.unlock(VAULT, key()).unwrap();
    log.checkpoint().unwrap();
    log.close();
    drop(log);
    assert!(told(&problems(forged.path(), &trusted), "not signed by the log's key"));
    // And with a change of the key to theirs, which the key before did not sign.
    let log = Log::open(forged.path()).unwrap();
    let (own, next) = (key(), key());
    log.append(&[change_entry(&Log::vkey_of(VAULT, &own), &Log::vkey_of(VAULT, &next))]).unwrap();
    log.unlock(VAULT, own).unwrap();
    settle(&log).await;
    log.change_key(next).unwrap();
    log.close();
    drop(log);
    let seen = problems(forged.path(), &trusted);
    assert!(told(&seen, "is not signed by the key before"), "{seen:?}");
    // The change of the key left out.
    let without = copy(dir.path());
    fs::remove_dir_all(without.path().join("keys")).unwrap();
    assert!(told(&problems(without.path(), &trusted), "not signed by the log's key"));
}

#[tokio::test]
async fn of_two_heads_that_disagree_the_foreign_one_is_told() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    made(dir.path(), 700).await;
    made(other.path(), 600).await;
    let own = fs::read(dir.path().join("checkpoint")).unwrap();
    let foreign = fs::read(other.path().join("checkpoint")).unwrap();
    assert_eq!(kept(dir.path(), &[("a", &own), ("b", &own)]), [""; 0]);
    let seen = kept(dir.path(), &[("a", &own), ("b", &foreign)]);
    assert!(seen.len() == 1 && seen[0].starts_with("b (size 600) is not of this log"), "{seen:?}");
    let seen = kept(other.path(), &[("a", &own), ("b", &foreign)]);
    assert!(seen.len() == 1 && seen[0].starts_with("a speaks of 700 entries, and there are 600"), "{seen:?}");
    assert!(told(&kept(dir.path(), &[("c", b"no note")]), "c is no checkpoint"));
    let unsigned = String::from_utf8(own).unwrap().replace("\u{2014} udv", "\u{2014} other");
    assert!(told(&kept(dir.path(), &[("d", unsigned.as_bytes())]), "d is not signed by a key of this log"));
}

#[tokio::test]
async fn bundles_can_be_moved_away() {
    let dir = tempfile::tempdir().unwrap();
    // The key is changed at 350: the entry that tells so is moved away as well.
    let trusted = made(dir.path(), 700).await;
    let path = bundle_path(dir.path(), 1);
    let bundle = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    for given in [Some(trusted.as_str()), None] {
        let seen = report(dir.path(), given);
        assert_eq!(seen.problems, [""; 0]);
        assert!(seen.size == 700 && seen.log_key.is_some());
    }
    fs::write(&path, bundle).unwrap();

    let path = bundle_path(dir.path(), 0);
    let bundle = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(report(dir.path(), Some(&trusted)).moved, 256);
    let log = Log::open(dir.path()).unwrap();
    assert!(matches!(log.read(10, 1), Err(LogError::MovedAway { index: 0 })));
    assert_eq!(log.read(256, 1).unwrap().len(), 1, "others can be read");
    // Proofs need the hashes only.
    assert!(!log.inclusion(10, 700).unwrap().is_empty());
    fs::write(&path, bundle).unwrap();
    assert_eq!(log.read(10, 1).unwrap().len(), 1);
    drop(log);
    // Without its hashes it is gone.
    fs::remove_file(&path).unwrap();
    fs::remove_file(tree::tile_path(dir.path(), 0, 0)).unwrap();
    assert!(told(&problems(dir.path(), &trusted), "entries 0 to 255 are gone"));
}

#[tokio::test]
async fn what_a_crash_leaves_is_no_problem() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(dir.path()).unwrap();
    let (first, second) = (key(), key());
    let trusted = Log::vkey_of(VAULT, &first);
    log.unlock(VAULT, first).unwrap();
    append(&log, 0..20);
    settle(&log).await;
    // The entry of a change of the key and not the note; told again when it is finished.
    for _ in 0..2 {
        log.append(&[change_entry(&trusted, &Log::vkey_of(VAULT, &second))]).unwrap();
        settle(&log).await;
        log.checkpoint().unwrap();
        assert_eq!(problems(copy(dir.path()).path(), &trusted), [""; 0]);
    }
    // The note and no head since.
    let before = fs::read(dir.path().join("checkpoint")).unwrap();
    log.change_key(second).unwrap();
    log.checkpoint().unwrap();
    // But a head by the new key and no note is no crash.
    let without = copy(dir.path());
    fs::remove_dir_all(without.path().join("keys")).unwrap();
    assert!(told(&problems(without.path(), &trusted), "its note in keys/ is missing"));
    let crashed = copy(dir.path());
    fs::write(crashed.path().join("checkpoint"), before).unwrap();
    assert_eq!(problems(crashed.path(), &trusted), [""; 0]);
    // Half an entry, and tiles that were not written yet.
    append(&log, 20..50);
    settle(&log).await;
    let head = log.checkpoint().unwrap();
    append(&log, 50..270);
    settle(&log).await;
    log.close();
    let journal = files_of(&dir.path().join("journal")).pop().unwrap();
    let bytes = fs::read(&journal).unwrap();
    fs::write(&journal, &bytes[..bytes.len() - 3]).unwrap();
    fs::write(dir.path().join("checkpoint"), head).unwrap();
    if dir.path().join("journal/0000000000000000").exists() {
        fs::remove_dir_all(dir.path().join("tile")).unwrap();
    }
    let seen = report(dir.path(), Some(&trusted));
    assert_eq!(seen.problems, [""; 0]);
    assert_eq!(seen.size, 271, "20, two that tell of the key, 250, and not the last one");
    drop(log);
    assert_eq!(Log::open(dir.path()).unwrap().size(), 271);
}

#[tokio::test]
async fn who_follows_the_log_follows_its_keys() {
    let dir = tempfile::tempdir().unwrap();
    let trusted = made(dir.path(), 600).await;
    let log = Log::open(dir.path()).unwrap();
    let note = log.key_changes().unwrap().remove(0);
    let next = next_key(note.as_bytes(), &trusted).unwrap();
    let head = fs::read(dir.path().join("checkpoint")).unwrap();
    assert_eq!((signed_size(&head, &next), signed_size(&head, &trusted)), (Some(600), None));
    // Another key that is named in place of it is not signed by the one before.
    let other = note.replace(&next, &Log::vkey_of(VAULT, &key()));
    assert_eq!((next_key(other.as_bytes(), &trusted), size_of(other.as_bytes())), (None, size_of(note.as_bytes())));
    // A plain head names no next key.
    assert_eq!(next_key(&head, &next), None);
    let proof = log.consistency(size_of(note.as_bytes()).unwrap(), 600).unwrap();
    assert!(is_continued(note.as_bytes(), &head, &proof));
    assert!(!is_continued(note.as_bytes(), &head, &proof[1..]) && !is_continued(&head, note.as_bytes(), &proof));
    let elsewhere = String::from_utf8(head).unwrap().replacen("udv/0", "udv/1", 1);
    assert!(!is_continued(note.as_bytes(), elsewhere.as_bytes(), &proof), "the log of another vault");
}
