//! Values found by their metadata, in pages: through the entries of the trie, or, for what a purpose may use, by the
//! policy itself: first those that were given for it by name, then all that were given for no purpose by name. No value is
//! opened.

use std::collections::BTreeMap;

use super::{RowMetadata, edit, index};
use crate::audit::{Pseudonym, trail};
use crate::crypto::tag::Tag;
use crate::error::Error;
use crate::ids::{FieldName, Purpose, SubjectId};
use crate::policy::{self, Decision, Named, Question, SubjectStanding};
use crate::schema::{FieldSpec, Schema, View};
use crate::time::Timestamp;
use crate::trie::{self, EntryKey, Header, Kind};
use crate::vault::read::facts;
use crate::vault::records::{DirectoryEntry, Indexed, SubjectRecord, SubjectState};
use crate::vault::session::{Snapshot, reading};
use crate::vault::types::Role;
use crate::vault::{Inner, Vault, subject};

/// The most values that one page of a search answers; one that ends with a subject's values may be a little longer.
pub const SEARCH_MAX: usize = 1000;
/// Entries, days or subjects that one page looks at, so that none takes long; it may find nothing and have a next.
const LOOK_MAX: usize = 20_000;
/// Subjects that one page of the directory looks at, for it opens their rows.
const WALK_MAX: usize = 2_000;
/// How far ahead an expiry is looked for, in days: ten years.
const DAYS_AHEAD: u32 = 3_653;
/// How far back, in days; a vault is not expected to have been asleep with an expired value for longer.
const DAYS_BACK: u32 = 400;
/// In the place of a field: what was given for the purpose by name was told, and the directory is walked. A schema declares
/// fewer fields.
const WALK: u16 = u16::MAX;

/// What values are searched by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataQuery {
    /// They come from there.
    Source(String),
    /// They were given for this purpose by name.
    Purpose(Purpose),
    /// The subject objects to this purpose.
    Objection(Purpose),
    /// They were shared with him.
    Recipient(String),
    /// They expire before this time, at most ten years ahead.
    ExpiresBefore(Timestamp),
    /// A read for this purpose would show something of them now: schema, consent, restriction, objections, expiry.
    UsableFor(Purpose),
}

/// A value that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundValue {
    /// Whose.
    pub subject: SubjectId,
    /// Which.
    pub field: FieldName,
}

/// A page of what was found.
pub struct MetadataPage {
    /// Each value once.
    pub values: Vec<FoundValue>,
    /// Where the next page starts; there may be one even if this one is empty.
    pub next: Option<String>,
}

/// A value that was found, with what finds it again quickly.
pub(crate) struct Match {
    pub(crate) directory: EntryKey,
    pub(crate) subject: SubjectId,
    /// The field's id.
    pub(crate) field: FieldName,
    name: FieldName,
    /// How the trail of the request names the subject.
    pseudonym: Option<Pseudonym>,
}

/// Where a search goes on: behind this subject, of this field and day.
#[derive(Clone, Copy, Default)]
pub(crate) struct Cursor {
    field: u16,
    day: u32,
    subject: Tag,
}

/// Matches, and where the next ones are.
pub(crate) type Matches = (Vec<Match>, Option<Cursor>);

impl Vault {
    /// The values whose metadata answers to the query, and their subjects, in pages.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a purpose that is not declared, a time too far ahead, or an `after` that is none.
    pub async fn search_metadata(
        &self,
        query: &MetadataQuery,
        after: Option<&str>,
        limit: usize,
    ) -> Result<MetadataPage, Error> {
        let session = self.session()?;
        query.check(&session.snapshot().schema)?;
        let after = after.map(Cursor::parse).transpose()?.unwrap_or_default();
        let limit = limit.clamp(1, SEARCH_MAX);
        let (matches, next) = reading!(session, |snapshot| self.inner.matches(&snapshot, query, after, limit).await)?;
        let mut fields: BTreeMap<Option<Pseudonym>, Vec<&FieldName>> = BTreeMap::new();
        matches.iter().for_each(|found| fields.entry(found.pseudonym).or_default().push(&found.field));
        fields.into_iter().for_each(|(pseudonym, fields)| trail::found(pseudonym, fields));
        let values = matches.into_iter().map(|m| FoundValue { subject: m.subject, field: m.name }).collect();
        Ok(MetadataPage { values, next: next.map(Cursor::text) })
    }
}

impl MetadataQuery {
    pub(super) fn check(&self, schema: &Schema) -> Result<(), Error> {
        let latest = Timestamp::now().plus_seconds(u64::from(DAYS_AHEAD) * 24 * 60 * 60);
        match self {
            Self::Source(text) | Self::Recipient(text) if !edit::is_line(text) => {
                let field = if matches!(self, Self::Source(_)) { "source" } else { "recipient" };
                Err(Error::Invalid { field, expected: "1 to 128 bytes of text on one line" })
            }
            Self::UsableFor(purpose) if schema.purpose(purpose.as_str()).is_none() => {
                Err(Error::Invalid { field: "usable_for", expected: "a purpose that the schema declares" })
            }
            Self::Purpose(purpose) | Self::Objection(purpose) if schema.purpose(purpose.as_str()).is_none() => {
                let field = if matches!(self, Self::Purpose(_)) { "purpose" } else { "objection" };
                Err(Error::Invalid { field, expected: "a purpose that the schema declares" })
            }
            Self::ExpiresBefore(at) if *at > latest => {
                Err(Error::Invalid { field: "expires_before", expected: "a time at most ten years ahead" })
            }
            _ => Ok(()),
        }
    }
}

impl Inner {
    /// A page of values that answer to the query.
    pub(crate) async fn matches(
        &self,
        snapshot: &Snapshot,
        query: &MetadataQuery,
        after: Cursor,
        limit: usize,
    ) -> Result<Matches, Error> {
        match query {
            MetadataQuery::Source(text) => {
                self.indexed(snapshot, Indexed::Source, Sought::Text(text), after, limit).await
            }
            MetadataQuery::Recipient(text) => {
                self.indexed(snapshot, Indexed::Recipient, Sought::Text(text), after, limit).await
            }
            MetadataQuery::Purpose(purpose) => {
                self.indexed(snapshot, Indexed::Purpose, Sought::Text(purpose.as_str()), after, limit).await
            }
            MetadataQuery::Objection(purpose) => {
                self.indexed(snapshot, Indexed::Objection, Sought::Text(purpose.as_str()), after, limit).await
            }
            MetadataQuery::ExpiresBefore(at) => {
                self.indexed(snapshot, Indexed::Expiry, Sought::Before(*at), after, limit).await
            }
            MetadataQuery::UsableFor(purpose) => self.usable(snapshot, purpose, after, limit).await,
        }
    }

    /// By the entries of the trie: of each field in its order, of each day.
    async fn indexed(
        &self,
        snapshot: &Snapshot,
        of: Indexed,
        sought: Sought<'_>,
        mut at: Cursor,
        limit: usize,
    ) -> Result<Matches, Error> {
        let header = &*snapshot.header;
        let days = sought.days(header);
        let mut matches = Vec::new();
        let mut looked = 0;
        for spec in snapshot.schema.fields().skip(at.field.into()) {
            at.day = at.day.max(days.0);
            while at.day <= days.1 {
                let tag = index::tag(header, of, &spec.id, &sought.value(at.day));
                loop {
                    let room = limit - matches.len();
                    let after = subject::lookup_entry(tag, &subject::directory_of(at.subject));
                    let entries = trie::scan(&self.pages, header, Kind::Lookups, &tag, Some(&after), room).await?;
                    looked += 1 + entries.len();
                    for (entry, _) in &entries {
                        at.subject = entry[16..].try_into().expect("an entry key has 32 bytes");
                        matches.extend(self.holding(snapshot, spec, tag, at.subject, &sought).await?);
                    }
                    if matches.len() >= limit || looked > LOOK_MAX {
                        return Ok((matches, Some(at)));
                    }
                    if entries.len() < room {
                        break;
                    }
                }
                at = Cursor { day: at.day + 1, subject: Tag::default(), ..at };
            }
            at = Cursor { field: at.field + 1, ..Cursor::default() };
        }
        Ok((matches, None))
    }

    /// The subject of an entry, if the entry still holds.
    async fn holding(
        &self,
        snapshot: &Snapshot,
        spec: &FieldSpec,
        tag: Tag,
        subject: Tag,
        sought: &Sought<'_>,
    ) -> Result<Option<Match>, Error> {
        let header = &*snapshot.header;
        let directory = subject::directory_of(subject);
        let found = subject::find_by_key(self, header, directory).await?;
        let Some(DirectoryEntry::Subject(record)) = found.entry else { return Ok(None) };
        let holds = record.state == SubjectState::Active
            && record.is_found_by(header, tag)
            && record.keys(&spec.compartment).is_some()
            && self.exactly(snapshot, &record, spec, sought).await?;
        holds.then(|| matched(directory, &record, spec)).transpose()
    }

    /// An entry tells the day of an expiry only, and nothing of the policy; the exact time, and what that needs, are in the row.
    async fn exactly(
        &self,
        snapshot: &Snapshot,
        record: &SubjectRecord,
        spec: &FieldSpec,
        sought: &Sought<'_>,
    ) -> Result<bool, Error> {
        let limit = match sought {
            Sought::Text(_) => return Ok(true),
            Sought::Usable(purpose) => {
                let usable = self.usable_of(snapshot, record, purpose, |other| other.id == spec.id).await?;
                return Ok(!usable.is_empty());
            }
            Sought::Before(limit) => limit,
        };
        let Some(keys) = record.keys(&spec.compartment) else { return Ok(false) };
        let place = record.row_place(keys);
        let metadata = RowMetadata::open(&subject::open_row(self, &place).await?, &place)?;
        Ok(metadata.0.get(&spec.id).and_then(|metadata| metadata.expires_at).is_some_and(|at| at < *limit))
    }

    /// By the policy: what was given for the purpose by name is found by its entry; else every subject of the directory, every
    /// value of his that was given for no purpose by name.
    async fn usable(
        &self,
        snapshot: &Snapshot,
        purpose: &Purpose,
        mut at: Cursor,
        limit: usize,
    ) -> Result<Matches, Error> {
        let mut matches = Vec::new();
        if at.field != WALK {
            let next;
            (matches, next) = self.indexed(snapshot, Indexed::Purpose, Sought::Usable(purpose), at, limit).await?;
            if next.is_some() {
                return Ok((matches, next));
            }
            at = Cursor { field: WALK, ..Cursor::default() };
        }
        let mut walked = 0;
        loop {
            let subjects = subject::page(self, &snapshot.header, Some(subject::directory_of(at.subject)), 256).await?;
            let full = subjects.len() == 256;
            for (directory, entry) in subjects {
                at.subject = subject::tag_of(&directory);
                if let DirectoryEntry::Subject(record) = entry {
                    walked += 1;
                    let by_name: Vec<&FieldName> = by_name(&record, &snapshot.header).collect();
                    let rest = |spec: &FieldSpec| !by_name.contains(&&spec.id);
                    for spec in self.usable_of(snapshot, &record, purpose, rest).await? {
                        matches.push(matched(directory, &record, spec)?);
                    }
                }
                if matches.len() >= limit || walked >= WALK_MAX {
                    return Ok((matches, Some(at)));
                }
            }
            if !full {
                return Ok((matches, None));
            }
        }
    }

    /// The values of a subject, of these fields, that a read for the purpose would show something of.
    async fn usable_of<'s>(
        &self,
        snapshot: &'s Snapshot,
        record: &SubjectRecord,
        purpose: &Purpose,
        of: impl Fn(&FieldSpec) -> bool,
    ) -> Result<Vec<&'s FieldSpec>, Error> {
        let Some(declared) = snapshot.schema.purpose(purpose.as_str()) else { return Ok(Vec::new()) };
        let any = Question {
            role: Role::Admin,
            expired: false,
            purpose: Named::Purpose(declared),
            purpose_required: false,
            subject: SubjectStanding::Active,
            consent: true,
            view: View::Full,
        };
        let question = any.about(record.standing(), &record.consents);
        if policy::admit(&question).is_err() {
            return Ok(Vec::new());
        }
        let now = Timestamp::now();
        let mut usable = Vec::new();
        for keys in record.compartments.iter().filter(|keys| keys.refused.is_none()) {
            let in_it =
                |spec: &&FieldSpec| spec.compartment == keys.name && spec.ceiling(declared) != View::None && of(spec);
            let specs: Vec<&FieldSpec> = snapshot.schema.fields().filter(in_it).collect();
            if specs.is_empty() {
                continue;
            }
            let place = record.row_place(keys);
            let row = subject::open_row(self, &place).await?;
            let metadata = RowMetadata::open(&row, &place)?;
            usable.extend(specs.into_iter().filter(|spec| {
                let Some(entry) = row.fields.get(&spec.id) else { return false };
                let facts = facts(spec, entry.updated_at, metadata.0.get(&spec.id), Some(purpose), now);
                matches!(policy::decide_field(&question, spec, facts), Decision::Allow(view) if view != View::None)
            }));
        }
        Ok(usable)
    }
}

/// What an entry of the trie is searched by.
enum Sought<'a> {
    Text(&'a str),
    Before(Timestamp),
    /// What was given for this purpose by name, as far as a read for it would show something.
    Usable(&'a Purpose),
}

impl Sought<'_> {
    /// The first and the last day to look at; one day for what has none.
    fn days(&self, header: &Header) -> (u32, u32) {
        let Self::Before(at) = self else { return (0, 0) };
        let today = index::day_of(Timestamp::now());
        // No expiry lies before the vault was made, for it lies ahead when it is set; a clock may have been wrong a little.
        let made = index::day_of(header.created_at()).saturating_sub(2);
        let first = made.min(today.saturating_sub(DAYS_BACK)).max(today.saturating_sub(DAYS_AHEAD));
        (first, index::day_of(*at).min(today + DAYS_AHEAD))
    }

    fn value(&self, day: u32) -> Vec<u8> {
        match self {
            Self::Text(text) => text.as_bytes().to_vec(),
            Self::Usable(purpose) => purpose.as_str().as_bytes().to_vec(),
            Self::Before(_) => day.to_be_bytes().to_vec(),
        }
    }
}

/// The fields whose values were given for purposes by name.
fn by_name<'r>(record: &'r SubjectRecord, header: &Header) -> impl Iterator<Item = &'r FieldName> {
    let listed = record.found_by(header).iter();
    listed.filter(|listed| listed.live && listed.of == Indexed::Purpose).map(|listed| &listed.field)
}

fn matched(directory: EntryKey, record: &SubjectRecord, spec: &FieldSpec) -> Result<Match, Error> {
    let subject = SubjectId::parse(&record.subject)?;
    let (field, name, pseudonym) = (spec.id.clone(), spec.name.clone(), trail::name(&record.audit_key));
    Ok(Match { directory, subject, field, name, pseudonym })
}

/// What reads as a place in the search is written again as the same digits.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn parse_cursor_again(text: &str) -> bool {
    let Ok(cursor) = Cursor::parse(text) else { return false };
    assert_eq!(cursor.text(), text.to_ascii_lowercase());
    true
}

impl Cursor {
    fn text(self) -> String {
        let mut bytes = [0; 22];
        bytes[..2].copy_from_slice(&self.field.to_be_bytes());
        bytes[2..6].copy_from_slice(&self.day.to_be_bytes());
        bytes[6..].copy_from_slice(&self.subject);
        hex::encode(bytes)
    }

    fn parse(text: &str) -> Result<Self, Error> {
        let mut bytes = [0; 22];
        hex::decode_to_slice(text, &mut bytes)
            .map_err(|_| Error::Invalid { field: "after", expected: "the `next` of the page before" })?;
        Ok(Self {
            field: u16::from_be_bytes([bytes[0], bytes[1]]),
            day: u32::from_be_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]),
            subject: bytes[6..].try_into().expect("16 of 22 bytes"),
        })
    }
}
