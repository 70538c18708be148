//! Metadata on the memory engine: changed, obeyed by reads, found the other way round, and gone after a shred.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use super::super::tests::{Fixture, changes, id, name, reading};
use super::super::{Layer, PutOptions, Vault};
use super::*;
use crate::policy::Rule;
use crate::schema::View;
use crate::trie::{self, EntryKey, Kind};

fn purpose(text: &str) -> Purpose {
    Purpose::parse(text).unwrap()
}

fn purposes(texts: &[&str]) -> Vec<Purpose> {
    texts.iter().map(|text| purpose(text)).collect()
}

fn from(source: &str) -> MetadataPatch {
    MetadataPatch { source: Some(Some(source.to_owned())), ..MetadataPatch::default() }
}

fn objecting(objections: &[&str]) -> MetadataPatch {
    MetadataPatch { objections: Some(purposes(objections)), ..MetadataPatch::default() }
}

fn in_days(days: u64) -> Timestamp {
    Timestamp::now().plus_seconds(days * 24 * 3600)
}

async fn change(fixture: &Fixture, subject: &str, field: &str, patch: MetadataPatch) -> Result<Metadata, Error> {
    fixture.vault.change_metadata(&id(subject), &name(field), patch).await
}

/// All pages of a search, `subject/field` each, sorted.
async fn found(vault: &Vault, query: &MetadataQuery, limit: usize) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = vault.search_metadata(query, after.as_deref(), limit).await.unwrap();
        all.extend(page.values.iter().map(|found| format!("{}/{}", found.subject.as_str(), found.field)));
        let Some(next) = page.next else { break };
        after = Some(next);
    }
    all.sort();
    all
}

/// The keys of all lookup entries, dead ones too.
async fn entries(vault: &Vault) -> Vec<EntryKey> {
    let header = vault.session().unwrap().snapshot().header.clone();
    let all = trie::scan(&vault.inner.pages, &header, Kind::Lookups, &[], None, 100_000).await.unwrap();
    all.into_iter().map(|(key, _)| key).collect()
}

const FIELDS: &[(&str, &str)] = &[("email", r#""a@example.org""#), ("name", r#""Ada""#)];

#[tokio::test]
async fn is_changed_read_and_cleared_and_outlives_overwriting() {
    let mut fixture = Fixture::new().await;
    fixture.put("a", FIELDS).await.unwrap();
    assert_eq!(fixture.vault.metadata(&id("a"), &name("email")).await.unwrap(), Metadata::default());
    let all = MetadataPatch {
        source: Some(Some("campaign-7".to_owned())),
        purposes: Some(Some(purposes(&["marketing", "support", "marketing"]))),
        objections: Some(purposes(&["security"])),
        recipients: Some(vec!["courier".to_owned()]),
        automated: Some(Some(false)),
        expires_at: Some(Some(in_days(30))),
    };
    let expected = Metadata {
        source: Some("campaign-7".to_owned()),
        purposes: Some(purposes(&["marketing", "support"])),
        objections: purposes(&["security"]),
        recipients: vec!["courier".to_owned()],
        automated: Some(false),
        expires_at: all.expires_at.flatten(),
    };
    assert_eq!(change(&fixture, "a", "email", all).await.unwrap(), expected);
    fixture.put("a", &[("email", r#""b@example.org""#)]).await.unwrap();
    fixture.restart().await;
    assert_eq!(fixture.vault.metadata(&id("a"), &name("email")).await.unwrap(), expected);
    assert_eq!(fixture.vault.metadata(&id("a"), &name("name")).await.unwrap(), Metadata::default());
    assert_eq!(
        fixture.read("a", "email").await.unwrap_err().to_string(),
        "refused by policy (rule value_not_for_purpose)"
    );

    let cleared = MetadataPatch { purposes: Some(None), recipients: Some(Vec::new()), ..MetadataPatch::default() };
    let after = change(&fixture, "a", "email", cleared).await.unwrap();
    assert_eq!((after.purposes, after.recipients.len(), after.automated), (None, 0, Some(false)));
    assert_eq!(fixture.read("a", "email").await.unwrap(), r#""b@example.org""#);
    fixture.put("a", &[("email", "")]).await.unwrap();
    assert!(matches!(fixture.vault.metadata(&id("a"), &name("email")).await, Err(Error::NoSuchField)));
    fixture.put("a", &[("email", r#""b@example.org""#)]).await.unwrap();
    assert_eq!(fixture.vault.metadata(&id("a"), &name("email")).await.unwrap(), Metadata::default());
    assert_eq!(fixture.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn what_is_out_of_bounds_changes_nothing() {
    let fixture = Fixture::new().await;
    fixture.put("a", FIELDS).await.unwrap();
    let many = |n: usize| (0..n).map(|i| format!("r{i}")).collect::<Vec<_>>();
    let base = MetadataPatch::default();
    for (field, patch) in [
        ("source", from("")),
        ("source", from("two\nlines")),
        ("source", from(&"s".repeat(129))),
        ("recipients", MetadataPatch { recipients: Some(many(33)), ..base.clone() }),
        ("recipients", MetadataPatch { recipients: Some(vec![String::new()]), ..base.clone() }),
        ("purposes", MetadataPatch { purposes: Some(Some(purposes(&["curiosity"]))), ..base.clone() }),
        ("objections", objecting(&["curiosity"])),
        ("expires_at", MetadataPatch { expires_at: Some(Some(Timestamp(5))), ..base.clone() }),
    ] {
        let refused = change(&fixture, "a", "email", patch).await;
        assert!(matches!(refused, Err(Error::Invalid { field: told, .. }) if told == field), "{field}");
    }
    assert!(matches!(change(&fixture, "b", "email", from("x")).await, Err(Error::UnknownSubject)));
    assert!(matches!(change(&fixture, "a", "phone", from("x")).await, Err(Error::NoSuchField)));
    assert!(matches!(change(&fixture, "a", "shoes", from("x")).await, Err(Error::Schema(_))));
    assert_eq!(fixture.vault.metadata(&id("a"), &name("email")).await.unwrap(), Metadata::default());
    assert_eq!(entries(&fixture.vault).await.len(), 1, "only the e-mail address itself");
}

#[tokio::test]
async fn an_objection_bites_at_the_next_read_and_is_found() {
    let fixture = Fixture::new().await;
    for subject in ["a", "b"] {
        fixture.put(subject, FIELDS).await.unwrap();
    }
    let read = async || {
        let request = reading(View::Full, Some("marketing"));
        fixture.vault.read_fields(&id("a"), Some(&[name("email")]), &request).await
    };
    assert!(read().await.is_ok(), "the control");
    change(&fixture, "a", "email", objecting(&["marketing"])).await.unwrap();
    assert!(matches!(read().await, Err(Error::Refused { rule: Rule::Objection, .. })));
    let objecting_to = MetadataQuery::Objection(purpose("marketing"));
    assert_eq!(found(&fixture.vault, &objecting_to, 10).await, ["a/email"]);
    let usable = MetadataQuery::UsableFor(purpose("marketing"));
    assert_eq!(found(&fixture.vault, &usable, 10).await, ["a/name", "b/email", "b/name"]);
    change(&fixture, "a", "email", objecting(&[])).await.unwrap();
    assert!(read().await.is_ok());
    assert_eq!(found(&fixture.vault, &objecting_to, 10).await, [""; 0], "before anything was tidied");
    fixture.rotate(Layer::Root).await;
    assert_eq!(found(&fixture.vault, &objecting_to, 10).await, [""; 0]);
    assert_eq!(found(&fixture.vault, &usable, 2).await.len(), 4);
    change(&fixture, "a", "email", objecting(&["marketing"])).await.unwrap();
    assert_eq!(found(&fixture.vault, &objecting_to, 10).await, ["a/email"], "and back again");
}

/// Whether by its entry or by a walk: what the policy lets the purpose see, each once, whatever the page.
#[tokio::test]
async fn what_a_purpose_may_use_is_found_whether_it_is_named_or_not() {
    let fixture = Fixture::new().await;
    let given =
        [None, Some(vec!["marketing"]), Some(vec!["support"]), Some(vec!["marketing", "support"]), Some(vec![])];
    let (mut expected, mut objects) = (Vec::new(), 0);
    for (n, purposes_of) in (0..20).zip(given.iter().cycle()) {
        let subject = format!("s{n:02}");
        fixture.put(&subject, FIELDS).await.unwrap();
        let objections = if n % 3 == 0 { purposes(&["marketing"]) } else { Vec::new() };
        objects += usize::from(!objections.is_empty());
        let patch = MetadataPatch {
            purposes: purposes_of.as_ref().map(|names| Some(purposes(names))),
            objections: Some(objections),
            ..MetadataPatch::default()
        };
        change(&fixture, &subject, "email", patch).await.unwrap();
        let request = reading(View::Full, Some("marketing"));
        let read = fixture.vault.read_fields(&id(&subject), Some(&[name("email")]), &request).await;
        expected.extend(read.is_ok().then(|| format!("{subject}/email")));
        expected.push(format!("{subject}/name"));
    }
    assert!(expected.len() > 22 && objects > 3, "{expected:?}");
    expected.sort();
    let query = MetadataQuery::UsableFor(purpose("marketing"));
    for limit in [1, 3, 1000] {
        let mut values = found(&fixture.vault, &query, limit).await;
        values.sort();
        assert_eq!(values, expected, "{limit}");
    }
    fixture.rotate(Layer::Lookups).await;
    let mut values = found(&fixture.vault, &query, 5).await;
    values.sort();
    assert_eq!(values, expected, "after a rotation of what it is found by");
}

#[tokio::test]
async fn is_found_by_everything_it_says_in_pages() {
    let fixture = Fixture::new().await;
    let all: Vec<String> = (0..23).map(|n| format!("s{n:02}")).collect();
    for (n, subject) in all.iter().enumerate() {
        fixture.put(subject, FIELDS).await.unwrap();
        let patch = MetadataPatch {
            source: Some(Some(format!("campaign-{}", n % 2))),
            purposes: Some(Some(purposes(&["marketing"]))),
            recipients: Some(vec!["courier".to_owned(), "printer".to_owned()]),
            expires_at: Some(Some(in_days(1 + n as u64))),
            ..MetadataPatch::default()
        };
        change(&fixture, subject, "email", patch.clone()).await.unwrap();
        change(&fixture, subject, "name", patch).await.unwrap();
    }
    for (query, expected) in [
        (MetadataQuery::Source("campaign-0".to_owned()), 24),
        (MetadataQuery::Source("campaign-1".to_owned()), 22),
        (MetadataQuery::Source("campaign".to_owned()), 0),
        (MetadataQuery::Purpose(purpose("marketing")), 46),
        (MetadataQuery::Purpose(purpose("support")), 0),
        (MetadataQuery::Recipient("printer".to_owned()), 46),
        (MetadataQuery::UsableFor(purpose("marketing")), 46),
        (MetadataQuery::UsableFor(purpose("account")), 0),
        (MetadataQuery::ExpiresBefore(in_days(1)), 2),
        (MetadataQuery::ExpiresBefore(in_days(5)), 10),
        (MetadataQuery::ExpiresBefore(in_days(3000)), 46),
        (MetadataQuery::ExpiresBefore(Timestamp::now()), 0),
    ] {
        for limit in [7, 1000] {
            let mut values = found(&fixture.vault, &query, limit).await;
            assert_eq!(values.len(), expected, "{query:?}");
            values.dedup();
            assert_eq!(values.len(), expected, "each once");
        }
    }
    let far = MetadataQuery::ExpiresBefore(in_days(4000));
    assert!(matches!(fixture.vault.search_metadata(&far, None, 1).await, Err(Error::Invalid { .. })));
    let undeclared = MetadataQuery::UsableFor(purpose("curiosity"));
    assert!(matches!(fixture.vault.search_metadata(&undeclared, None, 1).await, Err(Error::Invalid { .. })));
    let source = MetadataQuery::Source("campaign-0".to_owned());
    for after in ["", "xyz", &"f".repeat(43), &"f".repeat(46)] {
        let page = fixture.vault.search_metadata(&source, Some(after), 1).await;
        assert!(matches!(page, Err(Error::Invalid { field: "after", .. })), "{after}");
    }
    let behind = fixture.vault.search_metadata(&source, Some(&"f".repeat(44)), 1).await.unwrap();
    assert_eq!((behind.values.len(), behind.next), (0, None));
}

#[tokio::test]
async fn nothing_is_left_after_a_shred() {
    let fixture = Fixture::new().await;
    fixture.put("a", FIELDS).await.unwrap();
    fixture.put("b", &[("name", r#""Bob""#)]).await.unwrap();
    change(&fixture, "b", "name", from("campaign-7")).await.unwrap();
    let kept = entries(&fixture.vault).await.len() - 1;
    let patch = MetadataPatch {
        source: Some(Some("campaign-7".to_owned())),
        purposes: Some(Some(purposes(&["marketing"]))),
        objections: Some(purposes(&["support"])),
        recipients: Some(vec!["courier".to_owned()]),
        expires_at: Some(Some(in_days(9))),
        automated: None,
    };
    change(&fixture, "a", "email", patch).await.unwrap();
    // Left behind, not live any more: the shred takes it too.
    change(&fixture, "a", "email", from("campaign-8")).await.unwrap();
    assert_eq!(entries(&fixture.vault).await.len(), kept + 1 + 6, "the control: they are there");
    fixture.shred(&["a"]).await;
    assert_eq!(entries(&fixture.vault).await.len(), kept);
    let source = MetadataQuery::Source("campaign-7".to_owned());
    assert_eq!(found(&fixture.vault, &source, 10).await, ["b/name"]);
    assert!(matches!(fixture.vault.metadata(&id("a"), &name("email")).await, Err(Error::Shredded)));
    fixture.vault.forget_field(&id("b"), &name("name"), None).await.unwrap();
    assert_eq!(entries(&fixture.vault).await.len(), 0, "a forgotten field takes its own along");
    assert_eq!(fixture.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn a_subject_is_found_by_a_bounded_number_of_things_and_can_always_be_shredded() {
    let fixture = Fixture::new().await;
    let fields = ["name", "nickname", "email", "birth_date", "ip_address"];
    let values = [r#""x""#, r#""x""#, r#""a@example.org""#, r#""1990-02-03""#, r#""192.0.2.1""#];
    let puts: Vec<(&str, &str)> = fields.into_iter().zip(values).collect();
    fixture.put("a", &puts).await.unwrap();
    let full = |round: usize, n: usize| MetadataPatch {
        recipients: Some((0..n).map(|i| format!("recipient {round} {i}")).collect()),
        ..MetadataPatch::default()
    };
    // Again and again others: what ended is removed in a root batch when it gets too much.
    for round in 0..12 {
        for field in &fields[..3] {
            change(&fixture, "a", field, full(round, 32)).await.unwrap();
        }
    }
    let mut refused = 0;
    for field in &fields[3..] {
        match change(&fixture, "a", field, full(0, 32)).await {
            Ok(_) => {}
            Err(Error::Invalid { field: "metadata", .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 0, "there is a bound");
    assert!(change(&fixture, "a", "birth_date", full(0, 20)).await.is_ok(), "and room below it");
    for n in 0..40 {
        fixture.put("a", &[("email", &format!("\"a{n}@example.org\""))]).await.unwrap();
    }
    assert_eq!(fixture.shred(&["a"]).await.counts.r#final, 1);
    assert_eq!(entries(&fixture.vault).await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_change_for_all_who_came_from_a_campaign() {
    let fixture = Fixture::new().await;
    let subjects: Vec<String> = (0..1100).map(|n| format!("s{n:04}")).collect();
    let items = subjects.iter().map(|subject| (id(subject), changes(FIELDS), PutOptions::default())).collect();
    assert!(fixture.vault.write_batch(items).await.iter().all(Result::is_ok));
    let campaign = |n: usize| if n < 1000 { "campaign-7" } else { "campaign-8" };
    for (n, subject) in subjects.iter().enumerate() {
        change(&fixture, subject, "email", from(campaign(n))).await.unwrap();
    }
    change(&fixture, "s0000", "name", from("campaign-7")).await.unwrap();

    let query = MetadataQuery::Source("campaign-7".to_owned());
    let objections = MetadataLists { objections: purposes(&["marketing"]), ..MetadataLists::default() };
    let edit = MetadataEdit { add: objections.clone(), ..MetadataEdit::default() };
    let busy = fixture.vault.clone();
    let beside = tokio::spawn(async move {
        for n in 0..100 {
            let put = changes(&[("nickname", &format!("\"n{n}\""))]);
            busy.put_fields(&id("s0500"), put, &PutOptions::default()).await.unwrap();
        }
    });
    let applied = fixture.vault.apply_metadata(query.clone(), edit.clone()).await.unwrap();
    beside.await.unwrap();
    assert_eq!(applied, Applied { matched: 1001, changed: 1001, refused: 0 });
    let objecting_to = MetadataQuery::Objection(purpose("marketing"));
    let values = found(&fixture.vault, &objecting_to, 300).await;
    assert_eq!(values.len(), 1001);
    assert!(values.contains(&"s0999/email".to_owned()) && !values.contains(&"s1000/email".to_owned()));
    let again = fixture.vault.apply_metadata(query.clone(), edit).await.unwrap();
    assert_eq!(again, Applied { matched: 1001, changed: 0, refused: 0 });

    let back = MetadataEdit { remove: objections, ..MetadataEdit::default() };
    assert_eq!(fixture.vault.apply_metadata(objecting_to.clone(), back).await.unwrap().changed, 1001);
    assert_eq!(found(&fixture.vault, &objecting_to, 300).await.len(), 0);
    assert_eq!(fixture.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn a_purpose_is_taken_from_what_may_be_used_for_anything() {
    let fixture = Fixture::new().await;
    for subject in ["a", "b"] {
        fixture.put(subject, FIELDS).await.unwrap();
    }
    let lists = || MetadataLists { purposes: purposes(&["marketing"]), ..MetadataLists::default() };
    let query = MetadataQuery::UsableFor(purpose("marketing"));
    let remove = MetadataEdit { remove: lists(), ..MetadataEdit::default() };
    let applied = fixture.vault.apply_metadata(query.clone(), remove).await.unwrap();
    assert_eq!((applied.matched, applied.changed), (4, 4));
    assert_eq!(found(&fixture.vault, &query, 10).await, [""; 0]);
    assert!(fixture.read("a", "email").await.is_ok(), "it stays usable for the others");
    let add = MetadataEdit { add: lists(), ..MetadataEdit::default() };
    let applied = fixture.vault.apply_metadata(MetadataQuery::Purpose(purpose("account")), add).await.unwrap();
    assert_eq!((applied.matched, applied.changed), (4, 4));
    assert_eq!(found(&fixture.vault, &query, 10).await.len(), 4);
}

#[tokio::test]
async fn an_expiry_that_has_passed_ends_with_its_value() {
    let fixture = Fixture::new().await;
    fixture.put("a", FIELDS).await.unwrap();
    let soon = Timestamp(Timestamp::now().0 + 200);
    let patch = MetadataPatch { expires_at: Some(Some(soon)), ..from("campaign-7") };
    change(&fixture, "a", "email", patch.clone()).await.unwrap();
    while Timestamp::now() <= soon {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(matches!(fixture.read("a", "email").await, Err(Error::Refused { rule: Rule::ValueExpired, .. })));
    assert_eq!(fixture.look_up("email", FIELDS[0].1).await, [""; 0], "nor is anybody found by it");
    let later = MetadataPatch { expires_at: Some(None), ..MetadataPatch::default() };
    assert!(matches!(change(&fixture, "a", "email", later).await, Err(Error::Conflict(_))), "it stays expired");
    fixture.put("a", &FIELDS[..1]).await.unwrap();
    assert_eq!(fixture.read("a", "email").await.unwrap(), FIELDS[0].1);
    assert_eq!(fixture.look_up("email", FIELDS[0].1).await, ["a"]);
    let metadata = fixture.vault.metadata(&id("a"), &name("email")).await.unwrap();
    assert_eq!((metadata.expires_at, metadata.source.as_deref()), (None, Some("campaign-7")));
    let expiring = MetadataQuery::ExpiresBefore(in_days(1));
    assert_eq!(found(&fixture.vault, &expiring, 10).await, [""; 0]);
}
