//! What only fjall can meet.
#![allow(clippy::unwrap_used)]

use tempfile::TempDir;

use super::super::conformance::puts;
use super::super::disk::tests::{asked, copy, damaged, filled, open, options, outcome, start};
use super::super::disk::{DiskStore, EngineName};
use super::super::{Batch, HealthState, Store, VALUE_MAX};
use super::*;

const FJALL: EngineName = EngineName::Fjall;

fn noise(n: u64, len: usize) -> Vec<u8> {
    (0..len as u64 / 8)
        .flat_map(|at| xxhash_rust::xxh3::xxh3_64_with_seed(&at.to_le_bytes(), n).to_le_bytes())
        .collect()
}

/// A closed store whose rows are in tables as well as in a journal.
async fn with_tables() -> TempDir {
    let dir = TempDir::new().unwrap();
    let store = open(FJALL, dir.path()).unwrap();
    for round in 0..6_u64 {
        let put = (0..60).map(|n| ([b'a' + n].to_vec(), noise(round * 100 + u64::from(n), VALUE_MAX - 1000)));
        store.commit(Batch { put: put.collect(), ..Batch::default() }).await.unwrap();
    }
    let tables = || files(dir.path(), |path| path.parent().unwrap().ends_with("tables")).len();
    for _ in 0..500 {
        if tables() > 1 {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    store.close().await.unwrap();
    assert!(tables() > 1, "rows were written out");
    dir
}

/// The files of fjall's that are meant, wherever they are.
fn files(dir: &Path, meant: impl Fn(&Path) -> bool + Copy) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, meant));
        } else if meant(&path) && path.metadata().unwrap().len() > 0 {
            found.push(path);
        }
    }
    found
}

#[tokio::test]
async fn what_is_in_tables_is_read_after_a_reopening() {
    let dir = with_tables().await;
    let store = open(FJALL, dir.path()).unwrap();
    let rows = store.scan(b"", None, 99).await.unwrap();
    assert_eq!(rows.len(), 60);
    for (n, (key, value)) in rows.into_iter().enumerate() {
        assert_eq!((key, value), (vec![b'a' + n as u8], noise(500 + n as u64, VALUE_MAX - 1000)));
    }
    store.commit(Batch { delete: vec![b"a".to_vec()], ..Batch::default() }).await.unwrap();
    drop(store);
    let store = open(FJALL, dir.path()).unwrap();
    assert_eq!(store.get(b"a").await, Ok(None), "what is removed stays so, whatever older tables have");
    assert!(store.health().disk_bytes.unwrap() > 20 << 20);
}

#[tokio::test]
async fn room_for_compaction_is_kept_free() {
    let state = |dir: &Path, free_mib: u64| {
        let probe = move |_: &Path| Ok(free_mib << 20);
        DiskStore::open_on(FJALL, dir, options(), Box::new(probe)).unwrap().health().state
    };
    let (empty, full) = (TempDir::new().unwrap(), with_tables().await);
    assert_eq!(state(empty.path(), 66), HealthState::Ok);
    assert_eq!(state(full.path(), 66), HealthState::Full, "a compaction of its tables would not fit");
    assert_eq!(state(full.path(), 100), HealthState::Ok);
}

#[tokio::test]
async fn workers_that_fail_end_writing_and_nobody_waits_for_them() {
    let dir = filled(FJALL, 3).await;
    let process = start("store::fjall::tests::as_a_process_whose_workers_fail", FJALL, dir.path());
    assert_eq!(outcome(process), "as it should be");
}

/// Does nothing unless run by the test above.
#[tokio::test]
async fn as_a_process_whose_workers_fail() {
    let Some((engine, dir)) = asked() else {
        return;
    };
    let store = open(engine, &dir).unwrap();
    // As on a disk without room, no table can be written.
    fs::remove_dir_all(dir.join("fjall/keyspaces/1/tables")).unwrap();
    let mut ended = None;
    for round in 0..400_u64 {
        let put = (0..16).map(|n| ([b'a' + n].to_vec(), noise(round, VALUE_MAX))).collect();
        if let Err(error) = store.commit(Batch { put, ..Batch::default() }).await {
            ended = Some(error);
            break;
        }
    }
    assert!(matches!(ended, Some(StoreError::InDoubt(_))), "{ended:?}");
    assert_eq!(store.health().state, HealthState::Poisoned);
    assert!(matches!(store.commit(puts([(b"a", b"1")])).await, Err(StoreError::Poisoned(_))));
    assert!(store.get(b"a").await.unwrap().is_some(), "it still reads");
    assert_eq!(store.close().await, Ok(()));
    println!("outcome: as it should be");
}

#[tokio::test]
async fn damage_is_an_error_or_missing_rows_but_never_a_panic() {
    let journal = filled(FJALL, 200).await;
    let of_journal = files(journal.path(), |path| path.extension().is_some_and(|extension| extension == "jnl"));
    let mut outcomes = damaged(FJALL, journal.path(), &of_journal, 8);

    let tables = with_tables().await;
    let all = files(tables.path(), |path| !path.ends_with("lock") && !path.ends_with("reserve"));
    assert!(all.len() >= 7, "{all:?}");
    outcomes.extend(damaged(FJALL, tables.path(), &all, 2));
    assert!(outcomes.iter().any(|outcome| outcome.starts_with("the store is damaged")), "some damage is noticed");
}

/// A store with a batch of several pages at the end of its journal, and where its last value begins there.
async fn with_a_long_batch() -> (TempDir, PathBuf, usize) {
    let dir = filled(FJALL, 20).await;
    let store = open(FJALL, dir.path()).unwrap();
    let value = noise(7, 20_000);
    store.commit(puts([(b"last a", &value), (b"last b", &value)])).await.unwrap();
    store.close().await.unwrap();
    let journal = dir.path().join("fjall/0.jnl");
    let bytes = fs::read(&journal).unwrap();
    let at = bytes.windows(64).rposition(|window| window == &value[..64]).unwrap();
    (dir, journal, at)
}

/// Makes a hole, as a page has that did not get to the disk.
fn punch(journal: &Path, at: usize, len: usize) {
    let mut bytes = fs::read(journal).unwrap();
    bytes[at..at + len].fill(0);
    fs::write(journal, bytes).unwrap();
}

#[tokio::test]
async fn a_torn_last_batch_is_dropped_whole() {
    for hole in [0, 4096, 16_000] {
        let (dir, journal, at) = with_a_long_batch().await;
        punch(&journal, at + hole, 1000);
        assert!(open_engine(&dir.path().join(FILES), 1 << 20).is_err(), "the control: fjall itself does not open");
        for _ in 0..2 {
            let store = open(FJALL, dir.path()).unwrap();
            assert_eq!(store.scan(b"", None, 99).await.unwrap().len(), 20, "nothing else is missing");
            assert_eq!(store.get(b"last a").await, Ok(None), "and nothing of it is there");
            store.commit(puts([(b"", b"again")])).await.unwrap();
            store.commit(Batch { delete: vec![Vec::new()], ..Batch::default() }).await.unwrap();
        }
    }
}

#[tokio::test]
async fn so_is_one_that_is_torn_where_its_parts_begin() {
    let (whole, _, _) = with_a_long_batch().await;
    let bytes = fs::read(whole.path().join("fjall/0.jnl")).unwrap();
    let keys = [b"\0last a", b"\0last b"].map(|key| bytes.windows(7).rposition(|window| window == key).unwrap());
    // From the batch's own head, and from that of its second item, the rest of the disk's sector is lost.
    let (first, second) = (keys[0].min(keys[1]) - 13 - 21, keys[0].max(keys[1]) - 21);
    let mut refused = 0;
    for at in (first..first + 42).chain(second..second + 29) {
        let dir = copy(whole.path());
        punch(&dir.path().join("fjall/0.jnl"), at, 512);
        let alone = copy(dir.path());
        refused += usize::from(open_engine(&alone.path().join(FILES), 1 << 20).is_err());
        let store = open(FJALL, dir.path()).unwrap_or_else(|error| panic!("torn {} bytes in: {error}", at - first));
        assert_eq!(store.scan(b"", None, 99).await.unwrap().len(), 20, "torn {} bytes in", at - first);
    }
    assert!(refused > 0, "the control: fjall itself does not open some");
}

#[tokio::test]
async fn damage_before_the_last_batch_is_told_and_left_as_it_is() {
    let (dir, journal, at) = with_a_long_batch().await;
    let later = open(FJALL, dir.path()).unwrap();
    later.commit(puts([(b"later", b"acknowledged")])).await.unwrap();
    later.close().await.unwrap();
    punch(&journal, at, 1000);
    let before = fs::read(&journal).unwrap();
    assert!(matches!(open(FJALL, dir.path()), Err(StoreError::Corrupt(_))));
    assert_eq!(fs::read(&journal).unwrap(), before);
}

/// Any of them is a length, a count or a checksum, and fjall takes some of the former at their word.
#[tokio::test]
async fn a_flipped_bit_in_a_list_of_tables_is_told() {
    let dir = with_tables().await;
    let rows = open(FJALL, dir.path()).unwrap().scan(b"", None, 99).await.unwrap();
    let currents = files(dir.path(), |path| path.ends_with("current"));
    assert_eq!(currents.len(), 2, "two keyspaces");
    // Lists of before may be left beside the present one.
    let present = |current: &PathBuf| {
        let id = u64::from_le_bytes(*fs::read(current).unwrap().first_chunk().unwrap());
        current.with_file_name(format!("v{id}"))
    };
    let lists: Vec<_> = currents.iter().map(present).collect();
    for path in currents.into_iter().chain(lists) {
        let whole = fs::read(&path).unwrap();
        for (at, bit) in (0..whole.len()).flat_map(|at| [(at, 0), (at, 7)]) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            fs::write(&path, flipped).unwrap();
            let refused = open(FJALL, dir.path()).err();
            assert!(matches!(refused, Some(StoreError::Corrupt(_))), "{}, byte {at}: {refused:?}", path.display());
        }
        fs::write(&path, whole).unwrap();
    }
    for path in files(dir.path(), |path| path.parent().unwrap().ends_with("tables")) {
        let whole = fs::read(&path).unwrap();
        for at in whole.len() - 400..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << 7;
            fs::write(&path, flipped).unwrap();
            if let Ok(store) = open(FJALL, dir.path()) {
                // Of that byte nobody makes anything, or the part that it is in has a checksum of its own.
                let found = store.scan(b"", None, 99).await;
                assert!(found.is_err() || found == Ok(rows.clone()), "{}, byte {at}", path.display());
                store.close().await.unwrap();
            }
        }
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(open(FJALL, dir.path()).unwrap().scan(b"", None, 99).await.unwrap(), rows);
}

#[tokio::test]
async fn a_file_that_is_missing_costs_no_other() {
    let whole = with_tables().await;
    let keyspaces = Path::new("fjall/keyspaces");
    for name in [keyspaces.join("0/current"), keyspaces.join("1/current"), "fjall/*.jnl".into()] {
        let dir = copy(whole.path());
        let journals = files(dir.path(), |path| path.extension().is_some_and(|extension| extension == "jnl"));
        let gone = if name.ends_with("current") { vec![dir.path().join(&name)] } else { journals };
        assert!(!gone.is_empty());
        let kept: Vec<_> = gone.iter().map(|path| fs::read(path).unwrap()).collect();
        gone.iter().for_each(|path| fs::remove_file(path).unwrap());
        let before = files(dir.path(), |_| true);
        assert!(matches!(open(FJALL, dir.path()), Err(StoreError::Corrupt(_))), "{name:?}");
        assert_eq!(files(dir.path(), |_| true), before, "{name:?}");
        gone.iter().zip(kept).for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
        let rows = async |dir: &Path| open(FJALL, dir).unwrap().scan(b"", None, 100_000).await.unwrap().len();
        assert_eq!(rows(dir.path()).await, rows(copy(whole.path()).path()).await, "put back, all is there");
    }
}

/// A part of a copy, or a directory that was moved: fjall would clear away what is left.
#[tokio::test]
async fn a_keyspace_that_is_missing_or_elsewhere_costs_no_other() {
    let whole = with_tables().await;
    let keyspace = |dir: &Path, name: &str| dir.join("fjall/keyspaces").join(name);
    let moves: &[(&str, Option<&str>)] = &[("0", None), ("1", None), ("1", Some("2")), ("0", Some("7"))];
    for (from, to) in moves {
        let dir = copy(whole.path());
        let away = TempDir::new().unwrap();
        let to = to.map_or(away.path().join("away"), |to| keyspace(dir.path(), to));
        fs::rename(keyspace(dir.path(), from), &to).unwrap();
        let before = files(dir.path(), |_| true);
        let refused = open(FJALL, dir.path()).err();
        assert!(matches!(&refused, Some(StoreError::Corrupt(why)) if why.contains("missing")), "{from}: {refused:?}");
        assert_eq!(files(dir.path(), |_| true), before, "{from}");
        fs::rename(to, keyspace(dir.path(), from)).unwrap();
        assert_eq!(open(FJALL, dir.path()).unwrap().scan(b"", None, 99).await.unwrap().len(), 60);
    }
    // Nor without what was noted: the first one is always there.
    let dir = copy(whole.path());
    fs::remove_file(dir.path().join(made::NOTED)).unwrap();
    fs::remove_dir_all(keyspace(dir.path(), "0")).unwrap();
    let before = files(dir.path(), |_| true);
    assert!(matches!(open(FJALL, dir.path()), Err(StoreError::Corrupt(why)) if why.contains("missing")));
    assert_eq!(files(dir.path(), |_| true), before);
    // All of it.
    let dir = copy(whole.path());
    fs::remove_dir_all(dir.path().join(FILES)).unwrap();
    assert!(matches!(open(FJALL, dir.path()), Err(StoreError::Corrupt(_))));
    // What was noted is damaged: a refusal, or it says nothing.
    for noted in [&b"0 3"[..], b"\xff", b"\0\0\0", b"0\x001"] {
        let dir = copy(whole.path());
        fs::write(dir.path().join(made::NOTED), noted).unwrap();
        assert!(matches!(open(FJALL, dir.path()), Err(StoreError::Corrupt(_))), "{noted:?}");
    }
    let dir = copy(whole.path());
    fs::write(dir.path().join(made::NOTED), "").unwrap();
    drop(open(FJALL, dir.path()).unwrap());
    assert_eq!(fs::read(dir.path().join(made::NOTED)).unwrap(), b"0 1", "it is noted anew");
    // At a name that is no number fjall ends the process.
    let dir = copy(whole.path());
    fs::create_dir(keyspace(dir.path(), "lost+found")).unwrap();
    let refused = open(FJALL, dir.path()).err();
    assert!(matches!(&refused, Some(StoreError::Corrupt(why)) if why.contains("lost+found")), "{refused:?}");
}

#[tokio::test]
async fn a_flipped_bit_in_a_journal_takes_nothing_that_was_acknowledged() {
    let whole = filled(FJALL, 1).await;
    for key in [b"a", b"b"] {
        let store = open(FJALL, whole.path()).unwrap();
        store.commit(puts([(key, b"acknowledged")])).await.unwrap();
        store.close().await.unwrap();
    }
    let journal = Path::new("fjall/0.jnl");
    let bytes = fs::read(whole.path().join(journal)).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let last = bytes.windows(14).rposition(|window| window == b"\0backnowledged").unwrap() - 13 - 21;
    let mut alone = 0;
    for at in 0..used {
        let dir = copy(whole.path());
        let damaged = dir.path().join(journal);
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(&damaged, &flipped).unwrap();
        if at >= last {
            // Nobody can tell this from a write that a loss of power tore, but where its number is another one only.
            match open(FJALL, dir.path()) {
                Ok(store) => {
                    let rows = store.scan(b"", None, 9).await.unwrap().len();
                    assert!(rows == 2 || rows == 3 && (last + 5..last + 13).contains(&at), "{rows} at {at} of {last}");
                }
                Err(error) => assert!(matches!(error, StoreError::Corrupt(_)), "{error} at {at} of {last}"),
            }
            continue;
        }
        assert!(matches!(open(FJALL, dir.path()), Err(StoreError::Corrupt(_))), "at {at} of {last}");
        assert_eq!(fs::read(&damaged).unwrap(), flipped, "it is left as it is");
        if at % 3 == 0 {
            alone += usize::from(open_engine(&dir.path().join(FILES), 1 << 20).is_ok());
        }
    }
    assert!(alone > 0, "the control: fjall itself opens, without what came later");
}

#[tokio::test]
async fn a_database_that_was_not_made_to_the_end_is_made_anew() {
    let whole = filled(FJALL, 3).await;
    for marker in [None, Some(&b"FJ"[..])] {
        let dir = TempDir::new().unwrap();
        let half = dir.path().join(FILES);
        fs::create_dir_all(half.join("keyspaces")).unwrap();
        fs::write(half.join("0.jnl"), [0; 100]).unwrap();
        marker.into_iter().for_each(|marker| fs::write(half.join("version"), marker).unwrap());
        let store = open(FJALL, dir.path()).unwrap();
        store.commit(puts([(b"a", b"1")])).await.unwrap();
        drop(store);
        assert_eq!(open(FJALL, dir.path()).unwrap().get(b"a").await, Ok(Some(b"1".to_vec())));

        // One that was is not taken for it.
        let lost = copy(whole.path());
        match marker {
            Some(marker) => fs::write(lost.path().join("fjall/version"), marker).unwrap(),
            None => fs::remove_file(lost.path().join("fjall/version")).unwrap(),
        }
        assert!(matches!(open(FJALL, lost.path()), Err(StoreError::Corrupt(_))));
        assert!(lost.path().join("fjall/0.jnl").exists());
    }
}

#[tokio::test]
async fn reads_see_whole_batches() {
    let dir = TempDir::new().unwrap();
    let store = Arc::new(open(FJALL, dir.path()).unwrap());
    let keys: Vec<Vec<u8>> = (0..200_u8).map(|n| vec![n]).collect();
    let write = async |round: u32| {
        let put = keys.iter().map(|key| (key.clone(), round.to_be_bytes().to_vec())).collect();
        store.commit(Batch { put, ..Batch::default() }).await.unwrap();
    };
    write(0).await;
    let (reader, first, last) = (Arc::clone(&store), keys[0].clone(), keys[199].clone());
    let reading = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            loop {
                let rows = reader.scan(b"", None, 999).await.unwrap();
                assert!(rows.iter().all(|(_, value)| *value == rows[0].1), "a scan sees one state");
                // Of two reads, the later one never sees less.
                let early = reader.get(&first).await.unwrap().unwrap();
                let late = reader.get(&last).await.unwrap().unwrap();
                assert!(late >= early);
                if late == 150_u32.to_be_bytes() {
                    return;
                }
            }
        });
    });
    for round in 1..=150 {
        write(round).await;
    }
    reading.await.unwrap();
}
