//! A store that was damaged: what meets the damage, and what goes on beside it.

#![allow(clippy::unwrap_used)]

mod rows;

use std::time::Duration;

use super::tests::{Fixture, erasure_of, full, id, name};
use super::*;
use crate::store::Batch;
use crate::trie::{self, Kind, Op, Payload, Visit};

const EMAIL: (&str, &str) = ("email", r#""ada@example.org""#);

async fn lose_a_page_of_lookups(fixture: &Fixture) {
    let header = fixture.vault.session().unwrap().snapshot().header.clone();
    let mut lost = Vec::new();
    let mut note_lookups = |visit: Visit<'_>| {
        if let Visit::Page { kind: Kind::Lookups, row, .. } = visit {
            lost = row.to_vec();
        }
    };
    trie::walk(&fixture.vault.inner.pages, &header, &mut note_lookups).await.unwrap();
    fixture.store.commit(Batch { delete: vec![lost], ..Batch::default() }).await.unwrap();
}

fn email(n: usize) -> String {
    format!("\"user{n}@example.org\"")
}

#[tokio::test]
async fn damage_holds_up_nobody_else() {
    let mut fixture = Fixture::new().await;
    for n in 0..200 {
        fixture.put(&format!("s{n}"), &[(EMAIL.0, &email(n))]).await.unwrap();
    }
    // One page of the lookups is lost.
    lose_a_page_of_lookups(&fixture).await;
    fixture.restart().await;
    let report = fixture.vault.verify(&|_, _| ()).await.unwrap();
    assert!(report.problems.iter().any(|p| p.contains("missing")), "{:?}", report.problems);

    let rotation = fixture.vault.rotate(Layer::Keks, None, None).await.unwrap().made;
    for _ in 0..400 {
        if fixture.vault.rotation(rotation.id).await.unwrap().state == RotationState::Failed {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let failed = fixture.vault.rotation(rotation.id).await.unwrap();
    assert_eq!(failed.state, RotationState::Failed);
    assert!(failed.detail.unwrap().contains("damaged"));

    let (mut lost, mut whole) = (Vec::new(), Vec::new());
    for n in 0..200 {
        let found = fixture.vault.look_up(&full().reader, &name(EMAIL.0), &email(n), None, None, 100).await;
        if found.is_ok() { &mut whole } else { &mut lost }.push(id(&format!("s{n}")));
    }
    assert!(!lost.is_empty(), "the control: some are in the lost page");
    let other = whole.pop().unwrap();
    let some = whole.iter().take(18).chain(&lost[..1]).cloned().collect();
    let erasure = fixture.vault.shred(erasure_of(some), None).await.unwrap().made;
    for _ in 0..1000 {
        if fixture.vault.erasure(erasure.id).await.unwrap().counts.r#final >= 18 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let counts = fixture.vault.erasure(erasure.id).await.unwrap().counts;
    assert_eq!((counts.r#final, counts.refused), (18, 1), "who is not in the lost page is final, and who is waits");

    // With nothing but such ones left, what else needs a root batch gets it, and is not blamed for their damage.
    fixture.put(other.as_str(), &[("nickname", r#""x""#)]).await.unwrap();
    let nickname = name("nickname");
    let forgotten = fixture.vault.forget_field(&other, &nickname, None);
    tokio::time::timeout(Duration::from_secs(20), forgotten).await.expect("an answer").unwrap();
    assert_eq!(fixture.rotate(NewRotation::from(Layer::Root)).await.state, RotationState::Done);
}

#[tokio::test]
async fn damage_in_what_is_tidied_away_holds_up_no_shred() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[("email", r#""old@example.org""#)]).await.unwrap();
    fixture.put("b", &[("nickname", r#""x""#)]).await.unwrap();
    // The old entry is left to be tidied, and the one page of the lookups is lost.
    fixture.put("a", &[("email", r#""new@example.org""#)]).await.unwrap();
    lose_a_page_of_lookups(&fixture).await;
    fixture.vault.inner.pages.clear();
    assert_eq!(fixture.shred(&["b"]).await.counts.r#final, 1);
}

#[tokio::test]
async fn a_scrub_finds_damaged_metadata_and_a_lookup_entry_of_nobody() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[EMAIL]).await.unwrap();
    let patch = MetadataPatch { source: Some(Some("a form".into())), ..MetadataPatch::default() };
    fixture.vault.change_metadata(&id("a"), &name("email"), patch).await.unwrap();
    let problems = async || fixture.vault.verify(&|_, _| ()).await.unwrap().problems;
    assert_eq!(problems().await, [""; 0], "the control");

    let session = fixture.vault.session().unwrap();
    let entry = subject::lookup_entry([7; 16], &subject::directory_key(&session.snapshot().header, &id("nobody")));
    let stray = (Kind::Lookups, entry, Op::Insert(Payload::default()));
    session.commit(vec![writer::Write { edits: vec![stray], ..writer::Write::default() }]).await.unwrap();
    assert!(problems().await.iter().any(|told| told.contains("of no subject")), "{:?}", problems().await);

    let rows = fixture.store.scan(&[row::PREFIX], None, 10).await.unwrap();
    let (key, mut value) = rows.into_iter().next().unwrap();
    // The second item is the metadata: behind the row's head, the manifest and two lengths; its last byte is of its tag.
    let manifest = u32::from_be_bytes(value[11..15].try_into().unwrap()) as usize;
    let at = 15 + manifest;
    let metadata = u32::from_be_bytes(value[at..at + 4].try_into().unwrap()) as usize;
    value[at + 4 + metadata - 1] ^= 1;
    let batch = Batch { put: vec![(key, value)], ..Batch::default() };
    fixture.store.commit(batch).await.unwrap();
    assert!(problems().await.iter().any(|told| told.contains("metadata")), "{:?}", problems().await);
}
