//! Sealing a field: format UV1, key-committing, bound to its place.
//!
//! ```text
//! off  0  u8  format = 1        1 u8 suite = 1 (HKDF-SHA256 + AES-256-GCM)
//! off  2  u16 schema version    4 u32 DEK version                     (big-endian)
//! off  8  24 B N, random        32 32 B commitment C
//! off 64  AES-256-GCM(K, nonce N[12..24], AAD = bytes 0..64, padded plaintext), last 16 B the tag
//! info = "uv1/field" ‖ header[0..8] ‖ LP(tenant) ‖ LP(subject uuid) ‖ LP(compartment) ‖ LP(field) ‖ N
//! K ‖ C = HKDF-Expand-SHA256(prk = DEK, info, 64)
//! ```

use zeroize::Zeroizing;

use super::random::Random;
use super::{Dek, Unauthentic, aead, equal, put_lp};
use crate::ids::{SubjectUuid, TENANT};
use crate::memory::ciphering;

/// Bytes before the ciphertext.
pub const HEADER_LEN: usize = 64;
const FORMAT: u8 = 1;
const SUITE: u8 = 1;
/// Bytes of randomness that sealing one field takes.
pub const NONCE_LEN: usize = 24;

/// Where a sealed field belongs; a ciphertext opens nowhere else.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The subject's uuid.
    pub subject: SubjectUuid,
    /// The compartment's name.
    pub compartment: &'a str,
    /// The field's name; reserved ones start with `#`.
    pub field: &'a str,
}

/// A sealed field: UV1 bytes whose header was looked at, and no more.
#[derive(Clone, Copy)]
pub struct SealedField<'a>(&'a [u8]);

impl<'a> SealedField<'a> {
    /// Looks at the header.
    ///
    /// # Errors
    /// [`Unauthentic`] if it is too short, or of another format or suite.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Unauthentic> {
        let fits = bytes.len() >= HEADER_LEN + 32 + aead::TAG_LEN && bytes[0] == FORMAT && bytes[1] == SUITE;
        if fits { Ok(Self(bytes)) } else { Err(Unauthentic) }
    }

    /// The version of the schema it was sealed under.
    pub fn schema_version(&self) -> u16 {
        u16::from_be_bytes([self.0[2], self.0[3]])
    }

    /// The version of the DEK that opens it.
    pub fn dek_version(&self) -> u32 {
        u32::from_be_bytes([self.0[4], self.0[5], self.0[6], self.0[7]])
    }

    /// The commitment C, which names this ciphertext in its row's manifest.
    pub fn commitment(&self) -> [u8; 32] {
        self.0[32..64].try_into().expect("a parsed field has a whole header")
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`Unauthentic`]: a wrong key, a changed byte, or another place.
    pub fn open(&self, dek: &Dek, place: &Place<'_>) -> Result<Zeroizing<Vec<u8>>, Unauthentic> {
        let (header, sealed) = self.0.split_at(HEADER_LEN);
        ciphering(|| {
            let keys = derive(dek, place, &header[..8], &header[8..32]);
            if !equal(&keys[32..], &header[32..]) {
                return Err(Unauthentic);
            }
            let (key, nonce) = key_and_nonce(&keys, &header[8..32]);
            aead::unpad(aead::decrypt(&key, &nonce, header, sealed)?)
        })
    }
}

/// Seals `plaintext` for `place`; takes [`NONCE_LEN`] bytes of `random`.
pub fn seal(
    dek: &Dek,
    dek_version: u32,
    schema_version: u16,
    place: &Place<'_>,
    plaintext: &[u8],
    random: &mut Random,
) -> Vec<u8> {
    let padded_len = padded_len(plaintext.len());
    let mut out = Vec::with_capacity(HEADER_LEN + padded_len + aead::TAG_LEN);
    out.extend_from_slice(&[FORMAT, SUITE]);
    out.extend_from_slice(&schema_version.to_be_bytes());
    out.extend_from_slice(&dek_version.to_be_bytes());
    out.extend_from_slice(&random.array::<NONCE_LEN>());
    ciphering(|| {
        let keys = derive(dek, place, &out[..8], &out[8..32]);
        out.extend_from_slice(&keys[32..]);
        let (key, nonce) = key_and_nonce(&keys, &out[8..32]);
        let header: [u8; HEADER_LEN] = out[..].try_into().expect("2 + 2 + 4 + 24 + 32 bytes were written");
        aead::encrypt_padded(&key, &nonce, &header, plaintext, padded_len, &mut out);
    });
    out
}

fn derive(dek: &Dek, place: &Place<'_>, head: &[u8], nonce: &[u8]) -> Zeroizing<[u8; 64]> {
    let mut info = Vec::with_capacity(128);
    info.extend_from_slice(b"uv1/field");
    info.extend_from_slice(head);
    put_lp(&mut info, TENANT.as_bytes());
    put_lp(&mut info, &place.subject.0);
    put_lp(&mut info, place.compartment.as_bytes());
    put_lp(&mut info, place.field.as_bytes());
    info.extend_from_slice(nonce);
    aead::expand::<64>(dek.expose(), &[&info])
}

fn key_and_nonce(keys: &[u8; 64], n: &[u8]) -> (Zeroizing<[u8; 32]>, [u8; 12]) {
    let mut key = Zeroizing::new([0u8; 32]);
    key.copy_from_slice(&keys[..32]);
    (key, n[12..24].try_into().expect("N has 24 bytes"))
}

/// 32, 64, … 1024 bytes, then whole KiB; at least one byte goes to the padding.
fn padded_len(len: usize) -> usize {
    let with_mark = len + 1;
    if with_mark <= 1024 { with_mark.next_power_of_two().max(32) } else { with_mark.next_multiple_of(1024) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const UUID: SubjectUuid = SubjectUuid([7; 16]);
    const PLACE: Place<'static> = Place { subject: UUID, compartment: "profile", field: "phone" };

    fn key() -> Dek {
        Dek::draw(&mut Random::for_keys(1))
    }

    #[test]
    fn opens_only_where_it_belongs() {
        let dek = key();
        let sealed = seal(&dek, 3, 9, &PLACE, b"+971501238301", &mut Random::new(24));
        let field = SealedField::parse(&sealed).unwrap();
        assert_eq!((field.dek_version(), field.schema_version()), (3, 9));
        assert_eq!(&**field.open(&dek, &PLACE).unwrap(), b"+971501238301");
        let elsewhere = [
            Place { subject: SubjectUuid([8; 16]), ..PLACE },
            Place { compartment: "marketing", ..PLACE },
            Place { field: "email", ..PLACE },
            // Length prefixes: the same letters, cut elsewhere.
            Place { compartment: "profilep", field: "hone", ..PLACE },
        ];
        for place in elsewhere {
            assert_eq!(field.open(&dek, &place), Err(Unauthentic));
        }
        assert_eq!(field.open(&key(), &PLACE), Err(Unauthentic));
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let dek = key();
        let sealed = seal(&dek, 1, 1, &PLACE, b"x", &mut Random::new(24));
        for bit in 0..sealed.len() * 8 {
            let mut bytes = sealed.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let opened = SealedField::parse(&bytes).and_then(|f| f.open(&dek, &PLACE));
            assert_eq!(opened, Err(Unauthentic), "bit {bit}");
        }
    }

    #[test]
    fn lengths_fall_into_few_classes() {
        let sizes = [(0, 32), (31, 32), (32, 64), (1023, 1024), (1024, 2048), (2047, 2048), (2048, 3072)];
        for (len, padded) in sizes {
            assert_eq!(padded_len(len), padded, "{len}");
        }
    }

    proptest! {
        #[test]
        fn round_trips(plaintext in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let dek = key();
            let sealed = seal(&dek, 1, 1, &PLACE, &plaintext, &mut Random::new(24));
            let again = seal(&dek, 1, 1, &PLACE, &plaintext, &mut Random::new(24));
            prop_assert_ne!(&sealed, &again, "nothing deterministic");
            prop_assert_eq!(&**SealedField::parse(&sealed).unwrap().open(&dek, &PLACE).unwrap(), &plaintext);
        }

        #[test]
        fn never_panics_on_foreign_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let opened = SealedField::parse(&bytes).and_then(|f| f.open(&key(), &PLACE));
            prop_assert_eq!(opened, Err(Unauthentic));
        }
    }
}
