//! Tests of the engine on disk: the suite, and what only a disk can do to it.
#![allow(clippy::unwrap_used)]

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;

use super::super::conformance::{conformance, puts};
use super::*;

/// Names the directory to the test that is run as a process of its own.
const CHILD_DIR: &str = "VAULT_TEST_STORE_DIR";

const MIB: u64 = 1 << 20;

fn options() -> SledOptions {
    SledOptions { cache_bytes: 16 * MIB, reserve_bytes: MIB, min_free_bytes: 64 * MIB }
}

fn open(dir: &Path) -> Result<SledStore, StoreError> {
    SledStore::open(dir, options())
}

/// A row of a store that is to be damaged, long enough to be found again in its file.
fn value(n: u32) -> Vec<u8> {
    n.to_be_bytes().repeat(50)
}

/// A closed store of `rows` rows.
async fn filled(rows: u32) -> TempDir {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path()).unwrap();
    for n in 0..rows {
        store.commit(puts([(&n.to_be_bytes(), &value(n))])).await.unwrap();
    }
    store.close().await.unwrap();
    dir
}

fn copy(from: &Path) -> TempDir {
    let to = TempDir::new().unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
        }
    }
    to
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let dirs = TempDir::new().unwrap();
    let made = AtomicU64::new(0);
    conformance(async || {
        let number = made.fetch_add(1, Ordering::Relaxed);
        open(&dirs.path().join(number.to_string())).unwrap()
    })
    .await;
    for number in 0..made.into_inner() {
        let blobs = fs::read_dir(dirs.path().join(number.to_string()).join("blobs")).unwrap();
        assert_eq!(blobs.count(), 0, "no page became a file that is never synced");
    }
}

#[tokio::test]
async fn keeps_everything_over_a_reopening() {
    let dir = filled(500).await;
    for round in 0..3_u8 {
        let store = open(dir.path()).unwrap();
        for n in 0..500_u32 {
            assert_eq!(store.get(&n.to_be_bytes()).await, Ok(Some(value(n))), "round {round}");
        }
        assert_eq!(store.scan(b"", None, usize::MAX).await.unwrap().len(), 500 + usize::from(round));
        store.commit(puts([(&[b'r', round], b"")])).await.unwrap();
        // Closed by being dropped, in turn with `close`.
        if round == 1 {
            store.close().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let dir = filled(1).await;
    let store = open(dir.path()).unwrap();
    assert_eq!(store.health().state, HealthState::Ok);
    assert!(store.health().disk_bytes.unwrap() > 0);
    store.close().await.unwrap();
    let closed = StoreError::Unavailable("it was closed".into());
    assert_eq!(store.get(b"a").await, Err(closed.clone()));
    assert_eq!(store.scan(b"", None, 1).await, Err(closed.clone()));
    assert_eq!(store.commit(puts([(b"a", b"1")])).await, Err(closed));
    assert_eq!(store.health().state, HealthState::Poisoned);
    // It is free for another while this one is still held.
    let again = open(dir.path()).unwrap();
    assert_eq!(again.get(&0_u32.to_be_bytes()).await, Ok(Some(value(0))));
}

#[tokio::test]
async fn a_second_opening_is_refused() {
    let dir = filled(1).await;
    let store = open(dir.path()).unwrap();
    // What a running engine may be writing is not tidied away by one that comes second.
    let snapshot = dir.path().join("snap.0000000000000001.generating");
    fs::write(&snapshot, b"half").unwrap();
    assert!(matches!(open(dir.path()), Err(StoreError::Locked(_))));
    assert!(snapshot.exists());
    let outcome = child(dir.path());
    assert!(outcome.starts_with("the store is already open"), "{outcome}");
    store.commit(puts([(b"a", b"1")])).await.unwrap();
    drop(store);
    assert_eq!(child(dir.path()), "opened");
}

#[tokio::test]
async fn a_lock_of_the_engines_own_is_told_as_one() {
    let dir = filled(1).await;
    let held = File::open(dir.path().join("db")).unwrap();
    held.lock().unwrap();
    assert!(matches!(open(dir.path()), Err(StoreError::Locked(_))));
    drop(held);
    // A process that another test starts holds the lock from its fork to its exec, so it may take a moment.
    let freed = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        open(dir.path()).is_ok()
    });
    assert!(freed);
}

#[tokio::test]
async fn an_unfinished_snapshot_is_removed() {
    let dir = filled(10).await;
    let snapshot = dir.path().join("snap.00000000000000FF.generating");
    fs::write(&snapshot, b"half a snapshot").unwrap();
    let store = open(dir.path()).unwrap();
    assert!(!snapshot.exists());
    assert_eq!(store.scan(b"", None, 99).await.unwrap().len(), 10);
}

#[tokio::test]
async fn a_full_disk_is_refused_in_time_and_recovered_from() {
    let dir = TempDir::new().unwrap();
    let free = Arc::new(AtomicU64::new(100 * MIB));
    let probed = Arc::clone(&free);
    let probe = move |_: &Path| Ok(probed.load(Ordering::Relaxed));
    let store = SledStore::open_on(dir.path(), options(), Box::new(probe)).unwrap();
    let reserve = dir.path().join("reserve");
    assert_eq!(fs::metadata(&reserve).unwrap().len(), MIB);
    store.commit(puts([(b"a", b"1"), (b"b", b"1")])).await.unwrap();
    let reclaim = |key: &[u8]| Batch { delete: vec![key.to_vec()], reclaim: true, ..Batch::default() };

    free.store(63 * MIB, Ordering::Relaxed);
    assert_eq!(store.health().state, HealthState::Full);
    assert_eq!(store.commit(puts([(b"a", b"2")])).await, Err(StoreError::Full));
    assert_eq!(store.get(b"a").await, Ok(Some(b"1".to_vec())), "nothing was written");
    assert!(reserve.exists(), "the reserve is not for this");
    store.commit(reclaim(b"a")).await.unwrap();
    assert_eq!(store.get(b"a").await, Ok(None));
    assert!(!reserve.exists(), "the reserve was given up for it");

    free.store(MIB, Ordering::Relaxed);
    assert_eq!(store.commit(reclaim(b"b")).await, Err(StoreError::Full), "not to the last byte");

    // Enough to write, but not enough to make the reserve again.
    free.store(64 * MIB + MIB / 2, Ordering::Relaxed);
    assert_eq!(store.commit(puts([(b"a", b"3")])).await, Err(StoreError::Full));

    free.store(65 * MIB, Ordering::Relaxed);
    assert_eq!(store.health().state, HealthState::Ok);
    store.commit(puts([(b"a", b"4")])).await.unwrap();
    assert_eq!(fs::metadata(&reserve).unwrap().len(), MIB, "the reserve is made again");
    assert_eq!(store.get(b"b").await, Ok(Some(b"1".to_vec())));
}

#[tokio::test]
async fn a_store_on_a_full_disk_opens_and_reads() {
    let dir = filled(10).await;
    assert!(dir.path().join("reserve").exists());
    let store = SledStore::open_on(dir.path(), options(), Box::new(|_| Ok(30 * MIB))).unwrap();
    assert!(!dir.path().join("reserve").exists(), "it was given up for the engine to open");
    assert_eq!(store.health().state, HealthState::Full);
    assert_eq!(store.scan(b"", None, 99).await.unwrap().len(), 10);
}

#[test]
fn the_disk_tells_its_room() {
    let free = free_bytes(&std::env::temp_dir()).unwrap();
    assert!(free > 0);
    assert!(free_bytes(Path::new("/nowhere/at all")).is_err());
}

#[tokio::test]
async fn damage_is_an_error_or_missing_rows_but_never_a_panic() {
    // One store is all log; the other was opened again, and so has a snapshot too.
    let (log, reopened) = (filled(400).await, filled(400).await);
    assert_eq!(child(reopened.path()), "opened");
    let mut outcomes = Vec::new();
    for whole in [&log, &reopened] {
        assert_eq!(child(copy(whole.path()).path()), "opened", "the control: a whole copy");
        let length = written_length(whole.path());
        for step in 0..8 {
            let place = length * step / 8 + 17 * step;
            let flipped = copy(whole.path());
            flip(&flipped.path().join("db"), place);
            outcomes.push(child(flipped.path()));

            let truncated = copy(whole.path());
            let file = File::options().write(true).open(truncated.path().join("db")).unwrap();
            file.set_len(place).unwrap();
            outcomes.push(child(truncated.path()));
        }
    }
    for path in [reopened.path().join("conf"), snapshot(reopened.path())] {
        let damaged = copy(reopened.path());
        flip(&damaged.path().join(path.file_name().unwrap()), 20);
        outcomes.push(child(damaged.path()));
    }
    for outcome in &outcomes {
        let told = outcome == "opened" || outcome.starts_with("the store is ");
        assert!(told, "{outcome}");
    }
    assert!(outcomes.iter().any(|outcome| outcome.starts_with("the store is damaged")), "some damage is noticed");
}

fn flip(path: &Path, place: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[place as usize] ^= 1 << (place % 8);
    fs::write(path, bytes).unwrap();
}

/// Up to where the engine's file holds anything.
fn written_length(dir: &Path) -> u64 {
    let bytes = fs::read(dir.join("db")).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64
}

fn snapshot(dir: &Path) -> PathBuf {
    let mut files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.file_name().unwrap().to_string_lossy().starts_with("snap.")).unwrap()
}

#[tokio::test]
async fn a_dead_thread_of_the_engine_ends_writing() {
    let dir = filled(10).await;
    let process = start("store::sled::tests::as_a_process_that_loses_a_thread", dir.path());
    assert_eq!(outcome(process), "as it should be");
    assert_eq!(child(dir.path()), "opened", "the next process finds everything in order");
}

/// Does nothing unless run by the test above.
#[tokio::test]
async fn as_a_process_that_loses_a_thread() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    let store = open(Path::new(&dir)).unwrap();
    store.commit(puts([(b"a", b"1")])).await.unwrap();
    let dies = |name: &str| thread::Builder::new().name(name.into()).spawn(|| panic!("quoting a row")).unwrap();
    assert!(dies(&format!("{}7", THREADS[0])).join().is_err());
    let refused = StoreError::Poisoned("a thread of the storage engine died".into());
    assert_eq!(store.commit(puts([(b"a", b"2")])).await, Err(refused));
    assert_eq!(store.health().state, HealthState::Poisoned);
    assert_eq!(store.get(b"a").await, Ok(Some(b"1".to_vec())), "it still reads");
    assert_eq!(store.close().await, Ok(()), "nothing waits for a thread that did not hold anything");
    println!("outcome: as it should be");
}

/// Opens, reads, writes and closes a store in a process of its own, for damage may kill threads the engine shares
/// between stores. Says how it went.
fn child(dir: &Path) -> String {
    outcome(start("store::sled::tests::as_a_process_of_its_own", dir))
}

/// Starts one test of this file as a process of its own.
fn start(test: &str, dir: &Path) -> Child {
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--exact", test, "--nocapture"]).env(CHILD_DIR, dir);
    process.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What the process says; fails if it panics, hangs, or lets out a word of a panic.
fn outcome(mut process: Child) -> String {
    let start = Instant::now();
    while process.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(100) {
            process.kill().unwrap();
            panic!("it hangs");
        }
        thread::sleep(Duration::from_millis(5));
    }
    let output = process.wait_with_output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
    assert!(!complained.contains("panicked"), "{complained}");
    let outcome = said.lines().find_map(|line| line.split_once("outcome: "));
    outcome.expect("the process says its outcome").1.to_owned()
}

/// Does nothing unless [`child`] runs it.
#[tokio::test]
async fn as_a_process_of_its_own() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else {
        return;
    };
    match use_store(Path::new(&dir)).await {
        Ok(()) => println!("outcome: opened"),
        Err(error) => println!("outcome: {error}"),
    }
}

async fn use_store(dir: &Path) -> Result<(), StoreError> {
    let store = open(dir)?;
    let read = store.scan(b"", None, usize::MAX).await;
    let written = store.commit(puts([(b"a", b"1"), (&7_u32.to_be_bytes(), b"2")])).await;
    let closed = store.close().await;
    read.map(drop).and(written).and(closed)
}
