//! What the key plane says of the data is brought up to the data: lookup entries; and refusals are made again.

use std::collections::{BTreeMap, BTreeSet};

use zeroize::Zeroizing;

use super::rows::each_subject;
use super::{RestoreProgress, RestoreStep};
use crate::error::Error;
use crate::ids::{Compartment, FieldName};
use crate::root::Refusal;
use crate::schema::{FieldValue, Schema};
use crate::time::Timestamp;
use crate::trie::{EntryKey, Header, Kind, Op};
use crate::vault::metadata::{Metadata, RowMetadata, update_refs};
use crate::vault::records::{
    DirectoryEntry, ErasureItem, ErasureRecord, Indexed, ItemState, LookupRef, SubjectRecord, SubjectState,
    TOLD_NOWHERE, encode,
};
use crate::vault::session::Session;
use crate::vault::types::NewErasure;
use crate::vault::writer::Write;
use crate::vault::{Inner, erase, evidence, refuse, stale, subject};

/// Writes that share a commit.
const TOGETHER: usize = 256;
/// What an erasure that a restore makes says as its reason.
const REASON: &str = "restored: refused before the restore";

/// Compares what every living subject is found by with its rows; answers for how many that was changed.
///
/// What a subject is found by no more is listed as such, and the next root batches remove it.
pub(super) async fn lookups(inner: &Inner, session: &Session, progress: RestoreProgress<'_>) -> Result<u64, Error> {
    let snapshot = session.snapshot();
    let (mut writes, mut mended, mut done) = (Vec::new(), 0, 0);
    each_subject(inner, &snapshot.header, async |directory, record| {
        done += 1;
        progress(RestoreStep::Mending, done);
        if record.state == SubjectState::Active
            && let Some(write) = mended_subject(inner, &snapshot.header, &snapshot.schema, directory, record).await?
        {
            writes.push(write);
            mended += 1;
        }
        if writes.len() >= TOGETHER {
            session.commit(std::mem::take(&mut writes)).await?;
        }
        Ok(())
    })
    .await?;
    session.commit(writes).await?;
    Ok(mended)
}

async fn mended_subject(
    inner: &Inner,
    header: &Header,
    schema: &Schema,
    directory: EntryKey,
    mut record: SubjectRecord,
) -> Result<Option<Write>, Error> {
    let listed = |record: &SubjectRecord| -> Vec<_> {
        record.all_lookups().map(|l| (l.field.clone(), l.of, l.tag, l.live)).collect()
    };
    let before = listed(&record);
    let mut write = Write { lookups: Some(header.generations(Kind::Lookups)), reclaim: true, ..Write::default() };
    let (values, metadata) = found_by(inner, schema, &record).await?;
    // Two lists if the key plane was made while lookups were rotated.
    for listing in record.listings(header) {
        let tag = |(field, form): &(FieldName, Zeroizing<Vec<u8>>)| subject::lookup_tag_with(listing.tags, field, form);
        let tags: Vec<_> = values.iter().map(|value| (&value.0, tag(value))).collect();
        for listed in listing.refs.iter_mut().filter(|listed| listed.of == Indexed::Value) {
            listed.live = tags.contains(&(&listed.field, listed.tag));
        }
        for (field, tag) in tags {
            if !listing.refs.iter().any(|l| l.of == Indexed::Value && l.field == *field && l.tag == tag) {
                listing.insert(tag, &directory, &mut write);
                listing.refs.push(LookupRef { field: field.clone(), of: Indexed::Value, tag, live: true });
            }
        }
    }
    let fields: BTreeSet<FieldName> =
        record.all_lookups().map(|l| l.field.clone()).chain(metadata.keys().cloned()).collect();
    for field in fields {
        let known = metadata.get(&field).cloned().unwrap_or_default();
        update_refs(header, &directory, &mut record, (&field, &known), &mut write)?;
    }
    if before == listed(&record) {
        return Ok(None);
    }
    if record.all_lookups().any(|l| !l.live) {
        write.edits.push(stale::mark(header, &directory));
    }
    write.edits.push((Kind::Directory, directory, Op::Insert(encode(&DirectoryEntry::Subject(record))?)));
    Ok(Some(write))
}

/// Fields with the forms that they are looked up by, and metadata.
type FoundBy = (Vec<(FieldName, Zeroizing<Vec<u8>>)>, BTreeMap<FieldName, Metadata>);

/// What a subject's values say it is found by.
async fn found_by(inner: &Inner, schema: &Schema, record: &SubjectRecord) -> Result<FoundBy, Error> {
    let (mut values, mut metadata) = (Vec::new(), BTreeMap::new());
    let system = Compartment::system();
    for keys in record.compartments.iter().filter(|keys| keys.name != system) {
        let place = record.row_place(keys);
        let row = subject::open_row(inner, &place).await?;
        metadata.extend(RowMetadata::open(&row, &place)?.0);
        for field in row.fields.keys() {
            let Some(spec) = schema.field_by_id(field) else { continue };
            let value = FieldValue::decode(&subject::open_field(inner, &row, field, &place).await?)?;
            if let Some(form) = spec.lookup_form(&value) {
                values.push((field.clone(), form));
            }
        }
    }
    Ok((values, metadata))
}

/// Notes of every erasure that nothing tells of it any more: the log that did is lost.
pub(super) async fn forget_log(inner: &Inner, session: &Session) -> Result<(), Error> {
    let mut after = None;
    loop {
        let header = session.snapshot().header.clone();
        let page = erase::list(inner, &header, after, TOGETHER).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.id);
        let mut write = Write { reclaim: true, ..Write::default() };
        for record in page.into_iter().filter(|record| record.told_from.is_some()) {
            write.edits.push(erase::note(&header, &ErasureRecord { told_from: Some(TOLD_NOWHERE), ..record })?);
        }
        session.commit(vec![write]).await?;
    }
}

/// Refuses again what was refused after the key plane was made; answers how much that was. The shreds become final by
/// themselves once the vault runs.
pub(super) async fn refuse_again(inner: &Inner, session: &Session, refusals: &[Refusal]) -> Result<u64, Error> {
    let mut by_compartment: BTreeMap<Option<&Compartment>, BTreeMap<[u8; 16], Timestamp>> = BTreeMap::new();
    for refusal in refusals {
        let subjects = by_compartment.entry(refusal.compartment.as_ref()).or_default();
        subjects.entry(refusal.subject).or_insert(refusal.at);
    }
    let mut refused = 0;
    for (compartment, subjects) in by_compartment {
        let asked = NewErasure {
            compartment: compartment.cloned(),
            reason: REASON.to_owned(),
            subjects: Vec::new(),
            reference: None,
            not_before: None,
            refuse_now: false,
            deadline: None,
            by: None,
        };
        let mut record = erase::immediate(&asked, subjects.len());
        for part in subjects.into_iter().collect::<Vec<_>>().chunks(TOGETHER) {
            let write = refusing(inner, session, &mut record, part).await?;
            session.commit(vec![write]).await?;
        }
        refused += record.counts.refused;
        if record.is_done() {
            let mut write = Write { reclaim: true, ..Write::default() };
            let header = session.snapshot().header.clone();
            evidence::conclude(&header, &mut record, Timestamp::now(), &mut write)?;
            write.edits.push(erase::note(&header, &record)?);
            session.commit(vec![write]).await?;
        }
    }
    Ok(refused)
}

async fn refusing(
    inner: &Inner,
    session: &Session,
    record: &mut ErasureRecord,
    part: &[([u8; 16], Timestamp)],
) -> Result<Write, Error> {
    let header = session.snapshot().header.clone();
    let mut write = Write { reclaim: true, ..Write::default() };
    for &(tag, at) in part {
        let directory = subject::directory_of(tag);
        let found = subject::find_by_key(inner, &header, directory).await?;
        let Some(DirectoryEntry::Subject(mut subject)) = found.entry else {
            // Shredded by then, or enrolled after the key plane was made: nothing of it was restored.
            record.counts.unknown += 1;
            continue;
        };
        let id = crate::ids::SubjectId::parse(&subject.subject)?;
        let commitment = evidence::commitment(record.salts()?, record.id, &id);
        let item = ErasureItem { state: ItemState::Refused, uuid: subject.uuid, f0_at: Some(at), commitment };
        write.edits.push(refuse::keep(&header, record.id, &directory, &item)?);
        record.counts.refused += 1;
        record.f0_at = record.f0_at.or(Some(at));
        write.delta.refused += i64::from(refuse::mark(&mut subject, record, at, true));
        write.edits.push((Kind::Directory, directory, Op::Insert(encode(&DirectoryEntry::Subject(subject))?)));
    }
    write.edits.push(erase::note(&header, record)?);
    Ok(write)
}
