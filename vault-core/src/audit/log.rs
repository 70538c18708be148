//! The log itself: appended to before any answer leaves, made durable in the background, signed when it has grown.
//! `keeper.rs` has the thread that does the latter.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use super::error::{LogError, is_full};
use super::head::Head;
use super::journal::{self, Bytes, ENTRY_MAX, Replayed, Segment};
use super::tree::{self, Tree, TreeHead, WIDTH};
use super::{Entry, files};

/// How the log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Made durable that often; a power loss can cost what came after the last time.
    Every(Duration),
    /// Every entry is durable before its answer leaves.
    Entry,
}

impl Default for Sync {
    fn default() -> Self {
        Self::Every(Duration::from_millis(100))
    }
}

/// The audit log of one vault; cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Owner>);

/// Ends the thread with the last handle.
struct Owner {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

pub(super) struct Inner {
    pub(super) dir: PathBuf,
    pub(super) sync: Sync,
    pub(super) state: Mutex<State>,
    /// Tells the thread that somebody waits, or that it shall end.
    pub(super) wake: Condvar,
    /// The tree over what is durable. Locked before `state`, if both are.
    pub(super) tree: Mutex<Tree>,
    pub(super) head: Mutex<Head>,
    /// What is durable; none once nothing more gets so.
    pub(super) durable: watch::Sender<Option<TreeHead>>,
    /// Whether the disk was full, and what is kept back for that is in use.
    pub(super) short: AtomicBool,
    /// Whether the last entry was not taken, and nothing says yet that the next one would be.
    pub(super) failing: AtomicBool,
    /// Held as long as the log is open.
    lock: Mutex<Option<File>>,
}

pub(super) struct State {
    pub(super) segment: Segment,
    /// Segments before it, each with the end of its entries.
    pub(super) older: VecDeque<(PathBuf, u64)>,
    /// Entries that are in no bundle on disk yet, and the index of the first.
    pub(super) recent: VecDeque<Bytes>,
    pub(super) recent_from: u64,
    pub(super) awaited: bool,
    pub(super) closing: bool,
    /// Why nothing is appended any more.
    pub(super) broken: Option<LogError>,
}

impl Log {
    /// Opens the log in `dir`, which is made if it is not there, and goes on with what a crash left.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open(dir: &Path) -> Result<Self, LogError> {
        Self::open_with(dir, Sync::default())
    }

    /// The same, kept in this way.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open_with(dir: &Path, sync: Sync) -> Result<Self, LogError> {
        let told = |why: io::Error| LogError::unavailable(dir, &why);
        make_dir(dir).map_err(told)?;
        let lock = lock(dir)?;
        let replayed = journal::replay(dir)?;
        let (tree, recent) = rebuild(dir, replayed.as_ref())?;
        let head = Head::open(dir)?;
        let (segment, older) = match replayed {
            Some(replayed) => {
                if replayed.torn && replayed.end() < head.signed_size() {
                    return Err(LogError::damaged(dir, replayed.end(), "the journal is cut short or changed"));
                }
                let older = replayed.segments.iter().rev().skip(1).rev().cloned();
                let older: VecDeque<_> = older.map(|path| (path, replayed.end())).collect();
                (replayed.resume().map_err(told)?, older)
            }
            // Nothing is begun in its place, which would only be in the way when it is put back.
            None if head.signed_size() > 0 || tree::tile_path(dir, 0, 0).exists() => {
                return Err(LogError::damaged(dir, 0, "its journal is missing"));
            }
            None => (Segment::begin(dir).map_err(told)?, VecDeque::new()),
        };
        head.fits(dir, &tree)?;
        let recent_from = tree.size() - recent.len() as u64;
        let state = State { segment, older, recent, recent_from, awaited: false, closing: false, broken: None };
        let durable = watch::Sender::new(Some(tree.head().map_err(|why| LogError::damaged(dir, tree.size(), why))?));
        let inner = Arc::new(Inner {
            dir: dir.to_owned(),
            sync,
            state: Mutex::new(state),
            wake: Condvar::new(),
            tree: Mutex::new(tree),
            head: Mutex::new(head),
            durable,
            short: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            lock: Mutex::new(Some(lock)),
        });
        let own = inner.clone();
        let thread = std::thread::Builder::new().name("audit log".to_owned()).spawn(move || own.run()).map_err(told)?;
        Ok(Self(Arc::new(Owner { inner, thread: Mutex::new(Some(thread)) })))
    }

    /// Appends entries: they are in the log's file when this returns, and durable a little later.
    ///
    /// # Errors
    /// [`LogError::Unavailable`], [`LogError::Full`]; nothing was appended then.
    pub fn append(&self, entries: &[Entry]) -> Result<Range<u64>, LogError> {
        let encoded: Vec<Bytes> = entries.iter().map(|entry| entry.encode().into()).collect();
        if encoded.iter().any(|entry| entry.len() > ENTRY_MAX) {
            return Err(LogError::None("room for an entry that long"));
        }
        let mut frames = Vec::with_capacity(encoded.iter().map(|entry| entry.len() + 8).sum());
        encoded.iter().for_each(|entry| journal::frame(&mut frames, entry));
        let inner = self.inner();
        let mut state = inner.state();
        if let Some(broken) = &state.broken {
            return Err(broken.clone());
        }
        let mut appended = state.segment.append(&frames);
        if matches!(&appended, Err(why) if is_full(why)) {
            inner.short.store(true, Ordering::Relaxed);
            if files::release_reserve(&inner.dir) {
                // Reads and shreds go on for a while on a full disk.
                appended = state.segment.append(&frames);
            }
        }
        if let Err(why) = appended {
            inner.failing.store(true, Ordering::Relaxed);
            return Err(LogError::unavailable(&inner.dir, &why));
        }
        let begin = state.size();
        state.recent.extend(encoded);
        Ok(begin..state.size())
    }

    /// What is told where there is no room.
    pub(crate) fn full(&self) -> LogError {
        LogError::Full { place: self.inner().dir.display().to_string() }
    }

    /// Whether entries take what was kept back for them on a full disk, or even that is used up.
    pub fn is_short(&self) -> bool {
        self.inner().short.load(Ordering::Relaxed)
    }

    /// Whether it takes entries, as far as is known without one.
    pub(crate) fn takes_entries(&self) -> bool {
        !self.inner().failing.load(Ordering::Relaxed) && self.inner().state().broken.is_none()
    }

    /// Waits until everything before `end` is durable.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn durable(&self, end: u64) -> Result<(), LogError> {
        let inner = self.inner();
        let mut durable = inner.durable.subscribe();
        let reached = |head: &Option<TreeHead>| head.is_none_or(|head| head.size >= end);
        if durable.borrow().is_some_and(|head| head.size >= end) {
            return Ok(());
        }
        inner.state().awaited = true;
        inner.wake.notify_one();
        let reached = durable.wait_for(reached).await;
        match reached.map(|head| *head) {
            Ok(Some(_)) => Ok(()),
            _ => Err(inner.state().broken.clone().unwrap_or(LogError::None("thread any more"))),
        }
    }

    /// How many entries there are.
    pub fn size(&self) -> u64 {
        self.inner().state().size()
    }

    /// How many of them are durable.
    pub fn durable_size(&self) -> u64 {
        self.head().map_or(0, |head| head.size)
    }

    /// What is durable, as a tree; none once nothing more gets so.
    pub(crate) fn head(&self) -> Option<TreeHead> {
        *self.inner().durable.borrow()
    }

    /// The root over the first `size` entries, none if fewer are durable.
    ///
    /// # Errors
    /// [`LogError::Damaged`].
    pub(crate) fn root(&self, size: u64) -> Result<Option<[u8; 32]>, LogError> {
        root_of(&self.inner().dir, &self.inner().tree(), size)
    }

    /// Whether every entry is durable before its answer leaves.
    pub fn sync_every_entry(&self) -> bool {
        self.inner().sync == Sync::Entry
    }

    /// The bytes of at most `limit` entries from `from` on.
    ///
    /// # Errors
    /// [`LogError::MovedAway`], or the system's.
    pub fn read(&self, from: u64, limit: usize) -> Result<Vec<Vec<u8>>, LogError> {
        let mut entries = Vec::new();
        let end = self.size().min(from.saturating_add(limit as u64));
        self.scan(from..end, |_, entry| entries.push(entry.to_vec()))?;
        Ok(entries)
    }

    /// Goes through entries in their order, a bundle at a time.
    ///
    /// # Errors
    /// As for [`Log::read`].
    pub fn scan(&self, range: Range<u64>, mut each: impl FnMut(u64, &[u8])) -> Result<(), LogError> {
        let inner = self.inner();
        let mut at = range.start;
        while at < range.end {
            let part = inner.entries_at(at)?;
            if part.is_empty() {
                return Ok(());
            }
            for entry in part.iter().take(usize::try_from(range.end - at).unwrap_or(usize::MAX)) {
                each(at, entry);
                at += 1;
            }
        }
        Ok(())
    }

    /// RFC 6962: that the entry is among the first `size`, which must be durable.
    ///
    /// # Errors
    /// [`LogError::None`] if it is not.
    pub fn inclusion(&self, index: u64, size: u64) -> Result<Vec<[u8; 32]>, LogError> {
        let tree = self.inner().tree();
        if index >= size || size > tree.size() {
            return Err(LogError::None("such entry or size yet"));
        }
        tree.inclusion(index, size).map_err(|why| LogError::damaged(&self.inner().dir, index, why))
    }

    /// RFC 6962: that the first `from` entries are the beginning of the first `to`.
    ///
    /// # Errors
    /// [`LogError::None`] if there are not as many.
    pub fn consistency(&self, from: u64, to: u64) -> Result<Vec<[u8; 32]>, LogError> {
        let tree = self.inner().tree();
        if from > to || to > tree.size() {
            return Err(LogError::None("such sizes yet"));
        }
        tree.consistency(from, to).map_err(|why| LogError::damaged(&self.inner().dir, from, why))
    }

    /// A tile by its path behind `tile/`, as C2SP `tlog-tiles` has it: `0/x001/234`, `entries/000.p/17`. None if there is
    /// no such tile yet.
    ///
    /// # Errors
    /// As for [`Log::read`].
    pub fn tile(&self, path: &str) -> Result<Option<Vec<u8>>, LogError> {
        let Some((level, number)) = path.split_once('/') else { return Ok(None) };
        let Some((number, width)) = tree::parse_number(number) else { return Ok(None) };
        let inner = self.inner();
        if level == "entries" {
            let begin = number.saturating_mul(WIDTH);
            if begin.saturating_add(width) > self.durable_size() {
                return Ok(None);
            }
            let mut entries: Vec<Bytes> = Vec::new();
            self.scan(begin..begin + width, |_, entry| entries.push(entry.into()))?;
            return Ok(Some(journal::write_bundle(&entries)));
        }
        let level = level.parse().ok().filter(|parsed: &u8| *parsed < 8 && parsed.to_string() == level);
        let Some(level) = level else { return Ok(None) };
        let tree = inner.tree();
        tree.tile(level, number, width, tree.size()).map_err(|why| LogError::damaged(&inner.dir, number * WIDTH, why))
    }

    /// Makes everything durable and ends; nothing can be appended any more.
    pub fn close(&self) {
        self.0.end();
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0.inner
    }
}

impl Owner {
    fn end(&self) {
        self.inner.state().closing = true;
        self.inner.wake.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // It has told of its failure if it had one.
            let _ = thread.join();
        }
        self.inner.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.end();
    }
}

impl State {
    pub(super) fn size(&self) -> u64 {
        self.recent_from + self.recent.len() as u64
    }
}

impl Inner {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn head(&self) -> MutexGuard<'_, Head> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Entries from this one on: those of its bundle, or what is in memory.
    fn entries_at(&self, at: u64) -> Result<Vec<Bytes>, LogError> {
        {
            let state = self.state();
            if at >= state.recent_from {
                let skip = usize::try_from(at - state.recent_from).unwrap_or(usize::MAX);
                return Ok(state.recent.iter().skip(skip).take(4096).cloned().collect());
            }
        }
        let skip = usize::try_from(at % WIDTH).expect("less than 256");
        let mut entries = bundle(&self.dir, at / WIDTH)?;
        if entries.len() as u64 != WIDTH {
            return Err(LogError::damaged(&self.dir, at, "its bundle is not whole"));
        }
        entries.drain(..skip);
        Ok(entries)
    }
}

/// The tree that tiles and journal give, and those of its entries that the journal has, from the beginning of a bundle on.
fn rebuild(dir: &Path, replayed: Option<&Replayed>) -> Result<(Tree, VecDeque<Bytes>), LogError> {
    let first = replayed.map_or(0, |replayed| replayed.first);
    let base = first / WIDTH * WIDTH;
    let mut tree = Tree::open(dir, base).map_err(|why| LogError::damaged(dir, base, why))?;
    let mut recent: VecDeque<Bytes> = VecDeque::new();
    if first > base {
        // What of the last bundle the journal has no longer.
        let missing = usize::try_from(first - base).expect("less than 256");
        recent.extend(bundle(dir, base / WIDTH)?.into_iter().take(missing));
    }
    recent.extend(replayed.into_iter().flat_map(|replayed| &replayed.entries).cloned());
    recent.iter().for_each(|entry| tree.push(tlog_tiles::record_hash(entry)));
    Ok((tree, recent))
}

fn root_of(dir: &Path, tree: &Tree, size: u64) -> Result<Option<[u8; 32]>, LogError> {
    let root = (size <= tree.size()).then(|| tree.root(size));
    root.transpose().map_err(|why| LogError::damaged(dir, size, why))
}

/// The root over the first `size` entries of the log in `dir`, which nobody may have open; none if it has fewer.
///
/// # Errors
/// [`LogError`].
pub fn root_at(dir: &Path, size: u64) -> Result<Option<[u8; 32]>, LogError> {
    let _lock = lock_to_look(dir)?;
    let replayed = journal::replay(dir)?;
    let (tree, _) = rebuild(dir, replayed.as_ref())?;
    root_of(dir, &tree, size)
}

/// The entries of a bundle on disk.
pub(super) fn bundle(dir: &Path, number: u64) -> Result<Vec<Bytes>, LogError> {
    let index = number * WIDTH;
    let limit = WIDTH * (ENTRY_MAX as u64 + 2);
    let bytes = files::read(&tree::bundle_path(dir, number), limit).map_err(|why| match why.kind() {
        io::ErrorKind::NotFound => LogError::MovedAway { index },
        _ => LogError::unavailable(dir, &why),
    })?;
    let entries =
        journal::read_bundle(&bytes).ok_or_else(|| LogError::damaged(dir, index, "its bundle is not whole"))?;
    Ok(entries.into_iter().map(Bytes::from).collect())
}

fn make_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Keeps a log that is only looked at from being opened meanwhile; a copy may have no lock.
pub(super) fn lock_to_look(dir: &Path) -> Result<Option<File>, LogError> {
    let Ok(file) = File::open(dir.join("lock")) else { return Ok(None) };
    match file.try_lock_shared() {
        Err(std::fs::TryLockError::WouldBlock) => Err(LogError::InUse { place: dir.display().to_string() }),
        // A file system without locks, read-only perhaps.
        Err(std::fs::TryLockError::Error(_)) => Ok(None),
        Ok(()) => Ok(Some(file)),
    }
}

/// One process at a time.
fn lock(dir: &Path) -> Result<File, LogError> {
    let told = |why: io::Error| LogError::unavailable(dir, &why);
    let path = dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(told)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(LogError::InUse { place: dir.display().to_string() }),
        Err(std::fs::TryLockError::Error(why)) => Err(told(why)),
    }
}
