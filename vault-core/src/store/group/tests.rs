//! Tests of group commit, on an engine that waits for a word of the test before each write.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::mpsc as std_mpsc;

use super::super::Expect;
use super::super::conformance::puts;
use super::*;

/// An engine whose writes wait for a word of the test: what to do next.
struct Scripted {
    rows: HashMap<Vec<u8>, Vec<u8>>,
    script: std_mpsc::Receiver<Next>,
    begun: std_mpsc::Sender<()>,
    written: std_mpsc::Sender<Vec<Vec<u8>>>,
}

enum Next {
    Write,
    Fail,
    Panic,
}

impl Engine for Scripted {
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.rows.get(key).cloned())
    }

    fn write(&mut self, changes: Changes) -> Result<(), String> {
        // Nobody may wait for it any more.
        let _ = self.begun.send(());
        match self.script.recv().unwrap() {
            Next::Write => {}
            Next::Fail => return Err("the disk is gone".into()),
            Next::Panic => panic!("an engine's own words"),
        }
        let mut keys: Vec<Vec<u8>> = changes.keys().cloned().collect();
        keys.sort();
        self.written.send(keys).unwrap();
        for (key, value) in changes {
            match value {
                Some(value) => self.rows.insert(key, value),
                None => self.rows.remove(&key),
            };
        }
        Ok(())
    }
}

struct Bench {
    committer: Arc<Committer>,
    next: std_mpsc::Sender<Next>,
    begun: std_mpsc::Receiver<()>,
    written: std_mpsc::Receiver<Vec<Vec<u8>>>,
}

fn bench() -> Bench {
    let (next, script) = std_mpsc::channel();
    let (begins, begun) = std_mpsc::channel();
    let (writes, written) = std_mpsc::channel();
    let room = Arc::new(Room::new(Path::new("nowhere"), 0, 0, Box::new(|_| Err(std::io::ErrorKind::Other.into()))));
    let engine = Scripted { rows: HashMap::new(), script, begun: begins, written: writes };
    Bench { committer: Arc::new(Committer::start(engine, room).unwrap()), next, begun, written }
}

impl Bench {
    /// Hands a batch in and lets it get to the queue, without an answer yet.
    async fn begin(&self, batch: Batch) -> tokio::task::JoinHandle<Result<(), StoreError>> {
        let committer = Arc::clone(&self.committer);
        let task = tokio::spawn(async move { committer.commit(batch).await });
        // On the one thread of these tests, the task runs until it waits for its answer.
        tokio::task::yield_now().await;
        task
    }

    /// Holds the commit thread in the write of one batch, so that what follows is one group.
    async fn hold(&self) -> tokio::task::JoinHandle<Result<(), StoreError>> {
        let held = self.begin(puts([(b"held", b"")])).await;
        self.begun.recv().unwrap();
        held
    }
}

fn value(bytes: &[u8]) -> Expect {
    Expect::Value(bytes.to_vec())
}

#[tokio::test]
async fn one_group_is_one_write_and_a_conflict_fails_alone() {
    let bench = bench();
    let held = bench.hold().await;
    let first = bench.begin(puts([(b"a", b"1"), (b"b", b"1")])).await;
    let sees_first = Batch { expect: vec![(b"a".to_vec(), value(b"1"))], ..puts([(b"a", b"2")]) };
    let sees_first = bench.begin(sees_first).await;
    let too_late = Batch { expect: vec![(b"a".to_vec(), value(b"1"))], ..puts([(b"c", b"3")]) };
    let too_late = bench.begin(too_late).await;
    let removes = Batch { delete: vec![b"b".to_vec()], ..Batch::default() };
    let removes = bench.begin(removes).await;
    let sees_removal = Batch { expect: vec![(b"b".to_vec(), Expect::Absent)], ..puts([(b"d", b"4")]) };
    let sees_removal = bench.begin(sees_removal).await;

    bench.next.send(Next::Write).unwrap();
    bench.next.send(Next::Write).unwrap();
    assert_eq!(held.await.unwrap(), Ok(()));
    assert_eq!(first.await.unwrap(), Ok(()));
    assert_eq!(sees_first.await.unwrap(), Ok(()));
    assert_eq!(too_late.await.unwrap(), Err(StoreError::Conflict));
    assert_eq!(removes.await.unwrap(), Ok(()));
    assert_eq!(sees_removal.await.unwrap(), Ok(()));
    assert_eq!(bench.written.recv().unwrap(), [b"held".to_vec()]);
    assert_eq!(bench.written.recv().unwrap(), [b"a".to_vec(), b"b".to_vec(), b"d".to_vec()]);

    // The later of two writes of a row is the one that stays.
    let batch =
        Batch { expect: vec![(b"a".to_vec(), value(b"2")), (b"b".to_vec(), Expect::Absent)], ..Batch::default() };
    assert_eq!(bench.committer.commit(batch).await, Ok(()));
}

#[tokio::test]
async fn a_failed_write_leaves_its_group_in_doubt_and_ends_all_writing() {
    for (fault, why) in [(Next::Fail, "the disk is gone"), (Next::Panic, "the storage engine broke down")] {
        let bench = bench();
        let held = bench.hold().await;
        let one = bench.begin(puts([(b"a", b"1")])).await;
        let other = bench.begin(puts([(b"b", b"1")])).await;
        let conflict = Batch { expect: vec![(b"a".to_vec(), Expect::Absent)], ..Batch::default() };
        let conflict = bench.begin(conflict).await;
        bench.next.send(Next::Write).unwrap();
        bench.next.send(fault).unwrap();

        assert_eq!(held.await.unwrap(), Ok(()));
        assert_eq!(one.await.unwrap(), Err(StoreError::InDoubt(why.into())));
        assert_eq!(other.await.unwrap(), Err(StoreError::InDoubt(why.into())));
        assert_eq!(conflict.await.unwrap(), Err(StoreError::Conflict));
        assert!(bench.committer.is_poisoned());
        bench.next.send(Next::Write).unwrap();
        let later = bench.committer.commit(puts([(b"c", b"1")])).await;
        assert_eq!(later, Err(StoreError::Poisoned(why.into())));
        assert_eq!(bench.written.try_iter().count(), 1, "nothing was written after the failure");
    }
}

#[tokio::test]
async fn stopping_commits_what_waits_and_refuses_what_comes() {
    let bench = bench();
    let held = bench.hold().await;
    let waiting = bench.begin(puts([(b"a", b"1")])).await;
    bench.next.send(Next::Write).unwrap();
    bench.next.send(Next::Write).unwrap();
    let committer = Arc::clone(&bench.committer);
    std::thread::spawn(move || committer.stop()).join().unwrap();
    assert_eq!(held.await.unwrap(), Ok(()));
    assert_eq!(waiting.await.unwrap(), Ok(()));
    let late = bench.committer.commit(puts([(b"b", b"1")])).await;
    assert_eq!(late, Err(StoreError::Unavailable("it was closed".into())));
    assert!(!bench.committer.is_poisoned());
}
