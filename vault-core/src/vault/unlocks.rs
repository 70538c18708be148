//! Rotation of `unlock`: other unlock keys for the root slots in files, in place of those they have, and a new root.
//!
//! Slots in hardware keep their own: those keys are replaced by slot rotations.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::finalizer::Job;
use super::session::Session;
use super::types::PlaceNew;
use super::{Inner, Vault};
use crate::error::Error;
use crate::memory;
use crate::root::{FileSlot, Finish, NEW_UNLOCKS_MAX, NewUnlock, SlotError};

/// Why unlock keys were not replaced.
pub(super) struct Undone {
    pub(super) error: Error,
    /// Whether nothing was changed, or all of it was taken back.
    pub(super) untouched: bool,
}

/// Before anything is changed.
impl From<SlotError> for Undone {
    fn from(error: SlotError) -> Self {
        Self { error: error.into(), untouched: true }
    }
}

/// Half way.
fn cut_short(error: impl Into<Error>) -> Undone {
    Undone { error: error.into(), untouched: false }
}

/// Other unlock keys, on their way to the finalizer.
pub(crate) struct UnlocksAsk {
    unlocks: Vec<NewUnlock>,
    place: PlaceNew,
    reply: oneshot::Sender<Result<(), Undone>>,
}

impl UnlocksAsk {
    /// Nothing was done.
    pub(super) fn refuse(self, error: SlotError) {
        let _ = self.reply.send(Err(error.into()));
    }
}

impl Vault {
    /// Whether these can take the place of those before.
    pub(super) fn check_unlock_keys(&self, unlocks: &[NewUnlock]) -> Result<(), Error> {
        if unlocks.is_empty() {
            return Err(Error::Invalid {
                field: "unlock keys",
                expected: "at least one: nothing would open the vault",
            });
        }
        if unlocks.len() > NEW_UNLOCKS_MAX {
            return Err(Error::Invalid { field: "unlock keys", expected: "at most 6" });
        }
        if !self.inner.file_slots.iter().any(FileSlot::takes_unlock_keys) {
            let told = "every root slot is in hardware and is opened by its own key: rotate those with `slots rotate`";
            return Err(Error::Conflict(told));
        }
        Ok(())
    }

    /// Has these unlock keys, and no others, open the root slots in files. The root is replaced by who calls, so that an old
    /// image of a slot and an old unlock key lead to no header that is written from then on.
    ///
    /// Whatever fails half way: one unlock key, of those before or of these, opens all slots, and it may be done again.
    pub(super) async fn replace_unlock_keys(
        &self,
        session: &Session,
        unlocks: Vec<NewUnlock>,
        place: PlaceNew,
    ) -> Result<(), Undone> {
        let (reply, answer) = oneshot::channel();
        let asked = session.finalizer.send(Job::Unlocks(UnlocksAsk { unlocks, place, reply }));
        asked.map_err(|_| Undone { error: Error::LockedMeanwhile, untouched: true })?;
        answer.await.map_err(|_| cut_short(Error::LockedMeanwhile))?
    }
}

impl Inner {
    /// Does what was asked for, and answers.
    pub(super) async fn change_unlock_keys(&self, session: &Session, ask: UnlocksAsk) {
        let changed = self.add_then_replace(session, ask.unlocks, ask.place).await;
        // Who asked may have gone away; it is done all the same.
        let _ = ask.reply.send(changed);
    }

    /// First every slot takes the new ones beside its own, then none takes any other.
    async fn add_then_replace(
        &self,
        session: &Session,
        unlocks: Vec<NewUnlock>,
        place: PlaceNew,
    ) -> Result<(), Undone> {
        let unlocks = Arc::new(unlocks);
        if let Finish::Waiting(slots) = self.roots.retry_behind(&session.root.load_full()).await {
            let (slot, why) = slots.into_iter().next().unwrap_or_default();
            return Err(SlotError::Unreachable { slot, why }.into());
        }
        let slots: Vec<(usize, &FileSlot)> =
            self.file_slots.iter().enumerate().filter(|(_, slot)| slot.takes_unlock_keys()).collect();
        for (done, (at, slot)) in slots.iter().enumerate() {
            if let Err(error) = self.roots.access(*at, slot.add_unlock_keys(&unlocks)).await {
                self.withdraw(&slots[..done], &unlocks).await.map_err(cut_short)?;
                // This one may have taken them before it failed.
                return Err(cut_short(error));
            }
        }
        if let Err(why) = memory::blocking(place).await.map_err(|_| cut_short(Error::Failed))? {
            tracing::error!(%why, "a new unlock key could not be put into its place");
            self.withdraw(&slots, &unlocks).await.map_err(cut_short)?;
            let told = "a new unlock key could not be put into its place, so those from before stay: the log says why";
            return Err(Undone { error: Error::Conflict(told), untouched: true });
        }
        for (at, slot) in slots {
            self.roots.access(at, slot.replace_unlock_keys(&unlocks)).await.map_err(cut_short)?;
        }
        Ok(())
    }

    /// Takes back what was added.
    async fn withdraw(&self, slots: &[(usize, &FileSlot)], unlocks: &Arc<Vec<NewUnlock>>) -> Result<(), SlotError> {
        let mut outcome = Ok(());
        for (at, slot) in slots {
            let withdrawn = self.roots.access(*at, slot.withdraw_unlock_keys(unlocks)).await;
            outcome = outcome.and(withdrawn);
        }
        outcome
    }
}
