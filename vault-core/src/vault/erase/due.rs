//! What becomes of the subjects of an erasure that wait: refused once they are due and no hold keeps them, or taken back.

use std::sync::Arc;
use std::time::Duration;

use super::{find_guarded, item_key, items_of, note};
use crate::audit::{Action, Entry, Outcome, trail};
use crate::error::Error;
use crate::ids::{CallerId, ErasureId};
use crate::memory;
use crate::time::Timestamp;
use crate::trie::{EntryKey, Header, Kind, Op};
use crate::vault::finalizer::Job;
use crate::vault::records::{
    Approval, CompartmentKeys, DirectoryEntry, ErasureItem, ErasureRecord, ItemState, SubjectRecord, SubjectState,
    encode,
};
use crate::vault::refuse::{keep, mark};
use crate::vault::session::{Session, Snapshot, reading};
use crate::vault::types::Erasure;
use crate::vault::writer::Write;
use crate::vault::{Inner, Vault, evidence, subject};

/// How often held subjects are looked at, though nobody told of a release; also the longest sleep, so that a clock that was
/// set is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Subjects that share one commit.
const TOGETHER: usize = 500;
/// How often a part is prepared again because something of it changed, before it is made smaller.
const ATTEMPTS: usize = 8;

impl Vault {
    /// A second person agrees to an erasure that waits for one.
    ///
    /// # Errors
    /// [`Error::SecondPerson`] if it is the one who asked; [`Error::Conflict`] if it does not wait; [`Error::NotFound`].
    pub async fn approve_erasure(&self, id: ErasureId, by: CallerId) -> Result<Erasure, Error> {
        let session = self.session()?;
        self.inner
            .change_erasure(&session, id, &|record| {
                being_written(record)?;
                if record.requested_by == Some(by) {
                    return Err(Error::SecondPerson);
                }
                if record.approval != Approval::Awaited || record.cancelled_at.is_some() {
                    return Err(Error::Conflict("the erasure does not wait for approval"));
                }
                record.approval = Approval::By(by);
                Ok(())
            })
            .await?;
        session.open.changed.notify_one();
        self.erasure(id).await
    }

    /// Takes back what of an erasure is not due yet, or held. Subjects that were refused for it can be read again.
    ///
    /// # Errors
    /// [`Error::Conflict`] if nothing can be taken back any more; [`Error::NotFound`]; [`Error::Slot`] if a root slot does
    /// not answer: it is noted, and done once it does.
    pub async fn cancel_erasure(&self, id: ErasureId) -> Result<Erasure, Error> {
        let session = self.session()?;
        self.inner
            .change_erasure(&session, id, &|record| {
                being_written(record)?;
                if record.ended_at.is_some() || record.counts.pending + record.counts.held == 0 {
                    return Err(Error::Conflict("nothing of the erasure can be taken back any more"));
                }
                record.cancelled_at = record.cancelled_at.or(Some(Timestamp::now()));
                if record.approval == Approval::Awaited {
                    record.approval = Approval::NotNeeded;
                }
                Ok(())
            })
            .await?;
        advance(&self.inner, &session, id).await?;
        self.erasure(id).await
    }
}

/// Refuses to change an erasure while its subjects are being written down.
fn being_written(record: &ErasureRecord) -> Result<(), Error> {
    if record.accepted { Ok(()) } else { Err(Error::Conflict("the erasure is still being written down: retry")) }
}

impl Inner {
    async fn change_erasure(
        &self,
        session: &Session,
        id: ErasureId,
        change: &(dyn Fn(&mut ErasureRecord) -> Result<(), Error> + Send + std::marker::Sync),
    ) -> Result<(), Error> {
        loop {
            let (mut record, guard) = reading!(session, |snapshot| find_guarded(self, &snapshot.header, id).await)?;
            change(&mut record)?;
            let edits = vec![note(&session.snapshot().header, &record)?];
            let mut entries = trail::so_far();
            entries.iter_mut().for_each(|entry| entry.erasure = Some(id));
            let write = Write { guards: vec![guard], edits, entries, reclaim: true, ..Write::default() };
            if session.commit(vec![write]).await? == [true] {
                session.open.note(&record);
                return Ok(());
            }
        }
    }
}

/// Looks after the erasures that wait, for as long as the session lasts.
pub(crate) async fn run(inner: Arc<Inner>, session: Arc<Session>) {
    while !session.stopping() {
        // What is shredded is gone: not because a clock is wrong for a moment.
        let now = Timestamp::settled();
        for id in session.open.due(now) {
            if let Err(error) = memory::apart(|| advance(&inner, &session, id)).await {
                tracing::warn!(%error, "an erasure that is due waits; it is tried again");
            }
        }
        let until = session.open.next_due(now).map_or(LOOK_EVERY, |at| Duration::from_millis(at.0 - now.0));
        tokio::select! {
            () = tokio::time::sleep(until.min(LOOK_EVERY)) => {}
            () = session.open.changed.notified() => {}
        }
    }
}

/// Goes once through the subjects of an erasure that wait.
async fn advance(inner: &Inner, session: &Session, id: ErasureId) -> Result<(), Error> {
    let (mut after, mut together, mut attempts) = (None, TOGETHER, 0);
    loop {
        let part = reading!(session, |now| items_of(inner, &now.header, id, after, together).await)?;
        let Some((last, _)) = part.last() else { return finish(inner, session, id).await };
        let next = subject::tag_of(last);
        let moved = reading!(session, |now| prepare(inner, &now, session, id, &part).await)?;
        if moved.is_nothing() || moved.commit(session).await? {
            (after, attempts) = (Some(next), 0);
            continue;
        }
        attempts += 1;
        if attempts == ATTEMPTS {
            (together, attempts) = ((together / 2).max(1), 0);
        }
    }
}

/// Ends an erasure of which nothing is left to be done, if nobody came to it.
pub(super) async fn finish(inner: &Inner, session: &Session, id: ErasureId) -> Result<(), Error> {
    loop {
        let (mut record, guard) = reading!(session, |snapshot| find_guarded(inner, &snapshot.header, id).await)?;
        accept(&mut record, session);
        if record.ended_at.is_some() || !record.is_done() {
            return Ok(());
        }
        let header = session.snapshot().header.clone();
        let mut write = Write { guards: vec![guard], reclaim: true, ..Write::default() };
        evidence::conclude(&header, &mut record, Timestamp::now(), &mut write)?;
        write.edits.push(note(&header, &record)?);
        if session.commit(vec![write]).await? == [true] {
            session.open.note(&record);
            session.progress.send_modify(|count| *count += 1);
            return Ok(());
        }
    }
}

/// That an erasure was cut short is known before it is written down.
pub(in crate::vault) fn accept(record: &mut ErasureRecord, session: &Session) {
    if !record.accepted && session.open.is_accepted(record.id) {
        record.cut_short(Timestamp::now());
    }
}

/// What a part of the subjects comes to.
struct Moved {
    write: Write,
    record: ErasureRecord,
    refused: Vec<EntryKey>,
    /// Whether something is removed, which takes a root batch.
    removes: bool,
}

impl Moved {
    fn is_nothing(&self) -> bool {
        self.write.edits.is_empty()
    }

    /// Answers whether what it was prepared from still held.
    async fn commit(self, session: &Session) -> Result<bool, Error> {
        let committed = match self.removes {
            true => session.finalize(self.write).await?.held,
            false => session.commit(vec![self.write]).await? == [true],
        };
        if committed {
            session.open.note(&self.record);
            session.progress.send_modify(|count| *count += 1);
            if !self.refused.is_empty() {
                let job = Job::Shred { erasure: self.record.id, subjects: self.refused };
                session.finalizer.send(job).map_err(|_| Error::LockedMeanwhile)?;
            }
        }
        Ok(committed)
    }
}

async fn prepare(
    inner: &Inner,
    snapshot: &Snapshot,
    session: &Session,
    id: ErasureId,
    part: &[(EntryKey, ErasureItem)],
) -> Result<Moved, Error> {
    let header = &*snapshot.header;
    let now = Timestamp::now();
    let (mut record, guard) = find_guarded(inner, header, id).await?;
    accept(&mut record, session);
    let mut moved =
        Moved { write: Write { reclaim: true, ..Write::default() }, record, refused: Vec::new(), removes: false };
    for &(directory, item) in part.iter().filter(|(_, item)| item.state != ItemState::Refused) {
        let found = subject::find_by_key(inner, header, directory).await?;
        let guard = found.guard();
        let subject = match found.entry {
            Some(DirectoryEntry::Subject(subject)) if subject.uuid == item.uuid => Some(subject),
            _ => None,
        };
        let before = moved.write.edits.len();
        moved.one(header, directory, item, subject, now)?;
        if moved.write.edits.len() > before {
            moved.write.guards.push(guard);
        }
    }
    if moved.is_nothing() {
        return Ok(moved);
    }
    if !moved.refused.is_empty() {
        let count = Some(moved.refused.len() as u64);
        let entry = Entry { erasure: Some(id), count, ..Entry::new(Action::Erasure, Outcome::Done) };
        moved.write.entries.push(entry);
    }
    if moved.record.is_done() {
        evidence::conclude(header, &mut moved.record, now, &mut moved.write)?;
    }
    moved.write.guards.push(guard);
    moved.write.edits.push(note(header, &moved.record)?);
    Ok(moved)
}

impl Moved {
    /// Moves one subject on: refused, held, taken back, or gone by now.
    fn one(
        &mut self,
        header: &Header,
        directory: EntryKey,
        item: ErasureItem,
        subject: Option<SubjectRecord>,
        now: Timestamp,
    ) -> Result<(), Error> {
        let record = &mut self.record;
        let counts = &mut record.counts;
        let was = if item.state == ItemState::Held { &mut counts.held } else { &mut counts.pending };
        let remove = (Kind::Erasures, item_key(header, record.id, subject::tag_of(&directory)), Op::Remove);
        let Some(mut subject) = subject else {
            // Another erasure had it shredded.
            *was = was.saturating_sub(1);
            counts.shredded += 1;
            self.write.edits.push(remove);
            self.removes = true;
            return Ok(());
        };
        if record.cancelled_at.is_some() {
            *was = was.saturating_sub(1);
            counts.cancelled += 1;
            if lift(&mut subject, record) {
                self.write.delta.refused -= i64::from(record.compartment.is_none());
                let edit = Op::Insert(encode(&DirectoryEntry::Subject(subject))?);
                self.write.edits.push((Kind::Directory, directory, edit));
            }
            self.write.edits.push(remove);
            self.removes = true;
            return Ok(());
        }
        // Marked at once: the grace period was without reads, and no hold came in between.
        let held = subject.state == SubjectState::Active && !subject.holds.is_empty();
        if held && item.state == ItemState::Held {
            return Ok(());
        }
        *was = was.saturating_sub(1);
        let state = if held { ItemState::Held } else { ItemState::Refused };
        // Another one that was taken back may have lifted the mark meanwhile.
        let dark = subject.state != SubjectState::Active || record.compartment.is_some();
        let f0_at = if held { item.f0_at } else { item.f0_at.filter(|_| dark).or(Some(now)) };
        self.write.edits.push(keep(header, record.id, &directory, &ErasureItem { state, f0_at, ..item })?);
        if held {
            counts.held += 1;
            return Ok(());
        }
        counts.refused += 1;
        record.f0_at = record.f0_at.or(f0_at);
        self.write.delta.refused += i64::from(mark(&mut subject, record, now, true));
        self.write.edits.push((Kind::Directory, directory, Op::Insert(encode(&DirectoryEntry::Subject(subject))?)));
        self.write.refusals.push(record.refusal(&directory, now));
        self.refused.push(directory);
        Ok(())
    }
}

/// Takes an erasure's mark from a subject; answers whether there was one.
fn lift(subject: &mut SubjectRecord, record: &ErasureRecord) -> bool {
    match (&record.compartment, subject.state) {
        (None, SubjectState::Refused { erasure, .. }) if erasure == record.id => {
            subject.state = SubjectState::Active;
            true
        }
        (Some(name), _) => {
            let own = |keys: &&mut CompartmentKeys| keys.name == *name && keys.refused == Some(record.id);
            let marked = subject.compartments.iter_mut().find(own);
            marked.map(|keys| keys.refused = None).is_some()
        }
        _ => false,
    }
}
