//! Moves rows from store to store, and compares stores row by row.

use super::{Batch, Row, Store, StoreError};

/// Rows that are read, written and compared at once.
const STRIDE: usize = 500;

/// How many rows `store` has. Tells its progress to `done`.
///
/// # Errors
/// What the store says.
pub async fn count(store: &dyn Store, done: impl Fn(u64)) -> Result<u64, StoreError> {
    let mut rows = Rows::of(store);
    while !rows.next().await?.is_empty() {
        done(rows.seen);
    }
    Ok(rows.seen)
}

/// Puts every row of `from` into `to`, durably; answers how many. Tells its progress to `done`.
///
/// # Errors
/// What the stores say; [`StoreError::Full`] if there is not room for both.
pub async fn copy(from: &dyn Store, to: &dyn Store, done: impl Fn(u64)) -> Result<u64, StoreError> {
    let mut rows = Rows::of(from);
    loop {
        let put = rows.next().await?;
        if put.is_empty() {
            return Ok(rows.seen);
        }
        to.commit(Batch { put, ..Batch::default() }).await?;
        done(rows.seen);
    }
}

/// Whether two stores have the same rows, byte by byte. Tells its progress to `done`.
///
/// # Errors
/// What the stores say.
pub async fn same(one: &dyn Store, other: &dyn Store, done: impl Fn(u64)) -> Result<bool, StoreError> {
    let (mut rows, mut others) = (Rows::of(one), Rows::of(other));
    loop {
        let next = rows.next().await?;
        if next != others.next().await? {
            return Ok(false);
        }
        if next.is_empty() {
            return Ok(true);
        }
        done(rows.seen);
    }
}

/// A walk over all rows of a store.
struct Rows<'a> {
    store: &'a dyn Store,
    start: Vec<u8>,
    seen: u64,
}

impl<'a> Rows<'a> {
    fn of(store: &'a dyn Store) -> Rows<'a> {
        Rows { store, start: Vec::new(), seen: 0 }
    }

    /// The next rows; none at the end.
    async fn next(&mut self) -> Result<Vec<Row>, StoreError> {
        let rows = self.store.scan(&self.start, None, STRIDE).await?;
        if let Some((last, _)) = rows.last() {
            self.start = [last, &[0][..]].concat();
        }
        self.seen += rows.len() as u64;
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::cell::Cell;

    use super::super::MemoryStore;
    use super::super::conformance::puts;
    use super::*;

    async fn filled(rows: u32) -> MemoryStore {
        let store = MemoryStore::new();
        let put = (0..rows).map(|n| (n.to_be_bytes().to_vec(), vec![7; n as usize % 50])).collect();
        store.commit(Batch { put, ..Batch::default() }).await.unwrap();
        store.commit(puts([(b"", b"the empty key")])).await.unwrap();
        store
    }

    #[tokio::test]
    async fn a_copy_is_the_same_until_a_row_changes() {
        for rows in [0, 1, 498, 499, 500, 1700] {
            let (from, to) = (filled(rows).await, MemoryStore::new());
            let told = Cell::new(0);
            assert_eq!(count(&from, |_| ()).await, Ok(u64::from(rows) + 1));
            assert_eq!(copy(&from, &to, |done| told.set(done)).await, Ok(u64::from(rows) + 1));
            assert_eq!(told.get(), u64::from(rows) + 1);
            assert_eq!(same(&from, &to, |_| ()).await, Ok(true));

            let last = rows.saturating_sub(1).to_be_bytes();
            for change in [puts([(&last, b"changed")]), puts([(&[0xff], b"more")]), puts([(b"", b"")])] {
                let changed = to.fork();
                changed.commit(change).await.unwrap();
                assert_eq!(same(&from, &changed, |_| ()).await, Ok(false));
                assert_eq!(same(&changed, &from, |_| ()).await, Ok(false));
            }
            let fewer = to.fork();
            fewer.commit(Batch { delete: vec![Vec::new()], ..Batch::default() }).await.unwrap();
            assert_eq!(same(&from, &fewer, |_| ()).await, Ok(false));
        }
    }

    #[tokio::test]
    async fn what_a_store_says_is_passed_on() {
        let (from, to) = (filled(3).await, MemoryStore::new());
        to.fail_next_commit(super::super::Fault::Full);
        assert_eq!(copy(&from, &to, |_| ()).await, Err(StoreError::Full));
    }
}
