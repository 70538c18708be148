//! Tests of the whole trie: against a model, against an attacker, and for its shape and size.
#![allow(clippy::unwrap_used)]

mod forgetting;
mod model;
mod reading;
mod rekeying;
mod shape;

use std::collections::BTreeMap;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::*;
use crate::crypto::{Random, RootKey};
use crate::ids::VaultId;
use crate::store::{Batch, MemoryStore, Store};
use crate::time::Timestamp;

const VAULT: VaultId = VaultId([3; 16]);
const NOW: Timestamp = Timestamp(1_764_000_000_000);

/// Entries by kind and key, as they should be.
type Model = BTreeMap<(Kind, EntryKey), Vec<u8>>;

/// A trie on a store that keeps every version, with all the roots it ever had.
struct World {
    store: Arc<MemoryStore>,
    pages: Pages,
    header: Header,
    roots: Vec<RootKey>,
    page_rows: i64,
}

impl World {
    async fn new() -> World {
        World::on(Arc::new(MemoryStore::keeping())).await
    }

    async fn on(store: Arc<MemoryStore>) -> World {
        let mut random = Random::for_keys(10);
        let root = RootKey::draw(&mut random);
        let mut header = Header::new(VAULT, NOW, &mut random);
        let row = header.seal(&root, &mut random);
        store.commit(Batch { put: vec![row], ..Batch::default() }).await.unwrap();
        let pages = Pages::new(store.clone(), VAULT, 64 << 20);
        World { store, pages, header, roots: vec![root], page_rows: 0 }
    }

    fn root(&self) -> &RootKey {
        &self.roots[self.roots.len() - 1]
    }

    /// Applies, commits and publishes a batch under the present root; answers the bytes of the rows it wrote.
    async fn data(&mut self, edits: Edits) -> usize {
        let mode = Mode::Data { root: self.root() };
        let applied = apply(&self.pages, &self.header, edits, mode).await.unwrap();
        assert!(applied.delete.is_empty());
        self.commit(applied).await.1
    }

    /// The same in a batch that changes the root.
    async fn forget(&mut self, edits: Edits) -> usize {
        self.root_batch(edits, None).await.1
    }

    async fn root_batch(&mut self, edits: Edits, rekey: Option<RekeyStep>) -> (Option<RekeyCursor>, usize) {
        self.roots.push(RootKey::draw(&mut Random::for_keys(1)));
        let mode = Mode::Root { next: self.root(), rekey, renew: false, now: NOW };
        let applied = apply(&self.pages, &self.header, edits, mode).await.unwrap();
        assert_eq!(applied.header.epoch(), self.header.epoch() + 1);
        self.commit(applied).await
    }

    async fn commit(&mut self, applied: Applied) -> (Option<RekeyCursor>, usize) {
        let batch = Batch { put: applied.put.clone(), delete: applied.delete.clone(), ..Batch::default() };
        let bytes = batch.put.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.store.commit(batch).await.unwrap();
        self.pages.publish(&applied);
        self.page_rows += applied.page_delta;
        self.header = applied.header;
        assert_eq!(self.store.rows() as i64, self.page_rows + 1, "every row is a page or the header");
        (applied.next_cursor, bytes)
    }

    /// Forgets all it knows but the store and the root, and opens the header again.
    async fn reopen(&mut self) {
        let sealed = self.store.get(&Header::row_key(self.root())).await.unwrap().unwrap();
        self.header = Header::open(self.root(), VAULT, &sealed).unwrap();
        self.pages = Pages::new(self.store.clone(), VAULT, 1 << 20);
    }

    /// Checks every entry, the scan of everything and the walk.
    async fn agrees_with(&self, model: &Model) {
        for kind in Kind::ALL {
            let expected: Vec<(EntryKey, Payload)> =
                of_kind(model, kind).map(|(key, payload)| (key, Zeroizing::new(payload))).collect();
            for (key, payload) in &expected {
                let found = find(&self.pages, &self.header, kind, key).await.unwrap();
                assert_eq!(found.as_ref(), Some(payload));
            }
            let all = scan(&self.pages, &self.header, kind, &[], None, usize::MAX).await.unwrap();
            assert!(all == expected, "a scan of {kind:?} finds what there is, in order");
        }
        let mut walked = Model::new();
        let mut pages = 0;
        let mut visit = |visit: Visit<'_>| match visit {
            Visit::Page { .. } => pages += 1,
            Visit::Entry { kind, key, payload, .. } => assert!(walked.insert((kind, *key), payload.to_vec()).is_none()),
            other => panic!("no damage was done: {other:?}"),
        };
        walk(&self.pages, &self.header, &mut visit).await.unwrap();
        assert!(walked == *model, "a walk visits what there is");
        assert_eq!(pages, self.page_rows, "every row of a page is reached");
    }
}

fn of_kind(model: &Model, kind: Kind) -> impl Iterator<Item = (EntryKey, Vec<u8>)> {
    model.range((kind, [0; 32])..=(kind, [0xff; 32])).map(|((_, key), payload)| (*key, payload.clone()))
}

/// Small steps of a generator of our own, so that a failure comes again with its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }

    /// A key as tags are: random.
    fn key(&mut self) -> EntryKey {
        std::array::from_fn(|_| self.roll(256) as u8)
    }

    /// A key from a small, knotty space: long common prefixes and near neighbours.
    fn knotty_key(&mut self) -> EntryKey {
        let mut key = [[0x00, 0x11, 0x1f][self.roll(3)]; 32];
        for _ in 0..self.roll(3) {
            let at = [0, 1, 15, 16, 30, 31][self.roll(6)];
            key[at] = [0x00, 0x01, 0x10, 0x11, 0xf1, 0xff][self.roll(6)];
        }
        key
    }

    fn payload(&mut self) -> Vec<u8> {
        let len = [0, 3, 16, 40, 190, 600, 1500][self.roll(7)];
        (0..len).map(|_| self.roll(256) as u8).collect()
    }
}
