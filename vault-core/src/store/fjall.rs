//! The engine fjall, an LSM tree: the only file that names it, with what it takes to rely on it.
//!
//! Known of fjall 3.1.13, and answered here: it takes no empty keys (every key gets a byte in front); reads without a
//! snapshot may see half of a batch (every read takes one); a power loss can leave a torn last batch, beside which it
//! refuses to open, and where a head in a journal is damaged it cuts off all that comes later (`torn` looks first); it believes
//! the lengths in its lists of tables, whatever they ask for (`lists` looks first); where a file or a
//! keyspace is missing it takes the database for a new one and clears it away (it is not opened then); a kill while the database is made leaves files that it
//! trips over (they are removed while nothing can be in them); a worker that fails leaves writers waiting for ever (we wait
//! for the workers ourselves, and look whether they live); compaction needs room, and a disk without it ends all writing
//! (its need is kept free).

mod lists;
mod made;
mod torn;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fjall::compaction::Leveled;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, LsmError, PersistMode, Readable, UserKey};

use self::torn::Found;
use super::disk::{OnDisk, unavailable};
use super::group::Changes;
use super::{Row, StoreError, panics};

/// The name of the directory of fjall's, in which it has a lock of its own.
pub(super) const FILES: &str = "fjall";

/// How fjall's threads are named.
pub(super) const THREADS: &[&str] = &["fjall:"];

/// The one keyspace.
const ROWS: &str = "rows";

/// Bytes of rows gathered in memory before they become a table, and of a table: small, so that a compaction needs little
/// room. What restarting reads back is bounded by it: the journals of at most [`MEMTABLES`] such, and one that is started
/// anew at 64 MB.
const TABLE_BYTES: u64 = 16 << 20;

/// Tables in memory that wait to be written; with more, writing waits. fjall itself would wait at 4, for ever if its
/// workers have failed.
const MEMTABLES: usize = 3;

/// Runs of young tables that wait to be merged; with more, writing waits. fjall itself would wait at 30, likewise.
const YOUNG_TABLES: usize = 20;

/// One worker compacts, the other is for writing tables.
const WORKERS: usize = 2;

/// The most that a compaction needs: all young tables and a level they are merged into, as a rule far less.
const HEADROOM_MAX: u64 = 512 << 20;

/// A database of fjall's.
pub(super) struct Fjall {
    db: Database,
    rows: Keyspace,
    dir: PathBuf,
}

impl Fjall {
    /// Opens the database in `dir`, or makes one there. The caller holds the directory's lock.
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Fjall, StoreError> {
        let noted = dir.join(made::NOTED);
        let dir = dir.join(FILES);
        made::look_for_made(&noted, &dir)?;
        made::remove_unmade(&dir)?;
        made::look_for_missing(&dir)?;
        look_through_lists(&dir)?;
        mend_journals(&dir)?;
        let (db, rows) = open_engine(&dir, cache_bytes)?;
        sync_names(&dir).map_err(unavailable("the names of its directories cannot be made durable"))?;
        made::note(&noted, &dir).map_err(unavailable("what was made cannot be noted"))?;
        Ok(Fjall { db, rows, dir })
    }

    /// Waits until the workers have caught up, or have failed.
    fn await_workers(&self) -> fjall::Result<()> {
        while self.rows.sealed_memtable_count() >= MEMTABLES || self.rows.l0_table_count() >= YOUNG_TABLES {
            self.db.persist(PersistMode::Buffer)?;
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl OnDisk for Fjall {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        contained(|| self.db.snapshot().get(&self.rows, stored(key))).map(|value| value.map(|value| value.to_vec()))
    }

    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StoreError> {
        // Behind all keys of rows.
        let end = end.map_or_else(|| vec![1], stored);
        contained(|| {
            let rows = self.db.snapshot().range(&self.rows, stored(start)..end).take(limit);
            rows.map(|row| row.into_inner().map(|(key, value)| (key[1..].to_vec(), value.to_vec()))).collect()
        })
    }

    fn write(&self, changes: Changes) -> Result<(), String> {
        self.await_workers().map_err(|error| error_text(&error))?;
        let mut batch = self.db.batch().durability(Some(PersistMode::SyncData));
        for (key, value) in changes {
            let key = UserKey::from(stored(&key));
            match value {
                Some(value) => batch.insert(&self.rows, key, value),
                None => batch.remove(&self.rows, key),
            }
        }
        batch.commit().map_err(|error| error_text(&error))
    }

    fn disk_bytes(&self) -> Option<u64> {
        Some(self.rows.disk_space() + journal_bytes(&self.dir).ok()?)
    }

    fn headroom(&self) -> u64 {
        self.rows.disk_space().min(HEADROOM_MAX)
    }
}

/// A row's key as fjall has it.
fn stored(key: &[u8]) -> Vec<u8> {
    [&[0], key].concat()
}

/// Bytes that the journals take; their length says little, for they are longer than what is in them.
fn journal_bytes(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|extension| extension == "jnl") {
            let file = entry.metadata()?;
            #[cfg(unix)]
            let taken = std::os::unix::fs::MetadataExt::blocks(&file) * 512;
            #[cfg(not(unix))]
            let taken = file.len();
            bytes += taken.min(file.len());
        }
    }
    Ok(bytes)
}

/// A changed number in a list could end the process: it is told instead.
fn look_through_lists(dir: &Path) -> Result<(), StoreError> {
    match lists::damaged(dir).map_err(unavailable("its lists of tables cannot be looked through"))? {
        Some(path) => Err(StoreError::Corrupt(format!("{} is damaged or missing", path.display()))),
        None => Ok(()),
    }
}

/// Makes the names of the directories durable: fjall syncs what it puts into a keyspace's directory, but not that there is
/// one.
fn sync_names(dir: &Path) -> io::Result<()> {
    let above = dir.parent().unwrap_or(Path::new("."));
    [&dir.join("keyspaces"), dir, above].into_iter().try_for_each(|names| fs::File::open(names)?.sync_all())
}

/// Cuts off a torn last batch.
fn mend_journals(dir: &Path) -> Result<(), StoreError> {
    if !dir.is_dir() {
        return Ok(());
    }
    match torn::mend(dir).map_err(unavailable("its journals cannot be looked through"))? {
        Found::Whole => {}
        Found::Cut => {
            tracing::warn!(
                "the last write is torn, as a loss of power leaves one that was acknowledged to nobody, and is dropped; had it \
                 been acknowledged, the audit log tells it"
            );
        }
        Found::Damaged(journal) => {
            return Err(StoreError::Corrupt(format!("{} is damaged before its end", journal.display())));
        }
    }
    Ok(())
}

fn open_engine(dir: &Path, cache_bytes: u64) -> Result<(Database, Keyspace), StoreError> {
    panics::watch(THREADS);
    contained(|| {
        let db = Database::builder(dir).cache_size(cache_bytes).worker_threads(WORKERS).open()?;
        let rows = db.keyspace(ROWS, || {
            let leveled = Leveled::default().with_table_target_size(TABLE_BYTES);
            // Rows are sealed, so that there is nothing to compress.
            KeyspaceCreateOptions::default().max_memtable_size(TABLE_BYTES).compaction_strategy(Arc::new(leveled))
        })?;
        // What is read is durable, whoever left it.
        db.persist(PersistMode::SyncAll)?;
        Ok((db, rows))
    })
}

/// Runs what reads from fjall; its panics and errors become ours.
fn contained<T>(read: impl FnOnce() -> fjall::Result<T>) -> Result<T, StoreError> {
    let done = panics::contained(read).map_err(|panics::Panicked| StoreError::Corrupt("a read broke down".into()))?;
    done.map_err(|error| match &error {
        fjall::Error::Locked => StoreError::Locked("the engine's own lock is held".into()),
        fjall::Error::Io(io) | fjall::Error::Storage(LsmError::Io(io)) if !is_of_damage(io) => {
            StoreError::Unavailable(error_text(&error))
        }
        fjall::Error::Poisoned => StoreError::Unavailable(error_text(&error)),
        _ => StoreError::Corrupt(error_text(&error)),
    })
}

/// Whether files that are missing, too short or not what they should be make this error.
fn is_of_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, NotFound, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | NotFound | UnexpectedEof)
}

/// What failed, without fjall's own words: they may quote rows.
fn error_text(error: &fjall::Error) -> String {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(LsmError::Io(error)) => {
            format!("the disk answered: {}", error.kind())
        }
        fjall::Error::Storage(LsmError::ChecksumMismatch { .. }) => "a checksum does not match".into(),
        fjall::Error::JournalRecovery(_) => "its journal does not fit together".into(),
        fjall::Error::InvalidVersion(_) => "its files are of another version".into(),
        fjall::Error::Poisoned => "its own work failed, for want of room or on a fault of the disk".into(),
        fjall::Error::Locked => "its own lock is held".into(),
        _ => "its files do not fit together".into(),
    }
}

#[cfg(test)]
mod tests;
