//! Unlocking to look only, and locks and unlocks that meet each other.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::put::STALE_MAX;
use super::tests::{Fixture, changes, erasure_of, id, name, slot};
use super::writer::Command;
use super::*;
use crate::ids::BackupId;
use crate::root::{Refusals, RootSlot, SlotState, Unlock};

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
            Err(Error::Locked | Error::LockedMeanwhile) => refused += 1,
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

/// Of these `c` takes a root batch for the next change of its email, whose value this answers.
async fn with_much_left_behind(fixture: &Fixture) -> String {
    for subject in ["a", "b", "c", "d"] {
        fixture.put(subject, &[("nickname", r#""x""#)]).await.unwrap();
    }
    // One more leaves more behind than a subject may, and takes a root batch.
    for n in 0..=STALE_MAX {
        fixture.put("c", &[("email", &format!(r#""{n}@example.org""#))]).await.unwrap();
    }
    r#""last@example.org""#.to_owned()
}

async fn state_of_the_slot(fixture: &Fixture) -> (SlotState, Option<String>) {
    let slots = fixture.vault.status().slots;
    (slots[0].state, slots[0].detail.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_hangs_is_away_until_it_answers() {
    let fixture = Fixture::new().await;
    let last = with_much_left_behind(&fixture).await;
    let hangs = fixture.vault.inner.file_slots[0].hang();
    let erasure = fixture.vault.shred(erasure_of(vec![id("a")]), None).await.unwrap().made;
    let (b, nickname, email) = (id("b"), name("nickname"), [("email", last.as_str())]);
    // Whoever cannot go on without it is told so, also who comes while that is known already.
    for _ in 0..2 {
        let forgotten = fixture.vault.forget_field(&b, &nickname, None);
        let (forgotten, put) = tokio::time::timeout(WAIT, async { tokio::join!(forgotten, fixture.put("c", &email)) })
            .await
            .expect("both are answered");
        for refused in [forgotten.map(drop), put.map(drop)] {
            assert!(matches!(refused, Err(Error::Slot(_))), "{refused:?}");
        }
    }
    let (state, detail) = state_of_the_slot(&fixture).await;
    assert!(state == SlotState::Behind && detail.as_ref().unwrap().contains("does not answer"), "{state:?} {detail:?}");
    let waiting = fixture.vault.erasure(erasure.id).await.unwrap();
    assert_eq!(waiting.counts.refused, 1);
    assert!(waiting.waiting_for.iter().any(|why| why.contains("does not answer")), "{:?}", waiting.waiting_for);
    // Others go on.
    fixture.put("d", &[("nickname", r#""y""#)]).await.unwrap();
    assert_eq!(fixture.read("d", "nickname").await.unwrap(), r#""y""#);

    drop(hangs);
    assert!(fixture.vault.wait_final(erasure.id, WAIT).await.unwrap().f1_at.is_some());
    assert_eq!(state_of_the_slot(&fixture).await, (SlotState::Ok, None));
    fixture.vault.forget_field(&b, &nickname, None).await.unwrap();
    fixture.put("c", &email).await.unwrap();
    let erasure = fixture.shred(&["d"]).await;
    assert!(erasure.f1_at.is_some() && erasure.waiting_for.is_empty());
    assert_eq!(fixture.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_has_to_be_durable_does_not_wait_for_the_slots() {
    let fixture = Fixture::new().await;
    let last = with_much_left_behind(&fixture).await;
    let slot = fixture.vault.inner.file_slots[0].clone();
    // The slot goes away between the staging and the commit of the root batch.
    let no_commit = fixture.vault.inner.rounds.lock().await;
    let email = [("email", last.as_str())];
    let mut put = std::pin::pin!(fixture.put("c", &email));
    while slot.read().await.unwrap().entries.len() == 1 {
        let early = tokio::time::timeout(Duration::from_millis(5), &mut put).await;
        assert!(early.is_err(), "{early:?}");
    }
    let hangs = slot.hang();
    drop(no_commit);
    tokio::time::timeout(WAIT, put).await.unwrap().unwrap();
    assert_eq!(fixture.read("c", "email").await.unwrap(), last);
    // The control: the slot hangs still, and nothing is final.
    let forgotten = tokio::time::timeout(WAIT, fixture.vault.forget_field(&id("b"), &name("nickname"), None)).await;
    assert!(matches!(forgotten, Ok(Err(Error::Slot(_)))), "{forgotten:?}");
    drop(hangs);
    let erasure = fixture.shred(&["a"]).await;
    assert!(erasure.f1_at.is_some());
    assert_eq!(fixture.vault.forget_field(&id("b"), &name("nickname"), None).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_final_change_tells_the_backup_it_waits_for_however_it_ends() {
    // Of a root that is retained while it is under way, and of none, which is the control.
    for retains in [true, false] {
        for locks in [true, false] {
            let fixture = Fixture::new().await;
            fixture.put("b", &[("nickname", r#""x""#)]).await.unwrap();
            let session = fixture.vault.session().unwrap();
            let hangs = fixture.vault.inner.file_slots[0].hang();
            let vault = fixture.vault.clone();
            let forgetting = tokio::spawn(async move { vault.forget_field(&id("b"), &name("nickname"), None).await });
            // Whether it is asked for by now or later, it is answered by what the slot holds.
            if retains {
                let (root, backup) = (session.root.load_full(), BackupId([7; 16]));
                fixture.vault.inner.begin_retaining(&session, &root, backup).await.unwrap();
            }
            let vault = fixture.vault.clone();
            let locking = tokio::spawn(async move { if locks { vault.lock().await } else { Ok(()) } });
            while locks && fixture.vault.state() == State::Unlocked {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            drop(hangs);
            locking.await.unwrap().unwrap();
            let told = tokio::time::timeout(WAIT, forgetting).await.unwrap().unwrap();
            match told {
                Ok(waits_for) => assert_eq!(waits_for.is_some(), retains, "{locks} {waits_for:?}"),
                Err(Error::Locked | Error::LockedMeanwhile) => assert!(locks),
                Err(other) => panic!("neither done nor locked: {other}"),
            }
        }
    }
}

#[tokio::test]
async fn who_goes_on_from_before_a_lock_is_told_of_the_lock_and_of_no_damage() {
    let fixture = Fixture::new().await;
    for subject in ["a", "b"] {
        fixture.put(subject, &[("nickname", r#""x""#)]).await.unwrap();
    }
    let before = fixture.vault.session().unwrap();
    fixture.vault.lock().await.unwrap();
    fixture.vault.unlock(Unlock::KeyFile(fixture.key.duplicate())).await.unwrap();
    // Its pages are replaced.
    fixture.shred(&["b"]).await;
    let (a, change, options) = (id("a"), changes(&[("nickname", r#""y""#)]), PutOptions::default());
    let put = fixture.vault.inner.put(&before, &a, &change, &options).await;
    assert!(matches!(put, Err(Error::LockedMeanwhile)), "{put:?}");
    assert_eq!(fixture.read("a", "nickname").await.unwrap(), r#""x""#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_that_waits_to_be_noted_holds_up_nobody_else() {
    let fixture = Fixture::new().await;
    for subject in ["a", "b"] {
        fixture.put(subject, &[("nickname", r#""x""#)]).await.unwrap();
    }
    let session = fixture.vault.session().unwrap();
    let (root, backup) = (session.root.load_full(), BackupId([7; 16]));
    fixture.vault.inner.begin_retaining(&session, &root, backup).await.unwrap();
    let hangs = fixture.vault.inner.keeper.hang(0).await;
    let vault = fixture.vault.clone();
    let shredding = tokio::spawn(async move { vault.shred(erasure_of(vec![id("a")]), None).await });
    // Durable, and nobody is told yet.
    while !matches!(fixture.read("a", "nickname").await, Err(Error::Shredded)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    fixture.put("b", &[("nickname", r#""y""#)]).await.unwrap();
    assert_eq!(fixture.read("b", "nickname").await.unwrap(), r#""y""#);
    assert_eq!(fixture.vault.retained(), None, "it is begun only");
    assert!(fixture.vault.waits_for_backup().is_some());
    assert!(!shredding.is_finished());
    drop(hangs);
    let erasure = tokio::time::timeout(WAIT, shredding).await.unwrap().unwrap().unwrap().made;
    assert_eq!(erasure.counts.refused + erasure.counts.r#final, 1);
    fixture.vault.forget_retained().await.unwrap();
    assert!(fixture.vault.wait_final(erasure.id, WAIT).await.unwrap().f1_at.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_waits_for_what_is_not_noted_yet() {
    let fixture = Fixture::new().await;
    let subjects: Vec<String> = (0..8).map(|n| format!("s{n}")).collect();
    for subject in &subjects {
        fixture.put(subject, &[("nickname", r#""x""#)]).await.unwrap();
    }
    let session = fixture.vault.session().unwrap();
    let (root, backup) = (session.root.load_full(), BackupId([7; 16]));
    fixture.vault.inner.begin_retaining(&session, &root, backup).await.unwrap();
    let hangs = fixture.vault.inner.keeper.hang(0).await;
    let shred = |subject: &String| {
        let (vault, subjects) = (fixture.vault.clone(), vec![id(subject)]);
        tokio::spawn(async move { vault.shred(erasure_of(subjects), None).await })
    };
    let shredding: Vec<_> = subjects.iter().map(shred).collect();
    for subject in &subjects {
        while !matches!(fixture.read(subject, "nickname").await, Err(Error::Shredded)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let vault = fixture.vault.clone();
    let locking = tokio::spawn(async move { vault.lock().await });
    while fixture.vault.state() == State::Unlocked {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!locking.is_finished() && shredding.iter().all(|shredding| !shredding.is_finished()));
    drop(hangs);
    tokio::time::timeout(WAIT, locking).await.unwrap().unwrap().unwrap();
    for shredding in shredding {
        let told = tokio::time::timeout(WAIT, shredding).await.unwrap().unwrap();
        assert!(matches!(told, Ok(_) | Err(Error::LockedMeanwhile)), "{:?}", told.err());
    }
    let list = Refusals::of(&root, fixture.vault.inner.vault);
    let noted = list.gather(&[slot(&fixture.dir)], false).unwrap();
    assert_eq!(noted.len(), subjects.len());
    // What would be retained from here on, nobody would forget; and that list would be begun anew.
    let late = fixture.vault.inner.begin_retaining(&session, &root, backup).await;
    assert!(matches!(late, Err(Error::LockedMeanwhile)), "{late:?}");
    assert_eq!(list.gather(&[slot(&fixture.dir)], false).unwrap().len(), subjects.len());
    assert!(!fixture.vault.inner.keeper.is_noting());
    assert_eq!(fixture.vault.inner.roots.retained(), []);
}
