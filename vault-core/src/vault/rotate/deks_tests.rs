//! Rotation of data keys on the memory engine: what it renews, what it keeps, and what comes between.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use super::deks;
use super::walk::{self, Task};
use crate::error::Error;
use crate::ids::Compartment;
use crate::store::{Batch, Fault, MemoryStore, Store};
use crate::time::Timestamp;
use crate::vault::records::{DirectoryEntry, SubjectRecord};
use crate::vault::row::{self, Row, RowPlace};
use crate::vault::tests::{Fixture, changes, id, name};
use crate::vault::{DeksOf, Layer, NewRotation, PutOptions, RotationState, subject};

fn all(forget: bool) -> NewRotation {
    NewRotation::Deks { which: DeksOf::All, forget }
}

fn long(n: u32) -> String {
    format!(r#""{}{n}""#, "Long Street ".repeat(600))
}

fn email(n: u32) -> String {
    format!(r#""user{n}@example.org""#)
}

async fn enrol(fixture: &Fixture, subjects: std::ops::Range<u32>) {
    let item = |n| (id(&format!("s{n}")), changes(&[("email", &email(n))]), PutOptions::default());
    for outcome in fixture.vault.write_batch(subjects.map(item).collect()).await {
        outcome.unwrap();
    }
    a_moment().await;
}

/// Lets keys become older than the next rotation: one of the same millisecond is not.
async fn a_moment() {
    tokio::time::sleep(std::time::Duration::from_millis(3)).await;
}

async fn record(fixture: &Fixture, text: &str) -> SubjectRecord {
    let header = fixture.vault.session().unwrap().snapshot().header.clone();
    let found = subject::find(&fixture.vault.inner, &header, &id(text)).await.unwrap();
    let Some(DirectoryEntry::Subject(record)) = found.entry else { panic!("{text} is not there") };
    record
}

async fn version(fixture: &Fixture, text: &str) -> u32 {
    let record = record(fixture, text).await;
    let versions: Vec<u32> = record.compartments.iter().map(|keys| keys.dek_version).collect();
    assert!(versions.windows(2).all(|pair| pair[0] == pair[1]), "{versions:?}");
    versions[0]
}

async fn assert_sound(fixture: &Fixture) {
    assert_eq!(fixture.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn renews_every_compartment_and_keeps_what_it_held() {
    for forget in [false, true] {
        let mut fixture = Fixture::apart_on(Arc::new(MemoryStore::new())).await;
        enrol(&fixture, 0..150).await;
        let large = long(7);
        fixture.put("s7", &[("home_address", &large), ("interests", r#"["chess"]"#)]).await.unwrap();
        let purpose = crate::ids::Purpose::parse("marketing").unwrap();
        let by = crate::ids::CallerId([7; 16]);
        fixture.vault.give_consent(&id("s7"), &purpose, "v1", "a form", by).await.unwrap();
        let before = fixture.vault.describe(&id("s7")).await.unwrap();
        assert_eq!(record(&fixture, "s7").await.compartments.len(), 3, "profile, marketing and system");
        a_moment().await;

        let done = fixture.rotate(all(forget)).await;
        assert_eq!((done.done, done.total, done.layer), (150, 150, Layer::Deks));
        fixture.restart().await;
        for n in [0, 7, 149] {
            assert_eq!(version(&fixture, &format!("s{n}")).await, 2);
            assert_eq!(fixture.read(&format!("s{n}"), "email").await.unwrap(), email(n));
            assert_eq!(fixture.look_up("email", &email(n)).await, [format!("s{n}")]);
        }
        assert_eq!(fixture.read("s7", "home_address").await.unwrap(), large);
        assert_eq!(fixture.read("s7", "interests").await.unwrap(), r#"["chess"]"#);
        assert_eq!(fixture.vault.consents(&id("s7")).await.unwrap().len(), 1);
        let after = fixture.vault.describe(&id("s7")).await.unwrap();
        let stamps = |d: &crate::vault::Description| -> Vec<_> {
            d.fields.iter().map(|(f, _)| (f.name.clone(), f.version, f.updated_at)).collect()
        };
        assert_eq!(stamps(&before), stamps(&after), "a rotation is no change of a value");
        assert!(fixture.vault.keys().await.unwrap().of(Layer::Deks).unwrap().last.is_some());
        assert_sound(&fixture).await;
    }
}

#[tokio::test]
async fn takes_the_old_ones_or_the_chosen_ones() {
    let fixture = Fixture::new().await;
    enrol(&fixture, 0..10).await;
    let older = |seconds| NewRotation::Deks { which: DeksOf::OlderThan(seconds), forget: false };
    fixture.rotate(older(3600)).await;
    assert_eq!(version(&fixture, "s3").await, 1, "none is an hour old");
    a_moment().await;
    fixture.rotate(older(0)).await;
    assert_eq!(version(&fixture, "s3").await, 2);

    a_moment().await;
    let chosen = |subjects: &[&str]| {
        let subjects = subjects.iter().map(|subject| id(subject)).collect();
        NewRotation::Deks { which: DeksOf::Subjects(subjects), forget: false }
    };
    let mistyped = fixture.vault.rotate(chosen(&["s7", "nobody"]), None, None).await;
    assert!(matches!(mistyped, Err(Error::UnknownSubject)), "else it would seem done");
    let done = fixture.rotate(chosen(&["s7", "s3", "s7"])).await;
    assert_eq!((done.done, done.total), (2, 2), "each once");
    let versions = [version(&fixture, "s3").await, version(&fixture, "s7").await, version(&fixture, "s4").await];
    assert_eq!(versions, [3, 3, 2]);
    for wrong in [vec![], (0..257).map(|n| id(&format!("s{n}"))).collect()] {
        let asked = NewRotation::Deks { which: DeksOf::Subjects(wrong), forget: false };
        let refused = fixture.vault.rotate(asked, None, None).await;
        assert!(matches!(refused, Err(Error::Invalid { field: "subjects", .. })));
    }
    assert_sound(&fixture).await;
}

/// The value of a subject's first row as it lies in the store.
async fn stored(fixture: &Fixture, text: &str) -> Vec<u8> {
    let record = record(fixture, text).await;
    let key = record.row_place(&record.compartments[0]).key();
    fixture.store.get(&key).await.unwrap().unwrap()
}

/// Opens a row of an old data plane with the older key that the chain leads to.
async fn opens(fixture: &Fixture, text: &str, value: &[u8], version: u32) -> bool {
    let record = record(fixture, text).await;
    let keys = &record.compartments[0];
    let header = fixture.vault.session().unwrap().snapshot().header.clone();
    let directory = subject::directory_key(&header, &id(text));
    let old = deks::open_old(&fixture.vault.inner, &header, &directory, &record, keys, version).await.unwrap();
    let Some(dek) = old else { return false };
    let place = RowPlace { dek: &dek, dek_version: version, ..record.row_place(keys) };
    let row = Row::open(value, &place).unwrap();
    row.open_field(&name("email"), &place, None).is_ok()
}

#[tokio::test]
async fn an_old_data_plane_opens_until_the_old_keys_are_forgotten() {
    let fixture = Fixture::new().await;
    enrol(&fixture, 0..3).await;
    let mut planes = Vec::new();
    for version in 1..=4 {
        planes.push((version, stored(&fixture, "s1").await));
        a_moment().await;
        fixture.rotate(all(false)).await;
    }
    for (version, value) in &planes {
        assert!(opens(&fixture, "s1", value, *version).await, "version {version}");
    }
    assert!(!opens(&fixture, "s1", &planes[0].1, 9).await, "there was no such version");
    assert_sound(&fixture).await;
    // A field that is forgotten takes the chain along, and so does a rotation that forgets.
    fixture.vault.forget_field(&id("s1"), &name("phone"), None).await.unwrap();
    assert!(!opens(&fixture, "s1", &planes[3].1, 4).await);
    assert!(opens(&fixture, "s2", &stored(&fixture, "s2").await, 5).await, "the control: another subject's is there");
    a_moment().await;
    fixture.rotate(all(true)).await;
    for (version, value) in &planes {
        assert!(!opens(&fixture, "s2", value, *version).await, "version {version}");
    }
    assert_eq!(version(&fixture, "s2").await, 6);
    assert_sound(&fixture).await;
}

#[tokio::test]
async fn a_chain_is_bounded_and_goes_with_its_subject() {
    let fixture = Fixture::new().await;
    enrol(&fixture, 0..2).await;
    let header = || fixture.vault.session().unwrap().snapshot().header.clone();
    let directory = subject::directory_key(&header(), &id("s1"));
    for _ in 0..35 {
        a_moment().await;
        fixture.rotate(all(false)).await;
    }
    let kept = async || deks::kept_versions(&fixture.vault.inner, &header(), &directory, 1).await.unwrap();
    assert_eq!(kept().await, (4..=35).collect::<Vec<_>>());
    fixture.shred(&["s1"]).await;
    assert_eq!(kept().await, [0; 0]);
    assert_sound(&fixture).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_beside_writes_reads_shreds_and_other_rotations() {
    for forget in [false, true] {
        let mut fixture = Fixture::new().await;
        enrol(&fixture, 0..300).await;
        let shredded: Vec<String> = (0..50).map(|n| format!("s{n}")).collect();
        let names: Vec<&str> = shredded.iter().map(String::as_str).collect();
        let writes = async {
            for round in 0..2 {
                for n in 50..300 {
                    let (subject, nickname) = (format!("s{n}"), format!(r#""round {round}""#));
                    fixture.put(&subject, &[("nickname", &nickname)]).await.unwrap();
                    assert_eq!(fixture.read(&subject, "email").await.unwrap(), email(n));
                    assert_eq!(fixture.read(&subject, "nickname").await.unwrap(), nickname);
                }
            }
        };
        let removals = async {
            for n in 290..300 {
                fixture.vault.forget_field(&id(&format!("s{n}")), &name("phone"), None).await.unwrap();
            }
        };
        let (done, keks, erasure, (), ()) = tokio::join!(
            fixture.rotate(all(forget)),
            fixture.rotate(Layer::Keks),
            fixture.shred(&names),
            writes,
            removals
        );
        assert!(done.done >= 250 && keks.done > 0);
        assert_eq!(erasure.counts.r#final, 50);
        fixture.restart().await;
        for n in 50..300 {
            let renewed = version(&fixture, &format!("s{n}")).await;
            assert!(renewed >= 2, "s{n} is at {renewed}");
            assert_eq!(fixture.read(&format!("s{n}"), "nickname").await.unwrap(), r#""round 1""#);
        }
        assert!(matches!(fixture.read("s7", "email").await, Err(Error::Shredded)));
        assert_sound(&fixture).await;
    }
}

/// The engine fails at every commit of a rotation in turn, having written it or not.
#[tokio::test]
async fn goes_on_after_a_kill_at_every_commit() {
    for forget in [false, true] {
        for fault in [Fault::InDoubtLanded, Fault::InDoubtLost] {
            let (mut commits, mut ended_early) = (0, 0);
            while ended_early < 2 {
                let mut fixture = Fixture::new().await;
                enrol(&fixture, 0..520).await;
                a_moment().await;
                let rotation = fixture.vault.rotate(all(forget), None, None).await.unwrap().made;
                fixture.store.fail_commit_after(commits, fault);
                // Until it ends, or the engine does.
                let end = loop {
                    match fixture.vault.rotation(rotation.id).await {
                        Ok(now) if now.finished_at.is_none() => {
                            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                        }
                        end => break end,
                    }
                };
                ended_early += usize::from(end.is_ok());
                fixture.store.fail_commit_after(usize::MAX, fault);
                fixture.restart().await;
                let done = fixture.ended(rotation.id).await;
                assert_eq!(done.state, RotationState::Done, "{:?}", done.detail);
                for n in 0..520 {
                    // Once, however often a step was repeated.
                    assert_eq!(version(&fixture, &format!("s{n}")).await, 2, "after {commits} commits");
                    assert_eq!(fixture.read(&format!("s{n}"), "email").await.unwrap(), email(n));
                }
                assert_sound(&fixture).await;
                commits += 1;
            }
            assert!(commits > 5, "it takes more commits than {commits}");
        }
    }
}

#[tokio::test]
async fn a_row_that_does_not_open_holds_up_no_other() {
    for forget in [false, true] {
        let fixture = Fixture::new().await;
        enrol(&fixture, 0..100).await;
        let broken = record(&fixture, "s42").await;
        let key = broken.row_place(&broken.compartments[0]).key();
        let mut value = fixture.store.get(&key).await.unwrap().unwrap();
        let at = value.len() - 1;
        value[at] ^= 1;
        fixture.store.commit(Batch { put: vec![(key, value)], ..Batch::default() }).await.unwrap();
        a_moment().await;
        let rotation = fixture.vault.rotate(all(forget), None, None).await.unwrap().made;
        let failed = fixture.ended(rotation.id).await;
        assert_eq!(failed.state, RotationState::Failed);
        assert!(failed.detail.unwrap().starts_with("1 data rows do not open"));
        assert_eq!(version(&fixture, "s42").await, 1);
        for n in (0..100).filter(|n| *n != 42) {
            assert_eq!(version(&fixture, &format!("s{n}")).await, 2);
        }
    }
}

#[tokio::test]
async fn is_throttled_paused_resumed_and_cancelled() {
    let mut fixture = Fixture::new().await;
    enrol(&fixture, 0..200).await;
    let begun = fixture.vault.rotate(Layer::Deks, Some(20), None).await.unwrap().made;
    let again = fixture.vault.rotate(Layer::Deks, None, None).await;
    assert!(matches!(again, Err(Error::Conflict(_))), "one of a layer at a time");
    let paused = fixture.vault.change_rotation(begun.id, Some(RotationState::Paused), None).await.unwrap();
    assert!(paused.done <= 40, "20 subjects a second: {}", paused.done);
    fixture.restart().await;
    let at_rest = fixture.vault.rotation(begun.id).await.unwrap();
    assert_eq!((at_rest.state, at_rest.done), (RotationState::Paused, paused.done));
    fixture.vault.change_rotation(begun.id, Some(RotationState::Running), Some(1_000_000)).await.unwrap();
    assert_eq!(fixture.ended(begun.id).await.state, RotationState::Done);
    let begun = fixture.vault.rotate(Layer::Deks, Some(1), None).await.unwrap().made;
    fixture.vault.change_rotation(begun.id, Some(RotationState::Cancelled), None).await.unwrap();
    assert_eq!(fixture.vault.rotation(begun.id).await.unwrap().state, RotationState::Cancelled);
    fixture.restart().await;
    fixture.rotate(Layer::Deks).await;
    assert_sound(&fixture).await;
}

#[tokio::test]
async fn a_shred_between_reading_and_writing_wins() {
    let fixture = Fixture::new().await;
    enrol(&fixture, 0..3).await;
    let session = fixture.vault.session().unwrap();
    let (inner, began) = (&fixture.vault.inner, Timestamp::now().plus_seconds(1));
    let work = crate::vault::records::DeksWork {
        which: crate::vault::records::WhichDeks::All,
        forget: false,
        at: crate::vault::records::Walk::After(None),
        damaged: 0,
    };
    let task = Task::Renew(&work, began);
    let step = walk::prepare(inner, &session, &(task, work.at), 64).await.unwrap();
    fixture.shred(&["s1"]).await;
    fixture.put("s2", &[("email", r#""later@example.org""#)]).await.unwrap();
    let reached = walk::carry_out(&session, inner, step, &Task::Renew(&work, began)).await.unwrap();
    assert!(!reached.missed && reached.at == crate::vault::records::Walk::End);
    assert!(matches!(fixture.read("s1", "email").await, Err(Error::Shredded)));
    assert_eq!(fixture.read("s2", "email").await.unwrap(), r#""later@example.org""#);
    assert_eq!((version(&fixture, "s0").await, version(&fixture, "s2").await), (2, 2));
    let rows = fixture.store.scan(&[row::PREFIX], Some(&[row::PREFIX + 1]), 10).await.unwrap();
    assert_eq!(rows.len(), 2, "no row of the shredded subject came back");
    assert_sound(&fixture).await;
    assert_eq!(record(&fixture, "s0").await.compartments[0].name, Compartment::profile());
}
