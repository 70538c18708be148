//! Archives as files: their names, how they get their place, and which of a directory belong together.
//!
//! ```text
//! 20261128T134500Z-data-<id>.age        a whole data plane
//! 20261128T144500Z-increment-<id>.age   what changed since the data plane or increment before it
//! 20261128T134502Z-keys-<id>.age        a key plane
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use vault_core::backup::Plane;
use vault_core::ids::BackupId;
use vault_core::time::Timestamp;
use vault_core::vault::BackupSink;

use crate::commands::Failure;
use crate::files;

/// What an archive is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A whole data plane.
    Data,
    /// An increment of one.
    Increment,
    /// A key plane.
    Keys,
}

impl Kind {
    /// Of an archive that is about to be made.
    pub(crate) fn of(plane: Plane, is_increment: bool) -> Self {
        match (plane, is_increment) {
            (Plane::Keys, _) => Self::Keys,
            (Plane::Data, false) => Self::Data,
            (Plane::Data, true) => Self::Increment,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Increment => "increment",
            Self::Keys => "keys",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Data, Self::Increment, Self::Keys].into_iter().find(|kind| kind.word() == word)
    }
}

/// An archive that lies in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) id: BackupId,
}

/// The archives in a directory, oldest first.
///
/// # Errors
/// If it cannot be read.
pub(crate) fn list(dir: &Path) -> Result<Vec<Found>, Failure> {
    let told = |why: io::Error| Failure::failed(format!("{} cannot be read ({why}): correct its path", dir.display()));
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(told)? {
        let path = entry.map_err(told)?.path();
        found.extend(parse(&path).map(|(kind, id)| Found { path, kind, id }));
    }
    // Ids begin with the time in milliseconds, names with its seconds.
    found.sort_by_key(|archive| archive.id.0);
    Ok(found)
}

fn parse(path: &Path) -> Option<(Kind, BackupId)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".age")?;
    let mut parts = name.splitn(3, '-').skip(1);
    Some((Kind::parse(parts.next()?)?, BackupId::parse(parts.next()?).ok()?))
}

/// What a restore takes of a directory: the newest key plane; the newest whole data plane, and its increments in order, up to
/// the first behind the key plane: what was sealed anew since would not open.
pub(crate) fn newest(found: &[Found]) -> (Option<PathBuf>, Vec<PathBuf>) {
    let keys = found.iter().rposition(|archive| archive.kind == Kind::Keys);
    let whole = found.iter().rposition(|archive| archive.kind == Kind::Data).unwrap_or(found.len());
    let mut data = Vec::new();
    for (number, archive) in found.iter().enumerate().skip(whole).filter(|(_, archive)| archive.kind != Kind::Keys) {
        data.push(archive.path.clone());
        if keys.is_some_and(|keys| number > keys) {
            break;
        }
    }
    (keys.map(|keys| found[keys].path.clone()), data)
}

/// An archive on its way to its place: under another name until it is whole and durable, and gone if it does not get there.
pub(crate) struct Incoming {
    file: File,
    part: PathBuf,
    path: PathBuf,
    bytes: u64,
    placed: bool,
}

impl Incoming {
    /// Begins one in `dir`.
    ///
    /// # Errors
    /// If it cannot be written there.
    pub(crate) fn begin(dir: &Path, kind: Kind, id: BackupId) -> Result<Self, Failure> {
        let now: String = Timestamp::now().to_string().chars().take(19).filter(|c| !matches!(c, '-' | ':')).collect();
        let path = dir.join(format!("{now}Z-{}-{id}.age", kind.word()));
        let part = path.with_extension("part");
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
        let file = made.map_err(|why| Failure::failed(format!("{} cannot be written: {why}", part.display())))?;
        Ok(Self { file, part, path, bytes: 0, placed: false })
    }

    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes it durable and gives it its name.
    ///
    /// # Errors
    /// If the disk does not take it.
    pub(crate) fn place(mut self) -> Result<PathBuf, Failure> {
        let placed = self.file.sync_all().and_then(|()| fs::rename(&self.part, &self.path));
        let placed = placed.and_then(|()| files::sync_dir(files::parent(&self.path)));
        placed.map_err(|why| Failure::failed(format!("{} cannot be made durable: {why}", self.path.display())))?;
        self.placed = true;
        Ok(self.path.clone())
    }
}

impl Write for Incoming {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[async_trait::async_trait]
impl BackupSink for Incoming {
    async fn take(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        // A backup by the command line has the process for itself.
        self.write_all(&bytes)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if !self.placed {
            let _ = fs::remove_file(&self.part);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn placed(dir: &Path, kind: Kind, n: u8) -> PathBuf {
        let mut incoming = Incoming::begin(dir, kind, BackupId([n; 16])).unwrap();
        incoming.write_all(b"age").unwrap();
        incoming.place().unwrap()
    }

    #[test]
    fn what_belongs_together_is_found_by_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        assert_eq!(newest(&list(dir).unwrap()), (None, Vec::new()));
        fs::write(dir.join("notes.txt"), "").unwrap();
        fs::write(dir.join("20260101T000000Z-data-xyz.age"), "").unwrap();
        placed(dir, Kind::Data, 1);
        placed(dir, Kind::Increment, 2);
        let whole = placed(dir, Kind::Data, 3);
        placed(dir, Kind::Keys, 4);
        let parts = [placed(dir, Kind::Increment, 5), placed(dir, Kind::Increment, 7)];
        let keys = placed(dir, Kind::Keys, 6);
        placed(dir, Kind::Increment, 8);
        let [first, second] = parts;
        assert_eq!(newest(&list(dir).unwrap()), (Some(keys), vec![whole, first, second]));
    }

    #[test]
    fn one_that_does_not_get_to_its_place_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let mut incoming = Incoming::begin(dir.path(), Kind::Keys, BackupId([1; 16])).unwrap();
        incoming.write_all(b"half").unwrap();
        assert_eq!(incoming.bytes(), 4);
        drop(incoming);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(Incoming::begin(&dir.path().join("absent"), Kind::Keys, BackupId([1; 16])).is_err());
    }
}
