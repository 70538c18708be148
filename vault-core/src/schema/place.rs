//! Where the parts of a TOML document stand, so that an error can name the line.

use std::collections::BTreeMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// `fields.phone.purposes.delivery` is as deep as a document goes.
const DEPTH: usize = 4;

/// Line and order of every key, by its dotted path; empty for a document that was not TOML.
///
/// Two documents that say the same are equal wherever their parts stand.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(BTreeMap<String, Place>);

#[derive(Clone, Copy, Debug)]
struct Place {
    offset: usize,
    line: usize,
}

impl PartialEq for Places {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Places {}

impl Places {
    pub(super) fn in_toml(text: &str) -> Self {
        let mut places = Self::default();
        if let Ok(table) = DeTable::parse(text) {
            let lines = Lines::of(text);
            places.note(table.get_ref(), "", &lines);
        }
        places
    }

    /// The line of `path`, or of the innermost known table around it.
    pub(super) fn line(&self, path: &str) -> Option<usize> {
        let mut path = path;
        loop {
            if let Some(place) = self.0.get(path) {
                return Some(place.line);
            }
            path = path.rsplit_once('.')?.0;
        }
    }

    /// Orders paths as they stand.
    pub(super) fn rank(&self, path: &str) -> usize {
        self.0.get(path).map_or(usize::MAX, |place| place.offset)
    }

    fn note(&mut self, table: &DeTable<'_>, above: &str, lines: &Lines) {
        for (key, value) in table.iter() {
            let offset = key.span().start;
            let path = if above.is_empty() { key.get_ref().to_string() } else { format!("{above}.{}", key.get_ref()) };
            self.note_below(value, &path, lines);
            self.0.insert(path, Place { offset, line: lines.at(offset).0 });
        }
    }

    fn note_below(&mut self, value: &Spanned<DeValue<'_>>, path: &str, lines: &Lines) {
        if let DeValue::Table(table) = value.get_ref()
            && path.matches('.').count() + 1 < DEPTH
        {
            self.note(table, path, lines);
        }
    }
}

/// Where the lines of a text start.
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub(super) fn of(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self(std::iter::once(0).chain(ends).collect())
    }

    /// Line and column of a byte, both counted from 1; the column in bytes.
    pub(super) fn at(&self, offset: usize) -> (usize, usize) {
        let line = self.0.partition_point(|start| *start <= offset);
        (line, offset - self.0[line - 1] + 1)
    }
}
