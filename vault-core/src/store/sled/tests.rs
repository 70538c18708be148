//! What only sled can meet.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::super::disk::EngineName;
use super::super::disk::tests::{damaged, filled, open};
use super::super::{Batch, Store};
use super::*;

#[tokio::test]
async fn a_lock_of_the_engines_own_is_told_as_one() {
    let dir = filled(EngineName::Sled, 1).await;
    let held = File::open(dir.path().join("db")).unwrap();
    held.lock().unwrap();
    assert!(matches!(open(EngineName::Sled, dir.path()), Err(StoreError::Locked(_))));
    drop(held);
    // A process that another test starts holds the lock from its fork to its exec, so it may take a moment.
    let freed = (0..200).any(|_| {
        thread::sleep(Duration::from_millis(20));
        open(EngineName::Sled, dir.path()).is_ok()
    });
    assert!(freed);
}

#[tokio::test]
async fn an_unfinished_snapshot_is_removed() {
    let dir = filled(EngineName::Sled, 10).await;
    let snapshot = dir.path().join("snap.00000000000000FF.generating");
    fs::write(&snapshot, b"half a snapshot").unwrap();
    let store = open(EngineName::Sled, dir.path()).unwrap();
    assert!(!snapshot.exists());
    assert_eq!(store.scan(b"", None, 99).await.unwrap().len(), 10);
}

#[tokio::test]
async fn damage_is_an_error_or_missing_rows_but_never_a_panic() {
    // One store is all log; the other was opened again, and so has a snapshot too.
    let (log, reopened) = (filled(EngineName::Sled, 400).await, filled(EngineName::Sled, 400).await);
    open(EngineName::Sled, reopened.path()).unwrap().close().await.unwrap();
    let mut outcomes = Vec::new();
    for whole in [&log, &reopened] {
        outcomes.extend(damaged(EngineName::Sled, whole.path(), &[whole.path().join("db")], 8));
    }
    let small = [reopened.path().join("conf"), snapshot(reopened.path())];
    outcomes.extend(damaged(EngineName::Sled, reopened.path(), &small, 2));
    assert!(outcomes.iter().any(|outcome| outcome.starts_with("the store is damaged")), "some damage is noticed");
}

/// With marks in place of what a write leaves to be freed: without more ado sled has freed a fifth of them after the write.
#[tokio::test]
async fn a_large_write_has_freed_as_much_as_it_may_replace() {
    const ROWS: u32 = 4_000;
    let freed = Arc::new(AtomicU32::new(0));
    let dir = filled(EngineName::Sled, 1).await;
    let store = open(EngineName::Sled, dir.path()).unwrap();
    let guard = ::sled::pin();
    for _ in 0..4 * ROWS {
        let freed = Arc::clone(&freed);
        guard.defer(move || freed.fetch_add(1, Ordering::Relaxed));
    }
    guard.flush();
    drop(guard);
    let mut rows = (0..ROWS).map(|row| (row.wrapping_mul(2_654_435_761).to_be_bytes().to_vec(), vec![7; 20])).collect();
    // Other tests may be reading just now, and hold it up while they do: a few small writes later nobody does any more.
    for _ in 0..4 {
        store.commit(Batch { put: rows, ..Batch::default() }).await.unwrap();
        if freed.load(Ordering::Relaxed) == 4 * ROWS {
            return;
        }
        thread::sleep(Duration::from_millis(50));
        rows = vec![(b"row".to_vec(), b"value".to_vec())];
    }
    panic!("{} of {} are freed", freed.load(Ordering::Relaxed), 4 * ROWS);
}

fn snapshot(dir: &Path) -> PathBuf {
    let mut files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.file_name().unwrap().to_string_lossy().starts_with("snap.")).unwrap()
}
