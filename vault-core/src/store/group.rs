//! Group commit: one thread that turns all waiting batches into one durable write, and stops for good when one fails.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};

use tokio::sync::{mpsc, oneshot};

use super::room::Room;
use super::{Batch, StoreError, panics};

/// Operations (rows put, deleted or expected) after which a group takes no further batch.
const GROUP_OPERATIONS: usize = 1_000;

/// Batches that may wait; more callers wait to hand theirs in.
const QUEUE: usize = 1_024;

/// What a group changes: the new value of each row, or none where it goes.
pub(super) type Changes = HashMap<Vec<u8>, Option<Vec<u8>>>;

/// What group commit needs of an engine.
pub(super) trait Engine: Send + 'static {
    /// The present value of a row.
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Applies all changes or none, durable against power loss once this returns. An error may have done either; the
    /// engine is then written to no more. Says what failed.
    fn write(&mut self, changes: Changes) -> Result<(), String>;
}

/// The way to the commit thread.
pub(super) struct Committer {
    queue: mpsc::Sender<Message>,
    thread: Mutex<Option<JoinHandle<()>>>,
    poison: Arc<Poison>,
}

enum Message {
    Commit(Job),
    Stop,
}

struct Job {
    batch: Batch,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<(), StoreError>>;

/// Why nothing more is committed, once that is so.
#[derive(Default)]
struct Poison(OnceLock<String>);

impl Committer {
    /// Starts the thread.
    pub(super) fn start(engine: impl Engine, room: Arc<Room>) -> std::io::Result<Committer> {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let poison = Arc::new(Poison::default());
        let work = Work {
            engine,
            room,
            poison: Arc::clone(&poison),
            waiting,
        };
        let thread = thread::Builder::new()
            .name("vault-commit".into())
            .spawn(move || work.run())?;
        Ok(Committer {
            queue,
            thread: Mutex::new(Some(thread)),
            poison,
        })
    }

    /// Hands `batch` in and waits until it is durable or refused. A caller that stops waiting does not take it back.
    pub(super) async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        batch.check()?;
        self.poison.check()?;
        let (answer, answered) = oneshot::channel();
        let closed = |_| StoreError::Unavailable("it was closed".into());
        self.queue
            .send(Message::Commit(Job { batch, answer }))
            .await
            .map_err(closed)?;
        tokio::select! {
            biased;
            result = answered => result.unwrap_or_else(|_| Err(self.poison.doubt("the commit thread ended"))),
            () = panics::engine_thread_died() => Err(self.poison.doubt("a thread of the storage engine died")),
        }
    }

    /// Whether a write failed, so that nothing more is committed.
    pub(super) fn is_poisoned(&self) -> bool {
        self.poison.check().is_err()
    }

    /// Commits what is queued, refuses what comes after, and ends the thread. Blocks; may be called again.
    pub(super) fn stop(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(thread) = thread.take() else { return };
        // An error here means the thread has ended already.
        let _ = self.queue.blocking_send(Message::Stop);
        let _ = thread.join();
    }
}

impl Poison {
    fn check(&self) -> Result<(), StoreError> {
        self.0
            .get()
            .map_or(Ok(()), |why| Err(StoreError::Poisoned(why.clone())))
    }

    /// Poisons, and gives the error of a batch that was under way.
    fn doubt(&self, why: &str) -> StoreError {
        StoreError::InDoubt(self.0.get_or_init(|| why.to_owned()).clone())
    }
}

/// The thread's side.
struct Work<E> {
    engine: E,
    room: Arc<Room>,
    poison: Arc<Poison>,
    waiting: mpsc::Receiver<Message>,
}

impl<E: Engine> Work<E> {
    fn run(mut self) {
        while let Some(message) = self.waiting.blocking_recv() {
            let group = self.group(message);
            self.commit(group);
        }
    }

    /// All that waits, up to the size of a group. There is no timer: while one group is made durable, the next gathers.
    fn group(&mut self, first: Message) -> Vec<Job> {
        let mut jobs = Vec::new();
        let mut operations = 0;
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Commit(job) => {
                    operations += job.batch.operations();
                    jobs.push(job);
                }
                // What was queued before still comes out; then `run` finds the queue at its end.
                Message::Stop => self.waiting.close(),
            }
            if operations >= GROUP_OPERATIONS {
                break;
            }
            next = self.waiting.try_recv().ok();
        }
        jobs
    }

    fn commit(&mut self, jobs: Vec<Job>) {
        let mut group = Group::default();
        let admits = self.room.admits();
        for Job { batch, answer } in jobs {
            let admitted = self
                .poison
                .check()
                .and_then(|()| admits.check(batch.reclaim));
            match admitted.and_then(|()| group.check(&batch, &self.engine)) {
                Ok(()) => group.add(batch, answer),
                Err(refusal) => tell(answer, Err(refusal)),
            }
        }
        let result = self.write(group.changes);
        for answer in group.answers {
            tell(answer, result.clone());
        }
    }

    fn write(&mut self, changes: Changes) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let written = panics::contained(|| self.engine.write(changes));
        let written =
            written.unwrap_or_else(|panics::Panicked| Err("the storage engine broke down".into()));
        written.map_err(|why| {
            tracing::error!(
                why,
                "a write to the store failed: it takes no more writes until a restart"
            );
            self.poison.doubt(&why)
        })
    }
}

/// Batches that become one write.
#[derive(Default)]
struct Group {
    changes: Changes,
    answers: Vec<Answer>,
}

impl Group {
    /// Whether the rows are as `batch` expects, once the batches before it in the group are applied.
    fn check(&self, batch: &Batch, engine: &impl Engine) -> Result<(), StoreError> {
        for (key, expect) in &batch.expect {
            let holds = match self.changes.get(key) {
                Some(changed) => expect.holds(changed.as_deref()),
                None => expect.holds(engine.read(key)?.as_deref()),
            };
            if !holds {
                return Err(StoreError::Conflict);
            }
        }
        Ok(())
    }

    /// Later batches win, row by row.
    fn add(&mut self, batch: Batch, answer: Answer) {
        self.changes
            .extend(batch.put.into_iter().map(|(key, value)| (key, Some(value))));
        self.changes
            .extend(batch.delete.into_iter().map(|key| (key, None)));
        self.answers.push(answer);
    }
}

/// A caller who no longer listens is no fault.
fn tell(answer: Answer, result: Result<(), StoreError>) {
    let _ = answer.send(result);
}

#[cfg(test)]
mod tests {
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
        written: std_mpsc::Receiver<Vec<Vec<u8>>>,
    }

    fn bench() -> Bench {
        let (next, script) = std_mpsc::channel();
        let (writes, written) = std_mpsc::channel();
        let room = Arc::new(Room::new(
            Path::new("nowhere"),
            0,
            0,
            Box::new(|_| Err(std::io::ErrorKind::Other.into())),
        ));
        let engine = Scripted {
            rows: HashMap::new(),
            script,
            written: writes,
        };
        Bench {
            committer: Arc::new(Committer::start(engine, room).unwrap()),
            next,
            written,
        }
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
            while self.committer.queue.capacity() < QUEUE {
                std::thread::yield_now();
            }
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
        let sees_first = Batch {
            expect: vec![(b"a".to_vec(), value(b"1"))],
            ..puts([(b"a", b"2")])
        };
        let sees_first = bench.begin(sees_first).await;
        let too_late = Batch {
            expect: vec![(b"a".to_vec(), value(b"1"))],
            ..puts([(b"c", b"3")])
        };
        let too_late = bench.begin(too_late).await;
        let removes = Batch {
            delete: vec![b"b".to_vec()],
            ..Batch::default()
        };
        let removes = bench.begin(removes).await;
        let sees_removal = Batch {
            expect: vec![(b"b".to_vec(), Expect::Absent)],
            ..puts([(b"d", b"4")])
        };
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
        assert_eq!(
            bench.written.recv().unwrap(),
            [b"a".to_vec(), b"b".to_vec(), b"d".to_vec()]
        );

        // The later of two writes of a row is the one that stays.
        let batch = Batch {
            expect: vec![
                (b"a".to_vec(), value(b"2")),
                (b"b".to_vec(), Expect::Absent),
            ],
            ..Batch::default()
        };
        assert_eq!(bench.committer.commit(batch).await, Ok(()));
    }

    #[tokio::test]
    async fn a_failed_write_leaves_its_group_in_doubt_and_ends_all_writing() {
        for (fault, why) in [
            (Next::Fail, "the disk is gone"),
            (Next::Panic, "the storage engine broke down"),
        ] {
            let bench = bench();
            let held = bench.hold().await;
            let one = bench.begin(puts([(b"a", b"1")])).await;
            let other = bench.begin(puts([(b"b", b"1")])).await;
            let conflict = Batch {
                expect: vec![(b"a".to_vec(), Expect::Absent)],
                ..Batch::default()
            };
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
            assert_eq!(
                bench.written.try_iter().count(),
                1,
                "nothing was written after the failure"
            );
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
}
