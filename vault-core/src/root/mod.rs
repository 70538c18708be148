//! Root slots: where the root key lives, outside the store, and the protocol that replaces it without ever losing it.
//!
//! The root key opens the vault header, so whoever loses it has shredded everybody, and whoever keeps an old one has
//! shredded nobody. A root batch therefore goes: [`Roots::stage`] writes the new root *beside* the old one in every slot;
//! the store commits the new pages; [`Roots::finish`] overwrites the old root everywhere. Only then is a shred final.
//! After a crash, or a commit in doubt, [`Roots::recover`] keeps the root that opens the store's header and wipes the
//! rest. `model` enumerates every crash point of this.
//!
//! A root may be *retained*: while a backup of the key plane lags, it stays beside the current one, under that name only.
//!
//! Overwriting in place does not erase flash, copy-on-write filesystems or snapshots of the slot's own disk. A slot in
//! hardware, which only a key in an HSM opens, does not depend on that: a slot rotation destroys the key.

mod copies;
mod error;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod layout;
mod pkcs11;
mod place;
mod protocol;
mod refusals;
mod retained;
mod rotation;
mod stanza;

#[cfg(test)]
mod file_tests;
#[cfg(test)]
mod hardware_tests;
#[cfg(test)]
mod model;
#[cfg(test)]
mod protocol_tests;
#[cfg(test)]
pub(crate) mod softhsm;

pub use error::{RootError, SlotError};
pub use file::{FileSlot, NEW_UNLOCKS_MAX};
pub use pkcs11::{Hsm, HsmError, HsmPlace};
pub use place::SlotPlace;
pub use protocol::{Finish, Roots, SlotState, SlotStatus, Staged};
pub(crate) use refusals::{Refusal, Refusals};
pub use stanza::{Method, NewUnlock, Unlock};

use crate::crypto::{Random, RootKey};
use crate::ids::RootId;
use crate::time::Timestamp;

/// A root key with its name. Printing it shows the name only.
#[derive(Debug, PartialEq, Eq)]
pub struct RootEntry {
    /// Counts root keys: one higher with each root batch.
    pub epoch: u64,
    /// Tells two roots drawn for the same epoch apart, of which at most one was ever committed.
    pub id: RootId,
    /// The key.
    pub key: RootKey,
    /// Whether it stays beside the current one because a backup of the key plane needs it. Such an entry opens no store:
    /// only a restore goes by it.
    pub retained: bool,
}

impl RootEntry {
    /// A fresh root for `epoch`; takes 48 bytes of `random`.
    pub fn draw(epoch: u64, random: &mut Random) -> Self {
        Self { epoch, id: RootId(random.array()), key: RootKey::draw(random), retained: false }
    }

    /// A second holder of the same root.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self { epoch: self.epoch, id: self.id, key: self.key.duplicate(), retained: self.retained }
    }
}

/// What a slot holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Reading {
    /// Every root that any copy holds, by epoch; a root that lies in two copies is named once.
    pub entries: Vec<RootEntry>,
    /// Whether every copy is intact and holds just these. A slot that is not even has to be settled: a copy torn by a
    /// crash may still hold bytes of an old root.
    pub even: bool,
}

/// Of a slot that only a key in an HSM opens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardware {
    /// When its key was made: the end of what images of the slot's own disk from before are good for, once the older keys
    /// are destroyed.
    pub keys_since: Timestamp,
    /// Why its last rotation was not completed.
    pub waits_for: Option<String>,
}

/// A small place outside the store that can be overwritten: it keeps root keys sealed, in copies, so that a write cut
/// short by a crash loses nothing.
#[async_trait::async_trait]
pub trait RootSlot: Send + Sync + 'static {
    /// What operators call it: a path, or a device.
    fn name(&self) -> String;

    /// Reads every copy. One damaged copy is no error.
    ///
    /// # Errors
    /// If no copy can be read.
    async fn read(&self) -> Result<Reading, SlotError>;

    /// Writes `entries` to one copy, so that whatever of them the slot held before stays in another copy until the
    /// write is done. Durable and read back once this returns `Ok`; after an error it may have happened or not.
    ///
    /// # Errors
    /// If the slot cannot be reached, is locked or belongs to another vault.
    async fn stage(&self, entries: &[RootEntry]) -> Result<(), SlotError>;

    /// Overwrites all copies with `entries`, one after the other, first one that lacks some of them: whatever of them
    /// the slot held is never in no copy. Durable and read back once this returns `Ok`.
    ///
    /// # Errors
    /// As [`RootSlot::stage`]; old roots may then still be there.
    async fn settle(&self, entries: &[RootEntry]) -> Result<(), SlotError>;

    /// If only a key in an HSM opens it.
    fn hardware(&self) -> Option<Hardware> {
        None
    }

    /// First step of a slot rotation: draws fresh keys, on which nothing depends yet. Nothing to do outside hardware, here
    /// and in the next steps.
    ///
    /// # Errors
    /// [`SlotError::Hsm`].
    async fn draw_keys(&self) -> Result<(), SlotError> {
        Ok(())
    }

    /// Second step: seals what the slot holds with the fresh keys, one copy after the other, of which one always opens.
    ///
    /// # Errors
    /// As [`RootSlot::stage`]; both old and new keys are needed then.
    async fn reseal(&self) -> Result<(), SlotError> {
        Ok(())
    }

    /// Last step: destroys all keys of the slot in the HSM but the one that its copies name, and sees that they are gone.
    ///
    /// # Errors
    /// [`SlotError::Hsm`]; if the copies do not agree, and then nothing was destroyed.
    async fn destroy_old_keys(&self) -> Result<(), SlotError> {
        Ok(())
    }
}
