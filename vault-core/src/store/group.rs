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

/// Why nothing is committed when an engine has lost a thread.
const DEAD: &str = "a thread of the storage engine died";

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
        let work = Work { engine, room, poison: Arc::clone(&poison), waiting };
        let thread = thread::Builder::new().name("vault-commit".into()).spawn(move || work.run())?;
        Ok(Committer { queue, thread: Mutex::new(Some(thread)), poison })
    }

    /// Hands `batch` in and waits until it is durable or refused. A caller that stops waiting does not take it back.
    pub(super) async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        batch.check()?;
        self.check_alive()?;
        let (answer, answered) = oneshot::channel();
        let closed = |_| StoreError::Unavailable("it was closed".into());
        self.queue.send(Message::Commit(Job { batch, answer })).await.map_err(closed)?;
        tokio::select! {
            biased;
            result = answered => result.unwrap_or_else(|_| Err(self.poison.doubt("the commit thread ended"))),
            () = panics::engine_thread_died() => Err(self.poison.doubt(DEAD)),
        }
    }

    /// Whether a write failed, so that nothing more is committed.
    pub(super) fn is_poisoned(&self) -> bool {
        self.check_alive().is_err()
    }

    /// Refuses when a write failed, or would wait for a thread that is gone.
    fn check_alive(&self) -> Result<(), StoreError> {
        if panics::engine_died() {
            self.poison.set(DEAD);
        }
        self.poison.check()
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
        self.0.get().map_or(Ok(()), |why| Err(StoreError::Poisoned(why.clone())))
    }

    /// Poisons, and gives the reason; the first one stays.
    fn set(&self, why: &str) -> &str {
        self.0.get_or_init(|| why.to_owned())
    }

    /// Poisons, and gives the error of a batch that was under way.
    fn doubt(&self, why: &str) -> StoreError {
        StoreError::InDoubt(self.set(why).to_owned())
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
        let admits = self.room.admits(jobs.iter().any(|job| job.batch.reclaim));
        for Job { batch, answer } in jobs {
            let admitted = self.poison.check().and_then(|()| admits.check(batch.reclaim));
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
        let written = written.unwrap_or_else(|panics::Panicked| Err("the storage engine broke down".into()));
        written.map_err(|why| {
            tracing::error!(why, "a write to the store failed: it takes no more writes until a restart");
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
        self.changes.extend(batch.put.into_iter().map(|(key, value)| (key, Some(value))));
        self.changes.extend(batch.delete.into_iter().map(|key| (key, None)));
        self.answers.push(answer);
    }
}

/// A caller who no longer listens is no fault.
fn tell(answer: Answer, result: Result<(), StoreError>) {
    let _ = answer.send(result);
}

#[cfg(test)]
mod tests;
