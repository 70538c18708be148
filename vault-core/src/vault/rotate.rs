//! Rotations: created durably, done by the finalizer step by step, resumed after a restart.
//!
//! `root` is one root batch. `keks` walks every page with a cursor; each step is a root batch, so it stays correct beside
//! writes and shreds, and it claims nothing before its last page.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::finalizer::Job;
use super::idempotency::{self, Begun, Idempotency, Made};
use super::records::{RotationRecord, decode, encode};
use super::session::{Session, reading};
use super::types::{KeyStatus, Layer, Rotation, RotationState};
use super::writer::{RootDone, Write};
use super::{Inner, Vault};
use crate::audit::{Action, Entry, Outcome};
use crate::crypto::Random;
use crate::error::Error;
use crate::ids::RotationId;
use crate::time::Timestamp;
use crate::trie::{self, EntryKey, Header, Kind, Op, RekeyCursor, RekeyStep};

/// Pages that one step rekeys.
const STEP_PAGES: u32 = 1024;
/// How long an ended rotation is listed, in seconds: 30 days. The last one of each layer stays.
const LISTED_SECONDS: u64 = 30 * 24 * 3600;
/// Bounds on a rotation's rate, in pages a second.
const RATE: std::ops::RangeInclusive<u32> = 1..=1_000_000;

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
    /// [`Error::Conflict`] if one of the same layer has not ended, [`Error::Invalid`] for a rate out of bounds;
    /// [`Error::IdempotencyMismatch`].
    pub async fn rotate(
        &self,
        layer: Layer,
        rate: Option<u32>,
        once: Option<&Idempotency<'_>>,
    ) -> Result<Made<Rotation>, Error> {
        let session = self.session()?;
        check_rate(rate)?;
        let claim = match self.inner.begin(&session, once).await? {
            Begun::First(claim) => claim,
            Begun::Done(earlier) => {
                let made = self.rotation(RotationId(earlier.resource)).await?;
                return Ok(Made { made, repeated: Some(earlier.status) });
            }
        };
        let _one_at_a_time = self.inner.rotating.lock().await;
        let open = |r: &RotationRecord| {
            r.layer == layer
                && matches!(r.state, RotationState::Queued | RotationState::Running | RotationState::Paused)
        };
        if all(&self.inner, &session).await?.iter().any(open) {
            return Err(Error::Conflict("a rotation of this layer has not ended: watch, resume or cancel it first"));
        }
        let now = Timestamp::now();
        let id = uuid::Builder::from_unix_timestamp_millis(now.0, &Random::new(10).array()).into_uuid();
        let snapshot = session.snapshot();
        let record = RotationRecord {
            id: RotationId(*id.as_bytes()),
            layer,
            state: RotationState::Queued,
            rate,
            done: 0,
            total: if layer == Layer::Root { 1 } else { snapshot.counts.pages },
            started_at: now,
            finished_at: None,
            detail: None,
            cursor: RekeyCursor::start(),
        };
        let mut write = noting(&snapshot.header, &record)?;
        if let Some(claim) = &claim {
            claim.note(&snapshot.header, record.id.0, &mut write)?;
        }
        idempotency::made(&session.commit(vec![write]).await?)?;
        session.finalizer.send(Job::Rotation(record.clone())).map_err(|_| Error::Locked)?;
        Ok(Made::now(shown(record)))
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
            let last = records.iter().rfind(|other| other.layer == r.layer).is_some_and(|other| other.id == r.id);
            last || r.finished_at.is_none_or(|at| at.plus_seconds(LISTED_SECONDS) > now)
        };
        Ok(records.iter().filter(|r| listed(r)).cloned().map(shown).collect())
    }

    /// One rotation.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn rotation(&self, id: RotationId) -> Result<Rotation, Error> {
        let session = self.session()?;
        let record = reading!(session, |snapshot| find(&self.inner, &snapshot.header, id).await)?;
        Ok(shown(record))
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
        session.finalizer.send(job).map_err(|_| Error::Locked)?;
        answer.await.map_err(|_| Error::Locked)??;
        self.rotation(id).await
    }

    /// The layers of keys and their ages.
    ///
    /// # Errors
    /// [`Error::Locked`].
    pub async fn keys(&self) -> Result<KeyStatus, Error> {
        let session = self.session()?;
        let records = all(&self.inner, &session).await?;
        let last =
            |layer| records.iter().rfind(|r| r.layer == layer && r.state == RotationState::Done).cloned().map(shown);
        let snapshot = session.snapshot();
        let header = &snapshot.header;
        let lookups = header.subtree_info().into_iter().rfind(|s| s.kind == Kind::Lookups);
        let lookups = lookups.ok_or(Error::Damaged("the header has no lookups"))?;
        Ok(KeyStatus {
            epoch: header.epoch(),
            root_since: header.root_created_at(),
            pages: snapshot.counts.pages,
            lookups_generation: lookups.generation,
            lookups_since: lookups.created_at,
            last_root: last(Layer::Root),
            last_keks: last(Layer::Keks),
            methods: self.unlock_methods(),
        })
    }
}

/// The rotations under way, as the finalizer holds them. Only it writes their records after they are created.
#[derive(Default)]
pub(crate) struct Rotations {
    active: Vec<Active>,
}

struct Active {
    record: RotationRecord,
    due: Instant,
    /// Whether it has a part in the round under way.
    taking_part: bool,
}

impl Rotations {
    /// What an earlier run left under way.
    pub(crate) async fn resume(inner: &Inner, session: &Session) -> Result<Self, Error> {
        let mut rotations = Self::default();
        let open = [RotationState::Queued, RotationState::Running];
        for record in all(inner, session).await?.into_iter().filter(|r| open.contains(&r.state)) {
            rotations.add(record);
        }
        Ok(rotations)
    }

    pub(crate) fn add(&mut self, record: RotationRecord) {
        self.active.push(Active { record, due: Instant::now(), taking_part: false });
    }

    /// When the next step is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.active.iter().map(|a| a.due).min()
    }

    /// Carries out what a person asked for.
    pub(crate) async fn alter(&mut self, inner: &Inner, session: &Session, ask: &Alteration) -> Result<(), Error> {
        let held = self.active.iter().position(|a| a.record.id == ask.id).map(|at| self.active.remove(at).record);
        let mut record = match held {
            Some(record) => record,
            None => reading!(session, |snapshot| find(inner, &snapshot.header, ask.id).await)?,
        };
        let ended = [RotationState::Done, RotationState::Failed, RotationState::Cancelled];
        if ended.contains(&record.state) {
            return Err(Error::Conflict("the rotation has ended: begin another one"));
        }
        record.rate = ask.rate.or(record.rate);
        record.state = ask.state.unwrap_or(record.state);
        if record.state == RotationState::Cancelled {
            record.finished_at = Some(Timestamp::now());
        }
        let write = noting(&session.snapshot().header, &record)?;
        let noted = session.commit(vec![write]).await.map(|_| ());
        if matches!(record.state, RotationState::Queued | RotationState::Running) {
            self.add(record);
        }
        noted
    }

    /// Chooses who takes part in the round that begins: its rekey step, and the records to write along with it.
    ///
    /// A record holds the cursor from before its step, for the one after is known only when the batch is made. A crash
    /// repeats one step at most.
    pub(crate) fn begin(&mut self, header: &Header) -> Result<(Option<RekeyStep>, Vec<Write>), Error> {
        let now = Instant::now();
        let mut step = None;
        let mut writes = Vec::new();
        for active in self.active.iter_mut().filter(|a| a.due <= now) {
            active.record.state = RotationState::Running;
            match active.record.layer {
                Layer::Root => {}
                Layer::Keks if step.is_none() => {
                    let pages = active.record.rate.unwrap_or(STEP_PAGES).min(STEP_PAGES);
                    let cursor = active.record.cursor.clone();
                    step = Some(RekeyStep { cursor, max_pages: pages as usize });
                }
                Layer::Keks => continue,
            }
            active.taking_part = true;
            writes.push(noting(header, &active.record)?);
        }
        Ok((step, writes))
    }

    /// After a round: moves the cursors on, and ends what is complete.
    pub(crate) async fn advance(&mut self, session: &Session, done: &RootDone) -> Result<(), Error> {
        let mut ended = Vec::new();
        for active in self.active.iter_mut().filter(|a| a.taking_part) {
            active.taking_part = false;
            let record = &mut active.record;
            match (record.layer, done.next_cursor.clone()) {
                (Layer::Keks, Some(cursor)) => {
                    record.cursor = cursor;
                    record.done += done.rekeyed;
                    // The vault may have grown meanwhile.
                    record.total = record.total.max(record.done);
                    active.due = Instant::now() + pause(record.rate, done.rekeyed);
                }
                (Layer::Keks, None) => {
                    record.done += done.rekeyed;
                    record.total = record.done;
                    end(record);
                }
                (Layer::Root, _) => {
                    record.done = 1;
                    end(record);
                }
            }
            if record.state == RotationState::Done {
                ended.push(record.clone());
            }
        }
        self.active.retain(|a| a.record.state != RotationState::Done);
        if ended.is_empty() {
            return Ok(());
        }
        let header = session.snapshot().header.clone();
        let writes = ended.iter().map(|record| ending(&header, record, Outcome::Done)).collect::<Result<_, _>>()?;
        session.commit(writes).await.map(|_| ())
    }

    /// Ends those that take part in a round which met damage.
    pub(crate) async fn fail(&mut self, session: &Session, detail: &str) -> Result<(), Error> {
        let (failed, rest): (Vec<Active>, Vec<Active>) =
            std::mem::take(&mut self.active).into_iter().partition(|a| a.taking_part);
        self.active = rest;
        let header = session.snapshot().header.clone();
        let mut writes = Vec::new();
        for Active { mut record, .. } in failed {
            record.state = RotationState::Failed;
            record.finished_at = Some(Timestamp::now());
            record.detail = Some(detail.to_owned());
            writes.push(ending(&header, &record, Outcome::Failed)?);
        }
        session.commit(writes).await.map(|_| ())
    }

    /// The round did not take place.
    pub(crate) fn postponed(&mut self) {
        self.active.iter_mut().for_each(|a| a.taking_part = false);
    }
}

fn end(record: &mut RotationRecord) {
    record.state = RotationState::Done;
    record.finished_at = Some(Timestamp::now());
}

fn pause(rate: Option<u32>, pages: u64) -> Duration {
    rate.map_or(Duration::ZERO, |rate| Duration::from_millis(pages.saturating_mul(1000) / u64::from(rate.max(1))))
}

fn check_rate(rate: Option<u32>) -> Result<(), Error> {
    match rate {
        Some(rate) if !RATE.contains(&rate) => {
            Err(Error::Invalid { field: "rate", expected: "1 to 1,000,000 pages a second" })
        }
        _ => Ok(()),
    }
}

async fn all(inner: &Inner, session: &Session) -> Result<Vec<RotationRecord>, Error> {
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

/// A rotation ends by itself, and the log is told.
fn ending(header: &Header, record: &RotationRecord, outcome: Outcome) -> Result<Write, Error> {
    Ok(Write { entries: vec![Entry::new(Action::Keys, outcome)], ..noting(header, record)? })
}

fn shown(record: RotationRecord) -> Rotation {
    let running = record.state == RotationState::Running && record.done > 0;
    let eta = running.then(|| {
        let now = Timestamp::now();
        let spent = now.0.saturating_sub(record.started_at.0);
        Timestamp(now.0 + spent.saturating_mul(record.total - record.done.min(record.total)) / record.done)
    });
    Rotation {
        id: record.id,
        layer: record.layer,
        state: record.state,
        rate: record.rate,
        done: record.done.min(record.total),
        total: record.total,
        started_at: record.started_at,
        finished_at: record.finished_at,
        eta,
        detail: record.detail,
    }
}
