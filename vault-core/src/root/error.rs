//! What can go wrong with a root slot and at recovery: each names the slot and the next step.

use super::HsmError;
use crate::crypto::passphrase::CostOutOfBounds;
use crate::store::StoreError;

/// An error of one root slot. `slot` is its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// There is no such file.
    #[error(
        "the root slot {slot} is missing: put it back from where it was moved to, or correct its path in the configuration; \
         without a root slot the vault cannot be opened"
    )]
    Missing {
        /// The slot.
        slot: String,
    },
    /// No copy in it can be read.
    #[error(
        "the root slot {slot} is damaged in all its copies: keep the file as it is, and open the vault with another \
         root slot or put back a current copy of this one"
    )]
    Damaged {
        /// The slot.
        slot: String,
    },
    /// The slot is whole, but this passphrase or key file is not one of its own.
    #[error("this is not an unlock key of the root slot {slot}: check the passphrase or the key file, and try again")]
    WrongUnlockKey {
        /// The slot.
        slot: String,
    },
    /// The slot has no unlock key of that kind.
    #[error("the root slot {slot} cannot be unlocked by {method}: use one of its other ways ({others})")]
    NoSuchMethod {
        /// The slot.
        slot: String,
        /// What was tried.
        method: &'static str,
        /// What there is.
        others: String,
    },
    /// The slot was made for another vault.
    #[error(
        "the root slot {slot} belongs to another vault: give this vault its own slot; nothing was written to this one"
    )]
    OtherVault {
        /// The slot.
        slot: String,
    },
    /// The slot has not been unlocked.
    #[error("the root slot {slot} is locked: unlock it with its passphrase or key file")]
    Locked {
        /// The slot.
        slot: String,
    },
    /// A new slot was to be made where there is a file.
    #[error(
        "there already is a file at {slot}, and a root slot is never overwritten by a new one: choose another path"
    )]
    Exists {
        /// The slot.
        slot: String,
    },
    /// The slot could not be read or written.
    #[error("the root slot {slot} cannot be used ({why}): see to the cause; what waits for it is finished by itself")]
    Unreachable {
        /// The slot.
        slot: String,
        /// What the system said.
        why: String,
    },
    /// What was written did not read back.
    #[error("the root slot {slot} did not keep what was written to it: its disk may be failing, replace it")]
    NotKept {
        /// The slot.
        slot: String,
    },
    /// The slot only holds roots that are newer than the one to be written.
    #[error(
        "the root slot {slot} holds only roots newer than this store's: the store is an older copy than the one this slot \
         belongs to; put back the current store. Nothing was written to the slot"
    )]
    Newer {
        /// The slot.
        slot: String,
    },
    /// The HSM that it needs.
    #[error("the root slot {slot}: {error}")]
    Hsm {
        /// The slot.
        slot: String,
        /// What is wrong with it.
        error: HsmError,
    },
    /// The two files are one slot.
    #[error(
        "the root slot {slot} is a copy of another one: a rotation of either would end both. Make each with \
         `vault-server slots add`"
    )]
    Copied {
        /// The slot.
        slot: String,
    },
    /// A root batch was begun while another is neither finished nor abandoned.
    #[error("another change of the root key is not finished: wait for it, or lock and unlock the vault to recover it")]
    Outstanding,
    /// More unlock keys or roots than a slot has room for, or none.
    #[error("a root slot holds 1 to {most} {what}")]
    Count {
        /// What there is too much of.
        what: &'static str,
        /// How many there may be.
        most: usize,
    },
    /// Argon2id parameters out of bounds.
    #[error(transparent)]
    Cost(#[from] CostOutOfBounds),
}

/// Why no root was settled on. Nothing was wiped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// Every root is newer than the store.
    #[error(
        "the store is older than its slot: the store is at epoch {store_epoch}, the root slot at {slot_epoch}, and the root \
         that opens this store was wiped when later shreds became final. It is an old copy, or it was damaged and lost its \
         newest rows, and opens for nobody: put back the current store, or an old data plane beside the current key \
         pages. Nothing was changed"
    )]
    OlderThanSlot {
        /// The epoch in the store's META.
        store_epoch: u64,
        /// The lowest epoch above it in any slot.
        slot_epoch: u64,
    },
    /// Every root is older than the store.
    #[error(
        "the store is newer than its slot: the store is at epoch {store_epoch}, the root slot at {slot_epoch}. The slot is \
         an old copy: put back the current one, or use another slot of this vault. Nothing was changed"
    )]
    NewerThanSlot {
        /// The epoch in the store's META.
        store_epoch: u64,
        /// The highest epoch in any slot.
        slot_epoch: u64,
    },
    /// The root of the store's epoch is there, but does not open the header.
    #[error(
        "the vault header does not open with the root of its epoch {store_epoch}: the header's page is damaged, or the store \
         and the slot are not of the same moment. Keep both as they are and restore the key pages from a backup of this \
         epoch. Nothing was changed"
    )]
    HeaderDamaged {
        /// The epoch in the store's META.
        store_epoch: u64,
    },
    /// Not one slot could be read.
    #[error("no root slot could be read: {}", join(.0))]
    NoSlot(Vec<SlotError>),
    /// The store did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn join(errors: &[SlotError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
