//! The rule for a slot's two copies: which to overwrite first so that nothing needed is ever in no copy.
//!
//! Kept apart from files so that the model test runs this very rule.

use super::{Reading, RootEntry};

/// How many copies a slot keeps.
pub(super) const COPIES: usize = 2;

/// One copy as it was read.
pub(super) struct Copy {
    /// Counts the writes to this slot, over both copies.
    pub(super) sequence: u64,
    /// What it holds.
    pub(super) entries: Vec<RootEntry>,
}

/// Both copies as they were read; none is a damaged one.
pub(super) type Copies = [Option<Copy>; COPIES];

/// The copies in the order in which to overwrite them with `entries`: a damaged one first, then one that holds fewer of
/// `entries`, then the older. So if a write of the first is torn, the second still holds what there was of them.
pub(super) fn overwriting_order(copies: &Copies, entries: &[RootEntry]) -> [usize; COPIES] {
    let worth = |copy: &Option<Copy>| {
        copy.as_ref().map(|c| (entries.iter().filter(|e| c.entries.contains(e)).count(), c.sequence))
    };
    if worth(&copies[0]) <= worth(&copies[1]) { [0, 1] } else { [1, 0] }
}

/// The sequence number of the next write.
pub(super) fn next_sequence(copies: &Copies) -> u64 {
    copies.iter().flatten().map(|c| c.sequence).max().map_or(1, |last| last.saturating_add(1))
}

/// Both copies as one reading; `None` if both are damaged.
pub(super) fn reading(copies: Copies) -> Option<Reading> {
    let intact = copies.iter().flatten().count();
    let copies: Vec<Copy> = copies.into_iter().flatten().collect();
    let even = intact == COPIES && copies.iter().all(|c| same(&c.entries, &copies[0].entries));
    let mut entries: Vec<RootEntry> = Vec::new();
    for entry in copies.into_iter().flat_map(|c| c.entries) {
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    entries.sort_by_key(|e| (e.epoch, e.id, e.retained));
    (intact > 0).then_some(Reading { entries, even })
}

fn same(a: &[RootEntry], b: &[RootEntry]) -> bool {
    a.len() == b.len() && a.iter().all(|e| b.contains(e))
}
