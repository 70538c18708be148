//! Files of the log: small, private, and whole or not there.

use std::fs::{File, OpenOptions, create_dir_all};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Reads a file of at most `limit` bytes.
pub(super) fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit { Err(io::Error::other("it is longer than it may be")) } else { Ok(bytes) }
}

/// Writes a file under another name and renames it, so that it is never half there; durable once [`sync`] has seen it.
/// One that holds these bytes already is left alone.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if std::fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    let fresh = put_beside(path, bytes)?.0;
    std::fs::rename(&fresh, path)
}

/// The same, durable as soon as it is there: after any crash there is the one before or this one.
pub(super) fn write_durably(path: &Path, bytes: &[u8], top: &Path) -> io::Result<()> {
    let (fresh, file) = put_beside(path, bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    sync(path, top)
}

fn put_beside(path: &Path, bytes: &[u8]) -> io::Result<(PathBuf, File)> {
    create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    let fresh = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    Ok((fresh, file))
}

/// Kept back, so that entries can still be logged on a full disk: some ten thousand of them.
const RESERVE: u64 = 3 * 1024 * 1024;

/// Lets the reserve go; answers whether there was one.
pub(super) fn release_reserve(dir: &Path) -> bool {
    std::fs::remove_file(dir.join("reserve")).is_ok()
}

/// Keeps the reserve back again, once there is room.
pub(super) fn keep_reserve(dir: &Path) -> io::Result<()> {
    let path = dir.join("reserve");
    if path.exists() {
        return Ok(());
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let kept = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVE);
    kept.map_err(|why| {
        // Half of it would be in the way of the entries that it is for.
        let _ = std::fs::remove_file(&path);
        why.into()
    })
}

/// Makes a file durable, and the names that lead to it from `top`.
pub(super) fn sync(path: &Path, top: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    for parent in path.ancestors().skip(1).take_while(|parent| parent.starts_with(top)) {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}
