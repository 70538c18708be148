//! Shreds that meet each other, an error half way, or a subject whose lookups were changed very often.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::tests::{Fixture, erasure_of, id, slot};
use super::*;
use crate::store::Fault;

const WAIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_second_erasure_is_final_only_once_the_first_one_is() {
    let mut fixture = Fixture::new().await;
    for subject in ["a", "b"] {
        fixture.put(subject, &[("nickname", r#""x""#)]).await.unwrap();
    }
    let away = fixture.dir.path().join("away");
    std::fs::rename(slot(&fixture.dir), &away).unwrap();
    let first = fixture.vault.shred(erasure_of(vec![id("a")]), None).await.unwrap().made;
    let second = fixture.vault.shred(erasure_of(vec![id("a"), id("b")]), None).await.unwrap().made;
    for erasure in [&first, &second] {
        let shown = fixture.vault.erasure(erasure.id).await.unwrap();
        assert_eq!((shown.f1_at, shown.counts.r#final), (None, 0), "no slot has forgotten the old root");
    }
    assert_eq!(fixture.vault.status().counts.unwrap().refused, 2, "each subject counts once");

    std::fs::rename(&away, slot(&fixture.dir)).unwrap();
    fixture.restart().await;
    for (erasure, subjects) in [(&first, 1), (&second, 2)] {
        let shown = fixture.vault.wait_final(erasure.id, WAIT).await.unwrap();
        assert!(shown.f1_at.is_some());
        assert_eq!((shown.counts.r#final, shown.counts.refused), (subjects, 0));
    }
    let counts = fixture.vault.status().counts.unwrap();
    assert_eq!((counts.subjects, counts.refused, counts.tombstones), (0, 0, 2));
    assert_eq!(fixture.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn what_was_refused_before_an_error_becomes_final() {
    let fixture = Fixture::new().await;
    let subjects: Vec<String> = (0..501).map(|n| format!("s{n:03}")).collect();
    for subject in &subjects {
        fixture.put(subject, &[("nickname", r#""x""#)]).await.unwrap();
    }
    // The second commit is the one that fails: it refuses the last subject.
    fixture.store.fail_commit_after(1, Fault::Full);
    let ids = subjects.iter().map(|subject| id(subject)).collect();
    assert!(matches!(fixture.vault.shred(erasure_of(ids), None).await, Err(Error::DiskFull)));
    let (erasures, _) = fixture.vault.erasures(None, 10).await.unwrap();
    let shown = fixture.vault.wait_final(erasures[0].id, WAIT).await.unwrap();
    assert_eq!((shown.counts.r#final, shown.counts.refused), (500, 0));
    assert!(fixture.read("s500", "nickname").await.is_ok(), "nobody was told that this one is shredded");
}

#[tokio::test]
async fn a_subject_whose_lookups_change_often_can_be_shredded() {
    let fixture = Fixture::new().await;
    for n in 0..400 {
        fixture.put("a", &[("email", &format!("\"a{n}@example.org\""))]).await.unwrap();
    }
    assert_eq!(fixture.look_up("email", r#""a398@example.org""#).await, [""; 0]);
    assert_eq!(fixture.look_up("email", r#""a399@example.org""#).await, ["a"]);
    assert_eq!(fixture.shred(&["a"]).await.counts.r#final, 1);
    assert_eq!(fixture.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
}
