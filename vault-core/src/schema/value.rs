//! A checked value in its two forms, and the bytes both are stored as.
//!
//! Layout: `u8 version = 1 ‖ u16 big-endian length of given ‖ given ‖ normal`, both UTF-8 JSON text. An empty rest means
//! that the normal form equals the given one, for no JSON text is empty.

use zeroize::Zeroizing;

use super::{SchemaError, VALUE_MAX};

const VERSION: u8 = 1;
const HEAD: usize = 3;

/// A value that its field accepted: the JSON text as given, byte for byte, and its normal form.
///
/// Wiped when dropped; its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct FieldValue {
    given: Zeroizing<String>,
    normal: Zeroizing<String>,
}

impl FieldValue {
    pub(super) fn new(given: &str, normal: Zeroizing<String>) -> Self {
        Self { given: Zeroizing::new(given.to_owned()), normal }
    }

    /// JSON text as the caller sent it: spelling of numbers, order of keys, escapes and inner white space kept.
    pub fn given(&self) -> &str {
        &self.given
    }

    /// JSON text of the normal form, which is equal for values that mean the same.
    pub fn normal(&self) -> &str {
        &self.normal
    }

    /// The bytes to seal.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let normal = if self.normal == self.given { "" } else { self.normal.as_str() };
        let length = u16::try_from(self.given.len()).expect("VALUE_MAX fits 16 bits");
        let mut out = Zeroizing::new(Vec::with_capacity(HEAD + self.given.len() + normal.len()));
        out.push(VERSION);
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(self.given.as_bytes());
        out.extend_from_slice(normal.as_bytes());
        out
    }

    /// Reads what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// [`SchemaError::Stored`] for another version byte, a length that does not fit, or bytes that are not UTF-8.
    pub fn decode(bytes: &[u8]) -> Result<Self, SchemaError> {
        let (given, normal) = split(bytes).ok_or(SchemaError::Stored)?;
        let canonical = !given.is_empty() && given.len() <= VALUE_MAX && given != normal;
        if !canonical {
            return Err(SchemaError::Stored);
        }
        let normal = if normal.is_empty() { given } else { normal };
        Ok(Self::new(given, Zeroizing::new(normal.to_owned())))
    }
}

fn split(bytes: &[u8]) -> Option<(&str, &str)> {
    let (&version, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (given, normal) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    let texts = (std::str::from_utf8(given).ok()?, std::str::from_utf8(normal).ok()?);
    (version == VERSION).then_some(texts)
}

impl std::fmt::Debug for FieldValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FieldValue(..)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn value(given: &str, normal: &str) -> FieldValue {
        FieldValue::new(given, Zeroizing::new(normal.to_owned()))
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(*value("\"A\"", "\"a\"").encode(), *b"\x01\x00\x03\"A\"\"a\"");
        assert_eq!(*value("\"a\"", "\"a\"").encode(), *b"\x01\x00\x03\"a\"");
    }

    #[test]
    fn refuses_other_bytes() {
        for bad in [
            &b""[..],
            b"\x01",
            b"\x01\x00",
            b"\x01\x00\x00",
            b"\x01\x00\x04\"a\"",
            b"\x02\x00\x03\"a\"",
            b"\x01\x00\x03\"\xff\"",
            b"\x01\x00\x03\"a\"\"a\"",
        ] {
            assert_eq!(FieldValue::decode(bad), Err(SchemaError::Stored), "{bad:?}");
        }
    }

    #[test]
    fn debug_hides_the_value() {
        assert_eq!(format!("{:?}", value("\"secret\"", "\"s\"")), "FieldValue(..)");
    }

    proptest! {
        #[test]
        fn round_trips(given in ".{1,300}", normal in ".{1,300}") {
            let value = value(&given, &normal);
            prop_assert!(FieldValue::decode(&value.encode()).unwrap() == value);
        }

        #[test]
        fn decodes_only_its_own(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(value) = FieldValue::decode(&bytes) {
                prop_assert_eq!(&*value.encode(), &bytes);
            }
        }
    }
}
