//! The ids of an `erase`: from the command line and from a file, each once, all checked before any is shredded.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use crate::commands::subject::check_id;
use crate::exit::Failure;

/// Gathers the ids in order. `escaped` tells whether `--` stood on the command line.
pub(super) fn collect(given: &[String], file: Option<&Path>, escaped: bool) -> Result<Vec<String>, Failure> {
    // `erase --yes list` reads as an id called "list"; surely the list was meant.
    if let Some(word) = given.first().filter(|id| !escaped && is_subcommand(id)) {
        return Err(Failure::usage(format!("{word} is also a subcommand"))
            .hint(format!("for the subcommand write it first: erase {word} …; for a subject: erase -- {word}")));
    }
    let mut ids = Ids::default();
    for id in given {
        check_id(id).map_err(Failure::usage)?;
        ids.add(id);
    }
    match file {
        Some(path) if path == Path::new("-") => ids.read(io::stdin().lock(), "standard input")?,
        Some(path) => {
            let name = path.display().to_string();
            let source = File::open(path).map_err(|error| Failure::failed(format!("cannot read {name}: {error}")))?;
            ids.read(BufReader::new(source), &name)?;
        }
        None => {}
    }
    if ids.ordered.is_empty() {
        return Err(Failure::usage("no subjects are given").hint("give ids, or a file with one a line: --file ids.txt"));
    }
    Ok(ids.ordered)
}

fn is_subcommand(id: &str) -> bool {
    matches!(id, "list" | "show" | "cancel" | "approve" | "certificate" | "check")
}

#[derive(Default)]
struct Ids {
    ordered: Vec<String>,
    known: HashSet<String>,
}

impl Ids {
    fn add(&mut self, id: &str) {
        if self.known.insert(id.to_owned()) {
            self.ordered.push(id.to_owned());
        }
    }

    fn read(&mut self, source: impl BufRead, name: &str) -> Result<(), Failure> {
        for (index, line) in source.lines().enumerate() {
            let number = index + 1;
            let line =
                line.map_err(|error| Failure::failed(format!("cannot read line {number} of {name}: {error}")))?;
            let line = line.strip_suffix('\r').unwrap_or(&line);
            let line = line.strip_prefix('\u{feff}').unwrap_or(line);
            if line.trim().is_empty() {
                continue;
            }
            check_id(line)
                .map_err(|why| Failure::usage(format!("line {number} of {name}: {why}; nothing was shredded")))?;
            self.add(line);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    fn file(text: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ids.txt");
        fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn blank_lines_and_repeated_ids_are_skipped_and_the_order_is_kept() {
        let (_dir, path) = file("\u{feff}b\r\n\n  \na/ü\nb\nc".as_bytes());
        let ids = collect(&["c".into(), "c".into()], Some(&path), false).unwrap();
        assert_eq!(ids, ["c", "b", "a/ü"]);
    }

    #[test]
    fn a_file_with_a_bad_line_shreds_nobody() {
        let long = "x".repeat(257);
        for (text, code) in [
            (b"a\nb\tc\n".to_vec(), 2),
            (format!("a\n{long}\n").into_bytes(), 2),
            (b"a\n\xff\n".to_vec(), 1),
            (b"\n\n".to_vec(), 2),
        ] {
            let (_dir, path) = file(&text);
            let failure = collect(&[], Some(&path), false).unwrap_err();
            assert_eq!(failure.exit as u8, code);
            assert!(!failure.message.contains(&long), "{failure}");
        }
    }

    #[test]
    fn a_misplaced_subcommand_is_not_shredded() {
        assert_eq!(collect(&["list".into()], None, false).unwrap_err().exit as u8, 2);
        assert_eq!(collect(&["list".into()], None, true).unwrap(), ["list"]);
        assert_eq!(collect(&["a".into(), "list".into()], None, false).unwrap(), ["a", "list"]);
    }
}
