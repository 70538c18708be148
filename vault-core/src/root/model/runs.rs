//! The runs of the model: every fault at every step, lives of the process one after the other, and what must hold.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::{Commit, FAULTS, Landed, ModelSlot, Outage, Protocol, Retaining, Shared, World};
use crate::crypto::Random;
use crate::root::{Finish, RootEntry, RootError, RootSlot, Roots, SlotState};

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
    let unlocked = (0..slots).map(|at| ModelSlot::unlocked(shared, at).map(|slot| Arc::new(slot) as Arc<dyn RootSlot>));
    let Some(unlocked) = unlocked.collect() else { return false };
    let roots = Roots::new(unlocked);
    let Some(mut current) = recover(shared, &roots).await else { return false };
    while settled(shared, &roots, &current).await {
        let World { protocol, rotating, .. } = *shared.world();
        if rotating && !rotate(shared, &roots, &current).await {
            continue;
        }
        let retaining = shared.world().retaining;
        match retaining {
            Retaining::Wanted if *done == 1 => match retain(shared, &roots, &current).await {
                true => continue,
                false => return false,
            },
            Retaining::Named if *done == BATCHES => match release(shared, &roots) {
                true => continue,
                false => return false,
            },
            _ if *done == BATCHES => return true,
            _ => {}
        }
        let Ok(staged) = roots.stage(&current, &mut Random::new(48)).await else { continue };
        let next = staged.next;
        if rotating {
            // Beside a batch that is staged: whatever of the rotation before was left.
            drop(roots.destroy_old_slot_keys().await);
        }
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

/// One slot rotation; whether it came to its end.
async fn rotate(shared: &Shared, roots: &Roots, current: &RootEntry) -> bool {
    let drawn = roots.draw_slot_keys().await.is_ok();
    let used = shared.world().used.clone();
    let resealed = drawn && roots.reseal(current).await.is_ok();
    // Even after a failure nothing that is needed may go.
    let destroyed = roots.destroy_old_slot_keys().await.is_ok();
    if resealed && destroyed {
        shared.world().check_only_keys(&used);
    }
    resealed && destroyed
}

/// Retains the current root: in every slot first, then named by the store. Answers false if this life is over.
async fn retain(shared: &Shared, roots: &Roots, current: &RootEntry) -> bool {
    let kept = RootEntry { retained: true, ..current.duplicate() };
    shared.world().begun = Some(kept.duplicate());
    roots.retain(current);
    while roots.finish(current).await != Finish::Done {
        if shared.world().crashed {
            return false;
        }
    }
    let mut world = shared.world();
    let (landed, reported) = world.step();
    if landed == Landed::Done {
        (world.named, world.retaining) = (Some(kept), Retaining::Named);
    }
    world.check_needed_root();
    reported
}

/// Lets the retained root go: the store names it no more, then the slots are settled without it.
fn release(shared: &Shared, roots: &Roots) -> bool {
    let mut world = shared.world();
    let (landed, reported) = world.step();
    if landed == Landed::Done {
        (world.named, world.begun, world.retaining) = (None, None, Retaining::Released);
    }
    if reported {
        roots.retained().iter().for_each(|(_, id)| roots.release(*id));
    }
    reported
}

async fn recover(shared: &Shared, roots: &Roots) -> Option<RootEntry> {
    let (store, named) = {
        let mut world = shared.world();
        world.begun = None;
        (world.store.duplicate(), world.named.iter().map(|root| root.id).collect::<Vec<_>>())
    };
    let opens = |key| std::future::ready(Ok((key == store.key).then(|| named.clone())));
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
    enumerate_with(World::new(slots, protocol), depth, outage)
}

/// The same, of copies of this world.
fn enumerate_with(world: World, depth: usize, outage: Option<Outage>) -> Tally {
    let (protocol, slots, rotating, retaining) = (world.protocol, world.slots.len(), world.rotating, world.retaining);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut tally = Tally::default();
    let mut explore = vec![BTreeMap::new()];
    while let Some(faults) = explore.pop() {
        let world = World { faults: faults.clone(), outage, rotating, retaining, ..World::new(slots, protocol) };
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

#[test]
fn no_crash_of_a_slot_rotation_loses_a_root_or_keeps_an_old_key() {
    let mut runs = 0;
    for (slots, depth) in [(1, 2), (2, 1)] {
        let world = World { rotating: true, ..World::new(slots, Protocol::Right) };
        let tally = enumerate_with(world, depth, None);
        assert_eq!(tally.violation, None);
        runs += tally.runs;
    }
    for slots in 1..=2 {
        for outage in outages(slots) {
            let world = World { rotating: true, ..World::new(slots, Protocol::Right) };
            let tally = enumerate_with(world, 1, Some(outage));
            assert_eq!(tally.violation, None);
            runs += tally.runs;
        }
    }
    assert!(runs > 50_000, "only {runs} worlds were run");
    // The controls.
    for (protocol, expected) in [
        (Protocol::DestroyAnyway, "lost the root that the store needs"),
        (Protocol::ReuseKeys, "while a key from before it is in the HSM"),
    ] {
        let world = World { rotating: true, ..World::new(1, protocol) };
        let found = enumerate_with(world, 2, None).violation.unwrap_or_default();
        assert!(found.contains(expected), "{protocol:?}: {found}");
    }
}

#[test]
fn no_fault_loses_a_retained_root_or_keeps_one_that_was_let_go() {
    let mut runs = 0;
    for rotating in [false, true] {
        for (slots, depth) in [(1, 2), (2, 1)] {
            let retaining = World { retaining: Retaining::Wanted, rotating, ..World::new(slots, Protocol::Right) };
            let tally = enumerate_with(retaining, depth, None);
            assert_eq!(tally.violation, None);
            runs += tally.runs;
        }
    }
    for slots in 1..=2 {
        for outage in outages(slots) {
            let away = World { retaining: Retaining::Wanted, ..World::new(slots, Protocol::Right) };
            let tally = enumerate_with(away, 1, Some(outage));
            assert_eq!(tally.violation, None);
            runs += tally.runs;
        }
    }
    assert!(runs > 10_000, "only {runs} worlds were run");
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
