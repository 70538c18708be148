//! Values whose time is over: unreadable at once, forgotten for good by the sweep, and only those.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::tests::{Fixture, id, name};
use super::*;
use crate::ids::{CallerId, HoldName};
use crate::policy::Rule;
use crate::schema::{Document, Schema};
use crate::time::Timestamp;

/// Has the vault keep a field's values for so long.
async fn keep(fixture: &Fixture, field: &str, time: &str) {
    let mut document: serde_json::Value = serde_json::from_str(&Schema::builtin().document().to_json()).unwrap();
    document["fields"][field]["retention"] = time.into();
    let document = Document::from_json(&document.to_string()).unwrap();
    fixture.vault.put_schema(document, None).await.unwrap();
}

async fn expire_soon(fixture: &Fixture, subject: &str, field: &str) {
    let soon = Timestamp(Timestamp::now().0 + 300);
    let patch = MetadataPatch { expires_at: Some(Some(soon)), ..MetadataPatch::default() };
    fixture.vault.change_metadata(&id(subject), &name(field), patch).await.unwrap();
}

async fn hold(fixture: &Fixture, subject: &str) {
    let case = HoldName::parse("case_1").unwrap();
    fixture.vault.add_hold(&id(subject), &case, "a lawsuit", CallerId([7; 16])).await.unwrap();
}

#[tokio::test]
async fn by_the_schema() {
    let mut fixture = Fixture::new().await;
    for n in 0..70 {
        fixture.put(&format!("s{n:02}"), &[("location", r#"{"lat": 1, "lon": 2}"#), ("name", r#""x""#)]).await.unwrap();
    }
    hold(&fixture, "s07").await;
    let nothing = fixture.vault.sweep_expired().await.unwrap();
    assert_eq!((nothing.subjects, nothing.forgotten), (0, 0), "no field has an end");
    keep(&fixture, "location", "1 hours").await;
    let nothing = fixture.vault.sweep_expired().await.unwrap();
    assert_eq!((nothing.subjects, nothing.forgotten), (70, 0), "the control: they have time yet");
    assert!(fixture.read("s00", "location").await.is_ok());

    keep(&fixture, "location", "1 seconds").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let refused = fixture.read("s00", "location").await;
    assert!(matches!(refused, Err(Error::Refused { rule: Rule::ValueExpired, .. })));
    let epoch = fixture.vault.status().epoch.unwrap();
    let swept = fixture.vault.sweep_expired().await.unwrap();
    assert_eq!((swept.subjects, swept.forgotten, swept.held, swept.failed), (70, 69, 1, 0));
    assert!(swept.finished_at >= swept.started_at);
    assert!(fixture.vault.status().epoch.unwrap() - epoch < 40, "many share a root batch");
    assert_eq!(fixture.vault.status().retention, swept);

    // What was swept does not come back when there is more time.
    keep(&fixture, "location", "1 hours").await;
    fixture.restart().await;
    assert!(matches!(fixture.read("s00", "location").await, Err(Error::NoSuchField)));
    assert!(fixture.read("s00", "name").await.is_ok(), "the neighbour in the same row stays");
    assert!(fixture.read("s07", "location").await.is_ok(), "held");
    assert_eq!(fixture.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn by_their_own_expiry() {
    let fixture = Fixture::new().await;
    for subject in ["a", "b", "c", "d"] {
        fixture.put(subject, &[("phone", r#""+971501238301""#), ("name", r#""x""#)]).await.unwrap();
    }
    for (subject, field) in [("a", "phone"), ("a", "name"), ("b", "phone"), ("d", "phone")] {
        expire_soon(&fixture, subject, field).await;
    }
    hold(&fixture, "d").await;
    tokio::time::sleep(Duration::from_millis(320)).await;
    assert_eq!(fixture.look_up("phone", r#""+971501238301""#).await, ["c"]);
    // Written anew before the sweep: the new value has no expiry.
    fixture.put("b", &[("phone", r#""+971501238302""#)]).await.unwrap();
    let swept = fixture.vault.sweep_expired().await.unwrap();
    assert_eq!((swept.forgotten, swept.held, swept.failed), (2, 1, 0));
    assert_eq!(fixture.vault.describe(&id("a")).await.unwrap().fields.len(), 0);
    assert!(fixture.read("b", "phone").await.is_ok());
    let swept = fixture.vault.sweep_expired().await.unwrap();
    assert_eq!((swept.forgotten, swept.held, swept.forgotten_in_all), (0, 1, 2));
    let query = MetadataQuery::ExpiresBefore(Timestamp::now());
    let left = fixture.vault.search_metadata(&query, None, 10).await.unwrap().values;
    assert_eq!(left.iter().map(|found| found.subject.as_str()).collect::<Vec<_>>(), ["d"]);
}

#[tokio::test]
async fn by_itself_and_not_at_rest() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[("name", r#""x""#)]).await.unwrap();
    expire_soon(&fixture, "a", "name").await;
    fixture.vault.close().await.unwrap();
    let slots = [super::tests::slot(&fixture.dir).into()];
    let options = VaultOptions { sweep_seconds: 1, ..VaultOptions::default() };
    let vault = Vault::open(fixture.store.clone(), &slots, options).await.unwrap();
    let unlock = || crate::root::Unlock::KeyFile(fixture.key.duplicate());
    vault.unlock_at_rest(unlock()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(vault.status().retention, RetentionStatus::default());
    vault.lock().await.unwrap();
    vault.unlock(unlock()).await.unwrap();
    for _ in 0..400 {
        if vault.status().retention.forgotten_in_all == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(vault.describe(&id("a")).await.unwrap().fields.len(), 0);
    vault.close().await.unwrap();
    assert!(matches!(vault.sweep_expired().await, Err(Error::Locked)));
}

#[tokio::test]
async fn a_value_that_has_time_by_the_schema_in_force_is_not_forgotten_as_expired() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[("location", r#"{"lat": 1, "lon": 2}"#), ("name", r#""x""#)]).await.unwrap();
    keep(&fixture, "location", "1 seconds").await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let now = Some(Timestamp::now());
    let options = PutOptions { final_: true, if_match: Some(1), expired_at: now, ..PutOptions::default() };
    let forget =
        async |field: &str| fixture.vault.put_fields(&id("a"), super::tests::changes(&[(field, "")]), &options).await;
    // As when the sweep saw another field under this name, or the schema gave more time since.
    assert!(matches!(forget("name").await, Err(Error::PreconditionFailed)));
    keep(&fixture, "location", "1 hours").await;
    assert!(matches!(forget("location").await, Err(Error::PreconditionFailed)));
    assert!(fixture.read("a", "name").await.is_ok() && fixture.read("a", "location").await.is_ok());
    keep(&fixture, "location", "1 seconds").await;
    forget("location").await.unwrap();
    assert!(matches!(fixture.read("a", "location").await, Err(Error::NoSuchField)), "the control");
}

#[tokio::test]
async fn all_that_expired_of_a_subject_goes_in_one_root_batch() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[("name", r#""x""#), ("nickname", r#""x""#), ("email", r#""a@example.org""#)]).await.unwrap();
    for field in ["name", "nickname", "email"] {
        expire_soon(&fixture, "a", field).await;
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    let epoch = fixture.vault.status().epoch.unwrap();
    assert_eq!(fixture.vault.sweep_expired().await.unwrap().forgotten, 3);
    assert_eq!(fixture.vault.status().epoch.unwrap(), epoch + 1);
    assert!(fixture.vault.describe(&id("a")).await.unwrap().fields.is_empty());
}
