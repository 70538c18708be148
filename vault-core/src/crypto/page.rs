//! Sealing a page of the sealed trie under its own random key.
//!
//! ```text
//! off 0  u8 format = 1      1  12 B nonce, random
//! off 13 AES-256-GCM(K, nonce, AAD, padded plaintext), last 16 B the tag
//! K   = HKDF-Expand-SHA256(prk = page key, "uv1/page/seal", 32)
//! AAD = "uv1/page" ‖ format ‖ vault id (16 B) ‖ subtree (u8) ‖ generation (u32) ‖ path length (u8) ‖ path (a byte a nibble)
//! ```
//! The padding is 0x80 00* to a multiple of 64 bytes. A page counts its reseals, so that its key is replaced long before
//! 2^32 random nonces (SP 800-38D §8.3).

use zeroize::Zeroizing;

use super::random::Random;
use super::{PageKey, Unauthentic, aead};
use crate::ids::VaultId;
use crate::memory::ciphering;

const FORMAT: u8 = 1;
/// Bytes of randomness that sealing one page takes.
pub const NONCE_LEN: usize = 12;
/// Bytes that sealing adds before padding: format, nonce and tag.
pub const OVERHEAD: usize = 1 + NONCE_LEN + aead::TAG_LEN;

/// Where a page belongs.
#[derive(Clone, Copy)]
pub struct PagePlace<'a> {
    /// The vault.
    pub vault: VaultId,
    /// Which subtree of the header; 0 is the header itself.
    pub subtree: u8,
    /// The subtree's generation.
    pub generation: u32,
    /// The nibbles that lead to the page, one to a byte; at most 64.
    pub path: &'a [u8],
}

impl PagePlace<'_> {
    fn aad(&self) -> Vec<u8> {
        let mut aad = Vec::with_capacity(8 + 1 + 16 + 1 + 4 + 1 + self.path.len());
        aad.extend_from_slice(b"uv1/page");
        aad.push(FORMAT);
        aad.extend_from_slice(&self.vault.0);
        aad.push(self.subtree);
        aad.extend_from_slice(&self.generation.to_be_bytes());
        aad.push(u8::try_from(self.path.len()).expect("a path has at most 64 nibbles"));
        aad.extend_from_slice(self.path);
        aad
    }
}

/// Seals a page's plaintext for its place; takes [`NONCE_LEN`] bytes of `random`.
pub fn seal(key: &PageKey, place: &PagePlace<'_>, plaintext: &[u8], random: &mut Random) -> Vec<u8> {
    let padded_len = (plaintext.len() + 1).next_multiple_of(64);
    let nonce: [u8; NONCE_LEN] = random.array();
    let mut out = Vec::with_capacity(OVERHEAD + padded_len);
    out.push(FORMAT);
    out.extend_from_slice(&nonce);
    ciphering(|| aead::encrypt_padded(&key.sealing_key(), &nonce, &place.aad(), plaintext, padded_len, &mut out));
    out
}

/// Opens a sealed page.
///
/// # Errors
/// [`Unauthentic`]: a wrong key, a changed byte, or another place.
pub fn open(key: &PageKey, place: &PagePlace<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unauthentic> {
    if sealed.len() < OVERHEAD || sealed[0] != FORMAT {
        return Err(Unauthentic);
    }
    let nonce: [u8; NONCE_LEN] = sealed[1..=NONCE_LEN].try_into().map_err(|_| Unauthentic)?;
    ciphering(|| aead::unpad(aead::decrypt(&key.sealing_key(), &nonce, &place.aad(), &sealed[1 + NONCE_LEN..])?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn opens_only_in_its_place_and_unchanged() {
        let key = PageKey::draw(&mut Random::for_keys(1));
        let place = PagePlace { vault: VaultId([1; 16]), subtree: 2, generation: 3, path: &[1, 2] };
        let sealed = seal(&key, &place, b"entries", &mut Random::new(12));
        assert_eq!(&**open(&key, &place, &sealed).unwrap(), b"entries");
        let elsewhere = [
            PagePlace { vault: VaultId([2; 16]), ..place },
            PagePlace { subtree: 1, ..place },
            PagePlace { generation: 4, ..place },
            PagePlace { path: &[1], ..place },
        ];
        for other in elsewhere {
            assert_eq!(open(&key, &other, &sealed), Err(Unauthentic));
        }
        for bit in 0..sealed.len() * 8 {
            let mut bytes = sealed.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&key, &place, &bytes), Err(Unauthentic), "bit {bit}");
        }
        assert_eq!(open(&key, &place, &sealed[..20]), Err(Unauthentic));
    }
}
