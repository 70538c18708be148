//! Retained roots: a backup of the key plane keeps the root that it was made under, until the next one is kept.
//!
//! It begins with the backup, in memory; counts once the backup is *kept*, that is completely written and confirmed; and
//! ends when the next is kept or it is let go. As long as it lasts, shreds since then are refused and not final: together
//! with the backup that root still leads to their keys. What is refused meanwhile is noted beside the slots, for the
//! backup knows nothing of it.

mod keeper;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;

pub(crate) use self::keeper::Keeper;

use super::finalizer::Job;
use super::records::{decode, encode};
use super::session::Session;
use super::writer::Write;
use super::{Inner, Vault, erase};
use crate::error::Error;
use crate::ids::{BackupId, ErasureId, RootId};
use crate::root::{Finish, Refusal, RootEntry};
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

impl Inner {
    /// Begins to retain `root` for a backup. No root batch may run meanwhile.
    pub(super) async fn begin_retaining(
        &self,
        session: &Session,
        root: &RootEntry,
        backup: BackupId,
    ) -> Result<(), Error> {
        let before = self.keeper.state().begun.take();
        if let Some((before, _)) = before {
            self.release(before.root).await;
        }
        let since = Timestamp::now();
        let begun = RetainedRoot { epoch: root.epoch, backup, since, root: root.id };
        if self.keeper.state().kept.is_none_or(|kept| kept.root != root.id) {
            self.keeper.begin(root, || session.stopping()).await?;
            self.roots.retain(root);
        }
        self.keeper.state().begun = Some((begun, Instant::now()));
        self.tell_behind(session);
        if session.stopping() {
            // The vault may have forgotten its keys by now, and these came after.
            self.keeper.state().begun = None;
            self.release(root.id).await;
            return Err(Error::LockedMeanwhile);
        }
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
        self.keeper.clear().await;
        let mut unknown = Vec::new();
        for root in &entries {
            if !self.keeper.take_up(root).await {
                tracing::error!(
                    "a retained root is let go, for the list of refusals since then is gone or damaged beside every root slot: \
                     back up the key plane anew"
                );
                self.roots.release(root.id);
                unknown.push(root.id);
            }
        }
        entries.retain(|root| !unknown.contains(&root.id));
        self.keeper.sweep().await;
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
                self.note_refusals(refusals).await;
            }
        }
        self.tell_behind(session);
        Ok(())
    }

    /// Notes refusals that are durable by now. A root for which that fails is let go: its backup would bring them back.
    pub(super) async fn note_refusals(&self, refusals: Vec<Refusal>) {
        for lost in self.keeper.note(refusals).await {
            tracing::error!(
                "a retained root is let go, for refusals since then could not be noted: back up the key plane anew"
            );
            {
                let mut state = self.keeper.state();
                state.kept = state.kept.filter(|kept| kept.root != lost);
                state.begun = state.begun.take().filter(|(begun, _)| begun.root != lost);
            }
            self.release(lost).await;
        }
    }

    /// Looks after the lists now and then.
    pub(super) async fn mend_lists(&self, session: &Session) {
        self.keeper.mend_all().await;
        // A root may have been let go by itself.
        self.tell_behind(session);
    }

    async fn release(&self, root: RootId) {
        let kept = self.keeper.state().kept;
        if kept.is_none_or(|kept| kept.root != root) {
            self.roots.release(root);
            self.keeper.end(root).await;
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
                self.release(begun.root).await;
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
    pub(super) async fn drop_unconfirmed(&self, session: &Session) -> bool {
        let over = self.keeper.state().begun.take_if(|(_, at)| at.elapsed() > CONFIRM_WITHIN);
        if let Some((begun, _)) = &over {
            tracing::warn!(backup = %begun.backup, "a backup was not confirmed within an hour: its root is not retained");
            self.release(begun.root).await;
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
            self.release(before.root).await;
        }
        Ok(())
    }

    async fn forget(&self, session: &Session) -> Result<(), Error> {
        self.name(session, &[]).await?;
        self.keeper.end_all().await;
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
