//! The use cases on the memory engine, from outside: every method of [`Vault`], and restarts in between.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use zeroize::Zeroizing;

use super::*;
use crate::audit::Log;
use crate::crypto::UnlockKey;
use crate::crypto::passphrase::new_key_file;
use crate::ids::{FieldName, Purpose, SubjectId};
use crate::root::{NewUnlock, Unlock};
use crate::schema::{Form, SchemaError, View};
use crate::store::{Fault, MemoryStore};

/// A vault on the memory engine with one file slot, and what it takes to open it again.
pub(super) struct Fixture {
    pub(super) vault: Vault,
    pub(super) store: Arc<MemoryStore>,
    pub(super) key: UnlockKey,
    pub(super) dir: TempDir,
    pub(super) log: Log,
}

impl Fixture {
    pub(super) async fn new() -> Self {
        Self::on(Arc::new(MemoryStore::new())).await
    }

    pub(super) async fn on(store: Arc<MemoryStore>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (key, _) = new_key_file();
        let unlock = NewUnlock::KeyFile(key.duplicate());
        let log = Log::open(&dir.path().join("audit")).unwrap();
        let options = VaultOptions { log: Some(log.clone()), ..VaultOptions::default() };
        let vault = Vault::create(store.clone(), &[slot(&dir).into()], vec![unlock], options).await.unwrap();
        Self { vault, store, key, dir, log }
    }

    /// Closes it and opens it again, as a restart does.
    pub(super) async fn restart(&mut self) {
        self.vault.close().await.unwrap();
        self.vault = self.open(self.store.clone()).await.unwrap();
        self.vault.unlock(Unlock::KeyFile(self.key.duplicate())).await.unwrap();
    }

    pub(super) async fn reopen(&mut self, options: VaultOptions) {
        self.vault.close().await.unwrap();
        let options = VaultOptions { log: Some(self.log.clone()), ..options };
        self.vault = Vault::open(self.store.clone(), &[slot(&self.dir).into()], options).await.unwrap();
        self.vault.unlock(Unlock::KeyFile(self.key.duplicate())).await.unwrap();
    }

    pub(super) async fn open(&self, store: Arc<MemoryStore>) -> Result<Vault, Error> {
        let options = VaultOptions { log: Some(self.log.clone()), ..VaultOptions::default() };
        Vault::open(store, &[slot(&self.dir).into()], options).await
    }

    pub(super) async fn put(&self, subject: &str, fields: &[(&str, &str)]) -> Result<PutOutcome, Error> {
        self.vault.put_fields(&id(subject), changes(fields), &PutOptions::default()).await
    }

    /// A field in full, as given.
    pub(super) async fn read(&self, subject: &str, field: &str) -> Result<String, Error> {
        let outcome = self.vault.read_fields(&id(subject), Some(&[name(field)]), &full()).await?;
        Ok(outcome.fields[0].value.to_string())
    }

    pub(super) async fn look_up(&self, field: &str, value: &str) -> Vec<String> {
        let page = self.vault.look_up(&full().reader, &name(field), value, None, None, 100).await.unwrap();
        let mut found: Vec<String> = page.subjects.iter().map(|s| s.as_str().to_owned()).collect();
        found.sort();
        found
    }

    pub(super) async fn shred(&self, subjects: &[&str]) -> Erasure {
        let ids = subjects.iter().map(|s| id(s)).collect();
        let erasure = self.vault.shred(erasure_of(ids), None).await.unwrap().made;
        self.vault.wait_final(erasure.id, Duration::from_secs(20)).await.unwrap()
    }

    /// Rotates a layer and waits for the end.
    pub(super) async fn rotate(&self, asked: impl Into<NewRotation>) -> Rotation {
        let rotation = self.vault.rotate(asked, None, None).await.unwrap().made;
        let ended = self.ended(rotation.id).await;
        assert_eq!(ended.state, RotationState::Done, "{:?}", ended.detail);
        ended
    }

    /// Waits for a rotation to end, in whatever way.
    pub(super) async fn ended(&self, id: crate::ids::RotationId) -> Rotation {
        for _ in 0..4000 {
            let now = self.vault.rotation(id).await.unwrap();
            if now.finished_at.is_some() {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("the rotation did not end");
    }
}

pub(super) fn erasure_of(subjects: Vec<SubjectId>) -> NewErasure {
    NewErasure {
        subjects,
        compartment: None,
        reason: "test".into(),
        reference: None,
        by: None,
        not_before: None,
        refuse_now: false,
        deadline: None,
    }
}

pub(super) fn slot(dir: &TempDir) -> PathBuf {
    dir.path().join("root.slot")
}

pub(super) fn id(text: &str) -> SubjectId {
    SubjectId::parse(text).unwrap()
}

pub(super) fn name(text: &str) -> FieldName {
    FieldName::parse(text).unwrap()
}

/// Changes from JSON texts; an empty text removes.
pub(super) fn changes(fields: &[(&str, &str)]) -> Changes {
    let change = |value: &str| match value {
        "" => Change::Remove,
        text => Change::Set(Zeroizing::new(text.to_owned())),
    };
    fields.iter().map(|(field, value)| (name(field), change(value))).collect()
}

/// Reads as an admin.
pub(super) fn reading(view: View, purpose: Option<&str>) -> ReadRequest {
    let reader = Reader { role: Role::Admin, purposes: [].into(), expires_at: None, purpose: purpose.map(Arc::from) };
    ReadRequest { reader, view, form: Form::Given }
}

pub(super) fn full() -> ReadRequest {
    reading(View::Full, Some("account"))
}

const PHONE: (&str, &str) = ("phone", r#"{"national": "050 123 8301", "region": "AE"}"#);
const EMAIL: (&str, &str) = ("email", r#""Ada@Example.ORG""#);

#[tokio::test]
async fn enrols_merges_reads_and_looks_up() {
    let fixture = Fixture::new().await;
    let first = fixture.put("ada/1", &[PHONE, EMAIL]).await.unwrap();
    assert!(first.created);
    let versions: Vec<u32> = first.fields.iter().map(|f| f.version).collect();
    assert_eq!(versions, [1, 1]);
    let second = fixture.put("ada/1", &[("nickname", r#""countess""#), EMAIL]).await.unwrap();
    assert!(!second.created);
    assert_eq!(second.fields[1].version, 2);

    assert_eq!(fixture.read("ada/1", "phone").await.unwrap(), PHONE.1);
    assert_eq!(fixture.look_up("phone", r#""+971501238301""#).await, ["ada/1"]);
    assert_eq!(fixture.look_up("email", r#""ada@example.org""#).await, ["ada/1"]);
    let masked = fixture.vault.read_fields(&id("ada/1"), None, &reading(View::Masked, None)).await.unwrap();
    assert_eq!(masked.fields.len(), 3);
    assert!(masked.fields.iter().all(|f| !f.value.contains("8301") && !f.value.contains("Ada@")));

    let description = fixture.vault.describe(&id("ada/1")).await.unwrap();
    assert_eq!(description.fields.len(), 3);
    assert_eq!(description.compartments[0].1, 1);
    assert!(matches!(fixture.read("nobody", "phone").await, Err(Error::UnknownSubject)));
    assert!(matches!(fixture.read("ada/1", "name").await, Err(Error::NoSuchField)));
}

#[tokio::test]
async fn refuses_what_the_schema_and_the_policy_refuse() {
    let fixture = Fixture::new().await;
    let undeclared = fixture.put("a", &[("shoe_size", "43")]).await;
    assert!(matches!(undeclared, Err(Error::Schema(SchemaError::UnknownField(_)))));
    let invalid = fixture.put("a", &[EMAIL, ("phone", r#""+1""#)]).await;
    assert!(matches!(invalid, Err(Error::Schema(SchemaError::Invalid { .. }))));
    assert!(matches!(fixture.vault.describe(&id("a")).await, Err(Error::UnknownSubject)), "nothing half written");
    let twice = fixture.put("a", &[EMAIL, EMAIL]).await;
    assert!(matches!(twice, Err(Error::Invalid { field: "fields", .. })));
    fixture.put("a", &[EMAIL]).await.unwrap();
    let no_purpose = reading(View::Full, None);
    let refused = fixture.vault.read_fields(&id("a"), Some(&[name("email")]), &no_purpose).await;
    assert!(matches!(refused, Err(Error::Refused { .. })));
}

#[tokio::test]
async fn a_changed_value_is_found_by_its_present_form_only() {
    let mut fixture = Fixture::new().await;
    let (old, new) = (r#""old@example.org""#, r#""new@example.org""#);
    fixture.put("a", &[("email", old)]).await.unwrap();
    fixture.put("a", &[("email", new)]).await.unwrap();
    assert_eq!(fixture.look_up("email", old).await, [""; 0]);
    assert_eq!(fixture.look_up("email", new).await, ["a"]);
    // And back again before anything was tidied, then through a root batch that tidies.
    fixture.put("a", &[("email", old)]).await.unwrap();
    fixture.rotate(Layer::Root).await;
    assert_eq!(fixture.look_up("email", old).await, ["a"]);
    assert_eq!(fixture.look_up("email", new).await, [""; 0]);
    fixture.put("a", &[("email", "")]).await.unwrap();
    assert_eq!(fixture.look_up("email", old).await, [""; 0]);
    fixture.restart().await;
    fixture.rotate(Layer::Root).await;
    assert_eq!(fixture.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn a_version_that_must_match() {
    let fixture = Fixture::new().await;
    let put = async |value: &str, if_match| {
        let options = PutOptions { if_match: Some(if_match), ..PutOptions::default() };
        fixture.vault.put_fields(&id("a"), changes(&[("nickname", value)]), &options).await
    };
    assert!(matches!(put(r#""x""#, 1).await, Err(Error::PreconditionFailed)));
    put(r#""x""#, 0).await.unwrap();
    assert!(matches!(put(r#""y""#, 0).await, Err(Error::PreconditionFailed)));
    assert_eq!(put(r#""y""#, 1).await.unwrap().fields[0].version, 2);
}

#[tokio::test]
async fn shreds_one_and_many_and_remembers() {
    let mut fixture = Fixture::new().await;
    for subject in ["a", "b", "c", "d"] {
        fixture.put(subject, &[PHONE, EMAIL]).await.unwrap();
    }
    let dry = fixture.vault.shred_dry_run(&[id("a"), id("x"), id("a")], None).await.unwrap();
    assert_eq!((dry.pending, dry.unknown), (1, 1));
    let epoch = fixture.vault.status().epoch;
    let erasure = fixture.shred(&["a", "c", "x", "c"]).await;
    assert_eq!((erasure.total, erasure.counts.r#final, erasure.counts.unknown), (3, 2, 1));
    assert!(erasure.f1_at >= erasure.f0_at);
    assert!(fixture.vault.status().epoch > epoch);
    let again = fixture.shred(&["a"]).await;
    assert_eq!((again.counts.shredded, again.counts.r#final), (1, 0));
    for _ in 0..2 {
        assert!(matches!(fixture.read("a", "phone").await, Err(Error::Shredded)));
        assert!(matches!(fixture.put("c", &[EMAIL]).await, Err(Error::Shredded)));
        assert_eq!(fixture.look_up("phone", r#""+971501238301""#).await, ["b", "d"]);
        assert_eq!(fixture.read("b", "email").await.unwrap(), EMAIL.1);
        fixture.restart().await;
    }
    let counts = fixture.vault.status().counts.unwrap();
    assert_eq!((counts.subjects, counts.tombstones, counts.refused, counts.rows), (2, 2, 0, 2));
    assert_eq!(fixture.vault.erasures(None, 10).await.unwrap().0.len(), 2);

    let enrol = PutOptions { enrol_again: true, ..PutOptions::default() };
    let anew = fixture.vault.put_fields(&id("a"), changes(&[EMAIL]), &enrol).await.unwrap();
    assert!(anew.created);
    assert!(matches!(fixture.read("a", "phone").await, Err(Error::NoSuchField)), "nothing of the former subject");
    assert_eq!(fixture.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn a_tombstone_expires_and_is_taken_out() {
    let mut fixture = Fixture::new().await;
    fixture.put("a", &[PHONE]).await.unwrap();
    fixture.put("b", &[PHONE]).await.unwrap();
    fixture.shred(&["a", "b"]).await;
    let enrol = PutOptions { enrol_again: true, ..PutOptions::default() };
    fixture.vault.put_fields(&id("b"), changes(&[EMAIL]), &enrol).await.unwrap();
    assert!(matches!(fixture.read("a", "phone").await, Err(Error::Shredded)));
    fixture.vault.close().await.unwrap();
    let options = VaultOptions { tombstone_seconds: 0, ..VaultOptions::default() };
    fixture.vault = Vault::open(fixture.store.clone(), &[slot(&fixture.dir).into()], options).await.unwrap();
    fixture.vault.unlock(Unlock::KeyFile(fixture.key.duplicate())).await.unwrap();
    assert!(matches!(fixture.read("a", "phone").await, Err(Error::UnknownSubject)), "as soon as it is read");
    fixture.rotate(Layer::Root).await;
    let counts = fixture.vault.status().counts.unwrap();
    assert_eq!((counts.subjects, counts.tombstones), (1, 0), "any root batch takes it out");
    assert_eq!(fixture.read("b", "email").await.unwrap(), EMAIL.1);
    assert_eq!(fixture.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn forgets_one_field_and_keeps_the_rest() {
    let mut fixture = Fixture::new().await;
    let address = format!(r#""{}""#, "Long Street ".repeat(600));
    fixture.put("a", &[PHONE, EMAIL, ("home_address", &address)]).await.unwrap();
    fixture.vault.forget_field(&id("a"), &name("phone"), None).await.unwrap();
    fixture.restart().await;
    assert!(matches!(fixture.read("a", "phone").await, Err(Error::NoSuchField)));
    assert_eq!(fixture.look_up("phone", r#""+971501238301""#).await, [""; 0]);
    assert_eq!(fixture.read("a", "email").await.unwrap(), EMAIL.1);
    assert_eq!(fixture.read("a", "home_address").await.unwrap(), address);
    assert_eq!(fixture.vault.describe(&id("a")).await.unwrap().compartments[0].1, 2);
    let final_ = PutOptions { final_: true, ..PutOptions::default() };
    fixture.vault.put_fields(&id("a"), changes(&[("email", r#""z@example.org""#)]), &final_).await.unwrap();
    assert_eq!(fixture.look_up("email", EMAIL.1).await, [""; 0]);
    assert_eq!(fixture.look_up("email", r#""z@example.org""#).await, ["a"]);
    assert!(matches!(fixture.vault.forget_field(&id("b"), &name("phone"), None).await, Err(Error::UnknownSubject)));
    assert_eq!(fixture.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotations_run_beside_writes_reads_and_shreds() {
    let mut fixture = Fixture::new().await;
    for n in 0..300 {
        let email = format!(r#""user{n}@example.org""#);
        fixture.put(&format!("s{n}"), &[("email", &email), PHONE]).await.unwrap();
    }
    let shreds: Vec<String> = (0..50).map(|n| format!("s{n}")).collect();
    let names: Vec<&str> = shreds.iter().map(String::as_str).collect();
    let reads = async {
        for n in 50..300 {
            assert_eq!(fixture.read(&format!("s{n}"), "email").await.unwrap(), format!(r#""user{n}@example.org""#));
            fixture.put(&format!("s{n}"), &[("nickname", r#""x""#)]).await.unwrap();
        }
    };
    let (keks, erasure, ()) = tokio::join!(fixture.rotate(Layer::Keks), fixture.shred(&names), reads);
    assert_eq!(erasure.counts.r#final, 50);
    assert!(keks.done > 100 && keks.done == keks.total);
    fixture.rotate(Layer::Root).await;
    fixture.restart().await;
    assert_eq!(fixture.read("s299", "nickname").await.unwrap(), r#""x""#);
    assert!(matches!(fixture.read("s7", "email").await, Err(Error::Shredded)));
    let status = fixture.vault.keys().await.unwrap();
    let last = |layer| status.of(layer).unwrap().last;
    assert!(last(Layer::Root).is_some() && last(Layer::Keks).is_some() && last(Layer::Deks).is_none());
    assert_eq!(fixture.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn a_rotation_is_throttled_paused_resumed_and_survives_a_restart() {
    let mut fixture = Fixture::new().await;
    for n in 0..400 {
        fixture.put(&format!("s{n}"), &[PHONE]).await.unwrap();
    }
    let rotation = fixture.vault.rotate(Layer::Keks, Some(20), None).await.unwrap().made;
    assert!(matches!(fixture.vault.rotate(Layer::Keks, None, None).await, Err(Error::Conflict(_))));
    let paused = fixture.vault.change_rotation(rotation.id, Some(RotationState::Paused), None).await.unwrap();
    assert_eq!(paused.state, RotationState::Paused);
    fixture.restart().await;
    assert_eq!(fixture.vault.rotation(rotation.id).await.unwrap().state, RotationState::Paused);
    fixture.vault.change_rotation(rotation.id, Some(RotationState::Running), Some(1_000_000)).await.unwrap();
    for _ in 0..1000 {
        if fixture.vault.rotation(rotation.id).await.unwrap().state == RotationState::Done {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(fixture.vault.rotation(rotation.id).await.unwrap().state, RotationState::Done);
    let ended = fixture.vault.change_rotation(rotation.id, Some(RotationState::Paused), None).await;
    assert!(matches!(ended, Err(Error::Conflict(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writes_of_one_subject_all_arrive() {
    let fixture = Arc::new(Fixture::new().await);
    let fields = ["nickname", "name", "home_address", "email"];
    let mut tasks = Vec::new();
    for round in 0..8 {
        for field in fields {
            let fixture = fixture.clone();
            tasks.push(tokio::spawn(async move {
                fixture.put("a", &[(field, &format!(r#""v{round}@example.org""#))]).await.unwrap()
            }));
        }
    }
    let mut created = 0;
    for task in tasks {
        created += u32::from(task.await.unwrap().created);
    }
    assert_eq!(created, 1);
    let description = fixture.vault.describe(&id("a")).await.unwrap();
    assert!(description.fields.iter().all(|(stamp, _)| stamp.version == 8));
}

#[tokio::test]
async fn a_batch_answers_for_each_item() {
    let fixture = Fixture::new().await;
    let item = |subject: &str, fields: &[(&str, &str)]| (id(subject), changes(fields), PutOptions::default());
    let items =
        vec![item("a", &[PHONE]), item("b", &[("phone", r#""nonsense""#)]), item("a", &[EMAIL]), item("c", &[EMAIL])];
    let results = fixture.vault.write_batch(items).await;
    assert!(results[0].as_ref().unwrap().created && results[3].as_ref().unwrap().created);
    assert!(matches!(results[1], Err(Error::Schema(_))));
    assert!(!results[2].as_ref().unwrap().created, "the second write of one subject merges");
    assert_eq!(fixture.look_up("email", EMAIL.1).await, ["a", "c"]);
}

#[tokio::test]
async fn batches_that_race_for_the_same_subjects_share_commits() {
    let fixture = Fixture::new().await;
    let commits = || fixture.vault.session().unwrap().snapshot().sequence;
    let before = commits();
    let racing: Vec<_> = (0..4)
        .map(|n| {
            let nickname = format!("\"n{n}\"");
            let item = |s| (id(&format!("s{s}")), changes(&[("nickname", &nickname)]), PutOptions::default());
            let (vault, items) = (fixture.vault.clone(), (0..100).map(item).collect());
            tokio::spawn(async move { vault.write_batch(items).await })
        })
        .collect();
    for batch in racing {
        assert!(batch.await.unwrap().iter().all(Result::is_ok));
    }
    // Each item that loses the race by itself would be 300.
    assert!(commits() - before < 20, "{}", commits() - before);
    for s in 0..100 {
        assert_eq!(fixture.vault.describe(&id(&format!("s{s}"))).await.unwrap().fields[0].0.version, 4);
    }
}

#[tokio::test]
async fn locks_and_unlocks() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[PHONE]).await.unwrap();
    let new = NewCaller {
        name: "shop".into(),
        role: Role::Service,
        purposes: [].into(),
        expires_at: None,
        lookups_per_minute: None,
    };
    let (caller, token) = fixture.vault.create_caller(new, None).await.unwrap();
    fixture.vault.lock().await.unwrap();
    assert!(matches!(fixture.read("a", "phone").await, Err(Error::Locked)));
    assert_eq!(fixture.vault.status().state, State::Locked);
    assert_eq!(fixture.vault.status().cache.pages, 0);
    assert_eq!(fixture.vault.authenticate(&token).unwrap().id, caller.id, "who locked it may unlock it");
    let wrong = fixture.vault.unlock(Unlock::KeyFile(new_key_file().0)).await;
    assert!(matches!(wrong, Err(Error::WrongUnlockKey)));
    fixture.vault.unlock(Unlock::KeyFile(fixture.key.duplicate())).await.unwrap();
    assert_eq!(fixture.read("a", "phone").await.unwrap(), PHONE.1);
}

#[tokio::test]
async fn callers_come_and_go() {
    let mut fixture = Fixture::new().await;
    let new = |purposes: &[&str], expires_at| NewCaller {
        name: "shop".into(),
        role: Role::Service,
        purposes: purposes.iter().map(|p| Purpose::parse(p).unwrap()).collect(),
        expires_at,
        lookups_per_minute: None,
    };
    let (caller, token) = fixture.vault.create_caller(new(&["delivery"], None), None).await.unwrap();
    assert!(fixture.vault.create_caller(new(&["world_domination"], None), None).await.is_err());
    assert!(fixture.vault.create_caller(new(&[], Some(crate::time::Timestamp(1))), None).await.is_err());
    fixture.restart().await;
    assert_eq!(fixture.vault.authenticate(&token).unwrap().purposes.len(), 1);
    assert!(matches!(fixture.vault.authenticate("udv_no"), Err(Error::Unauthenticated)));
    fixture.vault.revoke_caller(caller.id).await.unwrap();
    assert!(matches!(fixture.vault.authenticate(&token), Err(Error::Unauthenticated)));
    assert!(matches!(fixture.vault.revoke_caller(caller.id).await, Err(Error::NotFound(_))));
    assert!(fixture.vault.callers().unwrap().is_empty());
}

#[tokio::test]
async fn a_full_disk_refuses_and_shreds_still_finish_later() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[PHONE]).await.unwrap();
    fixture.store.fail_next_commit(Fault::Full);
    assert!(matches!(fixture.put("b", &[PHONE]).await, Err(Error::DiskFull)));
    assert!(matches!(fixture.read("b", "phone").await, Err(Error::UnknownSubject)));
    fixture.put("b", &[PHONE]).await.unwrap();
    let erasure = fixture.vault.shred(erasure_of(vec![id("a")]), None).await.unwrap().made;
    // Whether the fault meets the root batch or the note after it, the shred becomes final by itself.
    fixture.store.fail_next_commit(Fault::Full);
    let done = fixture.vault.wait_final(erasure.id, Duration::from_secs(20)).await.unwrap();
    assert_eq!(done.counts.r#final + done.counts.refused, 1);
    assert!(matches!(fixture.read("a", "phone").await, Err(Error::Shredded)));
}

#[tokio::test]
async fn a_commit_in_doubt_stops_the_vault_and_recovery_decides() {
    for (fault, landed) in [(Fault::InDoubtLanded, true), (Fault::InDoubtLost, false)] {
        let mut fixture = Fixture::new().await;
        fixture.put("a", &[PHONE]).await.unwrap();
        fixture.store.fail_next_commit(fault);
        assert!(matches!(fixture.put("b", &[EMAIL]).await, Err(Error::Failed)));
        fixture.vault.failed().await;
        assert!(matches!(fixture.put("c", &[EMAIL]).await, Err(Error::Failed)), "nothing is acknowledged any more");
        fixture.restart().await;
        assert_eq!(fixture.read("a", "phone").await.unwrap(), PHONE.1);
        assert_eq!(fixture.read("b", "email").await.is_ok(), landed);
        fixture.put("c", &[EMAIL]).await.unwrap();
    }
}

#[tokio::test]
async fn a_refused_shred_is_finished_after_a_restart() {
    let mut fixture = Fixture::new().await;
    fixture.put("a", &[PHONE]).await.unwrap();
    // No slot, no root batch: the shred stays refused.
    let (path, aside) = (slot(&fixture.dir), fixture.dir.path().join("aside"));
    std::fs::rename(&path, &aside).unwrap();
    let erasure = fixture
        .vault
        .shred(NewErasure { reference: Some("ticket 7".into()), ..erasure_of(vec![id("a")]) }, None)
        .await
        .unwrap()
        .made;
    let waiting = fixture.vault.wait_final(erasure.id, Duration::from_millis(300)).await.unwrap();
    assert_eq!((waiting.counts.refused, waiting.f1_at), (1, None));
    assert!(waiting.waiting_for[0].contains("root.slot"), "{:?}", waiting.waiting_for);
    assert_eq!(waiting.items.len(), 1);
    assert!(matches!(fixture.read("a", "phone").await, Err(Error::Shredded)));
    let forget = fixture.vault.forget_field(&id("a"), &name("phone"), None).await;
    assert!(matches!(forget, Err(Error::Shredded)));
    fixture.vault.close().await.unwrap();
    std::fs::rename(&aside, &path).unwrap();
    fixture.restart().await;
    let done = fixture.vault.wait_final(erasure.id, Duration::from_secs(20)).await.unwrap();
    assert_eq!((done.counts.r#final, done.counts.refused), (1, 0));
    assert!(done.f1_at.is_some() && done.items.is_empty());
}

#[tokio::test]
async fn a_store_without_its_meta_or_with_another_vaults_does_not_start() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[PHONE]).await.unwrap();
    let emptied = fixture.open(Arc::new(MemoryStore::new())).await;
    assert!(matches!(emptied, Err(Error::Damaged(_))));
    let other = Fixture::new().await;
    assert!(matches!(fixture.open(other.store.clone()).await, Err(Error::Slot(_))));
    let paths = [fixture.dir.path().join("new.slot").into()];
    let again = Vault::create(
        fixture.store.clone(),
        &paths,
        vec![NewUnlock::KeyFile(fixture.key.duplicate())],
        VaultOptions::default(),
    );
    assert!(matches!(again.await, Err(Error::Exists(_))));
}

#[tokio::test]
async fn an_older_store_is_refused_in_plain_words() {
    let fixture = Fixture::new().await;
    fixture.put("a", &[PHONE]).await.unwrap();
    let old = Arc::new(fixture.store.fork());
    fixture.shred(&["a"]).await;
    fixture.vault.close().await.unwrap();
    let stale = fixture.open(old).await.unwrap();
    let refused = stale.unlock(Unlock::KeyFile(fixture.key.duplicate())).await.unwrap_err();
    assert!(refused.to_string().contains("older than its slot"), "{refused}");
}
