//! Tags: keyed hashes that place entries in a trie, and the stored form of API tokens.
//!
//! A tag is deterministic under its key, so it is never at rest in the open: pages that hold tags are sealed, and a
//! page's address does not come from its tags.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{AuditKey, CallerKey, ErasureKey, TagKey, put_lp};
use crate::ids::TENANT;
use crate::memory::ciphering;

/// First half of an entry's key.
pub type Tag = [u8; 16];

impl TagKey {
    /// `HMAC-SHA256(tag key, LP(tenant) ‖ LP(kind) ‖ LP(name) ‖ LP(value))`, cut to 16 bytes.
    pub fn tag(&self, kind: &str, name: &str, value: &[u8]) -> Tag {
        let mut message =
            zeroize::Zeroizing::new(Vec::with_capacity(16 + 8 + kind.len() + name.len() + value.len() + 8));
        for part in [TENANT.as_bytes(), kind.as_bytes(), name.as_bytes(), value] {
            put_lp(&mut message, part);
        }
        let full = hmac(self.expose(), &message);
        full[..16].try_into().expect("32 bytes hold 16")
    }
}

impl CallerKey {
    /// The stored form of an API token: `HMAC-SHA256(key, "uv1/caller" ‖ token)`.
    ///
    /// An API token has 256 random bits, so one keyed hash is enough.
    pub fn token_hash(&self, token: &[u8]) -> [u8; 32] {
        let mut message = zeroize::Zeroizing::new(Vec::with_capacity(10 + token.len()));
        message.extend_from_slice(b"uv1/caller");
        message.extend_from_slice(token);
        hmac(self.expose(), &message)
    }
}

impl AuditKey {
    /// The subject's pseudonym in the audit log on a day (days since 1970-01-01, UTC):
    /// `HMAC-SHA256(audit key, "uv1/pseudonym" ‖ u32 day)`, cut to 16 bytes.
    ///
    /// Another one every day, so that without the key no two days of a subject can be told to be of one subject.
    pub fn pseudonym(&self, day: u32) -> [u8; 16] {
        let full = hmac(self.expose(), &[&b"uv1/pseudonym"[..], &day.to_be_bytes()].concat());
        full[..16].try_into().expect("32 bytes hold 16")
    }
}

impl ErasureKey {
    /// The salt of a commitment: `HMAC-SHA256(key, LP(about) ‖ LP(of))`, cut to 16 bytes. Who holds the key can compute it
    /// again; who is told one salt learns nothing of another.
    pub fn salt(&self, about: &str, of: &[u8]) -> [u8; 16] {
        let mut message = zeroize::Zeroizing::new(Vec::with_capacity(8 + about.len() + of.len()));
        put_lp(&mut message, about.as_bytes());
        put_lp(&mut message, of);
        let full = hmac(self.expose(), &message);
        full[..16].try_into().expect("32 bytes hold 16")
    }
}

pub(super) fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    ciphering(|| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
        mac.update(message);
        mac.finalize().into_bytes().into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Random;

    #[test]
    fn pseudonyms_change_with_the_day_and_the_subject() {
        let mut random = Random::for_keys(2);
        let (one, other) = (AuditKey::draw(&mut random), AuditKey::draw(&mut random));
        assert_eq!(one.pseudonym(1), one.pseudonym(1));
        assert_ne!(one.pseudonym(1), one.pseudonym(2));
        assert_ne!(one.pseudonym(1), other.pseudonym(1));
    }

    #[test]
    fn tags_tell_their_parts_apart() {
        let mut random = Random::for_keys(2);
        let key = TagKey::draw(&mut random);
        let tag = key.tag("lookup", "phone", b"+1");
        assert_eq!(tag, key.tag("lookup", "phone", b"+1"));
        for other in
            [key.tag("lookup", "phon", b"e+1"), key.tag("lookup", "email", b"+1"), key.tag("lookups", "hone", b"+1")]
        {
            assert_ne!(tag, other);
        }
        assert_ne!(tag, TagKey::draw(&mut random).tag("lookup", "phone", b"+1"));
    }
}
