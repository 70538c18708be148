//! Unlocking to look only, and locks and unlocks that meet each other.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::tests::{Fixture, erasure_of, id, slot};
use super::writer::Command;
use super::*;
use crate::root::Unlock;

const WAIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_look_at_rest_leaves_unfinished_shreds_alone() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[("nickname", r#""x""#)]).await.unwrap();
    let away = fixture.dir.path().join("away");
    std::fs::rename(slot(&fixture.dir), &away).unwrap();
    let erasure = fixture.vault.shred(erasure_of(vec![id("a")]), None).await.unwrap().made;
    fixture.vault.close().await.unwrap();
    std::fs::rename(&away, slot(&fixture.dir)).unwrap();

    let unlock = || Unlock::KeyFile(fixture.key.duplicate());
    let vault = fixture.open(fixture.store.clone()).await.unwrap();
    vault.unlock_at_rest(unlock()).await.unwrap();
    assert_eq!(vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
    assert!(vault.wait_final(erasure.id, Duration::from_millis(300)).await.unwrap().f1_at.is_none());
    vault.lock().await.unwrap();
    // The control: in service it becomes final.
    vault.unlock(unlock()).await.unwrap();
    assert!(vault.wait_final(erasure.id, WAIT).await.unwrap().f1_at.is_some());
}

#[tokio::test]
async fn who_waits_for_an_erasure_does_not_keep_the_keys_of_a_locked_vault() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[("nickname", r#""x""#)]).await.unwrap();
    let away = fixture.dir.path().join("away");
    std::fs::rename(slot(&fixture.dir), &away).unwrap();
    let erasure = fixture.vault.shred(erasure_of(vec![id("a")]), None).await.unwrap().made;
    let (vault, long) = (fixture.vault.clone(), Duration::from_secs(3600));
    let waiting = tokio::spawn(async move { vault.wait_final(erasure.id, long).await });
    let session = Arc::downgrade(&fixture.vault.session().unwrap());
    while session.upgrade().is_some_and(|session| session.progress.receiver_count() == 0) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fixture.vault.lock().await.unwrap();
    let waited = tokio::time::timeout(WAIT, waiting).await.unwrap().unwrap();
    assert!(matches!(waited, Err(Error::Locked)), "{waited:?}");
    assert!(session.upgrade().is_none());
}

#[tokio::test]
async fn a_rotation_tells_what_it_waits_for() {
    let fixture = Fixture::new().await;
    let away = fixture.dir.path().join("away");
    std::fs::rename(slot(&fixture.dir), &away).unwrap();
    let rotation = fixture.vault.rotate(Layer::Root, None, None).await.unwrap().made;
    let mut seen = Vec::new();
    while !seen.last().is_some_and(|why: &Option<String>| why.as_ref().is_some_and(|why| why.contains("is missing"))) {
        assert!(seen.len() < 1000, "{:?} …", &seen[..20]);
        tokio::time::sleep(Duration::from_millis(20)).await;
        seen.push(fixture.vault.rotation(rotation.id).await.unwrap().detail);
    }
    std::fs::rename(&away, slot(&fixture.dir)).unwrap();
    let done = fixture.ended(rotation.id).await;
    assert_eq!((done.state, done.detail), (RotationState::Done, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_unlocks_and_writes_beside_each_other() {
    let fixture = Fixture::new().await;
    let vault = fixture.vault.clone();
    let key = fixture.key.duplicate();
    let switching = tokio::spawn(async move {
        for _ in 0..100 {
            let unlock = || vault.unlock(Unlock::KeyFile(key.duplicate()));
            let (locked, first, second) = tokio::join!(vault.lock(), unlock(), unlock());
            assert!(locked.is_ok() && first.is_ok() && second.is_ok(), "{locked:?} {first:?} {second:?}");
        }
        vault.unlock(Unlock::KeyFile(key)).await
    });
    let (mut written, mut refused) = (Vec::new(), 0);
    while !switching.is_finished() {
        let subject = format!("s{}", written.len());
        match fixture.put(&subject, &[("nickname", r#""x""#)]).await {
            Ok(_) => written.push(subject),
            Err(Error::Locked) => refused += 1,
            Err(other) => panic!("neither written nor locked: {other}"),
        }
        tokio::task::yield_now().await;
    }
    switching.await.unwrap().unwrap();
    for subject in &written {
        assert_eq!(fixture.read(subject, "nickname").await.unwrap(), r#""x""#);
    }
    assert!(written.len() + refused > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_while_the_writer_ends_is_answered() {
    let fixture = Fixture::new().await;
    let session = fixture.vault.inner.session.load_full().unwrap();
    let being_sent = session.writer.reserve().await.unwrap();
    let vault = fixture.vault.clone();
    let locking = tokio::spawn(async move { vault.lock().await });
    while !session.writer.is_closed() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // By now a queue that was only dropped would have been emptied as well.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let (reply, answer) = oneshot::channel();
    being_sent.send(Command::Data { writes: Vec::new(), reply });
    tokio::time::timeout(WAIT, answer).await.expect("an answer").expect_err("the writer has ended");
    locking.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_of_one_subject_all_get_through() {
    let fixture = Arc::new(Fixture::new().await);
    fixture.put("a", &[("nickname", r#""x""#)]).await.unwrap();
    let writers: Vec<_> = (0..64)
        .map(|writer| {
            let fixture = fixture.clone();
            tokio::spawn(async move {
                for n in 0..20 {
                    fixture.put("a", &[("nickname", &format!("\"{writer}-{n}\""))]).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(fixture.vault.describe(&id("a")).await.unwrap().fields[0].0.version, 1 + 64 * 20);
}
