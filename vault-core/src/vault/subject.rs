//! Finding a subject: from the caller's id to its directory entry, its keys and its rows.

use super::Inner;
use super::records::{CompartmentKeys, DirectoryEntry, LookupRef, SubjectRecord, SubjectState, decode, encode};
use super::row::{Row, RowPlace};
use super::writer::Guard;
use crate::audit::trail;
use crate::codec;
use crate::crypto::tag::Tag;
use crate::crypto::{TagKey, digest};
use crate::error::Error;
use crate::ids::{Compartment, FieldName, SubjectId};
use crate::policy::SubjectStanding;
use crate::trie::{self, EntryKey, Header, Kind, Payload};

/// A directory entry as it was found.
pub(crate) struct Found {
    pub(crate) key: EntryKey,
    pub(crate) entry: Option<DirectoryEntry>,
    /// Its payload, if there is one.
    payload: Option<Payload>,
}

/// How much of a payload a subject's record may take, in bytes, by what makes it grow: data leaves room for consents, those
/// for holds, and all of them for the marks of a shred.
#[derive(Clone, Copy)]
pub(crate) enum Room {
    Data = 5632,
    Consents = 6784,
    Holds = 7616,
}

impl Found {
    /// What a write that was prepared from this must find unchanged.
    pub(crate) fn guard(&self) -> Guard {
        let seen = self.payload.as_deref().map(|payload| digest(payload));
        Guard::Entry { kind: Kind::Directory, key: self.key, seen }
    }

    /// The bytes that the record takes, without what a rotation of lookups lists beside.
    pub(crate) fn size(&self) -> Result<usize, Error> {
        let Some(payload) = &self.payload else { return Ok(0) };
        let beside = match decode(payload)? {
            DirectoryEntry::Subject(record) => size_beside(&record)?,
            DirectoryEntry::Tombstone(_) => 0,
        };
        Ok(payload.len() - beside)
    }

    /// The subject's record as it shall be. One that is too large already may stay so, for removals must go through.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if it grows beyond its room.
    pub(crate) fn encode(&self, record: SubjectRecord, room: Room) -> Result<Payload, Error> {
        encode_within(record, room, || self.size())
    }

    /// The living subject, or why there is none. The trail of a request notes whom it is about, also if it is refused.
    pub(crate) fn living(self, tombstone_seconds: u64) -> Result<SubjectRecord, Error> {
        if let Some(DirectoryEntry::Subject(record)) = &self.entry {
            trail::subject(&record.audit_key);
        }
        self.living_unnoted(tombstone_seconds)
    }

    /// The same for one that is only looked at.
    pub(crate) fn living_unnoted(self, tombstone_seconds: u64) -> Result<SubjectRecord, Error> {
        match self.entry {
            Some(DirectoryEntry::Subject(record)) => match record.state {
                SubjectState::Active => Ok(record),
                SubjectState::Refused { .. } => Err(Error::Shredded),
            },
            Some(DirectoryEntry::Tombstone(t)) if !t.is_over(tombstone_seconds) => Err(Error::Shredded),
            Some(DirectoryEntry::Tombstone(_)) | None => Err(Error::UnknownSubject),
        }
    }
}

/// The key of a subject's directory entry.
pub(crate) fn directory_key(header: &Header, id: &SubjectId) -> EntryKey {
    header.entry_key(Kind::Directory, "subject", "", id.as_str().as_bytes(), [0; 16])
}

/// The directory key of the subject that has this tag.
pub(crate) fn directory_of(subject: Tag) -> EntryKey {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&subject);
    key
}

/// The directory key of the subject whose tag is the discriminator of another entry.
pub(crate) fn directory_behind(entry: &EntryKey) -> EntryKey {
    directory_of(entry[16..].try_into().expect("an entry key has 32 bytes"))
}

/// The subject's tag: first half of its directory key, second half of its lookup entries' keys.
pub(crate) fn tag_of(directory: &EntryKey) -> Tag {
    directory[..16].try_into().expect("an entry key has 32 bytes")
}

/// The tag of a field's value, under the header's lookups generation.
pub(crate) fn lookup_tag(header: &Header, field: &FieldName, form: &[u8]) -> Tag {
    lookup_tag_with(header.tag_key(Kind::Lookups), field, form)
}

/// The same under another generation's tag key.
pub(crate) fn lookup_tag_with(tags: &TagKey, field: &FieldName, form: &[u8]) -> Tag {
    tags.tag("lookup", field.as_str(), form)
}

/// The key of a subject's entry under a lookup tag.
pub(crate) fn lookup_entry(tag: Tag, directory: &EntryKey) -> EntryKey {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&tag);
    key[16..].copy_from_slice(&directory[..16]);
    key
}

/// Looks a subject up in the directory.
pub(crate) async fn find(inner: &Inner, header: &Header, id: &SubjectId) -> Result<Found, Error> {
    find_by_key(inner, header, directory_key(header, id)).await
}

/// The same by the entry's key.
pub(crate) async fn find_by_key(inner: &Inner, header: &Header, key: EntryKey) -> Result<Found, Error> {
    let payload = trie::find(&inner.pages, header, Kind::Directory, &key).await?;
    let entry = payload.as_deref().map(|p| decode(p)).transpose()?;
    Ok(Found { key, entry, payload })
}

/// A subject's record as a payload, if it fits into its room or is at least no larger than it was. What a rotation of
/// lookups lists beside has room of its own.
pub(crate) fn encode_within(
    record: SubjectRecord,
    room: Room,
    before: impl FnOnce() -> Result<usize, Error>,
) -> Result<Payload, Error> {
    let beside = size_beside(&record)?;
    let payload = encode(&DirectoryEntry::Subject(record))?;
    let size = payload.len() - beside;
    if size > room as usize && size > before()? { Err(Error::TooLarge) } else { Ok(payload) }
}

/// The bytes that a rotation of lookups adds to a record: of its two lists, the smaller one.
pub(crate) fn size_beside(record: &SubjectRecord) -> Result<usize, Error> {
    let (own, next) = (codec::size(&record.lookups)?, codec::size(&record.next_lookups)?);
    let empty = codec::size(&Vec::<LookupRef>::new())?;
    Ok(own.min(next) - empty)
}

/// A page of the directory: living subjects and tombstones in the order of their tags, behind `after`.
pub(crate) async fn page(
    inner: &Inner,
    header: &Header,
    after: Option<EntryKey>,
    limit: usize,
) -> Result<Vec<(EntryKey, DirectoryEntry)>, Error> {
    let entries = trie::scan(&inner.pages, header, Kind::Directory, &[], after.as_ref(), limit).await?;
    entries.into_iter().map(|(key, payload)| Ok((key, decode(&payload)?))).collect()
}

impl SubjectRecord {
    /// How the subject stands.
    pub(crate) fn standing(&self) -> SubjectStanding {
        match (self.state, self.holds.is_empty(), self.restricted) {
            (SubjectState::Refused { .. }, ..) => SubjectStanding::Refused,
            (SubjectState::Active, true, false) => SubjectStanding::Active,
            (SubjectState::Active, true, true) => SubjectStanding::Restricted,
            (SubjectState::Active, false, false) => SubjectStanding::Held,
            (SubjectState::Active, false, true) => SubjectStanding::HeldAndRestricted,
        }
    }

    /// The keys of a compartment that is held and is not being shredded.
    pub(crate) fn keys(&self, compartment: &Compartment) -> Option<&CompartmentKeys> {
        self.compartments.iter().find(|keys| keys.name == *compartment && keys.refused.is_none())
    }

    /// Where a compartment's row is and which key opens it.
    pub(crate) fn row_place<'a>(&'a self, keys: &'a CompartmentKeys) -> RowPlace<'a> {
        RowPlace {
            uuid: self.uuid,
            compartment: &keys.name,
            ordinal: keys.ordinal,
            dek: &keys.dek,
            dek_version: keys.dek_version,
        }
    }
}

/// Opens a compartment's row; every compartment has one.
pub(crate) async fn open_row(inner: &Inner, place: &RowPlace<'_>) -> Result<Row, Error> {
    let value = inner.store.get(&place.key()).await?.ok_or(Error::Damaged("a subject's data row is missing"))?;
    Row::open(&value, place)
}

/// Opens one field of an opened row, wherever it lies.
pub(crate) async fn open_field(
    inner: &Inner,
    row: &Row,
    name: &FieldName,
    place: &RowPlace<'_>,
) -> Result<zeroize::Zeroizing<Vec<u8>>, Error> {
    let spilled = match row.spilled_at(name, place) {
        Some(key) => inner.store.get(&key).await?,
        None => None,
    };
    row.open_field(name, place, spilled.as_deref())
}

/// The subject that a page of a list ended with, as its `next` tells it.
pub(crate) fn parse_after(text: &str) -> Result<[u8; 16], Error> {
    let mut subject = [0; 16];
    hex::decode_to_slice(text, &mut subject)
        .map_err(|_| Error::Invalid { field: "after", expected: "the `next` of the page before" })?;
    Ok(subject)
}
