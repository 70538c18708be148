//! Retained roots: a backup of the key plane keeps the root that it was made under, until the next one is kept.
//!
//! It begins with the backup, in memory; counts once the backup is *kept*, that is completely written and confirmed; and
//! ends when the next is kept or it is let go. As long as it lasts, shreds since then are refused and not final: together
//! with the backup that root still leads to their keys. What is refused meanwhile is noted beside the slots, for the
//! backup knows nothing of it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::finalizer::Job;
use super::records::{decode, encode};
use super::session::Session;
use super::writer::Write;
use super::{Inner, Vault, erase};
use crate::error::Error;
use crate::ids::{BackupId, ErasureId, RootId, VaultId};
use crate::root::{Finish, Refusal, Refusals, RootEntry};
use crate::store::StoreError;
use crate::time::Timestamp;
use crate::trie::{self, EntryKey, Header, Kind, Op, Pages, TrieError};

/// How long a backup that was begun may take to be confirmed.
const CONFIRM_WITHIN: Duration = Duration::from_secs(3600);

/// A root that is retained for a backup of the key plane, for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetainedRoot {
    /// Its epoch.
    pub epoch: u64,
    /// The archive.
    pub backup: BackupId,
    /// When that was begun.
    pub since: Timestamp,
    root: RootId,
}

/// What is asked of the finalizer.
pub(crate) enum RetainedChange {
    /// The backup is kept: its root stays, others go.
    Kept(BackupId),
    /// The backup failed or nobody confirmed it.
    Dropped(BackupId),
    /// No root is retained any more.
    Forget,
}

/// The job that asks for it.
pub(crate) type RetainedAsk = (RetainedChange, oneshot::Sender<Result<(), Error>>);

/// Keeps what is known of retained roots besides their keys, and notes refusals beside the slots.
pub(crate) struct Keeper {
    vault: VaultId,
    slots: Vec<PathBuf>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    kept: Option<RetainedRoot>,
    begun: Option<(RetainedRoot, Instant)>,
    files: Vec<Refusals>,
    /// Lists that missed something and could not be made whole: beside a slot that was away, for example.
    lagging: HashSet<(RootId, PathBuf)>,
}

impl Vault {
    /// A backup of the key plane whose root is to be retained was completely written: from here on its root is, and the one
    /// of the backup before is not.
    ///
    /// # Errors
    /// [`Error::NotFound`] if no such backup waits to be confirmed; [`Error::Conflict`], or [`Error::Slot`] if shreds or rotations
    /// wait for it, while a slot does not answer.
    pub async fn keep_backup(&self, backup: BackupId) -> Result<(), Error> {
        self.change_retained(RetainedChange::Kept(backup)).await
    }

    /// A backup that was begun is not kept.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Slot`] if shreds or rotations wait for a root slot that does not answer: it is dropped once
    /// that does.
    pub async fn drop_backup(&self, backup: BackupId) -> Result<(), Error> {
        self.change_retained(RetainedChange::Dropped(backup)).await
    }

    /// Lets go of every retained root: shreds that waited become final, and the backup of the key plane opens no more.
    ///
    /// # Errors
    /// [`Error::Locked`]. [`Error::Slot`] if shreds or rotations wait for a root slot that does not answer.
    pub async fn forget_retained(&self) -> Result<(), Error> {
        self.change_retained(RetainedChange::Forget).await
    }

    /// The root that is retained, if one is.
    pub fn retained(&self) -> Option<RetainedRoot> {
        self.inner.keeper.state().kept
    }

    /// What shreds and final forgettings wait for besides the slots: a backup of the key plane whose root is retained.
    pub fn waits_for_backup(&self) -> Option<String> {
        self.inner.session.load_full()?.behind()
    }

    async fn change_retained(&self, change: RetainedChange) -> Result<(), Error> {
        let session = self.session()?;
        let (reply, answer) = oneshot::channel();
        session.finalizer.send(Job::Retained((change, reply))).map_err(|_| Error::LockedMeanwhile)?;
        answer.await.map_err(|_| Error::LockedMeanwhile)?
    }
}

impl Keeper {
    pub(crate) fn new(vault: VaultId, slots: Vec<PathBuf>) -> Self {
        Self { vault, slots, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes refusals for every retained root. One whose refusals cannot be noted anywhere is given back: it must go.
    pub(crate) fn note(&self, refusals: &[Refusal]) -> Vec<RootId> {
        let mut state = self.state();
        let State { files, lagging: behind, .. } = &mut *state;
        let lost = files.iter().filter(|file| {
            let lags = |slot: &&PathBuf| {
                // It would be taken for whole again.
                if behind.contains(&(file.root, (*slot).clone())) {
                    return true;
                }
                let appended = file.append(slot, refusals);
                if let Err(error) = &appended {
                    tracing::warn!(slot = %slot.display(), %error, "refusals could not be noted beside a root slot");
                }
                appended.is_err()
            };
            let lagging: Vec<&PathBuf> = self.slots.iter().filter(lags).collect();
            if lagging.len() == self.slots.len() {
                return true;
            }
            for slot in lagging {
                let mark = (file.root, slot.clone());
                if self.catch_up(file, slot) {
                    behind.remove(&mark)
                } else {
                    behind.insert(mark)
                };
            }
            false
        });
        lost.map(|file| file.root).collect()
    }

    /// Makes a list that lags whole from the others; one that stays behind goes, for it would be taken for complete.
    fn catch_up(&self, file: &Refusals, slot: &Path) -> bool {
        let others: Vec<PathBuf> = self.slots.iter().filter(|other| *other != slot).cloned().collect();
        let written = file.gather(&others, false).is_some_and(|all| file.write(slot, &all).is_ok());
        if !written {
            self.drop_list(file, slot);
        }
        written
    }

    fn drop_list(&self, file: &Refusals, slot: &Path) {
        if let Err(error) = file.wipe(slot) {
            let slot = slot.display();
            tracing::error!(%slot, %error, "a list of refusals beside a root slot lags and stays: never restore from this slot alone");
        }
    }

    /// After an unlock: takes up what is noted for a root that is retained, and makes it the same beside every slot. Answers
    /// `false` if it is whole beside none: nobody knows then who was refused.
    fn take_up(&self, root: &RootEntry) -> bool {
        let file = Refusals::of(root, self.vault);
        let Some(known) = file.gather(&self.slots, true) else { return false };
        for slot in &self.slots {
            if let Err(error) = file.write(slot, &known) {
                tracing::warn!(slot = %slot.display(), %error, "refusals could not be noted beside a root slot");
                self.drop_list(&file, slot);
                self.state().lagging.insert((file.root, slot.clone()));
            }
        }
        self.state().files.push(file);
        true
    }

    /// Removes what a crash left of roots that are not retained any more.
    fn sweep(&self) {
        let kept: Vec<u64> = self.state().files.iter().map(|file| file.epoch).collect();
        for slot in &self.slots {
            if let Err(error) = Refusals::sweep(slot, &kept) {
                tracing::warn!(slot = %slot.display(), %error, "old lists of refusals beside a root slot could not be removed");
            }
        }
    }

    /// Whether refusals have to be noted at all.
    pub(crate) fn is_noting(&self) -> bool {
        !self.state().files.is_empty()
    }

    fn begin(&self, root: &RootEntry) -> Result<(), Error> {
        let file = Refusals::of(root, self.vault);
        let made = self.slots.iter().filter(|slot| file.write(slot, &[]).is_ok()).count();
        if made == 0 {
            return Err(Error::Conflict(
                "no file can be made beside a root slot, and refusals must be noted there while \
                                        a root is retained: see to the slots' disks",
            ));
        }
        self.state().files.push(file);
        Ok(())
    }

    fn end(&self, root: RootId) {
        let mut state = self.state();
        state.lagging.retain(|(of, _)| *of != root);
        let at = state.files.iter().position(|file| file.root == root);
        if let Some(file) = at.map(|at| state.files.remove(at)) {
            self.wipe(&file);
        }
    }

    fn wipe(&self, file: &Refusals) {
        for slot in &self.slots {
            if let Err(error) = file.wipe(slot) {
                let slot = slot.display();
                tracing::warn!(%slot, %error, "refusals beside a slot could not be wiped; they are sealed under a root that is gone");
            }
        }
    }

    /// Forgets everything, for locking the vault.
    pub(crate) fn clear(&self) {
        *self.state() = State::default();
    }
}

impl Inner {
    /// Begins to retain `root` for a backup. No root batch may run meanwhile.
    pub(super) fn begin_retaining(&self, session: &Session, root: &RootEntry, backup: BackupId) -> Result<(), Error> {
        let before = self.keeper.state().begun.take();
        if let Some((before, _)) = before {
            self.release(before.root);
        }
        let since = Timestamp::now();
        let begun = RetainedRoot { epoch: root.epoch, backup, since, root: root.id };
        if self.keeper.state().kept.is_none_or(|kept| kept.root != root.id) {
            self.keeper.begin(root)?;
            self.roots.retain(root);
        }
        self.keeper.state().begun = Some((begun, Instant::now()));
        self.tell_behind(session);
        Ok(())
    }

    /// After an unlock: takes up the roots that are retained, with what is refused and not final yet.
    pub(super) async fn resume_retaining(
        &self,
        session: &Session,
        unfinished: &[(ErasureId, EntryKey)],
    ) -> Result<(), Error> {
        let header = session.snapshot().header.clone();
        let named = named(&self.pages, &header).await?;
        let mut entries = self.roots.retained_entries();
        self.keeper.clear();
        entries.retain(|root| {
            let known = self.keeper.take_up(root);
            if !known {
                tracing::error!(
                    "a retained root is let go, for the list of refusals since then is gone or damaged beside every root slot: \
                     back up the key plane anew"
                );
                self.roots.release(root.id);
            }
            known
        });
        self.keeper.sweep();
        self.keeper.state().kept = named.into_iter().find(|named| entries.iter().any(|entry| entry.id == named.root));
        if self.keeper.is_noting() {
            // A crash may have come between a refusal and its note.
            let mut refusals = Vec::with_capacity(unfinished.len());
            for (erasure, directory) in unfinished {
                let compartment = erase::find(self, &header, *erasure).await?.compartment;
                let subject = super::subject::tag_of(directory);
                refusals.push(Refusal { at: Timestamp::now(), subject, compartment });
            }
            if !refusals.is_empty() {
                self.note_refusals(&refusals);
            }
        }
        self.tell_behind(session);
        Ok(())
    }

    /// Notes refusals that are durable by now. A root for which that fails is let go: its backup would bring them back.
    pub(super) fn note_refusals(&self, refusals: &[Refusal]) {
        for lost in self.keeper.note(refusals) {
            tracing::error!(
                "a retained root is let go, for refusals since then could not be noted: back up the key plane anew"
            );
            {
                let mut state = self.keeper.state();
                state.kept = state.kept.filter(|kept| kept.root != lost);
                state.begun = state.begun.take().filter(|(begun, _)| begun.root != lost);
            }
            self.release(lost);
        }
    }

    fn release(&self, root: RootId) {
        let kept = self.keeper.state().kept;
        if kept.is_none_or(|kept| kept.root != root) {
            self.roots.release(root);
            self.keeper.end(root);
        }
    }

    /// Says in the status what shreds wait for.
    fn tell_behind(&self, session: &Session) {
        let state = self.keeper.state();
        let oldest = state.kept.or(state.begun.as_ref().map(|(begun, _)| *begun));
        session.set_behind(oldest.map(|root| {
            let RetainedRoot { epoch, since, .. } = root;
            format!("the key plane backup of {since} (epoch {epoch}) is behind: back up the key plane")
        }));
    }

    /// Does what is asked; the finalizer settles the slots then. Between two root batches only.
    pub(super) async fn change_retained(&self, session: &Session, change: RetainedChange) -> Result<(), Error> {
        let outcome = match change {
            RetainedChange::Kept(backup) => self.keep(session, backup).await,
            RetainedChange::Dropped(backup) => {
                let begun = self.keeper.state().begun.take_if(|(begun, _)| begun.backup == backup);
                let (begun, _) = begun.ok_or(Error::NotFound("backup that waits to be confirmed"))?;
                self.release(begun.root);
                Ok(())
            }
            RetainedChange::Forget => self.forget(session).await,
        };
        self.tell_behind(session);
        outcome
    }

    /// Whether this drops a backup that waits to be confirmed.
    pub(super) fn drops(&self, change: &RetainedChange) -> bool {
        let begun = self.keeper.state().begun.as_ref().map(|(begun, _)| begun.backup);
        matches!(change, RetainedChange::Dropped(backup) if begun == Some(*backup))
    }

    /// Drops a backup that nobody confirmed; answers whether there was one.
    pub(super) fn drop_unconfirmed(&self, session: &Session) -> bool {
        let over = self.keeper.state().begun.take_if(|(_, at)| at.elapsed() > CONFIRM_WITHIN);
        if let Some((begun, _)) = &over {
            tracing::warn!(backup = %begun.backup, "a backup was not confirmed within an hour: its root is not retained");
            self.release(begun.root);
            self.tell_behind(session);
        }
        over.is_some()
    }

    async fn keep(&self, session: &Session, backup: BackupId) -> Result<(), Error> {
        let begun = self.keeper.state().begun.as_ref().map(|(begun, _)| *begun);
        let begun = begun.filter(|b| b.backup == backup).ok_or(Error::NotFound("backup that waits to be confirmed"))?;
        // In every slot before the store names it, for recovery keeps only what is named.
        if let Finish::Waiting(_) = self.roots.finish(&session.root.load_full()).await {
            return Err(Error::Conflict("a root slot does not answer: see to it, then confirm the backup again"));
        }
        self.name(session, &[begun]).await?;
        let before = {
            let mut state = self.keeper.state();
            state.begun = None;
            state.kept.replace(begun)
        };
        if let Some(before) = before.filter(|before| before.root != begun.root) {
            self.release(before.root);
        }
        Ok(())
    }

    async fn forget(&self, session: &Session) -> Result<(), Error> {
        self.name(session, &[]).await?;
        let state = std::mem::take(&mut *self.keeper.state());
        state.files.iter().for_each(|file| self.keeper.wipe(file));
        for (_, root) in self.roots.retained() {
            self.roots.release(root);
        }
        Ok(())
    }

    async fn name(&self, session: &Session, roots: &[RetainedRoot]) -> Result<(), Error> {
        let header = session.snapshot().header.clone();
        let edits = vec![(Kind::System, record_key(&header), Op::Insert(encode(&roots)?))];
        session.commit(vec![Write { edits, reclaim: true, ..Write::default() }]).await.map(drop)
    }
}

/// The retained roots that the vault names: recovery keeps these and no others.
pub(super) async fn named(pages: &Pages, header: &Header) -> Result<Vec<RetainedRoot>, Error> {
    match trie::find(pages, header, Kind::System, &record_key(header)).await? {
        Some(payload) => decode(&payload),
        None => Ok(Vec::new()),
    }
}

/// Their ids, for recovery.
pub(super) async fn named_ids(pages: &Pages, header: &Header) -> Result<Vec<RootId>, StoreError> {
    let damaged = || StoreError::Corrupt("the record of retained roots does not open".to_owned());
    match trie::find(pages, header, Kind::System, &record_key(header)).await {
        Ok(None) => Ok(Vec::new()),
        Ok(Some(payload)) => {
            let named: Vec<RetainedRoot> = decode(&payload).map_err(|_| damaged())?;
            Ok(named.into_iter().map(|named| named.root).collect())
        }
        Err(TrieError::Store(error)) => Err(error),
        Err(_) => Err(damaged()),
    }
}

fn record_key(header: &Header) -> EntryKey {
    header.entry_key(Kind::System, "retained", "", b"", [0; 16])
}
