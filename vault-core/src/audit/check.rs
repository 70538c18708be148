//! Checking a log from its files alone: every hash from the entries up, every signature, and where they part.

mod heads;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use tlog_tiles::record_hash;
use tlog_tiles::tlog::Hash;

use self::heads::Heads;
use super::entry::{Action, Entry, KeyChange, Level, Outcome};
use super::error::LogError;
use super::files;
use super::journal::{self, Bytes, Replayed};
use super::log;
use super::tree::{self, Tree, WIDTH};
use crate::ids::ErasureId;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogReport {
    /// Entries that there are.
    pub size: u64,
    /// Entries whose bundle was moved away; their hashes are here.
    pub moved: u64,
    /// The size that the last head speaks of.
    pub signed: u64,
    /// The key that signs it, if it is known which: without one no signature could be checked.
    pub log_key: Option<String>,
    /// What it tells of each erasure.
    pub erasures: BTreeMap<ErasureId, ToldErasure>,
    /// The newest commit of the store that it tells of; 0 if it tells of none.
    pub commit: u64,
    /// What does not fit, each with its place.
    pub problems: Vec<String>,
}

/// What a log tells of an erasure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToldErasure {
    /// Shreds of it, each of one subject.
    pub shredded: u64,
    /// That it ended.
    pub ended: bool,
}

impl ToldErasure {
    /// Adds what an entry tells.
    pub(crate) fn take(told: &mut BTreeMap<ErasureId, Self>, entry: &Entry) {
        let (Some(id), Outcome::Done) = (entry.erasure, entry.outcome) else { return };
        match (entry.what, entry.level) {
            (Action::Shredded, _) => told.entry(id).or_default().shredded += 1,
            (Action::ErasureLevel, Some(Level::F1)) => told.entry(id).or_default().ended = true,
            _ => {}
        }
    }
}

/// A head of the log that somebody kept, and what it is called in the report.
pub type KeptHead = (String, Vec<u8>);

/// Problems that are told; more are only counted.
const TOLD_MAX: usize = 100;
/// Bytes of a tile of hashes.
const TILE_BYTES: u64 = 32 * WIDTH;

/// Checks the log in `dir`, which nobody may have open. `trusted` is one of its keys from elsewhere; without it the keys are
/// taken as the log tells them. `progress` is told the entries done and all.
///
/// # Errors
/// [`LogError`] if the files cannot be read at all; what is wrong with them is in the report.
pub fn check(dir: &Path, trusted: Option<&str>, progress: &dyn Fn(u64, u64)) -> Result<LogReport, LogError> {
    check_with(dir, trusted, &[], progress)
}

/// As [`check`], and holds heads that were kept elsewhere against the log: of two that disagree it tells which is not of this
/// log.
///
/// # Errors
/// As for [`check`].
pub fn check_with(
    dir: &Path,
    trusted: Option<&str>,
    kept: &[KeptHead],
    progress: &dyn Fn(u64, u64),
) -> Result<LogReport, LogError> {
    let _lock = log::lock_to_look(dir)?;
    let mut problems = Vec::new();
    let replayed = match journal::replay(dir) {
        Ok(replayed) => replayed,
        Err(LogError::Damaged { index, why, .. }) => {
            problems.push(format!("the journal, entry {index}: {why}"));
            None
        }
        Err(error) => return Err(error),
    };
    let heads = Heads::read(dir, kept, &mut problems)?;
    let (first, journaled) = match &replayed {
        Some(replayed) => (replayed.first, &replayed.entries[..]),
        None => (first_missing_tile(dir) * WIDTH, &[][..]),
    };
    let end = first + journaled.len() as u64;
    if let Some(torn) = replayed.as_ref().filter(|replayed| replayed.torn) {
        problems.extend(cut_short(torn, &heads));
    }
    let tree = Tree::open(dir, 0).map_err(|why| LogError::damaged(dir, 0, why))?;
    let seen = Seen { sizes: heads.sizes(), ..Seen::default() };
    let mut walk = Walk { dir, first, overlap: first / WIDTH, problems, tree, seen };
    for number in 0..first.div_ceil(WIDTH) {
        walk.bundle(number);
        progress(walk.tree.size(), end.max(1));
    }
    let known = usize::try_from(walk.tree.size().saturating_sub(first)).unwrap_or(usize::MAX);
    for entry in journaled.iter().skip(known) {
        walk.entry(entry);
    }
    walk.overlap(journaled);
    walk.tiles();
    walk.beyond();
    let Walk { mut problems, tree, seen, .. } = walk;
    let log_key = heads.check(&seen, tree.size(), trusted, &mut problems);
    let more = problems.len().saturating_sub(TOLD_MAX);
    problems.truncate(TOLD_MAX);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    progress(end.max(1), end.max(1));
    let Seen { moved, erasures, commit, .. } = seen;
    Ok(LogReport { size: tree.size(), moved, signed: heads.signed(), log_key, erasures, commit, problems })
}

/// A journal that ends within a frame: what a crash leaves, unless it was signed already.
fn cut_short(journal: &Replayed, heads: &Heads) -> Option<String> {
    let name = journal.segments.last().map(|path| path.display().to_string()).unwrap_or_default();
    let told = format!("the journal is cut short or changed at entry {} ({name})", journal.end());
    (journal.end() < heads.signed()).then_some(told)
}

/// The number of the first tile of entries that is missing.
fn first_missing_tile(dir: &Path) -> u64 {
    let there = |number: u64| tree::tile_path(dir, 0, number).exists();
    let mut above = 1_u64;
    while there(above - 1) {
        above *= 2;
    }
    let (mut low, mut high) = (above / 2, above);
    while low < high {
        let middle = low.midpoint(high);
        if there(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

/// What was seen on the way through the entries.
#[derive(Default)]
struct Seen {
    /// The sizes that heads speak of.
    sizes: Vec<u64>,
    /// The roots at these sizes.
    roots: Vec<(u64, [u8; 32])>,
    /// Entries that tell of a change of the key, by their index.
    changes: Vec<(u64, KeyChange)>,
    erasures: BTreeMap<ErasureId, ToldErasure>,
    commit: u64,
    moved: u64,
    /// Entries that could not be looked at, the moved ones among them.
    unseen: u64,
}

impl Seen {
    fn take(&mut self, index: u64, entry: Entry) {
        ToldErasure::take(&mut self.erasures, &entry);
        self.commit = self.commit.max(entry.commit.unwrap_or(0));
        self.changes.extend(entry.log_key.map(|change| (index, change)));
    }
}

struct Walk<'a> {
    dir: &'a Path,
    /// Where the journal begins: what is before must lie in tiles.
    first: u64,
    /// The first bundle that is not looked at yet and that the journal has entries of.
    overlap: u64,
    problems: Vec<String>,
    tree: Tree,
    seen: Seen,
}

impl Walk<'_> {
    /// The entries of a bundle as far as the journal does not have them, or their hashes where it was moved away.
    fn bundle(&mut self, number: u64) {
        let begin = number * WIDTH;
        let upto = usize::try_from((self.first - begin).min(WIDTH)).expect("at most 256");
        let name = tree::bundle_path(self.dir, number).display().to_string();
        let hashes = self.hashes(number);
        match log::bundle(self.dir, number) {
            Ok(entries) if entries.len() as u64 == WIDTH => {
                entries.iter().take(upto).for_each(|entry| self.entry(entry));
                self.tiles();
                return;
            }
            Ok(entries) => {
                let fits = |(entry, hash): (&Bytes, &Hash)| record_hash(entry) == *hash;
                let same = entries.iter().zip(&hashes).take_while(|pair| fits(*pair)).count();
                let (count, from) = (entries.len(), begin + same as u64);
                self.problems
                    .push(format!("entry {from} ({name}): removed or changed; it has {count} in place of 256"));
            }
            Err(LogError::MovedAway { .. }) if hashes.len() as u64 == WIDTH => self.seen.moved += WIDTH,
            Err(LogError::MovedAway { .. }) => {
                let last = begin + WIDTH - 1;
                self.problems
                    .push(format!("entries {begin} to {last} are gone: neither {name} nor its hashes are there"));
            }
            Err(LogError::Damaged { .. }) => {
                self.problems.push(format!("entries from {begin} on ({name}): it is cut short or changed"));
            }
            Err(error) => self.problems.push(format!("entries from {begin} on ({name}): {error}")),
        }
        self.overlap = self.overlap.max(number + 1);
        // The places of what follows must stay right, so what is lost counts as well.
        self.seen.unseen += upto as u64;
        for at in 0..upto {
            self.leaf(hashes.get(at).copied().unwrap_or(Hash([0; 32])));
        }
        self.tiles();
    }

    /// The hashes of a bundle's entries; what does not fit them is told with the tiles.
    fn hashes(&self, number: u64) -> Vec<Hash> {
        let tile = files::read(&tree::tile_path(self.dir, 0, number), TILE_BYTES).unwrap_or_default();
        tile.chunks_exact(32).map(|hash| Hash(hash.try_into().expect("32 bytes"))).collect()
    }

    fn entry(&mut self, bytes: &Bytes) {
        let index = self.tree.size();
        match Entry::decode(bytes) {
            None => self.problems.push(format!("entry {index} is not readable")),
            Some(entry) => self.seen.take(index, entry),
        }
        self.leaf(record_hash(bytes));
    }

    fn leaf(&mut self, hash: Hash) {
        self.tree.push(hash);
        let size = self.tree.size();
        if self.seen.sizes.contains(&size)
            && let Ok(root) = self.tree.root(size)
        {
            self.seen.roots.push((size, root));
        }
    }

    /// Tiles in their files, against those that follow from the entries.
    fn tiles(&mut self) {
        let Self { dir, first, problems, tree, .. } = self;
        tree.let_go(|level, number, bytes| {
            let path = tree::tile_path(dir, level, number);
            match files::read(&path, TILE_BYTES) {
                Ok(there) if there == bytes => return true,
                // The newest may not be durable yet, and the journal has their entries.
                Ok(there) if there.is_empty() && mendable(level, number, *first) => {}
                Ok(there) => problems.push(unlike(dir, level, number, &there, bytes)),
                Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
                    if !mendable(level, number, *first) {
                        problems.push(format!("{} is missing", path.display()));
                    }
                }
                Err(why) => problems.push(format!("{}: {why}", path.display())),
            }
            false
        });
    }

    /// Bundles whose entries the journal still has must hold the same.
    fn overlap(&mut self, journaled: &[Bytes]) {
        for number in self.overlap..self.tree.size() / WIDTH {
            let begin = number * WIDTH;
            let name = tree::bundle_path(self.dir, number).display().to_string();
            let entries = match log::bundle(self.dir, number) {
                // Moved away, or not durable before a crash: the journal has them.
                Err(LogError::MovedAway { .. }) => continue,
                Ok(entries) if entries.is_empty() && mendable(0, number, self.first) => continue,
                Ok(entries) => entries,
                Err(_) => {
                    self.problems.push(format!("entries from {begin} on ({name}): it is cut short or changed"));
                    continue;
                }
            };
            let other = (begin..begin + WIDTH).zip(0..).find(|&(index, at)| {
                let journaled = index.checked_sub(self.first).map(|at| journaled.get(usize::try_from(at).ok()?));
                journaled.is_some_and(|journaled| journaled != entries.get(at))
            });
            if let Some((index, _)) = other {
                self.problems.push(format!("entry {index} ({name}) is not the one in the journal"));
            } else if entries.len() as u64 != WIDTH {
                self.problems.push(format!("{name} holds {} entries in place of 256", entries.len()));
            }
        }
    }

    /// Nothing gets into a tile before the journal has it durably, so the log does not end before its tiles do.
    fn beyond(&mut self) {
        let number = self.tree.size() / WIDTH;
        for path in [tree::tile_path(self.dir, 0, number), tree::bundle_path(self.dir, number)] {
            if path.exists() {
                let size = self.tree.size();
                self.problems
                    .push(format!("entry {size} and those behind it were removed: {} is there", path.display()));
            }
        }
    }
}

/// Whether the journal, which begins at this entry, may still have what a tile tells.
fn mendable(level: u8, number: u64, first: u64) -> bool {
    let span = WIDTH.saturating_pow(u32::from(level) + 1);
    (number + 1).saturating_mul(span) > first
}

/// Where a tile does not follow from what is below it.
fn unlike(dir: &Path, level: u8, number: u64, there: &[u8], follows: &[u8]) -> String {
    let path = tree::tile_path(dir, level, number).display().to_string();
    if there.len() != follows.len() {
        return format!("{path} is cut short");
    }
    let at = there.chunks(32).zip(follows.chunks(32)).take_while(|(one, other)| one == other).count() as u64;
    let below = number * WIDTH + at;
    match level {
        0 => {
            let bundle = tree::bundle_path(dir, number).display().to_string();
            format!("entry {below} ({bundle}) is not the one that was hashed ({path}): one of them was changed")
        }
        _ => {
            let tile = tree::tile_path(dir, level - 1, below).display().to_string();
            format!("{path} does not follow from {tile}: one of them was changed")
        }
    }
}
