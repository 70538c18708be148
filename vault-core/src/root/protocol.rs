//! All slots together: stage, finish, abandon and recover, so that the root that the store needs is always in every slot
//! and an old one stays in none.
//!
//! Holds no root itself but retained ones: the caller passes the current one, and drops it when the vault is locked.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Hardware, RootEntry, RootError, RootSlot, SlotError};
use crate::crypto::{Random, RootKey};
use crate::ids::RootId;
use crate::store::StoreError;

/// From when on a slot that does not answer is shown so.
const SILENT: Duration = Duration::from_secs(4);

/// The configured root slots.
pub struct Roots {
    pub(super) slots: Vec<Arc<dyn RootSlot>>,
    /// What is known of each slot, in their order.
    known: Mutex<Vec<(SlotState, Option<String>)>>,
    /// Since when each has been asked for something and has not answered.
    asked: Mutex<Vec<Option<Instant>>>,
    /// One step of the protocol at a time; whether a root batch is staged and neither finished nor abandoned.
    pub(super) outstanding: tokio::sync::Mutex<bool>,
    /// Roots that stay in every slot beside the current one.
    pub(super) retained: Mutex<Vec<RootEntry>>,
}

/// A new root that lies beside the current one in every slot.
#[derive(Debug)]
#[must_use = "a staged root is committed with the store's batch and then finished, or abandoned"]
pub struct Staged {
    /// The new root, one epoch on.
    pub next: RootEntry,
}

/// How far a root has come.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a shred is final only once its root is the only one in all slots"]
pub enum Finish {
    /// It is the only root in every slot.
    Done,
    /// These slots, each with the reason, may still hold another root; [`Roots::retry_behind`] goes on.
    Waiting(Vec<(String, String)>),
}

/// How a slot is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// It holds the current root and no other.
    Ok,
    /// It was reached before, and may hold another root beside the current one.
    Behind,
    /// It has not been read since the vault was started.
    Unreachable,
}

/// A slot, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotStatus {
    /// Its name.
    pub name: String,
    /// How it is.
    pub state: SlotState,
    /// Why it is not [`SlotState::Ok`].
    pub detail: Option<String>,
    /// If only a key in an HSM opens it.
    pub hardware: Option<Hardware>,
}

impl Roots {
    /// Takes the slots; reads none of them yet.
    pub fn new(slots: Vec<Arc<dyn RootSlot>>) -> Self {
        let unread = (SlotState::Unreachable, Some("not read yet: unlock the vault".to_owned()));
        let known = Mutex::new(vec![unread; slots.len()]);
        let asked = Mutex::new(vec![None; slots.len()]);
        Self { slots, known, asked, outstanding: tokio::sync::Mutex::new(false), retained: Mutex::default() }
    }

    /// Step 1 of a root batch: draws a root for the next epoch (48 bytes of `random`) and writes it beside `current` in
    /// every slot.
    ///
    /// # Errors
    /// If any slot fails, what was staged is wiped and nothing may be committed: see to the slot and try again.
    pub async fn stage(&self, current: &RootEntry, random: &mut Random) -> Result<Staged, SlotError> {
        let mut outstanding = self.outstanding.lock().await;
        if *outstanding {
            return Err(SlotError::Outstanding);
        }
        for at in self.behind() {
            self.bring_up(at, current).await?;
        }
        // Even if this future is dropped half way: what was staged is then wiped by `abandon` or at the next start.
        *outstanding = true;
        let next = RootEntry::draw(current.epoch + 1, random);
        let both = self.beside(&[current, &next]);
        for (at, slot) in self.slots.iter().enumerate() {
            if let Err(error) = self.access(at, slot.stage(&both)).await {
                // The failed write may have happened all the same, so its slot is wiped too.
                for reached in 0..=at {
                    // A slot that fails here too is noted as behind, and brought up before the next root is staged.
                    drop(self.settle(reached, current).await);
                }
                *outstanding = false;
                return Err(error);
            }
        }
        Ok(Staged { next })
    }

    /// Step 3, after the store committed: overwrites the old root in every slot.
    pub async fn finish(&self, next: &RootEntry) -> Finish {
        self.agree(next).await
    }

    /// Instead of step 3, if the store refused the commit *for certain*: wipes the staged root. After a commit in doubt
    /// call nothing but [`Roots::recover`].
    pub async fn abandon(&self, current: &RootEntry) -> Finish {
        self.agree(current).await
    }

    /// Goes on with slots that are not [`SlotState::Ok`]: leaves only `current` in them. Does nothing while a root batch
    /// is staged, for that one reaches every slot itself.
    pub async fn retry_behind(&self, current: &RootEntry) -> Finish {
        let outstanding = self.outstanding.lock().await;
        if !*outstanding {
            for at in self.behind() {
                // Its outcome is noted, and told below.
                drop(self.bring_up(at, current).await);
            }
        }
        self.outcome()
    }

    /// At unlock: finds the root of `store_epoch` (from META) that `opens` the store's header, then leaves only that one
    /// in every slot, and of the retained ones those that `opens` names with it. The store must have been made durable
    /// before, so that no older commit can still land.
    ///
    /// A slot that cannot be reached does not stop this if another one has the root; see [`Roots::status`].
    ///
    /// # Errors
    /// If no root opens the header, or a slot shows the store to be an old copy. Nothing was wiped then.
    pub async fn recover<F, Fut>(&self, store_epoch: u64, mut opens: F) -> Result<RootEntry, RootError>
    where
        F: FnMut(RootKey) -> Fut,
        Fut: Future<Output = Result<Option<Vec<RootId>>, StoreError>>,
    {
        let mut outstanding = self.outstanding.lock().await;
        let readings = self.read_all().await?;
        if let Some(slot_epoch) = readings.iter().filter_map(|entries| newer_only(entries, store_epoch)).min() {
            return Err(RootError::OlderThanSlot { store_epoch, slot_epoch });
        }
        let (retained, own): (Vec<_>, Vec<_>) = readings.into_iter().flatten().partition(|e| e.retained);
        let slot_epoch = own.iter().map(|e| e.epoch).max().unwrap_or(0);
        let candidates = distinct(own.into_iter().filter(|e| e.epoch == store_epoch));
        if candidates.is_empty() {
            return Err(RootError::NewerThanSlot { store_epoch, slot_epoch });
        }
        // More than one only if a slot kept a root that was staged and never committed.
        for root in candidates {
            if let Some(named) = opens(root.key.duplicate()).await? {
                self.retain_only(distinct(retained.into_iter().filter(|e| named.contains(&e.id))));
                for at in self.behind() {
                    // A slot that fails is noted, and does not stop the unlocking.
                    drop(self.bring_up(at, &root).await);
                }
                *outstanding = false;
                return Ok(root);
            }
        }
        Err(RootError::HeaderDamaged { store_epoch })
    }

    /// How each slot is.
    pub fn status(&self) -> Vec<SlotStatus> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let named = |(at, (state, detail)): (usize, (SlotState, Option<String>))| {
            let (slot, silent) = (&self.slots[at], self.silent(at));
            let state = if silent.is_some() && state == SlotState::Ok { SlotState::Behind } else { state };
            SlotStatus { name: slot.name(), state, detail: silent.or(detail), hardware: slot.hardware() }
        };
        known.into_iter().enumerate().map(named).collect()
    }

    /// Leaves only `root` in every slot.
    async fn agree(&self, root: &RootEntry) -> Finish {
        let mut outstanding = self.outstanding.lock().await;
        for at in 0..self.slots.len() {
            // Its outcome is noted, and told below.
            drop(self.settle(at, root).await);
        }
        *outstanding = false;
        self.outcome()
    }

    /// What every slot that can be read holds.
    pub(super) async fn read_all(&self) -> Result<Vec<Vec<RootEntry>>, RootError> {
        let (mut readings, mut errors) = (Vec::new(), Vec::new());
        for (at, slot) in self.slots.iter().enumerate() {
            match self.access(at, slot.read()).await {
                Ok(reading) => {
                    self.note(at, SlotState::Behind, Some("not compared with the store yet".to_owned()));
                    readings.push(reading.entries);
                }
                Err(error) => {
                    self.note(at, SlotState::Unreachable, Some(error.to_string()));
                    errors.push(error);
                }
            }
        }
        if readings.is_empty() { Err(RootError::NoSlot(errors)) } else { Ok(readings) }
    }

    /// Leaves only `root` in a slot of which it is not known what it holds. Writes nothing if that is so already.
    async fn bring_up(&self, at: usize, root: &RootEntry) -> Result<(), SlotError> {
        let slot = &self.slots[at];
        let refusal = match self.access(at, slot.read()).await {
            Ok(reading) if reading.even && self.is_beside(&reading.entries, root) => {
                self.note(at, SlotState::Ok, None);
                return Ok(());
            }
            Ok(reading) if newer_only(&reading.entries, root.epoch).is_some() => SlotError::Newer { slot: slot.name() },
            // A slot with both copies damaged may be written anew: the root is at hand.
            Ok(_) | Err(SlotError::Damaged { .. }) => return self.settle(at, root).await,
            Err(error) => error,
        };
        self.note_failure(at, &refusal);
        Err(refusal)
    }

    async fn settle(&self, at: usize, root: &RootEntry) -> Result<(), SlotError> {
        let entries = self.beside(&[root]);
        let settled = self.access(at, self.slots[at].settle(&entries)).await;
        match &settled {
            Ok(()) => self.note(at, SlotState::Ok, None),
            Err(error) => self.note(at, SlotState::Behind, Some(error.to_string())),
        }
        settled
    }

    /// Reads or writes a slot. One that does not answer for long is shown so, until it does.
    pub(crate) async fn access<T>(&self, at: usize, access: impl Future<Output = T>) -> T {
        let _asked = Asked::now(&self.asked, at);
        access.await
    }

    /// What is shown of a slot that does not answer.
    fn silent(&self, at: usize) -> Option<String> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner)[at]?;
        (asked.elapsed() >= SILENT).then(|| "it does not answer: see to its disk, or to its HSM".to_owned())
    }

    /// Keeps a slot that was never read [`SlotState::Unreachable`].
    pub(super) fn note_failure(&self, at: usize, error: &SlotError) {
        let was = self.known.lock().unwrap_or_else(PoisonError::into_inner)[at].0;
        let state = if was == SlotState::Unreachable { was } else { SlotState::Behind };
        self.note(at, state, Some(error.to_string()));
    }

    pub(super) fn note(&self, at: usize, state: SlotState, detail: Option<String>) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)[at] = (state, detail);
    }

    /// The slots that are not known to hold the current root only.
    fn behind(&self) -> Vec<usize> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        (0..known.len()).filter(|&at| known[at].0 != SlotState::Ok).collect()
    }

    /// How far the root has come that was to be written last, as it is known now.
    pub(crate) fn outcome(&self) -> Finish {
        let lagging = self.status().into_iter().filter(|s| s.state != SlotState::Ok);
        let waiting: Vec<_> = lagging.map(|s| (s.name, s.detail.unwrap_or_default())).collect();
        if waiting.is_empty() { Finish::Done } else { Finish::Waiting(waiting) }
    }
}

/// A slot that is asked for something, until it answers.
struct Asked<'r> {
    asked: &'r Mutex<Vec<Option<Instant>>>,
    at: usize,
}

impl<'r> Asked<'r> {
    fn now(asked: &'r Mutex<Vec<Option<Instant>>>, at: usize) -> Self {
        asked.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(Instant::now());
        Self { asked, at }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)[self.at] = None;
    }
}

/// Each entry once.
pub(super) fn distinct(entries: impl Iterator<Item = RootEntry>) -> Vec<RootEntry> {
    let mut found: Vec<RootEntry> = Vec::new();
    for entry in entries {
        if !found.contains(&entry) {
            found.push(entry);
        }
    }
    found
}

/// The lowest epoch, if all are above `epoch`: such a slot has finished a root batch that the store knows nothing of.
fn newer_only(entries: &[RootEntry], epoch: u64) -> Option<u64> {
    entries.iter().filter(|e| !e.retained).map(|e| e.epoch).min().filter(|&lowest| lowest > epoch)
}
