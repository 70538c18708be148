//! The engine sled: the only file that names it, with what it takes to make sled durable and to survive it.
//!
//! Known of sled 0.34.7, and answered here: its flush is not durable against power loss (we `fdatasync` its file
//! ourselves); a kill while it writes a snapshot makes it refuse to open (we remove the unfinished one first); damaged
//! files make it panic, or open with rows missing (panics are contained; missing rows are for the layer above to
//! notice); it does not open on a full disk (writes are refused before that); large pages go to files it never syncs (our
//! segments are large enough that there are none); of what a write replaced it frees less, in memory and in its file, than
//! large writes replace (we have it freed after each).
//!
//! One store is good for some 10^7 rows: sled takes a snapshot of its page table only when it opens, so that opening
//! reads back everything written since the last opening.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::disk::{OnDisk, unavailable};
use super::group::Changes;
use super::{Row, StoreError, panics};

/// The name of the file by which a directory of sled's is known.
pub(super) const FILES: &str = "db";

/// How sled's threads are named.
pub(super) const THREADS: &[&str] = &["sled-io-", "log flusher"];

/// Bytes of a segment of sled's log. A page over a quarter of it would become a file of its own that is never synced; a
/// page holds up to 17 rows of [`super::VALUE_MAX`], 1.1 MiB. Fixed for the life of a store.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// How often sled writes out and collects garbage of its own accord, in milliseconds. It collects only then.
const FLUSH_EVERY_MS: u64 = 500;

/// Changes of a write after each of which one more round of freeing is due. In trials one for every 64 was enough that nothing
/// piled up; twice that catches up with what was held up.
const CHANGES_A_ROUND: usize = 32;

/// Rounds after every write: a structure is freed two rounds after the last reader who may see it.
const ROUNDS_MIN: usize = 4;

/// A database of sled's.
pub(super) struct Sled {
    db: sled::Db,
    dir: PathBuf,
    /// `<dir>/db` by a handle of our own: sled's `flush` starts the writing but does not wait for the disk.
    file: File,
}

impl Sled {
    /// Opens the database in `dir`, or makes one there. The caller holds the directory's lock.
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Sled, StoreError> {
        remove_unfinished_snapshots(dir).map_err(unavailable("an unfinished snapshot cannot be removed"))?;
        let db = open_engine(dir, cache_bytes)?;
        let file = sync_all(dir, &db)?;
        Ok(Sled { db, dir: dir.to_owned(), file })
    }
}

impl OnDisk for Sled {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        contained(|| self.db.get(key)).map(|value| value.map(|value| value.to_vec()))
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StoreError> {
        let rows = match end {
            Some(end) => self.db.range(start..end),
            None => self.db.range(start..),
        };
        contained(|| rows.take(limit).map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect())
    }

    fn write(&self, changes: Changes) -> Result<(), String> {
        let rounds = ROUNDS_MIN + changes.len() / CHANGES_A_ROUND;
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.db.apply_batch(batch).map_err(|error| error_text(&error))?;
        self.db.flush().map_err(|error| error_text(&error))?;
        self.file.sync_data().map_err(|error| format!("the disk did not take it: {}", error.kind()))?;
        free_replaced(rounds);
        Ok(())
    }

    fn disk_bytes(&self) -> Option<u64> {
        fs::metadata(self.dir.join(FILES)).ok().map(|file| file.len())
    }

    fn headroom(&self) -> u64 {
        0
    }
}

/// Waits until nobody has sled's file any more: a thread of its own may hold it, and so its lock, a moment longer than the
/// database itself.
pub(super) fn await_gone(dir: &Path) {
    let Ok(file) = File::open(dir.join(FILES)) else {
        return;
    };
    let start = Instant::now();
    while file.try_lock().is_err() && start.elapsed() < Duration::from_secs(5) {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Has sled free what was replaced and nobody reads any more. Of its own accord it frees at most 512 structures whenever a
/// thread has begun to read or write 128 times, and a write counts once, however much it replaces: 20 KB stayed in memory for
/// each new subject that came in large batches, and the file grew twice as large.
fn free_replaced(rounds: usize) {
    for _ in 0..rounds {
        sled::pin().flush();
    }
}

/// Runs what reads from sled; its panics and errors become ours.
fn contained<T>(read: impl FnOnce() -> sled::Result<T>) -> Result<T, StoreError> {
    let done = panics::contained(read).map_err(|panics::Panicked| StoreError::Corrupt("a read broke down".into()))?;
    done.map_err(|error| match &error {
        sled::Error::Io(io) if io.kind() != io::ErrorKind::UnexpectedEof => StoreError::Unavailable(error_text(&error)),
        _ => StoreError::Corrupt(error_text(&error)),
    })
}

/// What failed, without sled's own words: they may quote rows.
fn error_text(error: &sled::Error) -> String {
    match error {
        sled::Error::Io(error) => format!("the disk answered: {}", error.kind()),
        sled::Error::Corruption { .. } => "a checksum does not match".into(),
        sled::Error::Unsupported(_) => "its files are of another version or setting".into(),
        sled::Error::ReportableBug(_) | sled::Error::CollectionNotFound(_) => "its pages do not fit together".into(),
    }
}

/// Removes `snap.*.generating`: sled does not open beside one, and needs none of them.
fn remove_unfinished_snapshots(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn open_engine(dir: &Path, cache_bytes: u64) -> Result<sled::Db, StoreError> {
    panics::watch(THREADS);
    let config = sled::Config::new()
        .path(dir)
        .cache_capacity(cache_bytes)
        .mode(sled::Mode::HighThroughput)
        .flush_every_ms(Some(FLUSH_EVERY_MS))
        .segment_size(SEGMENT_BYTES)
        .use_compression(false);
    match panics::contained(|| config.open()) {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Io(error))) if error.to_string().contains("could not acquire lock") => {
            Err(StoreError::Locked(format!("the engine's file in {} is locked", dir.display())))
        }
        Ok(Err(error)) => contained(|| Err(error)),
        Err(panics::Panicked) => Err(StoreError::Corrupt("its files cannot be read back".into())),
    }
}

/// Makes durable what is there, whoever left it, and gives our handle on the engine's file.
fn sync_all(dir: &Path, db: &sled::Db) -> Result<File, StoreError> {
    contained(|| db.flush())?;
    let synced = || {
        let file = File::open(dir.join(FILES))?;
        file.sync_data()?;
        File::open(dir.join("conf"))?.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(file)
    };
    synced().map_err(unavailable("its files cannot be made durable"))
}

#[cfg(test)]
mod tests;
