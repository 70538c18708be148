//! Rotation of `unlock`: other unlock keys for the root slots in files, in place of those they have, and a new root.
//!
//! Slots in hardware keep their own: those keys are replaced by slot rotations.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::finalizer::Job;
use super::records::{decode, encode};
use super::session::{Session, reading};
use super::writer::Write;
use super::{Inner, Vault};
use crate::audit::{Action, Entry, Outcome};
use crate::error::Error;
use crate::root::{FileSlot, Finish, NewUnlock, SlotError};
use crate::time::Timestamp;
use crate::trie::{self, EntryKey, Header, Kind, Op};

impl Vault {
    /// Has these unlock keys, and no others, open the root slots in files; then replaces the root, so that an old image of
    /// a slot and an old unlock key lead to no header that is written from here on.
    ///
    /// Whatever fails half way: one unlock key, of those before or of these, opens all slots, and it may be done again.
    ///
    /// # Errors
    /// [`Error::Invalid`] without an unlock key; [`Error::Conflict`] if all slots are in hardware; [`Error::Slot`] names
    /// one that fails.
    pub async fn change_unlock_keys(&self, unlocks: Vec<NewUnlock>) -> Result<(), Error> {
        let session = self.session()?;
        if unlocks.is_empty() {
            return Err(Error::Invalid {
                field: "unlock keys",
                expected: "at least one: nothing would open the vault",
            });
        }
        if !self.inner.file_slots.iter().any(FileSlot::takes_unlock_keys) {
            let told = "every root slot is in hardware and is opened by its own key: rotate those with `slots rotate`";
            return Err(Error::Conflict(told));
        }
        let (reply, answer) = oneshot::channel();
        session.finalizer.send(Job::Unlocks { unlocks, reply }).map_err(|_| Error::Locked)?;
        answer.await.map_err(|_| Error::Locked)??;
        let edit = (Kind::System, key(&session.snapshot().header), Op::Insert(encode(&Timestamp::now())?));
        let entries = vec![Entry::new(Action::Keys, Outcome::Done)];
        session.finalize(Write { edits: vec![edit], entries, ..Write::default() }).await.map(drop)
    }
}

impl Inner {
    /// First every slot takes the new ones beside its own, then none takes any other.
    pub(super) async fn replace_unlock_keys(
        &self,
        session: &Session,
        unlocks: Vec<NewUnlock>,
    ) -> Result<(), SlotError> {
        let unlocks = Arc::new(unlocks);
        if let Finish::Waiting(slots) = self.roots.retry_behind(&session.root.load_full()).await {
            let (slot, why) = slots.into_iter().next().unwrap_or_default();
            return Err(SlotError::Unreachable { slot, why });
        }
        let slots = || self.file_slots.iter().filter(|slot| slot.takes_unlock_keys());
        for slot in slots() {
            slot.add_unlock_keys(&unlocks).await?;
        }
        for slot in slots() {
            slot.replace_unlock_keys(&unlocks).await?;
        }
        Ok(())
    }
}

/// Since when the present unlock keys are the only ones.
pub(super) async fn since(inner: &Inner, session: &Session) -> Result<Timestamp, Error> {
    reading!(session, |snapshot| since_from(inner, &snapshot.header).await)
}

async fn since_from(inner: &Inner, header: &Header) -> Result<Timestamp, Error> {
    let noted = trie::find(&inner.pages, header, Kind::System, &key(header)).await?;
    noted.map_or_else(|| Ok(header.created_at()), |payload| decode(&payload))
}

fn key(header: &Header) -> EntryKey {
    header.entry_key(Kind::System, "unlock-keys", "", b"", [0; 16])
}
