//! What backups need besides the vault: whom they are encrypted to, and the indexes that increments are made against.
//!
//! An index names rows as the store does and tells nothing that the store does not. One that is lost costs a whole data
//! plane instead of an increment.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vault_core::Error;
use vault_core::backup::{BackupError, Index, Recipients};
use vault_core::ids::BackupId;

use crate::files;

/// Indexes of so many data planes are kept.
const KEPT: usize = 8;
const SUFFIX: &str = ".index";

/// How one vault is backed up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backups {
    recipients: Vec<String>,
    dir: PathBuf,
}

impl Backups {
    /// With the recipients that are configured, and the directory of the indexes.
    pub(crate) fn new(recipients: Vec<String>, dir: PathBuf) -> Self {
        Self { recipients, dir }
    }

    /// Those that are named, or else those that are configured.
    ///
    /// # Errors
    /// [`BackupError::NoRecipient`], [`BackupError::Recipient`].
    pub(crate) fn recipients<T: AsRef<str>>(&self, named: &[T]) -> Result<Recipients, BackupError> {
        if named.is_empty() { Recipients::parse(&self.recipients) } else { Recipients::parse(named) }
    }

    /// What an increment of this data plane is made against.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it is not known, any more or at all.
    pub(crate) fn index(&self, of: BackupId) -> Result<Index, Error> {
        let read = fs::read(self.path(of)).ok().and_then(|bytes| Index::decode(&bytes));
        read.filter(|index| index.of == of).ok_or(Error::NotFound("index of that data plane: back up the whole of it"))
    }

    /// Keeps the index of a data plane, and forgets the oldest ones.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn keep(&self, index: &Index) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let path = self.path(index.of);
        let part = path.with_extension("part");
        fs::write(&part, index.encode())?;
        fs::File::open(&part)?.sync_all()?;
        fs::rename(&part, &path)?;
        files::sync_dir(&self.dir)?;
        let known = self.known();
        known.iter().take(known.len().saturating_sub(KEPT)).try_for_each(|old| fs::remove_file(self.path(*old)))
    }

    /// The data planes that an increment can be made of, oldest first: ids begin with their time.
    pub(crate) fn known(&self) -> Vec<BackupId> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let id = |path: &Path| BackupId::parse(path.file_name()?.to_str()?.strip_suffix(SUFFIX)?).ok();
        let mut known: Vec<BackupId> = entries.filter_map(|entry| id(&entry.path())).collect();
        known.sort_by_key(|id| id.0);
        known
    }

    fn path(&self, of: BackupId) -> PathBuf {
        self.dir.join(format!("{of}{SUFFIX}"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_newest_indexes_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let backups = Backups::new(Vec::new(), dir.path().join("backups"));
        let id = |n: u8| BackupId([n; 16]);
        assert!(backups.known().is_empty());
        for n in 1..=10 {
            backups.keep(&Index::new(id(n))).unwrap();
        }
        assert_eq!(backups.known(), (3..=10).map(id).collect::<Vec<_>>());
        assert_eq!(backups.index(id(10)).unwrap().of, id(10));
        assert!(matches!(backups.index(id(1)), Err(Error::NotFound(_))));
        // One of another archive under this name is none.
        fs::copy(backups.path(id(10)), backups.path(id(11))).unwrap();
        assert!(backups.index(id(11)).is_err());
    }

    #[test]
    fn who_is_named_goes_before_who_is_configured() {
        let age = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p";
        let configured = Backups::new(vec![age.to_owned()], PathBuf::new());
        assert!(configured.recipients::<&str>(&[]).is_ok());
        assert!(matches!(configured.recipients(&["age1"]), Err(BackupError::Recipient(_))));
        assert!(matches!(Backups::default().recipients::<&str>(&[]), Err(BackupError::NoRecipient)));
        assert!(Backups::default().recipients(&[age]).is_ok());
    }
}
