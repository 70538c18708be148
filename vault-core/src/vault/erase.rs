//! Shredding: refuse at once (F0, in `refuse`), then destroy the keys in a root batch (F1, in `shred`).
//!
//! While a shred is on its way each of its subjects has an entry under the erasure; the root batch removes it. What stays
//! names the request and counts; it names no subject.

mod due;
mod open;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

pub(super) use due::accept;
pub(crate) use due::run;
pub(crate) use open::OpenTable;

use super::finalizer::Job;
use super::idempotency::{Begun, Idempotency, Made};
use super::records::{Approval, DirectoryEntry, ErasureItem, ErasureRecord, ItemState, decode, encode};
use super::refuse::{Refused, Standing, standing};
use super::session::{Session, Snapshot, reading};
use super::subject;
use super::types::{Erasure, ErasureCounts, ErasureState, NewErasure, OpenItem, VaultOptions};
use super::writer::Guard;
use super::{Inner, Vault};
use crate::crypto::{ErasureKey, Random, digest};
use crate::error::Error;
use crate::ids::{Compartment, ErasureId, HoldName, SubjectId};
use crate::schema::Schema;
use crate::time::Timestamp;
use crate::trie::{self, EntryKey, Header, Kind, Op};

/// The most subjects in one request.
pub const SUBJECTS_MAX: usize = 100_000;
/// The longest reason or reference, in bytes.
pub const REASON_MAX: usize = 1024;
/// Refused subjects that an erasure is shown with.
const ITEMS_MAX: usize = 1000;

impl Vault {
    /// Refuses the subjects, or one compartment of them, durably (F0) and has them shredded finally (F1) by the next root batches, which
    /// [`Vault::wait_final`] waits for. From here on reading a whole subject answers [`Error::Shredded`], and a
    /// compartment holds nothing.
    ///
    /// A request that is to be done once and was done answers its erasure as it is now. A subject that another erasure
    /// has refused is taken in: this one too is final only once that subject is.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no or too many subjects, too long a reason, or a compartment that is not declared;
    /// [`Error::IdempotencyMismatch`]; [`Error::Held`] if legal holds keep all of them: then nothing is done. After other
    /// errors some subjects may be refused; they become final.
    pub async fn shred(&self, asked: NewErasure, once: Option<&Idempotency<'_>>) -> Result<Made<Erasure>, Error> {
        let session = self.session()?;
        check_texts(&asked.reason, asked.reference.as_deref())?;
        check_compartment(&session.snapshot().schema, asked.compartment.as_ref())?;
        let subjects = distinct(&asked.subjects)?;
        let claim = match self.inner.begin(&session, once).await? {
            Begun::First(claim) => claim,
            Begun::Done(earlier) => {
                let made = self.erasure(ErasureId(earlier.resource)).await?;
                return Ok(Made { made, repeated: Some(earlier.status) });
            }
        };
        let mut record = new_record(&asked, subjects.len(), &self.inner.options);
        if !record.waits()
            && let Some(hold) = self.inner.all_held(&session, &subjects, asked.compartment.as_ref()).await?
        {
            return Err(Error::Held { hold });
        }
        let mut refused = Refused::default();
        let outcome = self.inner.refuse(&session, &subjects, &mut record, claim.as_ref(), &mut refused).await;
        if outcome.is_err() {
            record.cut_short(Timestamp::now());
            session.open.changed.notify_one();
        }
        if record.counts != ErasureCounts::default() {
            session.open.note(&record);
        }
        // After a failure half way too: what is refused goes on to be final.
        let sent = session.finalizer.send(Job::Shred { erasure: record.id, subjects: refused.keys });
        outcome?;
        if sent.is_err() {
            // The vault is being locked: it goes on after the next unlock.
            return Ok(Made::now(shown(record, Vec::new(), &session)));
        }
        if record.is_done() {
            due::finish(&self.inner, &session, record.id).await?;
        }
        // Somebody waits for its time.
        session.open.changed.notify_one();
        match self.erasure(record.id).await {
            Err(Error::Locked | Error::LockedMeanwhile) => Ok(Made::now(shown(record, Vec::new(), &session))),
            told => Ok(Made::now(told?)),
        }
    }

    /// What [`Vault::shred`] would do, changing nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] for no or too many subjects.
    pub async fn shred_dry_run(
        &self,
        subjects: &[SubjectId],
        compartment: Option<&Compartment>,
    ) -> Result<ErasureCounts, Error> {
        let session = self.session()?;
        check_compartment(&session.snapshot().schema, compartment)?;
        let mut counts = ErasureCounts::default();
        for id in distinct(subjects)? {
            let found = reading!(session, |snapshot| subject::find(&self.inner, &snapshot.header, id).await)?;
            match standing(&found, compartment, self.inner.options.tombstone_seconds) {
                Standing::Living => counts.pending += 1,
                Standing::Held(_) => counts.held += 1,
                Standing::Refused => counts.refused += 1,
                Standing::Shredded => counts.shredded += 1,
                Standing::Unknown => counts.unknown += 1,
            }
        }
        Ok(counts)
    }

    /// Waits until nothing of the erasure is merely refused, or until `limit` has passed; answers how it is then.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such erasure; [`Error::Locked`], also if the vault is locked meanwhile.
    pub async fn wait_final(&self, id: ErasureId, limit: Duration) -> Result<Erasure, Error> {
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            let mut progress = {
                // Not held while it waits, for it holds keys, which go when the vault is locked; and with it goes what tells.
                let session = self.session()?;
                let progress = session.progress.subscribe();
                let record = reading!(session, |snapshot| find(&self.inner, &snapshot.header, id).await)?;
                if record.state() != ErasureState::Refused {
                    return self.erasure(id).await;
                }
                progress
            };
            if tokio::time::timeout_at(deadline, progress.changed()).await.is_err() {
                return self.erasure(id).await;
            }
        }
    }

    /// One erasure.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn erasure(&self, id: ErasureId) -> Result<Erasure, Error> {
        let session = self.session()?;
        let record = reading!(session, |snapshot| find(&self.inner, &snapshot.header, id).await)?;
        let items = match record.ended_at {
            Some(_) => Vec::new(),
            None => reading!(session, |snapshot| self.inner.open_items(&snapshot, id).await)?,
        };
        Ok(shown(record, items, &session))
    }

    /// Erasures, oldest first, in pages; items are left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `after` is not the `next` of an earlier page.
    pub async fn erasures(&self, after: Option<&str>, limit: usize) -> Result<(Vec<Erasure>, Option<String>), Error> {
        let session = self.session()?;
        let after = after
            .map(ErasureId::parse)
            .transpose()
            .map_err(|_| Error::Invalid { field: "after", expected: "the `next` of the page before" })?;
        let limit = limit.clamp(1, 1000);
        let records = reading!(session, |snapshot| list(&self.inner, &snapshot.header, after, limit).await)?;
        let next = (records.len() == limit).then(|| records.last().map(|r| r.id.to_string())).flatten();
        Ok((records.into_iter().map(|r| shown(r, Vec::new(), &session)).collect(), next))
    }
}

impl Inner {
    /// A hold, if holds keep all of the subjects.
    async fn all_held(
        &self,
        session: &Session,
        subjects: &[&SubjectId],
        compartment: Option<&Compartment>,
    ) -> Result<Option<HoldName>, Error> {
        let mut kept = None;
        for id in subjects {
            let found = reading!(session, |snapshot| subject::find(self, &snapshot.header, id).await)?;
            match standing(&found, compartment, self.options.tombstone_seconds) {
                Standing::Held(hold) => kept = Some(hold),
                _ => return Ok(None),
            }
        }
        Ok(kept)
    }

    /// The subjects of an erasure that are not final yet.
    async fn open_items(&self, snapshot: &Snapshot, id: ErasureId) -> Result<Vec<OpenItem>, Error> {
        let header = &*snapshot.header;
        let mut items = Vec::new();
        for (directory, item) in items_of(self, header, id, None, ITEMS_MAX).await? {
            let found = subject::find_by_key(self, header, directory).await?;
            if let Some(DirectoryEntry::Subject(record)) = found.entry
                && record.uuid == item.uuid
            {
                let state = match item.state {
                    ItemState::Pending => ErasureState::Pending,
                    ItemState::Held => ErasureState::Held,
                    ItemState::Refused => ErasureState::Refused,
                };
                let hold = record.holds.first().filter(|_| item.state != ItemState::Refused).cloned();
                items.push(OpenItem { subject: SubjectId::parse(&record.subject)?, state, f0_at: item.f0_at, hold });
            }
        }
        Ok(items)
    }
}

/// The shreds that an earlier run refused and did not finish; notes what is open.
pub(crate) async fn unfinished(inner: &Inner, session: &Session) -> Result<Vec<(ErasureId, EntryKey)>, Error> {
    let mut refused = Vec::new();
    for mut record in all(inner, session).await?.into_iter().filter(|record| record.ended_at.is_none()) {
        if !record.accepted {
            record.cut_short(Timestamp::now());
        }
        session.open.note(&record);
        let mut after = None;
        loop {
            let part =
                reading!(session, |snapshot| items_of(inner, &snapshot.header, record.id, after, ITEMS_MAX).await)?;
            after = part.last().map(|(directory, _)| subject::tag_of(directory));
            let full = part.len() == ITEMS_MAX;
            let due = part.into_iter().filter(|(_, item)| item.state == ItemState::Refused);
            refused.extend(due.map(|(directory, _)| (record.id, directory)));
            if !full {
                break;
            }
        }
    }
    Ok(refused)
}

pub(super) async fn find(inner: &Inner, header: &Header, id: ErasureId) -> Result<ErasureRecord, Error> {
    find_guarded(inner, header, id).await.map(|(record, _)| record)
}

/// An erasure, and what a write that changes it must find unchanged.
pub(super) async fn find_guarded(
    inner: &Inner,
    header: &Header,
    id: ErasureId,
) -> Result<(ErasureRecord, Guard), Error> {
    let key = record_key(header, id);
    let payload = trie::find(&inner.pages, header, Kind::Erasures, &key).await?;
    let payload = payload.ok_or(Error::NotFound("erasure"))?;
    let guard = Guard::Entry { kind: Kind::Erasures, key, seen: Some(digest(&payload)) };
    Ok((decode(&payload)?, guard))
}

async fn all(inner: &Inner, session: &Session) -> Result<Vec<ErasureRecord>, Error> {
    let mut records: Vec<ErasureRecord> = Vec::new();
    loop {
        let after = records.last().map(|r| r.id);
        let page = reading!(session, |snapshot| list(inner, &snapshot.header, after, 1000).await)?;
        if page.is_empty() {
            return Ok(records);
        }
        records.extend(page);
    }
}

pub(super) async fn list(
    inner: &Inner,
    header: &Header,
    after: Option<ErasureId>,
    limit: usize,
) -> Result<Vec<ErasureRecord>, Error> {
    let prefix = &record_key(header, ErasureId([0; 16]))[..16];
    let after = after.map(|id| record_key(header, id));
    let entries = trie::scan(&inner.pages, header, Kind::Erasures, prefix, after.as_ref(), limit).await?;
    entries.iter().map(|(_, payload)| decode(payload)).collect()
}

/// Items of an erasure, with the directory keys of their subjects, behind that of `after`.
async fn items_of(
    inner: &Inner,
    header: &Header,
    id: ErasureId,
    after: Option<[u8; 16]>,
    limit: usize,
) -> Result<Vec<(EntryKey, ErasureItem)>, Error> {
    let prefix = &item_key(header, id, [0; 16])[..16];
    let after = after.map(|subject| item_key(header, id, subject));
    let items = trie::scan(&inner.pages, header, Kind::Erasures, prefix, after.as_ref(), limit).await?;
    items.iter().map(|(item, payload)| Ok((subject::directory_behind(item), decode(payload)?))).collect()
}

/// Erasures lie together and in the order of their time, which their ids begin with.
fn record_key(header: &Header, id: ErasureId) -> EntryKey {
    header.entry_key(Kind::Erasures, "erasures", "", b"", id.0)
}

pub(super) fn item_key(header: &Header, id: ErasureId, subject: [u8; 16]) -> EntryKey {
    header.entry_key(Kind::Erasures, "erasure-items", "", &id.0, subject)
}

pub(super) fn note(header: &Header, record: &ErasureRecord) -> Result<(Kind, EntryKey, Op), Error> {
    Ok((Kind::Erasures, record_key(header, record.id), Op::Insert(encode(record)?)))
}

fn shown(record: ErasureRecord, items: Vec<OpenItem>, session: &Session) -> Erasure {
    let state = record.state();
    Erasure {
        id: record.id,
        state,
        late: record.ended_at.is_none() && record.deadline <= Timestamp::now(),
        reason: record.reason,
        reference: record.reference,
        compartment: record.compartment,
        created_at: record.created_at,
        not_before: record.not_before,
        deadline: record.deadline,
        requested_by: record.requested_by,
        approved_by: record.approval.second(),
        counts: record.counts,
        total: record.total,
        f0_at: record.f0_at,
        f1_at: record.f1_at,
        f2_at: record.f2_at,
        f3_at: record.f3_at,
        waiting_for: if state == ErasureState::Refused { session.waiting() } else { Vec::new() },
        items,
    }
}

/// The record of an erasure that nobody asked for now: it waits for nothing.
pub(super) fn immediate(asked: &NewErasure, subjects: usize) -> ErasureRecord {
    new_record(asked, subjects, &VaultOptions { approve_above: 0, ..VaultOptions::default() })
}

fn new_record(asked: &NewErasure, subjects: usize, options: &VaultOptions) -> ErasureRecord {
    let now = Timestamp::now();
    let id = uuid::Builder::from_unix_timestamp_millis(now.0, &Random::new(10).array()).into_uuid();
    let second = options.approve_above > 0 && subjects as u64 > options.approve_above;
    let approval = if second { Approval::Awaited } else { Approval::NotNeeded };
    let not_before = asked.not_before.filter(|at| *at > Timestamp::settled());
    ErasureRecord {
        id: ErasureId(*id.as_bytes()),
        reason: asked.reason.clone(),
        reference: asked.reference.clone(),
        compartment: asked.compartment.clone(),
        created_at: now,
        counts: ErasureCounts::default(),
        total: subjects as u64,
        not_before,
        refuse_now: asked.refuse_now,
        deadline: asked.deadline.unwrap_or_else(|| now.plus_seconds(options.erasure_deadline_seconds)),
        accepted: false,
        approval,
        cancelled_at: None,
        f0_at: None,
        ended_at: None,
        f1_at: None,
        f2_at: None,
        f3_at: None,
        requested_by: asked.by,
        key: Some(Arc::new(ErasureKey::draw(&mut Random::for_keys(1)))),
        told_from: None,
    }
}

fn distinct(subjects: &[SubjectId]) -> Result<Vec<&SubjectId>, Error> {
    let distinct: BTreeSet<&SubjectId> = subjects.iter().collect();
    if distinct.is_empty() || distinct.len() > SUBJECTS_MAX {
        return Err(Error::Invalid { field: "subjects", expected: "1 to 100,000 subject ids" });
    }
    Ok(distinct.into_iter().collect())
}

fn check_compartment(schema: &Schema, compartment: Option<&Compartment>) -> Result<(), Error> {
    let declared = |name: &Compartment| schema.fields().any(|field| field.compartment == *name);
    if compartment.is_some_and(|name| !declared(name)) {
        return Err(Error::Invalid {
            field: "compartment",
            expected: "a compartment that a field of the schema is in",
        });
    }
    Ok(())
}

fn check_texts(reason: &str, reference: Option<&str>) -> Result<(), Error> {
    let fits = |text: &str| text.len() <= REASON_MAX && !text.chars().any(char::is_control);
    if reason.is_empty() || !fits(reason) {
        return Err(Error::Invalid { field: "reason", expected: "1 to 1,024 bytes of text on one line" });
    }
    if reference.is_some_and(|r| !fits(r)) {
        return Err(Error::Invalid { field: "reference", expected: "at most 1,024 bytes of text on one line" });
    }
    Ok(())
}
