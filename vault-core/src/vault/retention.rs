//! Retention: values whose time is over are forgotten for good, in the background.
//!
//! They are unreadable from the moment their time is over, for every read looks at the clock; the sweep makes it final. It
//! goes the same way as forgetting one field does, and many subjects share a root batch. A pass goes by one settled time, and
//! the change that forgets asks again whether a value's time was over then: a clock that jumps makes a pass find less, and a
//! value that was written meanwhile stays.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use super::metadata::{MetadataQuery, RowMetadata};
use super::read::facts;
use super::records::{DirectoryEntry, Indexed, SubjectRecord, SubjectState};
use super::row::Entry;
use super::session::{Session, Snapshot, reading};
use super::types::{Change, PutOptions, RetentionStatus};
use super::{Inner, Vault, subject};
use crate::audit::{Action, Trail};
use crate::error::Error;
use crate::ids::{Compartment, FieldName, SubjectId};
use crate::memory;
use crate::schema::{FieldSpec, Schema, SchemaError};
use crate::time::Timestamp;
use crate::trie::EntryKey;

/// Subjects that are looked at before others get a turn.
const PAGE: usize = 256;
/// Subjects whose values are forgotten at once, so that they share root batches.
const TOGETHER: usize = 64;
/// Between two pages.
const PAUSE: Duration = Duration::from_millis(5);
/// Before the first pass of a session, if passes are further apart than this.
const FIRST_AFTER: Duration = Duration::from_secs(60);

/// What is kept of sweeps while the process runs.
#[derive(Default)]
pub(super) struct Sweeps {
    status: Mutex<RetentionStatus>,
    /// Held during a pass: there is one at a time.
    passing: tokio::sync::Mutex<()>,
}

/// Values of one subject that have expired.
struct Expired {
    subject: SubjectId,
    held: bool,
    /// When it was looked at.
    at: Timestamp,
    fields: Vec<FieldName>,
}

/// The fields of a subject that a pass looks at.
#[derive(Default)]
enum Which {
    #[default]
    All,
    These(Vec<FieldName>),
}

impl Vault {
    /// Forgets every value whose time is over, for good, and answers what this pass did. The same goes on by itself, every
    /// [`VaultOptions::sweep_seconds`](super::VaultOptions::sweep_seconds).
    ///
    /// Values of subjects under a legal hold are left, and counted.
    ///
    /// # Errors
    /// [`Error::Locked`]; [`Error::Slot`] if a root slot does not answer: what is left is tried again in the next pass.
    pub async fn sweep_expired(&self) -> Result<RetentionStatus, Error> {
        let session = self.session()?;
        self.inner.sweep_expired(&session).await
    }
}

/// Sweeps until it is aborted, which it may be at any point: what it has under way is final or untouched.
pub(super) async fn run(inner: Arc<Inner>, session: Arc<Session>) {
    let every = Duration::from_secs(inner.options.sweep_seconds.max(1));
    tokio::time::sleep(every.min(FIRST_AFTER)).await;
    loop {
        match memory::apart(|| inner.sweep_expired(&session)).await {
            Ok(_) => {}
            Err(Error::Locked | Error::LockedMeanwhile) => return,
            Err(error) => {
                tracing::warn!(%error, "values whose time is over could not all be forgotten; it is tried again")
            }
        }
        tokio::time::sleep(every).await;
    }
}

impl Which {
    fn add(&mut self, field: FieldName) {
        match self {
            Self::All => *self = Self::These(vec![field]),
            Self::These(fields) => fields.push(field),
        }
    }

    fn has(&self, field: &FieldName) -> bool {
        match self {
            Self::All => true,
            Self::These(fields) => fields.contains(field),
        }
    }
}

impl Sweeps {
    pub(super) fn status(&self) -> RetentionStatus {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, change: impl FnOnce(&mut RetentionStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Inner {
    async fn sweep_expired(self: &Arc<Self>, session: &Arc<Session>) -> Result<RetentionStatus, Error> {
        let _alone = self.sweeps.passing.lock().await;
        let now = Timestamp::settled();
        self.sweeps.note(|status| {
            status.started_at = Some(now);
            (status.subjects, status.forgotten, status.held, status.failed) = (0, 0, 0, 0);
        });
        let schema = session.snapshot().schema.clone();
        if schema.fields().any(|spec| spec.retention.is_some()) {
            self.sweep_directory(session, now).await?;
        } else {
            self.sweep_index(session, now).await?;
        }
        self.sweeps.note(|status| status.finished_at = Some(Timestamp::now()));
        Ok(self.sweeps.status())
    }

    /// Every subject is looked at: the schema says how long values are kept.
    async fn sweep_directory(self: &Arc<Self>, session: &Arc<Session>, now: Timestamp) -> Result<(), Error> {
        let mut after = None;
        loop {
            let page = reading!(session, |snapshot| subject::page(self, &snapshot.header, after, PAGE).await)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            let living = page.into_iter().filter(|(_, entry)| matches!(entry, DirectoryEntry::Subject(_)));
            self.sweep_page(session, living.map(|(key, _)| (key, Which::All)).collect(), now).await?;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Only what has an expiry of its own is looked at; the index leads to it.
    async fn sweep_index(self: &Arc<Self>, session: &Arc<Session>, now: Timestamp) -> Result<(), Error> {
        // One more millisecond, for a value expires at its time, not behind it.
        let query = MetadataQuery::ExpiresBefore(Timestamp(now.0.saturating_add(1)));
        let mut after = Some(super::metadata::Cursor::default());
        while let Some(at) = after {
            let (matches, next) = reading!(session, |snapshot| self.matches(&snapshot, &query, at, PAGE).await)?;
            let mut subjects: BTreeMap<EntryKey, Which> = BTreeMap::new();
            for found in matches {
                subjects.entry(found.directory).or_default().add(found.field);
            }
            self.sweep_page(session, subjects, now).await?;
            after = next;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    async fn sweep_page(
        self: &Arc<Self>,
        session: &Arc<Session>,
        subjects: BTreeMap<EntryKey, Which>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut forgetting = JoinSet::new();
        for (key, which) in subjects {
            let looked = reading!(session, |snapshot| self.expired_of(&snapshot, key, &which, now).await);
            self.sweeps.note(|status| status.subjects += 1);
            let expired = match looked {
                Ok(Some(expired)) => expired,
                Ok(None) => continue,
                // One damaged subject keeps nobody else's values.
                Err(error) => {
                    self.failed_one(&error)?;
                    continue;
                }
            };
            if expired.held {
                self.sweeps.note(|status| status.held += expired.fields.len() as u64);
                continue;
            }
            if forgetting.len() == TOGETHER {
                self.forgot(forgetting.join_next().await)?;
            }
            let (inner, session) = (self.clone(), session.clone());
            forgetting.spawn(async move { inner.forget_expired(&session, &expired).await });
        }
        while !forgetting.is_empty() {
            self.forgot(forgetting.join_next().await)?;
        }
        Ok(())
    }

    fn forgot(&self, done: Option<Result<Result<(), Error>, tokio::task::JoinError>>) -> Result<(), Error> {
        match done {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => self.failed_one(&error),
            Some(Err(_)) => Err(Error::Failed),
        }
    }

    /// Counts what went wrong with one subject; what would go wrong with all ends the pass.
    fn failed_one(&self, error: &Error) -> Result<(), Error> {
        match error {
            Error::Damaged(_) | Error::TooLarge | Error::Conflict(_) => {
                tracing::warn!(%error, "values of a subject whose time is over could not be forgotten");
                self.sweeps.note(|status| status.failed += 1);
                Ok(())
            }
            Error::Slot(slot) => Err(Error::Slot(slot.clone())),
            other => Err(other.again()),
        }
    }

    /// All of a subject's in one final change. By then a name may be another field's, or a value may have got more time: it
    /// is asked again, and what does not hold waits for the next pass.
    async fn forget_expired(&self, session: &Session, expired: &Expired) -> Result<(), Error> {
        let count = expired.fields.len() as u64;
        let changes = expired.fields.iter().map(|field| (field.clone(), Change::Remove)).collect();
        let options = PutOptions { final_: true, expired_at: Some(expired.at), ..PutOptions::default() };
        let put = self.put(session, &expired.subject, &changes, &options);
        match Trail::new(Action::Retention).follow(put).await {
            Ok(_) => self.sweeps.note(|status| {
                status.forgotten += count;
                status.forgotten_in_all += count;
            }),
            Err(Error::Held { .. }) => self.sweeps.note(|status| status.held += count),
            // One was written anew, forgotten, renamed or shredded meanwhile.
            Err(
                Error::PreconditionFailed
                | Error::Shredded
                | Error::UnknownSubject
                | Error::Schema(SchemaError::UnknownField(_)),
            ) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Whether a subject's value of this field, if there is one, still has time: an expired one is not found by it either.
    pub(super) async fn in_time(
        &self,
        record: &SubjectRecord,
        spec: &FieldSpec,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let Some(keys) = record.keys(&spec.compartment).filter(|_| has_end(record, spec)) else { return Ok(true) };
        let place = record.row_place(keys);
        let row = subject::open_row(self, &place).await?;
        let metadata = RowMetadata::open(&row, &place)?;
        let expired = |entry: &Entry| facts(spec, entry.updated_at, metadata.0.get(&spec.id), None, now).expired;
        Ok(!row.fields.get(&spec.id).is_some_and(expired))
    }

    /// What has expired of a subject. Only rows that may hold such a thing are opened, and no value.
    async fn expired_of(
        &self,
        snapshot: &Snapshot,
        key: EntryKey,
        which: &Which,
        now: Timestamp,
    ) -> Result<Option<Expired>, Error> {
        let found = subject::find_by_key(self, &snapshot.header, key).await?;
        let Some(DirectoryEntry::Subject(record)) = found.entry else { return Ok(None) };
        if record.state != SubjectState::Active {
            return Ok(None);
        }
        let mut fields = Vec::new();
        for (compartment, specs) in may_expire(&snapshot.schema, &record) {
            let Some(keys) = record.keys(compartment) else { continue };
            let place = record.row_place(keys);
            let row = subject::open_row(self, &place).await?;
            let metadata = RowMetadata::open(&row, &place)?;
            for spec in specs.into_iter().filter(|spec| which.has(&spec.id)) {
                let Some(entry) = row.fields.get(&spec.id) else { continue };
                if facts(spec, entry.updated_at, metadata.0.get(&spec.id), None, now).expired {
                    fields.push(spec.name.clone());
                }
            }
        }
        if fields.is_empty() {
            return Ok(None);
        }
        Ok(Some(Expired {
            subject: SubjectId::parse(&record.subject)?,
            held: !record.holds.is_empty(),
            at: now,
            fields,
        }))
    }
}

/// The fields that have an end, by the compartment they are in.
fn may_expire<'s>(schema: &'s Schema, record: &SubjectRecord) -> BTreeMap<&'s Compartment, Vec<&'s FieldSpec>> {
    let mut fields: BTreeMap<&Compartment, Vec<&FieldSpec>> = BTreeMap::new();
    for spec in schema.fields().filter(|spec| has_end(record, spec)) {
        fields.entry(&spec.compartment).or_default().push(spec);
    }
    fields
}

/// Whether a value of this field has an end, by the schema or by its own metadata.
fn has_end(record: &SubjectRecord, spec: &FieldSpec) -> bool {
    spec.retention.is_some() || record.all_lookups().any(|l| l.live && l.of == Indexed::Expiry && l.field == spec.id)
}
