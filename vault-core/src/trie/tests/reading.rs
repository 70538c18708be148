//! Scans, damage, and the cache beside a writer.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

use super::*;
use crate::store::{Health, Row, StoreError};

async fn filled(entries: usize, seed: u64) -> (World, Model) {
    let mut dice = Dice(seed);
    let mut world = World::new().await;
    let mut model = Model::new();
    let mut edits = Edits::new();
    for n in 0..entries {
        let key = if n % 2 == 0 { dice.key() } else { dice.knotty_key() };
        let payload = vec![n as u8; dice.roll(60)];
        model.insert((Kind::Lookups, key), payload.clone());
        edits.insert(Kind::Lookups, key, Zeroizing::new(payload));
    }
    world.data(edits).await;
    (world, model)
}

#[tokio::test]
async fn scans_any_prefix_page_by_page() {
    let (world, model) = filled(800, 2).await;
    let all: Vec<EntryKey> = of_kind(&model, Kind::Lookups).map(|(key, _)| key).collect();
    let mut dice = Dice(3);
    for _ in 0..200 {
        let prefix = &all[dice.roll(all.len())][..dice.roll(33)];
        let limit = 1 + dice.roll(50);
        let mut found = Vec::new();
        loop {
            let after = found.last().copied();
            let some = scan(&world.pages, &world.header, Kind::Lookups, prefix, after.as_ref(), limit).await.unwrap();
            assert!(some.len() <= limit);
            found.extend(some.iter().map(|(key, _)| *key));
            if some.len() < limit {
                break;
            }
        }
        let expected: Vec<EntryKey> = all.iter().filter(|key| key.starts_with(prefix)).copied().collect();
        assert_eq!(found, expected);
    }
    let none = scan(&world.pages, &world.header, Kind::Lookups, &[0; 33], None, 10).await.unwrap();
    assert!(none.is_empty(), "no key has a prefix longer than itself");
    let absent = [0xaa; 32];
    assert_eq!(find(&world.pages, &world.header, Kind::Lookups, &absent).await.unwrap(), None);
    assert_eq!(find(&world.pages, &world.header, Kind::Directory, &absent).await.unwrap(), None);
}

#[tokio::test]
async fn any_flipped_bit_is_damage_and_an_absent_row_is_missing() {
    let (world, model) = filled(120, 4).await;
    let header_row = Header::row_key(world.root());
    let rows = world.store.scan(b"p", None, usize::MAX).await.unwrap();
    let mut dice = Dice(5);
    for (row, value) in rows.iter().filter(|(row, _)| *row != header_row) {
        for _ in 0..8 {
            let mut bytes = value.clone();
            let bit = dice.roll(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(errors(&world, &model, row, Some(bytes)).await, [TrieError::Damaged], "bit {bit}");
        }
        assert_eq!(errors(&world, &model, row, Some(value[..value.len() - 1].to_vec())).await, [TrieError::Damaged]);
        assert_eq!(errors(&world, &model, row, None).await, [TrieError::Missing]);
    }
    // The row of one page in the place of another.
    let pages: Vec<&Row> = rows.iter().filter(|(row, _)| *row != header_row).collect();
    assert_eq!(errors(&world, &model, &pages[0].0, Some(pages[1].1.clone())).await, [TrieError::Damaged]);
}

/// Which errors finding every entry meets when one row is replaced; entries that are found are right.
async fn errors(world: &World, model: &Model, row: &[u8], with: Option<Vec<u8>>) -> Vec<TrieError> {
    let image = Arc::new(world.store.fork());
    let batch = match with.clone() {
        Some(value) => Batch { put: vec![(row.to_vec(), value)], ..Batch::default() },
        None => Batch { delete: vec![row.to_vec()], ..Batch::default() },
    };
    image.commit(batch).await.unwrap();
    let pages = Pages::new(image, VAULT, 1 << 20);
    let mut errors = Vec::new();
    let mut lost = 0;
    for ((kind, key), payload) in model {
        match find(&pages, &world.header, *kind, key).await {
            Ok(found) => assert_eq!(found.unwrap().as_slice(), payload),
            Err(error) => {
                lost += 1;
                if !errors.contains(&error) {
                    errors.push(error);
                }
            }
        }
    }
    let (mut bad, mut entries) = (0, 0);
    let mut visit = |visit: Visit<'_>| match visit {
        Visit::Page { .. } => {}
        Visit::Entry { .. } => entries += 1,
        Visit::Missing { row: at, .. } => {
            assert!(at == row && with.is_none());
            bad += 1;
        }
        Visit::Damaged { row: at, .. } => {
            assert!(at == row && with.is_some());
            bad += 1;
        }
    };
    walk(&pages, &world.header, &mut visit).await.unwrap();
    assert_eq!((bad, entries), (1, model.len() - lost), "a walk names the page and goes on past it");
    errors
}

#[tokio::test]
async fn an_old_header_misses_pages_and_the_new_one_does_not() {
    let (mut world, model) = filled(300, 6).await;
    let old = world.header.duplicate();
    let (_, doomed) = *model.keys().next().unwrap();
    let mut edits = Edits::new();
    edits.remove(Kind::Lookups, doomed);
    world.forget(edits).await;
    assert_eq!(find(&world.pages, &old, Kind::Lookups, &doomed).await, Err(TrieError::Missing));
    assert_eq!(find(&world.pages, &world.header, Kind::Lookups, &doomed).await, Ok(None));
}

#[tokio::test]
async fn the_cache_keeps_to_its_limit_and_serves() {
    let (world, model) = filled(3000, 7).await;
    for limit in [0, 10_000, 100_000] {
        let pages = Pages::new(world.store.clone(), VAULT, limit);
        for ((kind, key), payload) in &model {
            let found = find(&pages, &world.header, *kind, key).await.unwrap();
            assert_eq!(found.unwrap().as_slice(), payload);
            assert!(pages.stats().bytes <= limit);
        }
        let stats = pages.stats();
        assert_eq!(stats.limit_bytes, limit);
        assert_eq!(stats.pages > 0, limit > 0);
        assert_eq!(stats.hits > 0, limit > 0, "the pages near the root are found again");
        assert!(stats.misses > 0);
        pages.clear();
        assert_eq!((pages.stats().pages, pages.stats().bytes), (0, 0));
    }
}

/// A store whose next read is held back after it was done.
struct Gate {
    store: Arc<MemoryStore>,
    shut: AtomicBool,
    reading: Notify,
    open: Notify,
}

#[async_trait::async_trait]
impl Store for Gate {
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.store.get(key).await;
        if self.shut.swap(false, Ordering::SeqCst) {
            self.reading.notify_one();
            self.open.notified().await;
        }
        value
    }

    async fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StoreError> {
        self.store.scan(start, end, limit).await
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.store.commit(batch).await
    }

    fn health(&self) -> Health {
        self.store.health()
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.store.close().await
    }
}

/// A reader has the old version of a page in hand while the writer publishes a new one at the same address.
#[tokio::test]
async fn a_slow_reader_does_not_put_a_stale_page_into_the_cache() {
    let mut world = World::new().await;
    let key = [9; 32];
    let put = |text: &str| {
        let mut edits = Edits::new();
        edits.insert(Kind::Directory, key, Zeroizing::new(text.as_bytes().to_vec()));
        edits
    };
    world.data(put("old")).await;
    for control in [true, false] {
        let (shut, reading, open) = (AtomicBool::new(true), Notify::new(), Notify::new());
        let gate = Arc::new(Gate { store: world.store.clone(), shut, reading, open });
        let pages = Pages::new(gate.clone(), VAULT, 1 << 20);
        let header = world.header.duplicate();
        let slow = tokio::spawn({
            let (pages, header) = (pages.clone(), header.duplicate());
            async move { find(&pages, &header, Kind::Directory, &key).await }
        });
        gate.reading.notified().await;
        let applied = apply(&pages, &header, put("new"), Mode::Data { root: world.root() }).await.unwrap();
        let batch = Batch { put: applied.put.clone(), ..Batch::default() };
        if !control {
            gate.commit(batch).await.unwrap();
            pages.publish(&applied);
        }
        gate.open.notify_one();
        let seen = slow.await.unwrap().unwrap().unwrap();
        assert_eq!(&seen[..], b"old", "the slow reader answers what was so when it asked");
        let expected: &[u8] = if control { b"old" } else { b"new" };
        let after = find(&pages, &header, Kind::Directory, &key).await.unwrap().unwrap();
        assert_eq!(&after[..], expected, "control {control}");
        let hits = pages.stats().hits;
        assert!(hits > 0, "the last answer came from the cache");
    }
}

/// What a locked or shredded page leaves behind: nothing that a slow reader could bring back.
#[tokio::test]
async fn clearing_the_cache_keeps_slow_readers_from_filling_it() {
    let mut world = World::new().await;
    let key = [9; 32];
    let mut edits = Edits::new();
    edits.insert(Kind::Directory, key, Zeroizing::new(vec![1]));
    world.data(edits).await;
    let (shut, reading, open) = (AtomicBool::new(true), Notify::new(), Notify::new());
    let gate = Arc::new(Gate { store: world.store.clone(), shut, reading, open });
    let pages = Pages::new(gate.clone(), VAULT, 1 << 20);
    let slow = tokio::spawn({
        let (pages, header) = (pages.clone(), world.header.duplicate());
        async move { find(&pages, &header, Kind::Directory, &key).await }
    });
    gate.reading.notified().await;
    pages.clear();
    gate.open.notify_one();
    slow.await.unwrap().unwrap();
    assert_eq!(pages.stats().pages, 0);
}
