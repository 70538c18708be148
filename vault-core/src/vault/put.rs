//! Writing fields: parse → seal under the DEKs of their compartments → the writer checks and commits → done.

mod batch;
mod rows;

use std::collections::BTreeSet;
use std::sync::Arc;

use zeroize::Zeroizing;

pub(super) use rows::first_keys;

use super::records::{DirectoryEntry, SubjectState};
use super::session::{Finalized, Session, Snapshot, reading};
use super::subject;
use super::turns::{ATTEMPTS, too_busy};
use super::types::{Change, Changes, PutOptions, PutOutcome};
use super::writer::Write;
use super::{Inner, Vault};
use crate::audit::trail;
use crate::error::Error;
use crate::ids::{FieldName, SubjectId};
use crate::schema::{FieldSpec, Schema, SchemaError};
use crate::time::Timestamp;
use crate::trie::{self, Header};

/// How long a turn is kept for a root batch.
pub(super) const TURN_KEPT: std::time::Duration = std::time::Duration::from_secs(2);
/// Lookup entries that ordinary writes may leave behind with one subject before a write waits for a root batch: its
/// record stays far smaller than a payload may be, so that a shred always fits.
pub(super) const STALE_MAX: usize = 32;
/// A change that passed its field's type.
struct Parsed<'a> {
    spec: &'a FieldSpec,
    /// None removes the field.
    value: Option<ParsedValue>,
}

struct ParsedValue {
    /// What is sealed.
    encoded: Zeroizing<Vec<u8>>,
    /// What the lookup tag is made of, if the field is looked up by.
    lookup_form: Option<Zeroizing<Vec<u8>>>,
}

/// A write ready for the writer, and what to answer when it is committed.
pub(super) struct Prepared {
    write: Write,
    outcome: PutOutcome,
    /// Whether it replaces keys or removes entries, so that it needs a root batch.
    replaces: bool,
    /// Whether this is a part only, and the rest is to be prepared once it is committed.
    more: bool,
}

/// What one call changes, the same for every compartment.
struct Putting<'a> {
    header: &'a Header,
    schema: &'a Schema,
    options: &'a PutOptions,
    now: Timestamp,
}

impl Vault {
    /// Enrols the subject, or merges the changes into what it has. Durable when this returns; with
    /// [`PutOptions::final_`], what was overwritten or removed is finally forgotten too.
    ///
    /// # Errors
    /// [`Error::Schema`] for an undeclared field or a value that is not of its type, [`Error::Shredded`] on a shredded id
    /// unless [`PutOptions::enrol_again`], [`Error::PreconditionFailed`] where `if_match` does not hold.
    pub async fn put_fields(
        &self,
        id: &SubjectId,
        changes: Changes,
        options: &PutOptions,
    ) -> Result<PutOutcome, Error> {
        let session = self.session()?;
        self.inner.put(&session, id, &changes, options).await
    }

    /// Forgets one field for good: its compartment gets a new DEK, the row is re-sealed, and the old DEK is removed in a
    /// root batch. Final when this returns, unless it answers what it waits for: see [`PutOutcome::waits_for`]. A field that is
    /// not held is no error: an earlier removal that was not final becomes so.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`] if the field has not the version `if_match`; [`Error::UnknownSubject`],
    /// [`Error::Shredded`], and [`Error::Slot`] if a root slot does not answer: then
    /// nothing was changed.
    pub async fn forget_field(
        &self,
        id: &SubjectId,
        field: &FieldName,
        if_match: Option<u32>,
    ) -> Result<Option<String>, Error> {
        let session = self.session()?;
        self.describe(id).await?;
        let options = PutOptions { final_: true, if_match, ..PutOptions::default() };
        self.inner.put(&session, id, &vec![(field.clone(), Change::Remove)], &options).await.map(|put| put.waits_for)
    }
}

/// Commits in a root batch, as [`Session::commit_with_root`]. A turn is kept meanwhile, so that nobody changes the subject
/// before it, but not for as long as a slot that does not answer may take.
pub(super) async fn commit_in_turn(
    session: &Session,
    write: Write,
    final_: bool,
    turn: &mut Option<tokio::sync::MutexGuard<'_, ()>>,
) -> Result<Finalized, Error> {
    let mut finalizing = std::pin::pin!(session.commit_with_root(write, final_));
    match tokio::time::timeout(TURN_KEPT, &mut finalizing).await {
        Ok(done) => done,
        Err(_) => {
            *turn = None;
            finalizing.await
        }
    }
}

fn parse<'a>(schema: &'a Schema, changes: &Changes) -> Result<Vec<Parsed<'a>>, Error> {
    let mut seen = BTreeSet::new();
    let mut parsed = Vec::with_capacity(changes.len());
    for (name, change) in changes {
        if !seen.insert(name) {
            return Err(Error::Invalid { field: "fields", expected: "each field at most once" });
        }
        let spec = schema.field(name)?;
        let value = match change {
            Change::Remove => None,
            Change::Set(_) if spec.retired => return Err(SchemaError::Retired { field: name.clone() }.into()),
            Change::Set(raw) => {
                let value = spec.parse(raw)?;
                Some(ParsedValue { encoded: value.encode(), lookup_form: spec.lookup_form(&value) })
            }
        };
        parsed.push(Parsed { spec, value });
    }
    Ok(parsed)
}

impl Inner {
    pub(super) async fn put(
        &self,
        session: &Session,
        id: &SubjectId,
        changes: &Changes,
        options: &PutOptions,
    ) -> Result<PutOutcome, Error> {
        let mut turn = None;
        let mut attempts = 0;
        while attempts < ATTEMPTS {
            let Prepared { write, mut outcome, replaces, more } = self.prepare(session, id, changes, options).await?;
            let held = if replaces {
                let done = commit_in_turn(session, write, options.final_, &mut turn).await?;
                outcome.waits_for = done.waits_for;
                done.held
            } else {
                session.commit(vec![write]).await? == [true]
            };
            match held {
                true if more => continue,
                true => return Ok(outcome),
                false => attempts += 1,
            }
            if turn.is_none() {
                turn = Some(self.turns.of(id).await);
            }
        }
        Err(too_busy())
    }

    async fn prepare(
        &self,
        session: &Session,
        id: &SubjectId,
        changes: &Changes,
        options: &PutOptions,
    ) -> Result<Prepared, Error> {
        let schema: Arc<Schema> = session.snapshot().schema.clone();
        let parsed = parse(&schema, changes)?;
        reading!(session, |snapshot| {
            let prepared = self.prepare_from(&snapshot, &schema, id, &parsed, options).await;
            match &prepared {
                Ok(ready) => self.prefetch(&snapshot.header, ready).await.and(prepared),
                Err(_) => prepared,
            }
        })
    }

    async fn prepare_from(
        &self,
        snapshot: &Snapshot,
        schema: &Schema,
        id: &SubjectId,
        parsed: &[Parsed<'_>],
        options: &PutOptions,
    ) -> Result<Prepared, Error> {
        let putting = Putting { header: &snapshot.header, schema, options, now: Timestamp::now() };
        let found = subject::find(self, putting.header, id).await?;
        if let Some(DirectoryEntry::Subject(record)) = &found.entry {
            trail::subject(&record.audit_key);
        }
        match &found.entry {
            Some(DirectoryEntry::Subject(record)) if record.state == SubjectState::Active => {
                self.merge(&putting, found, parsed).await
            }
            Some(DirectoryEntry::Subject(_)) if options.enrol_again => {
                Err(Error::Conflict("the shred of this subject is not final yet: enrol it again once it is"))
            }
            Some(DirectoryEntry::Subject(_)) => Err(Error::Shredded),
            Some(DirectoryEntry::Tombstone(t))
                if !options.enrol_again && !t.is_over(self.options.tombstone_seconds) =>
            {
                Err(Error::Shredded)
            }
            Some(DirectoryEntry::Tombstone(_)) | None => rows::enrol(&putting, &found, id, parsed),
        }
    }

    /// Reads the pages that the writer will need, so that it finds them in the cache.
    async fn prefetch(&self, header: &Header, prepared: &Prepared) -> Result<(), Error> {
        for (kind, key, _) in &prepared.write.edits {
            trie::find(&self.pages, header, *kind, key).await?;
        }
        Ok(())
    }
}
