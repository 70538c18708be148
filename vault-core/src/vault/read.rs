//! Reading fields: decide → DEK from the directory → row → open → show as the view allows.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::metadata::{Metadata, RowMetadata};
use super::records::{DirectoryEntry, SubjectRecord, SubjectState, decode};
use super::restriction::Restrictions;
use super::row::{Row, RowPlace};
use super::session::{Snapshot, reading};
use super::subject;
use super::types::{Description, FieldStamp, LookupPage, ReadField, ReadOutcome, ReadRequest, Reader};
use super::{Inner, Vault};
use crate::audit::trail;
use crate::crypto::AuditKey;
use crate::error::Error;
use crate::ids::{Compartment, FieldName, Purpose, SubjectId};
use crate::policy::{self, Decision, Named, Question, Rule, SubjectStanding, ValueFacts};
use crate::schema::{FieldSpec, FieldValue, Schema, View};
use crate::time::Timestamp;
use crate::trie::{self, Kind};

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
        let outcome = reading!(session, |snapshot| self.inner.read(&snapshot, id, names, request).await);
        let outcome = match outcome {
            Ok(read) if read.fields.is_empty() && names.is_some_and(|n| n.len() == 1) => Err(Error::NoSuchField),
            outcome => outcome,
        };
        if outcome.is_err() {
            // Nothing is shown; what was asked for is told.
            let schema = &session.snapshot().schema;
            trail::fields(names.unwrap_or_default().iter().filter_map(|name| Some(&schema.field(name).ok()?.id)));
        }
        trail::ended(&outcome);
        outcome
    }

    /// Whether the reader may name the purpose that it names. While the vault is locked that is not known, and nothing
    /// can be read.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn check_purpose(&self, reader: &Reader) -> Result<(), Error> {
        let Some(session) = self.inner.session.load_full().filter(|_| reader.purpose.is_some()) else { return Ok(()) };
        let schema = &session.snapshot().schema;
        let checked = reader.named(schema).check();
        checked.map(|_| ()).map_err(|rule| refused(rule, None))
    }

    /// What is held of a subject, without values.
    ///
    /// # Errors
    /// [`Error::UnknownSubject`] or [`Error::Shredded`].
    pub async fn describe(&self, id: &SubjectId) -> Result<Description, Error> {
        let session = self.session()?;
        reading!(session, |snapshot| self.inner.describe(&snapshot, id).await)
    }

    /// Finds the subjects whose field has exactly this value (its JSON text), in pages. Those whose processing is
    /// restricted are found only for a purpose that is exempt.
    ///
    /// # Errors
    /// [`Error::Refused`] if the reader may not name its purpose; [`Error::Schema`] if the field is not declared for lookups or the value is not of its type.
    pub async fn look_up(
        &self,
        reader: &Reader,
        field: &FieldName,
        value: &str,
        region: Option<&str>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<LookupPage, Error> {
        let session = self.session()?;
        let schema = session.snapshot().schema.clone();
        let spec = schema.field(field)?;
        let form = spec.lookup_query(value, region)?;
        trail::fields([&spec.id]);
        let wanted = Wanted { spec, form: &form, finding: reader.finding(&schema, &[spec])? };
        let after = after.map(subject::parse_after).transpose()?;
        let limit = limit.clamp(1, LOOKUP_MAX);
        reading!(session, |snapshot| self.inner.look_up(&snapshot, &wanted, after, limit, trail::subject).await)
    }
}

/// What is looked up.
pub(super) struct Wanted<'a> {
    pub(super) spec: &'a FieldSpec,
    pub(super) form: &'a [u8],
    pub(super) finding: Finding<'a>,
}

/// Whom a lookup finds for its purpose.
pub(super) struct Finding<'a> {
    /// Whether subjects whose processing is restricted are found too.
    restricted: bool,
    /// The purpose that a subject must consent to, to be found.
    consent: Option<&'a Purpose>,
}

impl Finding<'_> {
    fn finds(&self, record: &SubjectRecord) -> bool {
        (self.restricted || !record.restricted) && self.consent.is_none_or(|purpose| record.consents.contains(purpose))
    }
}

/// A reading as it is asked for: what the caller may name, and which fields.
struct Asked<'a> {
    /// The question about any subject.
    any: Question<'a>,
    /// Sorted by name, each once.
    specs: Vec<&'a FieldSpec>,
    /// Whether they were named, so that a refusal of one refuses the request.
    named: bool,
}

impl<'a> Asked<'a> {
    fn of(schema: &'a Schema, names: Option<&[FieldName]>, request: &'a ReadRequest) -> Result<Self, Error> {
        let mut specs: Vec<&FieldSpec> = match names {
            Some(names) => names.iter().map(|n| schema.field(n)).collect::<Result<_, _>>()?,
            None => schema.fields().collect(),
        };
        specs.sort_by(|a, b| a.name.cmp(&b.name));
        specs.dedup_by(|a, b| a.name == b.name);
        let any = request.reader.question(schema, request.view);
        let asked = Self { any, specs, named: names.is_some() };
        asked.forestall()?;
        Ok(asked)
    }

    /// Refuses what would be refused of any subject, so that the answer tells nothing of this one.
    fn forestall(&self) -> Result<(), Error> {
        policy::admit(&self.any).map_err(|rule| refused(rule, None))?;
        self.specs
            .iter()
            .filter(|_| self.named)
            .try_for_each(|spec| self.view_of(&self.any, spec, ValueFacts::default()).map(|_| ()))
    }

    /// The decision on a field; an error only if the field was named and is refused.
    fn view_of(&self, question: &Question<'_>, spec: &FieldSpec, facts: ValueFacts) -> Result<Decision, Error> {
        match policy::decide_field(question, spec, facts) {
            Decision::Refuse(rule) if self.named => Err(refused(rule, Some(spec))),
            decision => Ok(decision),
        }
    }
}

fn refused(rule: Rule, field: Option<&FieldSpec>) -> Error {
    match rule {
        Rule::Shredded => Error::Shredded,
        Rule::TokenExpired => Error::Unauthenticated,
        rule => Error::Refused { rule, field: field.map(|spec| spec.name.clone()) },
    }
}

impl Reader {
    /// The purpose that the reader names, as it stands towards the schema.
    fn named<'s>(&self, schema: &'s Schema) -> Named<'s> {
        Named::of(schema, self.role, &self.purposes, self.purpose.as_deref())
    }

    /// What it asks about any subject: one that is in use, and consents.
    pub(super) fn question<'s>(&self, schema: &'s Schema, view: View) -> Question<'s> {
        Question {
            role: self.role,
            expired: self.expires_at.is_some_and(|at| at <= Timestamp::now()),
            purpose: self.named(schema),
            purpose_required: schema.purpose_required(),
            subject: SubjectStanding::Active,
            consent: true,
            view,
        }
    }

    /// Whom a lookup by these fields finds for the purpose; refused, if it shows nothing of one of them.
    pub(super) fn finding<'s>(&self, schema: &'s Schema, fields: &[&FieldSpec]) -> Result<Finding<'s>, Error> {
        let asked = self.question(schema, View::Masked);
        policy::admit(&asked).map_err(|rule| refused(rule, None))?;
        for spec in fields {
            if let Decision::Refuse(rule) = policy::decide_field(&asked, spec, ValueFacts::default()) {
                return Err(refused(rule, Some(spec)));
            }
        }
        let purpose = asked.purpose.check().map_err(|rule| refused(rule, None))?;
        Ok(Finding {
            restricted: purpose.is_some_and(|purpose| purpose.under_restriction),
            consent: purpose.filter(|purpose| purpose.needs_consent()).map(|purpose| &purpose.name),
        })
    }
}

/// A compartment's row, opened for a read.
struct OpenedRow<'a> {
    place: RowPlace<'a>,
    row: Row,
    metadata: RowMetadata,
}

impl Inner {
    async fn read(
        &self,
        snapshot: &Snapshot,
        id: &SubjectId,
        names: Option<&[FieldName]>,
        request: &ReadRequest,
    ) -> Result<ReadOutcome, Error> {
        let asked = Asked::of(&snapshot.schema, names, request)?;
        let now = Timestamp::now();
        let record = subject::find(self, &snapshot.header, id).await?.living(self.options.tombstone_seconds)?;
        let question = asked.any.about(record.standing(), &record.consents);
        policy::admit(&question).map_err(|rule| refused(rule, None))?;

        let mut rows: BTreeMap<&Compartment, OpenedRow<'_>> = BTreeMap::new();
        for compartment in asked.specs.iter().map(|spec| &spec.compartment) {
            if !rows.contains_key(compartment)
                && let Some(keys) = record.keys(compartment)
            {
                rows.insert(compartment, self.open_for_reading(record.row_place(keys)).await?);
            }
        }
        let mut outcome = ReadOutcome { fields: Vec::new(), decisions: Vec::with_capacity(asked.specs.len()) };
        for spec in &asked.specs {
            let opened = rows.get(&spec.compartment);
            let held = opened.and_then(|opened| Some((opened, opened.row.fields.get(&spec.id)?)));
            let facts = held.map_or(ValueFacts::default(), |(opened, entry)| {
                let metadata = opened.metadata.0.get(&spec.id);
                facts(spec, entry.updated_at, metadata, question.purpose_name(), now)
            });
            let decision = asked.view_of(&question, spec, facts)?;
            outcome.decisions.push((spec.name.clone(), decision));
            if let (Some((opened, entry)), Decision::Allow(view)) = (held, decision) {
                let value = if view == View::None {
                    // That it is held, and no more.
                    Zeroizing::new("null".to_owned())
                } else {
                    let plaintext = subject::open_field(self, &opened.row, &spec.id, &opened.place).await?;
                    let shown = spec.show(&FieldValue::decode(&plaintext)?, view, request.form);
                    let Some(value) = shown else { continue };
                    value
                };
                let stamp =
                    FieldStamp { name: spec.name.clone(), version: entry.version, updated_at: entry.updated_at };
                trail::fields([&spec.id]);
                outcome.fields.push(ReadField { stamp, value, lowered: (view != request.view).then_some(view) });
            }
        }
        Ok(outcome)
    }

    async fn open_for_reading<'a>(&self, place: RowPlace<'a>) -> Result<OpenedRow<'a>, Error> {
        let row = subject::open_row(self, &place).await?;
        let metadata = RowMetadata::open(&row, &place)?;
        Ok(OpenedRow { place, row, metadata })
    }

    async fn describe(&self, snapshot: &Snapshot, id: &SubjectId) -> Result<Description, Error> {
        let found = subject::find(self, &snapshot.header, id).await?;
        let record = found.living(self.options.tombstone_seconds)?;
        let mut fields = Vec::new();
        let held = record.compartments.iter().filter(|k| k.name != Compartment::system() && k.refused.is_none());
        for keys in held.clone() {
            let row = subject::open_row(self, &record.row_place(keys)).await?;
            fields.extend(row.fields.iter().map(|(id, entry)| {
                let name = snapshot.schema.field_by_id(id).map_or(id, |spec| &spec.name).clone();
                (FieldStamp { name, version: entry.version, updated_at: entry.updated_at }, keys.name.clone())
            }));
        }
        let restriction = match record.restricted {
            true => self.note::<Restrictions>(&record).await?.0,
            false => None,
        };
        let compartments = held.map(|k| (k.name.clone(), k.dek_version)).collect();
        Ok(Description {
            enrolled_at: record.enrolled_at,
            standing: record.standing(),
            restriction,
            consents: record.consents,
            holds: record.holds,
            compartments,
            fields,
        })
    }

    pub(super) async fn look_up(
        &self,
        snapshot: &Snapshot,
        wanted: &Wanted<'_>,
        after: Option<[u8; 16]>,
        limit: usize,
        found: impl Fn(&AuditKey),
    ) -> Result<LookupPage, Error> {
        let header = &*snapshot.header;
        let tag = subject::lookup_tag(header, &wanted.spec.id, wanted.form);
        let now = Timestamp::now();
        let after = after.map(|subject| subject::lookup_entry(tag, &subject::directory_of(subject)));
        let entries = trie::scan(&self.pages, header, Kind::Lookups, &tag, after.as_ref(), limit).await?;
        let next = (entries.len() == limit).then(|| entries.last().map(|(key, _)| hex::encode(&key[16..]))).flatten();
        let mut subjects = Vec::with_capacity(entries.len());
        for (entry, _) in entries {
            let directory = subject::directory_behind(&entry);
            if let Some(payload) = trie::find(&self.pages, header, Kind::Directory, &directory).await?
                && let DirectoryEntry::Subject(record) = decode(&payload)?
                && record.state == SubjectState::Active
                && wanted.finding.finds(&record)
                && record.keys(&wanted.spec.compartment).is_some()
                // An entry that a changed value left behind is passed over until it is removed.
                && record.is_found_by(header, tag)
                && self.in_time(&record, wanted.spec, now).await?
            {
                found(&record.audit_key);
                subjects.push(SubjectId::parse(&record.subject)?);
            }
        }
        Ok(LookupPage { subjects, next })
    }
}

/// What the policy needs to know of one value.
pub(super) fn facts(
    spec: &FieldSpec,
    updated_at: Timestamp,
    metadata: Option<&Metadata>,
    purpose: Option<&Purpose>,
    now: Timestamp,
) -> ValueFacts {
    let retained = spec.retention.is_none_or(|seconds| updated_at.plus_seconds(seconds) > now);
    let Some(metadata) = metadata else { return ValueFacts { expired: !retained, ..ValueFacts::default() } };
    let given_for = metadata.purposes.as_ref();
    ValueFacts {
        expired: !retained || metadata.expires_at.is_some_and(|at| at <= now),
        objection: purpose.is_some_and(|p| metadata.objections.contains(p)),
        other_purposes: purpose.is_some_and(|p| given_for.is_some_and(|given_for| !given_for.contains(p))),
        no_automated: metadata.automated == Some(false),
    }
}
