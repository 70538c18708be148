//! What a batch asks of the tries: one operation for each key, in the subtree that serves or in the one beside it.

use std::collections::BTreeMap;

use super::header::Succession;
use super::page::PAYLOAD_BYTES_MAX;
use super::{EntryKey, Kind, Payload, TrieError};

/// What to do with one key.
#[derive(Clone)]
pub enum Op {
    /// A new entry, or an update that only adds: no secret of the old payload is meant to be forgotten. Pages keep
    /// their keys.
    Insert(Payload),
    /// A new entry, or another payload in place of one that is to be forgotten: the whole path gets fresh keys.
    Replace(Payload),
    /// Forgets the entry: the whole path gets fresh keys. Nothing happens if there is none.
    Remove,
    /// Gives the pages on the way to this key fresh keys, and changes nothing else.
    Rekey,
}

/// The edits of one batch. The last one for a key counts, but what was to be forgotten stays so.
#[derive(Clone, Default)]
pub struct Edits {
    ops: BTreeMap<(Kind, Side, EntryKey), Op>,
    pub(super) succession: Option<(Kind, Succession)>,
}

/// Which of a kind's subtrees an edit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The one that serves.
    Serving,
    /// The one beside it. If there is none, nothing happens.
    Beside,
}

impl Edits {
    /// No edits.
    pub fn new() -> Edits {
        Edits::default()
    }

    /// Adds one.
    pub fn push(&mut self, kind: Kind, key: EntryKey, op: Op) {
        self.push_to(kind, Side::Serving, key, op);
    }

    /// Adds one for one of the kind's subtrees, as they are before the batch.
    pub fn push_to(&mut self, kind: Kind, side: Side, key: EntryKey, op: Op) {
        let op = match self.ops.remove(&(kind, side, key)) {
            Some(earlier) => earlier.then(op),
            None => op,
        };
        self.ops.insert((kind, side, key), op);
    }

    /// Changes the subtrees of a kind, once all other edits are done.
    pub fn succeed(&mut self, kind: Kind, change: Succession) {
        self.succession = Some((kind, change));
    }

    /// Adds an [`Op::Insert`].
    pub fn insert(&mut self, kind: Kind, key: EntryKey, payload: Payload) {
        self.push(kind, key, Op::Insert(payload));
    }

    /// Adds an [`Op::Replace`].
    pub fn replace(&mut self, kind: Kind, key: EntryKey, payload: Payload) {
        self.push(kind, key, Op::Replace(payload));
    }

    /// Adds an [`Op::Remove`].
    pub fn remove(&mut self, kind: Kind, key: EntryKey) {
        self.push(kind, key, Op::Remove);
    }

    /// Adds an [`Op::Rekey`].
    pub fn rekey(&mut self, kind: Kind, key: EntryKey) {
        self.push(kind, key, Op::Rekey);
    }

    /// How many keys are edited.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether nothing is edited.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty() && self.succession.is_none()
    }

    /// Whether any of them needs fresh keys, and so a batch that changes the root.
    pub fn needs_root_batch(&self) -> bool {
        self.succession.is_some() || self.ops.values().any(|op| !matches!(op, Op::Insert(_)))
    }

    pub(super) fn check_sizes(&self) -> Result<(), TrieError> {
        let fits = |op: &Op| match op {
            Op::Insert(payload) | Op::Replace(payload) => payload.len() <= PAYLOAD_BYTES_MAX,
            Op::Remove | Op::Rekey => true,
        };
        if self.ops.values().all(fits) { Ok(()) } else { Err(TrieError::TooLarge) }
    }

    /// The edits, ascending by kind, side and key.
    pub(super) fn into_sorted(self) -> impl Iterator<Item = (Kind, Side, EntryKey, Op)> {
        self.ops.into_iter().map(|((kind, side, key), op)| (kind, side, key, op))
    }
}

impl Op {
    /// One operation that does what `self` and then `later` would.
    fn then(self, later: Op) -> Op {
        match (self, later) {
            (Op::Insert(_), Op::Insert(payload)) => Op::Insert(payload),
            (_, Op::Insert(payload) | Op::Replace(payload)) => Op::Replace(payload),
            (_, Op::Remove) | (Op::Remove, Op::Rekey) => Op::Remove,
            (Op::Insert(payload) | Op::Replace(payload), Op::Rekey) => Op::Replace(payload),
            (Op::Rekey, Op::Rekey) => Op::Rekey,
        }
    }
}

/// Shows the number of edits only.
impl std::fmt::Debug for Edits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Edits({})", self.ops.len())
    }
}
