//! The rotations under way, step by step: those that change keys of the trie as parts of root batches, those that seal
//! rows anew in ordinary commits.

use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::walk::{self, Reached, Step, Task};
use super::{Alteration, CUT_SHORT, META_STAYS, all, end, ended, ending, find, lookups, noting, replacing};
use crate::error::Error;
use crate::time::Timestamp;
use crate::trie::RekeyStep;
use crate::vault::Inner;
use crate::vault::records::{DeksWork, LookupsStage, RotationRecord, Then, Walk, WhichDeks, Work};
use crate::vault::session::{Session, reading};
use crate::vault::types::{RotationProgress, RotationState};
use crate::vault::writer::{RootDone, Write};

/// Pages that one step rekeys.
const STEP_PAGES: u32 = 1024;
/// Before a step is tried again that met a change, or a store that does not take it.
const AGAIN: Duration = Duration::from_millis(20);
const LATER: Duration = Duration::from_secs(1);

/// The rotations under way, as the finalizer holds them. Only it writes their records after they are created, but for those of
/// unlock keys, which whoever began them ends: here come only those that were cut short.
#[derive(Default)]
pub(crate) struct Rotations {
    active: Vec<Active>,
    /// Ended, and not yet written down: the store did not take it.
    untold: Vec<RotationRecord>,
    /// When that is tried again.
    tell_at: Option<Instant>,
}

struct Active {
    record: RotationRecord,
    due: Instant,
    /// When its first step at its present rate was done, and how much was then.
    since: Option<(Instant, u64)>,
    /// What it waits for.
    waits: Option<String>,
    /// Whether it has a part in the round under way.
    taking_part: bool,
    /// Its step of a walk in that round, and which of the rotations' writes that is.
    step: Option<(Step, Range<usize>)>,
    /// How far it is once that round is committed, where that is known before.
    next: Option<RotationRecord>,
    /// Subjects that a step takes: fewer after one that was changed meanwhile.
    together: u32,
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

    /// Takes one that was begun, unless somebody who saw it in the list has changed it before it came here.
    pub(crate) async fn take(&mut self, inner: &Inner, session: &Session, begun: RotationRecord) {
        let found = reading!(session, |snapshot| find(inner, &snapshot.header, begun.id).await);
        let known = self.active.iter().any(|active| active.record.id == begun.id);
        if !known && found.is_ok_and(|record| record.state == begun.state) {
            self.add(begun);
        }
    }

    fn add(&mut self, record: RotationRecord) {
        let (due, together) = (Instant::now(), walk::STEP_SUBJECTS);
        self.active.push(Active {
            record,
            due,
            since: None,
            waits: None,
            taking_part: false,
            step: None,
            next: None,
            together,
        });
    }

    /// How far each is.
    pub(crate) fn progress(&self) -> Vec<RotationProgress> {
        let of = |active: &Active| {
            let record = &active.record;
            let (per_second, rest) = active.pace().unzip();
            RotationProgress {
                id: record.id,
                layer: record.layer(),
                done: record.done.min(record.total),
                total: record.total,
                per_second: per_second.unwrap_or_default(),
                remaining_seconds: rest.map(|rest| rest.div_ceil(1000)),
                waits_for: active.waits.clone(),
            }
        };
        self.active.iter().map(of).collect()
    }

    /// When the next step is due.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.active.iter().map(|a| a.due).chain(self.tell_at).min()
    }

    /// Whether a step is due that is part of a root batch.
    pub(crate) fn need_round(&self) -> bool {
        let now = Instant::now();
        self.active.iter().any(|a| a.due <= now && a.needs_round())
    }

    /// Carries out what a person asked for.
    pub(crate) async fn alter(&mut self, inner: &Inner, session: &Session, ask: &Alteration) -> Result<(), Error> {
        let at = self.active.iter().position(|a| a.record.id == ask.id);
        let mut record = match at {
            Some(at) => self.active[at].record.clone(),
            None => reading!(session, |snapshot| find(inner, &snapshot.header, ask.id).await)?,
        };
        if ended(record.state) {
            return Err(Error::Conflict("the rotation has ended: begin another one"));
        }
        if matches!(record.work, Work::Unlock) {
            // Who began it writes its record, and waits for its end.
            return Err(Error::Conflict(
                "unlock keys are changed in one step, which nothing pauses, throttles or cancels",
            ));
        }
        record.rate = ask.rate.or(record.rate);
        record.state = ask.state.unwrap_or(record.state);
        if let (RotationState::Cancelled, Work::Lookups(work)) = (record.state, &mut record.work) {
            work.take_back(Then::Cancelled)?;
            // What it has built goes first.
            record.state = RotationState::Running;
            record.detail = Some("it is cancelled: what it has built is taken out".to_owned());
        }
        if record.state == RotationState::Cancelled {
            record.finished_at = Some(Timestamp::now());
        }
        let write = noting(&session.snapshot().header, &record)?;
        session.commit(vec![write]).await?;
        if let Some(at) = at {
            self.active.remove(at);
        }
        if matches!(record.state, RotationState::Queued | RotationState::Running) {
            self.add(record);
        }
        Ok(())
    }

    /// Writes down what has ended.
    async fn tell(&mut self, session: &Session) -> Result<(), Error> {
        let header = session.snapshot().header.clone();
        let writes: Vec<Write> = self.untold.iter().map(|record| ending(&header, record)).collect::<Result<_, _>>()?;
        if !writes.is_empty() {
            self.tell_at = Some(Instant::now() + LATER);
            session.commit(writes).await?;
            self.untold.clear();
        }
        self.tell_at = None;
        Ok(())
    }

    /// Does the steps that are due and need no root batch. What fails is tried again, or ends the rotation if it is damage.
    pub(crate) async fn work(&mut self, inner: &Inner, session: &Session) {
        let now = Instant::now();
        if let Err(error) = self.tell(session).await {
            tracing::warn!(%error, "the end of a rotation could not be noted; it is tried again");
        }
        for active in self.active.iter_mut().filter(|a| a.due <= now && !a.needs_round()) {
            if let Err(error) = active.ordinary_step(inner, session).await {
                tracing::warn!(%error, "a step of a rotation did not go through; it is tried again");
                active.due = Instant::now() + LATER;
                active.taking_part = matches!(error, Error::Damaged(_));
                active.waits = Some(error.to_string());
                if active.taking_part {
                    active.record.detail = Some(error.to_string());
                }
            }
        }
        if let Some(detail) = self.active.iter().find(|a| a.taking_part).and_then(|a| a.record.detail.clone())
            && let Err(error) = self.fail(session, &detail).await
        {
            tracing::warn!(%error, "a failed rotation could not be noted");
        }
    }

    /// Chooses who takes part in the round that begins: its rekey step, and the writes that go along with it.
    ///
    /// A record holds the cursor from before its step, for the one after is known only when the batch is made. A crash
    /// repeats one step at most.
    pub(crate) async fn begin(
        &mut self,
        inner: &Inner,
        session: &Session,
    ) -> Result<(Option<RekeyStep>, Vec<Write>), Error> {
        let now = Instant::now();
        let header = session.snapshot().header.clone();
        let mut step = None;
        let mut writes = Vec::new();
        for active in self.active.iter_mut().filter(|a| a.due <= now && a.needs_round()) {
            let Active { record, together, taking_part, step: own, next, .. } = active;
            let mut clear = false;
            match &mut record.work {
                Work::Root | Work::Unlock => {}
                Work::Keks(_) if step.is_some() => continue,
                Work::Keks(cursor) => {
                    let pages = record.rate.unwrap_or(STEP_PAGES).min(STEP_PAGES);
                    step = Some(RekeyStep { cursor: cursor.clone(), max_pages: pages as usize });
                }
                Work::Deks(work) if work.at == Walk::End => {
                    // Whose they were is nobody's business any more.
                    clear = work.forget_whose();
                }
                Work::Deks(_) | Work::Lookups(_) => {}
            }
            // Damage that it meets from here on is its own.
            *taking_part = true;
            record.state = RotationState::Running;
            if let Some((write, mut ahead)) = lookups::round(inner, session, record).await? {
                ahead.state = RotationState::Running;
                writes.push(Write { edits: [write.edits, noting(&header, &ahead)?.edits].concat(), ..write });
                *next = Some(ahead);
                continue;
            }
            if let Some(task) = Task::of(record).filter(|(_, at)| *at != Walk::End) {
                let most = record.rate.unwrap_or(*together).min(*together);
                let mut part = walk::prepare(inner, session, &task, most).await?;
                let from = writes.len();
                writes.extend(part.take_writes());
                *own = Some((part, from..writes.len()));
            }
            let write = if clear { replacing(&header, record)? } else { noting(&header, record)? };
            writes.push(Write { renew: matches!(record.work, Work::Root), ..write });
        }
        Ok((step, writes))
    }

    /// After a round: moves the cursors on, and ends what is complete. `held`: which of the rotations' writes were committed.
    pub(crate) async fn advance(&mut self, session: &Session, done: &RootDone, held: &[bool]) -> Result<(), Error> {
        let (over, now) = (&mut self.untold, Instant::now());
        for active in self.active.iter_mut().filter(|a| a.taking_part) {
            active.taking_part = false;
            active.waits = None;
            if let Some((step, writes)) = active.step.take() {
                let missed = step.missed(&held[writes]);
                let reached = step.reached(|key| missed.contains(key));
                active.moved(&reached, step.damaged);
                if ended(active.record.state) {
                    over.push(active.record.clone());
                }
                continue;
            }
            if let Some(next) = active.next.take() {
                let most = u64::from(next.rate.unwrap_or(lookups::STEP_ENTRIES).min(lookups::STEP_ENTRIES));
                let steps = next.done - active.record.done;
                if steps > most {
                    // It leaves a part out, as after it was cancelled.
                    active.since = None;
                } else {
                    active.since.get_or_insert((now, next.done));
                }
                active.due = now + pause(next.rate, steps.min(most));
                active.record = next;
                continue;
            }
            let record = &mut active.record;
            match (&mut record.work, done.next_cursor.clone()) {
                (Work::Keks(cursor), Some(next)) => {
                    *cursor = next;
                    record.done += done.rekeyed;
                    // The vault may have grown meanwhile.
                    record.total = record.total.max(record.done);
                    active.since.get_or_insert((now, record.done));
                    active.due = now + pause(record.rate, done.rekeyed);
                }
                (Work::Keks(_), None) => {
                    record.done += done.rekeyed;
                    end(record);
                }
                (Work::Root, _) => {
                    record.detail = (!done.renewed).then(|| META_STAYS.to_owned());
                    record.done = 1;
                    end(record);
                }
                (Work::Deks(work), _) => {
                    let damaged = work.damaged;
                    end_of_walk(record, if damaged == 0 { Then::Done } else { Then::Failed }, damaged);
                }
                (Work::Unlock, _) => {
                    // Nobody knows how far it came. The root is another one now, whatever opens the slots.
                    record.state = RotationState::Failed;
                    record.finished_at = Some(Timestamp::now());
                    record.detail = Some(CUT_SHORT.to_owned());
                }
                (Work::Lookups(_), _) => {}
            }
            if ended(active.record.state) {
                over.push(active.record.clone());
            }
        }
        self.active.retain(|a| !ended(a.record.state));
        self.tell(session).await
    }

    /// Ends those that take part in a round which met damage.
    pub(crate) async fn fail(&mut self, session: &Session, detail: &str) -> Result<(), Error> {
        let (failed, rest): (Vec<Active>, Vec<Active>) =
            std::mem::take(&mut self.active).into_iter().partition(|a| a.taking_part);
        self.active = rest;
        for Active { mut record, .. } in failed {
            if let Work::Lookups(work) = &mut record.work
                && work.take_back(Then::Failed).is_ok()
            {
                // What it has built goes first.
                record.detail = Some(detail.to_owned());
                self.add(record);
                continue;
            }
            record.state = RotationState::Failed;
            record.finished_at = Some(Timestamp::now());
            record.detail = Some(detail.to_owned());
            self.untold.push(record);
        }
        self.tell(session).await
    }

    /// Whether one has a part in the round under way.
    pub(crate) fn takes_part(&self) -> bool {
        self.active.iter().any(|active| active.taking_part)
    }

    /// Does nothing for a while.
    pub(crate) fn rest(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        self.active.iter_mut().for_each(|active| active.due = active.due.max(until));
    }

    /// The round did not take place, for this reason.
    pub(crate) fn postponed(&mut self, why: &str) {
        let now = Instant::now();
        for active in &mut self.active {
            if active.due <= now {
                active.waits = Some(why.to_owned());
            }
            active.taking_part = false;
            active.step = None;
            active.next = None;
        }
    }
}

impl Active {
    /// Whether its next step is part of a root batch.
    fn needs_round(&self) -> bool {
        match &self.record.work {
            Work::Root | Work::Keks(_) | Work::Unlock => true,
            Work::Deks(work) => work.forget || work.at == Walk::End,
            Work::Lookups(work) => work.needs_round(),
        }
    }

    /// How fast it has been since nobody paused or throttled it, in pages or subjects a second, and how many milliseconds it will
    /// take if it stays so. None before its second step, and while it waits.
    fn pace(&self) -> Option<(u64, u64)> {
        let (since, before) = self.since.filter(|_| self.waits.is_none())?;
        let done = Some(self.record.done.saturating_sub(before)).filter(|done| *done > 0)?;
        let spent = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let rest = spent.saturating_mul(self.record.total.saturating_sub(self.record.done)) / done;
        Some((done.saturating_mul(1000) / spent, rest))
    }

    async fn ordinary_step(&mut self, inner: &Inner, session: &Session) -> Result<(), Error> {
        self.record.state = RotationState::Running;
        let most = self.record.rate.unwrap_or(self.together).min(self.together);
        let Some(task) = Task::of(&self.record) else { return Ok(()) };
        let step = walk::prepare(inner, session, &task, most).await?;
        let damaged = step.damaged;
        let reached = walk::carry_out(session, inner, step, &task.0).await?;
        self.moved(&reached, damaged);
        let write = noting(&session.snapshot().header, &self.record)?;
        session.commit(vec![write]).await?;
        self.waits = None;
        Ok(())
    }

    /// Notes how far a step of a walk got, and when the next one is due.
    fn moved(&mut self, reached: &Reached, damaged: u64) {
        let record = &mut self.record;
        record.done += reached.subjects;
        record.total = record.total.max(record.done);
        // A busy subject is tried alone, so that it is read as late as can be.
        self.together = if reached.missed { 1 } else { (self.together * 2).min(walk::STEP_SUBJECTS) };
        let wait = if reached.missed && reached.subjects == 0 { AGAIN } else { Duration::ZERO };
        let now = Instant::now();
        self.since.get_or_insert((now, record.done));
        self.due = now + pause(record.rate, reached.subjects).max(wait);
        match &mut record.work {
            Work::Deks(work) => {
                work.at = reached.at;
                work.damaged += damaged;
            }
            Work::Lookups(work) => {
                work.damaged += damaged;
                match &mut work.stage {
                    LookupsStage::Build(at) | LookupsStage::Prune(at) => *at = reached.at,
                    _ => {}
                }
                let (over, then, damaged) = (work.walked(), work.then, work.damaged);
                if over {
                    end_of_walk(record, then, damaged);
                }
            }
            Work::Root | Work::Keks(_) | Work::Unlock => {}
        }
    }
}

/// Ends a rotation that has come to the end of its last walk.
fn end_of_walk(record: &mut RotationRecord, then: Then, damaged: u64) {
    end(record);
    match then {
        Then::Begin | Then::Done => record.detail = None,
        Then::Cancelled => {
            record.state = RotationState::Cancelled;
            record.detail = None;
        }
        Then::Failed => {
            record.state = RotationState::Failed;
            if damaged > 0 {
                let left = "data rows do not open, so their keys stay as they are: run `vault-server verify`";
                record.detail = Some(format!("{damaged} {left}"));
            }
        }
    }
}

impl DeksWork {
    /// Answers whether it had a list.
    fn forget_whose(&mut self) -> bool {
        match &mut self.which {
            WhichDeks::Of(tags) => {
                tags.clear();
                true
            }
            WhichDeks::All | WhichDeks::Before(_) => false,
        }
    }
}

fn pause(rate: Option<u32>, steps: u64) -> Duration {
    rate.map_or(Duration::ZERO, |rate| Duration::from_millis(steps.saturating_mul(1000) / u64::from(rate.max(1))))
}
