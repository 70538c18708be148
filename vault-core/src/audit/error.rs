//! What can go wrong with the log.

use std::io;
use std::path::Path;

/// Why the log did not do what was asked. No text here holds an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// It cannot be written or read.
    #[error("the audit log {place} cannot be used ({why}): see to the cause; nothing is answered before it is logged")]
    Unavailable {
        /// Its directory.
        place: String,
        /// What the system said.
        why: String,
    },
    /// Its disk is full.
    #[error("the disk of the audit log {place} is full: free some space; nothing is answered before it is logged")]
    Full {
        /// Its directory.
        place: String,
    },
    /// Another process has it open.
    #[error("the audit log {place} is in use by another process: stop that, or give this vault a log of its own")]
    InUse {
        /// Its directory.
        place: String,
    },
    /// Its files do not fit each other.
    #[error(
        "the audit log {place} is damaged at entry {index} ({why}): keep it as it is, and put back a copy of it; \
         `vault-cli audit verify --dir` tells more"
    )]
    Damaged {
        /// Its directory.
        place: String,
        /// The first entry that is affected.
        index: u64,
        /// What is wrong.
        why: String,
    },
    /// Entries that were moved to another place.
    #[error("entry {index} of the audit log is not here: its bundle was moved away; put that back to read it")]
    MovedAway {
        /// The entry.
        index: u64,
    },
    /// More entries, or a longer one, than there can be.
    #[error("the audit log has no {0}")]
    None(&'static str),
    /// Nothing is signed while the vault is locked.
    #[error("the audit log is not signed while the vault is locked: unlock it first")]
    Locked,
}

impl LogError {
    pub(super) fn unavailable(place: &Path, why: &io::Error) -> Self {
        let place = place.display().to_string();
        if is_full(why) { Self::Full { place } } else { Self::Unavailable { place, why: why.to_string() } }
    }

    pub(super) fn damaged(place: &Path, index: u64, why: impl Into<String>) -> Self {
        Self::Damaged { place: place.display().to_string(), index, why: why.into() }
    }
}

pub(super) fn is_full(why: &io::Error) -> bool {
    matches!(why.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
