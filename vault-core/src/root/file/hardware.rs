//! Slots in hardware: a file that only a key in an HSM opens, and the rotation that replaces and destroys that key.
//!
//! A rotation draws a fresh HSM key and a fresh slot key, seals one copy after the other with them, and destroys the HSM
//! keys from before. Whatever was ever in the file opens for nobody then: that is F2. A crash on the way leaves a copy
//! that opens, with the old key or the new one, and keys that the next rotation destroys.

use std::path::Path;
use std::sync::{MutexGuard, PoisonError};

use super::{Block, COPIES, FileSlot, Inner, State, block, name, read_blocks};
use crate::crypto::{Random, SlotKey};
use crate::ids::VaultId;
use crate::root::copies::next_sequence;
use crate::root::stanza::{HsmKey, Stanza, Unlocking};
use crate::root::{Hsm, HsmError, Method, NewUnlock, Refusals, RootEntry, SlotError, SlotPlace, Unlock};

impl FileSlot {
    /// Makes a slot in hardware, with `first` in it, under a fresh key in this HSM; it is then unlocked. Blocks.
    ///
    /// # Errors
    /// As [`FileSlot::create`]; [`SlotError::Hsm`].
    pub fn create_in_hardware(path: &Path, vault: VaultId, hsm: Hsm, first: &RootEntry) -> Result<FileSlot, SlotError> {
        Self::make(path, vault, &[NewUnlock::Pkcs11(hsm.clone())], Some(hsm), first)
    }

    /// Opens the slot at a place and leaves it locked.
    ///
    /// # Errors
    /// As [`FileSlot::open`]; [`SlotError::NoSuchMethod`] for a slot in hardware that has other unlock keys, too.
    pub fn open_place(place: &SlotPlace) -> Result<FileSlot, SlotError> {
        match place {
            SlotPlace::File(path) => Self::open(path),
            SlotPlace::Pkcs11 { file, hsm } => {
                let slot = Self::open_with(file, Some(Hsm::new(hsm.clone())))?;
                let methods = slot.methods();
                if methods == [Method::Pkcs11] {
                    return Ok(slot);
                }
                let others = methods.iter().map(|method| method.as_str()).collect::<Vec<_>>().join(", ");
                Err(SlotError::NoSuchMethod { slot: name(file), method: "an HSM alone", others })
            }
        }
    }

    /// Whether two slots are one: copies of a file, which a rotation of either would end.
    pub fn is_copy_of(&self, other: &FileSlot) -> bool {
        let families = |slot: &FileSlot| -> Vec<[u8; 16]> {
            slot.0.state().stanzas.iter().filter_map(Stanza::hsm_key).map(|key| key.family).collect()
        };
        let others = families(other);
        families(self).iter().any(|family| others.contains(family))
    }

    /// What its keys are called in the HSM: the first of its unlock keys there counts.
    pub fn hsm_label(&self) -> Option<String> {
        self.0.state().stanzas.iter().find_map(Stanza::hsm_key).map(|key| key.label(self.0.vault))
    }

    /// Ends the slot: destroys its keys in the HSM, overwrites the file and removes it. Blocks.
    ///
    /// # Errors
    /// [`SlotError::Hsm`], and then the file is as it was; those of a slot that cannot be written.
    pub fn wipe(self) -> Result<(), SlotError> {
        let inner = &self.0;
        if let (Some(hsm), Some(label)) = (&inner.hsm, self.hsm_label()) {
            hsm.destroy_all_but(&label, &[]).map_err(|error| inner.hsm_failed(error))?;
        }
        for at in 0..COPIES {
            inner.write_block(at, &[0; super::BLOCK_LEN])?;
        }
        std::fs::remove_file(&inner.path).map_err(|error| super::failed(&inner.path, &error))?;
        // Who was refused since a root was retained is noted beside every slot.
        Refusals::sweep(&inner.path, &[]).map_err(|error| super::failed(&inner.path, &error))?;
        inner.sync_directory()
    }
}

impl State {
    /// What copies may be sealed with.
    pub(super) fn keys(&self) -> impl Iterator<Item = &SlotKey> {
        self.key.iter().chain(&self.spent)
    }

    /// The key in an HSM that opens the slot.
    pub(super) fn hsm_key(&self) -> Option<&HsmKey> {
        self.stanzas.first().and_then(Stanza::hsm_key)
    }
}

impl Inner {
    /// The present key must be in the HSM: a rotation in another token, beside it, would destroy nothing. Keys that an
    /// earlier attempt drew and did not use are taken again, so that attempts do not fill the HSM.
    pub(super) fn draw_keys(&self) -> Result<(), SlotError> {
        let Some(hsm) = &self.hsm else { return Ok(()) };
        let _turn = self.turn();
        let (present, drawn) = {
            let state = self.state();
            (state.stanzas.clone(), state.fresh.as_ref().map(|(stanza, _)| stanza.clone()))
        };
        let family = present.first().and_then(Stanza::hsm_key).ok_or_else(|| self.locked())?.family;
        self.opened(hsm, &present)?;
        if drawn.is_some_and(|stanza| self.opened(hsm, &[stanza]).is_ok()) {
            return Ok(());
        }
        let slot_key = SlotKey::draw(&mut Random::for_keys(1));
        // Not under the lock: an HSM may take its time, and roots are staged meanwhile.
        let stanza = self.noting(Stanza::in_hsm(self.vault, hsm, family, &slot_key))?;
        let mut state = self.state();
        if state.key.is_none() {
            return Err(self.locked());
        }
        state.fresh = Some((stanza, slot_key));
        Ok(())
    }

    /// For the steps that make or destroy keys in the HSM: a key that was just made must not look like a left-over.
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.making_keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both copies hold the same before and after: one of them always opens.
    pub(super) fn reseal(&self) -> Result<(), SlotError> {
        let mut state = self.state();
        if state.key.is_none() || state.fresh.is_none() {
            return Ok(());
        }
        let copies = self.copies(&state)?;
        let sequence = next_sequence(&copies);
        let [Some(first), Some(second)] = copies else { return Err(self.unreachable("a copy is not whole yet")) };
        if first.entries != second.entries {
            return Err(self.unreachable("its copies do not agree yet"));
        }
        // Nothing was written before here: keys are spent only by an attempt that may have sealed a copy.
        let Some((stanza, fresh)) = state.fresh.take() else { return Ok(()) };
        let stanzas = vec![stanza];
        let seal =
            |(sequence, at)| self.write_block(at, &block(sequence, self.vault, &stanzas, &first.entries, &fresh));
        if let Err(error) = (sequence..).zip(0..COPIES).try_for_each(seal) {
            state.spent.push(fresh);
            return Err(error);
        }
        (state.stanzas, state.key) = (stanzas, Some(fresh));
        state.spent.clear();
        Ok(())
    }

    /// Only once both copies name the present key, and that key opens them.
    pub(super) fn destroy_old_keys(&self) -> Result<(), SlotError> {
        let Some(hsm) = &self.hsm else { return Ok(()) };
        let _turn = self.turn();
        let (present, label) = self.proven(hsm)?;
        // What is drawn for the next rotation is to be used yet.
        let drawn = self.state().fresh.as_ref().and_then(|(stanza, _)| stanza.hsm_key()).map(|key| key.id);
        let kept: Vec<_> = [present].into_iter().chain(drawn).collect();
        self.noting(hsm.destroy_all_but(&label, &kept))?;
        self.state().waits_for = None;
        Ok(())
    }

    /// The id of the HSM key that both copies name and open with, and what keys of this slot are called.
    fn proven(&self, hsm: &Hsm) -> Result<([u8; 16], String), SlotError> {
        let blocks = read_blocks(&self.path)?;
        let mut stanzas = {
            let state = self.state();
            let ours = |block: &Block| block.vault == self.vault && block.stanzas == state.stanzas;
            if !blocks.iter().all(|block| block.as_ref().is_some_and(ours)) {
                return Err(self.unreachable("its copies do not agree yet"));
            }
            state.stanzas.clone()
        };
        let opened = self.opened(hsm, &stanzas)?;
        if !blocks.iter().flatten().all(|block| block.entries(&opened).is_ok()) {
            return Err(self.damaged());
        }
        let key = stanzas.pop().and_then(|stanza| stanza.hsm_key().copied()).ok_or_else(|| self.damaged())?;
        Ok((key.id, key.label(self.vault)))
    }

    /// The slot key that the HSM opens.
    fn opened(&self, hsm: &Hsm, stanzas: &[Stanza]) -> Result<SlotKey, SlotError> {
        let unlock = Unlock::Pkcs11(hsm.clone());
        let opened = Unlocking::new(&unlock).slot_key(self.vault, stanzas);
        let opened = opened.map_err(|error| self.note(error.of_slot(&name(&self.path))))?;
        opened.map(|(_, key)| key).ok_or_else(|| self.damaged())
    }

    fn noting<T>(&self, outcome: Result<T, HsmError>) -> Result<T, SlotError> {
        outcome.map_err(|error| self.note(self.hsm_failed(error)))
    }

    fn note(&self, error: SlotError) -> SlotError {
        self.state().waits_for = Some(error.to_string());
        error
    }

    fn hsm_failed(&self, error: HsmError) -> SlotError {
        SlotError::Hsm { slot: name(&self.path), error }
    }
}
