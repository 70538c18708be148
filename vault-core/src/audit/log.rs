//! The log itself: appended to before any answer leaves, made durable in the background, signed when it has grown.
//!
//! One thread of its own hashes what was appended, makes it durable, and moves it from the journal into tiles. Nothing is
//! removed from the journal before its tiles are durable.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::head::Head;
use super::journal::{self, Bytes, ENTRY_MAX, Segment};
use super::tree::{self, Tree, WIDTH};
use super::{Entry, files};

/// Bytes of a segment of the journal, after which the next one is begun.
const SEGMENT_MAX: u64 = if cfg!(test) { 20 * 1024 } else { 4 * 1024 * 1024 };
/// How often a log that has grown is signed without being asked.
const SIGN_EVERY: Duration = Duration::from_secs(1);

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
    sync: Sync,
    state: Mutex<State>,
    /// Tells the thread that somebody waits, or that it shall end.
    wake: Condvar,
    /// The tree over what is durable. Locked before `state`, if both are.
    pub(super) tree: Mutex<Tree>,
    pub(super) head: Mutex<Head>,
    durable: watch::Sender<u64>,
    /// Held as long as the log is open.
    lock: Mutex<Option<File>>,
}

struct State {
    segment: Segment,
    /// Segments before it, each with the end of its entries.
    older: VecDeque<(PathBuf, u64)>,
    /// Entries that are in no bundle on disk yet, and the index of the first.
    recent: VecDeque<Bytes>,
    recent_from: u64,
    awaited: bool,
    closing: bool,
    /// Why nothing is appended any more.
    broken: Option<LogError>,
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
        let first = replayed.as_ref().map_or(0, |replayed| replayed.first);
        let base = first / WIDTH * WIDTH;
        let mut tree = Tree::open(dir, base).map_err(|why| LogError::damaged(dir, base, why))?;
        // What of the last bundle the journal has no longer.
        let mut recent: VecDeque<Bytes> = VecDeque::new();
        if first > base {
            let missing = usize::try_from(first - base).expect("less than 256");
            recent.extend(bundle(dir, base / WIDTH)?.into_iter().take(missing));
        }
        let head = Head::open(dir)?;
        let (segment, older) = match replayed {
            Some(replayed) => {
                if replayed.torn && replayed.end() < head.signed_size() {
                    return Err(LogError::damaged(dir, replayed.end(), "the journal is cut short or changed"));
                }
                let older = replayed.segments.iter().rev().skip(1).rev().cloned();
                let older: VecDeque<_> = older.map(|path| (path, replayed.end())).collect();
                let segment = replayed.resume().map_err(told)?;
                recent.extend(replayed.entries);
                (segment, older)
            }
            None if tree::tile_path(dir, 0, 0).exists() => {
                return Err(LogError::damaged(dir, 0, "its journal is missing"));
            }
            None => (Segment::create(dir, 0).map_err(told)?, VecDeque::new()),
        };
        for entry in &recent {
            tree.push(tlog_tiles::record_hash(entry));
        }
        head.fits(dir, &tree)?;
        let state = State { segment, older, recent, recent_from: base, awaited: false, closing: false, broken: None };
        let durable = watch::Sender::new(tree.size());
        let inner = Arc::new(Inner {
            dir: dir.to_owned(),
            sync,
            state: Mutex::new(state),
            wake: Condvar::new(),
            tree: Mutex::new(tree),
            head: Mutex::new(head),
            durable,
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
        if matches!(&appended, Err(Some(why)) if is_full(why)) && files::release_reserve(&inner.dir) {
            // Reads and shreds go on for a while on a full disk.
            appended = state.segment.append(&frames);
        }
        if let Err(error) = appended {
            return Err(match error {
                Some(why) => LogError::unavailable(&inner.dir, &why),
                None => {
                    let why = "a write failed and cannot be taken back: start again".to_owned();
                    let place = inner.dir.display().to_string();
                    state.broken.insert(LogError::Unavailable { place, why }).clone()
                }
            });
        }
        let begin = state.size();
        state.recent.extend(encoded);
        Ok(begin..state.size())
    }

    /// Waits until everything before `end` is durable.
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn durable(&self, end: u64) -> Result<(), LogError> {
        let inner = self.inner();
        let mut durable = inner.durable.subscribe();
        if *durable.borrow() >= end {
            return Ok(());
        }
        inner.state().awaited = true;
        inner.wake.notify_one();
        let reached = durable.wait_for(|size| *size >= end || *size == u64::MAX).await;
        match reached.map(|size| *size) {
            Ok(size) if size != u64::MAX => Ok(()),
            _ => Err(inner.state().broken.clone().unwrap_or(LogError::None("thread any more"))),
        }
    }

    /// How many entries there are.
    pub fn size(&self) -> u64 {
        self.inner().state().size()
    }

    /// How many of them are durable.
    pub fn durable_size(&self) -> u64 {
        let durable = *self.inner().durable.borrow();
        if durable == u64::MAX { 0 } else { durable }
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
    fn size(&self) -> u64 {
        self.recent_from + self.recent.len() as u64
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
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

    /// The thread's work, until it is told to end.
    fn run(&self) {
        let every = match self.sync {
            Sync::Every(every) => every,
            Sync::Entry => Duration::from_millis(100),
        };
        let mut signed = Instant::now();
        loop {
            let closing = self.wait(every);
            if closing {
                // Before the last look, so that nothing is appended behind it and waited for in vain.
                let place = self.dir.display().to_string();
                let closed = LogError::Unavailable { place, why: "it is closed".to_owned() };
                self.state().broken.get_or_insert(closed);
            }
            let settled = self.settle();
            if let Err(why) = self.tidy() {
                // The journal has everything: it is tried again.
                tracing::debug!(%why, "tiles of the audit log wait to be written");
            }
            if let Err(error) = settled {
                tracing::error!(%error, "the audit log cannot be made durable; nothing is acknowledged any more");
                self.state().broken = Some(error);
                self.durable.send_replace(u64::MAX);
                return;
            }
            if closing || signed.elapsed() >= SIGN_EVERY {
                signed = Instant::now();
                if let Err(error) = self.sign() {
                    tracing::warn!(%error, "the head of the audit log could not be written");
                }
            }
            if closing {
                return;
            }
        }
    }

    /// Until somebody waits for durability, or `every` has passed. Answers whether it is the end.
    fn wait(&self, every: Duration) -> bool {
        let mut state = self.state();
        if !state.awaited && !state.closing {
            state = self.wake.wait_timeout(state, every).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.awaited = false;
        state.closing
    }

    /// Makes what was appended durable, and hashes it.
    fn settle(&self) -> Result<(), LogError> {
        let told = |why: io::Error| LogError::unavailable(&self.dir, &why);
        let hashed = self.tree().size();
        let (fresh, file) = {
            let state = self.state();
            let skip = usize::try_from(hashed - state.recent_from).expect("what is in memory is bounded");
            let fresh: Vec<Bytes> = state.recent.iter().skip(skip).cloned().collect();
            (fresh, state.segment.file.clone())
        };
        if fresh.is_empty() {
            return Ok(());
        }
        file.sync_data().map_err(told)?;
        let mut tree = self.tree();
        fresh.iter().for_each(|entry| tree.push(tlog_tiles::record_hash(entry)));
        self.durable.send_replace(tree.size());
        Ok(())
    }

    /// Moves on what is durable: into tiles and bundles, and out of the journal.
    fn tidy(&self) -> io::Result<()> {
        self.tree().write()?;
        self.bundle_up()?;
        files::keep_reserve(&self.dir)
    }

    /// Writes full bundles, and lets segments of the journal go whose entries lie in durable tiles.
    fn bundle_up(&self) -> io::Result<()> {
        let hashed = self.tree().size();
        loop {
            let (number, bytes) = {
                let state = self.state();
                let width = usize::try_from(WIDTH).expect("256");
                if state.recent_from + WIDTH > hashed || state.recent.len() < width {
                    break;
                }
                (state.recent_from / WIDTH, journal::write_bundle(state.recent.iter().take(width)))
            };
            files::write(&tree::bundle_path(&self.dir, number), &bytes)?;
            let mut state = self.state();
            state.recent.drain(..usize::try_from(WIDTH).expect("256"));
            state.recent_from += WIDTH;
        }
        self.turn_over()
    }

    fn turn_over(&self) -> io::Result<()> {
        let (bundled, spent) = {
            let mut state = self.state();
            if state.segment.len() > SEGMENT_MAX {
                // Before there is another: nobody syncs it later, and only the last one may be torn.
                state.segment.file.sync_data()?;
                let fresh = Segment::create(&self.dir, state.size())?;
                let full = std::mem::replace(&mut state.segment, fresh);
                let end = state.size();
                state.older.push_back((full.path, end));
            }
            let bundled = state.recent_from;
            let spent: Vec<PathBuf> =
                state.older.iter().take_while(|(_, end)| *end <= bundled).map(|(path, _)| path.clone()).collect();
            (bundled, spent)
        };
        if spent.is_empty() {
            return Ok(());
        }
        self.sync_tiles(&spent[0], bundled)?;
        for path in &spent {
            std::fs::remove_file(path)?;
        }
        self.state().older.drain(..spent.len());
        File::open(self.dir.join("journal"))?.sync_all()
    }

    /// Makes the tiles of all entries from the segment on durable.
    fn sync_tiles(&self, oldest: &Path, end: u64) -> io::Result<()> {
        let first = oldest.file_name().and_then(|name| name.to_str());
        let first = first.and_then(|name| u64::from_str_radix(name, 16).ok()).unwrap_or(0);
        for number in first / WIDTH..end / WIDTH {
            files::sync(&tree::bundle_path(&self.dir, number), &self.dir)?;
        }
        for level in 0_u8..7 {
            let span = WIDTH.pow(u32::from(level) + 1);
            for number in first / span..end / span {
                files::sync(&tree::tile_path(&self.dir, level, number), &self.dir)?;
            }
        }
        Ok(())
    }
}

fn is_full(why: &io::Error) -> bool {
    matches!(why.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
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
