//! A store in a directory of its own, around one of the engines: what the engines share, from the lock to the closing.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError, RwLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use super::group::{Changes, Committer, Engine};
use super::room::{Probe, Room, free_bytes};
use super::{Batch, Health, HealthState, Row, Store, StoreError, fjall, panics, sled};
use crate::memory;

/// How long closing may take before the engine is left to itself.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// The same, when a thread of the engine's has died: closing may wait for it in vain.
const STOP_LIMIT_DEAD: Duration = Duration::from_secs(3);

/// How long opening may take before it is told.
const SLOW_OPENING: Duration = Duration::from_secs(5);

/// The engines on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    /// sled 0.34.7.
    #[default]
    Sled,
    /// fjall 3.
    Fjall,
}

/// A store in a directory of its own, which it locks.
///
/// A commit is durable once it returns. Dropping the store closes it, blocking; [`Store::close`] does not block.
pub struct DiskStore {
    inner: Arc<Inner>,
}

/// How a [`DiskStore`] is opened.
#[derive(Clone, Debug)]
pub struct DiskOptions {
    /// Bytes the engine keeps in memory of what it read. Expect several times that to be used.
    pub cache_bytes: u64,
    /// Bytes of disk kept back, so that removing still works on a full disk.
    pub reserve_bytes: u64,
    /// Free bytes on the disk below which writes are refused. fjall needs more as it grows, and adds it by itself.
    pub min_free_bytes: u64,
}

/// Keeps a store's directory locked, also when the store itself is closed.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "the lock lasts as long as the file is open")] File);

/// What an engine does; everything around it is the same for all.
pub(super) trait OnDisk: Send + Sync + 'static {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// As [`Store::scan`], with `start` before `end`.
    fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StoreError>;

    /// As [`Engine::write`]. Called by one thread at a time.
    fn write(&self, changes: Changes) -> Result<(), String>;

    /// Bytes the rows take on disk, if it can tell.
    fn disk_bytes(&self) -> Option<u64>;

    /// Free bytes that the engine may need for a while for work of its own.
    fn headroom(&self) -> u64;
}

struct Inner {
    dir: PathBuf,
    name: EngineName,
    engine: RwLock<Option<Arc<dyn OnDisk>>>,
    committer: Committer,
    room: Arc<Room>,
    /// Held while the store is open.
    lock: Mutex<Option<File>>,
}

impl EngineName {
    /// As it is configured.
    pub fn as_str(self) -> &'static str {
        match self {
            EngineName::Sled => "sled",
            EngineName::Fjall => "fjall",
        }
    }

    /// The engine whose files are in `dir`, or none.
    pub fn found_in(dir: &Path) -> Option<EngineName> {
        match () {
            () if dir.join(fjall::FILES).is_dir() => Some(EngineName::Fjall),
            () if dir.join(sled::FILES).is_file() => Some(EngineName::Sled),
            () => None,
        }
    }

    fn open(self, dir: &Path, cache_bytes: u64) -> Result<Arc<dyn OnDisk>, StoreError> {
        match self {
            EngineName::Sled => Ok(Arc::new(sled::Sled::open(dir, cache_bytes)?)),
            EngineName::Fjall => Ok(Arc::new(fjall::Fjall::open(dir, cache_bytes)?)),
        }
    }
}

impl fmt::Display for EngineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for EngineName {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<EngineName, &'static str> {
        let known = [EngineName::Sled, EngineName::Fjall].into_iter().find(|engine| engine.as_str() == name);
        known.ok_or("there are the engines sled and fjall")
    }
}

impl Default for DiskOptions {
    fn default() -> DiskOptions {
        DiskOptions { cache_bytes: 128 << 20, reserve_bytes: 64 << 20, min_free_bytes: 128 << 20 }
    }
}

impl DiskStore {
    /// Opens the store in `dir`, or makes one there. Blocks while the engine reads back its log.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if somebody has it open, [`StoreError::OtherEngine`] if another engine made it,
    /// [`StoreError::Corrupt`] if its files are damaged. Damage may also show as missing rows, without an error.
    pub fn open(engine: EngineName, dir: &Path, options: DiskOptions) -> Result<DiskStore, StoreError> {
        DiskStore::open_on(engine, dir, options, Box::new(free_bytes))
    }

    pub(super) fn open_on(
        name: EngineName,
        dir: &Path,
        options: DiskOptions,
        probe: Probe,
    ) -> Result<DiskStore, StoreError> {
        make_dir(dir).map_err(unavailable("its directory cannot be made"))?;
        let lock = lock(dir)?;
        if let Some(found) = EngineName::found_in(dir).filter(|found| *found != name) {
            return Err(StoreError::OtherEngine { found, asked: name });
        }
        // Before the engine opens: on a full disk, giving up some of the reserve is what lets it, or else all of it.
        let room = Arc::new(Room::new(dir, options.min_free_bytes, options.reserve_bytes, probe));
        room.admits(true);
        let start = Instant::now();
        let engine = match name.open(dir, options.cache_bytes) {
            Err(_) if room.give_up_all() => name.open(dir, options.cache_bytes)?,
            opened => opened?,
        };
        let took = start.elapsed();
        if took >= SLOW_OPENING {
            let seconds = took.as_secs();
            tracing::info!(
                engine = name.as_str(),
                seconds,
                "the store took a while to open: docs/engines.md tells why"
            );
        }
        room.set_headroom(engine.headroom());
        let writer = Writer { engine: Arc::clone(&engine), room: Arc::clone(&room) };
        let committer = Committer::start(writer, Arc::clone(&room)).map_err(unavailable("no thread can be started"))?;
        let (engine, lock) = (RwLock::new(Some(engine)), Mutex::new(Some(lock)));
        Ok(DiskStore { inner: Arc::new(Inner { dir: dir.to_owned(), name, engine, committer, room, lock }) })
    }

    /// Keeps the directory locked beyond the closing of the store, until what this gives is dropped.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the store is closed already.
    pub fn hold(&self) -> Result<Held, StoreError> {
        let lock = self.inner.lock();
        let lock = lock.as_ref().ok_or_else(closed)?;
        // The lock belongs to the open file, which the copy shares.
        lock.try_clone().map(Held).map_err(unavailable("its lock cannot be kept"))
    }
}

#[async_trait::async_trait]
impl Store for DiskStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.read(|engine| engine.get(key))
    }

    async fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StoreError> {
        if end.is_some_and(|end| end <= start) {
            return Ok(Vec::new());
        }
        self.inner.read(|engine| engine.scan(start, end, limit))
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
        let disk_bytes = self.inner.read(|engine| Ok(engine.disk_bytes())).ok().flatten();
        Health { engine: self.inner.name.as_str(), state, disk_bytes }
    }

    async fn close(&self) -> Result<(), StoreError> {
        let inner = Arc::clone(&self.inner);
        let stopped = tokio::task::spawn_blocking(move || stop(inner)).await;
        stopped.unwrap_or_else(|_| Err(StoreError::Unavailable("closing it broke down".into())))
    }
}

impl Drop for DiskStore {
    fn drop(&mut self) {
        if let Err(error) = stop(Arc::clone(&self.inner)) {
            tracing::error!(%error, "the store did not close");
        }
    }
}

impl Inner {
    fn read<T>(&self, read: impl FnOnce(&dyn OnDisk) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let engine = self.engine.read().unwrap_or_else(PoisonError::into_inner);
        let engine = &**engine.as_ref().ok_or_else(closed)?;
        memory::outside(|| read(engine))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<File>> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the commit thread, then the engine, and lets the lock go last.
    fn stop(&self) {
        self.committer.stop();
        let engine = self.engine.write().unwrap_or_else(PoisonError::into_inner).take();
        if engine.is_some() && panics::contained(|| drop(engine)).is_err() {
            tracing::error!("the storage engine broke down while it closed; what was acknowledged is stored");
        }
        if self.name == EngineName::Sled {
            sled::await_gone(&self.dir);
        }
        *self.lock() = None;
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

/// The commit thread's hold on an engine.
struct Writer {
    engine: Arc<dyn OnDisk>,
    room: Arc<Room>,
}

impl Engine for Writer {
    fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.engine.get(key)
    }

    fn write(&mut self, changes: Changes) -> Result<(), String> {
        self.engine.write(changes)?;
        self.room.set_headroom(self.engine.headroom());
        Ok(())
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable("it was closed".into())
}

pub(super) fn unavailable(what: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |error| StoreError::Unavailable(format!("{what}: {}", error.kind()))
}

/// Makes the directory for this user alone, and its name durable.
fn make_dir(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(dir)?;
    let above = dir.parent().filter(|above| !above.as_os_str().is_empty());
    File::open(above.unwrap_or(Path::new(".")))?.sync_all()
}

/// Locks the directory by a file of our own: the engines' locks come too late to keep us from tidying up a store that is
/// open.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let held = || StoreError::Locked(format!("the lock of {} is held", dir.display()));
    let file = File::create(dir.join("lock")).map_err(unavailable("its lock cannot be made"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(held()),
        Err(TryLockError::Error(error)) => Err(unavailable("its lock cannot be taken")(error)),
    }
}

#[cfg(test)]
pub(super) mod tests;
