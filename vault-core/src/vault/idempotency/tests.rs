//! Requests sent again: at once, later, after a failure, after a restart, after their time.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::super::tests::{Fixture, erasure_of, id, slot};
use super::super::{Erasure, Layer, NewCaller, Role, Vault, VaultOptions};
use super::*;
use crate::ids::SubjectId;
use crate::root::Unlock;
use crate::store::{Batch, Fault, Health, MemoryStore, Row, Store, StoreError};

const EMAIL: (&str, &str) = ("email", r#""ada@example.org""#);

/// A request of one caller.
fn once<'a>(key: &str, body: &'a [u8]) -> Idempotency<'a> {
    let key = IdempotencyKey::parse(key).unwrap();
    Idempotency { caller: CallerId([1; 16]), key, path: "/v1/erasures", body, status: 201 }
}

async fn shred(vault: &Vault, subjects: &[SubjectId], once: &Idempotency<'_>) -> Result<Made<Erasure>, Error> {
    vault.shred(erasure_of(subjects.to_vec()), Some(once)).await
}

async fn erasures(vault: &Vault) -> usize {
    vault.erasures(None, 100).await.unwrap().0.len()
}

/// How many entries the system's subtree has for records of requests, and in the index of their times.
async fn entries(vault: &Vault, request: &Idempotency<'_>) -> (usize, usize) {
    let (inner, header) = (&vault.inner, vault.session().unwrap().snapshot().header.clone());
    let record = trie::find(&inner.pages, &header, Kind::System, &request.entry_key(&header)).await.unwrap();
    let (_, index, _) = Expiring::Idempotency.index(&header, &[0; 32], Timestamp(0));
    let times = trie::scan(&inner.pages, &header, Kind::System, &index[..16], None, 100).await.unwrap();
    (usize::from(record.is_some()), times.len())
}

#[tokio::test]
async fn a_shred_sent_again_answers_the_same_erasure_as_it_is_now() {
    let mut fixture = Fixture::new().await;
    fixture.put("a", &[EMAIL]).await.unwrap();
    let request = once("k", b"a");
    let first = shred(&fixture.vault, &[id("a")], &request).await.unwrap();
    assert_eq!((first.repeated, first.made.counts.refused + first.made.counts.r#final), (None, 1));
    fixture.vault.wait_final(first.made.id, Duration::from_secs(20)).await.unwrap();
    for _ in 0..2 {
        let again = shred(&fixture.vault, &[id("a")], &request).await.unwrap();
        assert_eq!((again.repeated, again.made.id), (Some(201), first.made.id));
        assert_eq!(again.made.counts.r#final, 1, "as it is now");
        for other in [once("k", b"b"), Idempotency { path: "/v1/callers", ..once("k", b"a") }] {
            assert!(matches!(shred(&fixture.vault, &[id("b")], &other).await, Err(Error::IdempotencyMismatch)));
        }
        fixture.restart().await;
    }
    for other in [once("l", b"a"), Idempotency { caller: CallerId([2; 16]), ..once("k", b"a") }] {
        let made = shred(&fixture.vault, &[id("a")], &other).await.unwrap();
        assert!(made.repeated.is_none() && made.made.id != first.made.id);
    }
    assert_eq!(erasures(&fixture.vault).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_at_once_one_is_done() {
    let fixture = Fixture::new().await;
    fixture.put("s7", &[EMAIL]).await.unwrap();
    fixture.put("s699", &[EMAIL]).await.unwrap();
    // More than one commit holds.
    let subjects: Vec<SubjectId> = (0..700).map(|n| id(&format!("s{n}"))).collect();
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let (vault, subjects) = (fixture.vault.clone(), subjects.clone());
            tokio::spawn(async move { shred(&vault, &subjects, &once("k", b"all")).await.unwrap() })
        })
        .collect();
    let (mut ids, mut first) = (BTreeSet::new(), 0);
    for task in tasks {
        let answered = task.await.unwrap();
        ids.insert(answered.made.id.to_string());
        first += usize::from(answered.repeated.is_none());
    }
    assert_eq!((ids.len(), first, erasures(&fixture.vault).await), (1, 1, 1));
}

#[tokio::test]
async fn the_record_and_what_it_tells_of_are_committed_together() {
    for (fault, landed) in [(Fault::InDoubtLanded, true), (Fault::InDoubtLost, false)] {
        let mut fixture = Fixture::new().await;
        fixture.put("a", &[EMAIL]).await.unwrap();
        fixture.store.fail_next_commit(fault);
        let request = once("k", b"a");
        assert!(matches!(shred(&fixture.vault, &[id("a")], &request).await, Err(Error::Failed)));
        fixture.restart().await;
        assert_eq!(erasures(&fixture.vault).await, usize::from(landed));
        let again = shred(&fixture.vault, &[id("a")], &request).await.unwrap();
        assert_eq!((again.repeated.is_some(), erasures(&fixture.vault).await), (landed, 1));
        assert!(matches!(fixture.read("a", "email").await, Err(Error::Shredded)));
    }
}

/// A store whose disk is full at one commit.
struct FullOnce {
    store: Arc<MemoryStore>,
    /// Commits that go well before.
    before: AtomicUsize,
}

#[async_trait::async_trait]
impl Store for FullOnce {
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(key).await
    }

    async fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StoreError> {
        self.store.scan(start, end, limit).await
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        if self.before.fetch_sub(1, Ordering::Relaxed) == 0 {
            self.store.fail_next_commit(Fault::Full);
        }
        self.store.commit(batch).await
    }

    fn health(&self) -> Health {
        self.store.health()
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.store.close().await
    }
}

#[tokio::test]
async fn a_shred_that_failed_half_way_goes_on_when_it_is_sent_again() {
    let mut fixture = Fixture::new().await;
    let subjects: Vec<SubjectId> = (100..700).map(|n| id(&format!("s{n}"))).collect();
    for subject in ["s100", "s699"] {
        fixture.put(subject, &[EMAIL]).await.unwrap();
    }
    fixture.vault.close().await.unwrap();
    let store = FullOnce { store: fixture.store.clone(), before: AtomicUsize::new(1) };
    fixture.vault = Vault::open(Arc::new(store), &[slot(&fixture.dir).into()], VaultOptions::default()).await.unwrap();
    fixture.vault.unlock(Unlock::KeyFile(fixture.key.duplicate())).await.unwrap();

    let request = once("k", b"all");
    assert!(matches!(shred(&fixture.vault, &subjects, &request).await, Err(Error::DiskFull)));
    assert!(matches!(fixture.read("s100", "email").await, Err(Error::Shredded)), "the first part is refused");
    assert_eq!(fixture.read("s699", "email").await.unwrap(), EMAIL.1, "the last one is not");
    let half = fixture.vault.erasures(None, 10).await.unwrap().0.remove(0);
    let half = fixture.vault.wait_final(half.id, Duration::from_secs(20)).await.unwrap();
    assert_eq!((half.counts.r#final, half.f1_at.is_some()), (1, true), "what is refused becomes final");

    let whole = shred(&fixture.vault, &subjects, &request).await.unwrap();
    assert!(whole.repeated.is_none() && whole.made.id != half.id);
    let whole = fixture.vault.wait_final(whole.made.id, Duration::from_secs(20)).await.unwrap();
    assert_eq!((whole.counts.r#final, whole.counts.shredded, whole.counts.unknown), (1, 1, 598));
}

#[tokio::test]
async fn rotations_and_callers_are_made_once() {
    let fixture = Fixture::new().await;
    let request = Idempotency { path: "/v1/keys/rotations", status: 202, ..once("k", b"keks") };
    let rotate = || fixture.vault.rotate(Layer::Keks, Some(1), Some(&request));
    let (one, two) = tokio::join!(rotate(), rotate());
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!((one.repeated, two.repeated, one.made.id), (None, Some(202), two.made.id));
    assert_eq!(fixture.vault.rotations().await.unwrap().len(), 1);

    let request = Idempotency { path: "/v1/callers", ..once("c", b"shop") };
    let create = || {
        let new = NewCaller {
            name: "shop".into(),
            role: Role::Service,
            purposes: [].into(),
            expires_at: None,
            lookups_per_minute: None,
        };
        fixture.vault.create_caller(new, Some(&request))
    };
    let (_, token) = create().await.unwrap();
    assert!(matches!(create().await, Err(Error::Conflict(_))));
    assert!(fixture.vault.authenticate(&token).is_ok());
    assert_eq!(fixture.vault.callers().unwrap().len(), 1);
    assert_eq!(fixture.vault.status().counts.unwrap().callers, 1);
}

#[tokio::test]
async fn a_record_expires_and_is_taken_out() {
    let mut fixture = Fixture::new().await;
    let request = once("k", b"a");
    let first = shred(&fixture.vault, &[id("a")], &request).await.unwrap().made;
    fixture.rotate(Layer::Root).await;
    assert_eq!(entries(&fixture.vault, &request).await, (1, 1), "it has time yet");
    fixture.vault.close().await.unwrap();
    let options = VaultOptions { idempotency_seconds: 0, ..VaultOptions::default() };
    fixture.vault = Vault::open(fixture.store.clone(), &[slot(&fixture.dir).into()], options).await.unwrap();
    fixture.vault.unlock(Unlock::KeyFile(fixture.key.duplicate())).await.unwrap();

    let other = shred(&fixture.vault, &[id("b")], &once("k", b"b")).await.unwrap();
    assert!(other.repeated.is_none() && other.made.id != first.id, "the key is free again at once");
    assert_eq!(entries(&fixture.vault, &request).await.0, 1, "the new record is in the old one's place");
    // The first root batch finds two times for one record, and takes the record out at the second of them.
    fixture.rotate(Layer::Root).await;
    fixture.rotate(Layer::Root).await;
    assert_eq!(entries(&fixture.vault, &request).await, (0, 0));
    assert_eq!(fixture.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
}
