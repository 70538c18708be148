//! Random batches against a map that holds the same entries.

use proptest::prelude::*;

use super::*;

/// Runs `batches` of random edits; after each, all is compared, every other time after opening the store anew.
async fn run(seed: u64, batches: usize, edits_each: usize, knotty: bool) {
    let mut dice = Dice(seed);
    let mut world = World::new().await;
    let mut model = Model::new();
    for batch in 0..batches {
        let mut edits = Edits::new();
        let only_insert = dice.roll(2) == 0;
        for _ in 0..=dice.roll(edits_each) {
            let kind = [Kind::Directory, Kind::Lookups][dice.roll(2)];
            let known = model.keys().nth(dice.roll(model.len() + 1)).filter(|(of, _)| *of == kind).map(|(_, key)| *key);
            let fresh = if knotty { dice.knotty_key() } else { dice.key() };
            let key = known.filter(|_| dice.roll(3) > 0).unwrap_or(fresh);
            let payload = dice.payload();
            let op = if only_insert { 0 } else { dice.roll(6) };
            match op {
                0 | 1 => edits.insert(kind, key, Zeroizing::new(payload.clone())),
                2 => edits.replace(kind, key, Zeroizing::new(payload.clone())),
                3 => edits.rekey(kind, key),
                _ => edits.remove(kind, key),
            }
            match op {
                0..=2 => drop(model.insert((kind, key), payload)),
                3 => {}
                _ => drop(model.remove(&(kind, key))),
            }
        }
        if only_insert {
            world.data(edits).await;
        } else {
            world.forget(edits).await;
        }
        if batch % 2 == 1 {
            world.reopen().await;
        }
        world.agrees_with(&model).await;
    }
    let mut all = Edits::new();
    model.keys().for_each(|(kind, key)| all.remove(*kind, *key));
    world.forget(all).await;
    world.agrees_with(&Model::new()).await;
    assert_eq!(world.store.rows(), 1, "only the header is left");
}

#[tokio::test]
async fn random_batches_agree() {
    for seed in 0..6 {
        run(seed, 25, 40, false).await;
    }
}

#[tokio::test]
async fn knotty_batches_agree() {
    for seed in 100..125 {
        run(seed, 20, 12, true).await;
    }
}

#[tokio::test]
async fn large_batches_agree() {
    run(7, 4, 2000, false).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_batches_agree(seed: u64, batches in 1usize..12, edits in 1usize..60, knotty: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(seed, batches, edits, knotty));
    }
}

#[tokio::test]
async fn the_last_edit_of_a_key_counts_and_forgetting_stays() {
    let payload = |text: &str| Zeroizing::new(text.as_bytes().to_vec());
    let mut world = World::new().await;
    let key = [1; 32];
    let kind = Kind::Directory;
    let mut first = Edits::new();
    first.remove(kind, key);
    first.insert(kind, key, payload("a"));
    assert!(first.needs_root_batch());
    assert_eq!(first.len(), 1);
    world.forget(first).await;
    let mut then = Edits::new();
    then.insert(kind, key, payload("b"));
    then.rekey(kind, key);
    assert!(then.needs_root_batch());
    world.forget(then.clone()).await;
    assert_eq!(find(&world.pages, &world.header, kind, &key).await.unwrap(), Some(payload("b")));
    then.remove(kind, key);
    then.rekey(kind, key);
    world.forget(then).await;
    assert_eq!(find(&world.pages, &world.header, kind, &key).await.unwrap(), None);
}

#[tokio::test]
async fn a_data_batch_refuses_what_needs_fresh_keys_and_any_batch_too_large_a_payload() {
    let world = World::new().await;
    let key = [1; 32];
    let mut edits = Edits::new();
    edits.remove(Kind::Directory, key);
    let mode = || Mode::Data { root: world.root() };
    let refused = apply(&world.pages, &world.header, edits, mode()).await;
    assert_eq!(refused.unwrap_err(), TrieError::NeedsRootBatch);
    let mut edits = Edits::new();
    edits.insert(Kind::Directory, key, Zeroizing::new(vec![0; PAYLOAD_BYTES_MAX + 1]));
    assert_eq!(apply(&world.pages, &world.header, edits, mode()).await.unwrap_err(), TrieError::TooLarge);
    let mut edits = Edits::new();
    edits.insert(Kind::Directory, key, Zeroizing::new(vec![0; PAYLOAD_BYTES_MAX]));
    assert!(apply(&world.pages, &world.header, edits, mode()).await.unwrap().header_changed);
}
