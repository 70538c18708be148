//! Following a log from outside: its heads, one after the other, and the keys that sign them.

use tlog_tiles::check_tree;
use tlog_tiles::tlog::Hash;

use super::head::{next_in, signed_by, told_by};

/// The size that a head speaks of, whoever signed it.
pub fn size_of(head: &[u8]) -> Option<u64> {
    told_by(head).map(|(size, _)| size)
}

/// The size that a head speaks of, if this key signed it.
pub fn signed_size(head: &[u8], key: &str) -> Option<u64> {
    size_of(head).filter(|_| signed_by(head, &[key]))
}

/// The key that follows this one, if the note of a change says so and both signed it.
pub fn next_key(note: &[u8], key: &str) -> Option<String> {
    next_in(note).filter(|next| signed_by(note, &[key, next]))
}

/// Whether the log of one head is the beginning of the log of another, by the proof between them. Signatures are another
/// question, see [`signed_size`].
pub fn is_continued(old: &[u8], new: &[u8], proof: &[[u8; 32]]) -> bool {
    let (Some((from, before)), Some((to, after))) = (told_by(old), told_by(new)) else { return false };
    let origin = |head: &[u8]| head.iter().take_while(|byte| **byte != b'\n').copied().collect::<Vec<u8>>();
    if origin(old) != origin(new) {
        return false;
    }
    if from == 0 || from >= to {
        return from == 0 || (from == to && before == after);
    }
    let proof = proof.iter().copied().map(Hash).collect();
    check_tree(&proof, to, Hash(after), from, Hash(before)).is_ok()
}
