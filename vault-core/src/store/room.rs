//! Watches the room on a store's disk and keeps a reserve there, so that a full disk never meets a write half way.
//!
//! An engine that runs out of disk may not even open again. So ordinary batches are refused well before, and batches
//! that remove may then use up the reserve.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::StoreError;

/// Free bytes below which not even a batch that removes is let through, with a reserve of more than twice as many.
const FLOOR: u64 = 24 * 1024 * 1024;

/// The name of the reserve file.
const RESERVE: &str = "reserve";

/// How many free bytes a directory's disk has.
pub(super) type Probe = Box<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// The room on one disk.
pub(super) struct Room {
    dir: PathBuf,
    min_free: u64,
    reserve_bytes: u64,
    reserved: AtomicBool,
    /// Free bytes that the engine may need for work of its own, beside `min_free`.
    headroom: AtomicU64,
    probe: Probe,
}

/// Which batches there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admits {
    All,
    Reclaiming,
    None,
}

impl Room {
    /// Watches the disk of `dir`: writes are refused below `min_free` bytes, and a file of `reserve_bytes` is kept.
    pub(super) fn new(dir: &Path, min_free: u64, reserve_bytes: u64, probe: Probe) -> Room {
        let reserved = fs::metadata(dir.join(RESERVE)).is_ok_and(|file| file.len() == reserve_bytes);
        let (reserved, headroom) = (AtomicBool::new(reserved), AtomicU64::new(0));
        Room { dir: dir.to_owned(), min_free, reserve_bytes, reserved, headroom, probe }
    }

    /// Has as much more kept free from now on.
    pub(super) fn set_headroom(&self, bytes: u64) {
        self.headroom.store(bytes, Ordering::Relaxed);
    }

    /// What may be written now. Makes the reserve when there is room for it; when there is not, gives it up if something
    /// is there that may use it (`reclaiming`).
    pub(super) fn admits(&self, reclaiming: bool) -> Admits {
        let Some(mut free) = self.free() else {
            return Admits::All;
        };
        if self.is_enough(free) && self.reserve().is_ok() {
            return Admits::All;
        }
        if reclaiming && self.give_up_reserve() {
            free = self.free().unwrap_or(free);
        }
        if free < self.floor() { Admits::None } else { Admits::Reclaiming }
    }

    /// Of a small reserve some must be left to use once it is given up on a disk without any other room.
    fn floor(&self) -> u64 {
        let half = if self.reserve_bytes > 0 { self.reserve_bytes / 2 } else { FLOOR };
        FLOOR.min(self.min_free).min(half)
    }

    /// Whether ordinary batches would be refused now.
    pub(super) fn is_full(&self) -> bool {
        self.free().is_some_and(|free| !self.is_enough(free))
    }

    /// Free bytes, or none where the system does not tell: then the engine's own errors have to do.
    fn free(&self) -> Option<u64> {
        (self.probe)(&self.dir).ok()
    }

    fn is_enough(&self, free: u64) -> bool {
        let missing = if self.reserved.load(Ordering::Relaxed) { 0 } else { self.reserve_bytes };
        let headroom = self.headroom.load(Ordering::Relaxed);
        free >= self.min_free.saturating_add(missing).saturating_add(headroom)
    }

    /// Makes the reserve file unless it is there.
    fn reserve(&self) -> io::Result<()> {
        if self.reserved.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.write_reserve().inspect_err(|_| _ = fs::remove_file(self.path()))?;
        self.reserved.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Writes the bytes out: a file that is only given a length takes no room.
    fn write_reserve(&self) -> io::Result<()> {
        let mut file = File::create(self.path())?;
        let zeros = [0; 64 * 1024];
        let mut left = self.reserve_bytes;
        while left > 0 {
            let step = left.min(zeros.len() as u64);
            file.write_all(&zeros[..step as usize])?;
            left -= step;
        }
        file.sync_all()
    }

    /// Whether there was a reserve to give up.
    fn give_up_reserve(&self) -> bool {
        self.reserved.store(false, Ordering::Relaxed);
        fs::remove_file(self.path()).is_ok()
    }

    fn path(&self) -> PathBuf {
        self.dir.join(RESERVE)
    }
}

/// The free bytes of `dir`'s disk that this process may use.
pub(super) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(dir)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

impl Admits {
    /// Refuses a batch there is no room for.
    pub(super) fn check(self, reclaim: bool) -> Result<(), StoreError> {
        match self {
            Admits::All => Ok(()),
            Admits::Reclaiming if reclaim => Ok(()),
            Admits::Reclaiming | Admits::None => Err(StoreError::Full),
        }
    }
}
