//! The rows of a stopped vault's store.

use vault_core::store::{Batch, DiskOptions, DiskStore, EngineName, Row, Store};

use super::{Vault, engine};

/// The store of a stopped vault, as whoever can write to it has it.
pub(crate) struct Rows {
    runtime: tokio::runtime::Runtime,
    store: DiskStore,
}

impl Rows {
    pub(crate) fn open(vault: &Vault) -> Self {
        Self::open_with(vault, engine())
    }

    /// The same of a store that is kept by a given engine.
    pub(crate) fn open_with(vault: &Vault, engine: EngineName) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let options = DiskOptions { cache_bytes: 16 << 20, reserve_bytes: 0, min_free_bytes: 0 };
        Self { runtime, store: DiskStore::open(engine, &vault.data().join("store"), options).unwrap() }
    }

    /// Rows of a kind: `d` data, `p` pages, `m` META.
    pub(crate) fn of(&self, kind: u8) -> Vec<Row> {
        self.runtime.block_on(self.store.scan(&[kind], Some(&[kind + 1]), usize::MAX)).unwrap()
    }

    pub(crate) fn put(&self, put: Vec<Row>) {
        self.runtime.block_on(self.store.commit(Batch { put, ..Batch::default() })).unwrap();
    }

    pub(crate) fn delete(&self, delete: Vec<Vec<u8>>) {
        self.runtime.block_on(self.store.commit(Batch { delete, ..Batch::default() })).unwrap();
    }

    pub(crate) fn close(self) {
        self.runtime.block_on(self.store.close()).unwrap();
    }
}
