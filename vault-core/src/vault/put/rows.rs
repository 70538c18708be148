//! What a write of fields makes of a subject: its rows, its keys, its lookup entries.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::{Parsed, ParsedValue, Prepared, Putting, STALE_MAX};
use crate::audit::trail;
use crate::codec;
use crate::crypto::{AuditKey, Dek, Random};
use crate::error::Error;
use crate::ids::{Compartment, FieldName, SubjectId, SubjectUuid};
use crate::time::Timestamp;
use crate::trie::{Header, Kind, Op};
use crate::vault::metadata::RowMetadata;
use crate::vault::read::facts;
use crate::vault::records::{CompartmentKeys, DirectoryEntry, Indexed, LookupRef, SubjectRecord, SubjectState};
use crate::vault::rotate::deks;
use crate::vault::row::{Row, RowPlace, RowWriter};
use crate::vault::subject::{self, Found, Room};
use crate::vault::types::{FieldStamp, PutOutcome};
use crate::vault::writer::{Guard, Write};
use crate::vault::{Inner, holds, stale, tokens};

/// The row of the compartment `system`; the others count from 1.
const SYSTEM_ORDINAL: u16 = 0;

/// What the number of the variant adds to a directory entry, in bytes.
const VARIANT: usize = 4;

/// What became of a compartment's row.
struct ChangedRow {
    stamps: Vec<FieldStamp>,
    /// The keys that it has now, if the change is final.
    next: Option<CompartmentKeys>,
    /// Fields whose expired value was overwritten, by their ids: the new value has no expiry.
    lapsed: Vec<FieldName>,
}

impl Inner {
    /// Changes of a living subject: its rows one version on, and its record only if a lookup or a key changes.
    pub(super) async fn merge(
        &self,
        putting: &Putting<'_>,
        mut found: Found,
        parsed: &[Parsed<'_>],
    ) -> Result<Prepared, Error> {
        let Some(DirectoryEntry::Subject(mut record)) = found.entry.take() else { return Err(Error::UnknownSubject) };
        let removes = putting.options.final_ || parsed.iter().any(|p| p.value.is_none());
        if let Some(hold) = record.holds.first().filter(|_| removes) {
            return Err(Error::Held { hold: hold.clone() });
        }
        let mut write = putting.write(&found);
        if putting.options.final_ && record.tokens > 0 {
            let forgotten = parsed.iter().filter(|p| p.value.is_none()).map(|p| &p.spec.id).collect();
            let mut room = tokens::FORGET_MAX;
            if !tokens::forget_of(self, putting.header, &record, &forgotten, &mut room, &mut write).await? {
                // More than one root batch takes: they go first.
                let outcome = PutOutcome { created: false, fields: Vec::new(), waits_for: None };
                return Ok(Prepared { write, outcome, replaces: true, more: true });
            }
        }
        let lookups_changed = update_lookups(putting.header, &found, parsed, &mut record, &mut write);
        let (mut keys_changed, mut lapses) = (false, false);
        let mut fields = Vec::with_capacity(parsed.len());
        for (compartment, parsed) in by_compartment(parsed) {
            let Some(at) = record.compartments.iter().position(|keys| keys.name == *compartment) else {
                if parsed.iter().any(|p| p.value.is_some()) {
                    let keys = first_keys(compartment.clone(), &record);
                    record.compartments.push(keys);
                    let keys = record.compartments.last().expect("just added");
                    fields.extend(new_row(putting, record.row_place(keys), &parsed, &mut write)?);
                    keys_changed = true;
                } else if putting.options.if_match.is_some_and(|version| version > 0) {
                    return Err(Error::PreconditionFailed);
                }
                continue;
            };
            if record.compartments[at].refused.is_some() {
                return Err(Error::Conflict("the shred of this compartment is not final yet: write to it once it is"));
            }
            let ChangedRow { stamps, next, lapsed } =
                self.change_row(putting, &record, at, &parsed, &mut write).await?;
            fields.extend(stamps);
            lapses |= !lapsed.is_empty();
            let ends = |l: &&mut LookupRef| l.of == Indexed::Expiry && lapsed.contains(&l.field);
            for listing in record.listings(putting.header) {
                listing.refs.iter_mut().filter(ends).for_each(|l| l.live = false);
            }
            if let Some(next) = next {
                write.edits.push(deks::drop_chain(putting.header, &found.key, next.ordinal));
                record.compartments[at] = next;
            }
        }

        write.entries = trail::change(&record.audit_key, parsed.iter().map(|p| &p.spec.id));
        let stale = record.found_by(putting.header).iter().filter(|l| !l.live).count();
        // What is left behind takes room that something else may need.
        let size = codec::size(&record)? + VARIANT - subject::size_beside(&record)?;
        let crowded = stale > 0 && size > Room::Data as usize;
        let replaces = putting.options.final_ || stale > STALE_MAX || crowded;
        if replaces {
            record.forget_lookups(putting.header, &found.key, |l| !l.live, &mut write);
            write.edits.push(stale::unmark(putting.header, &found.key));
            if record.holds.is_empty() {
                write.edits.push(holds::unindex(putting.header, &found.key));
            }
            write.edits.push((Kind::Directory, found.key, Op::Replace(found.encode(record, Room::Data)?)));
        } else if lookups_changed || keys_changed || lapses {
            if stale > 0 {
                write.edits.push(stale::mark(putting.header, &found.key));
            }
            write.edits.push((Kind::Directory, found.key, Op::Insert(found.encode(record, Room::Data)?)));
        }
        let outcome = PutOutcome { created: false, fields, waits_for: None };
        Ok(Prepared { write, outcome, replaces, more: false })
    }

    /// The next version of a compartment's row; with new keys, if the change is final.
    async fn change_row(
        &self,
        putting: &Putting<'_>,
        record: &SubjectRecord,
        at: usize,
        parsed: &[&Parsed<'_>],
        write: &mut Write,
    ) -> Result<ChangedRow, Error> {
        let keys = &record.compartments[at];
        let place = record.row_place(keys);
        let row = subject::open_row(self, &place).await?;
        write.guards.push(Guard::Row { key: place.key(), version: Some(row.version) });
        let held = versions(&row);
        let mut metadata = RowMetadata::open(&row, &place)?;
        if let Some(at) = putting.options.expired_at {
            let expired = |p: &&Parsed<'_>| match row.fields.get(&p.spec.id) {
                Some(entry) => facts(p.spec, entry.updated_at, metadata.0.get(&p.spec.id), None, at).expired,
                None => true,
            };
            if !parsed.iter().all(expired) {
                return Err(Error::PreconditionFailed);
            }
        }
        let before = metadata.0.len();
        for gone in parsed.iter().filter(|p| p.value.is_none()) {
            metadata.0.remove(&gone.spec.id);
        }
        let lapsed = metadata.lift_lapsed(parsed.iter().map(|p| &p.spec.id), putting.now);

        // A final change seals every field anew, for the old key is to be forgotten: what was removed before without
        // being final goes with it, so this holds even if the field is not there any more.
        let next_keys = putting.options.final_.then(|| deks::successor(keys, putting.now));
        let mut gone = Vec::new();
        let version = putting.schema.version;
        let mut writer = match &next_keys {
            None => RowWriter::new(row, place, version, parsed.len()),
            Some(next) => {
                let kept = self.open_kept(&row, &place, parsed).await?;
                gone = row.spill_keys(&place);
                let sealing = kept.len() + parsed.len();
                let mut writer = RowWriter::new(Row::empty_at(row.version), record.row_place(next), version, sealing);
                for (stamp, value) in &kept {
                    writer.set(&stamp.name, stamp.version, stamp.updated_at, value);
                }
                writer
            }
        };
        if next_keys.is_some() || metadata.0.len() != before || !lapsed.is_empty() {
            writer.set_metadata(metadata.encode()?.as_ref().map(|bytes| bytes.as_slice()));
        }
        let stamps = set_fields(&mut writer, &held, parsed, putting)?;
        let rows = writer.finish()?;
        gone.extend(rows.delete);
        // The row itself is replaced; every other row that is put is new.
        write.delta.rows += rows_in(&rows.put) - 1 - rows_in(&gone);
        write.put.extend(rows.put);
        write.delete.extend(gone);
        Ok(ChangedRow { stamps, next: next_keys, lapsed })
    }

    /// The fields that a call does not touch, opened under the old key.
    async fn open_kept(
        &self,
        row: &Row,
        place: &RowPlace<'_>,
        parsed: &[&Parsed<'_>],
    ) -> Result<Vec<(FieldStamp, Zeroizing<Vec<u8>>)>, Error> {
        let mut kept = Vec::with_capacity(row.fields.len());
        for (id, entry) in &row.fields {
            if parsed.iter().all(|p| p.spec.id != *id) {
                let value = subject::open_field(self, row, id, place).await?;
                let stamp = FieldStamp { name: id.clone(), version: entry.version, updated_at: entry.updated_at };
                kept.push((stamp, value));
            }
        }
        Ok(kept)
    }
}

/// A new subject: new keys, a row for each compartment, its lookup entries.
pub(super) fn enrol(
    putting: &Putting<'_>,
    found: &Found,
    id: &SubjectId,
    parsed: &[Parsed<'_>],
) -> Result<Prepared, Error> {
    let mut random = Random::new(10 + 32);
    let uuid = uuid::Builder::from_unix_timestamp_millis(putting.now.0, &random.array()).into_uuid();
    let mut record = SubjectRecord {
        uuid: SubjectUuid(*uuid.as_bytes()),
        state: SubjectState::Active,
        enrolled_at: putting.now,
        subject: Zeroizing::new(id.as_str().to_owned()),
        audit_key: AuditKey::draw(&mut random),
        lookups: Vec::new(),
        lookups_generation: putting.header.generation(Kind::Lookups),
        next_lookups: Vec::new(),
        compartments: Vec::new(),
        consents: Vec::new(),
        restricted: false,
        holds: Vec::new(),
        tokens: 0,
    };
    let mut write = putting.write(found);
    update_lookups(putting.header, found, parsed, &mut record, &mut write);
    let mut fields = Vec::with_capacity(parsed.len());
    for (compartment, parsed) in by_compartment(parsed) {
        let keys = first_keys(compartment.clone(), &record);
        fields.extend(new_row(putting, record.row_place(&keys), &parsed, &mut write)?);
        record.compartments.push(keys);
    }
    write.entries = trail::change(&record.audit_key, parsed.iter().map(|p| &p.spec.id));
    write.delta.subjects = 1;
    if matches!(found.entry, Some(DirectoryEntry::Tombstone(_))) {
        write.delta.tombstones = -1;
    }
    write.edits.push((Kind::Directory, found.key, Op::Insert(found.encode(record, Room::Data)?)));
    let outcome = PutOutcome { created: true, fields, waits_for: None };
    Ok(Prepared { write, outcome, replaces: false, more: false })
}

/// The first row of a compartment. Whoever else begins it changes the subject's record, which is guarded.
fn new_row(
    putting: &Putting<'_>,
    place: RowPlace<'_>,
    parsed: &[&Parsed<'_>],
    write: &mut Write,
) -> Result<Vec<FieldStamp>, Error> {
    let mut writer = RowWriter::new(Row::empty(), place, putting.schema.version, parsed.len());
    let stamps = set_fields(&mut writer, &BTreeMap::new(), parsed, putting)?;
    let rows = writer.finish()?;
    write.delta.rows += rows_in(&rows.put);
    write.put.extend(rows.put);
    Ok(stamps)
}

/// The changes by the compartment they are in, each compartment once.
fn by_compartment<'p, 'a>(parsed: &'p [Parsed<'a>]) -> BTreeMap<&'a Compartment, Vec<&'p Parsed<'a>>> {
    let mut sorted: BTreeMap<&Compartment, Vec<&Parsed<'_>>> = BTreeMap::new();
    for change in parsed {
        sorted.entry(&change.spec.compartment).or_default().push(change);
    }
    sorted
}

/// Keys for a compartment that a subject does not have yet.
pub(in crate::vault) fn first_keys(name: Compartment, record: &SubjectRecord) -> CompartmentKeys {
    let last = record.compartments.iter().map(|keys| keys.ordinal).max().unwrap_or(SYSTEM_ORDINAL);
    let ordinal = if name == Compartment::system() { SYSTEM_ORDINAL } else { last + 1 };
    let dek = Dek::draw(&mut Random::for_keys(1));
    CompartmentKeys { name, ordinal, dek_version: 1, dek, dek_since: Timestamp::now(), refused: None }
}

fn versions(row: &Row) -> BTreeMap<FieldName, u32> {
    row.fields.iter().map(|(name, entry)| (name.clone(), entry.version)).collect()
}

fn rows_in<T>(rows: &[T]) -> i64 {
    i64::try_from(rows.len()).expect("a subject has far fewer rows than that")
}

/// Seals the values that are set and takes out the ones that are removed.
fn set_fields(
    writer: &mut RowWriter<'_>,
    held: &BTreeMap<FieldName, u32>,
    parsed: &[&Parsed<'_>],
    putting: &Putting<'_>,
) -> Result<Vec<FieldStamp>, Error> {
    let mut stamps = Vec::with_capacity(parsed.len());
    for Parsed { spec, value } in parsed {
        let present = held.get(&spec.id).copied().unwrap_or(0);
        if putting.options.if_match.is_some_and(|wanted| wanted != present) {
            return Err(Error::PreconditionFailed);
        }
        match value {
            Some(ParsedValue { encoded, .. }) => {
                let stamp = FieldStamp { name: spec.name.clone(), version: present + 1, updated_at: putting.now };
                writer.set(&spec.id, stamp.version, stamp.updated_at, encoded);
                stamps.push(stamp);
            }
            None => {
                writer.remove(&spec.id);
            }
        }
    }
    Ok(stamps)
}

/// Brings the record's lookups up to the changes and puts new entries into the write; answers whether any changed. What a
/// removed field was found by through its metadata goes with it.
fn update_lookups(
    header: &Header,
    found: &Found,
    parsed: &[Parsed<'_>],
    record: &mut SubjectRecord,
    write: &mut Write,
) -> bool {
    let mut changed = false;
    for listing in record.listings(header) {
        for Parsed { spec, value } in parsed {
            let form = value.as_ref().and_then(|v| v.lookup_form.as_ref());
            let tag = form.map(|form| subject::lookup_tag_with(listing.tags, &spec.id, form));
            let mut listed = false;
            for lookup in listing.refs.iter_mut().filter(|l| l.field == spec.id) {
                let live = match lookup.of {
                    Indexed::Value => Some(lookup.tag) == tag,
                    _ => lookup.live && value.is_some(),
                };
                listed |= live && lookup.of == Indexed::Value;
                changed |= lookup.live != live;
                lookup.live = live;
            }
            if let Some(tag) = tag.filter(|_| !listed) {
                changed = true;
                listing.insert(tag, &found.key, write);
                listing.refs.push(LookupRef { field: spec.id.clone(), of: Indexed::Value, tag, live: true });
            }
        }
    }
    changed
}

impl Putting<'_> {
    /// A write that was prepared from a subject as it was found.
    fn write(&self, found: &Found) -> Write {
        let lookups = Some(self.header.generations(Kind::Lookups));
        Write { guards: vec![found.guard()], under: Some(self.schema.version), lookups, ..Write::default() }
    }
}
