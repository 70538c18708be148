//! What somebody wants changed, as it is handed to the writer: edits and rows, and what they were prepared from.

use std::sync::Arc;

use crate::audit::Entry;
use crate::root::Refusal;
use crate::schema::Schema;
use crate::store::Row;
use crate::trie::{EntryKey, Generations, Kind, Op, Succession};
use crate::vault::evidence::Shredding;
use crate::vault::types::Counts;

/// What a write was prepared from.
pub(crate) enum Guard {
    /// The payload that an entry had, as its digest, or none.
    Entry { kind: Kind, key: EntryKey, seen: Option<[u8; 32]> },
    /// The version that a row had, or none.
    Row { key: Vec<u8>, version: Option<u64> },
}

/// A prepared change.
#[derive(Default)]
pub(crate) struct Write {
    pub(crate) guards: Vec<Guard>,
    pub(crate) edits: Vec<(Kind, EntryKey, Op)>,
    /// The same in the generation of lookups beside the serving one.
    pub(crate) beside: Vec<(EntryKey, Op)>,
    /// The generations of lookups it was prepared under, if it depends on them.
    pub(crate) lookups: Option<Generations>,
    /// Changes those generations, in a root batch.
    pub(crate) succession: Option<Succession>,
    pub(crate) put: Vec<Row>,
    pub(crate) delete: Vec<Vec<u8>>,
    pub(crate) delta: Delta,
    /// What the log is told of it, once it is committed.
    pub(crate) entries: Vec<Entry>,
    /// Whether those may share entries with the write before it, which is of the same request.
    pub(crate) together: bool,
    /// What it shreds: the root batch keeps evidence of it.
    pub(crate) shreds: Vec<Shredding>,
    /// Refusals to be noted beside the slots while a root is retained.
    pub(crate) refusals: Vec<Refusal>,
    /// Whether the root batch that it is part of draws another META key.
    pub(crate) renew: bool,
    /// The version of the schema it was prepared under, if it depends on that.
    pub(crate) under: Option<u16>,
    /// Holds only while the vault has no subject.
    pub(crate) without_subjects: bool,
    /// The schema that is in force from this write on.
    pub(crate) schema: Option<Arc<Schema>>,
    /// Mainly removes, or must go through for a removal to follow: may use the reserve of a full disk.
    pub(crate) reclaim: bool,
}

/// How a write changes the counts.
#[derive(Clone, Copy, Default)]
pub(crate) struct Delta {
    pub(crate) subjects: i64,
    pub(crate) tombstones: i64,
    pub(crate) refused: i64,
    pub(crate) callers: i64,
    pub(crate) rows: i64,
    pub(crate) shreds: u64,
}

impl Guard {
    pub(super) fn place(self) -> Vec<u8> {
        match self {
            Self::Entry { .. } => self.place_of(),
            Self::Row { key, .. } => key,
        }
    }

    pub(super) fn place_of(&self) -> Vec<u8> {
        match self {
            // Row keys start with 'd'; no kind has that number.
            Self::Entry { kind, key, .. } => [&[*kind as u8], &key[..]].concat(),
            Self::Row { key, .. } => key.clone(),
        }
    }
}

impl Delta {
    pub(super) fn add(&mut self, other: Self) {
        self.subjects += other.subjects;
        self.tombstones += other.tombstones;
        self.refused += other.refused;
        self.callers += other.callers;
        self.rows += other.rows;
        self.shreds += other.shreds;
    }

    pub(super) fn apply(self, counts: Counts, pages: i64) -> Counts {
        Counts {
            subjects: counts.subjects.saturating_add_signed(self.subjects),
            tombstones: counts.tombstones.saturating_add_signed(self.tombstones),
            refused: counts.refused.saturating_add_signed(self.refused),
            callers: counts.callers.saturating_add_signed(self.callers),
            pages: counts.pages.saturating_add_signed(pages),
            rows: counts.rows.saturating_add_signed(self.rows),
            shreds: counts.shreds + self.shreds,
        }
    }
}
