//! A vault from backups: any old data plane, a current key plane, and the root slots, which a restore never makes.
//!
//! Everything is checked before anything is written. A row marks the store as unfinished until the last batch, which also
//! changes the root: from then on neither archive's key plane is current any more. Killed before, it is run again.

mod check;
mod drill;
mod mend;
mod rows;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

pub use drill::DrillReport;

use super::life::{Finalizing, open_slots};
use super::meta::{Meta, MetaHead};
use super::session::{Session, Snapshot};
use super::types::{VaultOptions, VerifyReport};
use super::writer::{Command, QUEUE, Write, Writer};
use super::{Inner, Vault, meta, outbox, schema};
use crate::audit::{Action, Entry, Log, Outcome, TreeHead};
use crate::backup::{BackupError, Identities, Info};
use crate::crypto::Random;
use crate::error::Error;
use crate::memory;
use crate::root::{FileSlot, Finish, Refusals, RootEntry, SlotPlace, Unlock};
use crate::store::{Batch, Store};
use crate::time::Timestamp;
use check::Checked;

/// The key of the row that marks a restore as unfinished.
pub(super) const MARKER: &[u8] = b"r";

/// What to restore, and to where.
pub struct RestoreAsk {
    /// Empty, or left by a restore that was cut short.
    pub store: Arc<dyn Store>,
    /// The vault's root slots.
    pub places: Vec<SlotPlace>,
    /// What opens the archives.
    pub identities: Arc<Identities>,
    /// The key plane.
    pub keys: PathBuf,
    /// The data plane: a whole one, then its increments in order.
    pub data: Vec<PathBuf>,
    /// How the vault is opened.
    pub options: VaultOptions,
    /// Go on even if it is not known who was refused since the key plane was made: they would come back.
    pub accept_unknown_refusals: bool,
}

/// What a restore did.
#[derive(Debug)]
pub struct RestoreReport {
    /// What the key plane says of itself.
    pub keys: Info,
    /// What the last of the data planes says of itself.
    pub data: Info,
    /// The epoch that the slots were at.
    pub slot_epoch: u64,
    /// Whether the key plane was opened by a root retained for it.
    pub retained: bool,
    /// Living subjects.
    pub subjects: u64,
    /// Data rows restored.
    pub rows: u64,
    /// Data rows left out, for no key leads to them: their subjects were shredded since, or enrolled after the key plane.
    pub left_out: u64,
    /// The subjects that these were of.
    pub left_out_subjects: u64,
    /// Compartments of living subjects without a row in the data planes: they hold nothing now.
    pub missing: u64,
    /// Rows that the key plane's keys do not open, as after a field was forgotten for good; they hold nothing now.
    pub unreadable: u64,
    /// Subjects whose lookup entries were brought up to their data.
    pub lookups_mended: u64,
    /// Subjects and compartments refused again, for they were since the key plane was made.
    pub refused_again: u64,
    /// Whether the audit log is not the one that the archives tell of, so that what changed since is not known.
    pub log_is_other: bool,
    /// Whether refusals since then are not known, and that was accepted.
    pub unknown_refusals: bool,
    /// What the scrub found afterwards.
    pub verify: VerifyReport,
}

/// What a restore is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreStep {
    /// Archives are read through and checked.
    Checking,
    /// Rows are written.
    Writing,
    /// Lookups are compared with the data.
    Mending,
    /// The scrub.
    Verifying,
}

/// Is told what it is at and how much of that is done.
pub type RestoreProgress<'a> = &'a (dyn Fn(RestoreStep, u64) + Sync);

impl Vault {
    /// Restores a vault whose slots `unlock` opens, and leaves it unlocked and at rest, as [`Vault::unlock_at_rest`] does.
    ///
    /// # Errors
    /// [`Error::Backup`] says which archive is not whole, not of this vault, or older than the slots;
    /// [`Error::Exists`] if the store is not empty; as [`Vault::open`] and [`Vault::unlock`]. Nothing was restored then.
    pub async fn restore(
        ask: &RestoreAsk,
        unlock: Unlock,
        progress: RestoreProgress<'_>,
    ) -> Result<(Self, RestoreReport), Error> {
        let refused = usable(&*ask.store).await?;
        if let Some(error) = refused {
            return Err(error);
        }
        let vault = check::vault_of(ask).await?;
        let slots = open_slots(&ask.places, vault)?;
        let restored = Self::assemble(ask.store.clone(), vault, slots.clone(), ask.options.clone());
        restored.unlock_for_restore(unlock).await?;
        let outcome = restored.restore_unlocked(ask, progress).await;
        if outcome.is_err() {
            restored.lock().await?;
        }
        outcome.map(|report| (restored, report))
    }

    async fn restore_unlocked(&self, ask: &RestoreAsk, progress: RestoreProgress<'_>) -> Result<RestoreReport, Error> {
        let inner = &self.inner;
        let checked = check::archives(inner, ask, progress).await?;
        let refusals = self.refusals_since(&checked, ask.accept_unknown_refusals)?;
        let told = inner.outbox.log().map(|log| outbox::newest_commit(log, 0)).transpose()?.unwrap_or(0);
        rows::clear(&*inner.store).await?;
        let mark = serde_json::to_vec(&checked.keys).map_err(|_| Error::Failed)?;
        rows::put(&*inner.store, vec![(MARKER.to_vec(), mark)]).await?;
        let counted = rows::write(inner, ask, &checked, progress).await?;

        let Checked { root, header, meta, slot_epoch, .. } = &checked;
        let mut counts = meta.counts;
        counts.rows = counted.rows;
        let head = MetaHead { vault: inner.vault, epoch: header.epoch().max(*slot_epoch) };
        // Beyond every commit that the log tells of, or the outbox would take the next ones for told.
        let sequence = meta.sequence.max(told) + 1;
        // Whatever log there is now: that of the archives may be lost.
        let logged = inner.outbox.log().and_then(Log::head).unwrap_or_default();
        let meta_row = Meta { head, sequence, counts, logged, at: Timestamp::settled() }.seal(header.meta_key());
        rows::put(&*inner.store, vec![(meta::KEY.to_vec(), meta_row.clone())]).await?;

        // Beyond every epoch that the slots have seen, so that the next one is the vault's own.
        let header = header.at_epoch(head.epoch);
        let root_as_it_is = checked.root.duplicate();
        let root = RootEntry { epoch: head.epoch, retained: false, ..root.duplicate() };
        let schema = Arc::new(schema::load(inner, &header).await?);
        let log_is_other = !inner.log_continues(meta.logged).await?;
        let snapshot = Snapshot { header: Arc::new(header), counts, sequence, logged, log_is_other: false, schema };
        let mending = Mending::start(self, snapshot, root, meta_row);
        let lookups_mended = mend::lookups(inner, &mending.session, progress).await?;
        if log_is_other {
            mend::forget_log(inner, &mending.session).await?;
        }
        let refused_again =
            mend::refuse_again(inner, &mending.session, refusals.as_deref().unwrap_or_default()).await?;
        mending.finish(self, root_as_it_is).await?;
        wipe_refusals(inner.file_slots.iter(), &Refusals::of(&checked.root, inner.vault));

        inner.pages.clear();
        self.start(&mut *inner.life.lock().await, Finalizing::AtRest).await?;
        let verify = self.verify(&|done, _| progress(RestoreStep::Verifying, done)).await?;
        Ok(RestoreReport {
            slot_epoch: *slot_epoch,
            retained: checked.retained,
            subjects: counts.subjects,
            rows: counted.rows,
            left_out: counted.left_out,
            left_out_subjects: counted.left_out_subjects,
            missing: counted.missing,
            unreadable: counted.unreadable,
            lookups_mended,
            refused_again,
            log_is_other,
            unknown_refusals: checked.retained && refusals.is_none(),
            verify,
            keys: checked.keys,
            data: checked.data,
        })
    }

    /// What was refused since the key plane was made; none if nobody knows. With a root that is not retained, it is the
    /// state of the vault's last root batch; a list is there only if it was to be retained when a slot stopped answering.
    fn refusals_since(&self, checked: &Checked, accept: bool) -> Result<Option<Vec<crate::root::Refusal>>, Error> {
        let noted = Refusals::of(&checked.root, self.inner.vault);
        let slots: Vec<PathBuf> = self.inner.file_slots.iter().map(|slot| slot.path().to_owned()).collect();
        match noted.gather(&slots, false) {
            None if !checked.retained => Ok(Some(Vec::new())),
            None if !accept => Err(BackupError::UnknownRefusals { since: checked.keys.created_at }.into()),
            found => Ok(found),
        }
    }

    async fn unlock_for_restore(&self, unlock: Unlock) -> Result<(), Error> {
        let slots = self.inner.file_slots.clone();
        let opened = memory::blocking(move || super::life::unlock_slots(&slots, &unlock)).await;
        Ok(opened.map_err(|_| Error::Failed)??)
    }
}

/// Takes the present log for the vault's own in place of the one it had, whose entries are told nowhere any more, and has `told`
/// logged. Before anybody else commits; the last commit is the one that tells of the present log, so that a crash leaves it
/// refused.
pub(super) async fn take_other_log(inner: &Inner, session: &Session, told: Entry) -> Result<(), Error> {
    mend::forget_log(inner, session).await?;
    let now = session.snapshot();
    let Snapshot { counts, sequence, .. } = *now;
    let (header, schema) = (now.header.clone(), now.schema.clone());
    session.publish(Snapshot { header, counts, sequence, logged: TreeHead::default(), log_is_other: false, schema });
    session.commit(vec![Write { entries: vec![told], reclaim: true, ..Write::default() }]).await.map(drop)
}

/// A restored store as it is brought up to its data, by the writer but without a finalizer.
struct Mending {
    session: Arc<Session>,
    writer: tokio::task::JoinHandle<()>,
}

impl Mending {
    fn start(vault: &Vault, snapshot: Snapshot, root: RootEntry, meta_row: Vec<u8>) -> Self {
        let inner = &vault.inner;
        let (commands, queue) = mpsc::channel(QUEUE);
        let (jobs, _) = mpsc::unbounded_channel();
        let session = Arc::new(Session::new(snapshot, root, commands, jobs));
        let writer = Writer::new(inner.clone(), session.clone(), meta_row);
        Self { session, writer: tokio::spawn(writer.run(queue)) }
    }

    /// The root batch that makes the store a vault: up to its commit the slots still hold what they held.
    /// `archived`: the key plane's root as the slots have it, which stays there until then, however often this is cut short.
    async fn finish(self, vault: &Vault, archived: RootEntry) -> Result<(), Error> {
        let roots = &vault.inner.roots;
        let current = self.session.root.load_full();
        roots.take_as_they_are();
        if archived != *current {
            roots.retain_only(vec![archived]);
        }
        let next = Arc::new(roots.stage(&current, &mut Random::new(64)).await?.next);
        let entries = vec![Entry::new(Action::Restore, Outcome::Done)];
        let writes = vec![Write { delete: vec![MARKER.to_vec()], entries, reclaim: true, ..Write::default() }];
        let (reply, answer) = oneshot::channel();
        let command = Command::Root { next: next.clone(), writes, rekey: None, reply };
        self.session.writer.send(command).await.map_err(|_| Error::Failed)?;
        answer.await.map_err(|_| Error::Failed)??;
        roots.retain_only(Vec::new());
        if let Finish::Waiting(slots) = roots.finish(&next).await {
            tracing::warn!(waiting_for = ?slots, "a root slot still holds the root from before the restore");
        }
        let _ = self.session.writer.send(Command::Stop).await;
        let _ = self.writer.await;
        Ok(())
    }
}

/// Whether a restore may begin here; otherwise why not.
async fn usable(store: &dyn Store) -> Result<Option<Error>, Error> {
    let empty = store.scan(&[], None, 1).await?.is_empty();
    let unfinished = store.get(MARKER).await?.is_some();
    Ok((!empty && !unfinished).then_some(Error::Backup(BackupError::NotEmpty)))
}

fn wipe_refusals<'s>(slots: impl Iterator<Item = &'s FileSlot>, noted: &Refusals) {
    for slot in slots {
        if let Err(error) = noted.wipe(slot.path()) {
            tracing::warn!(%error, "refusals beside a root slot could not be wiped; they are sealed under a root that is gone");
        }
    }
}

/// Why a store is not opened: a restore into it did not come to its end.
pub(super) async fn refuse_unfinished(store: &dyn Store) -> Result<(), Error> {
    match store.get(MARKER).await? {
        Some(_) => Err(BackupError::Unfinished.into()),
        None => Ok(()),
    }
}

/// One durable batch.
async fn commit(store: &dyn Store, batch: Batch) -> Result<(), Error> {
    Ok(store.commit(batch).await?)
}

#[cfg(test)]
mod tests;
