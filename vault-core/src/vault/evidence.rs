//! Evidence of shreds: what a root batch destroyed, kept beside it until the old root is gone from every slot, and told to
//! the audit log then.
//!
//! ```text
//! row 'v' ‖ u64 epoch of the new root ‖ u16 part
//! sealed box under the header's META key, label "uv1/evidence", AAD = vault id ‖ the row's key: an encoded `Destroyed`
//! ```
//! The row rides in the root batch, so no crash can part the shred from its evidence. It names no subject: commitments only.

mod keys;

use std::collections::{BTreeMap, btree_map};
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub(super) use keys::sweep as forget_keys;

use super::records::ErasureRecord;
use super::session::{Session, Snapshot, reading};
use super::types::ErasureState;
use super::writer::Write;
use super::{Inner, erase};
use crate::audit::{Action, Concluded, Digest, Entry, Level, Log, Outcome, Shred};
use crate::certificate::{request_commitment, subject_commitment};
use crate::codec::{self, CodecError};
use crate::crypto::{ErasureKey, digest};
use crate::error::Error;
use crate::ids::{ErasureId, SubjectId};
use crate::store::{Row, Store, StoreError};
use crate::time::Timestamp;
use crate::trie::{Applied, Header, Kind};

/// First byte of the rows' keys.
pub(super) const PREFIX: u8 = b'v';
/// Shreds that one row tells of.
const SHREDS_MAX: usize = 500;

/// One subject, or compartment, of one erasure in a root batch.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Shredding {
    pub(crate) erasure: ErasureId,
    /// Names the subject to who knows id and salt.
    pub(crate) commitment: [u8; 32],
    /// When its refusal was durable.
    pub(crate) f0_at: Timestamp,
}

/// What one root batch destroyed.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Destroyed {
    /// Of the root before and of the one that replaced it.
    pub(crate) epochs: [u64; 2],
    /// SHA-256 of the sealed headers that they open.
    pub(crate) headers: [[u8; 32]; 2],
    pub(crate) lookups: u32,
    pub(crate) slots: Vec<String>,
    pub(crate) shreds: Vec<Shredding>,
}

impl Destroyed {
    /// The rows that keep what a root batch destroys which leads from header `before`, sealed as `sealed`, to the one of
    /// `applied`.
    pub(super) fn rows(
        (before, sealed): (&Header, &[u8]),
        applied: &Applied,
        slots: &[String],
        shreds: &[Shredding],
    ) -> Result<Vec<Row>, CodecError> {
        let after = &applied.header;
        let next = after.current_row().and_then(|key| applied.put.iter().find(|(row, _)| row == key));
        let next = next.map_or(&[][..], |(_, value)| value);
        let mut rows = Vec::new();
        for (part, shreds) in (0_u16..).zip(shreds.chunks(SHREDS_MAX)) {
            let destroyed = Self {
                epochs: [before.epoch(), after.epoch()],
                headers: [digest(sealed), digest(next)],
                lookups: before.generation(Kind::Lookups),
                slots: slots.to_vec(),
                shreds: shreds.to_vec(),
            };
            let key = key(after.epoch(), part);
            let sealed = seal(after, &key, &codec::encode_record(&destroyed)?);
            rows.push((key, sealed));
        }
        Ok(rows)
    }
}

/// What the evidence of a subject's shred names it by.
pub(super) fn commitment(key: &ErasureKey, erasure: ErasureId, id: &SubjectId) -> [u8; 32] {
    subject_commitment(&subject_salt(key, id), &erasure.0, id.as_str()).0
}

/// The salt of that.
pub(super) fn subject_salt(key: &ErasureKey, id: &SubjectId) -> [u8; 16] {
    key.salt("subject", id.as_str().as_bytes())
}

/// The salt of a request's reason and reference.
pub(super) fn request_salt(key: &ErasureKey) -> [u8; 16] {
    key.salt("request", b"")
}

/// Once the old roots are gone from every slot but for retained ones, of which the oldest is of epoch `retained`: notes when,
/// and tells the log. A crash before has it told at the next start.
pub(crate) async fn tell(inner: &Inner, session: &Session, retained: Option<u64>) -> Result<(), Error> {
    loop {
        let from = session.untold_from.load(Ordering::Relaxed);
        let oldest = reading!(session, |snapshot| oldest(inner, &snapshot.header, from).await)?;
        let Some((row, destroyed)) = oldest else { return Ok(()) };
        session.untold_from.store(destroyed.epochs[1], Ordering::Relaxed);
        if retained.is_some_and(|epoch| epoch <= destroyed.epochs[0]) {
            // It still leads to what was shredded then and later; that is told when that root is gone.
            return Ok(());
        }
        loop {
            let (write, records) =
                reading!(session, |snapshot| telling(inner, session, &snapshot, &row, &destroyed).await)?;
            // An erasure may have been changed meanwhile: then it is prepared again.
            if session.commit(vec![write]).await? == [true] {
                records.iter().for_each(|record| session.open.note(record));
                session.progress.send_modify(|count| *count += 1);
                break;
            }
        }
    }
}

/// The write that turns a row of evidence into entries of the log and times of its erasures.
async fn telling(
    inner: &Inner,
    session: &Session,
    snapshot: &Snapshot,
    row: &[u8],
    destroyed: &Destroyed,
) -> Result<(Write, Vec<ErasureRecord>), Error> {
    let header = &*snapshot.header;
    let now = Timestamp::now();
    let mut write = Write { delete: vec![row.to_vec()], reclaim: true, ..Write::default() };
    let mut records: BTreeMap<ErasureId, ErasureRecord> = BTreeMap::new();
    for shredding in &destroyed.shreds {
        let record = match records.entry(shredding.erasure) {
            btree_map::Entry::Occupied(known) => known.into_mut(),
            btree_map::Entry::Vacant(vacant) => {
                let (mut record, guard) = erase::find_guarded(inner, header, shredding.erasure).await?;
                erase::accept(&mut record, session);
                write.guards.push(guard);
                vacant.insert(record)
            }
        };
        record.counts.refused = record.counts.refused.saturating_sub(1);
        record.counts.r#final += 1;
        write.entries.push(shredded(record, destroyed, shredding, now));
    }
    for record in records.values_mut() {
        record.told_from = record.told_from.or_else(|| inner.options.log.as_ref().map(Log::size));
        if record.is_done() {
            conclude(header, record, now, &mut write)?;
        }
        write.edits.push(erase::note(header, record)?);
    }
    Ok((write, records.into_values().collect()))
}

fn shredded(record: &ErasureRecord, destroyed: &Destroyed, shredding: &Shredding, now: Timestamp) -> Entry {
    let shred = Shred {
        commitment: Digest(shredding.commitment),
        compartment: record.compartment.clone(),
        f0_at: shredding.f0_at,
        f1_at: now,
        epochs: destroyed.epochs,
        headers: destroyed.headers.map(Digest),
        lookups: destroyed.lookups,
        slots: destroyed.slots.clone(),
    };
    let entry = Entry::new(Action::Shredded, Outcome::Done);
    Entry { at: now, erasure: Some(record.id), shred: Some(shred), ..entry }
}

impl ErasureRecord {
    /// The key that salts its commitments, for as long as the tombstones stay.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub(super) fn salts(&self) -> Result<&ErasureKey, Error> {
        self.key.as_deref().ok_or(Error::NotFound("certificate any more: the ids of this erasure are forgotten by now"))
    }

    /// Whether it shredded somebody and had F1 by then, so that a rotation of the slots that began then brings F2.
    fn awaits_f2(&self, began: Timestamp) -> bool {
        self.f2_at.is_none() && self.counts.r#final > 0 && self.f1_at.is_some_and(|at| at <= began)
    }
}

/// Notes that nothing of an erasure is open any more; adds to `write` what follows from that.
///
/// Its shreds waited for roots that were retained for a backup, so with F1 it has F3 as well.
pub(super) fn conclude(
    header: &Header,
    record: &mut ErasureRecord,
    now: Timestamp,
    write: &mut Write,
) -> Result<(), Error> {
    record.ended_at = Some(now);
    if record.state() == ErasureState::Cancelled {
        return Ok(());
    }
    record.f1_at = Some(now);
    record.f3_at = Some(now);
    let salt = request_salt(record.salts()?);
    let counts = record.counts;
    let request = Concluded {
        commitment: request_commitment(&salt, &record.id.0, &record.reason, record.reference.as_deref()),
        asked_at: record.created_at,
        asked_by: record.requested_by,
        approved_by: record.approval.second(),
        total: record.total,
        r#final: counts.r#final,
        shredded: counts.shredded,
        unknown: counts.unknown,
        cancelled: counts.cancelled,
        held: counts.held,
    };
    write.entries.push(Entry { request: Some(request), ..reached(record.id, Level::F1, now) });
    write.entries.push(reached(record.id, Level::F3, now));
    write.edits.push(keys::expiring(header, record.id, now));
    Ok(())
}

/// After all root slots, each of them held by a hardware key, were rotated: erasures that had F1 when that began have F2.
pub(crate) async fn reach_f2(inner: &Inner, session: &Session, began: Timestamp) -> Result<(), Error> {
    let mut after = None;
    loop {
        let page = reading!(session, |snapshot| erase::list(inner, &snapshot.header, after, 1000).await)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.id);
        for id in page.iter().filter(|record| record.awaits_f2(began)).map(|record| record.id) {
            note_f2(inner, session, id, began).await?;
        }
    }
}

async fn note_f2(inner: &Inner, session: &Session, id: ErasureId, began: Timestamp) -> Result<(), Error> {
    loop {
        let now = Timestamp::now();
        let (mut record, guard) = reading!(session, |snapshot| erase::find_guarded(inner, &snapshot.header, id).await)?;
        if !record.awaits_f2(began) {
            return Ok(());
        }
        record.f2_at = Some(now);
        let edits = vec![erase::note(&session.snapshot().header, &record)?];
        let entries = vec![reached(id, Level::F2, now)];
        let write = Write { guards: vec![guard], edits, entries, reclaim: true, ..Write::default() };
        if session.commit(vec![write]).await? == [true] {
            return Ok(());
        }
    }
}

/// The entry that tells that an erasure as a whole reached a level.
pub(super) fn reached(erasure: ErasureId, level: Level, now: Timestamp) -> Entry {
    let entry = Entry::new(Action::ErasureLevel, Outcome::Done);
    Entry { at: now, erasure: Some(erasure), level: Some(level), ..entry }
}

/// The rows of evidence that is not told yet, oldest first.
pub(super) async fn rows(store: &dyn Store) -> Result<Vec<Row>, StoreError> {
    let mut found: Vec<Row> = Vec::new();
    loop {
        let start = found.last().map_or(vec![PREFIX], |(last, _)| [&last[..], &[0]].concat());
        let part = store.scan(&start, Some(&[PREFIX + 1]), 1024).await?;
        if part.is_empty() {
            return Ok(found);
        }
        found.extend(part);
    }
}

/// The oldest evidence of this epoch or a later one that is not told yet, with the key of its row.
async fn oldest(inner: &Inner, header: &Header, from: u64) -> Result<Option<(Vec<u8>, Destroyed)>, Error> {
    let row = inner.store.scan(&key(from, 0), Some(&[PREFIX + 1]), 1).await?.pop();
    row.map(|(key, sealed)| open(header, &key, &sealed).map(|destroyed| (key, destroyed))).transpose()
}

/// Opens a row of evidence.
pub(super) fn open(header: &Header, key: &[u8], sealed: &[u8]) -> Result<Destroyed, Error> {
    Ok(codec::decode_record(&unseal(header, key, sealed)?)?)
}

/// The same row under the META key of the header that follows.
pub(super) fn seal_anew((before, after): (&Header, &Header), key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
    Ok(seal(after, key, &unseal(before, key, sealed)?))
}

fn seal(header: &Header, key: &[u8], record: &[u8]) -> Vec<u8> {
    header.meta_key().seal_evidence(&aad(header, key), record)
}

fn unseal(header: &Header, key: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let opened = header.meta_key().open_evidence(&aad(header, key), sealed);
    opened.map_err(|_| Error::Damaged("a row with the evidence of a shred"))
}

fn key(epoch: u64, part: u16) -> Vec<u8> {
    [&[PREFIX][..], &epoch.to_be_bytes(), &part.to_be_bytes()].concat()
}

fn aad(header: &Header, key: &[u8]) -> Vec<u8> {
    [&header.vault().0[..], key].concat()
}
