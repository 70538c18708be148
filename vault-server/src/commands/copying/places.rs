//! Where a store, its copy and the store as it was are; how they change places, and what a kill leaves of that.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use vault_core::store::EngineName;

use crate::commands::Failure;
use crate::files;

/// In a copy: it is not the store, or was not a moment ago.
const MARK: &str = "copy";
/// In a store: zeros, kept for a full disk.
const RESERVE: &str = "reserve";

/// The directories.
pub(super) struct Places {
    /// The store.
    pub(super) store: PathBuf,
    /// The copy that is being made.
    pub(super) copy: PathBuf,
    /// What is being removed.
    gone: PathBuf,
}

impl Places {
    /// Those of a store. If a kill fell between two renames, the copy that was ready becomes the store.
    ///
    /// # Errors
    /// If there is no store, or it is a disk of its own.
    pub(super) fn of(store: &Path) -> Result<Self, Failure> {
        let beside = |ending: &str| {
            let mut name = OsString::from(store);
            name.push(ending);
            PathBuf::from(name)
        };
        let places = Self { store: store.to_owned(), copy: beside(".new"), gone: beside(".gone") };
        if !store.exists() && places.copy.join(MARK).is_file() && places.olds().next().is_some() {
            fs::rename(&places.copy, store).and_then(|()| places.sync()).map_err(|why| places.failed(&why))?;
        }
        if !store.is_dir() {
            return Err(Failure::failed(format!("there is no store in {}: correct the path", store.display())));
        }
        if !files::same_disk(files::parent(store), store) {
            let told = "is the root of a disk: the copy is made beside it, and must be on the same disk. Name a directory \
                        on that disk, and move the store there first";
            return Err(Failure::failed(format!("{} {told}", store.display())));
        }
        Ok(places)
    }

    /// The engine that keeps the store.
    ///
    /// # Errors
    /// If no engine does.
    pub(super) fn engine(&self) -> Result<EngineName, Failure> {
        let told = || Failure::failed(format!("there is no store in {}: correct the path", self.store.display()));
        EngineName::found_in(&self.store).ok_or_else(told)
    }

    /// Where the store as it was goes.
    pub(super) fn old(&self, engine: EngineName) -> PathBuf {
        let mut name = OsString::from(&self.store);
        name.push(format!(".old-{engine}"));
        PathBuf::from(name)
    }

    /// The engines that kept stores which are there as they were.
    pub(super) fn olds(&self) -> impl Iterator<Item = EngineName> {
        [EngineName::Sled, EngineName::Fjall].into_iter().filter(|engine| self.old(*engine).is_dir())
    }

    /// Ends what a kill left. The caller has the store open, so that no other process is at it.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn tidy(&self) -> Result<(), Failure> {
        self.tidied().map_err(|why| self.failed(&why))
    }

    fn tidied(&self) -> io::Result<()> {
        if self.gone.exists() {
            fs::remove_dir_all(&self.gone)?;
        }
        match EngineName::found_in(&self.copy) {
            // The store as it was: they had changed places already.
            Some(engine) if !self.copy.join(MARK).exists() => self.rename(&self.copy, &self.old(engine))?,
            _ if self.copy.exists() => self.removed(&self.copy)?,
            _ => {}
        }
        self.unmark()
    }

    /// Refuses to go on where an earlier call left a store as it was.
    ///
    /// # Errors
    /// If there is one.
    pub(super) fn refuse_old(&self, engine: EngineName) -> Result<(), Failure> {
        let old = self.old(engine);
        if !old.exists() {
            return Ok(());
        }
        let told = "is left of an earlier call and would be in the way: `vault-server compact --remove` removes it";
        Err(Failure::failed(format!("{} {told}", old.display())))
    }

    /// Makes the copy's directory, marked as unfinished.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn mark(&self) -> Result<(), Failure> {
        let text = "an unfinished copy of a store: `vault-server` discards it\n";
        let marked =
            files::make_private_dir(&self.copy).and_then(|()| files::write_secret(&self.copy.join(MARK), text));
        marked.and_then(|()| self.sync()).map_err(|why| self.failed(&why))
    }

    /// Puts the copy in the store's place, at once, and keeps the store as it was.
    ///
    /// # Errors
    /// What the system says. The store is then still in its place, or the next call puts the copy there.
    pub(super) fn swap(&self, was: EngineName) -> Result<(), Failure> {
        let old = self.old(was);
        let swapped = match renameat_with(CWD, &self.copy, CWD, &self.store, RenameFlags::EXCHANGE) {
            Ok(()) => self.rename(&self.copy, &old),
            // Not every filesystem can: then there is no store for a moment.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
                self.rename(&self.store, &old).and_then(|()| self.rename(&self.copy, &self.store))
            }
            Err(why) => Err(why.into()),
        };
        swapped.and_then(|()| self.unmark()).map_err(|why| self.failed(&why))
    }

    /// Discards the copy.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn discard(&self) -> Result<(), Failure> {
        self.remove(&self.copy)
    }

    /// Removes one of the directories beside the store.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn remove(&self, dir: &Path) -> Result<(), Failure> {
        self.removed(dir).map_err(|why| self.failed(&why))
    }

    /// First under another name, so that half of it is never taken for the whole.
    fn removed(&self, dir: &Path) -> io::Result<()> {
        self.rename(dir, &self.gone)?;
        fs::remove_dir_all(&self.gone)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        self.sync()
    }

    /// Takes the mark from the store, for it is no copy any more.
    fn unmark(&self) -> io::Result<()> {
        match fs::remove_file(self.store.join(MARK)) {
            Err(why) if why.kind() != ErrorKind::NotFound => Err(why),
            _ => files::sync_dir(&self.store),
        }
    }

    fn sync(&self) -> io::Result<()> {
        files::sync_dir(files::parent(&self.store))
    }

    /// Bytes that a store takes on disk, without its reserve. What cannot be read counts nothing.
    pub(super) fn bytes(&self, dir: &Path) -> u64 {
        let entries = fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok);
        let bytes = |entry: fs::DirEntry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => self.bytes(&entry.path()),
            Ok(meta) if entry.file_name() != RESERVE => meta.blocks() * 512,
            _ => 0,
        };
        entries.map(bytes).sum()
    }

    fn failed(&self, why: &io::Error) -> Failure {
        let told = "could not be put in order";
        Failure::failed(format!("the directories beside {} {told} ({why}): run this again", self.store.display()))
    }
}
