//! The log's own thread: hashes what was appended, makes it durable, and moves it from the journal into tiles. Nothing is
//! removed from the journal before its tiles are durable.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::error::LogError;
use super::files;
use super::journal::{self, Bytes};
use super::log::{Inner, Sync};
use super::tree::{self, WIDTH};

/// Bytes of a segment of the journal, after which the next one is begun.
const SEGMENT_MAX: u64 = if cfg!(test) { 20 * 1024 } else { 4 * 1024 * 1024 };
/// How often a log that has grown is signed without being asked.
const SIGN_EVERY: Duration = Duration::from_secs(1);

impl Inner {
    /// The thread's work, until it is told to end.
    pub(super) fn run(&self) {
        let every = match self.sync {
            Sync::Every(every) => every,
            Sync::Entry => Duration::from_millis(100),
        };
        let (mut signed, mut told) = (Instant::now(), false);
        loop {
            let closing = self.wait(every);
            if closing {
                // Before the last look, so that nothing is appended behind it and waited for in vain.
                let place = self.dir.display().to_string();
                let closed = LogError::Unavailable { place, why: "it is closed".to_owned() };
                self.state().broken.get_or_insert(closed);
            }
            let settled = self.settle();
            let in_place = self.state().segment.mend();
            let is_in_place = in_place.is_ok();
            let tidied = in_place.and_then(|()| self.tidy());
            if let (Err(why), false) = (&tidied, told) {
                // The journal has everything: it is tried again. Told once until it works.
                tracing::warn!(%why, "tiles of the audit log wait to be written");
            }
            told = tidied.is_err();
            let broken = if closing { None } else { self.state().broken.clone() };
            if let Some(error) = settled.err().or(broken) {
                tracing::error!(%error, "the audit log cannot be made durable; nothing is acknowledged any more");
                self.state().broken = Some(error);
                self.durable.send_replace(None);
                return;
            }
            // Nothing is written to a place where the journal is not.
            if is_in_place && (closing || signed.elapsed() >= SIGN_EVERY) {
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
        // Its hashes are in memory.
        let head = tree.head().map_err(|why| LogError::damaged(&self.dir, tree.size(), why))?;
        self.durable.send_replace(Some(head));
        Ok(())
    }

    /// Moves on what is durable: into tiles and bundles, and out of the journal.
    fn tidy(&self) -> io::Result<()> {
        // The tree is let go in between.
        let written = self.tree().write();
        let moved = written.and_then(|()| self.bundle_up());
        // Whatever is wrong with tiles, the journal takes entries.
        files::keep_reserve(&self.dir)?;
        self.short.store(false, Ordering::Relaxed);
        self.failing.store(false, Ordering::Relaxed);
        moved
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
                state.segment.mend()?;
                // Before there is another: nobody syncs it later, and only the last one may be torn.
                if let Err(why) = state.segment.file.sync_data() {
                    // The next time might pass over what this one could not write.
                    state.broken = Some(LogError::unavailable(&self.dir, &why));
                    return Err(why);
                }
                let size = state.size();
                let fresh = state.segment.next(&self.dir, size)?;
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
            match std::fs::remove_file(path) {
                // Its entries lie in tiles: whoever took it away did no harm.
                Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
                _ => {}
            }
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
