//! Files of secrets: read whole, written for the owner only, durable before they are relied on.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

/// The largest file of a secret that is read, in bytes.
const SECRET_MAX: u64 = 16 * 1024;

/// Reads a small text file into memory that wipes itself.
///
/// # Errors
/// What the system says; a file that is too large or not UTF-8 is invalid data.
pub(crate) fn read_secret(path: &Path) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(1024));
    let read = File::open(path)?.take(SECRET_MAX + 1).read_to_string(&mut text)?;
    if read as u64 > SECRET_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 16 KiB"));
    }
    Ok(text)
}

/// Writes a new file that only the owner can read, and makes it durable. Never overwrites.
///
/// # Errors
/// What the system says; `AlreadyExists` if there is such a file.
pub(crate) fn write_secret(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    sync_dir(parent(path))
}

/// Puts another secret in the place of a file, whole or not at all, and durable. The old bytes are overwritten as far as the
/// file system lets that reach them.
///
/// # Errors
/// What the system says; then the file is as it was, and the new secret is nowhere. If not even that can be brought about, the
/// old one is beside it, with `.old` behind its name.
pub(crate) fn replace_secret(path: &Path, text: &str) -> io::Result<()> {
    // Behind a link, for the link is to stay.
    let path = path.canonicalize()?;
    let old = OpenOptions::new().write(true).open(&path)?;
    let next = path.with_added_extension("new");
    let before = path.with_added_extension("old");
    // Those that are there were left by a process that was killed.
    remove(&next)?;
    remove(&before)?;
    let placed = write_secret(&before, &read_secret(&path)?)
        .and_then(|()| write_secret(&next, text))
        .and_then(|()| std::fs::rename(&next, &path));
    if let Err(why) = placed {
        remove(&next)?;
        wipe_away(&before)?;
        return Err(why);
    }
    if let Err(why) = sync_dir(parent(&path)) {
        // Until its name is durable the old one may come back, and must open something then.
        if let Err(why) = std::fs::rename(&before, &path) {
            tracing::error!(path = %before.display(), %why, "the old secret could not be put back: do so by hand");
        }
        return Err(why);
    }
    // It is in its place now, whatever happens to the old bytes.
    if let Err(why) = wipe(old).and_then(|()| wipe_away(&before)) {
        tracing::warn!(path = %path.display(), %why, "a secret was replaced, and what it was may still be on the disk");
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        _ => Ok(()),
    }
}

/// Writes zeros over a file and removes it, if it is there.
fn wipe_away(path: &Path) -> io::Result<()> {
    match overwrite(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        _ => remove(path),
    }
}

/// Writes zeros over a file.
///
/// # Errors
/// What the system says.
pub(crate) fn overwrite(path: &Path) -> io::Result<()> {
    wipe(OpenOptions::new().write(true).open(path)?)
}

fn wipe(mut file: File) -> io::Result<()> {
    let length = file.metadata()?.len();
    io::copy(&mut io::repeat(0).take(length), &mut file)?;
    file.sync_all()
}

/// Makes a directory that only the owner can enter.
///
/// # Errors
/// What the system says.
pub(crate) fn make_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// What the system says.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The directory that a path lies in.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Whether two paths lie on one filesystem; paths that are not there yet count as where they will be.
pub(crate) fn same_disk(a: &Path, b: &Path) -> bool {
    let device = |path: &Path| path.ancestors().find_map(|path| path.metadata().ok()).map(|meta| meta.dev());
    device(a).is_some_and(|device_a| device(b) == Some(device_a))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn secrets_are_for_the_owner_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.token");
        write_secret(&path, "udv_1\n").unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(write_secret(&path, "udv_2\n").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(*read_secret(&path).unwrap(), "udv_1\n");
    }

    #[test]
    fn a_secret_is_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unlock.key");
        let missing = replace_secret(&path, "new\n");
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound, "a place that is not there is no place");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the new secret is nowhere");
        write_secret(&path, "old\n").unwrap();
        let old = File::open(&path).unwrap();
        std::fs::write(dir.path().join("unlock.key.new"), "left over").unwrap();
        replace_secret(&path, "new\n").unwrap();
        assert_eq!(*read_secret(&path).unwrap(), "new\n");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left over");
        let mut wiped = Vec::new();
        (&old).read_to_end(&mut wiped).unwrap();
        assert_eq!(wiped, [0; 4]);
    }

    #[test]
    fn large_files_are_not_secrets() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        std::fs::write(&path, "x".repeat(17 * 1024)).unwrap();
        assert!(read_secret(&path).is_err());
    }

    #[test]
    fn disks_are_compared_where_paths_will_be() {
        let dir = tempfile::tempdir().unwrap();
        assert!(same_disk(&dir.path().join("a/b"), &dir.path().join("c")));
        assert!(!same_disk(&dir.path().join("a"), Path::new("/proc/self")));
    }
}
