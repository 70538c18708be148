//! The data row: the sealed fields of one subject and compartment, packed, under a sealed manifest.
//!
//! ```text
//! key   'd' ‖ subject uuid (16 B) ‖ compartment ordinal (u16)              and of a spilled field: ‖ spill id (8 B)
//! value u8 format = 1 ‖ u64 row version ‖ u16 count ‖ count × (u32 length ‖ UV1 bytes)
//! ```
//! The first sealed item is the manifest (reserved field `#manifest`): ids, versions, times and commitments of the
//! fields, in their order, and the row version. The second, if the manifest says so, is the fields' metadata (reserved
//! field `#metadata`). So a missing, swapped or stale field is noticed; the rollback of a whole
//! row is not. Field names are only in the manifest: a stolen row shows how many fields there are, not which.

mod layout;

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use layout::{Items, Manifest, pack};

use crate::crypto::field::{NONCE_LEN, Place, SealedField, seal};
use crate::crypto::{Dek, Random};
use crate::error::Error;
use crate::ids::{Compartment, FieldName, SubjectUuid};
use crate::time::Timestamp;

const FORMAT: u8 = 1;
const MANIFEST: &str = "#manifest";
const METADATA: &str = "#metadata";
/// Sealed fields longer than this, in bytes, have a row of their own.
const SPILL_OVER: usize = 4096;
/// Length of the key of a compartment's row; of a spilled field it is longer.
pub(crate) const KEY_LEN: usize = 1 + 16 + 2;
/// Every data row's key starts with this.
pub(crate) const PREFIX: u8 = b'd';

/// Where a row belongs and which key opens it.
#[derive(Clone, Copy)]
pub(crate) struct RowPlace<'a> {
    pub(crate) uuid: SubjectUuid,
    pub(crate) compartment: &'a Compartment,
    pub(crate) ordinal: u16,
    pub(crate) dek: &'a Dek,
    pub(crate) dek_version: u32,
}

impl RowPlace<'_> {
    /// The row's key in the store.
    pub(crate) fn key(&self) -> Vec<u8> {
        let mut key = subject_prefix(self.uuid);
        key.extend_from_slice(&self.ordinal.to_be_bytes());
        key
    }

    fn spill_key(&self, id: [u8; 8]) -> Vec<u8> {
        let mut key = self.key();
        key.extend_from_slice(&id);
        key
    }

    fn field<'a>(&'a self, field: &'a str) -> Place<'a> {
        Place { subject: self.uuid, compartment: self.compartment.as_str(), field }
    }
}

/// The first bytes of the keys of all of a subject's rows.
pub(crate) fn subject_prefix(uuid: SubjectUuid) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + 16 + 2 + 8);
    key.push(PREFIX);
    key.extend_from_slice(&uuid.0);
    key
}

/// The row version, which stands in the open at the front so that the writer can compare it; the manifest proves it.
pub(crate) fn version_of(value: &[u8]) -> Option<u64> {
    let head: [u8; 9] = value.get(..9)?.try_into().ok()?;
    (head[0] == FORMAT)
        .then(|| u64::from_be_bytes([head[1], head[2], head[3], head[4], head[5], head[6], head[7], head[8]]))
}

/// One field in a row.
pub(crate) struct Entry {
    pub(crate) version: u32,
    pub(crate) updated_at: Timestamp,
    sealed: Sealed,
}

enum Sealed {
    /// UV1 bytes, in this row.
    Inline(Vec<u8>),
    /// In a row of its own: the commitment it must have there.
    Spilled { id: [u8; 8], commitment: [u8; 32] },
}

/// An opened row: names and versions known, values still sealed.
pub(crate) struct Row {
    pub(crate) version: u64,
    /// By the fields' ids.
    pub(crate) fields: BTreeMap<FieldName, Entry>,
    /// UV1 bytes of what is known of the fields besides their values.
    metadata: Option<Vec<u8>>,
}

/// What writing a row puts into the store.
#[derive(Default)]
pub(crate) struct Written {
    pub(crate) put: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) delete: Vec<Vec<u8>>,
}

impl Row {
    /// A row that holds nothing yet.
    pub(crate) fn empty() -> Self {
        Self::empty_at(0)
    }

    /// A row that holds nothing any more, at the version it had.
    pub(crate) fn empty_at(version: u64) -> Self {
        Self { version, fields: BTreeMap::new(), metadata: None }
    }

    /// The keys of the rows that its spilled fields are in.
    pub(crate) fn spill_keys(&self, place: &RowPlace<'_>) -> Vec<Vec<u8>> {
        self.fields.keys().filter_map(|name| self.spilled_at(name, place)).collect()
    }

    /// Opens the manifest and holds the row to it.
    pub(crate) fn open(value: &[u8], place: &RowPlace<'_>) -> Result<Self, Error> {
        const DAMAGED: Error = Error::Damaged("a data row does not match its manifest");
        let version = version_of(value).ok_or(DAMAGED)?;
        let mut items = Items::new(value).ok_or(DAMAGED)?;
        let manifest = items.next().ok_or(DAMAGED)?;
        let manifest = open_item(manifest, place, MANIFEST)?;
        let row = Manifest::decode(&manifest).ok_or(DAMAGED)?;
        if row.version != version {
            return Err(DAMAGED);
        }
        let metadata = match row.metadata {
            None => None,
            Some(commitment) => {
                let bytes = items.next().ok_or(DAMAGED)?;
                if SealedField::parse(bytes)?.commitment() != commitment {
                    return Err(DAMAGED);
                }
                Some(bytes.to_vec())
            }
        };
        let mut fields = BTreeMap::new();
        for listed in row.fields {
            let sealed = match listed.spill {
                Some(id) => Sealed::Spilled { id, commitment: listed.commitment },
                None => {
                    let bytes = items.next().ok_or(DAMAGED)?;
                    if SealedField::parse(bytes)?.commitment() != listed.commitment {
                        return Err(DAMAGED);
                    }
                    Sealed::Inline(bytes.to_vec())
                }
            };
            let entry = Entry { version: listed.version, updated_at: listed.updated_at, sealed };
            if fields.insert(listed.name, entry).is_some() {
                return Err(DAMAGED);
            }
        }
        if items.next().is_some() || !items.complete() {
            return Err(DAMAGED);
        }
        Ok(Self { version, fields, metadata })
    }

    /// The key of the row that a field is in, if it is not in this one.
    pub(crate) fn spilled_at(&self, name: &FieldName, place: &RowPlace<'_>) -> Option<Vec<u8>> {
        match self.fields.get(name)?.sealed {
            Sealed::Spilled { id, .. } => Some(place.spill_key(id)),
            Sealed::Inline(_) => None,
        }
    }

    /// Opens the metadata, if there is any.
    pub(crate) fn open_metadata(&self, place: &RowPlace<'_>) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        self.metadata.as_ref().map(|bytes| open_item(bytes, place, METADATA)).transpose()
    }

    /// Opens one field; `spilled` is the value of its own row, if it has one.
    pub(crate) fn open_field(
        &self,
        name: &FieldName,
        place: &RowPlace<'_>,
        spilled: Option<&[u8]>,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let entry = self.fields.get(name).ok_or(Error::NoSuchField)?;
        match &entry.sealed {
            Sealed::Inline(bytes) => open_item(bytes, place, name.as_str()),
            Sealed::Spilled { commitment, .. } => {
                let bytes = spilled.ok_or(Error::Damaged("a spilled field's row is missing"))?;
                if SealedField::parse(bytes)?.commitment() != *commitment {
                    return Err(Error::Damaged("a spilled field is not the one in its manifest"));
                }
                open_item(bytes, place, name.as_str())
            }
        }
    }
}

/// Builds the next version of a row.
pub(crate) struct RowWriter<'a> {
    place: RowPlace<'a>,
    schema_version: u16,
    random: Random,
    row: Row,
    written: Written,
}

impl<'a> RowWriter<'a> {
    /// Starts from `row`, whose sealed fields stay as they are unless they are set. `sealing` says how many will be
    /// sealed, so that one system call draws all randomness.
    pub(crate) fn new(row: Row, place: RowPlace<'a>, schema_version: u16, sealing: usize) -> Self {
        let random = Random::new((sealing + 2) * (NONCE_LEN + 8));
        Self { place, schema_version, random, row, written: Written::default() }
    }

    /// Seals a field's value.
    pub(crate) fn set(&mut self, name: &FieldName, version: u32, updated_at: Timestamp, plaintext: &[u8]) {
        self.remove(name);
        let place = self.place.field(name.as_str());
        let bytes =
            seal(self.place.dek, self.place.dek_version, self.schema_version, &place, plaintext, &mut self.random);
        let sealed = if bytes.len() > SPILL_OVER {
            let id = self.random.array();
            let commitment = SealedField::parse(&bytes).expect("just sealed").commitment();
            self.written.put.push((self.place.spill_key(id), bytes));
            Sealed::Spilled { id, commitment }
        } else {
            Sealed::Inline(bytes)
        };
        self.row.fields.insert(name.clone(), Entry { version, updated_at, sealed });
    }

    /// Takes a field out; answers whether it was there.
    pub(crate) fn remove(&mut self, name: &FieldName) -> bool {
        let Some(entry) = self.row.fields.remove(name) else { return false };
        if let Sealed::Spilled { id, .. } = entry.sealed {
            self.written.delete.push(self.place.spill_key(id));
        }
        true
    }

    /// Seals the metadata of the fields; none takes it out.
    pub(crate) fn set_metadata(&mut self, metadata: Option<&[u8]>) {
        self.row.metadata = metadata.map(|plaintext| {
            let place = self.place.field(METADATA);
            seal(self.place.dek, self.place.dek_version, self.schema_version, &place, plaintext, &mut self.random)
        });
    }

    /// Seals the manifest and packs the row, one version on.
    pub(crate) fn finish(mut self) -> Result<Written, Error> {
        self.row.version += 1;
        let manifest = Manifest::encode(&self.row);
        let place = self.place.field(MANIFEST);
        let sealed =
            seal(self.place.dek, self.place.dek_version, self.schema_version, &place, &manifest, &mut self.random);
        let inline = self.row.fields.values().filter_map(|e| match &e.sealed {
            Sealed::Inline(bytes) => Some(bytes.as_slice()),
            Sealed::Spilled { .. } => None,
        });
        let metadata = self.row.metadata.as_deref();
        let items: Vec<&[u8]> = std::iter::once(sealed.as_slice()).chain(metadata).chain(inline).collect();
        let value = pack(self.row.version, &items)?;
        self.written.put.push((self.place.key(), value));
        Ok(self.written)
    }
}

/// The manifest as it lies sealed in a row.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn decode_manifest(bytes: &[u8]) -> bool {
    Manifest::decode(bytes).is_some()
}

/// The same, of a row.
#[cfg(test)]
pub(crate) fn encoded_manifest(row: &Row) -> Vec<u8> {
    Manifest::encode(row).to_vec()
}

fn open_item(bytes: &[u8], place: &RowPlace<'_>, name: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    let sealed = SealedField::parse(bytes)?;
    if sealed.dek_version() != place.dek_version {
        return Err(Error::Damaged("a field is sealed under another version of its key"));
    }
    Ok(sealed.open(place.dek, &place.field(name))?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const UUID: SubjectUuid = SubjectUuid([3; 16]);

    struct Fixture {
        dek: Dek,
        compartment: Compartment,
    }

    impl Fixture {
        fn new() -> Self {
            Self { dek: Dek::draw(&mut Random::for_keys(1)), compartment: Compartment::profile() }
        }

        fn place(&self) -> RowPlace<'_> {
            RowPlace { uuid: UUID, compartment: &self.compartment, ordinal: 1, dek: &self.dek, dek_version: 1 }
        }

        fn write(&self, row: Row, values: &[(&str, &[u8])]) -> Written {
            let mut writer = RowWriter::new(row, self.place(), 1, values.len());
            for (field, value) in values {
                writer.set(&name(field), 1, Timestamp(5), value);
            }
            writer.finish().unwrap()
        }

        fn open(&self, written: &Written) -> Row {
            Row::open(&written.put.last().unwrap().1, &self.place()).unwrap()
        }
    }

    fn name(text: &str) -> FieldName {
        FieldName::parse(text).unwrap()
    }

    #[test]
    fn packs_and_opens() {
        let fixture = Fixture::new();
        let first = fixture.write(Row::empty(), &[("phone", b"1"), ("email", b"2")]);
        let row = fixture.open(&first);
        assert_eq!((row.version, row.fields.len()), (1, 2));
        let second = fixture.write(row, &[("phone", b"3")]);
        let row = fixture.open(&second);
        assert_eq!(row.version, 2);
        assert_eq!(version_of(&second.put[0].1), Some(2));
        assert_eq!(&**row.open_field(&name("phone"), &fixture.place(), None).unwrap(), b"3");
        assert_eq!(&**row.open_field(&name("email"), &fixture.place(), None).unwrap(), b"2");
        assert!(matches!(row.open_field(&name("name"), &fixture.place(), None), Err(Error::NoSuchField)));
    }

    #[test]
    fn a_large_field_has_its_own_row_and_leaves_with_it() {
        let fixture = Fixture::new();
        let large = vec![7; 20_000];
        let written = fixture.write(Row::empty(), &[("device", &large)]);
        assert_eq!(written.put.len(), 2);
        let row = fixture.open(&written);
        let key = row.spilled_at(&name("device"), &fixture.place()).unwrap();
        assert_eq!(written.put[0].0, key);
        let opened = row.open_field(&name("device"), &fixture.place(), Some(&written.put[0].1)).unwrap();
        assert_eq!(*opened, large);
        let other = fixture.write(Row::empty(), &[("device", &large)]);
        let swapped = row.open_field(&name("device"), &fixture.place(), Some(&other.put[0].1));
        assert!(matches!(swapped, Err(Error::Damaged(_))));
        let next = fixture.write(row, &[("device", b"small")]);
        assert_eq!(next.delete, vec![key]);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let fixture = Fixture::new();
        let written = fixture.write(Row::empty(), &[("phone", b"1"), ("email", b"2")]);
        let value = &written.put[0].1;
        for bit in 0..value.len() * 8 {
            let mut changed = value.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let outcome = Row::open(&changed, &fixture.place()).and_then(|row| {
                row.open_field(&name("phone"), &fixture.place(), None)?;
                row.open_field(&name("email"), &fixture.place(), None)
            });
            assert!(matches!(outcome, Err(Error::Damaged(_))), "bit {bit}");
        }
    }

    #[test]
    fn a_count_of_one_more_is_noticed() {
        let fixture = Fixture::new();
        let mut value = fixture.write(Row::empty(), &[("phone", b"1")]).put.pop().unwrap().1;
        assert_eq!(value[9..11], [0, 2], "the manifest and one field");
        for (count, opens) in [(1, false), (2, true), (3, false), (4, false)] {
            value[10] = count;
            assert_eq!(Row::open(&value, &fixture.place()).is_ok(), opens, "{count}");
        }
    }

    #[test]
    fn a_field_from_an_older_row_is_noticed() {
        let fixture = Fixture::new();
        let old = fixture.write(Row::empty(), &[("phone", b"old!")]);
        let new = fixture.write(fixture.open(&old), &[("phone", b"new!")]);
        let item = |value: &[u8], index: usize| Items::new(value).unwrap().nth(index).unwrap().to_vec();
        let (old, new) = (&old.put[0].1, &new.put[0].1);
        let mixed = pack(2, &[&item(new, 0), &item(old, 1)]).unwrap();
        assert!(matches!(Row::open(&mixed, &fixture.place()), Err(Error::Damaged(_))));
        let whole = pack(2, &[&item(new, 0), &item(new, 1)]).unwrap();
        assert!(Row::open(&whole, &fixture.place()).is_ok(), "the control: unmixed it opens");
    }
}
