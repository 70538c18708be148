//! Identifiers as types, parsed once at the edge.

use serde::{Deserialize, Serialize};

/// The only tenant until there are several; it is in every format already.
pub const TENANT: &str = "default";

/// Why a text is not an identifier. Never repeats the text, for it may be personal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not 1 to 256 bytes, or with control characters.
    #[error("a subject id is 1 to 256 bytes of UTF-8 without control characters")]
    Subject,
    /// Not a name of letters, digits and underscores.
    #[error("a name is 1 to 64 characters of a-z, 0-9 and _, and starts with a letter")]
    Name,
    /// Not 32 hexadecimal digits.
    #[error("this id is 32 hexadecimal digits")]
    Hex,
    /// Not 1 to 128 visible ASCII characters.
    #[error("an idempotency key is 1 to 128 visible ASCII characters, best a random UUID")]
    IdempotencyKey,
}

/// The caller's own id of a data subject: 1 to 256 bytes of UTF-8 without control characters.
///
/// It may itself be personal (an e-mail address, say), so it has no `Display` and its `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectId(String);

impl SubjectId {
    /// Checks and takes a caller's id.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let fits = (1..=256).contains(&text.len()) && !text.chars().any(char::is_control);
        if fits { Ok(Self(text.to_owned())) } else { Err(IdError::Subject) }
    }

    /// The id as the caller wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for SubjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SubjectId(..)")
    }
}

/// What a caller names a request by, so that sending it again does not do it again: 1 to 128 visible ASCII characters.
///
/// A caller may have made it from a subject's id, so it has no `Display` and its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    /// Checks and takes a key.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        let fits = (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if fits { Ok(Self(text.to_owned())) } else { Err(IdError::IdempotencyKey) }
    }

    /// The key as the caller wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdempotencyKey(..)")
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks and takes a name: 1 to 64 of a-z, 0-9 and `_`, starting with a letter.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let mut bytes = text.bytes();
                let head = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
                let tail = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
                if head && tail && text.len() <= 64 { Ok(Self(text.to_owned())) } else { Err(IdError::Name) }
            }

            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type! {
    /// The name of one field of a subject, for example `phone`.
    FieldName
}
name_type! {
    /// The name of a group of fields with its own data encryption key, for example `profile`.
    Compartment
}
name_type! {
    /// Why a caller reads, for example `delivery`.
    Purpose
}

name_type! {
    /// The name of a legal hold, for example `case_2026_17`.
    HoldName
}

impl Compartment {
    /// The reserved compartment of what the vault notes about a subject: consents, holds, its restriction.
    pub fn system() -> Self {
        Self("system".to_owned())
    }

    /// The compartment that registration data lives in.
    pub fn profile() -> Self {
        Self("profile".to_owned())
    }
}

macro_rules! id16_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Reads 32 hexadecimal digits.
            pub fn parse(text: &str) -> Result<Self, IdError> {
                let mut id = [0u8; 16];
                hex::decode_to_slice(text, &mut id).map_err(|_| IdError::Hex)?;
                Ok(Self(id))
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
    };
}

id16_type! {
    /// Names one vault for ever; bound into everything it seals.
    VaultId
}
id16_type! {
    /// Our own id of a subject: a UUID of version 7, so that rows of new subjects lie together.
    SubjectUuid
}
id16_type! {
    /// Names one erasure request.
    ErasureId
}
id16_type! {
    /// Names one rotation.
    RotationId
}
id16_type! {
    /// Names one backup archive.
    BackupId
}
id16_type! {
    /// Names one caller.
    CallerId
}
id16_type! {
    /// Tells two root keys of one epoch apart.
    RootId
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn subject_ids_are_bounded_and_printable() {
        for good in ["a", "cust-1", "a/b", "名前", &"x".repeat(256)] {
            assert_eq!(SubjectId::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a\nb", "\u{7f}", "a\u{85}b", &"x".repeat(257)] {
            assert_eq!(SubjectId::parse(bad), Err(IdError::Subject));
        }
        assert_eq!(format!("{:?}", SubjectId::parse("jane@example.org").unwrap()), "SubjectId(..)");
    }

    #[test]
    fn idempotency_keys_are_visible_ascii() {
        for good in ["1", "b7c0a1de-4a0f-4a0e-9f65-0d1c2b3a4f5e", "~!", &"x".repeat(128)] {
            assert_eq!(IdempotencyKey::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a\n", "é", "\u{7f}", &"x".repeat(129)] {
            assert_eq!(IdempotencyKey::parse(bad), Err(IdError::IdempotencyKey));
        }
        assert_eq!(format!("{:?}", IdempotencyKey::parse("erase-jane").unwrap()), "IdempotencyKey(..)");
    }

    #[test]
    fn names_are_plain() {
        for good in ["phone", "ip_address", "a1"] {
            assert!(FieldName::parse(good).is_ok());
        }
        for bad in ["", "Phone", "1a", "a-b", "_a", "é", &"x".repeat(65)] {
            assert_eq!(FieldName::parse(bad), Err(IdError::Name));
        }
    }

    #[test]
    fn hex_ids_round_trip() {
        let id = ErasureId([0xab; 16]);
        assert_eq!(ErasureId::parse(&id.to_string()), Ok(id));
        assert_eq!(ErasureId::parse("xyz"), Err(IdError::Hex));
    }
}
