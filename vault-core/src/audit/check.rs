//! Checking a log from its files alone: every hash from the entries up, every signature, and where they part.

use std::path::Path;

use tlog_tiles::record_hash;
use tlog_tiles::tlog::Hash;

use super::entry::{Action, Entry};
use super::head::{key_notes, signed_by, told_by};
use super::journal::{self, Bytes};
use super::log::{LogError, bundle};
use super::tree::{self, Tree, WIDTH};
use super::{KeyChange, files};

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogReport {
    /// Entries that there are.
    pub size: u64,
    /// Entries whose bundle was moved away; their hashes are here.
    pub moved: u64,
    /// The size that the last head speaks of.
    pub signed: u64,
    /// The key that signed it, if it is known which.
    pub log_key: Option<String>,
    /// What does not fit, each with its place.
    pub problems: Vec<String>,
}

/// Problems that are told; more are only counted.
const TOLD_MAX: usize = 100;

/// Checks the log in `dir`, which nobody else has open. `trusted` is its first key, or any later one, from elsewhere; without
/// it the first key in the log is taken as good. `progress` is told the entries done and all.
///
/// # Errors
/// [`LogError`] if the files cannot be read at all; what is wrong with them is in the report.
pub fn check(dir: &Path, trusted: Option<&str>, progress: &dyn Fn(u64, u64)) -> Result<LogReport, LogError> {
    let mut report = LogReport::default();
    let replayed = match journal::replay(dir) {
        Ok(replayed) => replayed,
        Err(LogError::Damaged { index, why, .. }) => {
            report.problems.push(format!("the journal, entry {index}: {why}"));
            None
        }
        Err(error) => return Err(error),
    };
    let (first, journaled) = match &replayed {
        Some(replayed) => (replayed.first, &replayed.entries[..]),
        None => (bundles(dir) * WIDTH, &[][..]),
    };
    let end = first + journaled.len() as u64;
    let heads = Heads::read(dir, &mut report)?;
    let mut walk = Walk {
        dir,
        report,
        tree: Tree::open(dir, 0).map_err(|why| LogError::damaged(dir, 0, why))?,
        changes: Vec::new(),
        roots: Vec::new(),
    };
    for number in 0..first.div_ceil(WIDTH) {
        walk.bundle(number, first, &heads);
        progress(walk.tree.size(), end.max(1));
    }
    for entry in journaled.iter().skip(usize::try_from(walk.tree.size().saturating_sub(first)).unwrap_or(usize::MAX)) {
        walk.entry(entry, &heads);
    }
    walk.overlap(first, journaled);
    walk.tiles();
    let Walk { mut report, tree, changes, roots, .. } = walk;
    report.size = tree.size();
    heads.check(&mut report, &roots, &changes, trusted);
    let more = report.problems.len().saturating_sub(TOLD_MAX);
    report.problems.truncate(TOLD_MAX);
    if more > 0 {
        report.problems.push(format!("and {more} more"));
    }
    progress(end.max(1), end.max(1));
    Ok(report)
}

/// Two heads that are said to be of this log: which of them do not fit its files.
///
/// # Errors
/// As for [`check`].
pub fn check_two(dir: &Path, heads: [&[u8]; 2]) -> Result<Vec<String>, LogError> {
    let mut told = Vec::new();
    let log = super::Log::open(dir)?;
    let tree = log.inner().tree();
    for (name, head) in ["the first", "the second"].into_iter().zip(heads) {
        match told_by(head) {
            None => told.push(format!("{name} checkpoint is malformed")),
            Some((size, _)) if size > tree.size() => {
                told.push(format!("{name} checkpoint speaks of {size} entries, and there are {}", tree.size()));
            }
            Some((size, root)) if tree.root(size) != Ok(root) => {
                told.push(format!(
                    "{name} checkpoint (size {size}) is not of this log: its first {size} entries are others"
                ));
            }
            Some(_) => {}
        }
    }
    Ok(told)
}

/// The size that a head speaks of, if this key signed it.
pub fn signed_size(head: &[u8], key: &str) -> Option<u64> {
    told_by(head).filter(|_| signed_by(head, &[key])).map(|(size, _)| size)
}

/// Whether the log of one head is the beginning of the log of another, by the proof between them. The signatures are
/// checked by [`signed_size`].
pub fn is_continued(old: &[u8], new: &[u8], proof: &[[u8; 32]]) -> bool {
    let (Some((from, before)), Some((to, after))) = (told_by(old), told_by(new)) else { return false };
    if from == 0 || from >= to {
        return from == 0 || (from == to && before == after);
    }
    let proof = proof.iter().copied().map(Hash).collect();
    tlog_tiles::check_tree(&proof, to, Hash(after), from, Hash(before)).is_ok()
}

/// How many bundles there are, as far as they have tiles.
fn bundles(dir: &Path) -> u64 {
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

struct Walk<'a> {
    dir: &'a Path,
    report: LogReport,
    tree: Tree,
    changes: Vec<(u64, KeyChange)>,
    /// Roots at the sizes that some head speaks of.
    roots: Vec<(u64, [u8; 32])>,
}

impl Walk<'_> {
    fn problem(&mut self, told: String) {
        self.report.problems.push(told);
    }

    /// The entries of a bundle, against the hashes of its tile.
    fn bundle(&mut self, number: u64, first: u64, heads: &Heads) {
        let begin = number * WIDTH;
        let tile = files::read(&tree::tile_path(self.dir, 0, number), 32 * WIDTH).unwrap_or_default();
        let hashes: Vec<[u8; 32]> = tile.chunks_exact(32).map(|hash| hash.try_into().expect("32 bytes")).collect();
        let name = tree::bundle_path(self.dir, number).display().to_string();
        match bundle(self.dir, number) {
            Ok(entries) => {
                if entries.len() as u64 != WIDTH {
                    self.problem(format!("{name} holds {} entries in place of 256", entries.len()));
                }
                if begin + WIDTH <= first && hashes.len() as u64 != WIDTH {
                    self.problem(format!("the tile of hashes of entries from {begin} on is missing or cut short"));
                }
                let upto = usize::try_from((first - begin).min(WIDTH)).expect("at most 256");
                for (at, entry) in entries.iter().enumerate().take(upto) {
                    if hashes.get(at).is_some_and(|hash| record_hash(entry).0 != *hash) {
                        let index = begin + at as u64;
                        self.problem(format!("entry {index} ({name}) is not the one that was hashed"));
                    }
                    self.entry(entry, heads);
                }
            }
            Err(LogError::MovedAway { .. }) if hashes.len() as u64 == WIDTH => {
                self.report.moved += WIDTH;
                for hash in hashes {
                    self.leaf(Hash(hash), heads);
                }
            }
            Err(error) => {
                self.problem(format!("{name}: {error}"));
                hashes.into_iter().for_each(|hash| self.leaf(Hash(hash), heads));
            }
        }
    }

    /// Bundles whose entries the journal still has must hold the same.
    fn overlap(&mut self, first: u64, journaled: &[Bytes]) {
        for number in first / WIDTH..(first + journaled.len() as u64) / WIDTH {
            let name = tree::bundle_path(self.dir, number).display().to_string();
            let entries = match bundle(self.dir, number) {
                Ok(entries) => entries,
                // Moved away, or not written before a crash: the journal has them.
                Err(LogError::MovedAway { .. }) => continue,
                Err(error) => {
                    self.problem(format!("{name}: {error}"));
                    continue;
                }
            };
            if entries.len() as u64 != WIDTH {
                self.problem(format!("{name} holds {} entries in place of 256", entries.len()));
            }
            for (index, entry) in (number * WIDTH..).zip(&entries) {
                let journaled = index.checked_sub(first).and_then(|at| journaled.get(usize::try_from(at).ok()?));
                if journaled.is_some_and(|journaled| journaled != entry) {
                    self.problem(format!("entry {index} ({name}) is not the one in the journal"));
                }
            }
        }
    }

    fn entry(&mut self, bytes: &Bytes, heads: &Heads) {
        let index = self.tree.size();
        match Entry::decode(bytes) {
            None => self.problem(format!("entry {index} is not readable")),
            Some(Entry { what: Action::LogKey, log_key: Some(change), .. }) => self.changes.push((index, change)),
            Some(_) => {}
        }
        self.leaf(record_hash(bytes), heads);
    }

    fn leaf(&mut self, hash: Hash, heads: &Heads) {
        self.tree.push(hash);
        let size = self.tree.size();
        if heads.sizes.contains(&size)
            && let Ok(root) = self.tree.root(size)
        {
            self.roots.push((size, root));
        }
    }

    /// The tiles in the files, against those that follow from the entries.
    fn tiles(&mut self) {
        let mut wrong = Vec::new();
        for (level, number, bytes) in self.tree.unwritten() {
            let path = tree::tile_path(self.dir, level, number);
            match files::read(&path, 32 * WIDTH) {
                Ok(there) if there == bytes => {}
                Ok(_) => wrong.push(format!("{} does not follow from the entries", path.display())),
                // The newest ones may not be written yet.
                Err(why) if why.kind() == std::io::ErrorKind::NotFound => {}
                Err(why) => wrong.push(format!("{}: {why}", path.display())),
            }
        }
        self.report.problems.extend(wrong);
    }
}

/// What was signed.
struct Heads {
    last: Option<Vec<u8>>,
    changes: Vec<(u64, Vec<u8>)>,
    sizes: Vec<u64>,
}

impl Heads {
    fn read(dir: &Path, report: &mut LogReport) -> Result<Self, LogError> {
        let told = |why: std::io::Error| LogError::unavailable(dir, &why);
        let last = match files::read(&dir.join("checkpoint"), 64 * 1024) {
            Ok(note) => Some(note),
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => None,
            Err(why) => return Err(told(why)),
        };
        let changes = key_notes(dir).map_err(told)?;
        let mut sizes: Vec<u64> = changes.iter().map(|(size, _)| *size).collect();
        if let Some(last) = &last {
            match told_by(last) {
                Some((size, _)) => {
                    report.signed = size;
                    sizes.push(size);
                }
                None => report.problems.push("the checkpoint is malformed".to_owned()),
            }
        }
        Ok(Self { last, changes, sizes })
    }

    fn check(
        &self,
        report: &mut LogReport,
        roots: &[(u64, [u8; 32])],
        told: &[(u64, KeyChange)],
        trusted: Option<&str>,
    ) {
        let fits = |note: &[u8]| told_by(note).is_some_and(|head| head.0 == 0 || roots.contains(&head));
        if self.changes.len() != told.len() {
            let (notes, entries) = (self.changes.len(), told.len());
            let text = format!("the log's key was changed {entries} times by its entries, and {notes} times by keys/");
            report.problems.push(text);
        }
        let mut key = trusted.map(str::to_owned);
        for ((size, note), (index, change)) in self.changes.iter().zip(told) {
            if index >= size || !fits(note) || told_by(note).is_none_or(|head| head.0 != *size) {
                report.problems.push(format!("the head at the change of the key at {size} is not of this log"));
            }
            if !signed_by(note, &[&change.old, &change.new]) {
                report.problems.push(format!("the change of the key at {size} is not signed by both keys"));
            }
            match &key {
                // Trusted from the start, or from here on.
                Some(known) if *known == change.old || *known == change.new => key = Some(change.new.clone()),
                None => key = Some(change.new.clone()),
                Some(_) => {}
            }
        }
        let Some(last) = &self.last else {
            if report.size > 0 {
                report.problems.push("the log was never signed".to_owned());
            }
            return;
        };
        if !fits(last) {
            let told = format!(
                "the checkpoint (size {}) is not of these entries: some were changed or removed",
                report.signed
            );
            report.problems.push(told);
        }
        match &key {
            Some(key) if !signed_by(last, &[key]) => {
                report.problems.push("the checkpoint is not signed by the log's key".to_owned());
            }
            Some(_) => {}
            None => {}
        }
        report.log_key = key;
    }
}
