//! Rotations: created durably, done by the finalizer step by step, resumed after a restart.
//!
//! `root` is one root batch. `keks` walks every page with a cursor; each step is a root batch, so it stays correct beside
//! writes and shreds, and it claims nothing before its last page. `deks` and `lookups` walk every subject: see their rooms.

mod active;
pub(crate) mod deks;
#[cfg(test)]
mod deks_tests;
mod lookups;
#[cfg(test)]
mod lookups_tests;
#[cfg(test)]
mod races_tests;
mod walk;

use tokio::sync::oneshot;

pub(crate) use active::Rotations;

use super::finalizer::Job;
use super::idempotency::{self, Begun, Claim, Idempotency, Made};
use super::records::{DeksWork, LookupsWork, RotationRecord, Walk, WhichDeks, Work, decode, encode};
use super::session::{Session, Snapshot, reading};
use super::types::{DeksOf, Layer, NewRotation, PlaceNew, Rotation, RotationProgress, RotationState};
use super::unlocks::Undone;
use super::writer::Write;
use super::{Inner, Vault, ages, renew, subject};
use crate::audit::{Action, Entry, Outcome};
use crate::crypto::Random;
use crate::error::Error;
use crate::ids::{RotationId, SubjectId};
use crate::root::NewUnlock;
use crate::time::Timestamp;
use crate::trie::{self, EntryKey, Header, Kind, Op, RekeyCursor};

/// The most subjects that a rotation of chosen ones may name: its record holds them.
pub const CHOSEN_MAX: usize = 256;
/// How long an ended rotation is listed, in seconds: 30 days. The last one of each layer stays.
const LISTED_SECONDS: u64 = 30 * 24 * 3600;
/// Rotations that one root batch forgets.
const FORGOTTEN_MAX: usize = 100;
/// What is told of a rotation of unlock keys that did not come to its end.
const CUT_SHORT: &str =
    "it was cut short: keep what opens the vault now, and rotate unlock keys again, with --replace-all";
const ROOT_STAYS: &str = "the new unlock keys are in use, and the root is still the one from before: rotate the root";
const KEKS_FOLLOW: &str = "a rotation of keks follows by itself: until that is done, pages have keys from before";
const KEKS_AGAIN: &str = "a rotation of keks was under way and leaves the keys of pages it had come to: rotate keks again \
                          after it";
const META_STAYS: &str = "the key of META, of the outbox and of evidence stays as it is, for too much lies under it: rotate the \
                          root again once the audit log is written and shreds are final";
/// The highest rate of a rotation, in pages or subjects a second.
pub const RATE_MAX: u32 = 1_000_000;
/// Bounds on a rotation's rate, in pages or subjects a second.
const RATE: std::ops::RangeInclusive<u32> = 1..=RATE_MAX;

/// What a person changes about a rotation.
pub(crate) struct Alteration {
    pub(crate) id: RotationId,
    pub(crate) state: Option<RotationState>,
    pub(crate) rate: Option<u32>,
    pub(crate) reply: oneshot::Sender<Result<(), Error>>,
}

impl Vault {
    /// Begins a rotation. It is durable when this returns and goes on by itself.
    ///
    /// A request that is to be done once and was done answers its rotation as it is now.
    ///
    /// # Errors
    /// [`Error::Conflict`] if one of the same layer has not ended, [`Error::Invalid`] for a rate out of bounds or too many
    /// subjects; [`Error::IdempotencyMismatch`].
    pub async fn rotate(
        &self,
        asked: impl Into<NewRotation>,
        rate: Option<u32>,
        once: Option<&Idempotency<'_>>,
    ) -> Result<Made<Rotation>, Error> {
        self.begin_rotation(asked.into(), rate, once, false).await
    }

    /// The same for what nobody asks for but the policy.
    pub(super) async fn rotate_by_itself(&self, asked: NewRotation, rate: Option<u32>) -> Result<(), Error> {
        self.begin_rotation(asked, rate, None, true).await.map(drop)
    }

    async fn begin_rotation(
        &self,
        asked: NewRotation,
        rate: Option<u32>,
        once: Option<&Idempotency<'_>>,
        by_itself: bool,
    ) -> Result<Made<Rotation>, Error> {
        let session = self.session()?;
        check_rate(rate)?;
        self.check_rotation(&asked)?;
        if let NewRotation::Deks { which: DeksOf::Subjects(subjects), .. } = &asked {
            self.check_chosen(&session, subjects).await?;
        }
        let claim = match self.inner.begin(&session, once).await? {
            Begun::First(claim) => claim,
            Begun::Done(earlier) => {
                let made = self.rotation(RotationId(earlier.resource)).await?;
                return Ok(Made { made, repeated: Some(earlier.status) });
            }
        };
        // A change of unlock keys may wait for a slot that is away, and the other layers do not wait for that.
        let _one_change = match asked {
            NewRotation::Unlock { .. } => Some(self.inner.changing_unlocks.lock().await),
            _ => None,
        };
        let one_at_a_time = self.inner.rotating.lock().await;
        let now = Timestamp::now();
        let snapshot = session.snapshot();
        let earlier = all(&self.inner, &session).await?;
        if let NewRotation::Unlock { unlocks, place } = asked {
            // Who had an old unlock key and an old image knows the page keys of then.
            let keks = Work::Keks(RekeyCursor::start());
            let follows = RotationRecord { rate, ..RotationRecord::new(keks, snapshot.counts.pages, now) };
            let follows = (!is_open(&earlier, Layer::Keks)).then_some(follows);
            drop(one_at_a_time);
            return self.rotate_unlock_keys(&session, (unlocks, place), follows, claim.as_ref()).await;
        }
        let (work, total) = asked.work(&snapshot, now, &earlier);
        let record = RotationRecord { rate, ..RotationRecord::new(work, total, now) };
        if is_open(&earlier, record.layer()) {
            return Err(Error::Conflict("a rotation of this layer has not ended: watch, resume or cancel it first"));
        }
        // On a full disk what is under way may go on, and nothing is begun.
        let mut write = Write { reclaim: false, ..noting(&snapshot.header, &record)? };
        if let Some(claim) = &claim {
            claim.note(&snapshot.header, record.id.0, &mut write)?;
        }
        if by_itself {
            write.entries.push(Entry::new(Action::Keys, Outcome::Done));
        }
        idempotency::made(&session.commit(vec![write]).await?)?;
        session.finalizer.send(Job::Rotation(record.clone())).map_err(|_| Error::LockedMeanwhile)?;
        Ok(Made::now(shown(record, &[])))
    }

    /// Noted before anything is done, so that one that is cut short is told; done when the root is another one as well.
    async fn rotate_unlock_keys(
        &self,
        session: &Session,
        (unlocks, place): (Vec<NewUnlock>, PlaceNew),
        follows: Option<RotationRecord>,
        claim: Option<&Claim<'_>>,
    ) -> Result<Made<Rotation>, Error> {
        let mut record = RotationRecord::new(Work::Unlock, 1, Timestamp::now());
        let follows = follows.map(|keks| RotationRecord { started_at: record.started_at, ..keks });
        record.state = RotationState::Running;
        let header = session.snapshot().header.clone();
        session.commit(vec![noting(&header, &record)?]).await?;
        let error = match self.replace_unlock_keys(session, unlocks, place).await {
            Ok(()) => {
                let mut done = record.clone();
                done.done = 1;
                end(&mut done);
                let keks = if follows.is_some() { KEKS_FOLLOW } else { KEKS_AGAIN };
                let stays = renew::rows(&*self.inner.store, &[]).await.is_ok_and(|rows| rows.is_none());
                done.detail = Some(if stays { format!("{keks}; {META_STAYS}") } else { keks.to_owned() });
                match self.replace_root_with(session, &done, follows, claim).await {
                    Ok(()) => return Ok(Made::now(shown(done, &[]))),
                    // The vault is being locked, and the root batch may be committed, with what is noted of the end in it.
                    Err(error @ (Error::LockedMeanwhile | Error::Failed)) => return Err(error),
                    Err(error) => {
                        (record.state, record.detail) = (RotationState::Failed, Some(ROOT_STAYS.to_owned()));
                        error
                    }
                }
            }
            Err(Undone { error, untouched: true }) => {
                (record.state, record.detail) = (RotationState::Cancelled, Some("nothing was changed".to_owned()));
                error
            }
            Err(Undone { error, untouched: false }) => {
                (record.state, record.detail) = (RotationState::Failed, Some(CUT_SHORT.to_owned()));
                error
            }
        };
        let begun = record.clone();
        record.finished_at = Some(Timestamp::now());
        if session.commit(vec![ending(&header, &record)?]).await.is_err() {
            // It is not left running for ever: whoever cannot be told now is told by the finalizer.
            let begun = RotationRecord { state: RotationState::Running, detail: None, ..begun };
            session.finalizer.send(Job::Rotation(begun)).map_err(|_| Error::LockedMeanwhile)?;
        }
        Err(error)
    }

    /// Notes in a root batch that a rotation of `unlock` is done, and that one of the page keys follows.
    async fn replace_root_with(
        &self,
        session: &Session,
        done: &RotationRecord,
        follows: Option<RotationRecord>,
        claim: Option<&Claim<'_>>,
    ) -> Result<(), Error> {
        let header = session.snapshot().header.clone();
        let mut write = Write { renew: true, ..ending(&header, done)? };
        if let Some(claim) = claim {
            claim.note(&header, done.id.0, &mut write)?;
        }
        if let Some(record) = &follows {
            write.edits.extend(noting(&header, record)?.edits);
        }
        idempotency::made(&[session.finalize(write).await?.held])?;
        // Without a finalizer the vault is being locked, and it begins after the next unlock.
        follows.into_iter().for_each(|record| drop(session.finalizer.send(Job::Rotation(record))));
        Ok(())
    }

    /// Rotations of the last 30 days, oldest first, and the last of each layer.
    ///
    /// # Errors
    /// [`Error::Locked`].
    pub async fn rotations(&self) -> Result<Vec<Rotation>, Error> {
        let session = self.session()?;
        let records = all(&self.inner, &session).await?;
        let now = Timestamp::now();
        let listed = |r: &RotationRecord| {
            let last = records.iter().rfind(|other| other.layer() == r.layer()).is_some_and(|other| other.id == r.id);
            last || r.finished_at.is_none_or(|at| at.plus_seconds(LISTED_SECONDS) > now)
        };
        let under_way = session.rotating();
        Ok(records.iter().filter(|r| listed(r)).map(|record| shown(record.clone(), &under_way)).collect())
    }

    /// One rotation.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn rotation(&self, id: RotationId) -> Result<Rotation, Error> {
        let session = self.session()?;
        let record = reading!(session, |snapshot| find(&self.inner, &snapshot.header, id).await)?;
        Ok(shown(record, &session.rotating()))
    }

    /// Pauses, resumes (`running`), cancels or throttles a rotation.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Conflict`] if it has ended.
    pub async fn change_rotation(
        &self,
        id: RotationId,
        state: Option<RotationState>,
        rate: Option<u32>,
    ) -> Result<Rotation, Error> {
        let session = self.session()?;
        check_rate(rate)?;
        let allowed = [RotationState::Paused, RotationState::Running, RotationState::Cancelled];
        if state.is_some_and(|s| !allowed.contains(&s)) {
            return Err(Error::Invalid { field: "state", expected: "paused, running or cancelled" });
        }
        let (reply, answer) = oneshot::channel();
        let job = Job::Alter(Alteration { id, state, rate, reply });
        session.finalizer.send(job).map_err(|_| Error::LockedMeanwhile)?;
        answer.await.map_err(|_| Error::LockedMeanwhile)??;
        self.rotation(id).await.map_err(Error::meanwhile)
    }
}

impl RotationRecord {
    fn new(work: Work, total: u64, now: Timestamp) -> Self {
        let id = uuid::Builder::from_unix_timestamp_millis(now.0, &Random::new(10).array()).into_uuid();
        Self {
            id: RotationId(*id.as_bytes()),
            work,
            state: RotationState::Queued,
            rate: None,
            done: 0,
            total,
            started_at: now,
            finished_at: None,
            detail: None,
        }
    }
}

impl Vault {
    /// Who is told that somebody's keys are others takes it that there is such a one.
    async fn check_chosen(&self, session: &Session, subjects: &[SubjectId]) -> Result<(), Error> {
        for id in subjects {
            let found = reading!(session, |snapshot| subject::find(&self.inner, &snapshot.header, id).await)?;
            if found.entry.is_none() {
                return Err(Error::UnknownSubject);
            }
        }
        Ok(())
    }

    /// What is refused before anything is noted.
    fn check_rotation(&self, asked: &NewRotation) -> Result<(), Error> {
        match asked {
            NewRotation::Unlock { unlocks, .. } => self.check_unlock_keys(unlocks),
            NewRotation::Deks { which: DeksOf::Subjects(subjects), .. }
                if !(1..=CHOSEN_MAX).contains(&subjects.len()) =>
            {
                Err(Error::Invalid { field: "subjects", expected: "1 to 256 subjects" })
            }
            _ => Ok(()),
        }
    }
}

impl NewRotation {
    /// What it comes to in a vault as it is, and how many steps that takes.
    fn work(self, snapshot: &Snapshot, now: Timestamp, earlier: &[RotationRecord]) -> (Work, u64) {
        let counts = snapshot.counts;
        match self {
            Self::Unlock { .. } => (Work::Unlock, 1),
            Self::Root => (Work::Root, 1),
            Self::Keks => (Work::Keks(RekeyCursor::start()), counts.pages),
            Self::Deks { which, forget } => {
                let (which, total) = match which {
                    DeksOf::All => (WhichDeks::All, counts.subjects),
                    DeksOf::OlderThan(seconds) => (WhichDeks::Before(now.minus_seconds(seconds)), counts.subjects),
                    DeksOf::Subjects(subjects) => {
                        let tag = |id| subject::tag_of(&subject::directory_key(&snapshot.header, id));
                        let mut tags: Vec<_> = subjects.iter().map(tag).collect();
                        tags.sort_unstable();
                        tags.dedup();
                        let total = tags.len() as u64;
                        (WhichDeks::Of(tags), total)
                    }
                };
                (Work::Deks(DeksWork { which, forget, at: Walk::After(None), damaged: 0 }), total)
            }
            Self::Lookups => {
                let last = earlier.iter().rfind(|record| record.layer() == Layer::Lookups);
                let left_over = snapshot.header.generations(Kind::Lookups).beside.is_some()
                    || last.is_some_and(|record| record.state == RotationState::Failed);
                (Work::Lookups(LookupsWork::new(counts, left_over)), counts.subjects * 3)
            }
        }
    }
}

fn is_open(records: &[RotationRecord], layer: Layer) -> bool {
    records.iter().any(|record| record.layer() == layer && !ended(record.state))
}

/// Whether nothing comes of it any more.
pub(super) fn ended(state: RotationState) -> bool {
    matches!(state, RotationState::Done | RotationState::Failed | RotationState::Cancelled)
}

fn end(record: &mut RotationRecord) {
    record.state = RotationState::Done;
    record.total = record.done;
    record.finished_at = Some(Timestamp::now());
}

fn check_rate(rate: Option<u32>) -> Result<(), Error> {
    match rate {
        Some(rate) if !RATE.contains(&rate) => {
            Err(Error::Invalid { field: "rate", expected: "1 to 1,000,000 pages or subjects a second" })
        }
        _ => Ok(()),
    }
}

pub(super) async fn all(inner: &Inner, session: &Session) -> Result<Vec<RotationRecord>, Error> {
    let mut records = Vec::new();
    let mut after: Option<EntryKey> = None;
    loop {
        let page = reading!(session, |snapshot| {
            let prefix = &key(&snapshot.header, RotationId([0; 16]))[..16];
            let scan = trie::scan(&inner.pages, &snapshot.header, Kind::System, prefix, after.as_ref(), 1000);
            scan.await.map_err(Error::from)
        })?;
        after = page.last().map(|(key, _)| *key);
        for (_, payload) in &page {
            records.push(decode::<RotationRecord>(payload)?);
        }
        if page.is_empty() {
            return Ok(records);
        }
    }
}

/// Removes rotations that are not listed any more, unless the age of a layer is told from them. For a root batch.
pub(super) async fn forget_unlisted(inner: &Inner, session: &Session, now: Timestamp) -> Result<Vec<Write>, Error> {
    let records = all(inner, session).await?;
    let telling = ages::telling(&records);
    let header = &session.snapshot().header;
    let old = |record: &&RotationRecord| {
        let over = record.finished_at.is_some_and(|at| at.plus_seconds(LISTED_SECONDS) <= now);
        over && ended(record.state) && !telling.contains(&record.id)
    };
    let removals = records.iter().filter(old).take(FORGOTTEN_MAX);
    let edits: Vec<_> = removals.map(|record| (Kind::System, key(header, record.id), Op::Remove)).collect();
    Ok(if edits.is_empty() { Vec::new() } else { vec![Write { edits, reclaim: true, ..Write::default() }] })
}

async fn find(inner: &Inner, header: &Header, id: RotationId) -> Result<RotationRecord, Error> {
    let payload = trie::find(&inner.pages, header, Kind::System, &key(header, id)).await?;
    decode(&payload.ok_or(Error::NotFound("rotation"))?)
}

/// Rotations lie together, in the order of their time, which their ids begin with.
fn key(header: &Header, id: RotationId) -> EntryKey {
    header.entry_key(Kind::System, "rotations", "", b"", id.0)
}

fn noting(header: &Header, record: &RotationRecord) -> Result<Write, Error> {
    let edit = (Kind::System, key(header, record.id), Op::Insert(encode(record)?));
    Ok(Write { edits: vec![edit], reclaim: true, ..Write::default() })
}

/// The same in a root batch, where what the record says no more is to be forgotten.
fn replacing(header: &Header, record: &RotationRecord) -> Result<Write, Error> {
    let edit = (Kind::System, key(header, record.id), Op::Replace(encode(record)?));
    Ok(Write { edits: vec![edit], reclaim: true, ..Write::default() })
}

/// A rotation ends by itself, and the log is told.
fn ending(header: &Header, record: &RotationRecord) -> Result<Write, Error> {
    let outcome = if record.state == RotationState::Done { Outcome::Done } else { Outcome::Failed };
    Ok(Write { entries: vec![Entry::new(Action::Keys, outcome)], ..noting(header, record)? })
}

/// What is told of a rotation, with what those under way tell of themselves.
fn shown(record: RotationRecord, under_way: &[RotationProgress]) -> Rotation {
    let own = under_way.iter().find(|own| own.id == record.id && !ended(record.state));
    let in_seconds = own.and_then(|own| own.remaining_seconds);
    Rotation {
        id: record.id,
        layer: record.layer(),
        state: record.state,
        rate: record.rate,
        done: record.done.min(record.total),
        total: record.total,
        started_at: record.started_at,
        finished_at: record.finished_at,
        per_second: own.map(|own| own.per_second).filter(|speed| *speed > 0),
        eta: in_seconds.map(|seconds| Timestamp::now().plus_seconds(seconds)),
        detail: own.and_then(|own| own.waits_for.clone()).or(record.detail),
    }
}
