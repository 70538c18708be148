//! Pages from the store, opened, behind a cache that never grows past its limit.
//!
//! A cached page must never be older than the store's: a page that is resealed under its key keeps its address. A reader
//! therefore notes the sequence number before it asks the store, and caches what it got only if no batch was published
//! meanwhile.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::apply::Applied;
use super::page::Page;
use super::path::Path;
use super::{Branch, TrieError};
use crate::crypto::PageKey;
use crate::crypto::page::{self, PagePlace};
use crate::ids::VaultId;
use crate::store::Store;

/// The place of a page in the store, derived from its key.
pub(super) type Address = [u8; 32];

/// Bytes a cached page takes beside its plaintext: its slot in the map and the ring, and the allocator's share.
const SLOT_BYTES: usize = 192;

/// The key of the row at `address`.
pub(super) fn row_key(address: &Address) -> Vec<u8> {
    [b"p".as_slice(), address].concat()
}

/// The store's pages, opened as they are asked for. Clones share one cache.
#[derive(Clone)]
pub struct Pages(Arc<Shared>);

struct Shared {
    store: Arc<dyn Store>,
    vault: VaultId,
    limit: usize,
    cache: RwLock<Cache>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// Pages in memory; the ring gives those that were used since its last turn a second chance.
#[derive(Default)]
struct Cache {
    sequence: u64,
    bytes: usize,
    slots: HashMap<Address, Slot, BuildHasherDefault<OfAddress>>,
    ring: VecDeque<Address>,
}

/// The first bytes of an address, which is as good as random and nobody's to choose.
#[derive(Default)]
struct OfAddress(u64);

impl Hasher for OfAddress {
    fn write(&mut self, address: &[u8]) {
        if let Some(first) = address.first_chunk() {
            self.0 = u64::from_ne_bytes(*first);
        }
    }

    // The length of an address, which is always the same.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

struct Slot {
    page: Arc<Page>,
    used: AtomicBool,
}

/// A page that a batch wrote.
pub(super) struct Written {
    pub(super) address: Address,
    /// The page it takes the place of.
    pub(super) replaces: Option<Address>,
    pub(super) page: Arc<Page>,
    /// Whether somebody works with it; a page only rekeyed in passing takes a place in the cache only if it had one.
    pub(super) wanted: bool,
}

/// How the page cache does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheStats {
    /// Pages held.
    pub pages: usize,
    /// Bytes they take.
    pub bytes: usize,
    /// Bytes they may take.
    pub limit_bytes: usize,
    /// Pages found in the cache so far.
    pub hits: u64,
    /// Pages read from the store so far.
    pub misses: u64,
}

impl Pages {
    /// The pages of `vault` in `store`, with a cache of at most `cache_bytes`.
    pub fn new(store: Arc<dyn Store>, vault: VaultId, cache_bytes: usize) -> Pages {
        let (hits, misses) = (AtomicU64::new(0), AtomicU64::new(0));
        Pages(Arc::new(Shared { store, vault, limit: cache_bytes, cache: RwLock::default(), hits, misses }))
    }

    /// Drops every cached page, wiped; for locking the vault.
    pub fn clear(&self) {
        self.change(|cache| {
            cache.sequence += 1;
            cache.bytes = 0;
            cache.slots = HashMap::default();
            cache.ring = VecDeque::new();
        });
    }

    /// How the cache does.
    pub fn stats(&self) -> CacheStats {
        let cache = self.0.cache.read().unwrap_or_else(PoisonError::into_inner);
        CacheStats {
            pages: cache.slots.len(),
            bytes: cache.bytes,
            limit_bytes: self.0.limit,
            hits: self.0.hits.load(Ordering::Relaxed),
            misses: self.0.misses.load(Ordering::Relaxed),
        }
    }

    /// Takes over the pages of a batch that is durable, and drops those it replaced. Before any reader learns its header.
    pub fn publish(&self, applied: &Applied) {
        self.change(|cache| {
            cache.sequence += 1;
            for written in &applied.written {
                let had_place = || written.replaces.is_some_and(|old| cache.slots.contains_key(&old));
                if written.wanted || had_place() {
                    cache.insert(written.address, written.page.clone());
                } else {
                    cache.remove(&written.address);
                }
            }
            for address in &applied.dropped {
                cache.remove(address);
            }
        });
    }

    pub(super) fn vault(&self) -> VaultId {
        self.0.vault
    }

    /// The page at `path`, from the cache or the store. `keep`: worth a place in the cache.
    pub(super) async fn load(
        &self,
        key: &PageKey,
        branch: Branch,
        path: &Path,
        keep: bool,
    ) -> Result<Arc<Page>, TrieError> {
        self.load_at(&key.address(), key, branch, path, keep).await
    }

    /// The same, where its address is known.
    pub(super) async fn load_at(
        &self,
        address: &Address,
        key: &PageKey,
        branch: Branch,
        path: &Path,
        keep: bool,
    ) -> Result<Arc<Page>, TrieError> {
        let sequence = match self.cached(address) {
            Ok(page) => return Ok(page),
            Err(sequence) => sequence,
        };
        let page = Arc::new(self.fetch(key, address, branch, path).await?);
        if keep {
            self.change(|cache| {
                if cache.sequence == sequence {
                    cache.insert(*address, page.clone());
                }
            });
        }
        Ok(page)
    }

    /// The page at `path` as the store has it, past the cache.
    pub(super) async fn fetch(
        &self,
        key: &PageKey,
        address: &Address,
        branch: Branch,
        path: &Path,
    ) -> Result<Page, TrieError> {
        self.fetch_sealed(key, address, branch, path).await.map(|(_, page)| page)
    }

    /// The same, with its sealed bytes.
    pub(super) async fn fetch_sealed(
        &self,
        key: &PageKey,
        address: &Address,
        branch: Branch,
        path: &Path,
    ) -> Result<(Vec<u8>, Page), TrieError> {
        let sealed = self.0.store.get(&row_key(address)).await?.ok_or(TrieError::Missing)?;
        let bytes = page::open(key, &place(self.0.vault, branch, path), &sealed).map_err(|_| TrieError::Damaged)?;
        let page = Page::decode(bytes, path).ok_or(TrieError::Damaged)?;
        Ok((sealed, page))
    }

    /// The cached page, or the sequence number to cache it under.
    fn cached(&self, address: &Address) -> Result<Arc<Page>, u64> {
        let cache = self.0.cache.read().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = cache.slots.get(address) else {
            self.0.misses.fetch_add(1, Ordering::Relaxed);
            return Err(cache.sequence);
        };
        slot.used.store(true, Ordering::Relaxed);
        self.0.hits.fetch_add(1, Ordering::Relaxed);
        Ok(slot.page.clone())
    }

    fn change(&self, change: impl FnOnce(&mut Cache)) {
        // A panic can not leave a wrong page behind: each is inserted or removed whole.
        let mut cache = self.0.cache.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut cache);
        cache.evict(self.0.limit);
    }
}

/// The place that a page is sealed for.
pub(super) fn place(vault: VaultId, branch: Branch, path: &Path) -> PagePlace<'_> {
    PagePlace { vault, subtree: branch.kind as u8, generation: branch.generation, path: path.nibbles() }
}

impl Cache {
    fn insert(&mut self, address: Address, page: Arc<Page>) {
        self.bytes += page.footprint() + SLOT_BYTES;
        match self.slots.insert(address, Slot { page, used: AtomicBool::new(true) }) {
            Some(old) => self.bytes -= old.page.footprint() + SLOT_BYTES,
            None => self.ring.push_back(address),
        }
    }

    fn remove(&mut self, address: &Address) {
        if let Some(old) = self.slots.remove(address) {
            self.bytes -= old.page.footprint() + SLOT_BYTES;
        }
    }

    fn evict(&mut self, limit: usize) {
        while self.bytes > limit {
            let Some(address) = self.ring.pop_front() else { return };
            match self.slots.get(&address) {
                Some(slot) if slot.used.swap(false, Ordering::Relaxed) => self.ring.push_back(address),
                _ => self.remove(&address),
            }
        }
        // Addresses of removed pages stay in the ring until their turn; no more of them than of living ones.
        if self.ring.len() > 2 * self.slots.len() + 64 {
            self.ring.retain(|address| self.slots.contains_key(address));
        }
    }
}
