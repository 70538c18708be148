//! The bytes of a data row and of its manifest.

use zeroize::Zeroizing;

use super::{FORMAT, Row, Sealed};
use crate::crypto::field::SealedField;
use crate::error::Error;
use crate::ids::FieldName;
use crate::store::VALUE_MAX;
use crate::time::Timestamp;

const MANIFEST_FORMAT: u8 = 2;

pub(super) fn pack(version: u64, items: &[&[u8]]) -> Result<Vec<u8>, Error> {
    let len = 11 + items.iter().map(|i| 4 + i.len()).sum::<usize>();
    if len > VALUE_MAX {
        return Err(Error::TooLarge);
    }
    let mut out = Vec::with_capacity(len);
    out.push(FORMAT);
    out.extend_from_slice(&version.to_be_bytes());
    out.extend_from_slice(&u16::try_from(items.len()).map_err(|_| Error::TooLarge)?.to_be_bytes());
    for item in items {
        out.extend_from_slice(&u32::try_from(item.len()).map_err(|_| Error::TooLarge)?.to_be_bytes());
        out.extend_from_slice(item);
    }
    Ok(out)
}

/// The packed items of a row, one by one.
pub(super) struct Items<'a> {
    rest: &'a [u8],
    left: u16,
}

impl<'a> Items<'a> {
    pub(super) fn new(value: &'a [u8]) -> Option<Self> {
        let (head, rest) = value.split_at_checked(11)?;
        Some(Self { rest, left: u16::from_be_bytes([head[9], head[10]]) })
    }

    pub(super) fn complete(&self) -> bool {
        self.left == 0 && self.rest.is_empty()
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let left = self.left.checked_sub(1)?;
        let (len, rest) = self.rest.split_first_chunk::<4>()?;
        let (item, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
        // Only with the item: a count of one more than there are is not complete.
        (self.left, self.rest) = (left, rest);
        Some(item)
    }
}

/// The manifest's fixed layout:
/// `u8 format ‖ u64 row version ‖ u16 count ‖ count × (u8 name length ‖ name ‖ u32 version ‖ u64 time ‖ commitment ‖ u8 spilled [‖ spill id]) ‖ u8 has metadata [‖ commitment]`.
pub(super) struct Manifest {
    pub(super) version: u64,
    /// The commitment of the row's metadata, if it has any.
    pub(super) metadata: Option<[u8; 32]>,
    pub(super) fields: Vec<Listed>,
}

pub(super) struct Listed {
    pub(super) name: FieldName,
    pub(super) version: u32,
    pub(super) updated_at: Timestamp,
    pub(super) commitment: [u8; 32],
    pub(super) spill: Option<[u8; 8]>,
}

impl Manifest {
    pub(super) fn encode(row: &Row) -> Zeroizing<Vec<u8>> {
        let mut out = Zeroizing::new(Vec::with_capacity(44 + row.fields.len() * 116));
        out.push(MANIFEST_FORMAT);
        out.extend_from_slice(&row.version.to_be_bytes());
        let count = u16::try_from(row.fields.len()).expect("a schema declares fewer than 65,536 fields");
        out.extend_from_slice(&count.to_be_bytes());
        for (name, entry) in &row.fields {
            out.push(u8::try_from(name.as_str().len()).expect("a field name has at most 64 bytes"));
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(&entry.version.to_be_bytes());
            out.extend_from_slice(&entry.updated_at.0.to_be_bytes());
            match &entry.sealed {
                Sealed::Inline(bytes) => {
                    let commitment = SealedField::parse(bytes).expect("was parsed or sealed by us").commitment();
                    out.extend_from_slice(&commitment);
                    out.push(0);
                }
                Sealed::Spilled { id, commitment } => {
                    out.extend_from_slice(commitment);
                    out.push(1);
                    out.extend_from_slice(id);
                }
            }
        }
        out.push(u8::from(row.metadata.is_some()));
        if let Some(bytes) = &row.metadata {
            out.extend_from_slice(&SealedField::parse(bytes).expect("was parsed or sealed by us").commitment());
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let [format] = take(&mut rest)?;
        let version = u64::from_be_bytes(take(&mut rest)?);
        let count = u16::from_be_bytes(take(&mut rest)?);
        let mut fields = Vec::with_capacity(count.into());
        for _ in 0..count {
            let [len] = take::<1>(&mut rest)?;
            let (name, after) = rest.split_at_checked(len.into())?;
            rest = after;
            let name = FieldName::parse(std::str::from_utf8(name).ok()?).ok()?;
            let version = u32::from_be_bytes(take(&mut rest)?);
            let updated_at = Timestamp(u64::from_be_bytes(take(&mut rest)?));
            let commitment = take(&mut rest)?;
            let spill = match take::<1>(&mut rest)? {
                [0] => None,
                [1] => Some(take(&mut rest)?),
                _ => return None,
            };
            fields.push(Listed { name, version, updated_at, commitment, spill });
        }
        let metadata = match take::<1>(&mut rest)? {
            [0] => None,
            [1] => Some(take(&mut rest)?),
            _ => return None,
        };
        (format == MANIFEST_FORMAT && rest.is_empty()).then_some(Self { version, metadata, fields })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}
