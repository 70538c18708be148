//! Tests of the engines on disk: the suite, and what only a disk can do to it.
#![allow(clippy::unwrap_used)]

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tempfile::TempDir;

use super::super::conformance::{conformance, puts};
use super::*;

/// Name the engine and the directory to the test that is run as a process of its own.
const CHILD_ENGINE: &str = "VAULT_TEST_STORE_ENGINE";
const CHILD_DIR: &str = "VAULT_TEST_STORE_DIR";

const ENGINES: [EngineName; 2] = [EngineName::Sled, EngineName::Fjall];

const MIB: u64 = 1 << 20;

pub(in super::super) fn options() -> DiskOptions {
    DiskOptions { cache_bytes: 16 * MIB, reserve_bytes: MIB, min_free_bytes: 64 * MIB }
}

pub(in super::super) fn open(engine: EngineName, dir: &Path) -> Result<DiskStore, StoreError> {
    DiskStore::open(engine, dir, options())
}

/// A row of a store that is to be damaged, long enough to be found again in its file.
pub(in super::super) fn value(n: u32) -> Vec<u8> {
    n.to_be_bytes().repeat(50)
}

/// A closed store of `rows` rows.
pub(in super::super) async fn filled(engine: EngineName, rows: u32) -> TempDir {
    let dir = TempDir::new().unwrap();
    let store = open(engine, dir.path()).unwrap();
    for n in 0..rows {
        store.commit(puts([(&n.to_be_bytes(), &value(n))])).await.unwrap();
    }
    store.close().await.unwrap();
    dir
}

pub(in super::super) fn copy(from: &Path) -> TempDir {
    let to = TempDir::new().unwrap();
    copy_into(from, to.path());
    to
}

fn copy_into(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_into(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sled_conforms() {
    let dirs = TempDir::new().unwrap();
    let made = conforms(EngineName::Sled, dirs.path()).await;
    for number in 0..made {
        let blobs = fs::read_dir(dirs.path().join(number.to_string()).join("blobs")).unwrap();
        assert_eq!(blobs.count(), 0, "no page became a file that is never synced");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fjall_conforms() {
    let dirs = TempDir::new().unwrap();
    assert!(conforms(EngineName::Fjall, dirs.path()).await > 0);
}

/// Runs the suite on stores in directories with numbers for names; answers how many.
async fn conforms(engine: EngineName, dirs: &Path) -> u64 {
    let made = AtomicU64::new(0);
    conformance(async || {
        let number = made.fetch_add(1, Ordering::Relaxed);
        open(engine, &dirs.join(number.to_string())).unwrap()
    })
    .await;
    made.into_inner()
}

#[tokio::test]
async fn keeps_everything_over_a_reopening() {
    for engine in ENGINES {
        let dir = filled(engine, 500).await;
        for round in 0..3_u8 {
            let store = open(engine, dir.path()).unwrap();
            for n in 0..500_u32 {
                assert_eq!(store.get(&n.to_be_bytes()).await, Ok(Some(value(n))), "{engine}, round {round}");
            }
            assert_eq!(store.scan(b"", None, usize::MAX).await.unwrap().len(), 500 + usize::from(round));
            store.commit(puts([(&[b'r', round], b"")])).await.unwrap();
            // Closed by being dropped, in turn with `close`.
            if round == 1 {
                store.close().await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn a_closed_store_says_so() {
    for engine in ENGINES {
        let dir = filled(engine, 1).await;
        let store = open(engine, dir.path()).unwrap();
        assert_eq!(store.health().state, HealthState::Ok);
        assert_eq!(store.health().engine, engine.as_str());
        assert!(store.health().disk_bytes.unwrap() > 0);
        store.close().await.unwrap();
        let closed = StoreError::Unavailable("it was closed".into());
        assert_eq!(store.get(b"a").await, Err(closed.clone()));
        assert_eq!(store.scan(b"", None, 1).await, Err(closed.clone()));
        assert_eq!(store.commit(puts([(b"a", b"1")])).await, Err(closed));
        assert_eq!(store.health().state, HealthState::Poisoned);
        // It is free for another while this one is still held.
        let again = open(engine, dir.path()).unwrap();
        assert_eq!(again.get(&0_u32.to_be_bytes()).await, Ok(Some(value(0))));
    }
}

#[tokio::test]
async fn a_second_opening_is_refused() {
    for engine in ENGINES {
        let dir = filled(engine, 1).await;
        let store = open(engine, dir.path()).unwrap();
        // What a running engine may be writing is not tidied away by one that comes second.
        let snapshot = dir.path().join("snap.0000000000000001.generating");
        fs::write(&snapshot, b"half").unwrap();
        assert!(matches!(open(engine, dir.path()), Err(StoreError::Locked(_))));
        assert!(snapshot.exists());
        let outcome = child(engine, dir.path());
        assert!(outcome.starts_with("the store is already open"), "{outcome}");
        store.commit(puts([(b"a", b"1")])).await.unwrap();
        drop(store);
        assert_eq!(child(engine, dir.path()), "opened");
    }
}

#[tokio::test]
async fn a_store_that_is_held_stays_locked() {
    for engine in ENGINES {
        let dir = filled(engine, 1).await;
        let store = open(engine, dir.path()).unwrap();
        let held = store.hold().unwrap();
        store.close().await.unwrap();
        assert!(matches!(store.hold(), Err(StoreError::Unavailable(_))));
        assert!(matches!(open(engine, dir.path()), Err(StoreError::Locked(_))));
        drop(held);
        assert_eq!(child(engine, dir.path()), "opened");
    }
}

#[tokio::test]
async fn the_store_of_another_engine_is_refused_and_left_alone() {
    for (engine, other) in [(ENGINES[0], ENGINES[1]), (ENGINES[1], ENGINES[0])] {
        let dir = filled(engine, 3).await;
        assert_eq!(EngineName::found_in(dir.path()), Some(engine));
        let Err(refusal) = open(other, dir.path()) else { panic!("{other} opened a store of {engine}") };
        assert_eq!(refusal, StoreError::OtherEngine { found: engine, asked: other });
        let text = refusal.to_string();
        assert!(text.contains(&format!("engine = \"{engine}\"")) && text.contains(&format!("migrate --to {other}")));
        assert_eq!(EngineName::found_in(dir.path()), Some(engine));
        let store = open(engine, dir.path()).unwrap();
        assert_eq!(store.scan(b"", None, 9).await.unwrap().len(), 3);
    }
    assert_eq!(EngineName::found_in(TempDir::new().unwrap().path()), None);
}

#[test]
fn engines_are_known_by_their_names() {
    for engine in ENGINES {
        assert_eq!(engine.as_str().parse(), Ok(engine));
    }
    assert!("rocksdb".parse::<EngineName>().is_err());
    assert_eq!(EngineName::default(), EngineName::Sled);
}

#[tokio::test]
async fn a_full_disk_is_refused_in_time_and_recovered_from() {
    for engine in ENGINES {
        let dir = TempDir::new().unwrap();
        let free = Arc::new(AtomicU64::new(100 * MIB));
        let probed = Arc::clone(&free);
        let probe = move |_: &Path| Ok(probed.load(Ordering::Relaxed));
        let store = DiskStore::open_on(engine, dir.path(), options(), Box::new(probe)).unwrap();
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
        assert!(reserve.exists(), "nor is it given up while there is other room");

        // A small reserve is of use as well, when it is all there is.
        free.store(0, Ordering::Relaxed);
        assert_eq!(store.commit(reclaim(b"a")).await, Err(StoreError::Full), "the disk is full all the same");
        assert!(!reserve.exists(), "the reserve was given up for it");
        free.store(MIB, Ordering::Relaxed);
        store.commit(reclaim(b"a")).await.unwrap();
        free.store(MIB / 4, Ordering::Relaxed);
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
}

#[tokio::test]
async fn a_store_on_a_full_disk_opens_and_reads() {
    for engine in ENGINES {
        let dir = filled(engine, 10).await;
        let reserve = dir.path().join("reserve");
        let store = DiskStore::open_on(engine, dir.path(), options(), Box::new(|_| Ok(30 * MIB))).unwrap();
        assert!(reserve.exists(), "there is room to open it");
        store.close().await.unwrap();
        let store = DiskStore::open_on(engine, dir.path(), options(), Box::new(|_| Ok(0))).unwrap();
        assert!(!reserve.exists(), "it was given up for the engine to open");
        assert_eq!(store.health().state, HealthState::Full);
        assert_eq!(store.scan(b"", None, 99).await.unwrap().len(), 10);
    }
}

#[test]
fn the_disk_tells_its_room() {
    let free = free_bytes(&std::env::temp_dir()).unwrap();
    assert!(free > 0);
    assert!(free_bytes(Path::new("/nowhere/at all")).is_err());
}

/// Damages each of `files` of a closed store, a bit here and the length there, each in a copy; says how each went.
pub(in super::super) fn damaged(engine: EngineName, whole: &Path, files: &[PathBuf], places: u64) -> Vec<String> {
    assert_eq!(child(engine, copy(whole).path()), "opened", "the control: a whole copy");
    let mut outcomes = Vec::new();
    for file in files {
        let length = written_length(file);
        for step in 0..places {
            let place = (length * step / places + 17 * step).min(length);
            let flipped = copy(whole);
            flip(&flipped.path().join(file.strip_prefix(whole).unwrap()), place);
            outcomes.push(child(engine, flipped.path()));

            let truncated = copy(whole);
            let file = truncated.path().join(file.strip_prefix(whole).unwrap());
            File::options().write(true).open(file).unwrap().set_len(place).unwrap();
            outcomes.push(child(engine, truncated.path()));
        }
    }
    for outcome in &outcomes {
        let told = outcome == "opened" || outcome.starts_with("the store is ");
        assert!(told, "{outcome}");
    }
    outcomes
}

fn flip(path: &Path, place: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[place as usize] ^= 1 << (place % 8);
    fs::write(path, bytes).unwrap();
}

/// Up to where a file holds anything.
fn written_length(path: &Path) -> u64 {
    let bytes = fs::read(path).unwrap();
    bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64
}

#[tokio::test]
async fn a_dead_thread_of_the_engine_ends_writing() {
    for engine in ENGINES {
        let dir = filled(engine, 10).await;
        let process = start("store::disk::tests::as_a_process_that_loses_a_thread", engine, dir.path());
        assert_eq!(outcome(process), "as it should be");
        assert_eq!(child(engine, dir.path()), "opened", "the next process finds everything in order");
    }
}

pub(in super::super) fn asked() -> Option<(EngineName, PathBuf)> {
    let dir = std::env::var_os(CHILD_DIR)?;
    Some((std::env::var(CHILD_ENGINE).unwrap().parse().unwrap(), dir.into()))
}

/// Does nothing unless run by the test above.
#[tokio::test]
async fn as_a_process_that_loses_a_thread() {
    let Some((engine, dir)) = asked() else {
        return;
    };
    let store = open(engine, &dir).unwrap();
    store.commit(puts([(b"a", b"1")])).await.unwrap();
    let dies = |name: &str| thread::Builder::new().name(name.into()).spawn(|| panic!("quoting a row")).unwrap();
    let threads = if engine == EngineName::Sled { sled::THREADS } else { fjall::THREADS };
    assert!(dies(&format!("{}7", threads[0])).join().is_err());
    let refused = StoreError::Poisoned("a thread of the storage engine died".into());
    assert_eq!(store.commit(puts([(b"a", b"2")])).await, Err(refused));
    assert_eq!(store.health().state, HealthState::Poisoned);
    assert_eq!(store.get(b"a").await, Ok(Some(b"1".to_vec())), "it still reads");
    assert_eq!(store.close().await, Ok(()), "nothing waits for a thread that did not hold anything");
    println!("outcome: as it should be");
}

/// Opens, reads, writes and closes a store in a process of its own, for damage may kill threads the engine shares
/// between stores. Says how it went.
pub(in super::super) fn child(engine: EngineName, dir: &Path) -> String {
    outcome(start("store::disk::tests::as_a_process_of_its_own", engine, dir))
}

/// Starts one test of this file as a process of its own.
pub(in super::super) fn start(test: &str, engine: EngineName, dir: &Path) -> Child {
    let mut process = Command::new(std::env::current_exe().unwrap());
    process.args(["--exact", test, "--nocapture"]).env(CHILD_DIR, dir).env(CHILD_ENGINE, engine.as_str());
    process.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// What the process says; fails if it panics, hangs, or lets out a word of a panic.
pub(in super::super) fn outcome(mut process: Child) -> String {
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
    let Some((engine, dir)) = asked() else {
        return;
    };
    match use_store(engine, &dir).await {
        Ok(()) => println!("outcome: opened"),
        Err(error) => println!("outcome: {error}"),
    }
}

async fn use_store(engine: EngineName, dir: &Path) -> Result<(), StoreError> {
    let store = open(engine, dir)?;
    let read = store.scan(b"", None, usize::MAX).await;
    let written = store.commit(puts([(b"a", b"1"), (&7_u32.to_be_bytes(), b"2")])).await;
    let closed = store.close().await;
    read.map(drop).and(written).and(closed)
}
