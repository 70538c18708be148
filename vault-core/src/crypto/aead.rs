//! AES-256-GCM and HKDF-SHA256 in the two shapes the formats need.

use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::Unauthentic;
use crate::memory::ciphering;

/// Length of a GCM tag, in bytes.
pub(super) const TAG_LEN: usize = 16;

/// Appends `plaintext` to `out`, encrypted, and its tag. A (key, nonce) pair is used once.
pub(super) fn encrypt(key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], plaintext: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    // Before the plaintext is there: a buffer that grows leaves copies of it behind.
    out.reserve(plaintext.len() + TAG_LEN);
    out.extend_from_slice(plaintext);
    encrypt_from(start, key, nonce, aad, out);
}

/// The same with `plaintext` padded to `len` bytes: 0x80, then zeros.
pub(super) fn encrypt_padded(
    key: &[u8; 32],
    nonce: &[u8; 12],
    aad: &[u8],
    plaintext: &[u8],
    len: usize,
    out: &mut Vec<u8>,
) {
    debug_assert!(len > plaintext.len(), "the padding takes at least one byte");
    let start = out.len();
    out.reserve(len + TAG_LEN);
    out.extend_from_slice(plaintext);
    out.push(0x80);
    out.resize(start + len, 0);
    encrypt_from(start, key, nonce, aad, out);
}

/// Encrypts in place, so that no second copy of the plaintext has to be wiped.
fn encrypt_from(start: usize, key: &[u8; 32], nonce: &[u8; 12], aad: &[u8], out: &mut Vec<u8>) {
    let encrypt =
        || Aes256Gcm::new(key.into()).encrypt_inout_detached(&Nonce::from(*nonce), aad, (&mut out[start..]).into());
    let tag = ciphering(encrypt).expect("a plaintext here is far below GCM's limit of 64 GiB");
    out.extend_from_slice(&tag);
}

/// Decrypts what was appended by [`encrypt`] or [`encrypt_padded`], padding and all.
pub(super) fn decrypt(
    key: &[u8; 32],
    nonce: &[u8; 12],
    aad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Unauthentic> {
    let split = sealed.len().checked_sub(TAG_LEN).ok_or(Unauthentic)?;
    let (ciphertext, tag) = sealed.split_at(split);
    let tag: [u8; TAG_LEN] = tag.try_into().map_err(|_| Unauthentic)?;
    let mut plaintext = Zeroizing::new(ciphertext.to_vec());
    let buffer = plaintext.as_mut_slice().into();
    ciphering(|| Aes256Gcm::new(key.into()).decrypt_inout_detached(&Nonce::from(*nonce), aad, buffer, &Tag::from(tag)))
        .map_err(|_| Unauthentic)?;
    Ok(plaintext)
}

/// HKDF-Expand (RFC 5869 §2.3) of a uniformly random 256-bit key.
pub(super) fn expand<const N: usize>(prk: &[u8; 32], info: &[&[u8]]) -> Zeroizing<[u8; N]> {
    let mut okm = Zeroizing::new([0u8; N]);
    ciphering(|| {
        let hkdf = Hkdf::<Sha256>::from_prk(prk).expect("32 bytes are a PRK for SHA-256");
        hkdf.expand_multi_info(info, &mut *okm).expect("at most 96 bytes are asked for, of 8160 possible");
    });
    okm
}

/// Takes the padding off (0x80, then zeros), in place.
pub(super) fn unpad(mut padded: Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, Unauthentic> {
    let end = padded.iter().rposition(|&b| b != 0).filter(|&i| padded[i] == 0x80).ok_or(Unauthentic)?;
    padded.truncate(end);
    Ok(padded)
}
