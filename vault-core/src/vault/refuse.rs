//! F0, the first half of a shred: refuses subjects durably, so that reading them answers "shredded" from here on.

use super::Inner;
use super::erase::{item_key, note};
use super::idempotency::Claim;
use super::records::{DirectoryEntry, ErasureRecord, SubjectRecord, SubjectState, encode};
use super::session::{Session, Snapshot, reading};
use super::subject::{self, Found};
use super::writer::Write;
use crate::error::Error;
use crate::ids::{Compartment, ErasureId, SubjectId};
use crate::time::Timestamp;
use crate::trie::{EntryKey, Kind, Op, Payload};

/// Subjects whose refusal shares one commit.
const REFUSE_TOGETHER: usize = 500;
/// How often a refusal is prepared again because a subject changed meanwhile.
const ATTEMPTS: usize = 64;

impl SubjectRecord {
    fn refuse(&mut self, compartment: &Compartment, erasure: ErasureId) {
        for keys in self.compartments.iter_mut().filter(|keys| keys.name == *compartment) {
            keys.refused = Some(erasure);
        }
    }
}

/// How a subject stands towards a shred.
pub(super) enum Standing {
    Living,
    Refused,
    Shredded,
    Unknown,
}

/// How a subject, or one compartment of it, stands towards a shred.
pub(super) fn standing(found: &Found, compartment: Option<&Compartment>, tombstone_seconds: u64) -> Standing {
    match &found.entry {
        Some(DirectoryEntry::Subject(record)) if record.state == SubjectState::Active => match compartment {
            None => Standing::Living,
            Some(name) => match record.compartments.iter().find(|keys| keys.name == *name) {
                None => Standing::Unknown,
                Some(keys) if keys.refused.is_some() => Standing::Refused,
                Some(_) => Standing::Living,
            },
        },
        Some(DirectoryEntry::Subject(_)) => Standing::Refused,
        Some(DirectoryEntry::Tombstone(t)) if t.at.plus_seconds(tombstone_seconds) > Timestamp::now() => {
            Standing::Shredded
        }
        Some(DirectoryEntry::Tombstone(_)) | None => Standing::Unknown,
    }
}

impl Inner {
    /// F0 for all subjects, part by part; adds the directory keys of those it refused.
    ///
    /// The last part carries the claim: a repetition may rely on all of them, and after a crash between two parts it
    /// refuses the rest.
    pub(super) async fn refuse(
        &self,
        session: &Session,
        subjects: &[&SubjectId],
        record: &mut ErasureRecord,
        claim: Option<&Claim<'_>>,
        refused: &mut Vec<EntryKey>,
    ) -> Result<(), Error> {
        let mut parts = subjects.chunks(REFUSE_TOGETHER).peekable();
        while let Some(part) = parts.next() {
            let claim = claim.filter(|_| parts.peek().is_none());
            refused.extend(self.refuse_part(session, part, record, claim).await?);
        }
        Ok(())
    }

    /// F0 for some subjects, in one commit; answers the directory keys of those it refused.
    async fn refuse_part(
        &self,
        session: &Session,
        part: &[&SubjectId],
        record: &mut ErasureRecord,
        claim: Option<&Claim<'_>>,
    ) -> Result<Vec<EntryKey>, Error> {
        for _ in 0..ATTEMPTS {
            let mut next = record.clone();
            next.f0_at = Timestamp::now();
            let (write, refused) =
                reading!(session, |snapshot| self.prepare_refusal(&snapshot, part, &mut next, claim).await)?;
            if session.commit(vec![write]).await? == [true] {
                *record = next;
                return Ok(refused);
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
    ) -> Result<(Write, Vec<EntryKey>), Error> {
        let header = &*snapshot.header;
        let mut write = Write { reclaim: true, ..Write::default() };
        let mut refused = Vec::new();
        let before = record.counts;
        for id in part {
            let found = subject::find(self, header, id).await.inspect_err(|_| record.counts = before)?;
            match standing(&found, record.compartment.as_ref(), self.options.tombstone_seconds) {
                Standing::Unknown => record.counts.unknown += 1,
                Standing::Shredded => record.counts.shredded += 1,
                standing @ (Standing::Living | Standing::Refused) => {
                    record.counts.refused += 1;
                    write.guards.push(found.guard());
                    let key = found.key;
                    refused.push(key);
                    let item = item_key(header, record.id, subject::tag_of(&key));
                    write.edits.push((Kind::Erasures, item, Op::Insert(Payload::default())));
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
        write.edits.push(note(header, record)?);
        if let Some(claim) = claim {
            claim.note(header, record.id.0, &mut write)?;
        }
        Ok((write, refused))
    }
}
