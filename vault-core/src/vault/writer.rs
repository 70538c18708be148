//! The writer: the one task that changes the vault. It drains its queue into one batch, commits once, publishes a new
//! snapshot, then answers everybody.
//!
//! Whoever wants to change something prepares a [`Write`] from a snapshot: the sealed rows, the edits of the trie, and
//! guards that say what he saw. The writer holds the guards against the present state; a write whose guards fail is
//! handed back to be prepared again, and its group mates go on.

mod write;

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub(crate) use write::{Delta, Guard, Write};

use super::Inner;
use super::evidence::{Destroyed, Shredding};
use super::finalizer::Job;
use super::meta::{self, Meta, MetaHead};
use super::session::{Session, Snapshot};
use super::{outbox, renew, row};
use crate::audit::{Entry, Log, trail};
use crate::crypto::digest;
use crate::error::Error;
use crate::memory;
use crate::root::{Refusal, RootEntry};
use crate::schema::Schema;
use crate::store::{Batch, Expect, HealthState, Row, StoreError};
use crate::time::Timestamp;
use crate::trie::{self, Applied, Edits, Header, Kind, Mode, RekeyCursor, RekeyStep, Side, TrieError};

/// The most writes that share one commit.
const GROUP_MAX: usize = 512;
/// Rows of the outbox that one commit removes.
const SPENT_MAX: usize = 64;
/// Commands that may wait for the writer.
pub(super) const QUEUE: usize = 4096;

/// Why a whole group was not committed. Nothing of it is stored, except perhaps after `Failed`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GroupError {
    DiskFull,
    TooLarge,
    Damaged,
    Failed,
}

impl From<GroupError> for Error {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::DiskFull => Self::DiskFull,
            GroupError::TooLarge => Self::TooLarge,
            GroupError::Damaged => Self::Damaged("a page that the write needs"),
            GroupError::Failed => Self::Failed,
        }
    }
}

/// What a root batch did.
pub(crate) struct RootDone {
    pub(crate) committed: Vec<bool>,
    pub(crate) rekeyed: u64,
    pub(crate) next_cursor: Option<RekeyCursor>,
    /// Whether it drew another META key.
    pub(crate) renewed: bool,
    /// To be awaited before anybody learns of refusals in it.
    pub(crate) noting: Option<Noting>,
}

/// Refusals that are being noted beside the slots.
pub(crate) type Noting = JoinHandle<()>;

/// What the writer is asked for.
pub(crate) enum Command {
    /// Ordinary writes that are prepared together and committed together.
    Data { writes: Vec<Write>, reply: oneshot::Sender<Result<Vec<bool>, GroupError>> },
    /// A root batch; `next` is staged in every slot.
    Root {
        next: Arc<RootEntry>,
        writes: Vec<Write>,
        rekey: Option<RekeyStep>,
        reply: oneshot::Sender<Result<RootDone, GroupError>>,
    },
    /// Finish what was queued before, then end.
    Stop,
}

type DataRequest = (Vec<Write>, oneshot::Sender<Result<Vec<bool>, GroupError>>);

/// The writer's own state.
pub(crate) struct Writer {
    inner: Arc<Inner>,
    session: Arc<Session>,
    /// META as it lies in the store: expected by every commit.
    meta_row: Vec<u8>,
}

impl Writer {
    /// The writer of a session, which stands at this META.
    pub(super) fn new(inner: Arc<Inner>, session: Arc<Session>, meta_row: Vec<u8>) -> Self {
        Self { inner, session, meta_row }
    }

    /// Runs until it is told to stop or the engine fails. Whoever asks later is told that the vault is locked.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        let _alarm = Alarm::of(&self.inner);
        self.serve(&mut queue).await;
        // A queue that is only dropped may keep what was being sent just then, and who sent it would wait for ever.
        queue.close();
        while queue.recv().await.is_some() {}
    }

    async fn serve(&mut self, queue: &mut mpsc::Receiver<Command>) {
        let mut next = None;
        loop {
            let command = match next.take() {
                Some(command) => Some(command),
                None => queue.recv().await,
            };
            match command {
                Some(Command::Data { writes, reply }) => {
                    let mut group = vec![(writes, reply)];
                    next = gather(&mut group, queue);
                    memory::apart(|| self.data(group)).await;
                }
                Some(Command::Root { next, writes, rekey, reply }) => {
                    let outcome = memory::apart(|| self.root(&next, writes, rekey)).await;
                    // The finalizer is gone only if the vault is being locked; then recovery settles the slots.
                    let _ = reply.send(outcome);
                }
                Some(Command::Stop) => return memory::apart(|| self.empty_outbox()).await,
                None => return,
            }
        }
    }

    async fn data(&mut self, group: Vec<DataRequest>) {
        let reclaims = |(writes, _): &DataRequest| writes.iter().all(|write| write.reclaim);
        let mixed = group.iter().any(reclaims) && !group.iter().all(reclaims);
        if mixed && self.inner.store.health().state == HealthState::Full {
            // What may use the space that is kept for it is not refused along with what may not.
            let (reclaiming, rest) = group.into_iter().partition(reclaims);
            self.together(reclaiming).await;
            return self.together(rest).await;
        }
        self.together(group).await;
    }

    /// Commits requests as one.
    async fn together(&mut self, group: Vec<DataRequest>) {
        let (requests, replies): (Vec<_>, Vec<_>) = group.into_iter().unzip();
        let sizes: Vec<usize> = requests.iter().map(Vec::len).collect();
        let refuse = |writes: &Vec<Write>| writes.iter().any(|write| !write.refusals.is_empty());
        let refusing: Vec<bool> = requests.iter().map(refuse).collect();
        let writes: Vec<Write> = requests.into_iter().flatten().collect();
        let outcome = self.commit_data(writes).await;
        let (outcome, noting) = match outcome {
            Ok((committed, noting)) => (Ok(committed), noting),
            Err(error) => (Err(error), None),
        };
        let mut committed = outcome.as_deref().unwrap_or_default();
        let mut waiting = Vec::new();
        for ((reply, size), refuses) in replies.into_iter().zip(sizes).zip(refusing) {
            let answer = outcome.as_ref().map_err(|error| *error).map(|_| {
                let (own, rest) = committed.split_at(size);
                committed = rest;
                own.to_vec()
            });
            match refuses && noting.is_some() {
                true => waiting.push((reply, answer)),
                // A caller that went away does not undo what is committed.
                false => drop(reply.send(answer)),
            }
        }
        if let Some(noting) = noting {
            // Nobody else waits for the slots.
            tokio::spawn(async move {
                // It only fails with the process.
                if noting.await.is_ok() {
                    waiting.into_iter().for_each(|(reply, answer)| drop(reply.send(answer)));
                }
            });
        }
    }

    async fn commit_data(&mut self, writes: Vec<Write>) -> Result<(Vec<bool>, Option<Noting>), GroupError> {
        let snapshot = self.session.snapshot();
        let root = self.session.root.load_full();
        let merged = self.merge(&snapshot, writes).await?;
        if merged.is_empty() {
            return Ok((merged.committed, None));
        }
        let mode = Mode::Data { root: &root.key };
        let applied =
            trie::apply(&self.inner.pages, &snapshot.header, merged.edits, mode).await.map_err(group_error)?;
        let noting = self.commit(&snapshot, applied, merged.rest).await?;
        Ok((merged.committed, noting))
    }

    async fn root(
        &mut self,
        next: &Arc<RootEntry>,
        writes: Vec<Write>,
        rekey: Option<RekeyStep>,
    ) -> Result<RootDone, GroupError> {
        let snapshot = self.session.snapshot();
        let merged = self.merge(&snapshot, writes).await?;
        let rekeys = rekey.is_some();
        let beside = match merged.rest.renew {
            true => renew::rows(&*self.inner.store, &merged.rest.delete).await.map_err(|e| group_error(e.into()))?,
            false => None,
        };
        let renewed = beside.is_some();
        let mode = Mode::Root { next: &next.key, rekey, renew: renewed, now: Timestamp::now() };
        let applied =
            trie::apply(&self.inner.pages, &snapshot.header, merged.edits, mode).await.map_err(group_error)?;
        let (rekeyed, next_cursor) = (applied.rekeyed, applied.next_cursor.clone());
        // A shred may use the space that is kept for it, whatever goes along with it; a rotation of pages alone may not.
        let reclaim = !merged.rest.shreds.is_empty() || !rekeys;
        let mut rest = Rest { reclaim, ..merged.rest };
        let evidence = self.evidence(&snapshot.header, &applied, &rest.shreds).await?;
        rest.put.extend(evidence);
        let headers = (&*snapshot.header, &applied.header);
        rest.put.extend(beside.into_iter().flatten().filter_map(|row| renew::seal_anew(headers, row)));
        let noting = self.commit(&snapshot, applied, rest).await?;
        // Before anybody commits under the old one again.
        self.session.root.store(next.clone());
        Ok(RootDone { committed: merged.committed, rekeyed, next_cursor, renewed, noting })
    }

    /// What is kept of the shreds of a root batch until they are final.
    async fn evidence(&self, before: &Header, applied: &Applied, shreds: &[Shredding]) -> Result<Vec<Row>, GroupError> {
        if shreds.is_empty() {
            return Ok(Vec::new());
        }
        let row = before.current_row().unwrap_or_default();
        let slots: Vec<String> = self.inner.roots.status().into_iter().map(|slot| slot.name).collect();
        let sealed = self.inner.store.get(row).await.map_err(|e| group_error(TrieError::Store(e)))?.unwrap_or_default();
        Destroyed::rows((before, &sealed), applied, &slots, shreds).map_err(|_| GroupError::TooLarge)
    }

    /// Holds every write's guards against the present state and puts the good ones together.
    async fn merge(&self, snapshot: &Snapshot, writes: Vec<Write>) -> Result<Merged, GroupError> {
        let mut merged = Merged::default();
        let mut touched = HashSet::new();
        for write in writes {
            let holds = merged.fits(snapshot, &write) && self.holds(snapshot, &write.guards, &touched).await?;
            merged.committed.push(holds);
            if holds {
                touched.extend(write.guards.into_iter().map(Guard::place));
                for (kind, key, op) in write.edits {
                    merged.edits.push(kind, key, op);
                }
                for (key, op) in write.beside {
                    merged.edits.push_to(Kind::Lookups, Side::Beside, key, op);
                }
                if let Some(change) = write.succession {
                    merged.edits.succeed(Kind::Lookups, change);
                }
                merged.rest.put.extend(write.put);
                merged.rest.delete.extend(write.delete);
                merged.rest.delta.add(write.delta);
                merged.rest.shreds.extend(write.shreds);
                merged.rest.refusals.extend(write.refusals);
                for entry in write.entries {
                    match write.together {
                        true => trail::add(&mut merged.rest.entries, entry),
                        false => merged.rest.entries.push(entry),
                    }
                }
                merged.rest.reclaim &= write.reclaim;
                merged.rest.renew |= write.renew;
                merged.rest.schema = write.schema.or(merged.rest.schema.take());
            }
        }
        Ok(merged)
    }

    async fn holds(
        &self,
        snapshot: &Snapshot,
        guards: &[Guard],
        touched: &HashSet<Vec<u8>>,
    ) -> Result<bool, GroupError> {
        for guard in guards {
            if touched.contains(&guard.place_of()) {
                return Ok(false);
            }
            let holds = match guard {
                Guard::Entry { kind, key, seen } => {
                    let payload =
                        trie::find(&self.inner.pages, &snapshot.header, *kind, key).await.map_err(group_error)?;
                    payload.map(|p| digest(&p)) == *seen
                }
                Guard::Row { key, version } => {
                    let row = self.inner.store.get(key).await.map_err(|e| group_error(TrieError::Store(e)))?;
                    row.map(|value| row::version_of(&value)) == version.map(Some)
                }
            };
            if !holds {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// To be awaited before anybody learns that they are refused.
    fn note_refusals(&self, refusals: Vec<Refusal>) -> Option<Noting> {
        if refusals.is_empty() || !self.inner.keeper.is_noting() {
            return None;
        }
        let (inner, unnoted) = (self.inner.clone(), self.inner.keeper.unnoted());
        Some(tokio::spawn(async move {
            inner.note_refusals(refusals).await;
            drop(unnoted);
        }))
    }

    /// At the end: makes the log durable, and removes what it has from the outbox.
    async fn empty_outbox(&mut self) {
        let Some(log) = self.inner.outbox.log().cloned() else { return };
        let durable = async {
            self.inner.outbox.flush()?;
            log.durable(log.size()).await
        };
        if let Err(error) = durable.await {
            tracing::warn!(%error, "the audit log is completed at the next unlock");
            return;
        }
        while !*self.inner.failed.borrow() && self.inner.outbox.has_spent() {
            if self.commit_nothing().await.is_err() {
                return;
            }
        }
    }

    /// A commit that only removes rows of the outbox.
    async fn commit_nothing(&mut self) -> Result<(), GroupError> {
        let (snapshot, root) = (self.session.snapshot(), self.session.root.load_full());
        let mode = Mode::Data { root: &root.key };
        let applied =
            trie::apply(&self.inner.pages, &snapshot.header, Edits::default(), mode).await.map_err(group_error)?;
        self.commit(&snapshot, applied, Merged::default().rest).await.map(drop)
    }

    /// One atomic, durable batch with META; then the new snapshot.
    async fn commit(
        &mut self,
        before: &Snapshot,
        mut applied: Applied,
        rest: Rest,
    ) -> Result<Option<Noting>, GroupError> {
        let counts = rest.delta.apply(before.counts, applied.page_delta);
        let header = &applied.header;
        let head = MetaHead { vault: self.inner.vault, epoch: header.epoch() };
        let head_of_log = self.inner.outbox.log().filter(|_| !before.log_is_other).and_then(Log::head);
        let logged = head_of_log.filter(|head| head.size > before.logged.size).unwrap_or(before.logged);
        let meta = Meta { head, sequence: before.sequence + 1, counts, logged, at: Timestamp::settled() };
        let meta_row = meta.seal(header.meta_key());
        let stamped = rest.entries.into_iter().map(|entry| Entry { commit: Some(meta.sequence), ..entry });
        let entries: Vec<Entry> = stamped.filter(|_| self.inner.outbox.log().is_some()).collect();
        let outgoing = outbox::rows(header, meta.sequence, &entries);
        let spent = self.inner.outbox.spent(SPENT_MAX);
        let mut batch = Batch { reclaim: rest.reclaim, ..Batch::default() };
        batch.expect.push((meta::KEY.to_vec(), Expect::Value(self.meta_row.clone())));
        batch.put.append(&mut applied.put);
        batch.delete.append(&mut applied.delete);
        batch.put.extend(rest.put);
        batch.delete.extend(rest.delete);
        let keys: Vec<Vec<u8>> = outgoing.iter().map(|(key, _)| key.clone()).collect();
        batch.put.extend(outgoing);
        if rest.renew {
            batch.put.retain(|(key, _)| !spent.contains(key));
        }
        batch.delete.extend(spent.iter().cloned());
        batch.put.push((meta::KEY.to_vec(), meta_row.clone()));

        // Whoever misses a page from here on waits for the publication before he calls it damage.
        let session = self.session.clone();
        let pages = session.pages_of(&batch);
        let _publication = session.publication.write().await;
        let outcome = self.inner.store.commit(batch).await;
        if outcome.is_err() {
            self.inner.outbox.keep(spent);
        }
        match outcome {
            Ok(()) => {}
            Err(StoreError::Full) => return Err(GroupError::DiskFull),
            Err(StoreError::TooLarge) => return Err(GroupError::TooLarge),
            Err(error) => {
                tracing::error!(%error, "the storage engine failed; nothing more is acknowledged");
                self.inner.failed.send_replace(true);
                return Err(GroupError::Failed);
            }
        }
        session.note_pages(pages);
        self.inner.pages.publish(&applied);
        if !applied.worn.is_empty() {
            // The finalizer is gone only if the vault is being locked; the next reseal tells it again.
            let _ = self.session.finalizer.send(Job::Worn(std::mem::take(&mut applied.worn)));
        }
        self.meta_row = meta_row;
        let schema = rest.schema.unwrap_or_else(|| before.schema.clone());
        self.session.publish(Snapshot {
            header: Arc::new(applied.header),
            counts,
            sequence: meta.sequence,
            logged,
            log_is_other: before.log_is_other,
            schema,
        });
        self.inner.outbox.committed(keys, entries);
        Ok(self.note_refusals(rest.refusals))
    }
}

/// Tells that the engine failed if the writer panics: whether its last batch landed is not known then.
pub(super) struct Alarm(watch::Sender<bool>);

impl Alarm {
    pub(super) fn of(inner: &Inner) -> Self {
        Self(inner.failed.clone())
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.send_replace(true);
        }
    }
}

/// Takes what waits into the group; answers a command that has to wait for its own turn.
fn gather(group: &mut Vec<DataRequest>, queue: &mut mpsc::Receiver<Command>) -> Option<Command> {
    let mut size: usize = group.iter().map(|(writes, _)| writes.len()).sum();
    while size < GROUP_MAX {
        match queue.try_recv() {
            Ok(Command::Data { writes, reply }) => {
                size += writes.len();
                group.push((writes, reply));
            }
            Ok(other) => return Some(other),
            Err(_) => return None,
        }
    }
    None
}

fn group_error(error: TrieError) -> GroupError {
    match error {
        TrieError::TooLarge => GroupError::TooLarge,
        TrieError::Store(StoreError::Full) => GroupError::DiskFull,
        other => {
            tracing::error!(error = %other, "a write met a page that is missing or damaged");
            GroupError::Damaged
        }
    }
}

/// The writes of a group that hold, put together.
struct Merged {
    committed: Vec<bool>,
    edits: Edits,
    rest: Rest,
}

/// What a commit takes besides the edits of the trie.
struct Rest {
    put: Vec<Row>,
    delete: Vec<Vec<u8>>,
    delta: Delta,
    shreds: Vec<Shredding>,
    refusals: Vec<Refusal>,
    entries: Vec<Entry>,
    reclaim: bool,
    renew: bool,
    schema: Option<Arc<Schema>>,
}

impl Default for Merged {
    fn default() -> Self {
        let rest = Rest {
            put: Vec::new(),
            delete: Vec::new(),
            delta: Delta::default(),
            shreds: Vec::new(),
            refusals: Vec::new(),
            entries: Vec::new(),
            reclaim: true,
            renew: false,
            schema: None,
        };
        Self { committed: Vec::new(), edits: Edits::default(), rest }
    }
}

impl Merged {
    fn is_empty(&self) -> bool {
        let rest = &self.rest;
        self.edits.is_empty() && rest.put.is_empty() && rest.delete.is_empty() && rest.entries.is_empty()
    }

    /// Whether a write was prepared under the schema that is in force after the writes before it and under the present
    /// generations of lookups, and finds the vault as empty as it needs it.
    fn fits(&self, snapshot: &Snapshot, write: &Write) -> bool {
        let version = self.rest.schema.as_ref().unwrap_or(&snapshot.schema).version;
        let subjects = snapshot.counts.subjects.saturating_add_signed(self.rest.delta.subjects);
        let generations = snapshot.header.generations(Kind::Lookups);
        write.under.is_none_or(|under| under == version)
            && write.lookups.is_none_or(|prepared| prepared == generations)
            && !(write.without_subjects && subjects > 0)
    }
}
