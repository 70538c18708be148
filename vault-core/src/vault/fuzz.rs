//! The decoders of this room, for `crate::fuzzing`.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::consents::Consents;
use super::evidence::Destroyed;
use super::holds::Holds;
use super::log_key::LogKeyRecord;
use super::meta::{Meta, MetaHead};
use super::metadata::RowMetadata;
use super::records::{
    CallerRecord, DekChain, DirectoryEntry, ErasureItem, ErasureRecord, IdempotencyRecord, RotationRecord, TokenOf,
    TokenRecord,
};
use super::restriction::Restrictions;
use super::retained::RetainedRoot;
use super::row::{self, Row, RowPlace};
use super::schema::VersionRecord;
use super::{accesses, metadata, outbox, subject};
use crate::audit::TreeHead;
use crate::codec;
use crate::crypto::field::{Place, SealedField};
use crate::crypto::{Dek, MetaKey, digest};
use crate::fuzzing::Target;
use crate::ids::{Compartment, SubjectUuid};

pub(crate) const TARGETS: [Target; 8] = [
    Target::new("payload", payload),
    Target::new("record", record),
    Target::new("uv1", uv1),
    Target::new("data_row", data_row),
    Target::new("manifest", row::decode_manifest),
    Target::new("meta", meta),
    Target::new("outbox", outbox::decode_entries_again),
    Target::new("cursor", cursor),
];

/// Payloads of trie entries, each tried as every kind there is.
fn payload(bytes: &[u8]) -> bool {
    fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
        let Ok(value) = codec::decode::<T>(bytes) else { return false };
        let again = codec::encode(&value).expect("it was no larger");
        assert_eq!(**again, *bytes, "as {}", std::any::type_name::<T>());
        true
    }
    again::<DirectoryEntry>(bytes)
        | again::<CallerRecord>(bytes)
        | again::<TokenRecord>(bytes)
        | again::<TokenOf>(bytes)
        | again::<ErasureRecord>(bytes)
        | again::<ErasureItem>(bytes)
        | again::<RotationRecord>(bytes)
        | again::<DekChain>(bytes)
        | again::<IdempotencyRecord>(bytes)
        | again::<Vec<RetainedRoot>>(bytes)
        | again::<LogKeyRecord>(bytes)
        | again::<VersionRecord>(bytes)
}

/// Records that are sealed into rows.
fn record(bytes: &[u8]) -> bool {
    fn again<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> bool {
        let Ok(value) = codec::decode_record::<T>(bytes) else { return false };
        let again = codec::encode_record(&value).expect("it was no larger");
        assert_eq!(**again, *bytes, "as {}", std::any::type_name::<T>());
        true
    }
    // A map, so that there may be several ways to write it.
    let metadata = codec::decode_record::<RowMetadata>(bytes);
    if let Ok(metadata) = &metadata {
        let once = codec::encode_record(metadata).expect("it was no larger");
        let twice = codec::decode_record::<RowMetadata>(&once).expect("it was just written");
        assert_eq!(*codec::encode_record(&twice).expect("it was no larger"), *once);
    }
    metadata.is_ok()
        | again::<Consents>(bytes)
        | again::<Restrictions>(bytes)
        | again::<Holds>(bytes)
        | again::<Destroyed>(bytes)
}

/// The key that the sealed ones of the corpora are sealed under.
fn dek() -> Dek {
    Dek::from_slice(&[9; 32]).expect("32 bytes")
}

const SUBJECT: SubjectUuid = SubjectUuid([3; 16]);

/// SHA-256 of what is sealed under [`dek`] in the corpora: nothing else opens.
const KNOWN: &str = include_str!("fuzz/known.txt");

fn is_known(bytes: &[u8]) -> bool {
    KNOWN.lines().any(|known| known == hex::encode(digest(bytes)))
}

fn uv1(bytes: &[u8]) -> bool {
    let Ok(sealed) = SealedField::parse(bytes) else { return false };
    let place = Place { subject: SUBJECT, compartment: "profile", field: "email" };
    let opens = sealed.open(&dek(), &place).is_ok();
    assert!(!opens || is_known(bytes), "a forgery opens");
    opens
}

fn data_row(bytes: &[u8]) -> bool {
    let (dek, compartment) = (dek(), Compartment::profile());
    let place = RowPlace { uuid: SUBJECT, compartment: &compartment, ordinal: 1, dek: &dek, dek_version: 1 };
    let _ = row::version_of(bytes);
    let Ok(row) = Row::open(bytes, &place) else { return false };
    let all = row.fields.keys().all(|name| row.open_field(name, &place, None).is_ok());
    let opens = all && row.open_metadata(&place).is_ok();
    assert!(!opens || is_known(bytes), "a forgery opens");
    opens
}

fn meta(bytes: &[u8]) -> bool {
    drop(MetaHead::decode(bytes));
    let key = MetaKey::from_slice(&[9; 32]).expect("32 bytes");
    let opens = Meta::open(bytes, &key).is_ok();
    assert!(!opens || is_known(bytes), "a forgery opens");
    opens
}

/// Where a page of a list goes on.
fn cursor(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).unwrap_or_default();
    let tag = subject::parse_after(text);
    if let Ok(tag) = &tag {
        assert_eq!(hex::encode(tag), text.to_ascii_lowercase());
    }
    tag.is_ok() | metadata::parse_cursor_again(text) | accesses::parse_cursor(text)
}

#[cfg(test)]
pub(crate) mod sealed {
    //! What the corpora have of what is sealed.

    use super::super::row::RowWriter;
    use super::super::types::Counts;
    use super::*;
    use crate::crypto::Random;
    use crate::crypto::field::seal;
    use crate::ids::{FieldName, VaultId};
    use crate::time::Timestamp;

    pub(crate) fn uv1() -> Vec<Vec<u8>> {
        let place = Place { subject: SUBJECT, compartment: "profile", field: "email" };
        let seal = |text: &[u8]| seal(&dek(), 1, 1, &place, text, &mut Random::new(64));
        vec![seal(b""), seal(br#""ada@example.org""#), seal(&[7; 300])]
    }

    pub(crate) fn data_row() -> Vec<Vec<u8>> {
        let (dek, compartment) = (dek(), Compartment::profile());
        let place = RowPlace { uuid: SUBJECT, compartment: &compartment, ordinal: 1, dek: &dek, dek_version: 1 };
        let write = |fields: &[&str], metadata: Option<&[u8]>| {
            let mut writer = RowWriter::new(Row::empty(), place, 1, fields.len());
            for field in fields {
                writer.set(&FieldName::parse(field).expect("a name"), 1, Timestamp(5), field.as_bytes());
            }
            writer.set_metadata(metadata);
            writer.finish().expect("small").put.pop().expect("the row is last").1
        };
        vec![write(&[], None), write(&["email", "phone"], None), write(&["name"], Some(b"metadata"))]
    }

    pub(crate) fn meta() -> Vec<Vec<u8>> {
        let counts = Counts { subjects: 3, tombstones: 1, refused: 0, callers: 2, pages: 9, rows: 4, shreds: 1 };
        let meta = Meta {
            head: MetaHead { vault: VaultId([7; 16]), epoch: 7 },
            sequence: 11,
            counts,
            logged: TreeHead { size: 12, root: [14; 32] },
            at: Timestamp(13),
        };
        vec![meta.seal(&MetaKey::from_slice(&[9; 32]).expect("32 bytes"))]
    }
}
