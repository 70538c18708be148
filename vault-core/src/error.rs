//! What can go wrong in the vault, told once, with the next step.
//!
//! No text here holds a value, a subject id or a key. The server turns these into statuses in one place.

use crate::audit::LogError;
use crate::backup::BackupError;
use crate::codec::CodecError;
use crate::crypto::Unauthentic;
use crate::ids::{FieldName, HoldName, IdError};
use crate::policy::Rule;
use crate::root::{RootError, SlotError};
use crate::schema::change::ChangeError;
use crate::schema::{DocumentError, SchemaError};
use crate::store::StoreError;
use crate::trie::TrieError;

/// An error of the vault's use cases.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A field is not declared, or a value is not of its type.
    #[error(transparent)]
    Schema(#[from] SchemaError),
    /// A document is no schema.
    #[error("the schema is refused: {0}")]
    Document(#[from] DocumentError),
    /// A schema does not fit what is stored.
    #[error("the schema is refused: {0}")]
    SchemaChange(#[from] ChangeError),
    /// An identifier is malformed.
    #[error(transparent)]
    Id(#[from] IdError),
    /// A parameter is outside what the vault does.
    #[error("{field}: expected {expected}")]
    Invalid {
        /// The parameter.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// No such subject was ever enrolled, or its tombstone has expired.
    #[error("no such subject: enrol it by writing a field")]
    UnknownSubject,
    /// The subject holds no value of this field.
    #[error("the subject holds no such field")]
    NoSuchField,
    /// Something other than a subject is not there.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The subject was shredded, or its shred is durable and about to become final.
    #[error("the subject was shredded: nothing of it can be read any more")]
    Shredded,
    /// A legal hold keeps the subject from being shredded, as a whole or in part.
    #[error("the subject is under the legal hold `{hold}`: release it first, if it may be")]
    Held {
        /// One of its holds.
        hold: HoldName,
    },
    /// The state of things does not allow it; the text says why.
    #[error("{0}")]
    Conflict(&'static str),
    /// The idempotency key belongs to another request.
    #[error("this idempotency key was used for another request: send this one with a key of its own")]
    IdempotencyMismatch,
    /// The policy says no.
    #[error("refused by policy (rule {})", rule.as_str())]
    Refused {
        /// The rule.
        rule: Rule,
        /// The field, where the rule is of one field.
        field: Option<FieldName>,
    },
    /// The field's version is not the one that was named.
    #[error("the field has changed: read it again, then retry with its present version")]
    PreconditionFailed,
    /// Who asked for something cannot agree to it as well.
    #[error("a second person has to agree: somebody else than who asked")]
    SecondPerson,
    /// The root key is not loaded.
    #[error("the vault is locked: unlock it first")]
    Locked,
    /// The root key was dropped before it was known what came of this.
    #[error(
        "the vault was locked meanwhile, and what was asked for may be done or not: unlock it, and see before you ask again"
    )]
    LockedMeanwhile,
    /// Not a valid API token.
    #[error("the API token is missing, unknown, expired or revoked")]
    Unauthenticated,
    /// The passphrase or key file does not open the slot.
    #[error("this passphrase or key does not open the root slot: check it, and try again")]
    WrongUnlockKey,
    /// The audit log takes no entries.
    #[error(transparent)]
    Log(LogError),
    /// A root slot does not answer.
    #[error(transparent)]
    Slot(SlotError),
    /// The store and the slots do not belong together.
    #[error(transparent)]
    Root(RootError),
    /// A value, or the sum of a subject's values, is larger than a row may be.
    #[error("the subject's fields are too large together")]
    TooLarge,
    /// The disk is nearly full; nothing was written.
    #[error("the disk of the store is nearly full, nothing was written: free some space and retry")]
    DiskFull,
    /// Stored bytes are damaged or missing.
    #[error(
        "stored data is damaged ({0}): run `vault-server verify`, keep a copy, and restore what it lists from a backup"
    )]
    Damaged(&'static str),
    /// The store lacks commits that the audit log tells of.
    #[error(
        "the store is older than its audit log: its last commit is {commit}, the log tells of {told}, so that what was written \
         in between is lost. Put the present store back, or restore a backup; to serve it as it is, without what is lost, \
         start it once with `--accept-loss`"
    )]
    OlderThanLog {
        /// The store's last commit.
        commit: u64,
        /// The last one that the log tells of.
        told: u64,
    },
    /// The audit log lacks entries that it had, or has others.
    #[error(
        "the audit log is not the one that this vault wrote to: it has {entries} entries, and does not begin with the {had} that \
         were there at the last commit. It is an older copy, its end was removed, or it is elsewhere and a new one was begun in \
         its place: put the present one there instead; to go on without what is lost, start it once with `--accept-loss`"
    )]
    OtherLog {
        /// Its entries.
        entries: u64,
        /// So many were durable then.
        had: u64,
    },
    /// The engine failed earlier; nothing is acknowledged any more.
    #[error("the storage engine failed and takes no more writes: restart the server, its log says why")]
    Failed,
    /// Too much is waiting already.
    #[error("too many requests are waiting: retry shortly")]
    Overloaded,
    /// Creating would overwrite something.
    #[error("{0} exists already: nothing was changed")]
    Exists(&'static str),
    /// A backup archive, or a key to it.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// The store refused.
    #[error(transparent)]
    Store(StoreError),
}

impl From<Unauthentic> for Error {
    fn from(_: Unauthentic) -> Self {
        Self::Damaged("a sealed field or record does not open")
    }
}

impl From<CodecError> for Error {
    fn from(_: CodecError) -> Self {
        Self::Damaged("a stored payload does not decode")
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full => Self::DiskFull,
            StoreError::TooLarge => Self::TooLarge,
            StoreError::Poisoned(_) | StoreError::InDoubt(_) => Self::Failed,
            other => Self::Store(other),
        }
    }
}

impl From<SlotError> for Error {
    fn from(error: SlotError) -> Self {
        match error {
            SlotError::WrongUnlockKey { .. } => Self::WrongUnlockKey,
            other => Self::Slot(other),
        }
    }
}

impl From<LogError> for Error {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<RootError> for Error {
    fn from(error: RootError) -> Self {
        Self::Root(error)
    }
}

impl From<TrieError> for Error {
    fn from(error: TrieError) -> Self {
        match error {
            TrieError::Store(store) => store.into(),
            TrieError::TooLarge => Self::TooLarge,
            TrieError::Missing => Self::Damaged("a page of the trie is missing"),
            TrieError::Damaged => Self::Damaged("a page of the trie does not open"),
            TrieError::NeedsRootBatch => Self::Damaged("a removal was attempted outside a root batch"),
        }
    }
}

impl Error {
    /// The same error after something was done.
    pub(crate) fn meanwhile(self) -> Self {
        if matches!(self, Self::Locked) { Self::LockedMeanwhile } else { self }
    }

    /// The same error for another item of one batch.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::DiskFull => Self::DiskFull,
            Self::TooLarge => Self::TooLarge,
            Self::Locked => Self::Locked,
            Self::LockedMeanwhile => Self::LockedMeanwhile,
            Self::Log(error) => Self::Log(error.clone()),
            Self::Damaged(what) => Self::Damaged(what),
            Self::UnknownSubject => Self::UnknownSubject,
            Self::Shredded => Self::Shredded,
            Self::Conflict(what) => Self::Conflict(what),
            _ => Self::Failed,
        }
    }
}
