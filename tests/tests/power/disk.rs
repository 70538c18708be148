//! What a disk holds after a loss of power: what was synced, and of the rest whatever comes.
//!
//! The model is the strictest that Linux's filesystems allow, and stricter where they differ:
//! - Data: `fsync` and `fdatasync` make durable what was written to the file before they began. Of what was written later
//!   each sector (512 or 4096 bytes) is as it was after any of the writes to it, independently of all others. `sync_file_range`
//!   makes nothing durable.
//! - Lengths: a file is as long as after any of the changes since; what is missing in it is zeros.
//! - Names: a name that was made, changed or taken away is durable once its directory was synced; until then any of the
//!   changes may be lost, in any order between different names, but not between changes to the same one. A rename
//!   is done or not done. That is what POSIX promises. Half of the images have it as ext4, XFS and btrfs do: to sync a file
//!   or a directory makes its own name durable as well, and the directories that lead to it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::journal::{Event, Journal};
use crate::harness::Choices;

const PAGE: u64 = 4096;

/// What a file holds; pages that are not there are zeros.
#[derive(Clone, Default, PartialEq, Eq)]
struct Content {
    len: u64,
    pages: BTreeMap<u64, Arc<[u8; PAGE as usize]>>,
}

/// A change to a file.
enum Change {
    Write { at: u64, data: Range<usize> },
    Truncate { len: u64 },
    Allocate { len: u64 },
}

/// A file, whatever it is called.
#[derive(Default)]
struct Object {
    durable: Content,
    /// Since it was synced: where each ends in the journal.
    pending: Vec<(usize, Change)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Node {
    Directory,
    File(usize),
}

/// A change of names.
#[derive(Clone)]
enum Naming {
    Add(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

type Tree = BTreeMap<PathBuf, Node>;

/// A directory on a disk that can lose its power.
#[derive(Default)]
pub(super) struct Disk {
    objects: Vec<Object>,
    by_inode: HashMap<u64, usize>,
    /// As programs see them.
    names: Tree,
    /// What is durable of them where POSIX is all that is known.
    strict: Names,
    /// The same on the filesystems that there are.
    usual: Names,
}

/// Names, as far as they are durable, and the changes since.
#[derive(Default)]
struct Names {
    durable: Tree,
    /// Where each ends in the journal.
    pending: Vec<(usize, Naming)>,
}

/// How an image treats what was not synced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loss {
    /// Bytes that are written whole or not at all.
    sector: u64,
    kept: Kept,
    /// Whether a name is durable only with its directory.
    strict: bool,
}

#[derive(Clone, Copy, Debug)]
enum Kept {
    Nothing,
    All,
    /// Each write whole or not at all.
    Writes,
    /// Each sector for itself.
    Sectors,
    /// One or the other, for each file.
    Mixed,
}

impl Loss {
    pub(super) fn choose(choices: &mut Choices) -> Self {
        let kept = [Kept::Nothing, Kept::All, Kept::Writes, Kept::Sectors, Kept::Sectors, Kept::Mixed];
        Self {
            sector: [512, PAGE][choices.below(2) as usize],
            kept: kept[choices.below(6) as usize],
            strict: choices.below(2) == 0,
        }
    }

    pub(super) fn nothing() -> Self {
        Self { sector: 512, kept: Kept::All, strict: true }
    }
}

impl Content {
    fn of(bytes: &[u8]) -> Self {
        let mut content = Self::default();
        content.write(0, bytes);
        content
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let (page, within) = ((at + done as u64) / PAGE, ((at + done as u64) % PAGE) as usize);
            let step = (PAGE as usize - within).min(bytes.len() - done);
            let here = &bytes[done..done + step];
            if self.pages.contains_key(&page) || here.iter().any(|byte| *byte != 0) {
                let page = self.pages.entry(page).or_insert_with(|| Arc::new([0; PAGE as usize]));
                Arc::make_mut(page)[within..within + step].copy_from_slice(here);
            }
            done += step;
        }
        self.len = self.len.max(at + bytes.len() as u64);
    }

    fn read(&self, at: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        let mut done = 0;
        while done < len {
            let (page, within) = ((at + done) / PAGE, (at + done) % PAGE);
            let step = (PAGE - within).min(len - done);
            if let Some(page) = self.pages.get(&page) {
                bytes[done as usize..(done + step) as usize]
                    .copy_from_slice(&page[within as usize..(within + step) as usize]);
            }
            done += step;
        }
        bytes
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.pages.split_off(&len.div_ceil(PAGE));
            if let Some(page) = self.pages.get_mut(&(len / PAGE)) {
                Arc::make_mut(page)[(len % PAGE) as usize..].fill(0);
            }
        }
        self.len = len;
    }

    fn apply(&mut self, change: &Change, journal: &Journal) {
        match change {
            Change::Write { at, data } => self.write(*at, journal.data(data)),
            Change::Truncate { len } => self.set_len(*len),
            Change::Allocate { len } => self.set_len(self.len.max(*len)),
        }
    }

    fn store(&self, path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len(self.len).unwrap();
        for (page, bytes) in &self.pages {
            let at = page * PAGE;
            file.write_all_at(&bytes[..(self.len - at).min(PAGE) as usize], at).unwrap();
        }
    }
}

impl Object {
    /// Makes durable what was done before `began`.
    fn sync(&mut self, began: usize, journal: &Journal) {
        let covered = self.pending.iter().take_while(|(end, _)| *end <= began).count();
        for (_, change) in self.pending.drain(..covered) {
            self.durable.apply(&change, journal);
        }
    }

    /// What could be found of it.
    fn after(&self, loss: Loss, choices: &mut Choices, journal: &Journal) -> Content {
        let kept = match loss.kept {
            Kept::Mixed => [Kept::Nothing, Kept::All, Kept::Writes, Kept::Sectors][choices.below(4) as usize],
            kept => kept,
        };
        // The last change of length that is durable.
        let lengths = match kept {
            Kept::Nothing => 0,
            Kept::All => self.pending.len(),
            _ if choices.below(2) == 0 => self.pending.len(),
            _ => choices.below(self.pending.len() as u64 + 1) as usize,
        };
        let (mut cached, mut found) = (self.durable.clone(), self.durable.clone());
        let mut len = found.len;
        for (number, (_, change)) in self.pending.iter().enumerate() {
            let shorter = matches!(change, Change::Truncate { len } if *len < cached.len);
            cached.apply(change, journal);
            if shorter && number >= lengths {
                // What came later needs it.
                break;
            }
            if number < lengths {
                len = cached.len;
            }
            match change {
                Change::Write { at, data } => {
                    let whole = match kept {
                        Kept::Nothing => Some(false),
                        Kept::All => Some(true),
                        Kept::Writes => Some(choices.below(2) == 0),
                        Kept::Sectors | Kept::Mixed => None,
                    };
                    let mut sector = at / loss.sector * loss.sector;
                    while sector < at + data.len() as u64 {
                        // A sector that is written out takes with it what earlier writes left in it.
                        if whole.unwrap_or_else(|| choices.below(2) == 0) {
                            found.write(sector, &cached.read(sector, loss.sector));
                        }
                        sector += loss.sector;
                    }
                }
                Change::Truncate { len } if shorter => found.set_len(*len),
                _ => {}
            }
        }
        found.set_len(len);
        found
    }
}

impl Disk {
    /// What lies in a directory, durable.
    pub(super) fn holding(directory: &Path) -> Self {
        let mut disk = Self::default();
        disk.take(directory, Path::new(""));
        disk.strict.durable = disk.names.clone();
        disk.usual.durable = disk.names.clone();
        disk
    }

    fn take(&mut self, directory: &Path, name: &Path) {
        for entry in fs::read_dir(directory.join(name)).unwrap() {
            let entry = entry.unwrap();
            let (path, meta) = (name.join(entry.file_name()), entry.metadata().unwrap());
            if meta.is_dir() {
                self.names.insert(path.clone(), Node::Directory);
                self.take(directory, &path);
            } else {
                let durable = Content::of(&fs::read(directory.join(&path)).unwrap());
                let object = self.add(meta.ino(), Object { durable, ..Object::default() });
                self.names.insert(path, Node::File(object));
            }
        }
    }

    fn add(&mut self, inode: u64, object: Object) -> usize {
        self.objects.push(object);
        self.by_inode.insert(inode, self.objects.len() - 1);
        self.objects.len() - 1
    }

    /// Follows the journal on, over the records of `range`.
    pub(super) fn follow(&mut self, journal: &Journal, range: Range<usize>) {
        for record in &journal.records[range] {
            self.apply(&record.event, record.end, journal);
        }
    }

    fn apply(&mut self, event: &Event, end: usize, journal: &Journal) {
        match event {
            Event::Open { inode, path, truncate } => {
                if !self.names.contains_key(path) {
                    let object = self.add(*inode, Object::default());
                    self.name(end, Naming::Add(path.clone(), Node::File(object)));
                } else if *truncate {
                    self.change(*inode, end, Change::Truncate { len: 0 });
                }
            }
            Event::Write { inode, at, data } => {
                self.change(*inode, end, Change::Write { at: *at, data: data.clone() });
            }
            Event::Truncate { inode, len } => self.change(*inode, end, Change::Truncate { len: *len }),
            Event::Allocate { inode, len } => self.change(*inode, end, Change::Allocate { len: *len }),
            Event::Rename { from, to } => self.name(end, Naming::Rename(from.clone(), to.clone(), self.names[from])),
            Event::Unlink { path } | Event::RemoveDir { path } => self.name(end, Naming::Remove(path.clone())),
            Event::MakeDir { path } => self.name(end, Naming::Add(path.clone(), Node::Directory)),
            Event::Sync { inode, path, began } => {
                let directory = path.as_os_str().is_empty() || self.names.get(path) == Some(&Node::Directory);
                if directory {
                    self.strict.sync(*began, |naming| naming.is_in(path), false);
                    self.usual.sync(*began, |naming| naming.is_in(path) || naming.makes(path), true);
                } else {
                    let object = self.by_inode[inode];
                    self.objects[object].sync(*began, journal);
                    self.usual.sync(*began, |naming| naming.file() == Some(object), true);
                }
            }
            Event::SyncRange => {}
        }
    }

    fn change(&mut self, inode: u64, end: usize, change: Change) {
        let object = self.by_inode[&inode];
        self.objects[object].pending.push((end, change));
    }

    fn name(&mut self, end: usize, naming: Naming) {
        naming.apply(&mut self.names);
        self.strict.pending.push((end, naming.clone()));
        self.usual.pending.push((end, naming));
    }

    /// Makes the directory as it could be found now.
    pub(super) fn image(&self, loss: Loss, choices: &mut Choices, journal: &Journal, directory: &Path) {
        let names = if loss.strict { &self.strict } else { &self.usual };
        for (path, node) in names.after(loss.kept, choices) {
            let place = directory.join(&path);
            if place.parent().is_some_and(|parent| !parent.is_dir()) {
                // Its directory was lost.
                continue;
            }
            match node {
                Node::Directory => fs::create_dir(place).unwrap(),
                Node::File(object) => self.objects[object].after(loss, choices, journal).store(&place),
            }
        }
    }

    /// Asserts that a directory is as its programs see it: the journal has everything.
    #[track_caller]
    pub(super) fn is_as_in(&self, directory: &Path, journal: &Journal) {
        let real = Self::holding(directory);
        let [mine, its]: [Vec<_>; 2] = [self, &real].map(|disk| disk.names.keys().collect());
        assert_eq!(mine, its);
        for (path, node) in &self.names {
            let (Node::File(mine), Node::File(its)) = (*node, real.names[path]) else { continue };
            let mine = self.objects[mine].after(Loss::nothing(), &mut Choices::new(1), journal);
            let its = &real.objects[its].durable;
            let pages = mine.pages.iter().filter(|(number, page)| its.pages.get(number) != Some(page));
            let other: Vec<_> = pages.map(|(number, _)| number).collect();
            assert!(mine.len == its.len && other.is_empty(), "{}: {} {} {other:?}", path.display(), mine.len, its.len);
        }
    }
}

impl Names {
    /// Makes changes durable that were done before `began`, with the earlier changes of the same names, and, if wanted, of
    /// the directories that lead to them.
    fn sync(&mut self, began: usize, chosen: impl Fn(&Naming) -> bool, directories: bool) {
        let mut needed: HashSet<&Path> = HashSet::new();
        let mut synced = vec![false; self.pending.len()];
        for (number, (end, naming)) in self.pending.iter().enumerate().rev() {
            if *end <= began && chosen(naming) || naming.paths().any(|path| needed.contains(path)) {
                synced[number] = true;
                let above = if directories { usize::MAX } else { 1 };
                needed.extend(naming.paths().flat_map(|path| path.ancestors().take(above)));
            }
        }
        let mut synced = synced.into_iter();
        self.pending.retain(|(_, naming)| {
            let synced = synced.next().unwrap();
            if synced {
                naming.apply(&mut self.durable);
            }
            !synced
        });
    }

    /// What could be found of them.
    fn after(&self, kept: Kept, choices: &mut Choices) -> Tree {
        let mut found = self.durable.clone();
        let mut lost: HashSet<&Path> = HashSet::new();
        for (_, naming) in &self.pending {
            let kept = match kept {
                Kept::Nothing => false,
                Kept::All => true,
                _ => choices.below(2) == 0,
            };
            if kept && !naming.paths().any(|path| lost.contains(path)) {
                naming.apply(&mut found);
            } else {
                lost.extend(naming.paths());
            }
        }
        found
    }
}

impl Naming {
    fn is_in(&self, directory: &Path) -> bool {
        self.paths().any(|path| path.parent() == Some(directory))
    }

    fn makes(&self, directory: &Path) -> bool {
        matches!(self, Naming::Add(path, Node::Directory) if path == directory)
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let (one, two) = match self {
            Naming::Add(path, _) | Naming::Remove(path) => (path, None),
            Naming::Rename(from, to, _) => (from, Some(to)),
        };
        std::iter::once(one).chain(two).map(PathBuf::as_path)
    }

    /// The file that it names.
    fn file(&self) -> Option<usize> {
        match self {
            Naming::Add(_, Node::File(object)) | Naming::Rename(_, _, Node::File(object)) => Some(*object),
            _ => None,
        }
    }

    fn apply(&self, names: &mut Tree) {
        match self {
            Naming::Add(path, node) => _ = names.insert(path.clone(), *node),
            Naming::Remove(path) => _ = names.remove(path),
            Naming::Rename(from, to, node) => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}
