//! F0, the first half of a shred: refuses subjects durably, so that reading them answers "shredded" from here on.

use std::collections::VecDeque;

use super::erase::{item_key, note};
use super::idempotency::Claim;
use super::records::{DirectoryEntry, ErasureItem, ErasureRecord, ItemState, SubjectRecord, SubjectState, encode};
use super::session::{Session, Snapshot, reading};
use super::subject::{self, Found};
use super::writer::Write;
use super::{Inner, evidence};
use crate::audit::{Entry, trail};
use crate::error::Error;
use crate::ids::{Compartment, ErasureId, HoldName, SubjectId};
use crate::root::Refusal;
use crate::time::Timestamp;
use crate::trie::{EntryKey, Header, Kind, Op};

/// Subjects whose refusal shares one commit.
const REFUSE_TOGETHER: usize = 500;
/// How often a refusal is prepared again because a subject changed meanwhile.
const ATTEMPTS: usize = 64;
/// How often that is done with several before they are parted.
const TOGETHER_ATTEMPTS: usize = 8;

/// What became of the subjects of a request.
#[derive(Default)]
pub(super) struct Refused {
    /// The directory keys of those that are refused.
    pub(super) keys: Vec<EntryKey>,
}

/// How a subject stands towards a shred.
pub(super) enum Standing {
    Living,
    Held(HoldName),
    Refused,
    Shredded,
    Unknown,
}

/// How a subject, or one compartment of it, stands towards a shred.
pub(super) fn standing(found: &Found, compartment: Option<&Compartment>, tombstone_seconds: u64) -> Standing {
    match &found.entry {
        Some(DirectoryEntry::Subject(record)) if record.state == SubjectState::Active => {
            let keys = compartment.map(|name| record.compartments.iter().find(|keys| keys.name == *name));
            match (keys, record.holds.first()) {
                (Some(None), _) => Standing::Unknown,
                (_, Some(hold)) => Standing::Held(hold.clone()),
                (Some(Some(keys)), None) if keys.refused.is_some() => Standing::Refused,
                _ => Standing::Living,
            }
        }
        Some(DirectoryEntry::Subject(_)) => Standing::Refused,
        Some(DirectoryEntry::Tombstone(t)) if !t.is_over(tombstone_seconds) => Standing::Shredded,
        Some(DirectoryEntry::Tombstone(_)) | None => Standing::Unknown,
    }
}

impl Inner {
    /// Writes down all subjects, part by part, and refuses those that are due (F0), whose keys it adds.
    ///
    /// The last part carries the claim: a repetition may rely on all of them, and after a crash between two parts it
    /// refuses the rest.
    pub(super) async fn refuse(
        &self,
        session: &Session,
        subjects: &[&SubjectId],
        record: &mut ErasureRecord,
        claim: Option<&Claim<'_>>,
        refused: &mut Refused,
    ) -> Result<(), Error> {
        let mut parts: VecDeque<_> = subjects.chunks(REFUSE_TOGETHER).collect();
        while let Some(part) = parts.pop_front() {
            let last = parts.is_empty();
            let some = match self.refuse_part(session, part, record, claim.filter(|_| last), last).await {
                // A busy subject among them: it must not hold up the others.
                Err(Error::Conflict(_)) if part.len() > 1 => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.push_front(second);
                    parts.push_front(first);
                    continue;
                }
                some => some?,
            };
            refused.keys.extend(some.keys);
        }
        Ok(())
    }

    /// The same for some subjects, in one commit; answers those it refused.
    async fn refuse_part(
        &self,
        session: &Session,
        part: &[&SubjectId],
        record: &mut ErasureRecord,
        claim: Option<&Claim<'_>>,
        last: bool,
    ) -> Result<Refused, Error> {
        let attempts = if part.len() > 1 { TOGETHER_ATTEMPTS } else { ATTEMPTS };
        let mut turn = None;
        for _ in 0..attempts {
            let mut next = record.clone();
            next.accepted |= last;
            let (write, refused) =
                reading!(session, |snapshot| self.prepare_refusal(&snapshot, part, &mut next, claim).await)?;
            if session.commit(vec![write]).await? == [true] {
                *record = next;
                return Ok(refused);
            }
            if let ([only], None) = (part, &turn) {
                turn = Some(self.turns.of(only).await);
            }
        }
        Err(Error::Conflict("the subjects are changed by too many requests at once: retry"))
    }

    pub(super) async fn prepare_refusal(
        &self,
        snapshot: &Snapshot,
        part: &[&SubjectId],
        record: &mut ErasureRecord,
        claim: Option<&Claim<'_>>,
    ) -> Result<(Write, Refused), Error> {
        let header = &*snapshot.header;
        let now = Timestamp::now();
        let mut write = Write { reclaim: true, ..Write::default() };
        let mut refused = Refused::default();
        let before = record.counts;
        for id in part {
            let found = subject::find(self, header, id).await.inspect_err(|_| record.counts = before)?;
            let stands = standing(&found, record.compartment.as_ref(), self.options.tombstone_seconds);
            let state = match stands {
                Standing::Unknown => {
                    record.counts.unknown += 1;
                    continue;
                }
                Standing::Shredded => {
                    record.counts.shredded += 1;
                    continue;
                }
                _ if record.waits() => ItemState::Pending,
                Standing::Held(_) => ItemState::Held,
                Standing::Living | Standing::Refused => ItemState::Refused,
            };
            write.guards.push(found.guard());
            let (key, Some(DirectoryEntry::Subject(mut subject))) = (found.key, found.entry) else { continue };
            let marked = state == ItemState::Refused || (record.refuse_now && !matches!(stands, Standing::Held(_)));
            let commitment = evidence::commitment(record.salts()?, record.id, id);
            let item = ErasureItem { state, uuid: subject.uuid, f0_at: marked.then_some(now), commitment };
            write.edits.push(keep(header, record.id, &key, &item)?);
            match state {
                ItemState::Pending => record.counts.pending += 1,
                ItemState::Held => record.counts.held += 1,
                ItemState::Refused => {
                    record.counts.refused += 1;
                    refused.keys.push(key);
                    write.refusals.push(record.refusal(&key, now));
                }
            }
            if marked {
                record.f0_at = record.f0_at.or(Some(now));
                let due = state == ItemState::Refused;
                write.delta.refused += i64::from(mark(&mut subject, record, now, due));
                write.edits.push((Kind::Directory, key, Op::Insert(encode(&DirectoryEntry::Subject(subject))?)));
            }
        }
        // It names no subject: beside the certificate, that would tell whose all its entries of the day are.
        let count = Some(refused.keys.len() as u64);
        let told = |entry: Entry| Entry { subjects: Vec::new(), erasure: Some(record.id), count, ..entry };
        write.entries = trail::so_far().into_iter().map(told).collect();
        write.edits.push(note(header, record)?);
        if let Some(claim) = claim {
            claim.note(header, record.id.0, &mut write)?;
        }
        Ok((write, refused))
    }
}

impl ErasureRecord {
    /// What is noted of a refusal while a root is retained.
    pub(super) fn refusal(&self, directory: &EntryKey, at: Timestamp) -> Refusal {
        Refusal { at, subject: subject::tag_of(directory), compartment: self.compartment.clone() }
    }
}

/// Marks a subject, or a compartment of it, as refused by this erasure; answers whether a whole subject was not before. One
/// that is due takes over another's mark, for that one may be taken back and this one may not; one that is not due leaves it.
pub(super) fn mark(subject: &mut SubjectRecord, record: &ErasureRecord, now: Timestamp, due: bool) -> bool {
    match (&record.compartment, subject.state) {
        (Some(name), _) => {
            let theirs = subject.compartments.iter_mut().filter(|keys| keys.name == *name);
            theirs.filter(|keys| due || keys.refused.is_none()).for_each(|keys| keys.refused = Some(record.id));
            false
        }
        (None, SubjectState::Refused { at, .. }) => {
            if due {
                subject.state = SubjectState::Refused { at, erasure: record.id };
            }
            false
        }
        (None, SubjectState::Active) => {
            subject.state = SubjectState::Refused { at: now, erasure: record.id };
            true
        }
    }
}

/// The edit that keeps an erasure's item.
pub(super) fn keep(
    header: &Header,
    erasure: ErasureId,
    directory: &EntryKey,
    item: &ErasureItem,
) -> Result<(Kind, EntryKey, Op), Error> {
    Ok((Kind::Erasures, item_key(header, erasure, subject::tag_of(directory)), Op::Insert(encode(item)?)))
}
