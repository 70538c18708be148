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

/// What of the reserve is given up beside what is missing, for others that write meanwhile.
const PART: u64 = 1024 * 1024;

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

    /// What may be written now. Makes the reserve when there is room for it. If something is there that may use it
    /// (`reclaiming`), gives up as much of it as is missing, and no more: whoever fills the disk takes that as well.
    pub(super) fn admits(&self, reclaiming: bool) -> Admits {
        let Some(mut free) = self.free() else {
            return Admits::All;
        };
        if self.is_enough(free) && self.reserve().is_ok() {
            return Admits::All;
        }
        let floor = self.floor();
        if reclaiming && free < floor && self.give_up(floor - free + PART).unwrap_or(false) {
            free = self.free().unwrap_or(free);
        }
        if free < floor { Admits::None } else { Admits::Reclaiming }
    }

    /// Gives all of the reserve up, if the disk is full; answers whether there was any.
    pub(super) fn give_up_all(&self) -> bool {
        self.is_full() && self.give_up(self.reserve_bytes).unwrap_or(false)
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
        let missing = match self.reserved.load(Ordering::Relaxed) {
            true => 0,
            false => self.reserve_bytes.saturating_sub(self.kept()),
        };
        let headroom = self.headroom.load(Ordering::Relaxed);
        free >= self.min_free.saturating_add(missing).saturating_add(headroom)
    }

    /// Makes the reserve file whole unless it is.
    fn reserve(&self) -> io::Result<()> {
        if self.reserved.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut file = File::options().append(true).create(true).open(self.path())?;
        let kept = file.metadata()?.len().min(self.reserve_bytes);
        file.set_len(kept)?;
        self.fill(&mut file, kept).inspect_err(|_| _ = file.set_len(kept))?;
        self.reserved.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Writes the bytes out: a file that is only given a length takes no room.
    fn fill(&self, file: &mut File, kept: u64) -> io::Result<()> {
        let zeros = [0; 64 * 1024];
        let mut left = self.reserve_bytes - kept;
        while left > 0 {
            let step = left.min(zeros.len() as u64);
            file.write_all(&zeros[..step as usize])?;
            left -= step;
        }
        file.sync_all()
    }

    /// How much of the reserve there is.
    fn kept(&self) -> u64 {
        fs::metadata(self.path()).map_or(0, |file| file.len())
    }

    /// Gives up so much of the reserve; answers whether there was any.
    fn give_up(&self, bytes: u64) -> io::Result<bool> {
        let kept = self.kept();
        if kept == 0 {
            return Ok(false);
        }
        self.reserved.store(false, Ordering::Relaxed);
        match kept.saturating_sub(bytes) {
            0 => fs::remove_file(self.path())?,
            rest => File::options().write(true).open(self.path())?.set_len(rest)?,
        }
        Ok(true)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn no_more_of_the_reserve_is_given_up_than_is_missing() {
        let dir = tempfile::TempDir::new().unwrap();
        let (total, others) = (300 * MIB, Arc::new(AtomicU64::new(0)));
        let used = others.clone();
        let probe = move |dir: &Path| {
            let reserve = fs::metadata(dir.join(RESERVE)).map_or(0, |file| file.len());
            Ok(total.saturating_sub(reserve + used.load(Ordering::Relaxed)))
        };
        let room = Room::new(dir.path(), 128 * MIB, 64 * MIB, Box::new(probe));
        assert_eq!((room.admits(false), room.kept()), (Admits::All, 64 * MIB));
        let fill_up = || others.fetch_add(room.free().unwrap(), Ordering::Relaxed);

        // Below what writes need, and enough for what removes.
        others.store(total - 64 * MIB - FLOOR, Ordering::Relaxed);
        assert_eq!((room.admits(true), room.kept()), (Admits::Reclaiming, 64 * MIB));

        // Somebody takes whatever is given up, and some is left for the next that removes.
        for kept in [39, 14] {
            fill_up();
            assert_eq!((room.admits(false), room.kept()), (Admits::None, (kept + 25) * MIB));
            assert_eq!((room.admits(true), room.kept()), (Admits::Reclaiming, kept * MIB));
        }
        fill_up();
        assert_eq!((room.admits(true), room.kept()), (Admits::None, 0), "14 MiB are less than it takes");

        // Once there is room it is made whole, also from a part.
        others.store(0, Ordering::Relaxed);
        assert_eq!((room.admits(false), room.kept()), (Admits::All, 64 * MIB));
        fill_up();
        assert_eq!(room.admits(true), Admits::Reclaiming);
        others.store(total - 192 * MIB, Ordering::Relaxed);
        assert!(!room.is_full(), "what is left of it counts");
        assert_eq!((room.admits(false), room.kept()), (Admits::All, 64 * MIB));
    }
}
