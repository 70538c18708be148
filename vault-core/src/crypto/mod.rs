//! Cryptography by role: the only code that names cipher crates, and it only composes them.
//!
//! | what | how | room |
//! |---|---|---|
//! | a field of a subject | UV1: HKDF-SHA256 + AES-256-GCM, key-committing | [`field`] |
//! | a page of the sealed trie | AES-256-GCM under the page's own random key | [`page`] |
//! | a slot copy, the META record | a fresh key for each write by HKDF | [`sealed_box`] |
//! | a tag in a trie, a caller's API token | HMAC-SHA-256 | [`tag`] |
//! | a passphrase | Argon2id | [`passphrase`] |
//! | the head of the audit log | Ed25519 | [`LogKey`] |
//! | randomness | one system call for each row or page batch | [`random`] |
//!
//! There is one opaque failure, [`Unauthentic`]: a wrong key, a changed byte and a moved ciphertext look alike.

mod aead;
pub mod field;
pub mod keys;
pub mod page;
pub mod passphrase;
pub mod random;
pub mod sealed_box;
mod signing;
pub mod tag;
#[cfg(test)]
mod vectors;

pub use keys::{
    AuditKey, CallerKey, Dek, ErasureKey, MetaKey, PageKey, RefusalKey, RootKey, SlotKey, TagKey, UnlockKey,
};
pub use random::Random;
pub use signing::LogKey;

/// A wrong key, a changed byte, or a ciphertext from another place: not told apart, on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sealed bytes do not open: they are damaged, or the key is not theirs")]
pub struct Unauthentic;

/// Whether two byte strings are equal, in a time that depends on their lengths only.
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    subtle::ConstantTimeEq::ct_eq(a, b).into()
}

/// SHA-256, for comparing public or sealed bytes; never for anything that must stay secret.
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

/// Appends a byte string with its length before it (u32, big-endian), so that places can not run together.
pub(crate) fn put_lp(out: &mut Vec<u8>, part: &[u8]) {
    let len = u32::try_from(part.len()).expect("parts of a place are bounded far below 4 GiB");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(part);
}
