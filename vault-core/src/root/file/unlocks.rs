//! Other unlock keys for a slot in a file, in place of those it has.
//!
//! In two steps, so that with several slots one unlock key opens all of them at any time: first the new ones are added;
//! then a fresh slot key is drawn, which only the new ones wrap. Who opens an image of the slot from before gets the slot
//! key of then, and that opens nothing that is written to the slot from here on.

use std::sync::Arc;

use super::{COPIES, FileSlot, Inner, STANZAS_MAX, State, block, name};
use crate::crypto::{Random, SlotKey};
use crate::root::copies::next_sequence;
use crate::root::stanza::Stanza;
use crate::root::{NewUnlock, RootEntry, SlotError};

/// New unlock keys at once, beside the two that stay until these are in their place in every slot.
pub const NEW_UNLOCKS_MAX: usize = STANZAS_MAX - 2;

impl FileSlot {
    /// Whether it is opened by the vault's unlock keys: one in hardware has its own.
    pub fn takes_unlock_keys(&self) -> bool {
        self.0.hsm.is_none()
    }

    /// First step: these unlock keys open it as well. Where there is no room for them, some of the others go, as rotations that
    /// were cut short leave them; the one that it was unlocked by stays, and so does the newest.
    ///
    /// # Errors
    /// If there are more than 6 of them; if it is locked, its copies do not agree, or it cannot be written; [`SlotError::Hsm`].
    pub async fn add_unlock_keys(&self, unlocks: &Arc<Vec<NewUnlock>>) -> Result<(), SlotError> {
        let unlocks = unlocks.clone();
        self.blocking(move |inner| inner.add_unlock_keys(&unlocks)).await
    }

    /// Instead of the second step: these, which were added, open it no more.
    ///
    /// # Errors
    /// As for the first step; then they still do.
    pub async fn withdraw_unlock_keys(&self, unlocks: &Arc<Vec<NewUnlock>>) -> Result<(), SlotError> {
        let unlocks = unlocks.clone();
        self.blocking(move |inner| inner.withdraw_unlock_keys(&unlocks)).await
    }

    /// Second step: these, which were added, and no others. Keys in an HSM that opened it before are destroyed, if they are in
    /// the HSM of one of these.
    ///
    /// # Errors
    /// As for the first step; it may then be opened by the ones before or by these, and is to be changed again.
    pub async fn replace_unlock_keys(&self, unlocks: &Arc<Vec<NewUnlock>>) -> Result<(), SlotError> {
        let unlocks = unlocks.clone();
        self.blocking(move |inner| inner.replace_unlock_keys(&unlocks)).await
    }
}

impl Inner {
    fn add_unlock_keys(&self, unlocks: &[NewUnlock]) -> Result<(), SlotError> {
        let (key, mut stanzas, mut opener) = {
            let state = self.state();
            let key = state.key.as_ref().ok_or_else(|| self.locked())?.duplicate();
            (key, state.stanzas.clone(), state.opener)
        };
        if unlocks.len() > NEW_UNLOCKS_MAX {
            return Err(SlotError::Count { what: "new unlock keys", most: NEW_UNLOCKS_MAX });
        }
        let gone = make_room(&mut stanzas, &mut opener, unlocks.len());
        if let Err(error) = self.destroy(&gone, unlocks) {
            tracing::warn!(%error, "the key of an unlock key that makes room for another stays in the HSM");
        }
        stanzas.extend(self.wrapping(unlocks, &key)?);
        let mut state = self.state();
        let (sequence, entries) = self.agreed(&state)?;
        self.write_both(sequence, &stanzas, &entries, &key)?;
        (state.stanzas, state.opener) = (stanzas, opener);
        Ok(())
    }

    fn withdraw_unlock_keys(&self, unlocks: &[NewUnlock]) -> Result<(), SlotError> {
        let before = self.state().stanzas.clone();
        let (others, added) = before.split_at(before.len().saturating_sub(unlocks.len()).max(1));
        if let Err(error) = self.destroy(added, unlocks) {
            // It opens nothing but what the slot was while it was there.
            tracing::warn!(%error, "a key that is not used stays in the HSM");
        }
        let mut state = self.state();
        let key = state.key.as_ref().ok_or_else(|| self.locked())?.duplicate();
        let (sequence, entries) = self.agreed(&state)?;
        self.write_both(sequence, others, &entries, &key)?;
        state.stanzas = others.to_vec();
        Ok(())
    }

    fn replace_unlock_keys(&self, unlocks: &[NewUnlock]) -> Result<(), SlotError> {
        let fresh = SlotKey::draw(&mut Random::for_keys(1));
        let before = self.state().stanzas.clone();
        let (others, added) = before.split_at(before.len().saturating_sub(unlocks.len()));
        let again = |(added, unlock)| Stanza::again(added, self.vault, unlock, &fresh);
        let stanzas = added.iter().zip(unlocks).map(again).collect::<Result<Vec<_>, _>>();
        let stanzas = stanzas.map_err(|error| error.of_slot(&name(&self.path)))?;
        // While the slot still names them, for after a kill they have to be known. It opens by those that were added.
        self.destroy(others, unlocks)?;
        let mut state = self.state();
        let (sequence, entries) = self.agreed(&state)?;
        if let Err(error) = self.write_both(sequence, &stanzas, &entries, &fresh) {
            // A copy may be sealed with it.
            state.spent.push(fresh);
            return Err(error);
        }
        state.key = Some(fresh);
        state.spent.clear();
        (state.stanzas, state.opener) = (stanzas, 0);
        Ok(())
    }

    /// A slot key wrapped by each of these. Not under the lock: a passphrase costs an Argon2id run.
    fn wrapping(&self, unlocks: &[NewUnlock], key: &SlotKey) -> Result<Vec<Stanza>, SlotError> {
        let wrap = |unlock| Stanza::new(self.vault, unlock, key).map_err(|error| error.of_slot(&name(&self.path)));
        unlocks.iter().map(wrap).collect()
    }

    /// What both copies hold, and the sequence number of the next write.
    fn agreed(&self, state: &State) -> Result<(u64, Vec<RootEntry>), SlotError> {
        state.key.as_ref().ok_or_else(|| self.locked())?;
        let copies = self.copies(state)?;
        let sequence = next_sequence(&copies);
        match copies {
            [Some(first), Some(second)] if first.entries == second.entries => Ok((sequence, first.entries)),
            _ => Err(self.unreachable("its copies do not agree yet")),
        }
    }

    /// Both copies hold the same before and after: one of them always opens.
    fn write_both(
        &self,
        sequence: u64,
        stanzas: &[Stanza],
        entries: &[RootEntry],
        key: &SlotKey,
    ) -> Result<(), SlotError> {
        let seal = |(sequence, at)| self.write_block(at, &block(sequence, self.vault, stanzas, entries, key));
        (sequence..).zip(0..COPIES).try_for_each(seal)
    }

    /// Destroys the keys of these stanzas in the HSMs of `unlocks`.
    fn destroy(&self, stanzas: &[Stanza], unlocks: &[NewUnlock]) -> Result<(), SlotError> {
        for unlock in unlocks {
            let NewUnlock::Pkcs11(hsm) = unlock else { continue };
            for key in stanzas.iter().filter_map(Stanza::hsm_key) {
                let destroyed = hsm.destroy_all_but(&key.label(self.vault), &[]);
                destroyed.map_err(|error| SlotError::Hsm { slot: name(&self.path), error })?;
            }
        }
        Ok(())
    }
}

/// Takes out of `stanzas` what is too much beside `new` more, and answers it. Two always stay: the opener is somebody's, and the
/// last one may be all that opens the other slots after a rotation that failed half way.
fn make_room(stanzas: &mut Vec<Stanza>, opener: &mut usize, new: usize) -> Vec<Stanza> {
    let mut gone = Vec::new();
    while stanzas.len() + new > STANZAS_MAX {
        let last = stanzas.len() - 1;
        let Some(at) = (0..last).rev().find(|at| at != opener) else { break };
        gone.push(stanzas.remove(at));
        *opener -= usize::from(at < *opener);
    }
    gone
}
