//! F0, the first half of a shred: refuses subjects durably, so that reading them answers "shredded" from here on.

use std::collections::VecDeque;

use super::erase::{item_key, note};
use super::idempotency::Claim;
use super::records::{DirectoryEntry, ErasureItem, ErasureRecord, SubjectRecord, SubjectState, encode};
use super::session::{Session, Snapshot, reading};
use super::subject::{self, Found};
use super::writer::Write;
use super::{Inner, evidence};
use crate::audit::{Entry, trail};
use crate::error::Error;
use crate::ids::{Compartment, ErasureId, HoldName, SubjectId};
use crate::time::Timestamp;
use crate::trie::{EntryKey, Kind, Op};

/// Subjects whose refusal shares one commit.
const REFUSE_TOGETHER: usize = 500;
/// How often a refusal is prepared again because a subject changed meanwhile.
const ATTEMPTS: usize = 64;
/// How often that is done with several before they are parted.
const TOGETHER_ATTEMPTS: usize = 8;
/// Held subjects that are named beside an erasure.
const HELD_NAMED: usize = 1000;

impl SubjectRecord {
    fn refuse(&mut self, compartment: &Compartment, erasure: ErasureId) {
        for keys in self.compartments.iter_mut().filter(|keys| keys.name == *compartment) {
            keys.refused = Some(erasure);
        }
    }
}

/// What became of the subjects of a request.
#[derive(Default)]
pub(super) struct Refused {
    /// The directory keys of those that are refused.
    pub(super) keys: Vec<EntryKey>,
    /// Subjects that were left alone, and a hold of each.
    pub(super) held: Vec<(SubjectId, HoldName)>,
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
                (Some(Some(keys)), _) if keys.refused.is_some() => Standing::Refused,
                (_, Some(hold)) => Standing::Held(hold.clone()),
                _ => Standing::Living,
            }
        }
        Some(DirectoryEntry::Subject(_)) => Standing::Refused,
        Some(DirectoryEntry::Tombstone(t)) if t.at.plus_seconds(tombstone_seconds) > Timestamp::now() => {
            Standing::Shredded
        }
        Some(DirectoryEntry::Tombstone(_)) | None => Standing::Unknown,
    }
}

impl Inner {
    /// F0 for all subjects, part by part; adds those it refused, and those it left alone.
    ///
    /// If holds keep all of them nothing is written, and the answer is [`Error::Held`].
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
            let claim = claim.filter(|_| parts.is_empty());
            let some = match self.refuse_part(session, part, record, claim).await {
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
            refused.held.extend(some.held);
            refused.held.truncate(HELD_NAMED);
            if let Some((_, hold)) = refused.held.first().filter(|_| record.counts.held == record.total) {
                return Err(Error::Held { hold: hold.clone() });
            }
        }
        Ok(())
    }

    /// F0 for some subjects, in one commit; answers those it refused, and those it left alone.
    async fn refuse_part(
        &self,
        session: &Session,
        part: &[&SubjectId],
        record: &mut ErasureRecord,
        claim: Option<&Claim<'_>>,
    ) -> Result<Refused, Error> {
        let attempts = if part.len() > 1 { TOGETHER_ATTEMPTS } else { ATTEMPTS };
        let mut turn = None;
        for _ in 0..attempts {
            let mut next = record.clone();
            next.f0_at = Timestamp::now();
            let (write, refused) =
                reading!(session, |snapshot| self.prepare_refusal(&snapshot, part, &mut next, claim).await)?;
            // As long as there are but held subjects there may be nothing to do at all.
            if next.counts.is_all_held() || session.commit(vec![write]).await? == [true] {
                *record = next;
                return Ok(refused);
            }
            if let ([only], None) = (part, &turn) {
                turn = Some(self.turns.of(only).await);
            }
        }
        Err(Error::Conflict("the subjects are changed by too many requests at once: retry"))
    }

    async fn prepare_refusal(
        &self,
        snapshot: &Snapshot,
        part: &[&SubjectId],
        record: &mut ErasureRecord,
        claim: Option<&Claim<'_>>,
    ) -> Result<(Write, Refused), Error> {
        let header = &*snapshot.header;
        let mut write = Write { reclaim: true, ..Write::default() };
        let mut refused = Refused::default();
        let before = record.counts;
        for id in part {
            let found = subject::find(self, header, id).await.inspect_err(|_| record.counts = before)?;
            match standing(&found, record.compartment.as_ref(), self.options.tombstone_seconds) {
                Standing::Unknown => record.counts.unknown += 1,
                Standing::Shredded => record.counts.shredded += 1,
                Standing::Held(hold) => {
                    record.counts.held += 1;
                    refused.held.push(((*id).clone(), hold));
                }
                standing @ (Standing::Living | Standing::Refused) => {
                    record.counts.refused += 1;
                    write.guards.push(found.guard());
                    let key = found.key;
                    refused.keys.push(key);
                    let item = item_key(header, record.id, subject::tag_of(&key));
                    let commitment = evidence::commitment(record.salts()?, record.id, id);
                    let kept = ErasureItem { f0_at: record.f0_at, commitment };
                    write.edits.push((Kind::Erasures, item, Op::Insert(encode(&kept)?)));
                    let (Standing::Living, Some(DirectoryEntry::Subject(mut subject))) = (standing, found.entry) else {
                        continue;
                    };
                    match &record.compartment {
                        None => {
                            write.delta.refused += 1;
                            subject.state = SubjectState::Refused { at: record.f0_at, erasure: record.id };
                        }
                        Some(name) => subject.refuse(name, record.id),
                    }
                    write.edits.push((Kind::Directory, key, Op::Insert(encode(&DirectoryEntry::Subject(subject))?)));
                }
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
