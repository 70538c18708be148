//! Payloads of trie entries as bytes: bincode with a version byte, a size limit and no trailing bytes.
//!
//! The only file that names bincode (pinned to 1.3.3: complete, though no longer maintained). Never used for AAD, sealed
//! formats or anything signed: those are fixed layouts written out by hand.

use bincode::Options;
use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

/// The largest payload of a trie entry, in bytes, that is written or read.
pub const PAYLOAD_MAX: u64 = 16 * 1024;
/// The largest record that is sealed into a row.
pub const RECORD_MAX: u64 = 48 * 1024;

const VERSION: u8 = 1;

/// The bytes are not a payload of this version and type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored payload does not decode: it was written by another version, or it is damaged")]
pub struct CodecError;

fn options(limit: u64) -> impl Options {
    bincode::DefaultOptions::new().with_limit(limit).with_fixint_encoding().reject_trailing_bytes()
}

/// Encodes the payload of an entry; the bytes may hold keys, so they wipe themselves.
///
/// # Errors
/// [`CodecError`] if it would be larger than [`PAYLOAD_MAX`].
pub fn encode<T: Serialize>(value: &T) -> Result<Zeroizing<Vec<u8>>, CodecError> {
    encode_within(PAYLOAD_MAX, value)
}

/// Decodes the payload of an entry.
///
/// # Errors
/// [`CodecError`] for another version byte, trailing bytes, or anything that is not a `T`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_within(PAYLOAD_MAX, bytes)
}

/// Encodes a record that is sealed into a row.
///
/// # Errors
/// [`CodecError`] if it would be larger than [`RECORD_MAX`].
pub fn encode_record<T: Serialize>(value: &T) -> Result<Zeroizing<Vec<u8>>, CodecError> {
    encode_within(RECORD_MAX, value)
}

/// Decodes a record from a row.
///
/// # Errors
/// As for [`decode`].
pub fn decode_record<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_within(RECORD_MAX, bytes)
}

/// How many bytes the payload of an entry would have, however many that are.
///
/// # Errors
/// [`CodecError`] if it can not be encoded at all.
pub fn size<T: Serialize>(value: &T) -> Result<usize, CodecError> {
    let size = options(u64::MAX).serialized_size(value).map_err(|_| CodecError)?;
    usize::try_from(size + 1).map_err(|_| CodecError)
}

fn encode_within<T: Serialize>(limit: u64, value: &T) -> Result<Zeroizing<Vec<u8>>, CodecError> {
    let size = options(limit).serialized_size(value).map_err(|_| CodecError)?;
    // Reserved in full, for a buffer that grows leaves copies of secrets behind.
    let mut out = Zeroizing::new(Vec::with_capacity(usize::try_from(size).map_err(|_| CodecError)? + 1));
    out.push(VERSION);
    options(limit).serialize_into(&mut *out, value).map_err(|_| CodecError)?;
    Ok(out)
}

fn decode_within<T: DeserializeOwned>(limit: u64, bytes: &[u8]) -> Result<T, CodecError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => options(limit).deserialize(rest).map_err(|_| CodecError),
        _ => Err(CodecError),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn golden_bytes() {
        let value = (7u32, "ab".to_owned(), Some(true));
        let bytes = encode(&value).unwrap();
        assert_eq!(hex::encode(&*bytes), "01070000000200000000000000616201".to_owned() + "01");
        assert_eq!(decode::<(u32, String, Option<bool>)>(&bytes), Ok(value));
    }

    #[test]
    fn refuses_what_is_not_exactly_a_payload() {
        let bytes = encode(&7u32).unwrap();
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(decode::<u32>(&longer), Err(CodecError));
        assert_eq!(decode::<u32>(&bytes[..bytes.len() - 1]), Err(CodecError));
        assert_eq!(decode::<u32>(&[2, 7, 0, 0, 0]), Err(CodecError));
        assert_eq!(decode::<u32>(&[]), Err(CodecError));
        assert_eq!(encode(&vec![0u8; 16 * 1024]).unwrap_err(), CodecError);
    }
}
