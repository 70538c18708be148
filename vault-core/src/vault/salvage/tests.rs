#![allow(clippy::unwrap_used)]

use super::super::tests::{Fixture, id, name, slot};
use super::super::{MetadataPatch, meta, subject};
use super::*;
use crate::ids::{CallerId, Purpose};
use crate::root::RootError;
use crate::store::{Batch, Health, MemoryStore, Row};

/// Five subjects, one of them shredded; one has notes, a large field and metadata.
async fn filled() -> Fixture {
    let fixture = Fixture::new().await;
    for subject in ["a", "b", "c", "gone"] {
        let email = format!(r#""{subject}@example.org""#);
        fixture.put(subject, &[("email", &email), ("nickname", &format!("\"{subject}\""))]).await.unwrap();
    }
    let large = format!(r#"{{"n": "{}"}}"#, "x".repeat(8000));
    fixture.put("noted", &[("device", &large), ("name", r#""Ada""#)]).await.unwrap();
    let patch = MetadataPatch { source: Some(Some("a form".into())), ..MetadataPatch::default() };
    fixture.vault.change_metadata(&id("noted"), &name("name"), patch).await.unwrap();
    let marketing = Purpose::parse("marketing").unwrap();
    fixture.vault.give_consent(&id("noted"), &marketing, "1", "form", CallerId([7; 16])).await.unwrap();
    fixture.vault.restrict(&id("noted"), Some("a dispute")).await.unwrap();
    fixture.shred(&["gone"]).await;
    fixture
}

struct Outcome {
    found: Vec<Salvaged>,
    report: SalvageReport,
}

async fn open(fixture: &Fixture, store: &Arc<MemoryStore>) -> Result<Salvage, Error> {
    let unlock = Unlock::KeyFile(fixture.key.duplicate());
    let places = [slot(&fixture.dir).into()];
    Salvage::open(store.clone(), &places, unlock, VaultOptions::default(), &|_, _| ()).await
}

async fn salvaged(fixture: &Fixture, store: &Arc<MemoryStore>) -> Outcome {
    let mut salvage = open(fixture, store).await.unwrap();
    let mut found = Vec::new();
    while let Some(subject) = salvage.next().await.unwrap() {
        found.push(subject);
    }
    Outcome { found, report: salvage.finish().await.unwrap() }
}

impl Outcome {
    fn of(&self, subject: &str) -> &Salvaged {
        self.found.iter().find(|found| found.subject.as_str() == subject).unwrap()
    }
}

impl Salvaged {
    fn value(&self, field: &str) -> Option<&str> {
        self.fields.iter().find(|found| found.stamp.name.as_str() == field).map(|found| found.value.given())
    }
}

/// The row of a subject's compartment.
async fn row_of(fixture: &Fixture, id_of: &str, compartment: &str) -> Vec<u8> {
    let header = fixture.vault.session().unwrap().snapshot().header.clone();
    let found = subject::find(&fixture.vault.inner, &header, &id(id_of)).await.unwrap();
    let record = found.living_unnoted(0).unwrap();
    let keys = record.compartments.iter().find(|keys| keys.name.as_str() == compartment).unwrap();
    record.row_place(keys).key()
}

async fn damage(store: &MemoryStore, key: &[u8], at: impl Fn(usize) -> usize) {
    let mut value = store.get(key).await.unwrap().unwrap();
    let at = at(value.len());
    value[at] ^= 1;
    store.commit(Batch { put: vec![(key.to_vec(), value)], ..Batch::default() }).await.unwrap();
}

async fn lose(store: &MemoryStore, key: &[u8]) {
    store.commit(Batch { delete: vec![key.to_vec()], ..Batch::default() }).await.unwrap();
}

#[tokio::test]
async fn of_a_whole_vault_everything_comes_and_nothing_is_changed() {
    let fixture = filled().await;
    let slot_before = std::fs::read(slot(&fixture.dir)).unwrap();
    let rows = fixture.store.scan(&[], None, usize::MAX).await.unwrap();
    let all = salvaged(&fixture, &fixture.store).await;
    let report = &all.report;
    assert_eq!((report.whole, report.partly, report.lost, report.refused, report.tombstones), (4, 0, 0, 0, 1));
    assert_eq!((report.expected, report.without_trace(), report.fields), (Some(4), Some(0), 8));
    assert_eq!(report.problems, [""; 0]);
    assert!(all.found.iter().all(|found| found.subject.as_str() != "gone"), "who was shredded stays so");
    assert_eq!(all.of("a").value("email"), Some(r#""a@example.org""#));
    let noted = all.of("noted");
    assert_eq!(noted.value("device").unwrap().len(), 8009);
    assert_eq!(noted.standing, crate::policy::SubjectStanding::Restricted);
    assert_eq!((noted.consents[0].version.as_str(), noted.holds.len()), ("1", 0));
    assert_eq!(noted.restriction.as_ref().unwrap().reason.as_deref(), Some("a dispute"));
    let named = noted.fields.iter().find(|field| field.stamp.name == name("name")).unwrap();
    assert_eq!(named.metadata.source.as_deref(), Some("a form"));
    assert_eq!(rows, fixture.store.scan(&[], None, usize::MAX).await.unwrap());
    assert_eq!(slot_before, std::fs::read(slot(&fixture.dir)).unwrap());
}

#[tokio::test]
async fn what_is_lost_is_told_and_the_rest_comes() {
    let fixture = filled().await;
    let store = Arc::new(fixture.store.fork());
    // The last byte of a row is of the tag of its last field, the fourteenth of the manifest.
    damage(&store, &row_of(&fixture, "a", "profile").await, |len| len - 1).await;
    damage(&store, &row_of(&fixture, "b", "profile").await, |_| 20).await;
    damage(&store, &row_of(&fixture, "noted", "system").await, |len| len - 1).await;
    lose(&store, &row_of(&fixture, "c", "profile").await).await;
    let all = salvaged(&fixture, &store).await;
    let report = &all.report;
    assert_eq!((report.whole, report.partly, report.lost, report.without_trace()), (0, 4, 0, Some(0)));
    assert_eq!((report.fields_lost, report.compartments_lost), (1, 2), "{:?}", report.problems);
    let profile = crate::ids::Compartment::profile;
    assert_eq!(all.of("a").lost, [LostPart::Field { compartment: profile(), field: name("nickname") }]);
    assert_eq!(all.of("a").value("email"), Some(r#""a@example.org""#), "the other field of the row comes");
    assert_eq!(all.of("b").lost, [LostPart::Compartment { compartment: profile() }]);
    assert_eq!(all.of("c").lost, all.of("b").lost);
    assert!(matches!(all.of("noted").lost[..], [LostPart::Note { .. }]), "{:?}", all.of("noted").lost);
    assert_eq!(all.of("noted").value("name"), Some(r#""Ada""#));
    assert_eq!(report.problems.len(), 4, "{:?}", report.problems);
}

#[tokio::test]
async fn a_lost_page_loses_its_subjects_and_says_how_many() {
    let fixture = Fixture::new().await;
    for n in 0..60 {
        fixture.put(&format!("s{n}"), &[("nickname", &format!("\"n{n}\""))]).await.unwrap();
    }
    let store = Arc::new(fixture.store.fork());
    let mut leaf = Vec::new();
    let header = fixture.vault.session().unwrap().snapshot().header.clone();
    walk(&fixture.vault.inner.pages, &header, &mut |visit| {
        if let Visit::Page { kind: Kind::Directory, row, .. } = visit {
            leaf = row.to_vec();
        }
    })
    .await
    .unwrap();
    lose(&store, &leaf).await;
    let all = salvaged(&fixture, &store).await;
    let report = &all.report;
    assert!(report.lost > 0 && report.whole + report.lost == 60, "{} and {}", report.whole, report.lost);
    assert_eq!((report.without_trace(), report.lost_uuids.len() as u64), (Some(0), report.lost));
    assert!(report.problems.iter().any(|told| told.contains("Directory is missing")), "{:?}", report.problems);
    for found in &all.found {
        let number = &found.subject.as_str()[1..];
        assert_eq!(found.value("nickname"), Some(&*format!("\"n{number}\"")));
    }
}

#[tokio::test]
async fn without_meta_it_goes_and_without_a_header_it_does_not() {
    let fixture = filled().await;
    let store = Arc::new(fixture.store.fork());
    lose(&store, meta::KEY).await;
    let all = salvaged(&fixture, &store).await;
    assert_eq!((all.report.whole, all.report.expected, all.report.without_trace()), (4, None, None));
    assert!(all.report.problems[0].contains("META"), "{:?}", all.report.problems);
    for at in [3, 20, 30, 60] {
        let store = Arc::new(fixture.store.fork());
        damage(&store, meta::KEY, |_| at).await;
        assert_eq!(salvaged(&fixture, &store).await.report.whole, 4, "byte {at}");
    }

    let store = Arc::new(fixture.store.fork());
    let header = fixture.vault.session().unwrap().snapshot().header.current_row().unwrap().to_vec();
    damage(&store, &header, |len| len / 2).await;
    let refused = open(&fixture, &store).await.err().unwrap();
    assert!(matches!(refused, Error::Root(RootError::HeaderDamaged { .. })), "{refused}");
}

#[tokio::test]
async fn an_older_image_opens_nothing_not_even_with_its_own_header() {
    let fixture = filled().await;
    let image = Arc::new(fixture.store.fork());
    assert_eq!(salvaged(&fixture, &image).await.report.whole, 4, "the control: until the next shred it opens");
    fixture.shred(&["a"]).await;
    let refused = open(&fixture, &image).await.err().unwrap();
    assert!(matches!(refused, Error::Root(RootError::OlderThanSlot { .. })), "{refused}");
    let wrong = Unlock::KeyFile(crate::crypto::passphrase::new_key_file().0);
    let places = [slot(&fixture.dir).into()];
    let outcome = Salvage::open(fixture.store.clone(), &places, wrong, VaultOptions::default(), &|_, _| ()).await;
    assert!(matches!(outcome.err(), Some(Error::WrongUnlockKey)));
}

/// A store whose engine notices by itself that a row is damaged.
struct Noticing {
    rows: Arc<MemoryStore>,
    damaged: Vec<Vec<u8>>,
}

impl Noticing {
    fn check<'k>(&self, mut keys: impl Iterator<Item = &'k [u8]>) -> Result<(), StoreError> {
        match keys.any(|key| self.damaged.iter().any(|damaged| damaged == key)) {
            true => Err(StoreError::Corrupt("a checksum does not match".into())),
            false => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl Store for Noticing {
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.check(std::iter::once(key))?;
        self.rows.get(key).await
    }

    async fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StoreError> {
        let rows = self.rows.scan(start, end, limit).await?;
        self.check(rows.iter().map(|(key, _)| key.as_slice()))?;
        Ok(rows)
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.rows.commit(batch).await
    }

    fn health(&self) -> Health {
        self.rows.health()
    }

    async fn close(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[tokio::test]
async fn what_the_engine_does_not_read_is_listed_and_the_rest_comes() {
    let fixture = filled().await;
    let damaged = vec![row_of(&fixture, "a", "profile").await, row_of(&fixture, "noted", "system").await];
    let store = || Arc::new(Noticing { rows: Arc::new(fixture.store.fork()), damaged: damaged.clone() });
    let places = [slot(&fixture.dir).into()];
    let unlock = || Unlock::KeyFile(fixture.key.duplicate());
    let mut salvage = Salvage::open(store(), &places, unlock(), VaultOptions::default(), &|_, _| ()).await.unwrap();
    while salvage.next().await.unwrap().is_some() {}
    let report = salvage.finish().await.unwrap();
    assert_eq!((report.whole, report.partly, report.compartments_lost), (2, 2, 1), "{:?}", report.problems);
    assert!(report.problems.iter().any(|told| told.contains("cannot be read through")), "{:?}", report.problems);

    let vault = Vault::open(store(), &places, VaultOptions::default()).await.unwrap();
    vault.unlock_at_rest(unlock()).await.unwrap();
    let report = vault.verify(&|_, _| ()).await.unwrap();
    let told = |what: &str| report.problems.iter().filter(|problem| problem.contains(what)).count();
    assert_eq!(told("the engine does not read it"), 2, "{:?}", report.problems);
    assert_eq!((told("cannot be read through"), report.subjects), (1, 4), "{:?}", report.problems);
}
