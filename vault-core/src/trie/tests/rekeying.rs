//! Giving every page a fresh key, step by step, with other batches in between.

use std::collections::BTreeSet;

use super::attacker::reach;
use super::*;

async fn filled(entries: usize, dice: &mut Dice) -> (World, Model) {
    let mut world = World::new().await;
    let mut model = Model::new();
    let mut edits = Edits::new();
    for n in 0..entries {
        let kind = Kind::ALL[n % 3];
        let (key, payload) = (dice.key(), vec![n as u8; dice.roll(200)]);
        model.insert((kind, key), payload.clone());
        edits.insert(kind, key, Zeroizing::new(payload));
    }
    world.data(edits).await;
    (world, model)
}

async fn rows(world: &World) -> BTreeSet<Vec<u8>> {
    world.store.scan(b"p", None, usize::MAX).await.unwrap().into_iter().map(|(key, _)| key).collect()
}

#[tokio::test]
async fn one_large_step_does_all() {
    let (mut world, model) = filled(500, &mut Dice(1)).await;
    let before = rows(&world).await;
    let step = RekeyStep { cursor: RekeyCursor::start(), max_pages: usize::MAX };
    let (next, _) = world.root_batch(Edits::new(), Some(step)).await;
    assert_eq!(next, None);
    assert!(rows(&world).await.is_disjoint(&before));
    world.agrees_with(&model).await;
}

#[tokio::test]
async fn an_empty_trie_is_done_at_once() {
    let mut world = World::new().await;
    let step = RekeyStep { cursor: RekeyCursor::start(), max_pages: 1 };
    assert_eq!(world.root_batch(Edits::new(), Some(step)).await.0, None);
}

/// Whatever happens between the steps: after the last, no page has a key from before the first.
#[tokio::test]
async fn small_steps_do_all_beside_other_batches() {
    for (seed, max_pages) in [(1, 1), (2, 3), (3, 10), (4, 50), (5, 7), (6, 2)] {
        let mut dice = Dice(seed);
        let (mut world, mut model) = filled(300, &mut dice).await;
        let first = rows(&world).await;
        let old = reach(&world.store.every_version(), world.root(), VAULT).rows;
        let mut cursor = Some(RekeyCursor::start());
        let mut steps = 0;
        while let Some(at) = cursor {
            let bytes = serde_json::to_vec(&at).unwrap();
            let at: RekeyCursor = serde_json::from_slice(&bytes).unwrap();
            let mut with_it = Edits::new();
            disturb(&mut dice, &mut world, &mut model, &mut with_it).await;
            cursor = world.root_batch(with_it, Some(RekeyStep { cursor: at, max_pages })).await.0;
            steps += 1;
            assert!(steps < 3000, "the cursor moves on");
            if steps % 20 == 0 {
                world.reopen().await;
            }
        }
        assert!(steps > 3 || max_pages > 10);
        world.agrees_with(&model).await;
        let now = rows(&world).await;
        assert!(now.is_disjoint(&first), "seed {seed}: no page lies where it lay");
        // The old keys, all of them, open nothing that was written since the end: no row of theirs is written again.
        let written_before = world.store.every_version().len();
        let mut edits = Edits::new();
        for (kind, key) in model.keys() {
            edits.insert(*kind, *key, Zeroizing::new(vec![7; 3]));
        }
        world.data(edits).await;
        let since = &world.store.every_version()[written_before..];
        assert!(!since.is_empty());
        assert!(since.iter().all(|(row, _)| !old.contains(row)));
    }
}

/// Inserts, shreds, splits and collapses; some of them in the rekeying batch itself.
async fn disturb(dice: &mut Dice, world: &mut World, model: &mut Model, with_it: &mut Edits) {
    let mut inserts = Edits::new();
    for _ in 0..dice.roll(4) {
        let kind = Kind::ALL[dice.roll(3)];
        let near = model.keys().nth(dice.roll(model.len() + 1)).map(|(_, key)| *key);
        let mut key = dice.key();
        // Near neighbours of what there is, so that skips part and leaves split.
        if let Some(near) = near {
            let shared = dice.roll(32);
            key[..shared].copy_from_slice(&near[..shared]);
        }
        let payload = vec![dice.roll(256) as u8; [10, 300, 900][dice.roll(3)]];
        model.insert((kind, key), payload.clone());
        inserts.insert(kind, key, Zeroizing::new(payload));
    }
    world.data(inserts).await;
    let mut removes = Edits::new();
    for n in 0..dice.roll(6) {
        let Some((kind, key)) = model.keys().nth(dice.roll(model.len() + 1)).copied() else { continue };
        model.remove(&(kind, key));
        if n % 2 == 0 { with_it.remove(kind, key) } else { removes.remove(kind, key) }
    }
    if !removes.is_empty() {
        world.forget(removes).await;
    }
}

#[tokio::test]
async fn a_step_takes_about_as_many_pages_as_it_may() {
    let (mut world, _) = filled(2000, &mut Dice(4)).await;
    let total = world.page_rows as u64;
    let mut cursor = RekeyCursor::start();
    let mut sum = 0;
    loop {
        let next = RootKey::draw(&mut Random::for_keys(1));
        let mode =
            Mode::Root { next: &next, rekey: Some(RekeyStep { cursor, max_pages: 100 }), renew: false, now: NOW };
        let applied = apply(&world.pages, &world.header, Edits::new(), mode).await.unwrap();
        assert!(applied.put.len() <= 110, "{} rows", applied.put.len());
        assert_eq!(applied.page_delta, 0);
        sum += applied.rekeyed;
        let went_on = applied.next_cursor.clone();
        world.roots.push(next);
        world.commit(applied).await;
        match went_on {
            Some(went_on) => cursor = went_on,
            None => break,
        }
    }
    assert!((total..total + total / 10).contains(&sum), "{sum} of {total}");
}

#[tokio::test]
async fn rekeying_everything_does_not_turn_the_cache_over() {
    let (mut world, _) = filled(2000, &mut Dice(4)).await;
    world.reopen().await;
    let key = [0x55; 32];
    find(&world.pages, &world.header, Kind::Directory, &key).await.unwrap();
    let cached = world.pages.stats().pages;
    let step = RekeyStep { cursor: RekeyCursor::start(), max_pages: usize::MAX };
    world.root_batch(Edits::new(), Some(step)).await;
    let before = world.pages.stats();
    assert_eq!(before.pages, cached);
    find(&world.pages, &world.header, Kind::Directory, &key).await.unwrap();
    assert_eq!(world.pages.stats().misses, before.misses, "what was in use is still at hand");
}

#[tokio::test]
async fn a_worn_page_says_so_and_a_rekey_mends_it() {
    let mut world = World::new().await;
    let key = [1; 32];
    let put = |byte| {
        let mut edits = Edits::new();
        edits.insert(Kind::Directory, key, Zeroizing::new(vec![byte]));
        edits
    };
    world.data(put(0)).await;
    // A page that was sealed very often is written by hand under its own key.
    let root = world.header.serving(Kind::Directory).root.as_ref().unwrap().duplicate();
    let seal = |reseals| {
        let page = page::Page::leaf(reseals, [(&key, &b"x"[..])].into_iter());
        let branch = Branch { kind: Kind::Directory, generation: 1 };
        let place = pages::place(VAULT, branch, &path::Path::ROOT);
        crate::crypto::page::seal(&root, &place, page.bytes(), &mut Random::new(12))
    };
    let row = pages::row_key(&root.address());
    let often = Batch { put: vec![(row.clone(), seal((1 << 24) - 1))], ..Batch::default() };
    world.store.commit(often).await.unwrap();
    world.pages.clear();
    let mode = Mode::Data { root: world.root() };
    let applied = apply(&world.pages, &world.header, put(1), mode).await.unwrap();
    assert_eq!(applied.worn, [(Kind::Directory, [0; 32])]);
    world.commit(applied).await;
    let mut mend = Edits::new();
    mend.rekey(Kind::Directory, [0; 32]);
    world.forget(mend).await;
    let mode = Mode::Data { root: world.root() };
    assert!(apply(&world.pages, &world.header, put(2), mode).await.unwrap().worn.is_empty());

    let mut world = world;
    let root = world.header.serving(Kind::Directory).root.as_ref().unwrap().duplicate();
    let page = page::Page::leaf(u32::MAX, [(&key, &b"x"[..])].into_iter());
    let place = pages::place(VAULT, Branch { kind: Kind::Directory, generation: 1 }, &path::Path::ROOT);
    let sealed = crate::crypto::page::seal(&root, &place, page.bytes(), &mut Random::new(12));
    let used_up = Batch { put: vec![(pages::row_key(&root.address()), sealed)], ..Batch::default() };
    world.store.commit(used_up).await.unwrap();
    world.reopen().await;
    let mode = Mode::Data { root: world.root() };
    assert_eq!(apply(&world.pages, &world.header, put(3), mode).await.unwrap_err(), TrieError::NeedsRootBatch);
}
