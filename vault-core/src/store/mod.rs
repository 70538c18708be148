//! Keeps rows: an ordered key-value store behind one trait, with engines that know nothing of keys or secrets.
//!
//! The vault never relies on an engine to erase, to hide, or to notice damage: it seals what it stores and checks what
//! it reads. What it does rely on is said by [`Store`], and `conformance` holds every engine to it.

#[cfg(test)]
mod conformance;
pub mod copy;
mod disk;
mod fjall;
mod group;
mod memory;
mod panics;
mod room;
mod sled;

use std::fmt;

pub use self::disk::{DiskOptions, DiskStore, EngineName, Held};
pub use self::memory::{Fault, MemoryStore};

/// The largest value of a row, in bytes. Larger ones are refused with [`StoreError::TooLarge`].
///
/// sled moves values of about twice this size into files of their own, which it never makes durable.
pub const VALUE_MAX: usize = 64 * 1024;

/// The longest key of a row, in bytes. Batches that name longer ones are refused with [`StoreError::TooLarge`].
pub const KEY_MAX: usize = 4096;

/// A row: its key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// An ordered key-value store. Keys are ordered as byte strings; any bytes are allowed, none at all included.
#[async_trait::async_trait]
pub trait Store: Send + Sync + 'static {
    /// The value of `key`, or none.
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Rows with `start <= key < end` (`end` of none: to the last row), ascending, at most `limit` of them.
    ///
    /// Each row is as one commit left it; rows committed while the scan runs may or may not be seen.
    async fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StoreError>;

    /// Applies all of `batch` or nothing, if everything it expects holds. Once this returns `Ok` the batch is durable
    /// against power loss.
    ///
    /// # Errors
    /// After [`StoreError::InDoubt`] the batch may or may not be there. After every other error it is not.
    async fn commit(&self, batch: Batch) -> Result<(), StoreError>;

    /// How the engine is: cheap enough to be asked at every health check.
    fn health(&self) -> Health;

    /// Lets the engine go once everything queued is durable. Calling it again does nothing; commit nothing after it.
    async fn close(&self) -> Result<(), StoreError>;
}

/// Changes that happen together or not at all.
///
/// `put` and `delete` together name each key at most once (debug builds assert it). Deleting an absent row is no error.
#[derive(Clone, Default)]
pub struct Batch {
    /// Rows that must be as said, or the whole batch is refused with [`StoreError::Conflict`]. Checked before any change.
    pub expect: Vec<(Vec<u8>, Expect)>,
    /// Rows to write, replacing what is there.
    pub put: Vec<Row>,
    /// Keys of rows to remove.
    pub delete: Vec<Vec<u8>>,
    /// Whether the batch mainly removes, as a shred does: it may use the reserve of a disk that is nearly full.
    pub reclaim: bool,
}

/// What a batch expects of one row.
#[derive(Clone, PartialEq, Eq)]
pub enum Expect {
    /// There is no such row.
    Absent,
    /// The row has exactly this value. Meant for small values: the whole of it is compared.
    Value(Vec<u8>),
}

/// How an engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The engine's name, such as `sled`.
    pub engine: &'static str,
    /// Whether it takes commits.
    pub state: HealthState,
    /// Bytes the rows take on disk, where the engine has a disk and can tell.
    pub disk_bytes: Option<u64>,
}

/// Whether an engine takes commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// It reads and commits.
    Ok,
    /// It reads, and takes only batches that reclaim space until the disk has room again.
    Full,
    /// A write failed, or the store was closed: it takes no commits until it is opened again.
    Poisoned,
}

/// Why a store did not do what was asked. No text here holds a key or a value of a row.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A row was not as the batch expected; nothing was written. Read again and retry.
    #[error("the rows changed meanwhile: read them again and retry")]
    Conflict,
    /// The disk is nearly full; nothing was written.
    #[error("the disk of the store is nearly full: free some space; writes are accepted again by themselves")]
    Full,
    /// A value is longer than [`VALUE_MAX`], or a key than [`KEY_MAX`]; nothing was written.
    #[error("a value is larger than a row may be ({VALUE_MAX} bytes): split it")]
    TooLarge,
    /// The stored bytes are damaged.
    #[error("the store is damaged ({0}): stop, keep a copy of its directory, and restore it from a backup")]
    Corrupt(String),
    /// An earlier write failed, so that nothing more is committed.
    #[error("the store takes no more writes ({0}): see to the cause, then restart")]
    Poisoned(String),
    /// The store cannot be reached or opened; nothing was written.
    #[error("the store is not available ({0}): see to the cause, then retry")]
    Unavailable(String),
    /// The write failed half way: the batch may be there or not. Open the store again to learn which.
    #[error("it is not known whether the write is stored ({0}): restart, and look before writing again")]
    InDoubt(String),
    /// Another process, or this one, already has the store open.
    #[error("the store is already open ({0}): stop the other process that uses it, or choose another directory")]
    Locked(String),
    /// The store was made by another engine than the one that was asked for.
    #[error(
        "the store was made by {found}, and {asked} is configured: set `engine = \"{found}\"` under [store], or copy it \
         over with `vault-server migrate --to {asked}`"
    )]
    OtherEngine {
        /// The engine whose files are there.
        found: EngineName,
        /// The engine that was asked for.
        asked: EngineName,
    },
}

impl Batch {
    /// Refuses what no engine may take, before anything is queued.
    fn check(&self) -> Result<(), StoreError> {
        debug_assert!(self.names_keys_once(), "a batch names each key once among its puts and deletes");
        let mut keys =
            self.expect.iter().map(|(key, _)| key).chain(self.put.iter().map(|(key, _)| key)).chain(&self.delete);
        if self.put.iter().any(|(_, value)| value.len() > VALUE_MAX) || keys.any(|key| key.len() > KEY_MAX) {
            return Err(StoreError::TooLarge);
        }
        Ok(())
    }

    /// How much of a group's room this takes.
    fn operations(&self) -> usize {
        self.expect.len() + self.put.len() + self.delete.len()
    }

    fn names_keys_once(&self) -> bool {
        let mut seen = std::collections::HashSet::new();
        let mut keys = self.put.iter().map(|(key, _)| key).chain(&self.delete);
        keys.all(|key| seen.insert(key))
    }
}

impl Expect {
    /// Whether `present` is what is expected.
    fn holds(&self, present: Option<&[u8]>) -> bool {
        match self {
            Expect::Absent => present.is_none(),
            Expect::Value(expected) => present == Some(expected.as_slice()),
        }
    }
}

/// Shows counts only: rows do not belong into logs.
impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("expect", &self.expect.len())
            .field("put", &self.put.len())
            .field("delete", &self.delete.len())
            .field("reclaim", &self.reclaim)
            .finish()
    }
}
