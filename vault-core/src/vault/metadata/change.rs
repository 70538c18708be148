//! Reading and changing the metadata of one subject's values. No value is opened for it.

use std::collections::BTreeMap;

use super::{Metadata, MetadataEdit, RowMetadata, index};
use crate::audit::trail;
use crate::error::Error;
use crate::ids::{Compartment, FieldName, SubjectId};
use crate::schema::{FieldSpec, Schema};
use crate::time::Timestamp;
use crate::trie::{EntryKey, Kind, Op};
use crate::vault::put::{STALE_MAX, commit_in_turn};
use crate::vault::records::{DirectoryEntry, SubjectRecord};
use crate::vault::row::RowWriter;
use crate::vault::session::{Session, Snapshot, reading};
use crate::vault::subject::{self, Found, Room};
use crate::vault::turns::{ATTEMPTS, too_busy};
use crate::vault::writer::{Guard, Write};
use crate::vault::{Inner, Vault, stale};

impl Vault {
    /// What is known of a value besides itself.
    ///
    /// # Errors
    /// [`Error::UnknownSubject`], [`Error::Shredded`]; [`Error::NoSuchField`] if no such value is held.
    pub async fn metadata(&self, id: &SubjectId, field: &FieldName) -> Result<Metadata, Error> {
        let session = self.session()?;
        reading!(session, |snapshot| self.inner.metadata(&snapshot, id, field).await)
    }

    /// Changes what is known of a value; answers how it is then. The next read goes by it.
    ///
    /// # Errors
    /// As for [`Vault::metadata`]; [`Error::Invalid`] for what is out of bounds, [`Error::Conflict`] for another expiry of
    /// a value that has expired.
    pub async fn change_metadata(
        &self,
        id: &SubjectId,
        field: &FieldName,
        edit: impl Into<MetadataEdit>,
    ) -> Result<Metadata, Error> {
        let (session, edit) = (self.session()?, edit.into());
        let schema = session.snapshot().schema.clone();
        let spec = schema.field(field)?;
        edit.check(&schema, Timestamp::now())?;
        // Found here too, so that it is told why there is none.
        self.metadata(id, field).await?;
        let key = subject::directory_key(&session.snapshot().header, id);
        let edited = self.inner.edit_subject(&session, id, key, std::slice::from_ref(&spec.id), &edit).await?;
        edited.into_iter().next().ok_or(Error::NoSuchField)?.map(|edited| edited.metadata)
    }
}

/// The metadata of a value after a change.
pub(super) struct Edited {
    pub(super) metadata: Metadata,
    pub(super) changed: bool,
}

/// A change of one subject's metadata, ready for the writer.
#[derive(Default)]
pub(super) struct Prepared {
    /// None if nothing changes.
    pub(super) write: Option<Write>,
    /// Whether it removes entries, so that it needs a root batch.
    pub(super) replaces: bool,
    /// For each value that is held, or why it can not be changed so.
    pub(super) edited: Vec<Result<Edited, Error>>,
}

impl Inner {
    async fn metadata(&self, snapshot: &Snapshot, id: &SubjectId, field: &FieldName) -> Result<Metadata, Error> {
        let spec = snapshot.schema.field(field)?;
        trail::fields([&spec.id]);
        let found = subject::find(self, &snapshot.header, id).await?;
        let record = found.living(self.options.tombstone_seconds)?;
        let keys = record.keys(&spec.compartment).ok_or(Error::NoSuchField)?;
        let place = record.row_place(keys);
        let row = subject::open_row(self, &place).await?;
        if !row.fields.contains_key(&spec.id) {
            return Err(Error::NoSuchField);
        }
        Ok(RowMetadata::open(&row, &place)?.0.remove(&spec.id).unwrap_or_default())
    }

    /// Changes the metadata of some of a subject's values, named by their ids. Values that are not held are passed over.
    pub(super) async fn edit_subject(
        &self,
        session: &Session,
        id: &SubjectId,
        key: EntryKey,
        fields: &[FieldName],
        edit: &MetadataEdit,
    ) -> Result<Vec<Result<Edited, Error>>, Error> {
        let mut turn = None;
        for _ in 0..ATTEMPTS {
            let prepared = self.prepare_edit(session, key, fields, edit).await?;
            let committed = match prepared.write {
                None => true,
                Some(write) if prepared.replaces => commit_in_turn(session, write, false, &mut turn).await?.held,
                Some(write) => session.commit(vec![write]).await? == [true],
            };
            if committed {
                return Ok(prepared.edited);
            }
            if turn.is_none() {
                turn = Some(self.turns.of(id).await);
            }
        }
        Err(too_busy())
    }

    pub(super) async fn prepare_edit(
        &self,
        session: &Session,
        key: EntryKey,
        fields: &[FieldName],
        edit: &MetadataEdit,
    ) -> Result<Prepared, Error> {
        reading!(session, |snapshot| self.prepare_edit_from(&snapshot, key, fields, edit).await)
    }

    async fn prepare_edit_from(
        &self,
        snapshot: &Snapshot,
        key: EntryKey,
        fields: &[FieldName],
        edit: &MetadataEdit,
    ) -> Result<Prepared, Error> {
        let mut found = subject::find_by_key(self, &snapshot.header, key).await?;
        let (guard, entry) = (found.guard(), found.entry.take());
        let Some(DirectoryEntry::Subject(record)) = entry else { return Ok(Prepared::default()) };
        if record.state != crate::vault::records::SubjectState::Active {
            return Ok(Prepared::default());
        }
        let schema = &*snapshot.schema;
        let lookups = Some(snapshot.header.generations(Kind::Lookups));
        let write = Write { guards: vec![guard], under: Some(schema.version), lookups, ..Write::default() };
        let mut editing =
            Editing { snapshot, edit, now: Timestamp::now(), record, write, edited: Vec::new(), fields: Vec::new() };
        for (compartment, specs) in by_compartment(schema, fields) {
            editing.row(self, &found, compartment, &specs).await?;
        }
        editing.finish(&found)
    }
}

fn by_compartment<'s>(schema: &'s Schema, fields: &[FieldName]) -> BTreeMap<&'s Compartment, Vec<&'s FieldSpec>> {
    let mut sorted: BTreeMap<&Compartment, Vec<&FieldSpec>> = BTreeMap::new();
    for spec in fields.iter().filter_map(|id| schema.field_by_id(id)) {
        sorted.entry(&spec.compartment).or_default().push(spec);
    }
    sorted
}

/// A change on its way through a subject's rows.
struct Editing<'a> {
    snapshot: &'a Snapshot,
    edit: &'a MetadataEdit,
    now: Timestamp,
    record: SubjectRecord,
    write: Write,
    edited: Vec<Result<Edited, Error>>,
    /// The ids of those that change.
    fields: Vec<FieldName>,
}

impl Editing<'_> {
    /// Changes the metadata in one compartment's row, which is written anew only if something changed.
    async fn row(
        &mut self,
        inner: &Inner,
        found: &Found,
        compartment: &Compartment,
        specs: &[&FieldSpec],
    ) -> Result<(), Error> {
        let Some(keys) = self.record.keys(compartment) else { return Ok(()) };
        let place = self.record.row_place(keys);
        let row = subject::open_row(inner, &place).await?;
        let mut metadata = RowMetadata::open(&row, &place)?;
        let mut changed = false;
        let held: Vec<&FieldSpec> = specs.iter().copied().filter(|spec| row.fields.contains_key(&spec.id)).collect();
        for spec in held {
            let before = metadata.0.get(&spec.id).cloned().unwrap_or_default();
            let edited = self.value(found, spec, &before);
            if let Ok(Edited { metadata: after, changed: true }) = &edited {
                changed = true;
                self.fields.push(spec.id.clone());
                match *after == Metadata::default() {
                    true => metadata.0.remove(&spec.id),
                    false => metadata.0.insert(spec.id.clone(), after.clone()),
                };
            }
            self.edited.push(edited);
        }
        if changed {
            let keys = self.record.keys(compartment).expect("found above, and edits change no keys");
            let place = self.record.row_place(keys);
            self.write.guards.push(Guard::Row { key: place.key(), version: Some(row.version) });
            let mut writer = RowWriter::new(row, place, self.snapshot.schema.version, 0);
            writer.set_metadata(metadata.encode()?.as_ref().map(|bytes| bytes.as_slice()));
            self.write.put.extend(writer.finish()?.put);
        }
        Ok(())
    }

    /// The metadata of one value after the change, and what it is found by.
    fn value(&mut self, found: &Found, spec: &FieldSpec, before: &Metadata) -> Result<Edited, Error> {
        let after = self.edit.applied(before, &self.snapshot.schema, self.now)?;
        if after == *before {
            return Ok(Edited { metadata: after, changed: false });
        }
        let header = &self.snapshot.header;
        index::update_all(header, &found.key, &mut self.record, (&spec.id, &after), &mut self.write)?;
        Ok(Edited { metadata: after, changed: true })
    }

    fn finish(mut self, found: &Found) -> Result<Prepared, Error> {
        if self.write.put.is_empty() {
            return Ok(Prepared { edited: self.edited, ..Prepared::default() });
        }
        let header = &*self.snapshot.header;
        let listed = self.record.found_by(header);
        let stale = listed.iter().filter(|l| !l.live).count();
        let replaces = stale > STALE_MAX || index::is_crowded(listed);
        if replaces {
            // A mark of the subject stays: there may be more to tidy than this, and it costs nothing.
            self.record.forget_lookups(header, &found.key, |l| !l.live, &mut self.write);
        } else if stale > 0 {
            self.write.edits.push(stale::mark(header, &found.key));
        }
        self.write.entries = trail::change(&self.record.audit_key, &self.fields);
        let entry = found.encode(self.record, Room::Data)?;
        let op = if replaces { Op::Replace(entry) } else { Op::Insert(entry) };
        self.write.edits.push((Kind::Directory, found.key, op));
        Ok(Prepared { write: Some(self.write), replaces, edited: self.edited })
    }
}
