//! The entries that find a value by its metadata: like lookup entries, listed in the subject's record, so that a shred
//! takes them along and opens no row for it.

use super::Metadata;
use crate::crypto::TagKey;
use crate::crypto::tag::Tag;
use crate::error::Error;
use crate::ids::FieldName;
use crate::time::Timestamp;
use crate::trie::{EntryKey, Header, Kind};
use crate::vault::records::{Indexed, LookupRef, SubjectRecord};
use crate::vault::writer::Write;

/// The most that a subject may be found by, values and metadata together.
const REFS_MAX: usize = 128;
/// The most bytes that this may take in the subject's record, so that a shred's mark always fits beside it.
const REFS_BYTES_MAX: usize = 4608;
const DAY_MILLIS: u64 = 24 * 60 * 60 * 1000;

/// The day that a time is in, counted from 1970.
pub(super) fn day_of(at: Timestamp) -> u32 {
    u32::try_from(at.0 / DAY_MILLIS).unwrap_or(u32::MAX)
}

/// The tag of one thing that a field's value is found by, in the serving generation.
pub(super) fn tag(header: &Header, of: Indexed, field: &FieldName, value: &[u8]) -> Tag {
    tag_with(header.tag_key(Kind::Lookups), of, field, value)
}

fn tag_with(tags: &TagKey, of: Indexed, field: &FieldName, value: &[u8]) -> Tag {
    let kind = match of {
        Indexed::Value => "lookup",
        Indexed::Source => "metadata:source",
        Indexed::Purpose => "metadata:purpose",
        Indexed::Objection => "metadata:objection",
        Indexed::Recipient => "metadata:recipient",
        Indexed::Expiry => "metadata:expiry",
    };
    tags.tag(kind, field.as_str(), value)
}

/// Everything that a value with this metadata is found by.
pub(crate) fn tags(key: &TagKey, field: &FieldName, metadata: &Metadata) -> Vec<(Indexed, Tag)> {
    let one = |of, value: &[u8]| (of, tag_with(key, of, field, value));
    let mut tags = Vec::new();
    tags.extend(metadata.source.iter().map(|source| one(Indexed::Source, source.as_bytes())));
    tags.extend(metadata.purposes.iter().flatten().map(|p| one(Indexed::Purpose, p.as_str().as_bytes())));
    tags.extend(metadata.objections.iter().map(|p| one(Indexed::Objection, p.as_str().as_bytes())));
    tags.extend(metadata.recipients.iter().map(|recipient| one(Indexed::Recipient, recipient.as_bytes())));
    tags.extend(metadata.expires_at.map(|at| one(Indexed::Expiry, &day_of(at).to_be_bytes())));
    tags
}

/// Brings the record's references up to a field's metadata, in every generation that is kept up, and puts new entries into
/// the write. What ended is listed as no longer live, for the next root batch to remove.
///
/// # Errors
/// [`Error::Invalid`] if the subject would be found by too much; the record is as it was then.
pub(crate) fn update_all(
    header: &Header,
    directory: &EntryKey,
    record: &mut SubjectRecord,
    (field, metadata): (&FieldName, &Metadata),
    write: &mut Write,
) -> Result<(), Error> {
    let mut listings = record.listings(header);
    let next: Vec<_> = listings
        .iter()
        .map(|listing| updated(listing.refs, listing.tags, field, metadata))
        .collect::<Result<_, _>>()?;
    for (listing, (refs, new)) in listings.iter_mut().zip(next) {
        new.into_iter().for_each(|tag| listing.insert(tag, directory, write));
        *listing.refs = refs;
    }
    Ok(())
}

/// References brought up to a field's metadata, and the tags that are new.
fn updated(
    refs: &[LookupRef],
    key: &TagKey,
    field: &FieldName,
    metadata: &Metadata,
) -> Result<(Vec<LookupRef>, Vec<Tag>), Error> {
    let wanted = tags(key, field, metadata);
    let mut refs = refs.to_vec();
    for listed in refs.iter_mut().filter(|l| l.field == *field && l.of != Indexed::Value) {
        listed.live = wanted.iter().any(|(_, tag)| *tag == listed.tag);
    }
    let mut new = Vec::new();
    for (of, tag) in wanted {
        if refs.iter().all(|listed| listed.tag != tag) {
            refs.push(LookupRef { field: field.clone(), of, tag, live: true });
            new.push(tag);
        }
    }
    let live = refs.iter().filter(|listed| listed.live);
    if live.clone().count() > REFS_MAX || live.map(size).sum::<usize>() > REFS_BYTES_MAX {
        let expected = "at most 128 sources, purposes, objections, recipients and expiries in all values of a subject";
        return Err(Error::Invalid { field: "metadata", expected });
    }
    Ok((refs, new))
}

/// Whether the record is so full of references that those which ended have to go at once.
pub(super) fn is_crowded(refs: &[LookupRef]) -> bool {
    refs.len() > REFS_MAX || refs.iter().map(size).sum::<usize>() > REFS_BYTES_MAX
}

/// The bytes that a reference takes: its field's name and its length, sort, tag, and whether it is live.
fn size(listed: &LookupRef) -> usize {
    listed.field.as_str().len() + 8 + 4 + 16 + 1
}
