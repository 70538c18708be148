#![allow(clippy::unwrap_used)]

use super::super::tests::{Fixture, changes, full, id, name};
use super::super::{PutOptions, Role};
use super::*;
use crate::audit::{Trail, trail};

const EMAIL: &[(&str, &str)] = &[("email", r#""jane@example.org""#)];

/// Does something as a request of a caller does.
async fn by<T>(vault: &Vault, caller: u8, what: Action, work: impl Future<Output = Result<T, Error>>) {
    let request = Trail::new(what);
    let done = request.follow(async {
        trail::caller(CallerId([caller; 16]));
        trail::purpose(Purpose::parse("account").ok());
        work.await
    });
    let status = if done.await.is_ok() { 200 } else { 404 };
    vault.conclude(&request, status, None, false).await.unwrap();
}

async fn put(vault: &Vault, caller: u8, subject: &str) {
    let options = PutOptions::default();
    by(vault, caller, Action::Write, vault.put_fields(&id(subject), changes(EMAIL), &options)).await;
}

async fn read(vault: &Vault, caller: u8, subject: &str) {
    let (names, request) = ([name("email")], full());
    by(vault, caller, Action::Read, vault.read_fields(&id(subject), Some(&names), &request)).await;
}

async fn told(vault: &Vault, subject: &str) -> Vec<(Action, u8)> {
    let page = vault.accesses(&id(subject), Span::default(), None, 100).await.unwrap();
    page.accesses.iter().map(|access| (access.what, access.by.map_or(0, |by| by.0[0]))).collect()
}

#[tokio::test]
async fn a_subject_is_told_who_saw_what_until_it_is_shredded() {
    let fixture = Fixture::new().await;
    let vault = &fixture.vault;
    put(vault, 1, "jane").await;
    put(vault, 1, "joe").await;
    read(vault, 2, "jane").await;
    read(vault, 3, "joe").await;
    read(vault, 3, "jane").await;
    assert_eq!(told(vault, "jane").await, [(Action::Write, 1), (Action::Read, 2), (Action::Read, 3)]);
    assert_eq!(told(vault, "joe").await, [(Action::Write, 1), (Action::Read, 3)]);

    let first = vault.accesses(&id("jane"), Span::default(), None, 2).await.unwrap();
    assert_eq!((first.accesses.len(), &first.accesses[1].fields), (2, &vec![name("email")]));
    assert_eq!(first.accesses[1].purpose.as_ref().unwrap().as_str(), "account");
    let rest = vault.accesses(&id("jane"), Span::default(), first.next.as_deref(), 2).await.unwrap();
    assert_eq!((rest.accesses.len(), rest.next), (1, None));
    let early = Span { to: Some(first.accesses[0].at), from: None };
    assert!(vault.accesses(&id("jane"), early, None, 10).await.unwrap().accesses.is_empty());
    let newest = vault.newest_accesses(&id("jane")).await.unwrap();
    assert_eq!((newest.accesses.len(), newest.left_off), (3, 0));

    assert!(matches!(vault.accesses(&id("nobody"), Span::default(), None, 10).await, Err(Error::UnknownSubject)));
    assert!(vault.accesses(&id("jane"), Span::default(), Some("x"), 10).await.is_err());
    fixture.shred(&["jane"]).await;
    assert!(matches!(vault.accesses(&id("jane"), Span::default(), None, 10).await, Err(Error::Shredded)));
    assert_eq!(told(vault, "joe").await.len(), 2);
}

#[tokio::test]
async fn whose_data_a_caller_saw_is_told_without_those_shredded_since() {
    let fixture = Fixture::new().await;
    let vault = &fixture.vault;
    for subject in ["jane", "joe", "jim"] {
        put(vault, 1, subject).await;
    }
    for _ in 0..2 {
        read(vault, 2, "jane").await;
    }
    read(vault, 2, "joe").await;
    read(vault, 3, "jim").await;
    read(vault, 2, "nobody").await;
    let reach = async |caller: u8| {
        let reach = vault.reach(vec![CallerId([caller; 16])], Span::default(), None).await.unwrap();
        let mut seen: Vec<_> = reach.subjects.iter().map(|one| (one.subject.as_str().to_owned(), one.count)).collect();
        seen.sort();
        assert!(reach.subjects.iter().all(|one| one.fields == [name("email")].into() && one.first <= one.last));
        assert_eq!(reach.next, None);
        (seen, reach.unlinkable)
    };
    assert_eq!(reach(2).await, (vec![("jane".to_owned(), 2), ("joe".to_owned(), 1)], 0));
    assert_eq!(reach(3).await, (vec![("jim".to_owned(), 1)], 0));
    assert_eq!(reach(1).await, (vec![], 0), "it wrote, and saw nothing");
    fixture.shred(&["jane"]).await;
    assert_eq!(reach(2).await, (vec![("joe".to_owned(), 1)], 2));
}

/// After a shred no key that is left makes the pseudonyms of the log; before, one does.
#[tokio::test]
async fn what_a_shred_leaves_in_the_log_is_nobodys() {
    let fixture = Fixture::new().await;
    let vault = &fixture.vault;
    put(vault, 1, "jane").await;
    put(vault, 1, "joe").await;
    read(vault, 2, "jane").await;
    let linked = async || {
        let session = vault.session().unwrap();
        let header = session.snapshot().header.clone();
        let page = subject::page(&vault.inner, &header, None, 100).await.unwrap();
        let keys: Vec<AuditKey> = page
            .iter()
            .filter_map(|(_, entry)| match entry {
                super::super::records::DirectoryEntry::Subject(record) => Some(record.audit_key.duplicate()),
                super::super::records::DirectoryEntry::Tombstone(_) => None,
            })
            .collect();
        let lines = fixture.log.read(0, 1000).unwrap();
        let entries = lines.iter().map(|line| Entry::decode(line).unwrap());
        let of = |entry: Entry| {
            let day = day_of(entry.at);
            entry.subjects.into_iter().map(move |pseudonym| (pseudonym, day)).collect::<Vec<_>>()
        };
        let all: Vec<_> = entries.flat_map(of).collect();
        let makes = |(pseudonym, day): &&(Pseudonym, u32)| keys.iter().any(|key| key.pseudonym(*day) == pseudonym.0);
        (all.iter().filter(makes).count(), all.len())
    };
    assert_eq!(linked().await, (3, 3));
    fixture.shred(&["jane"]).await;
    assert_eq!(linked().await, (1, 3));
    assert!(vault.callers_called("admin").is_empty());
    let admin = super::super::NewCaller {
        name: "admin".into(),
        role: Role::Admin,
        purposes: [].into(),
        expires_at: None,
        lookups_per_minute: None,
    };
    let made = vault.create_caller(admin, None).await.unwrap().0;
    assert_eq!(vault.callers_called("admin"), [made.id]);
    assert_eq!(vault.callers_called(&made.id.to_string()), [made.id]);
}
