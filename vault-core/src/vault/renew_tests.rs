//! The META key goes with the root: who had the header from before opens nothing that lies under that key from then on.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::outbox_tests::{EMAIL, put};
use super::tests::{Fixture, erasure_of, id};
use super::*;
use crate::ids::BackupId;
use crate::root::NewUnlock;
use crate::store::{MemoryStore, Row};
use crate::trie::Header;

/// How many rows of each kind a header opens.
fn opened(header: &Header, rows: &[Row]) -> BTreeMap<u8, usize> {
    let mut found = BTreeMap::new();
    for (key, value) in rows {
        let opens = match key[0] {
            b'm' => meta::Meta::open(value, header.meta_key()).is_ok(),
            outbox::PREFIX => outbox::open(header, key, value).is_ok(),
            evidence::PREFIX => evidence::open(header, key, value).is_ok(),
            _ => continue,
        };
        *found.entry(key[0]).or_default() += usize::from(opens);
    }
    found
}

async fn waiting(fixture: &Fixture, prefix: u8) -> usize {
    fixture.store.scan(&[prefix], Some(&[prefix + 1]), 100).await.unwrap().len()
}

/// A rotation while evidence waits for a retained root to go, and the outbox for a log that takes nothing.
async fn rotated_amid(asked: impl FnOnce(&Fixture) -> NewRotation) {
    let mut fixture = Fixture::on(Arc::new(MemoryStore::keeping())).await;
    for subject in ["a", "b"] {
        put(&fixture.vault, subject, EMAIL).await.unwrap();
    }
    let session = fixture.vault.session().unwrap();
    let root = session.root.load_full();
    fixture.vault.inner.begin_retaining(&session, &root, BackupId([7; 16])).await.unwrap();
    let erasure = fixture.vault.shred(erasure_of(vec![id("b")]), None).await.unwrap().made;
    // The root batch of the shred comes before the one of a rotation that is asked for now.
    fixture.rotate(Layer::Deks).await;
    assert_eq!(waiting(&fixture, evidence::PREFIX).await, 1);
    fixture.vault.inner.outbox.broken.store(true, Ordering::Relaxed);
    assert!(put(&fixture.vault, "c", EMAIL).await.is_err(), "committed, and not in the log");
    assert!(waiting(&fixture, outbox::PREFIX).await > 0);

    let before = session.snapshot().header.clone();
    let earlier = fixture.store.every_version();
    let asked = asked(&fixture);
    fixture.rotate(asked).await;
    let after = session.snapshot().header.clone();
    let rows = fixture.store.every_version();
    // The record of the rotation comes first, under the root from before.
    let since = rows.iter().position(|row| opened(&after, std::slice::from_ref(row)).values().any(|&n| n > 0));
    let later = &rows[since.unwrap()..];
    let kinds = [b'm', outbox::PREFIX, evidence::PREFIX];
    for kind in kinds {
        assert_eq!(opened(&before, later)[&kind], 0, "{}: the header from before", kind as char);
        assert!(opened(&before, &earlier)[&kind] > 0, "the control: it opens what is older");
        assert!(opened(&after, later)[&kind] > 0, "the control: its successor opens what is newer");
    }
    drop(session);

    // And nothing is lost by it.
    fixture.restart().await;
    fixture.vault.inner.outbox.flush().unwrap();
    fixture.vault.forget_retained().await.unwrap();
    let done = fixture.vault.wait_final(erasure.id, std::time::Duration::from_secs(20)).await.unwrap();
    assert_eq!(done.counts.r#final, 1);
    assert_eq!(fixture.read("c", "email").await.unwrap(), r#""jane@example.org""#);
    assert_eq!(fixture.vault.verify(&|_, _| {}).await.unwrap().problems, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_from_before_another_root_opens_nothing_beside_the_pages_that_is_written_since() {
    rotated_amid(|_| Layer::Root.into()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_one_from_before_other_unlock_keys() {
    rotated_amid(|fixture| NewRotation::Unlock {
        unlocks: vec![NewUnlock::KeyFile(fixture.key.duplicate())],
        place: Box::new(|| Ok(())),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_other_unlock_keys_the_pages_get_other_keys_by_themselves() {
    let fixture = Fixture::on(Arc::new(MemoryStore::keeping())).await;
    fixture.enrol(&["a", "b", "c"]).await;
    let old = fixture.vault.session().unwrap().root.load_full();
    let unlock = |fixture: &Fixture| NewRotation::Unlock {
        unlocks: vec![NewUnlock::KeyFile(fixture.key.duplicate())],
        place: Box::new(|| Ok(())),
    };
    let mut written = fixture.store.every_version().len();
    let known = |fixture: &Fixture, from: usize| {
        let rows = fixture.store.every_version();
        let reach = crate::trie::attacker::reach(&rows, &old.key, fixture.vault.inner.vault);
        rows[from..].iter().filter(|(key, _)| reach.rows.contains(key)).count()
    };
    // The control: another root alone leaves the pages their keys.
    fixture.rotate(Layer::Root).await;
    fixture.enrol(&["d", "e"]).await;
    assert!(known(&fixture, written) > 0);

    let asked = fixture.rotate(unlock(&fixture)).await;
    assert!(asked.detail.unwrap().contains("keks follows"));
    let list = fixture.vault.rotations().await.unwrap();
    let keks = list.iter().rfind(|rotation| rotation.layer == Layer::Keks).unwrap();
    assert!(keks.started_at >= asked.started_at);
    assert_eq!(fixture.ended(keks.id).await.state, RotationState::Done);
    written = fixture.store.every_version().len();
    fixture.enrol(&["a", "f", "g"]).await;
    assert_eq!(known(&fixture, written), 0, "pages that are written since");
    assert!(fixture.store.every_version().len() > written + 3);

    // One that is under way is left to end, and it is told that it is not enough.
    let slow = fixture.vault.rotate(Layer::Keks, Some(1), None).await.unwrap().made;
    let asked = fixture.rotate(unlock(&fixture)).await;
    assert!(asked.detail.unwrap().contains("rotate keks again"));
    fixture.vault.change_rotation(slow.id, Some(RotationState::Cancelled), None).await.unwrap();
}
