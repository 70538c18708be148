//! Rotation of `lookups`: a fresh tag key, and with it another generation of everything that subjects are found by.
//!
//! The new generation is built beside the serving one, from the values, while every write keeps up both. Once it has all
//! that the other has, it serves: one root batch, in which the old tag key goes. Then the old entries are taken out, and
//! at last what subjects list of them: root batches all, so that nothing that is alive leads to an old page or matches
//! under the old tag key. Until then each subject lists what it has in both, so that a shred takes all of it along.
//!
//! Taken back before the new generation serves, the same is done to that one.

use super::super::metadata::{RowMetadata, tags_of};
use super::super::records::{
    DirectoryEntry, Indexed, LookupRef, LookupsStage, LookupsWork, RotationRecord, SubjectRecord, Then, Walk, Work,
    encode,
};
use super::super::session::{Session, Snapshot, reading};
use super::super::types::Counts;
use super::super::writer::Write;
use super::super::{Inner, subject};
use crate::crypto::TagKey;
use crate::crypto::tag::Tag;
use crate::error::Error;
use crate::ids::{Compartment, FieldName};
use crate::schema::FieldValue;
use crate::trie::{self, Duty, EntryKey, Header, Kind, Op, Succession};

/// Entries that one root batch takes out.
pub(super) const STEP_ENTRIES: u32 = 2048;

impl LookupsWork {
    /// A rotation that begins. `left_over`: another one may have left something behind.
    pub(super) fn new(counts: Counts, left_over: bool) -> Self {
        let stage = if left_over { LookupsStage::Undo } else { LookupsStage::Begin };
        let then = if left_over { Then::Begin } else { Then::Done };
        Self { stage, then, damaged: 0, subjects: counts.subjects, shreds: counts.shreds }
    }

    /// Whether the generation that it built serves.
    pub(crate) fn serves(&self) -> bool {
        matches!((self.stage, self.then), (LookupsStage::Empty | LookupsStage::Prune(_), Then::Done))
    }

    /// Whether its next step is part of a root batch.
    pub(super) fn needs_round(&self) -> bool {
        !matches!(self.stage, LookupsStage::Build(_))
    }

    /// Takes it back, if the new generation does not serve yet.
    ///
    /// # Errors
    /// [`Error::Conflict`].
    pub(super) fn take_back(&mut self, then: Then) -> Result<(), Error> {
        match (self.stage, self.then) {
            (LookupsStage::Begin | LookupsStage::Build(_) | LookupsStage::Switch, _) => {
                self.stage = LookupsStage::Undo;
            }
            (_, Then::Begin) => {}
            (_, Then::Done) => {
                let why = "the new tag key is in use, and what is left is to forget the old one: pause or throttle it";
                return Err(Error::Conflict(why));
            }
            (_, Then::Cancelled | Then::Failed) => {
                return Err(Error::Conflict("the rotation is being taken back already"));
            }
        }
        self.then = then;
        Ok(())
    }

    /// Moves on at the end of a walk; answers whether that was all.
    pub(super) fn walked(&mut self) -> bool {
        match (self.stage, self.then) {
            (LookupsStage::Build(Walk::End), _) if self.damaged > 0 => {
                self.stage = LookupsStage::Undo;
                self.then = Then::Failed;
            }
            (LookupsStage::Build(Walk::End), _) => self.stage = LookupsStage::Switch,
            (LookupsStage::Prune(Walk::End), Then::Begin) => {
                self.stage = LookupsStage::Begin;
                self.then = Then::Done;
            }
            (LookupsStage::Prune(Walk::End), _) => return true,
            _ => {}
        }
        false
    }
}

/// What a root batch does for a rotation besides its walk: the write, and how far the rotation is once it is committed.
/// None if there is nothing to do but to walk.
pub(super) async fn round(
    inner: &Inner,
    session: &Session,
    record: &RotationRecord,
) -> Result<Option<(Write, RotationRecord)>, Error> {
    reading!(session, |snapshot| round_from(inner, &snapshot.header, record).await)
}

async fn round_from(
    inner: &Inner,
    header: &Header,
    record: &RotationRecord,
) -> Result<Option<(Write, RotationRecord)>, Error> {
    let Work::Lookups(work) = &record.work else { return Ok(None) };
    let generations = header.generations(Kind::Lookups);
    let mut write = Write { reclaim: true, lookups: Some(generations), ..Write::default() };
    let mut next = record.clone();
    let beside = generations.beside.map(|(_, duty)| duty);
    let stage = match (work.stage, beside) {
        (LookupsStage::Prune(_) | LookupsStage::Build(_), _) => return Ok(None),
        (LookupsStage::Begin, None) => {
            write.succession = Some(Succession::Begin);
            LookupsStage::Build(Walk::After(None))
        }
        (LookupsStage::Switch, Some(Duty::Building)) => {
            write.succession = Some(Succession::Switch);
            LookupsStage::Empty
        }
        (LookupsStage::Undo, Some(Duty::Building)) => {
            write.succession = Some(Succession::Undo);
            LookupsStage::Empty
        }
        (LookupsStage::Empty | LookupsStage::Undo, Some(Duty::Retiring)) => {
            let most = record.rate.unwrap_or(STEP_ENTRIES).min(STEP_ENTRIES) as usize;
            let entries = trie::scan_beside(&inner.pages, header, Kind::Lookups, None, most).await?;
            match entries.last() {
                Some((last, _)) => next.done = next.done.max(work.emptied(last)),
                None => write.succession = Some(Succession::Drop),
            }
            write.beside.extend(entries.into_iter().map(|(key, _)| (key, Op::Remove)));
            LookupsStage::Empty
        }
        (LookupsStage::Empty | LookupsStage::Undo, None) => LookupsStage::Prune(Walk::After(None)),
        (LookupsStage::Begin | LookupsStage::Switch | LookupsStage::Empty, _) => {
            return Err(Error::Damaged("the generations of lookups are not those that their rotation left"));
        }
        (LookupsStage::Undo, Some(Duty::Serving)) => unreachable!("what is beside does not serve"),
    };
    if let Work::Lookups(work) = &mut next.work {
        work.stage = stage;
    }
    Ok(Some((write, next)))
}

impl LookupsWork {
    /// How many steps are done once everything up to this entry is taken out: tags are spread evenly.
    fn emptied(&self, last: &EntryKey) -> u64 {
        let share = u64::from(u16::from_be_bytes([last[0], last[1]]));
        self.subjects + self.subjects * share / u64::from(u16::MAX)
    }
}

/// The write that puts a subject's entries into the generation that is built, if some are not there; and whether one of
/// its rows does not open.
pub(super) async fn built(inner: &Inner, session: &Session, key: EntryKey) -> Result<(Option<Write>, u64), Error> {
    let mut opened = true;
    let outcome = reading!(session, |snapshot| built_from(inner, &snapshot, key, &mut opened).await);
    match outcome {
        Err(Error::Damaged(_)) if !opened => Ok((None, 1)),
        outcome => Ok((outcome?, 0)),
    }
}

/// Sets `opened` to whether all rows opened that it came to.
async fn built_from(
    inner: &Inner,
    snapshot: &Snapshot,
    key: EntryKey,
    opened: &mut bool,
) -> Result<Option<Write>, Error> {
    let header = &*snapshot.header;
    *opened = true;
    let Some(tags) = header.next_tag_key(Kind::Lookups) else {
        return Err(Error::Damaged("no generation of lookups is being built"));
    };
    let mut found = subject::find_by_key(inner, header, key).await?;
    let (guard, entry) = (found.guard(), found.entry.take());
    let Some(DirectoryEntry::Subject(mut record)) = entry else { return Ok(None) };
    let wanted = match found_by(inner, snapshot, tags, &record).await {
        Ok(wanted) => wanted,
        Err(error) => {
            *opened = !matches!(error, Error::Damaged(_));
            return Err(error);
        }
    };
    let mut write = Write { guards: vec![guard], under: Some(snapshot.schema.version), ..Write::default() };
    write.lookups = Some(header.generations(Kind::Lookups));
    let mut changed = false;
    for listed in &mut record.next_lookups {
        let live = wanted.iter().any(|(field, of, tag)| (field, *of, *tag) == (&listed.field, listed.of, listed.tag));
        changed |= listed.live != live;
        listed.live = live;
    }
    for (field, of, tag) in wanted {
        if record.next_lookups.iter().all(|listed| listed.tag != tag) {
            write.beside.push((subject::lookup_entry(tag, &key), Op::Insert(trie::Payload::default())));
            record.next_lookups.push(LookupRef { field, of, tag, live: true });
            changed = true;
        }
    }
    if !changed {
        return Ok(None);
    }
    write.edits.push((Kind::Directory, key, Op::Insert(encode(&DirectoryEntry::Subject(record))?)));
    Ok(Some(write))
}

/// What a subject's values say it is found by, under a tag key.
async fn found_by(
    inner: &Inner,
    snapshot: &Snapshot,
    tags: &TagKey,
    record: &SubjectRecord,
) -> Result<Vec<(FieldName, Indexed, Tag)>, Error> {
    let mut found = Vec::new();
    let system = Compartment::system();
    for keys in record.compartments.iter().filter(|keys| keys.name != system) {
        let place = record.row_place(keys);
        let row = subject::open_row(inner, &place).await?;
        for (field, metadata) in &RowMetadata::open(&row, &place)?.0 {
            found.extend(tags_of(tags, field, metadata).into_iter().map(|(of, tag)| (field.clone(), of, tag)));
        }
        for field in row.fields.keys() {
            let Some(spec) = snapshot.schema.field_by_id(field).filter(|spec| spec.lookup) else { continue };
            let value = FieldValue::decode(&subject::open_field(inner, &row, field, &place).await?)?;
            if let Some(form) = spec.lookup_form(&value) {
                found.push((field.clone(), Indexed::Value, subject::lookup_tag_with(tags, field, &form)));
            }
        }
    }
    Ok(found)
}

/// The write that takes what a generation had out of a subject's record: of the one before, if there is another that
/// serves, else of the one that was not finished.
pub(super) async fn pruned(inner: &Inner, session: &Session, key: EntryKey) -> Result<Option<Write>, Error> {
    reading!(session, |snapshot| pruned_from(inner, &snapshot.header, key).await)
}

async fn pruned_from(inner: &Inner, header: &Header, key: EntryKey) -> Result<Option<Write>, Error> {
    let mut found = subject::find_by_key(inner, header, key).await?;
    let (guard, entry) = (found.guard(), found.entry.take());
    let Some(DirectoryEntry::Subject(mut record)) = entry else { return Ok(None) };
    let generations = header.generations(Kind::Lookups);
    let next = std::mem::take(&mut record.next_lookups);
    if record.lookups_generation != generations.serving {
        record.lookups = next;
        record.lookups_generation = generations.serving;
    } else if next.is_empty() {
        return Ok(None);
    }
    let edit = (Kind::Directory, key, Op::Replace(encode(&DirectoryEntry::Subject(record))?));
    let lookups = Some(generations);
    Ok(Some(Write { guards: vec![guard], edits: vec![edit], lookups, reclaim: true, ..Write::default() }))
}
