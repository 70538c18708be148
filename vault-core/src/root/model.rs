//! Every crash point of the root protocol, enumerated: torn writes, commits in doubt, slots that fail or go away, and a
//! second and third fault during recovery; and protocols that are wrong, to show that this would notice. So are those of
//! slot rotations between and beside root batches, with an HSM that keeps what was made and destroyed in it.

#![allow(clippy::unwrap_used)]

mod runs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use super::copies::{COPIES, Copy, next_sequence, overwriting_order, reading};
use super::{Reading, RootEntry, RootSlot, SlotError};
use crate::crypto::Random;

/// What becomes of a write that does not return `Ok`. For a commit, which is atomic, `Torn` is one that is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Landed {
    Not,
    Torn,
    Done,
}

/// What goes wrong at a step.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The machine stops.
    Crash(Landed),
    /// The write reports an error. A commit that is `Not` done is refused cleanly, otherwise it is in doubt.
    Error(Landed),
}

const FAULTS: [Fault; 6] = [
    Fault::Crash(Landed::Not),
    Fault::Crash(Landed::Torn),
    Fault::Crash(Landed::Done),
    Fault::Error(Landed::Not),
    Fault::Error(Landed::Torn),
    Fault::Error(Landed::Done),
];

/// The protocol as it is, and wrong ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Right,
    /// Wipes the old root before the store committed.
    FinishFirst,
    /// Takes a commit in doubt for a refused one.
    AbandonInDoubt,
    /// Calls a shred final without looking at what `finish` answers.
    AcknowledgeAnyway,
    /// Overwrites first the copy that should be kept until last.
    WrongCopyFirst,
    /// Slots in hardware destroy their old keys without looking at the copies.
    DestroyAnyway,
    /// They take keys again that a copy may be sealed with already.
    ReuseKeys,
}

/// How far a run has come that retains a root between its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Retaining {
    No,
    Wanted,
    Named,
    Released,
}

/// A slot that cannot be reached for a while, in steps.
#[derive(Clone, Copy, Debug)]
struct Outage {
    slot: usize,
    from: usize,
    until: usize,
}

/// A copy that is whole: its sequence, the key that it is sealed with, and what it holds.
struct Sealed {
    sequence: u64,
    key: u32,
    entries: Vec<RootEntry>,
}

type ModelCopies = [Option<Sealed>; COPIES];

/// All that is durable, and what will go wrong with it.
struct World {
    store: RootEntry,
    slots: Vec<ModelCopies>,
    /// For each slot the keys that its HSM has; a slot outside hardware has one for good.
    hsm: Vec<BTreeSet<u32>>,
    /// Keys ever made, and those of them that ever sealed a copy: an image of it may be somewhere.
    made: u32,
    used: BTreeSet<u32>,
    rotating: bool,
    step: usize,
    crashed: bool,
    faults: BTreeMap<usize, Fault>,
    outage: Option<Outage>,
    protocol: Protocol,
    retaining: Retaining,
    /// The retained root that the store names.
    named: Option<RootEntry>,
    /// The one that this life of the process has begun to retain.
    begun: Option<RootEntry>,
    violations: Vec<String>,
}

impl World {
    fn new(slots: usize, protocol: Protocol) -> Self {
        let store = RootEntry::draw(1, &mut Random::new(48));
        let copy = |sequence| Some(Sealed { sequence, key: 0, entries: vec![store.duplicate()] });
        let hsm = vec![BTreeSet::from([0]); slots];
        let slots = (0..slots).map(|_| [copy(1), copy(2)]).collect();
        let (faults, violations) = (BTreeMap::new(), Vec::new());
        Self {
            store,
            slots,
            hsm,
            made: 0,
            used: BTreeSet::from([0]),
            rotating: false,
            step: 0,
            crashed: false,
            faults,
            outage: None,
            protocol,
            retaining: Retaining::No,
            named: None,
            begun: None,
            violations,
        }
    }

    /// Whether the slot cannot be reached now. Asking takes a step, so that every outage ends.
    fn away(&mut self, slot: usize) -> bool {
        let away = self.outage.is_some_and(|o| o.slot == slot && (o.from..o.until).contains(&self.step));
        if away {
            self.step += 1;
        }
        away || self.crashed
    }

    /// Takes one durable step; what becomes of it, and whether it reports success.
    fn step(&mut self) -> (Landed, bool) {
        let fault = self.faults.get(&self.step).copied();
        self.step += 1;
        match fault {
            _ if self.crashed => (Landed::Not, false),
            None => (Landed::Done, true),
            Some(Fault::Error(landed)) => (landed, false),
            Some(Fault::Crash(landed)) => {
                self.crashed = true;
                (landed, false)
            }
        }
    }

    /// The key that an unlock finds now: that of the newest copy whose key is in the HSM.
    fn unlock(&self, slot: usize) -> Option<u32> {
        let openable = self.slots[slot].iter().flatten().filter(|copy| self.hsm[slot].contains(&copy.key));
        openable.max_by_key(|copy| copy.sequence).map(|copy| copy.key)
    }

    /// The copies that open with one of these keys.
    fn copies(&self, slot: usize, keys: &[u32]) -> [Option<Copy>; COPIES] {
        let copy = |sealed: &Sealed| Copy { sequence: sealed.sequence, entries: duplicates(&sealed.entries) };
        std::array::from_fn(|at| self.slots[slot][at].as_ref().filter(|sealed| keys.contains(&sealed.key)).map(copy))
    }

    /// Writes `count` copies, sealed with the first of `keys`.
    fn write(&mut self, slot: usize, keys: &[u32], entries: &[RootEntry], count: usize) -> Result<(), SlotError> {
        let copies = self.copies(slot, keys);
        let sequence = next_sequence(&copies);
        let mut order = overwriting_order(&copies, entries);
        if self.protocol == Protocol::WrongCopyFirst {
            order.reverse();
        }
        for (sequence, at) in (sequence..).zip(order).take(count) {
            self.write_copy(slot, at, Sealed { sequence, key: keys[0], entries: duplicates(entries) })?;
        }
        Ok(())
    }

    fn write_copy(&mut self, slot: usize, at: usize, copy: Sealed) -> Result<(), SlotError> {
        if self.away(slot) {
            return Err(unreachable_slot(slot));
        }
        let (landed, reported) = self.step();
        if landed == Landed::Done {
            self.used.insert(copy.key);
        }
        match landed {
            Landed::Not => {}
            Landed::Torn => self.slots[slot][at] = None,
            Landed::Done => self.slots[slot][at] = Some(copy),
        }
        self.check_needed_root();
        if reported { Ok(()) } else { Err(unreachable_slot(slot)) }
    }

    /// Makes a key in the slot's HSM.
    fn make_key(&mut self, slot: usize) -> Result<u32, SlotError> {
        let (landed, reported) = self.step();
        self.made += 1;
        if landed == Landed::Done {
            self.hsm[slot].insert(self.made);
        }
        if reported { Ok(self.made) } else { Err(unreachable_slot(slot)) }
    }

    /// Destroys keys in the slot's HSM; one that is cut short destroys the newest.
    fn destroy_all_but(&mut self, slot: usize, keep: &[u32]) -> Result<(), SlotError> {
        let (landed, reported) = self.step();
        let doomed: Vec<u32> = self.hsm[slot].iter().filter(|key| !keep.contains(key)).copied().collect();
        let destroyed = match landed {
            Landed::Not => &[],
            Landed::Torn => &doomed[doomed.len().saturating_sub(1)..],
            Landed::Done => &doomed[..],
        };
        self.hsm[slot].retain(|key| !destroyed.contains(key));
        self.check_needed_root();
        if reported { Ok(()) } else { Err(unreachable_slot(slot)) }
    }

    fn commit(&mut self, next: &RootEntry) -> Commit {
        let (landed, reported) = self.step();
        if landed == Landed::Done {
            self.store = next.duplicate();
        }
        self.check_needed_root();
        match landed {
            _ if reported => Commit::Ok,
            Landed::Not => Commit::Refused,
            Landed::Torn | Landed::Done => Commit::InDoubt,
        }
    }

    /// At no moment may any slot be without the root that the store needs.
    fn check_needed_root(&mut self) {
        let has = |slot: usize| {
            let found = self.unlock(slot).map(|key| self.copies(slot, &[key]));
            found.into_iter().flatten().flatten().any(|copy| copy.entries.contains(&self.store))
        };
        if !(0..self.slots.len()).all(has) {
            self.violate("a slot lost the root that the store needs");
        }
        let has = |root: &RootEntry| {
            let copies = self.slots.iter().map(|copies| copies.iter().flatten());
            copies.into_iter().all(|mut copies| copies.any(|copy| copy.entries.contains(root)))
        };
        if !self.named.iter().all(has) {
            self.violate("a slot lost the retained root");
        }
    }

    /// Once a root is said to be the only one, no copy may hold another, or be torn and so hold bytes of another.
    fn check_only_root(&mut self) {
        let beside = [Some(&self.store), self.named.as_ref(), self.begun.as_ref()];
        let allowed = |entry: &RootEntry| beside.contains(&Some(entry));
        let only = |copy: &Option<Sealed>| {
            let copy = copy.as_ref();
            copy.is_some_and(|copy| copy.entries.contains(&self.store) && copy.entries.iter().all(allowed))
        };
        if !self.slots.iter().flatten().all(only) {
            self.violate("final was acknowledged while a copy may hold another root");
        }
    }

    /// Once a slot rotation is said to be done, no key may be in an HSM that sealed anything before it began: it would open
    /// images of the slots from then.
    fn check_only_keys(&mut self, used: &BTreeSet<u32>) {
        if self.hsm.iter().flatten().any(|key| used.contains(key)) {
            self.violate("a slot rotation was acknowledged while a key from before it is in the HSM");
        }
    }

    fn violate(&mut self, what: &str) {
        let step = self.step;
        self.violations.push(format!("step {step}: {what}"));
    }
}

enum Commit {
    Ok,
    Refused,
    InDoubt,
}

fn duplicates(entries: &[RootEntry]) -> Vec<RootEntry> {
    entries.iter().map(RootEntry::duplicate).collect()
}

fn unreachable_slot(slot: usize) -> SlotError {
    SlotError::Unreachable { slot: slot.to_string(), why: "as the model wants it".to_owned() }
}

#[derive(Clone)]
struct Shared(Arc<Mutex<World>>);

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap()
    }
}

#[derive(Clone)]
struct ModelKeys {
    in_force: u32,
    /// Drawn, and nothing is sealed with it.
    fresh: Option<u32>,
    /// Drawn, and a copy may be sealed with it.
    spent: Vec<u32>,
}

/// A slot as one life of the process knows it.
struct ModelSlot {
    shared: Shared,
    at: usize,
    keys: Mutex<ModelKeys>,
}

impl ModelSlot {
    /// None if no copy opens any more.
    fn unlocked(shared: &Shared, at: usize) -> Option<Self> {
        let key = shared.world().unlock(at)?;
        let keys = ModelKeys { in_force: key, fresh: None, spent: Vec::new() };
        Some(Self { shared: shared.clone(), at, keys: Mutex::new(keys) })
    }

    fn keys(&self) -> Vec<u32> {
        let ModelKeys { in_force, fresh, spent } = self.keys.lock().unwrap().clone();
        [in_force].into_iter().chain(fresh).chain(spent).collect()
    }
}

#[async_trait::async_trait]
impl RootSlot for ModelSlot {
    fn name(&self) -> String {
        self.at.to_string()
    }

    async fn read(&self) -> Result<Reading, SlotError> {
        let mut world = self.shared.world();
        if world.away(self.at) {
            return Err(unreachable_slot(self.at));
        }
        reading(world.copies(self.at, &self.keys())).ok_or(SlotError::Damaged { slot: self.name() })
    }

    async fn stage(&self, entries: &[RootEntry]) -> Result<(), SlotError> {
        self.shared.world().write(self.at, &self.keys(), entries, 1)
    }

    async fn settle(&self, entries: &[RootEntry]) -> Result<(), SlotError> {
        self.shared.world().write(self.at, &self.keys(), entries, COPIES)?;
        self.keys.lock().unwrap().spent.clear();
        Ok(())
    }

    async fn draw_keys(&self) -> Result<(), SlotError> {
        let mut keys = self.keys.lock().unwrap();
        if keys.fresh.is_none() {
            keys.fresh = Some(self.shared.world().make_key(self.at)?);
        }
        Ok(())
    }

    async fn reseal(&self) -> Result<(), SlotError> {
        let openable = self.keys();
        let mut keys = self.keys.lock().unwrap();
        let Some(fresh) = keys.fresh else { return Ok(()) };
        let mut world = self.shared.world();
        let copies = world.copies(self.at, &openable);
        let sequence = next_sequence(&copies);
        let [Some(first), Some(second)] = copies else { return Err(unreachable_slot(self.at)) };
        if first.entries != second.entries {
            return Err(unreachable_slot(self.at));
        }
        if world.protocol != Protocol::ReuseKeys {
            keys.fresh = None;
            keys.spent.push(fresh);
        }
        for (sequence, at) in (sequence..).zip(0..COPIES) {
            world.write_copy(self.at, at, Sealed { sequence, key: fresh, entries: duplicates(&first.entries) })?;
        }
        *keys = ModelKeys { in_force: fresh, fresh: None, spent: Vec::new() };
        Ok(())
    }

    async fn destroy_old_keys(&self) -> Result<(), SlotError> {
        let ModelKeys { in_force, fresh, .. } = self.keys.lock().unwrap().clone();
        let mut world = self.shared.world();
        let agree = world.slots[self.at].iter().all(|copy| copy.as_ref().is_some_and(|copy| copy.key == in_force));
        if !agree && world.protocol != Protocol::DestroyAnyway {
            return Err(unreachable_slot(self.at));
        }
        let keep: Vec<u32> = [in_force].into_iter().chain(fresh).collect();
        world.destroy_all_but(self.at, &keep)
    }
}
