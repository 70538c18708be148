//! The sealed trie: a map that forgets, and the only place for what must be both findable and forgettable.
//!
//! Entries are small payloads under 32-byte keys, in a radix tree of sealed pages. A page lies in the store under an
//! address derived from its own random key, and a parent holds its children's keys, so that only who has the root key
//! can find his way. The shape and the rules are told by the rooms:
//!
//! | room | what |
//! |---|---|
//! | `header` | the vault header: what the root key opens; the subtrees' root pages and tag keys |
//! | `page` | the plaintext of a page: a leaf of entries, or an inner page of child keys |
//! | `pages` | pages from the store, opened, behind a bounded cache |
//! | `read` | find, scan, and the walk that `verify` does |
//! | `copy` | every page as it lies there, for a backup |
//! | `edits` | what a batch asks for |
//! | `overlay` | the pages a batch touches, changed in memory |
//! | `settle` | splits, collapses and seals those pages, each once |
//! | `apply` | a batch from edits to rows |
//!
//! # Why it forgets
//! What was ever sealed under a page key can be reached only through that key's ancestors, and an entry's former places
//! are always ancestors of its present one, or can be reached only through them: a split keeps the old key for the page
//! above, and whatever a removal moves upwards it moves under keys that are fresh all the way to the root. Removing an
//! entry replaces every key on its path, the header's included; the old root leaves the root slots; and nothing leads to
//! the old pages any more, in however many copies they lie around.
//!
//! # One writer
//! Readers share [`Pages`] freely. Batches are made one at a time: [`apply`], commit, [`Pages::publish`], and only then
//! the next. A batch that was not committed is thrown away and made anew, so that keys serve one attempt.

mod apply;
#[cfg(test)]
pub(crate) mod attacker;
mod copy;
mod edits;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod header;
mod overlay;
mod page;
mod pages;
mod path;
mod read;
mod settle;
#[cfg(test)]
mod tests;

use zeroize::Zeroizing;

pub use apply::{Applied, Mode, RekeyCursor, RekeyStep, apply};
pub use copy::Copying;
pub use edits::{Edits, Op, Side};
pub use header::{Duty, Generations, Header, SubtreeInfo, Succession};
pub use page::{LEAF_BYTES, PAYLOAD_BYTES_MAX};
pub use pages::{CacheStats, Pages};
pub use read::{Visit, find, scan, scan_beside, walk};

use crate::store::StoreError;

/// An entry's key: its tag (16 bytes), then its discriminator (16 bytes).
pub type EntryKey = [u8; 32];

/// An entry's payload; at most [`PAYLOAD_BYTES_MAX`] bytes. It may hold keys, so it wipes itself.
pub type Payload = Zeroizing<Vec<u8>>;

/// Which subtree of the header an entry is in. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Subjects: their uuid, state and DEKs, or a tombstone.
    Directory = 1,
    /// Lookup tag ‖ subject tag, for finding subjects by an exact value.
    Lookups = 2,
    /// Erasure requests and their subjects.
    Erasures = 3,
    /// API callers.
    Callers = 4,
    /// What the vault notes about itself: rotations and the like.
    System = 5,
    /// Value tokens: what each stands for, and each subject's list of them.
    Tokens = 6,
}

impl Kind {
    /// All of them, in the order of their numbers.
    pub const ALL: [Kind; 6] =
        [Kind::Directory, Kind::Lookups, Kind::Erasures, Kind::Callers, Kind::System, Kind::Tokens];

    fn from_number(number: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|&kind| kind as u8 == number)
    }
}

/// One subtree: a kind and its generation. Both are bound into each of its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Branch {
    kind: Kind,
    generation: u32,
}

/// What the trie can not do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrieError {
    /// A page's row is absent: the header is an old one whose pages a root batch replaced, or the store lost a row.
    #[error("a page of the sealed trie is missing: read the current header and retry; if it stays missing, restore")]
    Missing,
    /// A page or header does not open or decode.
    #[error("a page of the sealed trie does not open: it is damaged or was replaced; restore it from a backup")]
    Damaged,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A batch under the present root asks for what needs fresh keys.
    #[error("this change replaces keys: make it in a batch that changes the root")]
    NeedsRootBatch,
    /// A payload is longer than [`PAYLOAD_BYTES_MAX`].
    #[error("a payload is larger than {PAYLOAD_BYTES_MAX} bytes: keep the bulk of it in a row of its own")]
    TooLarge,
}
