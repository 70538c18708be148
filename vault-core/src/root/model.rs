//! Every crash point of the root protocol, enumerated: torn writes, commits in doubt, slots that fail or go away, and a
//! second and third fault during recovery; and protocols that are wrong, to show that this would notice.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::copies::{COPIES, Copy, next_sequence, overwriting_order, reading};
use super::{Finish, Reading, RootEntry, RootError, RootSlot, Roots, SlotError, SlotState};
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
}

/// A slot that cannot be reached for a while, in steps.
#[derive(Clone, Copy, Debug)]
struct Outage {
    slot: usize,
    from: usize,
    until: usize,
}

type ModelCopies = [Option<(u64, Vec<RootEntry>)>; COPIES];

/// All that is durable, and what will go wrong with it.
struct World {
    store: RootEntry,
    slots: Vec<ModelCopies>,
    step: usize,
    crashed: bool,
    faults: BTreeMap<usize, Fault>,
    outage: Option<Outage>,
    protocol: Protocol,
    violations: Vec<String>,
}

impl World {
    fn new(slots: usize, protocol: Protocol) -> Self {
        let store = RootEntry::draw(1, &mut Random::new(48));
        let copy = |sequence| Some((sequence, vec![store.duplicate()]));
        let slots = (0..slots).map(|_| [copy(1), copy(2)]).collect();
        let (faults, violations) = (BTreeMap::new(), Vec::new());
        Self { store, slots, step: 0, crashed: false, faults, outage: None, protocol, violations }
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

    fn copies(&self, slot: usize) -> [Option<Copy>; COPIES] {
        let copy = |(sequence, entries): &(u64, Vec<RootEntry>)| Copy {
            sequence: *sequence,
            entries: entries.iter().map(RootEntry::duplicate).collect(),
        };
        std::array::from_fn(|at| self.slots[slot][at].as_ref().map(copy))
    }

    fn write(&mut self, slot: usize, entries: &[RootEntry], count: usize) -> Result<(), SlotError> {
        let copies = self.copies(slot);
        let sequence = next_sequence(&copies);
        let mut order = overwriting_order(&copies, entries);
        if self.protocol == Protocol::WrongCopyFirst {
            order.reverse();
        }
        for (sequence, at) in (sequence..).zip(order).take(count) {
            if self.away(slot) {
                return Err(unreachable_slot(slot));
            }
            let (landed, reported) = self.step();
            match landed {
                Landed::Not => {}
                Landed::Torn => self.slots[slot][at] = None,
                Landed::Done => {
                    self.slots[slot][at] = Some((sequence, entries.iter().map(RootEntry::duplicate).collect()));
                }
            }
            self.check_needed_root();
            if !reported {
                return Err(unreachable_slot(slot));
            }
        }
        Ok(())
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
        let has = |copies: &ModelCopies| copies.iter().flatten().any(|(_, entries)| entries.contains(&self.store));
        if !self.slots.iter().all(has) {
            self.violate("a slot lost the root that the store needs");
        }
    }

    /// Once a root is said to be the only one, no copy may hold another, or be torn and so hold bytes of another.
    fn check_only_root(&mut self) {
        let only = |copy: &Option<(u64, Vec<RootEntry>)>| {
            copy.as_ref().is_some_and(|(_, entries)| entries.iter().eq([&self.store]))
        };
        if !self.slots.iter().flatten().all(only) {
            self.violate("final was acknowledged while a copy may hold another root");
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

struct ModelSlot {
    shared: Shared,
    at: usize,
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
        reading(world.copies(self.at)).ok_or(SlotError::Damaged { slot: self.name() })
    }

    async fn stage(&self, entries: &[RootEntry]) -> Result<(), SlotError> {
        self.shared.world().write(self.at, entries, 1)
    }

    async fn settle(&self, entries: &[RootEntry]) -> Result<(), SlotError> {
        self.shared.world().write(self.at, entries, COPIES)
    }
}

/// How many root batches a run has to bring to their end: the second meets what faults of the first left behind.
const BATCHES: usize = 2;

/// Starts the vault again and again until its batches are done. Answers what was violated.
async fn run(world: World) -> (Vec<String>, usize) {
    let shared = Shared(Arc::new(Mutex::new(world)));
    let (mut done, mut lives) = (0, 0);
    while !live(&shared, &mut done).await && lives < 40 {
        shared.world().crashed = false;
        lives += 1;
    }
    let mut world = shared.world();
    if lives == 40 {
        world.violate("the vault never came to an end");
    }
    world.check_only_root();
    (std::mem::take(&mut world.violations), world.step)
}

/// One life of the process: recovers, then runs batches until it crashes, has to stop, or all are `done` and settled,
/// and only then answers true.
async fn live(shared: &Shared, done: &mut usize) -> bool {
    let slots = shared.world().slots.len();
    let slot = |at| Arc::new(ModelSlot { shared: shared.clone(), at }) as Arc<dyn RootSlot>;
    let roots = Roots::new((0..slots).map(slot).collect());
    let Some(mut current) = recover(shared, &roots).await else { return false };
    while settled(shared, &roots, &current).await {
        if *done == BATCHES {
            return true;
        }
        let protocol = shared.world().protocol;
        let Ok(staged) = roots.stage(&current, &mut Random::new(48)).await else { continue };
        let next = staged.next;
        if protocol == Protocol::FinishFirst {
            drop(roots.finish(&next).await);
        }
        let commit = shared.world().commit(&next);
        match commit {
            Commit::Ok => {
                current = next;
                let finish = roots.finish(&current).await;
                if finish == Finish::Done || protocol == Protocol::AcknowledgeAnyway {
                    shared.world().check_only_root();
                }
                *done += 1;
            }
            Commit::InDoubt if protocol != Protocol::AbandonInDoubt => return false,
            Commit::InDoubt | Commit::Refused => drop(roots.abandon(&current).await),
        }
    }
    false
}

async fn recover(shared: &Shared, roots: &Roots) -> Option<RootEntry> {
    let store = shared.world().store.duplicate();
    let opens = |key| std::future::ready(Ok(key == store.key));
    let recovered = roots.recover(store.epoch, opens).await;
    let mut world = shared.world();
    match recovered {
        Ok(root) if root == store => {
            if roots.status().iter().all(|s| s.state == SlotState::Ok) {
                world.check_only_root();
            }
            Some(root)
        }
        Ok(_) => {
            world.violate("recovered to a root that is not the store's");
            None
        }
        Err(RootError::NoSlot(_)) => None,
        Err(error) => {
            world.violate(&error.to_string());
            None
        }
    }
}

/// Waits until slots that lag hold the current root only; whether the process still lives then.
async fn settled(shared: &Shared, roots: &Roots, current: &RootEntry) -> bool {
    loop {
        let finish = roots.retry_behind(current).await;
        let mut world = shared.world();
        if world.crashed {
            return false;
        }
        if finish == Finish::Done {
            world.check_only_root();
            return true;
        }
    }
}

/// Runs every world with `slots` slots and up to `depth` faults, each at any step of what the earlier ones led to.
fn enumerate(protocol: Protocol, slots: usize, depth: usize, outage: Option<Outage>) -> Tally {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut tally = Tally::default();
    let mut explore = vec![BTreeMap::new()];
    while let Some(faults) = explore.pop() {
        let world = World { faults: faults.clone(), outage, ..World::new(slots, protocol) };
        let (violations, steps) = runtime.block_on(run(world));
        tally.runs += 1;
        if let (Some(first), None) = (violations.first(), &tally.violation) {
            tally.violation = Some(format!("{slots} slots, faults {faults:?}, {outage:?}: {first}"));
        }
        if faults.len() < depth {
            let from = faults.keys().last().map_or(0, |last| last + 1);
            for (step, fault) in (from..steps).flat_map(|step| FAULTS.map(|fault| (step, fault))) {
                let mut more = faults.clone();
                more.insert(step, fault);
                explore.push(more);
            }
        }
    }
    tally
}

#[derive(Default)]
struct Tally {
    runs: usize,
    violation: Option<String>,
}

fn outages(slots: usize) -> impl Iterator<Item = Outage> {
    let spans = (0..21).flat_map(|from| [1, 4, 12].map(|len| (from, from + len)));
    spans.flat_map(move |(from, until)| (0..slots).map(move |slot| Outage { slot, from, until }))
}

#[test]
fn no_crash_loses_a_root_or_keeps_an_old_one() {
    let mut runs = 0;
    for (slots, depth) in [(1, 3), (2, 2), (3, 2)] {
        let tally = enumerate(Protocol::Right, slots, depth, None);
        assert_eq!(tally.violation, None);
        runs += tally.runs;
    }
    assert!(runs > 50_000, "only {runs} worlds were run");
}

#[test]
fn no_outage_loses_a_root_or_keeps_an_old_one() {
    let mut runs = 0;
    for slots in 1..=3 {
        for outage in outages(slots) {
            let tally = enumerate(Protocol::Right, slots, 1, Some(outage));
            assert_eq!(tally.violation, None);
            runs += tally.runs;
        }
    }
    assert!(runs > 30_000, "only {runs} worlds were run");
}

/// The control: the same enumeration finds what is wrong with wrong protocols.
#[test]
fn wrong_protocols_are_found_out() {
    let wrong = [
        (Protocol::FinishFirst, "lost the root that the store needs"),
        (Protocol::AbandonInDoubt, "lost the root that the store needs"),
        (Protocol::AcknowledgeAnyway, "final was acknowledged while a copy may hold another root"),
        (Protocol::WrongCopyFirst, "lost the root that the store needs"),
    ];
    for (protocol, expected) in wrong {
        let found = (1..=3).filter_map(|slots| enumerate(protocol, slots, 1, None).violation).collect::<Vec<_>>();
        assert_eq!(found.len(), 3, "{protocol:?} got away with it");
        assert!(found.iter().all(|v| v.contains(expected)), "{protocol:?}: {found:?}");
    }
}
