//! The engine without a disk: rows in a map, for tests and trials, with a history and faults on request.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Batch, Health, HealthState, Row, Store, StoreError};

/// A store in memory. Nothing survives the process.
///
/// For the tests of whoever stands on a store, it can keep [every version](MemoryStore::every_version) of every row,
/// [fail](MemoryStore::fail_next_commit) as a real engine may, and be [copied](MemoryStore::fork) like a disk. Closing
/// it does nothing, so that a test may start again on the same rows.
#[derive(Default)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    history: Option<Vec<Row>>,
    /// Commits that still succeed before the one that fails.
    fault: Option<(usize, Fault)>,
}

/// How a commit is made to fail, for tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// [`StoreError::Conflict`]; nothing is written.
    Conflict,
    /// [`StoreError::Full`]; nothing is written.
    Full,
    /// [`StoreError::Unavailable`]; nothing is written.
    Unavailable,
    /// [`StoreError::InDoubt`], though the batch was written.
    InDoubtLanded,
    /// [`StoreError::InDoubt`], and the batch was not written. A history notes its rows all the same: they may have
    /// reached a log.
    InDoubtLost,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// An empty store that remembers every version of every row, as an attacker with all old disk images would.
    pub fn keeping() -> MemoryStore {
        let inner = Inner { history: Some(Vec::new()), ..Inner::default() };
        MemoryStore { inner: Mutex::new(inner) }
    }

    /// Every version of every row ever written, oldest first. Empty unless made by [`MemoryStore::keeping`].
    pub fn every_version(&self) -> Vec<Row> {
        self.inner().history.clone().unwrap_or_default()
    }

    /// Makes the next commit fail. Later ones succeed again.
    pub fn fail_next_commit(&self, fault: Fault) {
        self.fail_commit_after(0, fault);
    }

    /// Makes the commit after the next `commits` fail. Later ones succeed again.
    pub fn fail_commit_after(&self, commits: usize, fault: Fault) {
        self.inner().fault = Some((commits, fault));
    }

    /// Whether the commit that was made to fail is still to come.
    pub fn will_fail(&self) -> bool {
        self.inner().fault.is_some()
    }

    /// A store with a copy of the present rows: a disk image. If this one keeps a history, the copy starts its own with
    /// the rows it has.
    pub fn fork(&self) -> MemoryStore {
        let inner = self.inner();
        let present = || inner.rows.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let history = inner.history.as_ref().map(|_| present());
        MemoryStore { inner: Mutex::new(Inner { rows: inner.rows.clone(), history, fault: None }) }
    }

    /// How many rows there are now.
    pub fn rows(&self) -> usize {
        self.inner().rows.len()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // No change below can panic half way, so the rows are whole even if a test died with the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait::async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.inner().rows.get(key).cloned())
    }

    async fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StoreError> {
        if end.is_some_and(|end| end <= start) {
            return Ok(Vec::new());
        }
        let range = (Bound::Included(start), end.map_or(Bound::Unbounded, Bound::Excluded));
        let inner = self.inner();
        let rows = inner.rows.range::<[u8], _>(range).take(limit);
        Ok(rows.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        batch.check()?;
        let mut inner = self.inner();
        let fault = inner.due_fault();
        if let Some(refusal) = fault.and_then(Fault::refusal) {
            return Err(refusal);
        }
        for (key, expect) in &batch.expect {
            if !expect.holds(inner.rows.get(key).map(Vec::as_slice)) {
                return Err(StoreError::Conflict);
            }
        }
        inner.note(&batch);
        if fault != Some(Fault::InDoubtLost) {
            inner.apply(batch);
        }
        match fault {
            None => Ok(()),
            Some(_) => Err(StoreError::InDoubt("a test made this commit fail".into())),
        }
    }

    fn health(&self) -> Health {
        Health { engine: "memory", state: HealthState::Ok, disk_bytes: None }
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

impl Inner {
    fn due_fault(&mut self) -> Option<Fault> {
        let (commits, fault) = self.fault.take()?;
        if commits == 0 {
            return Some(fault);
        }
        self.fault = Some((commits - 1, fault));
        None
    }

    fn note(&mut self, batch: &Batch) {
        if let Some(history) = &mut self.history {
            history.extend(batch.put.iter().cloned());
        }
    }

    fn apply(&mut self, batch: Batch) {
        self.rows.extend(batch.put);
        for key in &batch.delete {
            self.rows.remove(key);
        }
    }
}

impl Fault {
    /// The error of a fault that strikes before anything is written.
    fn refusal(self) -> Option<StoreError> {
        match self {
            Fault::Conflict => Some(StoreError::Conflict),
            Fault::Full => Some(StoreError::Full),
            Fault::Unavailable => Some(StoreError::Unavailable("a test made this commit fail".into())),
            Fault::InDoubtLanded | Fault::InDoubtLost => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::conformance::{conformance, puts};
    use super::*;

    fn row(key: &[u8], value: &[u8]) -> Row {
        (key.to_vec(), value.to_vec())
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn conforms() {
        conformance(async || MemoryStore::new()).await;
        conformance(async || MemoryStore::keeping()).await;
    }

    #[tokio::test]
    async fn keeps_every_version_when_asked() {
        for (store, expected) in [
            (MemoryStore::keeping(), vec![row(b"a", b"1"), row(b"a", b"2"), row(b"b", b"3")]),
            (MemoryStore::new(), vec![]),
        ] {
            store.commit(puts([(b"a", b"1")])).await.unwrap();
            store.commit(puts([(b"a", b"2"), (b"b", b"3")])).await.unwrap();
            store.commit(Batch { delete: vec![b"a".to_vec(), b"b".to_vec()], ..Batch::default() }).await.unwrap();
            assert_eq!(store.rows(), 0);
            assert_eq!(store.every_version(), expected);
        }
    }

    #[tokio::test]
    async fn a_fork_goes_its_own_way() {
        let store = MemoryStore::keeping();
        store.commit(puts([(b"a", b"1")])).await.unwrap();
        store.commit(puts([(b"a", b"2")])).await.unwrap();
        let image = store.fork();
        store.commit(puts([(b"a", b"3")])).await.unwrap();
        image.commit(puts([(b"b", b"4")])).await.unwrap();
        assert_eq!(store.scan(b"", None, 9).await.unwrap(), [row(b"a", b"3")]);
        assert_eq!(image.scan(b"", None, 9).await.unwrap(), [row(b"a", b"2"), row(b"b", b"4")]);
        assert_eq!(image.every_version(), [row(b"a", b"2"), row(b"b", b"4")]);
    }

    #[tokio::test]
    async fn fails_once_as_asked() {
        let why = || "a test made this commit fail".to_owned();
        for (fault, error, lands) in [
            (Fault::Conflict, StoreError::Conflict, false),
            (Fault::Full, StoreError::Full, false),
            (Fault::Unavailable, StoreError::Unavailable(why()), false),
            (Fault::InDoubtLanded, StoreError::InDoubt(why()), true),
            (Fault::InDoubtLost, StoreError::InDoubt(why()), false),
        ] {
            let store = MemoryStore::keeping();
            store.fail_next_commit(fault);
            assert_eq!(store.commit(puts([(b"a", b"1")])).await, Err(error), "{fault:?}");
            assert_eq!(store.get(b"a").await.unwrap().is_some(), lands, "{fault:?}");
            let in_log = matches!(fault, Fault::InDoubtLanded | Fault::InDoubtLost);
            assert_eq!(store.every_version().len(), usize::from(in_log), "{fault:?}");
            store.commit(puts([(b"a", b"2")])).await.unwrap();
        }
    }
}
