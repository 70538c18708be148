//! The audit log: who did what to whom, when and for which purpose, in a Merkle log that others can check.
//!
//! An entry is a line of JSON ([`Entry`]); it never holds a value, and names a subject by a pseudonym under that subject's
//! own audit key, so that a shred makes its entries nobody's. [`Log`] keeps the entries, hashes them as RFC 6962 says, and
//! lays them out as C2SP `tlog-tiles`; its head is a C2SP signed note.

mod check;
mod entry;
mod error;
mod files;
mod follow;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod head;
mod journal;
mod keeper;
mod log;
#[cfg(test)]
mod log_tests;
pub mod trail;
mod tree;

pub use check::{KeptHead, LogReport, ToldErasure, check, check_with};
pub use entry::{Action, Concluded, Digest, Entry, KeyChange, Level, Outcome, Pseudonym, Shred};
pub use error::LogError;
pub use follow::{is_continued, next_key, signed_size, size_of};
pub use log::{Log, Sync, root_at};
pub use trail::{Trail, day_of};
pub use tree::{TreeHead, WIDTH};
