//! What only sled can meet.
#![allow(clippy::unwrap_used)]

use super::super::Store;
use super::super::disk::EngineName;
use super::super::disk::tests::{damaged, filled, open};
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

fn snapshot(dir: &Path) -> PathBuf {
    let mut files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.file_name().unwrap().to_string_lossy().starts_with("snap.")).unwrap()
}
