//! The finalizer: the one task that replaces the root key. Shreds, final forgettings and rotations meet here and share
//! root batches; one is outstanding at a time.
//!
//! A round: stage a fresh root in every slot, have the writer commit the root batch, overwrite the old root in every
//! slot, then tell everybody that it is final. Ordinary writes go on meanwhile, for slots are never waited for by the
//! writer. A slot that does not answer leaves shreds refused and not final; the round is tried again by itself.
//!
//! A round that meets damage is not committed, and whose damage it is cannot be told. So for a while each round takes one
//! kind of work only, one shred or the finals or the rotations, and what meets damage alone is set aside or ended.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Inner;
use super::records::RotationRecord;
use super::retained::RetainedAsk;
use super::rotate::{self, Alteration, Rotations};
use super::session::{Finalized, Session};
use super::shred::{self, ShredPart};
use super::unlocks::UnlocksAsk;
use super::writer::{Command, GroupError, RootDone, Write};
use super::{erase, evidence, expire, slots, stale, tokens};
use crate::crypto::Random;
use crate::error::Error;
use crate::ids::ErasureId;
use crate::memory;
use crate::root::{Finish, RootEntry, SlotError};
use crate::store::HealthState;
use crate::time::Timestamp;
use crate::trie::{EntryKey, Kind, Op};

/// Subjects that one root batch shreds.
const SHRED_MAX: usize = 500;
/// First and longest wait before a failed round is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));
/// How long rotations rest when the disk is full.
const FULL: Duration = Duration::from_secs(10);
/// First and longest wait before a shred that met damage is tried again.
const ASIDE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3600));
/// When to look first, and how often then, for a slot that does not answer and counts as away so: well before a request
/// gives up waiting for it.
const SILENT: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(1));
/// Before a part of the shreds that met a change is tried again, in smaller parts.
const MISSED: Duration = Duration::from_millis(10);
/// How often entries that ordinary writes left behind are looked for.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// The same while one batch does not take them all.
const TIDY_AGAIN: Duration = Duration::from_secs(1);

/// What final changes wait for when the backup that their root was retained for is gone just now.
const LET_GO: &str = "a retained root that is let go and is wiped from the slots within a minute";

/// What the finalizer is asked for.
pub(crate) enum Job {
    /// Make the shred of refused subjects final.
    Shred { erasure: ErasureId, subjects: Vec<EntryKey> },
    /// Commit this write in a root batch; answer once it is durable, or once it is final.
    Final { write: Write, final_: bool, reply: Reply },
    /// Begin a rotation whose record is durable.
    Rotation(RotationRecord),
    /// Pause, resume, cancel or throttle one.
    Alter(Alteration),
    /// Give the pages on the way to these keys fresh keys: theirs have sealed often enough.
    Worn(Vec<(Kind, EntryKey)>),
    /// Seal the root anew in every slot in hardware; answers when that was begun.
    Reseal { reply: oneshot::Sender<Result<Timestamp, SlotError>> },
    /// Note that shreds that were final by then are final on the slots' own disks as well.
    SlotFinal { begun: Timestamp, reply: oneshot::Sender<Result<(), Error>> },
    /// Give every root slot in a file these unlock keys in place of its own.
    Unlocks(UnlocksAsk),
    /// Change which roots are retained.
    Retained(RetainedAsk),
    /// Finish the round, then end.
    Stop,
}

type Reply = oneshot::Sender<Result<Finalized, Error>>;
type Item = (ErasureId, EntryKey);

/// A write that takes a root batch.
struct RootWrite {
    write: Write,
    final_: bool,
    reply: Reply,
}

/// What a round takes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taking {
    All,
    Shred,
    Finals,
    Rotations,
}

/// A shred that met damage.
struct Aside {
    item: Item,
    until: Instant,
    wait: Duration,
}

/// The finalizer's own state.
pub(crate) struct Finalizer {
    inner: Arc<Inner>,
    session: Arc<Session>,
    shreds: VecDeque<Item>,
    /// How many of them share a root batch; one at a time after damage, so that it holds up nobody else.
    together: usize,
    /// Those that wait for their next try by themselves.
    aside: Vec<Aside>,
    /// What the last round took, and how long the shred that it took had waited.
    taking: Taking,
    waited: Duration,
    /// What came while a slot did not answer.
    later: VecDeque<Job>,
    finals: Vec<RootWrite>,
    rotations: Rotations,
    worn: BTreeSet<(Kind, EntryKey)>,
    /// When to look for what ordinary writes left behind.
    tidy_at: Instant,
    /// Whether this round tidies what is looked for now and then only.
    thorough: bool,
    /// Until when rounds do without tidying, for one met damage.
    untidy_until: Option<Instant>,
    retry_at: Option<Instant>,
    retry_after: Duration,
    /// The epoch of the oldest root that was retained when the slots were written last. One that was let go since may still be
    /// in them.
    retained: Option<u64>,
    stopping: bool,
}

/// A round that is committed, and who waits for it.
struct Committed {
    done: RootDone,
    shredded: Option<ShredPart>,
    /// Whether a part of the shreds was prepared from a state that has changed.
    missed: bool,
    /// Which writes of the rotations were committed.
    rotated: Vec<bool>,
    /// With whether theirs held.
    replies: Vec<(Reply, bool)>,
}

impl Finalizer {
    /// Reads what an earlier run left to be done. Nobody may change the vault before this is read.
    ///
    /// # Errors
    /// Damage, or the store's.
    pub(super) async fn resume(inner: Arc<Inner>, session: Arc<Session>) -> Result<Self, Error> {
        let rotations = Rotations::resume(&inner, &session).await?;
        let shreds: VecDeque<_> = erase::unfinished(&inner, &session).await?.into();
        let unfinished: Vec<_> = shreds.iter().copied().collect();
        inner.resume_retaining(&session, &unfinished).await?;
        Ok(Self {
            inner,
            session,
            shreds,
            together: SHRED_MAX,
            aside: Vec::new(),
            taking: Taking::All,
            waited: Duration::ZERO,
            later: VecDeque::new(),
            finals: Vec::new(),
            rotations,
            worn: BTreeSet::new(),
            tidy_at: Instant::now() + TIDY_EVERY,
            thorough: false,
            untidy_until: None,
            retry_at: None,
            retry_after: RETRY.0,
            retained: None,
            stopping: false,
        })
    }

    /// Runs until it is told to stop or the engine fails.
    pub(super) async fn run(mut self, jobs: &mut mpsc::UnboundedReceiver<Job>) {
        memory::apart(|| self.settle_earlier(jobs)).await;
        while !self.stopping {
            while let Some(job) = self.later.pop_front() {
                memory::apart(|| self.take(job, jobs)).await;
            }
            if self.stopping {
                return;
            }
            self.session.set_rotating(self.rotations.progress());
            match self.next_round() {
                Some(at) if at <= Instant::now() => {
                    // Take what else waits, so that it shares the round.
                    while let Ok(job) = jobs.try_recv() {
                        memory::apart(|| self.take(job, jobs)).await;
                    }
                    memory::apart(|| self.round(jobs)).await;
                }
                due => self.wait(jobs, due).await,
            }
            if *self.inner.failed.borrow() {
                return;
            }
        }
    }

    /// Recovery may have left a slot behind that could not be reached; until it is settled nothing from before is final.
    async fn settle_earlier(&mut self, jobs: &mut mpsc::UnboundedReceiver<Job>) {
        let root = self.session.root.load_full();
        if self.finish(&root, jobs).await
            && let Err(error) = evidence::tell(&self.inner, &self.session, self.retained).await
        {
            tracing::warn!(%error, "the times of final erasures could not be noted; they are with the next one");
        }
        self.session.set_waiting(Vec::new());
        self.session.progress.send_modify(|count| *count += 1);
    }

    async fn wait(&mut self, jobs: &mut mpsc::UnboundedReceiver<Job>, due: Option<Instant>) {
        let due = due.unwrap_or_else(|| Instant::now() + TIDY_EVERY);
        tokio::select! {
            job = jobs.recv() => match job {
                Some(job) => memory::apart(|| self.take(job, jobs)).await,
                None => self.stopping = true,
            },
            () = tokio::time::sleep_until(due) => {}
        }
    }

    async fn take(&mut self, job: Job, jobs: &mut mpsc::UnboundedReceiver<Job>) {
        match job {
            Job::Shred { erasure, subjects } => self.shreds.extend(subjects.into_iter().map(|s| (erasure, s))),
            Job::Final { write, final_, reply } => self.finals.push(RootWrite { write, final_, reply }),
            Job::Rotation(record) => self.rotations.take(&self.inner, &self.session, record).await,
            Job::Worn(places) => self.worn.extend(places),
            Job::Alter(ask) => {
                let outcome = self.rotations.alter(&self.inner, &self.session, &ask).await;
                // Who asked may have gone away; it is done all the same.
                let _ = ask.reply.send(outcome);
            }
            Job::Reseal { reply } => {
                let (begun, root) = (Timestamp::now(), self.session.root.load_full());
                let inner = self.inner.clone();
                let resealed = self.patiently(inner.roots.reseal(&root), jobs).await;
                let _ = reply.send(resealed.map(|()| begun));
            }
            Job::SlotFinal { begun, reply } => {
                let _ = reply.send(slots::note_final(&self.inner, &self.session, begun).await);
            }
            Job::Unlocks(ask) => {
                let (inner, session) = (self.inner.clone(), self.session.clone());
                self.patiently(inner.change_unlock_keys(&session, ask), jobs).await;
            }
            Job::Retained((change, reply)) => {
                let (inner, session) = (self.inner.clone(), self.session.clone());
                let changed = self.patiently(inner.change_retained(&session, change), jobs).await;
                // Who asked does not wait for a slot that is away.
                let _ = reply.send(changed);
                self.settle_earlier(jobs).await;
            }
            Job::Stop => self.stopping = true,
        }
    }

    /// When the next round is due: at once if something waits, later if a slot failed or a rotation is throttled.
    fn next_round(&self) -> Option<Instant> {
        let now = Instant::now();
        let work = if self.shreds.is_empty() && self.finals.is_empty() { None } else { Some(now) };
        let aside = self.aside.iter().map(|aside| aside.until).min();
        let due = [work, self.rotations.due(), Some(self.tidy_at), aside].into_iter().flatten().min()?;
        Some(self.retry_at.map_or(due, |retry| due.max(retry)))
    }

    /// One root batch, from staging to the acknowledgement. What fails cleanly stays queued.
    async fn round(&mut self, jobs: &mut mpsc::UnboundedReceiver<Job>) {
        self.rotations.work(&self.inner, &self.session).await;
        if !self.has_work(jobs).await {
            return;
        }
        let current = self.session.root.load_full();
        let inner = self.inner.clone();
        let staged = match self.patiently(inner.roots.stage(&current, &mut Random::new(64)), jobs).await {
            Ok(staged) => Arc::new(staged.next),
            Err(error) => return self.slot_failed(&error),
        };
        let committed = {
            let _no_backup = inner.rounds.lock().await;
            self.commit(staged.clone()).await
        };
        match committed {
            Ok(mut committed) => {
                if let Some(noting) = committed.done.noting.take()
                    && self.patiently(noting, jobs).await.is_err()
                {
                    // It only fails with the process.
                    return;
                }
                if self.finish(&staged, jobs).await {
                    self.settle(committed, staged.epoch).await;
                }
            }
            // In doubt: neither root may be wiped. The process stops, and recovery decides.
            Err(Error::Failed) => {}
            Err(error) => self.batch_failed(&current, &error, jobs).await,
        }
    }

    async fn has_work(&mut self, jobs: &mut mpsc::UnboundedReceiver<Job>) -> bool {
        let now = Instant::now();
        let again = self.aside.iter().any(|aside| aside.until <= now);
        if again || !self.shreds.is_empty() || !self.finals.is_empty() || self.rotations.need_round() {
            return true;
        }
        if self.tidy_at > Instant::now() {
            return false;
        }
        self.inner.mend_lists(&self.session).await;
        if self.inner.drop_unconfirmed(&self.session).await || self.retained != self.inner.roots.oldest_retained() {
            self.settle_earlier(jobs).await;
        }
        self.thorough = true;
        let writes = self.tidying().await.unwrap_or_default();
        self.thorough = !writes.is_empty();
        let edits: usize = writes.iter().map(|write| write.edits.len()).sum();
        // One batch takes so much and no more: if it is full there is more.
        let again = if edits < expire::SWEEP_MAX { TIDY_EVERY } else { TIDY_AGAIN };
        self.tidy_at = Instant::now() + again;
        !writes.is_empty()
    }

    /// Prepares the batch and has the writer commit it.
    async fn commit(&mut self, next: Arc<RootEntry>) -> Result<Committed, Error> {
        self.taking = self.choose();
        let takes = |kind| self.taking == kind || self.taking == Taking::All;
        let (shreds, rotates, finals) = (takes(Taking::Shred), takes(Taking::Rotations), takes(Taking::Finals));
        let rotates = rotates && self.rotations.need_round();
        // Not along with shreds, which may use the space that is kept for them.
        let rotates = rotates && (self.shreds.is_empty() || !shreds || !self.is_full());
        let (shredded, mut writes) = if shreds { self.prepare().await? } else { (None, Vec::new()) };
        let (step, rotating) = match rotates {
            true => self.rotations.begin(&self.inner, &self.session).await?,
            false => (None, Vec::new()),
        };
        let rotations = writes.len()..writes.len() + rotating.len();
        writes.extend(rotating);
        let own = writes.len();
        let finals = match (finals, self.taking) {
            (false, _) => 0,
            // Whoever meets damage ends with it, and nobody else does.
            (true, Taking::Finals) => 1,
            (true, _) => self.finals.len(),
        };
        let mut replies = Vec::with_capacity(finals);
        for RootWrite { write, final_, reply } in self.finals.drain(..finals) {
            writes.push(write);
            replies.push((final_, reply));
        }
        let (reply, answer) = oneshot::channel();
        let sent = self.session.writer.send(Command::Root { next, writes, rekey: step, reply }).await;
        let outcome = match sent {
            Ok(()) => answer.await.unwrap_or(Err(GroupError::Failed)),
            Err(_) => Err(GroupError::Failed),
        };
        match outcome {
            Ok(mut done) => {
                let held: Vec<bool> = done.committed.drain(..own).collect();
                // A part that did not hold stays queued, and is prepared again.
                let missed = shredded.is_some() && !held[0];
                let shredded = shredded.filter(|_| held[0]);
                let mut waiting = Vec::new();
                for ((final_, reply), held) in replies.into_iter().zip(done.committed.drain(..)) {
                    // Who only left too much behind does not wait for the slots.
                    match final_ {
                        true => waiting.push((reply, held)),
                        false => drop(reply.send(Ok(Finalized { held, waits_for: None }))),
                    }
                }
                let replies = waiting;
                Ok(Committed { done, shredded, missed, rotated: held[rotations].to_vec(), replies })
            }
            Err(error) => {
                for (_, reply) in replies {
                    let _ = reply.send(Err(error.into()));
                }
                Err(error.into())
            }
        }
    }

    fn is_full(&self) -> bool {
        self.inner.store.health().state == HealthState::Full
    }

    /// What the round takes: all there is, unless some of it met damage of late.
    fn choose(&mut self) -> Taking {
        let now = Instant::now();
        self.waited = Duration::ZERO;
        if let Some(at) = self.aside.iter().position(|aside| aside.until <= now) {
            let Aside { item, wait, .. } = self.aside.swap_remove(at);
            self.shreds.push_front(item);
            self.waited = wait;
            self.together = 1;
            return Taking::Shred;
        }
        if self.untidy_until.is_none_or(|until| until <= now) {
            return Taking::All;
        }
        let kinds = [
            (Taking::Shred, !self.shreds.is_empty()),
            (Taking::Finals, !self.finals.is_empty()),
            (Taking::Rotations, self.rotations.need_round()),
        ];
        // In turns, so that none keeps the others from theirs.
        let last = kinds.iter().position(|(kind, _)| *kind == self.taking).map_or(0, |at| at + 1);
        let next = kinds.iter().cycle().skip(last).take(kinds.len()).find(|(_, waits)| *waits);
        next.map_or(Taking::All, |(kind, _)| *kind)
    }

    async fn prepare(&self) -> Result<(Option<ShredPart>, Vec<Write>), Error> {
        let mut writes = Vec::new();
        let part: Vec<_> = self.shreds.iter().take(self.together).copied().collect();
        let mut shredded = None;
        if !part.is_empty() {
            let (part, write) = shred::prepare_final(&self.inner, &self.session, part).await?;
            writes.push(write);
            shredded = Some(part);
        }
        writes.extend(self.tidying().await?);
        Ok((shredded, writes))
    }

    /// What ordinary writes and time left to be removed.
    async fn tidying(&self) -> Result<Vec<Write>, Error> {
        if self.untidy_until.is_some_and(|until| until > Instant::now()) {
            return Ok(Vec::new());
        }
        let mut writes = stale::sweep(&self.inner, &self.session).await?;
        writes.extend(expire::sweep(&self.inner, &self.session).await?);
        writes.extend(tokens::sweep(&self.inner, &self.session).await?);
        writes.extend(evidence::forget_keys(&self.inner, &self.session).await?);
        if self.thorough {
            // A damaged one of these keeps nothing else from being tidied away.
            let old = rotate::forget_unlisted(&self.inner, &self.session, Timestamp::settled()).await;
            writes.extend(old.unwrap_or_default());
        }
        if !self.worn.is_empty() {
            let edits = self.worn.iter().map(|&(kind, key)| (kind, key, Op::Rekey)).collect();
            writes.push(Write { edits, ..Write::default() });
        }
        Ok(writes)
    }

    /// Overwrites the old root in every slot, for as long as it takes: nothing is final before.
    /// Answers `false` if it was told to stop first: then recovery goes on with it at the next start.
    /// What comes meanwhile and needs a slot is told of it; the rest waits.
    async fn finish(&mut self, next: &RootEntry, jobs: &mut mpsc::UnboundedReceiver<Job>) -> bool {
        let mut wait = RETRY.0;
        loop {
            self.retained = self.inner.roots.oldest_retained();
            let inner = self.inner.clone();
            let away = match self.patiently(inner.roots.finish(next), jobs).await {
                Finish::Done => return true,
                Finish::Waiting(slots) => self.slots_away(slots),
            };
            if self.session.stopping() {
                return false;
            }
            let until = Instant::now() + wait;
            while let Ok(Some(job)) = tokio::time::timeout_at(until, jobs.recv()).await {
                self.take_later(job, away.clone());
                if self.session.stopping() {
                    return false;
                }
            }
            wait = (wait * 2).min(RETRY.1);
        }
    }

    /// Has the slots written or read. Once that takes long, those that do not answer count as away until they do.
    async fn patiently<T>(&mut self, access: impl Future<Output = T>, jobs: &mut mpsc::UnboundedReceiver<Job>) -> T {
        let mut access = std::pin::pin!(access);
        let mut look = SILENT.0;
        let mut away = loop {
            if let Ok(done) = tokio::time::timeout(look, &mut access).await {
                return done;
            }
            if let Finish::Waiting(slots) = self.inner.roots.outcome() {
                break self.slots_away(slots);
            }
            look = SILENT.1;
        };
        let mut again = tokio::time::interval(SILENT.1);
        let done = loop {
            tokio::select! {
                biased;
                done = &mut access => break done,
                // By then it may be another slot.
                _ = again.tick() => {
                    if let Finish::Waiting(slots) = self.inner.roots.outcome() {
                        away = self.slots_away(slots);
                    }
                }
                Some(job) = jobs.recv() => self.take_later(job, away.clone()),
            }
        };
        self.session.set_waiting(Vec::new());
        done
    }

    /// Tells what is waited for, and those who would wait.
    fn slots_away(&mut self, slots: Vec<(String, String)>) -> SlotError {
        let reasons: Vec<String> = slots.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        if self.session.set_waiting(reasons.clone()) != reasons {
            tracing::warn!(waiting_for = ?reasons, "shreds are refused but not final: a root slot does not answer");
        }
        let (slot, why) = slots.into_iter().next().unwrap_or_default();
        let away = SlotError::Unreachable { slot, why };
        self.refuse_finals(&away);
        away
    }

    /// Nobody waits for a slot that may be away for days.
    fn take_later(&mut self, job: Job, away: SlotError) {
        match job {
            Job::Final { reply, .. } => drop(reply.send(Err(away.into()))),
            Job::Alter(ask) => drop(ask.reply.send(Err(away.into()))),
            Job::Unlocks(ask) => ask.refuse(away),
            Job::Reseal { reply } => drop(reply.send(Err(away))),
            Job::Retained((change, reply)) => {
                let _ = reply.send(Err(away.into()));
                // Done all the same: nobody would ask again.
                if self.inner.drops(&change) {
                    self.later.push_back(Job::Retained((change, oneshot::channel().0)));
                }
            }
            job => self.later.push_back(job),
        }
    }

    /// The root before that of this epoch is gone: note it, and tell everybody.
    async fn settle(&mut self, committed: Committed, epoch: u64) {
        self.retry_at = None;
        self.retry_after = RETRY.0;
        self.session.set_waiting(Vec::new());
        self.worn.clear();
        self.thorough = false;
        if committed.missed {
            self.part_missed();
        }
        if let Some(part) = committed.shredded {
            self.shreds.drain(..part.taken);
            part.left.iter().rev().for_each(|&item| self.shreds.push_front(item));
            if self.shreds.is_empty() {
                self.together = SHRED_MAX;
            } else if self.untidy_until.is_none_or(|until| until <= Instant::now()) {
                self.together = (self.together * 2).min(SHRED_MAX);
            }
        }
        // Also when nothing was shredded now: what was before may have waited for a retained root that is gone since.
        if let Err(error) = evidence::tell(&self.inner, &self.session, self.retained).await {
            tracing::warn!(%error, "the time of a final erasure could not be noted; it is with the next one");
        }
        if let Err(error) = self.rotations.advance(&self.session, &committed.done, &committed.rotated).await {
            tracing::warn!(%error, "a rotation's progress could not be noted; it repeats its last step");
        }
        // A root that is retained since is no way to what was replaced.
        let retained = self.retained.filter(|retained| *retained < epoch);
        let waits_for = retained.map(|_| self.session.behind().unwrap_or_else(|| LET_GO.to_owned()));
        for (reply, held) in committed.replies {
            let _ = reply.send(Ok(Finalized { held, waits_for: waits_for.clone() }));
        }
        self.session.progress.send_modify(|count| *count += 1);
    }

    /// A subject of which only a compartment is shredded lives, and may be busy: it must not hold up the others.
    fn part_missed(&mut self) {
        if self.together == 1 {
            self.shreds.rotate_left(usize::from(!self.shreds.is_empty()));
        }
        self.together = (self.together / 2).max(1);
        self.retry_at = Some(Instant::now() + MISSED);
    }

    fn slot_failed(&mut self, error: &SlotError) {
        tracing::warn!(%error, "a root slot does not take a new root; it is tried again");
        self.refuse_finals(error);
        self.postpone(error.to_string());
    }

    fn refuse_finals(&mut self, error: &SlotError) {
        for RootWrite { reply, .. } in self.finals.drain(..) {
            let _ = reply.send(Err(Error::Slot(error.clone())));
        }
    }

    async fn batch_failed(&mut self, current: &RootEntry, error: &Error, jobs: &mut mpsc::UnboundedReceiver<Job>) {
        tracing::warn!(%error, "a root batch was not committed; it is tried again");
        let inner = self.inner.clone();
        if let Finish::Waiting(slots) = self.patiently(inner.roots.abandon(current), jobs).await {
            let slots: Vec<&String> = slots.iter().map(|(name, _)| name).collect();
            tracing::warn!(?slots, "a staged root that was not used could not be wiped yet");
        }
        match error {
            Error::Damaged(_) => self.step_aside(error).await,
            // Only a rotation needs more space than a shred may use: it waits, and nobody else does.
            Error::DiskFull if self.rotations.takes_part() => {
                self.session.set_waiting(vec![error.to_string()]);
                self.rotations.postponed(&error.to_string());
                self.rotations.rest(FULL);
            }
            _ => self.postpone(error.to_string()),
        }
    }

    /// Something that the round needs is damaged: what meets the damage must not keep the rest from becoming final.
    async fn step_aside(&mut self, error: &Error) {
        match self.taking {
            Taking::Rotations => {
                if let Err(error) = self.rotations.fail(&self.session, &error.to_string()).await {
                    tracing::warn!(%error, "a failed rotation could not be noted");
                }
            }
            Taking::Shred => {
                let wait = (self.waited * 2).clamp(ASIDE.0, ASIDE.1);
                let until = Instant::now() + wait;
                self.aside.extend(self.shreds.pop_front().map(|item| Aside { item, until, wait }));
            }
            // Or what is tidied away: nobody waits for that.
            Taking::Finals | Taking::All => {}
        }
        self.together = 1;
        self.untidy_until = Some(Instant::now() + TIDY_EVERY);
        self.session.set_waiting(vec![error.to_string()]);
        self.rotations.postponed(&error.to_string());
        // What it was is set aside: the rest does not wait.
        self.retry_at = Some(Instant::now() + MISSED);
    }

    fn postpone(&mut self, reason: String) {
        self.rotations.postponed(&reason);
        self.session.set_waiting(vec![reason]);
        self.retry_at = Some(Instant::now() + self.retry_after);
        self.retry_after = (self.retry_after * 2).min(RETRY.1);
    }
}
