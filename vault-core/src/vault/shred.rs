//! F1, the second half of a shred: the edits of a root batch that destroy the keys of what was refused.

use std::collections::BTreeMap;

use super::erase::item_key;
use super::evidence::Shredding;
use super::records::{DirectoryEntry, ErasureItem, SubjectRecord, SubjectState, Tombstone, decode, encode};
use super::session::{Session, Snapshot, reading};
use super::writer::Write;
use super::{Inner, expire::Expiring, holds, row, stale, subject, tokens};
use crate::error::Error;
use crate::ids::{ErasureId, FieldName};
use crate::time::Timestamp;
use crate::trie::{self, EntryKey, Kind, Op};

/// The part of the queued shreds that one root batch takes.
pub(crate) struct ShredPart {
    pub(crate) taken: usize,
    /// Those of them that keep their place in the queue, for not all of their value tokens went.
    pub(crate) left: Vec<(ErasureId, EntryKey)>,
}

/// The edits that make a part of the queue final: keys, lookups, tombstones, rows.
pub(crate) async fn prepare_final(
    inner: &Inner,
    session: &Session,
    part: Vec<(ErasureId, EntryKey)>,
) -> Result<(ShredPart, Write), Error> {
    reading!(session, |snapshot| prepare_final_from(inner, &snapshot, &part).await)
}

async fn prepare_final_from(
    inner: &Inner,
    snapshot: &Snapshot,
    part: &[(ErasureId, EntryKey)],
) -> Result<(ShredPart, Write), Error> {
    let header = &*snapshot.header;
    let mut write = Write { reclaim: true, ..Write::default() };
    // Several erasures may ask for the same subject: its record is edited once.
    let mut subjects: BTreeMap<EntryKey, bool> = BTreeMap::new();
    let (mut left, mut room) = (Vec::new(), tokens::FORGET_MAX);
    for &(erasure, directory) in part {
        let gone = match subjects.get(&directory) {
            Some(&gone) => gone,
            None => shred_one(inner, snapshot, directory, &mut room, &mut write).await?,
        };
        subjects.insert(directory, gone);
        if !gone {
            left.push((erasure, directory));
            continue;
        }
        // Its erasure counts it once the old root is gone: see `evidence`.
        let item = item_key(header, erasure, subject::tag_of(&directory));
        if let Some(payload) = trie::find(&inner.pages, header, Kind::Erasures, &item).await? {
            let ErasureItem { f0_at, commitment, .. } = decode(&payload)?;
            let f0_at = f0_at.ok_or(Error::Damaged("a subject is shredded that was not refused"))?;
            write.shreds.push(Shredding { erasure, commitment, f0_at });
            write.edits.push((Kind::Erasures, item, Op::Remove));
        }
    }
    Ok((ShredPart { taken: part.len(), left }, write))
}

/// Shreds what is refused of a subject: all of it, or some of its compartments. Answers `false` if there is no room for all
/// of its value tokens: some go now, and the rest with the subject's keys by later root batches.
async fn shred_one(
    inner: &Inner,
    snapshot: &Snapshot,
    directory: EntryKey,
    room: &mut usize,
    write: &mut Write,
) -> Result<bool, Error> {
    let header = &*snapshot.header;
    let found = subject::find_by_key(inner, header, directory).await?;
    write.guards.push(found.guard());
    let Some(DirectoryEntry::Subject(record)) = found.entry else { return Ok(true) };
    let SubjectState::Refused { erasure, .. } = record.state else {
        // As a whole it lives: only compartments are to go. If none is refused, another erasure had it shredded, and it
        // was enrolled again since.
        return shred_compartments(inner, snapshot, directory, record, room, write).await;
    };
    if !tokens::forget_all(inner, header, &record, room, write).await? {
        return Ok(false);
    }
    for lookup in &record.lookups {
        write.edits.push((Kind::Lookups, subject::lookup_entry(lookup.tag, &directory), Op::Remove));
    }
    write.edits.push(stale::unmark(header, &directory));
    write.edits.push(holds::unindex(header, &directory));
    let tombstone = Tombstone { at: Timestamp::now(), erasure };
    write.edits.push(Expiring::Tombstone.index(header, &directory, tombstone.at));
    write.edits.push((Kind::Directory, directory, Op::Replace(encode(&DirectoryEntry::Tombstone(tombstone))?)));
    write.delta.subjects -= 1;
    write.delta.refused -= 1;
    write.delta.tombstones += 1;
    // Ordinals are two bytes, so nothing of this subject lies at or behind four 0xff.
    delete_rows(inner, row::subject_prefix(record.uuid), &[0xff; 4], write).await?;
    Ok(true)
}

/// Shreds the compartments of a living subject that are refused; the others keep their keys and rows.
async fn shred_compartments(
    inner: &Inner,
    snapshot: &Snapshot,
    directory: EntryKey,
    mut record: SubjectRecord,
    room: &mut usize,
    write: &mut Write,
) -> Result<bool, Error> {
    let (doomed, kept): (Vec<_>, Vec<_>) = record.compartments.into_iter().partition(|keys| keys.refused.is_some());
    record.compartments = kept;
    if doomed.is_empty() {
        return Ok(true);
    }
    let names = doomed.iter().map(|keys| &keys.name).collect();
    if !tokens::forget_in(inner, &snapshot.header, &record, &names, room, write).await? {
        return Ok(false);
    }
    let within = |field: &FieldName| {
        let spec = snapshot.schema.field_by_id(field);
        spec.is_some_and(|spec| doomed.iter().any(|keys| keys.name == spec.compartment))
    };
    let (gone, lookups): (Vec<_>, Vec<_>) = record.lookups.into_iter().partition(|lookup| within(&lookup.field));
    record.lookups = lookups;
    for lookup in gone {
        write.edits.push((Kind::Lookups, subject::lookup_entry(lookup.tag, &directory), Op::Remove));
    }
    for keys in &doomed {
        delete_rows(inner, record.row_place(keys).key(), &[0xff; 9], write).await?;
    }
    write.edits.push((Kind::Directory, directory, Op::Replace(encode(&DirectoryEntry::Subject(record))?)));
    Ok(true)
}

/// Has a write delete the data rows whose keys begin with `start`; none of them is opened.
async fn delete_rows(inner: &Inner, start: Vec<u8>, behind: &[u8], write: &mut Write) -> Result<(), Error> {
    let end = [&start[..], behind].concat();
    let rows = inner.store.scan(&start, Some(&end), 4096).await?;
    write.delta.rows -= i64::try_from(rows.len()).expect("a subject has few rows");
    write.delete.extend(rows.into_iter().map(|(key, _)| key));
    Ok(())
}
