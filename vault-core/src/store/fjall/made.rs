//! What of a database there must be, before fjall opens it: what is missing makes fjall clear away the rest.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::super::StoreError;
use super::super::disk::unavailable;

/// Beside the database: the numbers of its keyspaces, noted once they are made.
pub(super) const NOTED: &str = "fjall.made";

/// Removes what a kill left of a database that was being made, in which there cannot be a row yet.
pub(super) fn remove_unmade(dir: &Path) -> Result<(), StoreError> {
    if !dir.is_dir() || fs::metadata(dir.join("version")).is_ok_and(|marker| marker.len() >= 4) {
        return Ok(());
    }
    // Made only after the marker is durable.
    if dir.join("keyspaces/0").exists() {
        return Err(StoreError::Corrupt("the engine's version marker is missing".into()));
    }
    fs::remove_dir_all(dir).map_err(unavailable("what was left half made cannot be removed"))
}

/// The keyspaces that were made are there, and nothing that fjall trips over: it ends the process at a name that is no number,
/// and clears away every keyspace that the first one does not list.
pub(super) fn look_for_made(noted: &Path, dir: &Path) -> Result<(), StoreError> {
    let keyspaces = dir.join("keyspaces");
    let present = listed(&keyspaces).map_err(unavailable("its directory cannot be read"))?;
    if let Some(stray) = present.iter().find(|path| name(path).parse::<u64>().is_err()) {
        return Err(StoreError::Corrupt(format!("{} is none of its own: move it away", stray.display())));
    }
    let names = match fs::read(noted) {
        Ok(names) => String::from_utf8_lossy(&names).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unavailable("what was made cannot be read")(error)),
    };
    match names.split_whitespace().find(|name| !keyspaces.join(name).join("current").exists()) {
        Some(missing) => Err(StoreError::Corrupt(format!(
            "{} is missing, or {} is not what was written; put it back before anything else",
            keyspaces.join(missing).display(),
            noted.display()
        ))),
        None => Ok(()),
    }
}

/// Notes which keyspaces there are.
pub(super) fn note(noted: &Path, dir: &Path) -> io::Result<()> {
    let names = listed(&dir.join("keyspaces"))?.iter().map(|path| name(path)).collect::<Vec<_>>().join(" ");
    if fs::read(noted).is_ok_and(|there| there == names.as_bytes()) {
        return Ok(());
    }
    let fresh = noted.with_extension("new");
    fs::write(&fresh, names)?;
    File::open(&fresh)?.sync_all()?;
    fs::rename(&fresh, noted)?;
    File::open(noted.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// A file that a database always has, and without which fjall takes it for a new one and clears away what is there.
pub(super) fn look_for_missing(dir: &Path) -> Result<(), StoreError> {
    if !dir.join("version").exists() {
        return Ok(());
    }
    let missing = |name: String| StoreError::Corrupt(format!("{name} is missing; put it back before anything else"));
    let list = |path: &Path| listed(path).map_err(unavailable("its directory cannot be read"));
    if !list(dir)?.iter().any(|path| path.extension().is_some_and(|extension| extension == "jnl")) {
        return Err(missing("its journal".to_owned()));
    }
    let keyspaces = list(&dir.join("keyspaces"))?;
    let first = dir.join("keyspaces/0");
    if !keyspaces.is_empty() && !keyspaces.contains(&first) {
        return Err(missing(first.display().to_string()));
    }
    for keyspace in &keyspaces {
        let current = keyspace.join("current");
        // The first one lists the others.
        let of_others = keyspace.ends_with("0") && keyspaces.len() > 1;
        if !current.exists() && (of_others || !list(&keyspace.join("tables"))?.is_empty()) {
            return Err(missing(current.display().to_string()));
        }
    }
    Ok(())
}

/// What is in a directory, in order; nothing if it is not there.
pub(super) fn listed(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = match fs::read_dir(path) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
