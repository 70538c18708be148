//! F1, the second half of a shred: the edits of a root batch that destroy the keys of what was refused.

use std::collections::{BTreeMap, BTreeSet, btree_map};

use super::erase::{find, item_key};
use super::evidence::Shredding;
use super::records::{
    DirectoryEntry, ErasureItem, ErasureRecord, ItemState, SubjectRecord, SubjectState, Tombstone, decode, encode,
};
use super::rotate::deks;
use super::session::{Session, Snapshot, reading};
use super::writer::Write;
use super::{Inner, expire::Expiring, holds, row, stale, subject, tokens};
use crate::error::Error;
use crate::ids::{Compartment, ErasureId, FieldName, SubjectUuid};
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
    let mut records: BTreeMap<ErasureId, ErasureRecord> = BTreeMap::new();
    // Several erasures may ask for the same subject: its record is edited once, for all of them.
    let mut wanted: BTreeMap<(EntryKey, SubjectUuid), Wanted> = BTreeMap::new();
    let mut items = Vec::with_capacity(part.len());
    for &(erasure, directory) in part {
        let key = item_key(header, erasure, subject::tag_of(&directory));
        // One that is not there was dealt with in an earlier batch.
        let Some(payload) = trie::find(&inner.pages, header, Kind::Erasures, &key).await? else { continue };
        let item: ErasureItem = decode(&payload)?;
        if item.state != ItemState::Refused {
            continue;
        }
        let record = match records.entry(erasure) {
            btree_map::Entry::Occupied(known) => known.into_mut(),
            btree_map::Entry::Vacant(vacant) => vacant.insert(find(inner, header, erasure).await?),
        };
        wanted.entry((directory, item.uuid)).or_default().add(record);
        items.push((erasure, directory, key, item));
    }
    let (mut left, mut room) = (Vec::new(), tokens::FORGET_MAX);
    let mut gone = BTreeMap::new();
    for (&(directory, uuid), wanted) in &wanted {
        let done = shred_one(inner, snapshot, directory, uuid, wanted, &mut room, &mut write).await?;
        gone.insert((directory, uuid), done);
    }
    for (erasure, directory, key, item) in items {
        if !gone[&(directory, item.uuid)] {
            left.push((erasure, directory));
            continue;
        }
        // Its erasure counts it once the old root is gone: see `evidence`.
        let f0_at = item.f0_at.ok_or(Error::Damaged("a subject is shredded that was not refused"))?;
        write.shreds.push(Shredding { erasure, commitment: item.commitment, f0_at });
        write.edits.push((Kind::Erasures, key, Op::Remove));
    }
    Ok((ShredPart { taken: part.len(), left }, write))
}

/// What erasures that are due want of a subject. What decides is what they ask for, not how the subject is marked: the mark
/// may be that of another one, which is in its time of grace and may be taken back.
#[derive(Default)]
struct Wanted {
    /// All of it, for this erasure.
    whole: Option<ErasureId>,
    compartments: BTreeSet<Compartment>,
}

impl Wanted {
    fn add(&mut self, record: &ErasureRecord) {
        match &record.compartment {
            None => self.whole = Some(record.id),
            Some(name) => {
                self.compartments.insert(name.clone());
            }
        }
    }
}

/// Shreds what is wanted of a subject: all of it, or some of its compartments. Answers `false` if there is no room for all
/// of its value tokens: some go now, and the rest with the subject's keys by later root batches.
async fn shred_one(
    inner: &Inner,
    snapshot: &Snapshot,
    directory: EntryKey,
    uuid: SubjectUuid,
    wanted: &Wanted,
    room: &mut usize,
    write: &mut Write,
) -> Result<bool, Error> {
    let header = &*snapshot.header;
    let found = subject::find_by_key(inner, header, directory).await?;
    write.guards.push(found.guard());
    // Another erasure had it shredded, and it may have been enrolled again since.
    let Some(DirectoryEntry::Subject(mut record)) = found.entry.filter(|entry| entry.is_of(uuid)) else {
        return Ok(true);
    };
    let Some(erasure) = wanted.whole else {
        return shred_compartments(inner, snapshot, directory, record, &wanted.compartments, room, write).await;
    };
    if !tokens::forget_all(inner, header, &record, room, write).await? {
        return Ok(false);
    }
    record.forget_lookups(header, &directory, |_| true, write);
    for keys in &record.compartments {
        write.edits.push(deks::drop_chain(header, &directory, keys.ordinal));
    }
    write.edits.push(stale::unmark(header, &directory));
    write.edits.push(holds::unindex(header, &directory));
    let tombstone = Tombstone { at: Timestamp::now(), erasure };
    write.edits.push(Expiring::Tombstone.index(header, &directory, tombstone.at));
    write.edits.push((Kind::Directory, directory, Op::Replace(encode(&DirectoryEntry::Tombstone(tombstone))?)));
    write.delta.subjects -= 1;
    write.delta.refused -= i64::from(record.state != SubjectState::Active);
    write.delta.tombstones += 1;
    write.delta.shreds += 1;
    // Ordinals are two bytes, so nothing of this subject lies at or behind four 0xff.
    delete_rows(inner, row::subject_prefix(record.uuid), &[0xff; 4], write).await?;
    Ok(true)
}

/// Shreds these compartments of a living subject; the others keep their keys and rows.
async fn shred_compartments(
    inner: &Inner,
    snapshot: &Snapshot,
    directory: EntryKey,
    mut record: SubjectRecord,
    wanted: &BTreeSet<Compartment>,
    room: &mut usize,
    write: &mut Write,
) -> Result<bool, Error> {
    let (doomed, kept): (Vec<_>, Vec<_>) =
        record.compartments.into_iter().partition(|keys| wanted.contains(&keys.name));
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
    record.forget_lookups(&snapshot.header, &directory, |lookup| within(&lookup.field), write);
    write.delta.shreds += doomed.len() as u64;
    for keys in &doomed {
        write.edits.push(deks::drop_chain(&snapshot.header, &directory, keys.ordinal));
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
