//! Rotation of lookups on the memory engine: lookups are right all the while, whatever comes between.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::Error;
use crate::ids::CallerId;
use crate::store::{Batch, Fault, Store};
use crate::trie::Kind;
use crate::vault::tests::{Fixture, changes, id, name};
use crate::vault::{Layer, MetadataPatch, MetadataQuery, PutOptions, Rotation, RotationState};

fn email(n: u32) -> String {
    format!(r#""user{n}@example.org""#)
}

async fn enrol(fixture: &Fixture, subjects: std::ops::Range<u32>) {
    let item = |n| (id(&format!("s{n}")), changes(&[("email", &email(n))]), PutOptions::default());
    for outcome in fixture.vault.write_batch(subjects.map(item).collect()).await {
        outcome.unwrap();
    }
}

async fn from_source(fixture: &Fixture, source: &str) -> Vec<String> {
    let query = MetadataQuery::Source(source.to_owned());
    let page = fixture.vault.search_metadata(&query, None, 1000).await.unwrap();
    page.values.iter().map(|found| found.subject.as_str().to_owned()).collect()
}

async fn set_source(fixture: &Fixture, subject: &str, source: &str) {
    let patch = MetadataPatch { source: Some(Some(source.to_owned())), ..MetadataPatch::default() };
    fixture.vault.change_metadata(&id(subject), &name("email"), patch).await.unwrap();
}

async fn assert_sound(fixture: &Fixture) {
    assert_eq!(fixture.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
}

fn generations(fixture: &Fixture) -> crate::trie::Generations {
    fixture.vault.session().unwrap().snapshot().header.generations(Kind::Lookups)
}

/// The only generation, once a rotation has ended.
fn generation(fixture: &Fixture) -> u32 {
    let generations = generations(fixture);
    assert_eq!(generations.beside, None);
    generations.serving
}

async fn until(fixture: &Fixture, rotation: &Rotation, reached: impl Fn(&Rotation) -> bool) {
    for _ in 0..2000 {
        if reached(&fixture.vault.rotation(rotation.id).await.unwrap()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the rotation did not get there");
}

#[tokio::test]
async fn a_new_generation_finds_what_the_one_before_did() {
    let mut fixture = Fixture::new().await;
    enrol(&fixture, 0..200).await;
    set_source(&fixture, "s7", "a form").await;
    let shared = r#""shared@example.org""#;
    for subject in ["a", "b"] {
        fixture.put(subject, &[("email", shared), ("phone", r#""+971501238301""#)]).await.unwrap();
    }
    // Left behind by a change, and not tidied away yet.
    fixture.put("s8", &[("email", r#""later@example.org""#)]).await.unwrap();
    let before = fixture.vault.status().counts.unwrap();
    for round in 2..=4 {
        let done = fixture.rotate(Layer::Lookups).await;
        assert_eq!((done.layer, done.done), (Layer::Lookups, done.total));
        assert_eq!(generation(&fixture), round);
        let status = fixture.vault.keys().await.unwrap();
        assert_eq!(status.of(Layer::Lookups).unwrap().version, Some(u64::from(round)));
        assert_eq!(fixture.look_up("email", &email(3)).await, ["s3"]);
        assert_eq!(fixture.look_up("email", shared).await, ["a", "b"]);
        assert_eq!(fixture.look_up("phone", r#""+971501238301""#).await, ["a", "b"]);
        assert_eq!(fixture.look_up("email", &email(8)).await, [""; 0]);
        assert_eq!(fixture.look_up("email", r#""later@example.org""#).await, ["s8"]);
        assert_eq!(from_source(&fixture, "a form").await, ["s7"]);
        assert_sound(&fixture).await;
        fixture.restart().await;
    }
    let after = fixture.vault.status().counts.unwrap();
    assert_eq!((before.subjects, before.rows), (after.subjects, after.rows));
    assert!(fixture.vault.keys().await.unwrap().of(Layer::Lookups).unwrap().last.is_some());
}

/// Writes, shreds and lookups go on in every stage, each held to what is known to be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_are_right_all_the_while() {
    let mut fixture = Fixture::new().await;
    enrol(&fixture, 0..60).await;
    let mut model: BTreeMap<String, String> = (0..60).map(|n| (format!("s{n}"), email(n))).collect();
    let mut gone: Vec<String> = Vec::new();
    let mut stages = std::collections::BTreeSet::new();
    let rotation = fixture.vault.rotate(Layer::Lookups, Some(40), None).await.unwrap().made;
    let mut n = 0;
    while fixture.vault.rotation(rotation.id).await.unwrap().finished_at.is_none() {
        n += 1;
        stages.insert(format!("{:?}", generations(&fixture)));
        let subject = format!("s{}", n * 7 % 60);
        match n % 10 {
            0 => {
                let new = format!("new{n}");
                fixture.put(&new, &[("email", &email(1000 + n))]).await.unwrap();
                model.insert(new, email(1000 + n));
            }
            1 if n % 40 == 1 && model.contains_key(&subject) => {
                assert_eq!(fixture.shred(&[&subject]).await.counts.r#final, 1);
                gone.extend(model.remove(&subject));
            }
            2 if model.contains_key(&subject) => {
                let options = PutOptions { final_: true, ..PutOptions::default() };
                let change = changes(&[("email", &email(2000 + n))]);
                fixture.vault.put_fields(&id(&subject), change, &options).await.unwrap();
                gone.extend(model.insert(subject.clone(), email(2000 + n)));
            }
            3..=6 if model.contains_key(&subject) => {
                fixture.put(&subject, &[("email", &email(3000 + n))]).await.unwrap();
                gone.extend(model.insert(subject.clone(), email(3000 + n)));
            }
            7 if model.contains_key(&subject) => {
                let source = format!("source {n}");
                set_source(&fixture, &subject, &source).await;
                assert_eq!(from_source(&fixture, &source).await, std::slice::from_ref(&subject));
            }
            _ => {}
        }
        for (subject, value) in model.iter().skip(n as usize % 7).step_by(7) {
            assert_eq!(fixture.look_up("email", value).await, std::slice::from_ref(subject), "after {n} changes");
        }
        for value in gone.iter().rev().take(3) {
            assert_eq!(fixture.look_up("email", value).await, [""; 0], "after {n} changes");
        }
    }
    assert_eq!(fixture.vault.rotation(rotation.id).await.unwrap().state, RotationState::Done);
    assert!(n > 40 && stages.len() >= 3, "{n} changes in {stages:?}");
    fixture.restart().await;
    for (subject, value) in &model {
        assert_eq!(fixture.look_up("email", value).await, std::slice::from_ref(subject));
    }
    for value in &gone {
        assert_eq!(fixture.look_up("email", value).await, [""; 0]);
    }
    assert_sound(&fixture).await;
}

/// The engine fails at every commit of a rotation in turn, having written it or not.
#[tokio::test]
async fn goes_on_after_a_kill_at_every_commit() {
    for fault in [Fault::InDoubtLanded, Fault::InDoubtLost] {
        let (mut commits, mut ended_early) = (0, 0);
        while ended_early < 2 {
            let mut fixture = Fixture::new().await;
            enrol(&fixture, 0..520).await;
            let rotation = fixture.vault.rotate(Layer::Lookups, None, None).await.unwrap().made;
            fixture.store.fail_commit_after(commits, fault);
            // Until it ends, or the engine does.
            let end = loop {
                match fixture.vault.rotation(rotation.id).await {
                    Ok(now) if now.finished_at.is_none() => tokio::time::sleep(Duration::from_millis(2)).await,
                    end => break end,
                }
            };
            ended_early += usize::from(end.is_ok());
            fixture.store.fail_commit_after(usize::MAX, fault);
            fixture.restart().await;
            let erasure = fixture.shred(&["s99"]).await;
            assert_eq!(erasure.counts.r#final, 1);
            fixture.put("s98", &[("email", r#""later@example.org""#)]).await.unwrap();
            let done = fixture.ended(rotation.id).await;
            assert_eq!(done.state, RotationState::Done, "{:?}", done.detail);
            assert_eq!(generation(&fixture), 2, "once, after {commits} commits");
            for n in (0..520).step_by(9) {
                let expected = if n == 99 { vec![] } else { vec![format!("s{n}")] };
                assert_eq!(fixture.look_up("email", &email(n)).await, expected);
            }
            assert_eq!(fixture.look_up("email", r#""later@example.org""#).await, ["s98"]);
            assert_eq!(fixture.look_up("email", &email(98)).await, [""; 0]);
            assert_sound(&fixture).await;
            commits += 1;
        }
        assert!(commits > 10, "it takes more commits than {commits}");
    }
}

#[tokio::test]
async fn is_paused_over_a_restart_and_cancelled_without_a_trace() {
    let mut fixture = Fixture::new().await;
    enrol(&fixture, 0..130).await;
    let rotation = fixture.vault.rotate(Layer::Lookups, Some(64), None).await.unwrap().made;
    until(&fixture, &rotation, |now| now.done > 0).await;
    let paused = fixture.vault.change_rotation(rotation.id, Some(RotationState::Paused), None).await.unwrap();
    assert!(paused.done < 130, "{}", paused.done);
    fixture.restart().await;
    assert_eq!(fixture.vault.rotation(rotation.id).await.unwrap().done, paused.done);
    // Both generations are kept up meanwhile.
    fixture.put("s3", &[("email", r#""later@example.org""#)]).await.unwrap();
    fixture.shred(&["s4"]).await;
    assert_sound(&fixture).await;
    fixture.vault.change_rotation(rotation.id, Some(RotationState::Cancelled), Some(1_000_000)).await.unwrap();
    assert_eq!(fixture.ended(rotation.id).await.state, RotationState::Cancelled);
    assert_eq!(generation(&fixture), 1);
    assert_eq!(fixture.look_up("email", r#""later@example.org""#).await, ["s3"]);
    assert_eq!(fixture.look_up("email", &email(5)).await, ["s5"]);
    assert_sound(&fixture).await;
    fixture.rotate(Layer::Lookups).await;
    assert_eq!(generation(&fixture), 2);
    assert_eq!(fixture.look_up("email", r#""later@example.org""#).await, ["s3"]);
    assert_sound(&fixture).await;
}

#[tokio::test]
async fn what_has_switched_can_not_be_cancelled() {
    let fixture = Fixture::new().await;
    enrol(&fixture, 0..130).await;
    let rotation = fixture.vault.rotate(Layer::Lookups, Some(300), None).await.unwrap().made;
    while generations(&fixture).serving == 1 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let refused = fixture.vault.change_rotation(rotation.id, Some(RotationState::Cancelled), None).await;
    assert!(matches!(refused, Err(Error::Conflict(_))));
    fixture.vault.change_rotation(rotation.id, None, Some(1_000_000)).await.unwrap();
    assert_eq!(fixture.ended(rotation.id).await.state, RotationState::Done);
    assert_sound(&fixture).await;
}

#[tokio::test]
async fn a_row_that_does_not_open_leaves_the_old_generation_in_force() {
    let fixture = Fixture::new().await;
    enrol(&fixture, 0..100).await;
    let rows = fixture.store.scan(&[crate::vault::row::PREFIX], None, 1).await.unwrap();
    let (key, value) = rows.into_iter().next().unwrap();
    let mut broken = value.clone();
    let at = broken.len() - 1;
    broken[at] ^= 1;
    fixture.store.commit(Batch { put: vec![(key.clone(), broken)], ..Batch::default() }).await.unwrap();
    let rotation = fixture.vault.rotate(Layer::Lookups, None, None).await.unwrap().made;
    let failed = fixture.ended(rotation.id).await;
    assert_eq!(failed.state, RotationState::Failed);
    assert!(failed.detail.unwrap().starts_with("1 data rows do not open"));
    assert_eq!(generation(&fixture), 1);
    assert_eq!(fixture.look_up("email", &email(50)).await, ["s50"]);
    fixture.store.commit(Batch { put: vec![(key, value)], ..Batch::default() }).await.unwrap();
    assert_sound(&fixture).await;
    fixture.rotate(Layer::Lookups).await;
    assert_eq!(generation(&fixture), 2);
    assert_sound(&fixture).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_layers_at_once() {
    let mut fixture = Fixture::new().await;
    enrol(&fixture, 0..200).await;
    fixture
        .vault
        .add_hold(&id("s150"), &crate::ids::HoldName::parse("case").unwrap(), "why", CallerId([1; 16]))
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(3)).await;
    let forget = crate::vault::NewRotation::Deks { which: crate::vault::DeksOf::All, forget: true };
    let shreds: Vec<String> = (0..30).map(|n| format!("s{n}")).collect();
    let names: Vec<&str> = shreds.iter().map(String::as_str).collect();
    let puts = async {
        for n in 100..200 {
            fixture.put(&format!("s{n}"), &[("email", &email(1000 + n))]).await.unwrap();
        }
    };
    let (_, _, _, _, erasure, ()) = tokio::join!(
        fixture.rotate(Layer::Lookups),
        fixture.rotate(forget),
        fixture.rotate(Layer::Keks),
        fixture.rotate(Layer::Root),
        fixture.shred(&names),
        puts
    );
    assert_eq!(erasure.counts.r#final, 30);
    fixture.restart().await;
    for n in 30..200 {
        let value = if n < 100 { email(n) } else { email(1000 + n) };
        assert_eq!(fixture.look_up("email", &value).await, [format!("s{n}")]);
        assert_eq!(fixture.read(&format!("s{n}"), "email").await.unwrap(), value);
    }
    assert_sound(&fixture).await;
}
