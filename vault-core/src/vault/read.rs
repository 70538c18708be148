//! Reading fields: decide → DEK from the directory → row → open → show as the view allows.

use super::session::{Snapshot, reading};
use super::subject;
use super::types::{Description, FieldStamp, LookupPage, ReadField, ReadOutcome, ReadRequest};
use super::{Inner, Vault};
use crate::error::Error;
use crate::ids::{FieldName, SubjectId};
use crate::schema::{Decision, FieldSpec, FieldValue, RULE_FIELD_NOT_FOR_PURPOSE, View, decide};
use crate::time::Timestamp;
use crate::trie::{self, EntryKey, Kind};

use super::records::{DirectoryEntry, SubjectState, decode};

/// The most subjects that one page of a lookup answers.
pub const LOOKUP_MAX: usize = 1000;

impl Vault {
    /// Reads fields: the named ones, or all that the purpose may see.
    ///
    /// # Errors
    /// [`Error::Refused`] if a named field, or the whole request, is against the policy; [`Error::UnknownSubject`],
    /// [`Error::Shredded`]; a named field that the subject does not hold is [`Error::NoSuchField`] if it is the only one
    /// named, and left out otherwise.
    pub async fn read_fields(
        &self,
        id: &SubjectId,
        names: Option<&[FieldName]>,
        request: &ReadRequest,
    ) -> Result<ReadOutcome, Error> {
        let session = self.session()?;
        let wanted = self.inner.decide_all(names, request)?;
        let outcome = reading!(session, |snapshot| self.inner.read(&snapshot, id, &wanted, request).await)?;
        if outcome.fields.is_empty() && names.is_some_and(|n| n.len() == 1) {
            return Err(Error::NoSuchField);
        }
        Ok(outcome)
    }

    /// What is held of a subject, without values.
    ///
    /// # Errors
    /// [`Error::UnknownSubject`] or [`Error::Shredded`].
    pub async fn describe(&self, id: &SubjectId) -> Result<Description, Error> {
        let session = self.session()?;
        reading!(session, |snapshot| self.inner.describe(&snapshot, id).await)
    }

    /// Finds the subjects whose field has exactly this value (its JSON text), in pages.
    ///
    /// # Errors
    /// [`Error::Schema`] if the field is not declared for lookups or the value is not of its type.
    pub async fn look_up(
        &self,
        field: &FieldName,
        value: &str,
        region: Option<&str>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<LookupPage, Error> {
        let session = self.session()?;
        let form = self.inner.schema.field(field)?.lookup_query(value, region)?;
        let after = after.map(parse_after).transpose()?;
        let limit = limit.clamp(1, LOOKUP_MAX);
        reading!(session, |snapshot| self.inner.look_up(&snapshot, field, &form, after, limit).await)
    }
}

/// A field to be read, the view it is shown in, and whether that is less than was asked for.
struct Wanted<'a> {
    spec: &'a FieldSpec,
    view: View,
    lowered: Option<View>,
}

impl Inner {
    fn decide_all<'a>(&'a self, names: Option<&[FieldName]>, request: &ReadRequest) -> Result<Vec<Wanted<'a>>, Error> {
        let specs: Vec<&FieldSpec> = match names {
            Some(names) => names.iter().map(|n| self.schema.field(n)).collect::<Result<_, _>>()?,
            None => self.schema.fields().collect(),
        };
        let mut wanted = Vec::with_capacity(specs.len());
        for spec in specs {
            match decide(&self.schema, spec, request.view, request.purpose.as_ref()) {
                Decision::Allow(view) => {
                    let lowered = (view != request.view).then_some(view);
                    wanted.push(Wanted { spec, view, lowered });
                }
                // All that the caller may see: a field that he may not is simply not among it.
                Decision::Refuse { rule } if rule == RULE_FIELD_NOT_FOR_PURPOSE && names.is_none() => {}
                Decision::Refuse { rule } => return Err(Error::Refused { rule }),
            }
        }
        wanted.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        wanted.dedup_by(|a, b| a.spec.name == b.spec.name);
        Ok(wanted)
    }

    async fn read(
        &self,
        snapshot: &Snapshot,
        id: &SubjectId,
        wanted: &[Wanted<'_>],
        request: &ReadRequest,
    ) -> Result<ReadOutcome, Error> {
        let found = subject::find(self, &snapshot.header, id).await?;
        let record = found.living(Timestamp::now(), self.options.tombstone_seconds)?;
        let place = record.row_place(&record.compartments[0]);
        let row = subject::open_row(self, &place).await?;
        let mut fields = Vec::with_capacity(wanted.len());
        for Wanted { spec, view, lowered } in wanted {
            let Some(entry) = row.fields.get(&spec.name) else { continue };
            let plaintext = subject::open_field(self, &row, &spec.name, &place).await?;
            let value = FieldValue::decode(&plaintext)?;
            let Some(value) = spec.show(&value, *view, request.form) else { continue };
            let stamp = FieldStamp { name: spec.name.clone(), version: entry.version, updated_at: entry.updated_at };
            fields.push(ReadField { stamp, value, lowered: *lowered });
        }
        Ok(ReadOutcome { fields })
    }

    async fn describe(&self, snapshot: &Snapshot, id: &SubjectId) -> Result<Description, Error> {
        let found = subject::find(self, &snapshot.header, id).await?;
        let record = found.living(Timestamp::now(), self.options.tombstone_seconds)?;
        let mut fields = Vec::new();
        for keys in &record.compartments {
            let row = subject::open_row(self, &record.row_place(keys)).await?;
            fields.extend(row.fields.iter().map(|(name, entry)| {
                let stamp = FieldStamp { name: name.clone(), version: entry.version, updated_at: entry.updated_at };
                (stamp, keys.name.clone())
            }));
        }
        let compartments = record.compartments.iter().map(|k| (k.name.clone(), k.dek_version)).collect();
        Ok(Description { enrolled_at: record.enrolled_at, compartments, fields })
    }

    async fn look_up(
        &self,
        snapshot: &Snapshot,
        field: &FieldName,
        form: &[u8],
        after: Option<[u8; 16]>,
        limit: usize,
    ) -> Result<LookupPage, Error> {
        let header = &*snapshot.header;
        let tag = subject::lookup_tag(header, field, form);
        let after: Option<EntryKey> = after.map(|subject| {
            let mut key = [0; 32];
            key[..16].copy_from_slice(&tag);
            key[16..].copy_from_slice(&subject);
            key
        });
        let entries = trie::scan(&self.pages, header, Kind::Lookups, &tag, after.as_ref(), limit).await?;
        let next = (entries.len() == limit).then(|| entries.last().map(|(key, _)| hex::encode(&key[16..]))).flatten();
        let mut subjects = Vec::with_capacity(entries.len());
        for (entry, _) in entries {
            let mut directory = [0; 32];
            directory[..16].copy_from_slice(&entry[16..]);
            if let Some(payload) = trie::find(&self.pages, header, Kind::Directory, &directory).await?
                && let DirectoryEntry::Subject(record) = decode(&payload)?
                && record.state == SubjectState::Active
                // An entry that a changed value left behind is passed over until it is removed.
                && record.lookups.iter().any(|l| l.live && l.tag == tag)
            {
                subjects.push(SubjectId::parse(&record.subject)?);
            }
        }
        Ok(LookupPage { subjects, next })
    }
}

fn parse_after(text: &str) -> Result<[u8; 16], Error> {
    let mut subject = [0; 16];
    hex::decode_to_slice(text, &mut subject)
        .map_err(|_| Error::Invalid { field: "after", expected: "the `next` of the page before" })?;
    Ok(subject)
}
