//! A walk through the directory that rewrites subjects, some at a time.
//!
//! Each subject is one guarded write: what was written or shredded since it was read wins, and the subject is read again.
//! Steps may be repeated after a crash, so what is done for a subject must leave one alone that is done.

use super::super::records::{
    DeksWork, DirectoryEntry, LookupsStage, LookupsWork, RotationRecord, Walk, WhichDeks, Work, decode,
};
use super::super::session::{Session, Snapshot, reading};
use super::super::writer::Write;
use super::super::{Inner, subject};
use super::{deks, lookups};
use crate::error::Error;
use crate::time::Timestamp;
use crate::trie::{self, EntryKey, Kind, Payload};

/// Subjects that one step takes.
pub(super) const STEP_SUBJECTS: u32 = 256;
/// Bytes of rows after which a step takes no further subject.
const STEP_BYTES: usize = 1 << 20;
/// How often a subject that changed meanwhile is read again before the step ends in front of it.
const ATTEMPTS: usize = 16;

/// What is done for each subject.
pub(super) enum Task<'r> {
    /// Fresh DEKs, in place of those from before then.
    Renew(&'r DeksWork, Timestamp),
    /// Entries in the generation of lookups that is built.
    Build,
    /// Nothing is listed any more of a generation that is gone.
    Prune,
}

impl<'r> Task<'r> {
    /// What a rotation does for each subject at this time, and where it goes on.
    pub(super) fn of(record: &'r RotationRecord) -> Option<(Self, Walk)> {
        match &record.work {
            Work::Deks(work) => Some((Self::Renew(work, record.started_at), work.at)),
            Work::Lookups(LookupsWork { stage: LookupsStage::Build(at), .. }) => Some((Self::Build, *at)),
            Work::Lookups(LookupsWork { stage: LookupsStage::Prune(at), .. }) => Some((Self::Prune, *at)),
            _ => None,
        }
    }

    /// The write for a subject, if there is anything to do; and how many of its rows do not open.
    async fn write_for(&self, inner: &Inner, session: &Session, key: EntryKey) -> Result<(Option<Write>, u64), Error> {
        match self {
            Self::Renew(work, began) => deks::renewed(inner, session, key, work, *began).await,
            Self::Build => lookups::built(inner, session, key).await,
            Self::Prune => Ok((lookups::pruned(inner, session, key).await?, 0)),
        }
    }
}

/// A step, ready for the writer.
pub(super) struct Step {
    /// Where the walk was before.
    from: Walk,
    /// The entries that it looked at, in order; and the write of each subject that it changes.
    subjects: Vec<(Looked, Option<Write>)>,
    /// Whether nobody comes after them.
    last: bool,
    /// Whose writes were taken out of it for a root batch.
    taken: Vec<EntryKey>,
    /// Compartments whose rows do not open.
    pub(super) damaged: u64,
}

/// An entry that a walk comes by.
#[derive(Clone, Copy)]
struct Looked {
    key: EntryKey,
    /// Whether it counts: a tombstone does not.
    subject: bool,
}

/// How far a step got.
pub(super) struct Reached {
    pub(super) at: Walk,
    /// Subjects that it is done with.
    pub(super) subjects: u64,
    /// Whether one of them was changed meanwhile, so that it stopped in front of it.
    pub(super) missed: bool,
}

impl Step {
    /// The writes, for a root batch.
    pub(super) fn take_writes(&mut self) -> Vec<Write> {
        let (taken, writes) =
            self.subjects.iter_mut().filter_map(|(looked, write)| Some((looked.key, write.take()?))).unzip();
        self.taken = taken;
        writes
    }

    /// Whose writes were not committed, by what became of each.
    pub(super) fn missed(&self, held: &[bool]) -> Vec<EntryKey> {
        self.taken.iter().zip(held).filter(|(_, held)| !**held).map(|(key, _)| *key).collect()
    }

    /// How far it got, if these subjects were changed meanwhile.
    pub(super) fn reached(&self, missed: impl Fn(&EntryKey) -> bool) -> Reached {
        let done = self.subjects.iter().take_while(|(looked, _)| !missed(&looked.key)).count();
        let all = done == self.subjects.len();
        let done = &self.subjects[..done];
        let at = match (all && self.last, done.last()) {
            (true, _) => Walk::End,
            (false, Some((looked, _))) => Walk::After(Some(looked.key)),
            (false, None) => self.from,
        };
        let subjects = done.iter().filter(|(looked, _)| looked.subject).count() as u64;
        Reached { at, subjects, missed: !all }
    }
}

/// Prepares the next step: up to `most` subjects.
pub(super) async fn prepare(
    inner: &Inner,
    session: &Session,
    (task, at): &(Task<'_>, Walk),
    most: u32,
) -> Result<Step, Error> {
    let Walk::After(after) = *at else {
        return Ok(Step { from: Walk::End, subjects: Vec::new(), last: true, taken: Vec::new(), damaged: 0 });
    };
    let most = most.min(STEP_SUBJECTS) as usize;
    let (keys, mut last) = reading!(session, |snapshot| next_subjects(inner, &snapshot, task, after, most).await)?;
    let subjects = Vec::with_capacity(keys.len());
    let mut step = Step { from: *at, subjects, last: false, taken: Vec::new(), damaged: 0 };
    let (mut bytes, count) = (0, keys.len());
    for looked in keys {
        let (write, damaged) = task.write_for(inner, session, looked.key).await?;
        bytes += write.iter().flat_map(|write| &write.put).map(|(_, value)| value.len()).sum::<usize>();
        step.damaged += damaged;
        step.subjects.push((looked, write));
        if bytes > STEP_BYTES {
            last &= step.subjects.len() == count;
            break;
        }
    }
    step.last = last;
    Ok(step)
}

/// Does a step that needs no root batch, in ordinary commits.
pub(super) async fn carry_out(
    session: &Session,
    inner: &Inner,
    mut step: Step,
    task: &Task<'_>,
) -> Result<Reached, Error> {
    let mut writes = step.take_writes();
    let mut waiting = std::mem::take(&mut step.taken);
    for _ in 0..ATTEMPTS {
        if waiting.is_empty() {
            break;
        }
        let held = session.commit(std::mem::take(&mut writes)).await?;
        let missed: Vec<EntryKey> = waiting.drain(..).zip(held).filter(|(_, held)| !held).map(|(key, _)| key).collect();
        for key in missed {
            if let (Some(write), _) = task.write_for(inner, session, key).await? {
                waiting.push(key);
                writes.push(write);
            }
        }
    }
    Ok(step.reached(|key| waiting.contains(key)))
}

/// The keys of the directory's next subjects, and whether nobody comes after them.
async fn next_subjects(
    inner: &Inner,
    snapshot: &Snapshot,
    task: &Task<'_>,
    after: Option<EntryKey>,
    most: usize,
) -> Result<(Vec<Looked>, bool), Error> {
    if let Task::Renew(DeksWork { which: WhichDeks::Of(tags), .. }, _) = task {
        let keys = tags.iter().map(|tag| subject::directory_of(*tag)).filter(|key| after.is_none_or(|at| *key > at));
        let rest = keys.clone().count();
        return Ok((keys.take(most).map(|key| Looked { key, subject: true }).collect(), rest <= most));
    }
    let entries = trie::scan(&inner.pages, &snapshot.header, Kind::Directory, &[], after.as_ref(), most).await?;
    let last = entries.len() < most;
    let looked = |(key, payload): (EntryKey, Payload)| {
        let subject = matches!(decode(&payload)?, DirectoryEntry::Subject(_));
        Ok(Looked { key, subject })
    };
    Ok((entries.into_iter().map(looked).collect::<Result<_, Error>>()?, last))
}
