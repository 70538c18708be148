//! What every engine must do, as one suite: each engine's tests run it on a store that they made empty.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::{Batch, Expect, HealthState, Row, Store, StoreError, VALUE_MAX};

/// Runs the suite on stores made by `make`, a new and empty one for each case.
pub(super) async fn conformance<S: Store>(make: impl AsyncFn() -> S) {
    reads_what_was_committed(&make().await).await;
    conflict_leaves_nothing(&make().await).await;
    expectations_compare_whole_rows(&make().await).await;
    scans_within_bounds(&make().await).await;
    takes_any_key(&make().await).await;
    bounds_values(&make().await).await;
    keeps_large_rows_side_by_side(&make().await).await;
    serves_many_writers(Arc::new(make().await)).await;
    lets_one_of_many_win(Arc::new(make().await)).await;
    closes_twice(&make().await).await;
}

/// A batch that puts `rows`.
pub(super) fn puts<const N: usize>(rows: [(&[u8], &[u8]); N]) -> Batch {
    let put = rows.iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
    Batch { put, ..Batch::default() }
}

fn expecting(mut batch: Batch, key: &[u8], expect: Expect) -> Batch {
    batch.expect.push((key.to_vec(), expect));
    batch
}

async fn all(store: &impl Store) -> Vec<Row> {
    store.scan(b"", None, usize::MAX).await.unwrap()
}

async fn reads_what_was_committed(store: &impl Store) {
    assert_eq!(store.get(b"a").await, Ok(None));
    assert_eq!(all(store).await, []);
    store.commit(Batch::default()).await.unwrap();

    store.commit(puts([(b"a", b"1"), (b"b", b"2"), (b"c", b"")])).await.unwrap();
    assert_eq!(store.get(b"a").await, Ok(Some(b"1".to_vec())));
    assert_eq!(store.get(b"c").await, Ok(Some(Vec::new())), "an empty value is a value");

    let mut batch = puts([(b"a", b"3")]);
    batch.delete = vec![b"b".to_vec(), b"never there".to_vec()];
    store.commit(batch).await.unwrap();
    assert_eq!(all(store).await, [(b"a".to_vec(), b"3".to_vec()), (b"c".to_vec(), Vec::new())]);
    assert_eq!(store.health().state, HealthState::Ok);
}

async fn conflict_leaves_nothing(store: &impl Store) {
    store.commit(puts([(b"a", b"1")])).await.unwrap();
    let mut batch = expecting(puts([(b"b", b"2"), (b"c", b"3")]), b"a", Expect::Absent);
    batch.delete = vec![b"a".to_vec()];
    assert_eq!(store.commit(batch.clone()).await, Err(StoreError::Conflict));
    assert_eq!(all(store).await, [(b"a".to_vec(), b"1".to_vec())]);

    // One that fails among several that hold is enough.
    batch.expect = vec![
        (b"a".to_vec(), Expect::Value(b"1".to_vec())),
        (b"x".to_vec(), Expect::Value(b"1".to_vec())),
        (b"b".to_vec(), Expect::Absent),
    ];
    assert_eq!(store.commit(batch.clone()).await, Err(StoreError::Conflict));
    assert_eq!(all(store).await, [(b"a".to_vec(), b"1".to_vec())]);

    batch.expect.remove(1);
    store.commit(batch).await.unwrap();
    assert_eq!(all(store).await, [(b"b".to_vec(), b"2".to_vec()), (b"c".to_vec(), b"3".to_vec())]);
}

async fn expectations_compare_whole_rows(store: &impl Store) {
    store.commit(puts([(b"owner", b"me"), (b"empty", b"")])).await.unwrap();
    let cases: [(&[u8], Expect, bool); 9] = [
        (b"owner", Expect::Value(b"me".to_vec()), true),
        (b"owner", Expect::Value(b"m".to_vec()), false),
        (b"owner", Expect::Value(b"me too".to_vec()), false),
        (b"owner", Expect::Absent, false),
        (b"nobody", Expect::Absent, true),
        (b"nobody", Expect::Value(Vec::new()), false),
        (b"empty", Expect::Value(Vec::new()), true),
        (b"empty", Expect::Absent, false),
        (b"owne", Expect::Absent, true),
    ];
    for (number, (key, expect, holds)) in cases.into_iter().enumerate() {
        let result = store.commit(expecting(Batch::default(), key, expect)).await;
        let expected = if holds { Ok(()) } else { Err(StoreError::Conflict) };
        assert_eq!(result, expected, "case {number}");
    }
    // A batch's expectations are of the rows before it, not of what it writes.
    let batch = expecting(puts([(b"owner", b"you")]), b"owner", Expect::Value(b"you".to_vec()));
    assert_eq!(store.commit(batch).await, Err(StoreError::Conflict));
}

async fn scans_within_bounds(store: &impl Store) {
    let keys: Vec<Vec<u8>> = (0..300_u16).map(|n| n.to_be_bytes().to_vec()).collect();
    // Written out of order, some one by one.
    let (some, others) = keys.split_at(100);
    for key in some.iter().rev() {
        store.commit(puts([(key, key)])).await.unwrap();
    }
    let put = others.iter().rev().map(|key| (key.clone(), key.clone())).collect();
    store.commit(Batch { put, ..Batch::default() }).await.unwrap();

    type Case = (&'static [u8], Option<&'static [u8]>, usize, std::ops::Range<usize>);
    let cases: [Case; 11] = [
        (b"", None, usize::MAX, 0..300),
        (b"", None, 7, 0..7),
        (b"", None, 0, 0..0),
        (&[0, 10], None, 3, 10..13),
        (&[0, 10], Some(&[0, 12]), 9, 10..12),
        (&[0, 250], Some(&[1, 4]), 9, 250..259),
        (&[0, 250], Some(&[1, 4]), 99, 250..260),
        (&[0, 10], Some(&[0, 10]), 9, 0..0),
        (&[0, 12], Some(&[0, 10]), 9, 0..0),
        (&[0, 10, 0], Some(&[0, 11, 0]), 9, 11..12),
        (&[9], None, 9, 0..0),
    ];
    for (number, (start, end, limit, expected)) in cases.into_iter().enumerate() {
        let rows = store.scan(start, end, limit).await.unwrap();
        let found: Vec<&Vec<u8>> = rows.iter().map(|(key, _)| key).collect();
        assert_eq!(found, keys[expected].iter().collect::<Vec<_>>(), "case {number}");
        assert!(rows.iter().all(|(key, value)| key == value), "case {number}: values belong to their keys");
    }

    store.commit(Batch { delete: keys[1..299].to_vec(), reclaim: true, ..Batch::default() }).await.unwrap();
    let rest = all(store).await.into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(rest, [keys[0].clone(), keys[299].clone()]);
}

async fn takes_any_key(store: &impl Store) {
    let keys: [&[u8]; 8] = [b"", b"\0", b"\0\0", b"\0\xff", b"a", b"a\0", "\u{1F511}".as_bytes(), &[0xff; 200]];
    for key in keys {
        store.commit(puts([(key, key)])).await.unwrap();
    }
    for key in keys {
        assert_eq!(store.get(key).await, Ok(Some(key.to_vec())));
    }
    let found: Vec<Vec<u8>> = all(store).await.into_iter().map(|(key, _)| key).collect();
    assert_eq!(found, keys, "in order");
    store.commit(Batch { delete: vec![Vec::new()], ..Batch::default() }).await.unwrap();
    assert_eq!(store.get(b"").await, Ok(None));
    assert_eq!(all(store).await.len(), keys.len() - 1);
}

async fn bounds_values(store: &impl Store) {
    let largest = vec![7; VALUE_MAX];
    store.commit(puts([(b"a", &largest)])).await.unwrap();
    assert_eq!(store.get(b"a").await, Ok(Some(largest.clone())));

    let larger = vec![8; VALUE_MAX + 1];
    assert_eq!(store.commit(puts([(b"b", b"1"), (b"a", &larger)])).await, Err(StoreError::TooLarge));
    assert_eq!(all(store).await, [(b"a".to_vec(), largest)], "nothing was written");
}

async fn keeps_large_rows_side_by_side(store: &impl Store) {
    let value = |n: u8| vec![n; VALUE_MAX];
    let put = (0..60).map(|n| (vec![n], value(n))).collect();
    store.commit(Batch { put, ..Batch::default() }).await.unwrap();
    for n in 0..60 {
        assert_eq!(store.get(&[n]).await, Ok(Some(value(n))), "row {n}");
    }
}

async fn serves_many_writers(store: Arc<impl Store>) {
    let mut writers = Vec::new();
    for writer in 0..32_u8 {
        let store = Arc::clone(&store);
        writers.push(tokio::spawn(async move {
            for round in 0..20_u8 {
                let key = [writer, round];
                store.commit(puts([(&key, &[round]), (&[writer], &[round])])).await.unwrap();
                assert_eq!(store.get(&key).await, Ok(Some(vec![round])), "an acknowledged write is there");
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(all(&*store).await.len(), 32 * 21);
    for writer in 0..32 {
        assert_eq!(store.get(&[writer]).await, Ok(Some(vec![19])), "the last write wins");
    }
}

async fn lets_one_of_many_win(store: Arc<impl Store>) {
    store.commit(puts([(b"count", &[0])])).await.unwrap();
    let mut writers = Vec::new();
    for _ in 0..16 {
        let store = Arc::clone(&store);
        writers.push(tokio::spawn(async move {
            let mut won = 0;
            while won < 5 {
                let count = store.get(b"count").await.unwrap().unwrap();
                let batch = puts([(b"count", &[count[0] + 1])]);
                match store.commit(expecting(batch, b"count", Expect::Value(count))).await {
                    Ok(()) => won += 1,
                    Err(error) => assert_eq!(error, StoreError::Conflict),
                }
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(store.get(b"count").await, Ok(Some(vec![80])), "no increment was lost");
}

async fn closes_twice(store: &impl Store) {
    store.commit(puts([(b"a", b"1")])).await.unwrap();
    assert_eq!(store.close().await, Ok(()));
    assert_eq!(store.close().await, Ok(()));
}
