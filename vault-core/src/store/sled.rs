//! The embedded engine on disk: the only file that names sled, with what it takes to make sled durable and to survive it.
//!
//! Known of sled 0.34.7, and answered here: its flush is not durable against power loss (we `fdatasync` its file
//! ourselves); a kill while it writes a snapshot makes it refuse to open (we remove the unfinished one first); damaged
//! files make it panic, or open with rows missing (panics are contained; missing rows are for the layer above to
//! notice); it does not open on a full disk (we refuse writes before that); large pages go to files it never syncs (our
//! segments are large enough that there are none).

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::group::{Changes, Committer, Engine};
use super::room::{Probe, Room, free_bytes};
use super::{Batch, Health, HealthState, Row, Store, StoreError, panics};

/// How sled's threads are named.
const THREADS: &[&str] = &["sled-io-", "log flusher"];

/// Bytes of a segment of sled's log. A page over a quarter of it would become a file of its own that is never synced; a
/// page holds up to 17 rows of [`super::VALUE_MAX`], 1.1 MiB. Fixed for the life of a store.
const SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// How often sled writes out and collects garbage of its own accord, in milliseconds. It collects only then.
const FLUSH_EVERY_MS: u64 = 500;

/// How long closing may take before the engine is left to itself.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// The same, when a thread of the engine's has died: closing may wait for it in vain.
const STOP_LIMIT_DEAD: Duration = Duration::from_secs(3);

/// A store in a directory of its own, which it locks.
///
/// A commit is durable once it returns. Dropping the store closes it, blocking; [`Store::close`] does not block.
/// One store is good for some 10^7 rows: the first open after heavy writing reads back the log of it.
pub struct SledStore {
    inner: Arc<Inner>,
}

/// How a [`SledStore`] is opened.
#[derive(Clone, Debug)]
pub struct SledOptions {
    /// Bytes of pages kept in memory. Several times that is used, plus some 36 bytes a row.
    pub cache_bytes: u64,
    /// Bytes of disk kept back, so that removing still works on a full disk.
    pub reserve_bytes: u64,
    /// Free bytes on the disk below which writes are refused.
    pub min_free_bytes: u64,
}

struct Inner {
    dir: PathBuf,
    db: RwLock<Option<sled::Db>>,
    committer: Committer,
    room: Arc<Room>,
    /// Held while the store is open.
    lock: Mutex<Option<File>>,
}

impl Default for SledOptions {
    fn default() -> SledOptions {
        SledOptions { cache_bytes: 128 << 20, reserve_bytes: 64 << 20, min_free_bytes: 128 << 20 }
    }
}

impl SledStore {
    /// Opens the store in `dir`, or makes one there. Blocks while the log is read back.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if somebody has it open, [`StoreError::Corrupt`] if its files are damaged. Damage may also
    /// show as missing rows, without an error.
    pub fn open(dir: &Path, options: SledOptions) -> Result<SledStore, StoreError> {
        SledStore::open_on(dir, options, Box::new(free_bytes))
    }

    fn open_on(dir: &Path, options: SledOptions, probe: Probe) -> Result<SledStore, StoreError> {
        make_dir(dir).map_err(unavailable("its directory cannot be made"))?;
        let lock = lock(dir)?;
        remove_unfinished_snapshots(dir).map_err(unavailable("an unfinished snapshot cannot be removed"))?;
        // Before the engine opens: on a full disk, giving up the reserve is what lets it.
        let room = Arc::new(Room::new(dir, options.min_free_bytes, options.reserve_bytes, probe));
        room.admits(true);
        let db = open_engine(dir, options.cache_bytes)?;
        let file = sync_all(dir, &db)?;
        let engine = Writer { db: db.clone(), file };
        let committer = Committer::start(engine, Arc::clone(&room)).map_err(unavailable("no thread can be started"))?;
        let (db, lock) = (RwLock::new(Some(db)), Mutex::new(Some(lock)));
        Ok(SledStore { inner: Arc::new(Inner { dir: dir.to_owned(), db, committer, room, lock }) })
    }
}

#[async_trait::async_trait]
impl Store for SledStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.read(|db| read_row(db, key))
    }

    async fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StoreError> {
        if end.is_some_and(|end| end <= start) {
            return Ok(Vec::new());
        }
        self.inner.read(|db| {
            let rows = match end {
                Some(end) => db.range(start..end),
                None => db.range(start..),
            };
            contained(|| rows.take(limit).map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect())
        })
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.inner.committer.commit(batch).await
    }

    fn health(&self) -> Health {
        let closed = self.inner.lock().is_none();
        let state = match () {
            () if closed || self.inner.committer.is_poisoned() => HealthState::Poisoned,
            () if self.inner.room.is_full() => HealthState::Full,
            () => HealthState::Ok,
        };
        let disk_bytes = fs::metadata(self.inner.dir.join("db")).ok().map(|file| file.len());
        Health { engine: "sled", state, disk_bytes }
    }

    async fn close(&self) -> Result<(), StoreError> {
        let inner = Arc::clone(&self.inner);
        let stopped = tokio::task::spawn_blocking(move || stop(inner)).await;
        stopped.unwrap_or_else(|_| Err(StoreError::Unavailable("closing it broke down".into())))
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        if let Err(error) = stop(Arc::clone(&self.inner)) {
            tracing::error!(%error, "the store did not close");
        }
    }
}

impl Inner {
    fn read<T>(&self, read: impl FnOnce(&sled::Db) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        read(db.as_ref().ok_or_else(|| StoreError::Unavailable("it was closed".into()))?)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<File>> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the commit thread, then the engine, and lets the lock go last.
    fn stop(&self) {
        self.committer.stop();
        let db = self.db.write().unwrap_or_else(PoisonError::into_inner).take();
        if db.is_some() && panics::contained(|| drop(db)).is_err() {
            tracing::error!("the storage engine broke down while it closed; what was acknowledged is stored");
        }
        self.await_engine_gone();
        *self.lock() = None;
    }

    /// A thread of the engine's may hold its file, and so its lock, a moment longer than the engine itself.
    fn await_engine_gone(&self) {
        let Ok(file) = File::open(self.dir.join("db")) else {
            return;
        };
        let start = Instant::now();
        while file.try_lock().is_err() && start.elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Stops on a thread of its own: of an engine that is damaged, a thread may have died that closing waits for.
fn stop(inner: Arc<Inner>) -> Result<(), StoreError> {
    if inner.lock().is_none() {
        return Ok(());
    }
    let (done, stopped) = mpsc::channel();
    let work = move || {
        inner.stop();
        // Nobody listens any more after the limit.
        let _ = done.send(());
    };
    thread::Builder::new().name("vault-close".into()).spawn(work).map_err(unavailable("no thread can be started"))?;
    let limit = if panics::engine_died() { STOP_LIMIT_DEAD } else { STOP_LIMIT };
    stopped.recv_timeout(limit).map_err(|_| {
        StoreError::Unavailable("it does not close; what was acknowledged is stored: end the process".into())
    })
}

/// The commit thread's hold on sled.
struct Writer {
    db: sled::Db,
    /// `<dir>/db` by a handle of our own: sled's `flush` starts the writing but does not wait for the disk.
    file: File,
}

impl Engine for Writer {
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        read_row(&self.db, key)
    }

    fn write(&mut self, changes: Changes) -> Result<(), String> {
        let mut batch = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.db.apply_batch(batch).map_err(|error| error_text(&error))?;
        self.db.flush().map_err(|error| error_text(&error))?;
        self.file.sync_data().map_err(|error| format!("the disk did not take it: {}", error.kind()))
    }
}

fn read_row(db: &sled::Db, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
    contained(|| db.get(key)).map(|value| value.map(|value| value.to_vec()))
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

fn unavailable(what: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |error| StoreError::Unavailable(format!("{what}: {}", error.kind()))
}

/// Makes the directory for this user alone.
fn make_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(dir)
}

/// Locks the directory by a file of our own: sled's lock comes too late to keep us from tidying up a store that is open.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let held = || StoreError::Locked(format!("the lock of {} is held", dir.display()));
    let file = File::create(dir.join("lock")).map_err(unavailable("its lock cannot be made"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(held()),
        Err(TryLockError::Error(error)) => Err(unavailable("its lock cannot be taken")(error)),
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
        let file = File::open(dir.join("db"))?;
        file.sync_data()?;
        File::open(dir.join("conf"))?.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(file)
    };
    synced().map_err(unavailable("its files cannot be made durable"))
}

#[cfg(test)]
mod tests;
