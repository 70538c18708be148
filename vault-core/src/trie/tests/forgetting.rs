//! What an attacker gets who holds every row ever written: from the current root the living only, from an older root
//! what was removed after it, too.

use std::collections::BTreeSet;

use super::attacker::{reach, reachable};
use super::*;
use crate::crypto::tag::Tag;
use crate::store::Fault;

/// A payload that is never used twice, so that finding it tells which version was found.
fn unique(dice: &mut Dice) -> Vec<u8> {
    let len = 16 + [0, 20, 180, 700][dice.roll(4)];
    (0..len).map(|_| dice.roll(256) as u8).collect()
}

type Secret = (Kind, EntryKey, Vec<u8>);

fn attack(world: &World, root: &RootKey) -> BTreeSet<Secret> {
    secrets(reachable(&world.store.every_version(), root, VAULT))
}

fn secrets(found: Vec<(Kind, EntryKey, Payload)>) -> BTreeSet<Secret> {
    found.into_iter().map(|(kind, key, payload)| (kind, key, payload.to_vec())).collect()
}

/// How things stood at the end of one epoch.
#[derive(Clone, Default)]
struct Epoch {
    /// What every entry held.
    living: BTreeSet<Secret>,
    /// What entries held that are still there and were only added to: allowed to be found, and not looked for.
    earlier: BTreeSet<Secret>,
    /// What was removed or replaced by then.
    forgotten: BTreeSet<Secret>,
    /// How many versions of rows had been written.
    versions: usize,
}

impl Epoch {
    fn insert(&mut self, secret: Secret) {
        let (same, others) = std::mem::take(&mut self.living)
            .into_iter()
            .partition(|old: &Secret| (old.0, &old.1) == (secret.0, &secret.1));
        self.living = others;
        self.earlier.extend(same);
        self.living.insert(secret);
    }

    fn forget(&mut self, kind: Kind, key: &EntryKey) {
        for set in [&mut self.living, &mut self.earlier] {
            let (gone, rest) = std::mem::take(set).into_iter().partition(|old| (old.0, &old.1) == (kind, key));
            *set = rest;
            self.forgotten.extend(gone);
        }
    }
}

/// Random batches; answers how each epoch ended, the last being the present.
async fn history(seed: u64, batches: usize, knotty: bool) -> (World, Vec<Epoch>) {
    let mut dice = Dice(seed);
    let mut world = World::new().await;
    let mut epochs = vec![Epoch::default()];
    for _ in 0..batches {
        let mut now = epochs[epochs.len() - 1].clone();
        let mut edits = Edits::new();
        let only_insert = dice.roll(3) > 0;
        let mut edited = BTreeSet::new();
        for _ in 0..=dice.roll(20) {
            let kind = [Kind::Directory, Kind::Lookups][dice.roll(2)];
            let known = now.living.iter().nth(dice.roll(now.living.len() + 1)).filter(|s| s.0 == kind).map(|s| s.1);
            let fresh = if knotty { dice.knotty_key() } else { dice.key() };
            let key = known.filter(|_| dice.roll(4) > 0).unwrap_or(fresh);
            if !edited.insert((kind, key)) {
                continue;
            }
            let payload = unique(&mut dice);
            let op = if only_insert { 0 } else { dice.roll(6) };
            if matches!(op, 2..5) {
                now.forget(kind, &key);
            }
            if op <= 2 {
                now.insert((kind, key, payload.clone()));
            }
            match op {
                0 | 1 => edits.insert(kind, key, Zeroizing::new(payload)),
                2 => edits.replace(kind, key, Zeroizing::new(payload)),
                5 => edits.rekey(kind, key),
                _ => edits.remove(kind, key),
            }
        }
        if only_insert {
            world.data(edits).await;
            epochs.pop();
        } else {
            world.forget(edits).await;
        }
        now.versions = world.store.every_version().len();
        epochs.push(now);
    }
    (world, epochs)
}

/// The heart of the vault: no root gives what was forgotten by its epoch, each gives what lived in it.
#[tokio::test]
async fn each_root_gives_what_lived_in_its_epoch_and_nothing_forgotten_by_then() {
    for (seed, knotty) in (0..4).map(|seed| (seed, false)).chain((10..20).map(|seed| (seed, true))) {
        let (world, epochs) = history(seed, 30, knotty).await;
        assert_eq!(epochs.len(), world.roots.len());
        let rows = world.store.every_version();
        let last = &epochs[epochs.len() - 1];
        let mut brought_back = 0;
        for (number, (root, epoch)) in world.roots.iter().zip(&epochs).enumerate() {
            let found = secrets(reachable(&rows, root, VAULT));
            assert!(epoch.living.is_subset(&found), "seed {seed}, epoch {number}: what lived in it is found");
            assert!(epoch.forgotten.is_disjoint(&found), "seed {seed}, epoch {number}: what was forgotten is not");
            brought_back += found.intersection(&last.forgotten).count();
            // With the rows of its own time it is exact: later rows of pages that kept their keys are not among them.
            let found = secrets(reachable(&rows[..epoch.versions], root, VAULT));
            assert!(epoch.living.is_subset(&found));
            assert!(found.iter().all(|secret| epoch.living.contains(secret) || epoch.earlier.contains(secret)));
        }
        assert!(brought_back > 0, "the control: older roots bring forgotten secrets back");
        assert!(!last.living.is_empty() && !last.forgotten.is_empty());
    }
}

#[tokio::test]
async fn the_bytes_of_the_removed_are_in_the_store_and_only_keys_are_gone() {
    let mut dice = Dice(1);
    let mut world = World::new().await;
    let keys: Vec<EntryKey> = (0..200).map(|_| dice.key()).collect();
    for key in &keys {
        let mut edits = Edits::new();
        edits.insert(Kind::Directory, *key, Zeroizing::new(unique(&mut dice)));
        world.data(edits).await;
    }
    let before = attack(&world, world.root());
    let mut edits = Edits::new();
    keys[..10].iter().for_each(|key| edits.remove(Kind::Directory, *key));
    world.forget(edits).await;
    let old_root = &world.roots[world.roots.len() - 2];
    assert_eq!(attack(&world, old_root), before, "the old root, with the same rows, gives everything: the control");
    let now: BTreeSet<EntryKey> = attack(&world, world.root()).into_iter().map(|secret| secret.1).collect();
    assert_eq!(now, keys[10..].iter().copied().collect());
    // The living rows alone, a stolen disk as it is now, with the old root: nothing to start from.
    let present = world.store.scan(&[], None, usize::MAX).await.unwrap();
    assert!(reachable(&present, old_root, VAULT).is_empty());
    assert_eq!(reachable(&present, world.root(), VAULT).len(), 190);
}

/// Attempts that failed may lie in a log. Their rows join the attacker's, and change nothing.
#[tokio::test]
async fn failed_attempts_leave_no_way_in() {
    let mut dice = Dice(3);
    let mut world = World::new().await;
    let mut attempts = Vec::new();
    let mut doomed = Vec::new();
    for round in 0..120 {
        let mut edits = Edits::new();
        let key = dice.key();
        let payload = unique(&mut dice);
        edits.insert(Kind::Directory, key, Zeroizing::new(payload));
        let mode = Mode::Data { root: world.root() };
        let failed = apply(&world.pages, &world.header, edits.clone(), mode).await.unwrap();
        attempts.extend(failed.put);
        world.data(edits).await;
        if round % 3 == 0 {
            doomed.push(key);
        }
    }
    let mut edits = Edits::new();
    doomed.iter().for_each(|key| edits.remove(Kind::Directory, *key));
    let lost_root = RootKey::draw(&mut Random::for_keys(1));
    let mode = Mode::Root { next: &lost_root, rekey: None, renew: false, now: NOW };
    let failed = apply(&world.pages, &world.header, edits.clone(), mode).await.unwrap();
    attempts.extend(failed.put);
    world.forget(edits).await;
    let rows = [world.store.every_version(), attempts].concat();
    let found: BTreeSet<EntryKey> = reachable(&rows, world.root(), VAULT).into_iter().map(|(_, key, _)| key).collect();
    assert_eq!(found.len(), 80);
    assert!(doomed.iter().all(|key| !found.contains(key)));
    let before = &world.roots[world.roots.len() - 2];
    let control: BTreeSet<EntryKey> = reachable(&rows, before, VAULT).into_iter().map(|(_, key, _)| key).collect();
    assert!(doomed.iter().all(|key| control.contains(key)));
    // The root of the failed attempt leads to the living at most.
    let lost: BTreeSet<EntryKey> = reachable(&rows, &lost_root, VAULT).into_iter().map(|(_, key, _)| key).collect();
    assert!(doomed.iter().all(|key| !lost.contains(key)));
}

#[tokio::test]
async fn a_dropped_generation_is_forgotten_with_its_tag_key() {
    let mut dice = Dice(5);
    let mut world = World::new().await;
    let old_tag: Tag = world.header.tag_key(Kind::Lookups).tag("lookup", "phone", b"+971501238301");
    let mut edits = Edits::new();
    for n in 0..300u32 {
        let key = world.header.entry_key(Kind::Lookups, "lookup", "phone", &n.to_be_bytes(), [1; 16]);
        edits.insert(Kind::Lookups, key, Zeroizing::new(vec![]));
        edits.insert(Kind::Directory, dice.key(), Zeroizing::new(unique(&mut dice)));
    }
    world.data(edits).await;
    let succeed = |change| {
        let mut edits = Edits::new();
        edits.succeed(Kind::Lookups, change);
        edits
    };
    let before = world.roots.len() - 1;
    world.forget(succeed(Succession::Begin)).await;
    let mut edits = Edits::new();
    let key = world.header.next_tag_key(Kind::Lookups).unwrap().tag("lookup", "phone", b"+971501238301");
    let entry: EntryKey = [key, [1; 16]].concat().try_into().unwrap();
    edits.push_to(Kind::Lookups, Side::Beside, entry, Op::Insert(Zeroizing::new(vec![])));
    world.data(edits).await;
    assert_eq!(find(&world.pages, &world.header, Kind::Lookups, &entry).await.unwrap(), None, "it does not serve yet");
    world.forget(succeed(Succession::Switch)).await;
    assert!(find(&world.pages, &world.header, Kind::Lookups, &entry).await.unwrap().is_some());
    loop {
        let some = scan_beside(&world.pages, &world.header, Kind::Lookups, None, 70).await.unwrap();
        let mut edits = Edits::new();
        some.iter().for_each(|(key, _)| edits.push_to(Kind::Lookups, Side::Beside, *key, Op::Remove));
        if some.is_empty() {
            world.forget(succeed(Succession::Drop)).await;
            break;
        }
        world.forget(edits).await;
    }
    let rows = world.store.every_version();
    let now = reach(&rows, world.root(), VAULT);
    let of = |reach: &attacker::Reach, wanted| reach.entries.iter().filter(|(kind, ..)| *kind == wanted).count();
    assert_eq!((of(&now, Kind::Directory), of(&now, Kind::Lookups)), (300, 1));
    let matches = |reach: &attacker::Reach| {
        reach.tag_keys.iter().any(|(_, _, key)| key.tag("lookup", "phone", b"+971501238301") == old_tag)
    };
    assert!(!matches(&now), "no tag key left makes a tag of the dropped generation");
    let before = reach(&rows, &world.roots[before], VAULT);
    assert_eq!((of(&before, Kind::Directory), of(&before, Kind::Lookups)), (300, 300), "the control");
    assert!(matches(&before), "the control");
}

/// A commit in doubt that was lost is tried again with other keys, whatever came of the first.
#[tokio::test]
async fn a_batch_in_doubt_draws_all_keys_again() {
    let mut world = World::new().await;
    let mut dice = Dice(9);
    let keys: Vec<EntryKey> = (0..50).map(|_| dice.key()).collect();
    let mut edits = Edits::new();
    keys.iter().for_each(|key| edits.insert(Kind::Directory, *key, Zeroizing::new(unique(&mut dice))));
    world.data(edits).await;
    let mut edits = Edits::new();
    edits.remove(Kind::Directory, keys[0]);
    let next = RootKey::draw(&mut Random::for_keys(1));
    let mode = Mode::Root { next: &next, rekey: None, renew: false, now: NOW };
    let first = apply(&world.pages, &world.header, edits.clone(), mode).await.unwrap();
    world.store.fail_next_commit(Fault::InDoubtLost);
    let batch = Batch { put: first.put.clone(), delete: first.delete.clone(), ..Batch::default() };
    assert!(world.store.commit(batch).await.is_err());
    world.forget(edits).await;
    let rows: BTreeSet<Vec<u8>> =
        world.store.scan(&[], None, usize::MAX).await.unwrap().into_iter().map(|r| r.0).collect();
    let again = first.put.iter().filter(|(key, _)| rows.contains(key)).count();
    assert_eq!(again, 0, "no page of the second attempt has a key of the first");
    assert!(attack(&world, world.root()).iter().all(|secret| secret.1 != keys[0]));
}
