//! Sealing small records that are overwritten often (slot copies, META): each write has a key of its own.
//!
//! ```text
//! off 0  u8 format = 1      1  32 B salt, random
//! off 33 AES-256-GCM(K, nonce, AAD, plaintext), last 16 B the tag
//! K ‖ nonce = HKDF-Expand-SHA256(prk = key, LP(label) ‖ salt, 44)
//! AAD = "uv1/box" ‖ LP(label) ‖ LP(aad)
//! ```
//! A fresh key for each write has no limit of 2^32 writes, as random nonces under one key would.

use zeroize::Zeroizing;

use super::random::Random;
use super::{MetaKey, RefusalKey, SlotKey, Unauthentic, UnlockKey, aead, put_lp};

const FORMAT: u8 = 1;
const SALT_LEN: usize = 32;
/// Bytes that sealing adds: format, salt and tag.
pub const OVERHEAD: usize = 1 + SALT_LEN + aead::TAG_LEN;

/// What a box is for; a box opens under no other label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Label {
    Meta,
    Evidence,
    Outbox,
    Refusals,
    SlotEntries,
    SlotKeyWrap,
}

impl Label {
    fn bytes(self) -> &'static [u8] {
        match self {
            Self::Meta => b"uv1/meta",
            Self::Evidence => b"uv1/evidence",
            Self::Outbox => b"uv1/outbox",
            Self::Refusals => b"uv1/refusals",
            Self::SlotEntries => b"uv1/slot/entries",
            Self::SlotKeyWrap => b"uv1/slot/wrap",
        }
    }
}

impl MetaKey {
    /// Seals the META record's inner part.
    pub fn seal_meta(&self, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        seal(self.expose(), Label::Meta, aad, plaintext)
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`Unauthentic`]: a wrong key or a changed byte.
    pub fn open_meta(&self, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unauthentic> {
        open(self.expose(), Label::Meta, aad, sealed)
    }

    /// Seals the evidence of shreds.
    pub fn seal_evidence(&self, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        seal(self.expose(), Label::Evidence, aad, plaintext)
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`Unauthentic`]: a wrong key or a changed byte.
    pub fn open_evidence(&self, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unauthentic> {
        open(self.expose(), Label::Evidence, aad, sealed)
    }

    /// Seals entries that wait for the audit log.
    pub fn seal_outbox(&self, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        seal(self.expose(), Label::Outbox, aad, plaintext)
    }

    /// Opens them.
    ///
    /// # Errors
    /// [`Unauthentic`]: a wrong key or a changed byte.
    pub fn open_outbox(&self, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unauthentic> {
        open(self.expose(), Label::Outbox, aad, sealed)
    }
}

impl RefusalKey {
    /// Seals refusals.
    pub fn seal_refusals(&self, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        seal(self.expose(), Label::Refusals, aad, plaintext)
    }

    /// Opens them.
    ///
    /// # Errors
    /// [`Unauthentic`]: a wrong key or a changed byte.
    pub fn open_refusals(&self, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unauthentic> {
        open(self.expose(), Label::Refusals, aad, sealed)
    }
}

impl SlotKey {
    /// Seals a slot's entries (root keys).
    pub fn seal_entries(&self, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
        seal(self.expose(), Label::SlotEntries, aad, plaintext)
    }

    /// Opens them.
    ///
    /// # Errors
    /// [`Unauthentic`]: a wrong key or a changed byte.
    pub fn open_entries(&self, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unauthentic> {
        open(self.expose(), Label::SlotEntries, aad, sealed)
    }
}

impl UnlockKey {
    /// Wraps a slot key.
    pub fn wrap(&self, aad: &[u8], slot: &SlotKey) -> Vec<u8> {
        seal(self.expose(), Label::SlotKeyWrap, aad, slot.expose())
    }

    /// Unwraps a slot key.
    ///
    /// # Errors
    /// [`Unauthentic`]: not this unlock key, or a changed byte.
    pub fn unwrap_slot_key(&self, aad: &[u8], wrapped: &[u8]) -> Result<SlotKey, Unauthentic> {
        SlotKey::from_slice(&open(self.expose(), Label::SlotKeyWrap, aad, wrapped)?).ok_or(Unauthentic)
    }
}

fn seal(key: &[u8; 32], label: Label, aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let salt: [u8; SALT_LEN] = Random::new(SALT_LEN).array();
    let mut out = Vec::with_capacity(OVERHEAD + plaintext.len());
    out.push(FORMAT);
    out.extend_from_slice(&salt);
    let (key, nonce) = derive(key, label, &salt);
    aead::encrypt(&key, &nonce, &full_aad(label, aad), plaintext, &mut out);
    out
}

fn open(key: &[u8; 32], label: Label, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unauthentic> {
    if sealed.len() < OVERHEAD || sealed[0] != FORMAT {
        return Err(Unauthentic);
    }
    let (key, nonce) = derive(key, label, &sealed[1..=SALT_LEN]);
    aead::decrypt(&key, &nonce, &full_aad(label, aad), &sealed[1 + SALT_LEN..])
}

fn derive(key: &[u8; 32], label: Label, salt: &[u8]) -> (Zeroizing<[u8; 32]>, [u8; 12]) {
    let mut info = Vec::with_capacity(64);
    put_lp(&mut info, label.bytes());
    info.extend_from_slice(salt);
    let okm = aead::expand::<44>(key, &[&info]);
    let mut own = Zeroizing::new([0u8; 32]);
    own.copy_from_slice(&okm[..32]);
    (own, okm[32..].try_into().expect("44 - 32 bytes are a nonce"))
}

fn full_aad(label: Label, aad: &[u8]) -> Vec<u8> {
    let mut full = b"uv1/box".to_vec();
    put_lp(&mut full, label.bytes());
    put_lp(&mut full, aad);
    full
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn opens_only_under_its_key_label_and_aad() {
        let mut random = Random::for_keys(3);
        let meta = MetaKey::draw(&mut random);
        let sealed = meta.seal_meta(b"aad", b"counts");
        assert_eq!(&**meta.open_meta(b"aad", &sealed).unwrap(), b"counts");
        assert_eq!(meta.open_meta(b"other", &sealed), Err(Unauthentic));
        assert_eq!(MetaKey::draw(&mut random).open_meta(b"aad", &sealed), Err(Unauthentic));
        let same_bytes = SlotKey::from_slice(meta.expose()).unwrap();
        assert_eq!(same_bytes.open_entries(b"aad", &sealed), Err(Unauthentic));
        for bit in 0..sealed.len() * 8 {
            let mut bytes = sealed.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(meta.open_meta(b"aad", &bytes), Err(Unauthentic), "bit {bit}");
        }
    }

    #[test]
    fn wraps_a_slot_key() {
        let mut random = Random::for_keys(3);
        let (unlock, slot) = (UnlockKey::draw(&mut random), SlotKey::draw(&mut random));
        let wrapped = unlock.wrap(b"vault", &slot);
        assert_eq!(unlock.unwrap_slot_key(b"vault", &wrapped), Ok(slot));
        assert_eq!(UnlockKey::draw(&mut random).unwrap_slot_key(b"vault", &wrapped), Err(Unauthentic));
    }
}
