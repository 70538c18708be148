//! A search for many byte strings in one pass: what a thief would look for in files.

use std::fs;
use std::io;
use std::path::Path;

/// Shorter strings turn up in random bytes by chance.
const SHORTEST: usize = 6;

/// Strings to look for, sorted by their first two bytes.
pub(super) struct Search {
    wanted: Vec<Vec<u8>>,
    /// For each possible first pair of bytes, the strings that begin with it.
    by_start: Vec<Vec<usize>>,
}

impl Search {
    /// Prepares a search; strings too short to mean anything are left out.
    pub(super) fn new(wanted: impl IntoIterator<Item = String>) -> Self {
        let mut search = Self { wanted: Vec::new(), by_start: vec![Vec::new(); 1 << 16] };
        for text in wanted {
            let bytes = text.into_bytes();
            if bytes.len() >= SHORTEST && !search.wanted.contains(&bytes) {
                search.by_start[start(&bytes)].push(search.wanted.len());
                search.wanted.push(bytes);
            }
        }
        search
    }

    /// How many different strings are looked for.
    pub(super) fn len(&self) -> usize {
        self.wanted.len()
    }

    /// How many of the strings occur in these bytes.
    pub(super) fn count_in(&self, bytes: &[u8]) -> usize {
        let mut found = vec![false; self.wanted.len()];
        for at in 0..bytes.len().saturating_sub(1) {
            for &index in &self.by_start[start(&bytes[at..])] {
                found[index] |= bytes[at..].starts_with(&self.wanted[index]);
            }
        }
        found.into_iter().filter(|found| *found).count()
    }

    /// Searches every file under a directory; returns hits and the bytes searched.
    pub(super) fn count_under(&self, dir: &Path) -> io::Result<(usize, u64)> {
        let (mut hits, mut bytes) = (0, 0);
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                let (more, read) = self.count_under(&entry.path())?;
                hits += more;
                bytes += read;
            } else if kind.is_file() {
                let content = fs::read(entry.path())?;
                hits += self.count_in(&content);
                bytes += content.len() as u64;
            }
        }
        Ok((hits, bytes))
    }
}

fn start(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

/// Copies a directory with everything in it, keeping file modes.
pub(super) fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    fs::set_permissions(to, fs::metadata(from)?.permissions())?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn strings_are_found_anywhere_and_only_when_they_are_there() {
        let wanted = ["+376315260", "376315260", "أبو ظبي", "short"];
        let search = Search::new(wanted.map(str::to_owned));
        assert_eq!(search.len(), 3);
        assert_eq!(search.count_in(b""), 0);
        assert_eq!(search.count_in(b"\xff\x00 37631526"), 0);
        assert_eq!(search.count_in("..أبو ظبي".as_bytes()), 1);
        assert_eq!(search.count_in(b"xx+376315260"), 2);
    }

    #[test]
    fn every_file_of_a_copied_directory_is_searched() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("deep/er")).unwrap();
        fs::write(from.join("a"), b"nothing").unwrap();
        fs::write(from.join("deep/er/b"), b"..376315260").unwrap();
        let to = dir.path().join("to");
        copy_dir(&from, &to).unwrap();
        let search = Search::new(["376315260".to_owned()]);
        assert_eq!(search.count_under(&to).unwrap(), (1, 18));
    }
}
