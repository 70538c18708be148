//! What exists only while the vault is unlocked: the snapshot for readers, and the way to the writer and the finalizer.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{RwLock, mpsc, oneshot, watch};

use super::ages::LayerStatus;
use super::erase::OpenTable;
use super::finalizer::Job;
use super::types::{Counts, RotationProgress};
use super::writer::{Command, Write};
use crate::audit::{TreeHead, trail};
use crate::error::Error;
use crate::root::RootEntry;
use crate::schema::Schema;
use crate::store::Batch;
use crate::trie::Header;

/// A committed state of the vault. Never changes; the next commit publishes another one.
pub(crate) struct Snapshot {
    pub(crate) header: Arc<Header>,
    pub(crate) counts: Counts,
    pub(crate) sequence: u64,
    /// What of the audit log was durable by then.
    pub(crate) logged: TreeHead,
    /// Whether that was of another log than the present one, which commits do not tell of yet.
    pub(crate) log_is_other: bool,
    pub(crate) schema: Arc<Schema>,
}

/// From unlock to lock.
pub(crate) struct Session {
    snapshot: ArcSwap<Snapshot>,
    /// The root in force; the finalizer replaces it.
    pub(crate) root: ArcSwap<RootEntry>,
    /// Held by the writer from before a commit to after its publication.
    pub(crate) publication: RwLock<()>,
    pub(crate) writer: mpsc::Sender<Command>,
    pub(crate) finalizer: mpsc::UnboundedSender<Job>,
    /// Counts finished root batches and settled erasures; waiters look again when it changes.
    pub(crate) progress: watch::Sender<u64>,
    /// What root batches wait for, in words for the operator.
    waiting_for: Mutex<Vec<String>>,
    /// The backup that shreds wait for.
    behind: Mutex<Option<String>>,
    /// Rows of pages that commits wrote since a backup began to copy.
    changed: Mutex<Option<BTreeSet<Vec<u8>>>>,
    /// How far the rotations under way are.
    rotating: Mutex<Vec<RotationProgress>>,
    /// How old keys are.
    key_ages: Mutex<Vec<LayerStatus>>,
    stopping: AtomicBool,
    /// The erasures that are not ended.
    pub(crate) open: OpenTable,
    /// Evidence of epochs before this one is told: a scan from the first would pass the places of all rows that were removed.
    pub(crate) untold_from: AtomicU64,
}

impl Session {
    pub(crate) fn new(
        snapshot: Snapshot,
        root: RootEntry,
        writer: mpsc::Sender<Command>,
        finalizer: mpsc::UnboundedSender<Job>,
    ) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            root: ArcSwap::from_pointee(root),
            publication: RwLock::new(()),
            writer,
            finalizer,
            progress: watch::Sender::new(0),
            waiting_for: Mutex::new(Vec::new()),
            behind: Mutex::default(),
            changed: Mutex::default(),
            rotating: Mutex::default(),
            key_ages: Mutex::default(),
            stopping: AtomicBool::new(false),
            open: OpenTable::default(),
            untold_from: AtomicU64::new(0),
        }
    }

    /// Asks whoever waits for a slot to give up waiting.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The newest published state.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The newest state, once no commit stands between the store and its publication.
    pub(crate) async fn settled(&self) -> Arc<Snapshot> {
        let _publication = self.publication.read().await;
        self.snapshot()
    }

    pub(crate) fn publish(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }

    /// Commits ordinary writes as one durable group. Answers for each whether it was committed; one that was not was
    /// prepared from a state that has changed since.
    ///
    /// In the scope of a request, a write without entries gets one of what was noted so far.
    pub(crate) async fn commit(&self, mut writes: Vec<Write>) -> Result<Vec<bool>, Error> {
        writes.iter_mut().for_each(told);
        let (reply, answer) = oneshot::channel();
        self.writer.send(Command::Data { writes, reply }).await.map_err(|_| Error::LockedMeanwhile)?;
        // A writer that was told to stop does not come to what is queued behind that.
        let ended = |_| if self.stopping() { Error::LockedMeanwhile } else { Error::Failed };
        let committed = answer.await.map_err(ended)?.map_err(Error::from)?;
        if committed.contains(&true) {
            trail::committed();
        }
        Ok(committed)
    }

    /// Commits a write in a root batch, and waits until the root before is gone from every slot.
    pub(crate) async fn finalize(&self, write: Write) -> Result<Finalized, Error> {
        self.commit_with_root(write, true).await
    }

    /// Commits a write in a root batch; waits until it is final, or only until it is durable.
    pub(crate) async fn commit_with_root(&self, mut write: Write, final_: bool) -> Result<Finalized, Error> {
        told(&mut write);
        let (reply, answer) = oneshot::channel();
        self.finalizer.send(Job::Final { write, final_, reply }).map_err(|_| Error::LockedMeanwhile)?;
        let done = answer.await.map_err(|_| Error::LockedMeanwhile)??;
        if done.held {
            trail::committed();
        }
        Ok(done)
    }

    /// Answers what they waited for before.
    pub(crate) fn set_waiting(&self, reasons: Vec<String>) -> Vec<String> {
        std::mem::replace(&mut *self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner), reasons)
    }

    pub(crate) fn waiting(&self) -> Vec<String> {
        let mut waiting = self.waiting_for.lock().unwrap_or_else(PoisonError::into_inner).clone();
        waiting.extend(self.behind());
        waiting
    }

    pub(crate) fn set_rotating(&self, progress: Vec<RotationProgress>) {
        *self.rotating.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }

    /// How far the rotations under way are.
    pub(crate) fn rotating(&self) -> Vec<RotationProgress> {
        self.rotating.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How old keys are, as they were looked at last.
    pub(crate) fn key_ages(&self) -> Vec<LayerStatus> {
        self.key_ages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_key_ages(&self, ages: Vec<LayerStatus>) {
        *self.key_ages.lock().unwrap_or_else(PoisonError::into_inner) = ages;
    }

    /// What shreds wait for besides the slots.
    pub(crate) fn behind(&self) -> Option<String> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets [`Session::behind`].
    pub(crate) fn set_behind(&self, reason: Option<String>) {
        *self.behind.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// From here on, which pages commits write. For one backup at a time.
    pub(crate) fn watch_pages(&self) -> Watch<'_> {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = Some(BTreeSet::new());
        Watch(&self.changed)
    }

    /// The rows of pages that a batch writes, if anybody wants to know.
    pub(crate) fn pages_of(&self, batch: &Batch) -> Vec<Vec<u8>> {
        match &*self.changed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(_) => batch.put.iter().map(|(key, _)| key).filter(|key| key.first() == Some(&b'p')).cloned().collect(),
            None => Vec::new(),
        }
    }

    /// Notes them, once they are written.
    pub(crate) fn note_pages(&self, pages: Vec<Vec<u8>>) {
        if let Some(changed) = &mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner) {
            changed.extend(pages);
        }
    }
}

/// What came of a write in a root batch.
pub(crate) struct Finalized {
    /// Whether it was committed: not if it was prepared from a state that has changed.
    pub(crate) held: bool,
    /// What it waits for to be final: a root that was retained when the slots were written still leads to what it replaced.
    pub(crate) waits_for: Option<String>,
}

/// What a write that brings no entries tells the log.
fn told(write: &mut Write) {
    if write.entries.is_empty() {
        write.entries = trail::so_far();
    }
}

/// Tells which pages commits write, until it is dropped.
pub(crate) struct Watch<'s>(&'s Mutex<Option<BTreeSet<Vec<u8>>>>);

impl Watch<'_> {
    /// The rows that were written since the last asking.
    pub(crate) fn changed(&self) -> Vec<Vec<u8>> {
        let mut changed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changed.replace(BTreeSet::new()).into_iter().flatten().collect()
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Reads from the newest snapshot. A page or key that is not there may mean that the snapshot is too old: then the newest
/// is taken and the reading repeated. If there is no newer one, it is damage; or the vault was locked, and another session
/// goes on.
macro_rules! reading {
    ($session:expr, |$snapshot:ident| $body:expr) => {{
        let mut $snapshot = $session.snapshot();
        let mut attempts = 0;
        loop {
            let outcome = $body;
            if !matches!(outcome, Err($crate::error::Error::Damaged(_))) || attempts == 16 {
                break outcome;
            }
            let newest = $session.settled().await;
            if newest.sequence == $snapshot.sequence {
                break if $session.stopping() { Err($crate::error::Error::LockedMeanwhile) } else { outcome };
            }
            $snapshot = newest;
            attempts += 1;
        }
    }};
}
pub(crate) use reading;
