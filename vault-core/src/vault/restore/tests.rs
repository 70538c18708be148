//! Vaults restored from backups: the living open, the shredded do not, and what is not whole or not current is refused.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::backup::{Index, Plane, Recipients};
use crate::root::Unlock;
use crate::store::{Fault, MemoryStore};
use crate::vault::tests::{Fixture, changes, erasure_of, full, id, name, slot};
use crate::vault::{BackedUp, BackupAsk, DeksOf, Layer, NewRotation, PutOptions};

const PHONE: (&str, &str) = ("phone", r#""+971501238301""#);
const OTHER_PHONE: (&str, &str) = ("phone", r#""+971501238302""#);
const NAME: (&str, &str) = ("name", r#""Ada""#);

/// A vault, and where its archives lie.
struct Bed {
    fixture: Fixture,
    identities: Arc<Identities>,
    recipients: Recipients,
    archives: TempDir,
}

impl Bed {
    async fn new() -> Self {
        let (identities, recipients) = Identities::draw();
        let (fixture, archives) = (Fixture::new().await, tempfile::tempdir().unwrap());
        Self { fixture, identities: Arc::new(identities), recipients, archives }
    }

    /// With these subjects, each with a name and a phone number.
    async fn with(subjects: &[&str]) -> Self {
        let bed = Self::new().await;
        for subject in subjects {
            bed.fixture.put(subject, &[NAME, PHONE]).await.unwrap();
        }
        bed
    }

    async fn back_up_as(&self, change: impl FnOnce(&mut BackupAsk), plane: Plane) -> (PathBuf, BackedUp) {
        let mut ask = BackupAsk::new(plane, self.recipients.clone());
        change(&mut ask);
        let mut bytes = Vec::new();
        let done = self.fixture.vault.back_up(&ask, &mut bytes, &|_, _| {}).await.unwrap();
        let path = self.archives.path().join(ask.id.to_string());
        std::fs::write(&path, bytes).unwrap();
        (path, done)
    }

    async fn data(&self) -> PathBuf {
        self.back_up_as(|_| {}, Plane::Data).await.0
    }

    async fn keys(&self) -> PathBuf {
        self.back_up_as(|_| {}, Plane::Keys).await.0
    }

    /// A key plane whose root is retained, confirmed.
    async fn kept_keys(&self) -> PathBuf {
        let (path, done) = self.back_up_as(|ask| ask.retain = true, Plane::Keys).await;
        self.fixture.vault.keep_backup(done.info.backup()).await.unwrap();
        path
    }

    /// Copies of the slot and of what lies beside it, as they are now.
    fn slots(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(self.fixture.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        copy
    }

    fn ask(&self, store: &MemoryStore, slots: &TempDir, data: &[&Path], keys: &Path) -> RestoreAsk {
        RestoreAsk {
            store: Arc::new(store.fork()),
            places: vec![slot(slots).into()],
            identities: self.identities.clone(),
            keys: keys.to_owned(),
            data: data.iter().map(|path| (*path).to_owned()).collect(),
            options: VaultOptions::default(),
            accept_unknown_refusals: false,
        }
    }

    async fn restore_from(&self, ask: &RestoreAsk) -> Result<(Vault, RestoreReport), Error> {
        let unlock = Unlock::KeyFile(self.fixture.key.duplicate());
        let outcome = Vault::restore(ask, unlock, &|_, _| {}).await;
        if let Ok((_, report)) = &outcome {
            assert_eq!(report.verify.problems, Vec::<String>::new());
        }
        outcome
    }

    async fn restore(&self, data: &[&Path], keys: &Path) -> Result<(Vault, RestoreReport), Error> {
        let slots = self.slots();
        self.restore_from(&self.ask(&MemoryStore::new(), &slots, data, keys)).await
    }

    async fn refusal(&self, data: &[&Path], keys: &Path) -> BackupError {
        match self.restore(data, keys).await {
            Err(Error::Backup(error)) => error,
            Err(other) => panic!("refused by another error: {other}"),
            Ok(_) => panic!("it was restored"),
        }
    }

    /// Asks for a shred, and does not wait.
    async fn begin_shred(&self, subject: &str) -> crate::ids::ErasureId {
        self.fixture.vault.shred(erasure_of(vec![id(subject)]), None).await.unwrap().made.id
    }
}

async fn read(vault: &Vault, subject: &str, field: &str) -> Result<String, Error> {
    let outcome = vault.read_fields(&id(subject), Some(&[name(field)]), &full()).await?;
    Ok(outcome.fields[0].value.to_string())
}

async fn found(vault: &Vault, value: &str) -> Vec<String> {
    let page = vault.look_up(&full().reader, &name("phone"), value, None, None, 100).await.unwrap();
    let mut found: Vec<String> = page.subjects.iter().map(|s| s.as_str().to_owned()).collect();
    found.sort();
    found
}

#[tokio::test]
async fn an_old_data_plane_with_todays_key_plane_serves_the_living_and_nobody_else() {
    let bed = Bed::with(&["a", "b", "c"]).await;
    let data = bed.data().await;
    let (keys_then, slots_then) = (bed.keys().await, bed.slots());
    assert!(bed.fixture.shred(&["b"]).await.f1_at.is_some());
    bed.fixture.put("d", &[NAME]).await.unwrap();
    bed.fixture.put("c", &[OTHER_PHONE]).await.unwrap();
    let keys = bed.keys().await;

    let (restored, report) = bed.restore(&[&data], &keys).await.unwrap();
    assert_eq!(read(&restored, "a", "phone").await.unwrap(), PHONE.1);
    assert!(matches!(read(&restored, "b", "phone").await, Err(Error::Shredded)));
    assert!(matches!(read(&restored, "d", "name").await, Err(Error::NoSuchField)));
    assert_eq!((report.left_out, report.left_out_subjects, report.missing), (1, 1, 1));
    assert_eq!(read(&restored, "c", "phone").await.unwrap(), PHONE.1, "the old data plane has the old value");
    assert_eq!(found(&restored, PHONE.1).await, ["a", "c"], "lookups follow the data");
    assert_eq!(found(&restored, OTHER_PHONE.1).await, Vec::<String>::new());
    assert_eq!(report.lookups_mended, 1);
    let drill = restored.drill(&data, &bed.identities).await.unwrap();
    assert_eq!(drill.problems, Vec::<String>::new());
    assert_eq!((drill.living_opened, drill.dead_refused, drill.rows_tried), (3, 1, 1));

    let older = bed.refusal(&[&data], &keys_then).await;
    assert!(matches!(older, BackupError::Older { archive_epoch: 1, slot_epoch: 2, .. }), "{older}");
    // The control: with the slot as it was, the key plane of then brings the subject back.
    let ask = bed.ask(&MemoryStore::new(), &slots_then, &[&data], &keys_then);
    let (revived, _) = bed.restore_from(&ask).await.unwrap();
    assert_eq!(read(&revived, "b", "phone").await.unwrap(), PHONE.1);
}

#[tokio::test]
async fn a_restored_vault_goes_on_and_its_archives_are_not_current_any_more() {
    let bed = Bed::with(&["a", "b"]).await;
    let (data, keys, slots) = (bed.data().await, bed.keys().await, bed.slots());
    let ask = bed.ask(&MemoryStore::new(), &slots, &[&data], &keys);
    let (restored, _) = bed.restore_from(&ask).await.unwrap();
    restored.close().await.unwrap();

    let again = Vault::open(ask.store.clone(), &ask.places, VaultOptions::default()).await.unwrap();
    again.unlock(Unlock::KeyFile(bed.fixture.key.duplicate())).await.unwrap();
    again.put_fields(&id("c"), changes(&[NAME]), &PutOptions::default()).await.unwrap();
    let erasure = again.shred(erasure_of(vec![id("b")]), None).await.unwrap().made.id;
    assert!(again.wait_final(erasure, Duration::from_secs(20)).await.unwrap().f1_at.is_some());
    assert_eq!(read(&again, "a", "name").await.unwrap(), NAME.1);
    again.lock().await.unwrap();

    let second = RestoreAsk { store: Arc::new(MemoryStore::new()), ..ask };
    let refused = bed.restore_from(&second).await;
    assert!(matches!(refused, Err(Error::Backup(BackupError::Older { .. }))));
}

#[tokio::test]
async fn a_retained_root_covers_a_key_plane_that_lags_and_shreds_wait_for_it() {
    let mut bed = Bed::with(&["a", "b", "c"]).await;
    let (data, keys) = (bed.data().await, bed.kept_keys().await);
    let erasure = bed.begin_shred("b").await;
    bed.fixture.rotate(Layer::Root).await;
    let waiting = bed.fixture.vault.erasure(erasure).await.unwrap();
    assert_eq!(waiting.f1_at, None);
    assert!(waiting.waiting_for.iter().any(|why| why.contains("back up the key plane")), "{:?}", waiting.waiting_for);
    assert!(matches!(bed.fixture.read("b", "phone").await, Err(Error::Shredded)));
    bed.fixture.restart().await;
    assert_eq!(bed.fixture.vault.retained().map(|root| root.epoch), Some(1));
    assert_eq!(bed.fixture.vault.erasure(erasure).await.unwrap().f1_at, None, "a restart makes nothing final");

    let (restored, report) = bed.restore(&[&data], &keys).await.unwrap();
    assert!(report.retained && report.refused_again == 1, "{report:?}");
    assert!(matches!(read(&restored, "b", "phone").await, Err(Error::Shredded)));
    assert_eq!(read(&restored, "a", "phone").await.unwrap(), PHONE.1);
    restored.lock().await.unwrap();

    // Without the list of refusals a restore says so, and only when told to brings the subject back.
    let slots = bed.slots();
    remove_refusals(&slots);
    let mut ask = bed.ask(&MemoryStore::new(), &slots, &[&data], &keys);
    let refused = bed.restore_from(&ask).await;
    assert!(matches!(refused, Err(Error::Backup(BackupError::UnknownRefusals { .. }))));
    ask.accept_unknown_refusals = true;
    let (restored, report) = bed.restore_from(&ask).await.unwrap();
    assert!(report.unknown_refusals);
    assert_eq!(read(&restored, "b", "phone").await.unwrap(), PHONE.1, "the control: the list is what keeps it dead");

    // The next backup that is kept lets the shred become final, and the one before opens no more.
    bed.kept_keys().await;
    let done = bed.fixture.vault.wait_final(erasure, Duration::from_secs(20)).await.unwrap();
    assert!(done.f1_at.is_some());
    assert!(matches!(bed.refusal(&[&data], &keys).await, BackupError::Older { .. }));
    let left = bed.begin_shred("c").await;
    bed.fixture.vault.forget_retained().await.unwrap();
    assert!(bed.fixture.vault.wait_final(left, Duration::from_secs(20)).await.unwrap().f1_at.is_some());
    let files = std::fs::read_dir(bed.fixture.dir.path()).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(files.filter(|path| path.extension().is_some_and(|kind| kind == "refusals")).count(), 0);
}

#[tokio::test]
async fn the_refusals_of_a_retained_root_count_also_while_it_is_the_current_one() {
    let bed = Bed::with(&["a", "b"]).await;
    let (data, keys) = (bed.data().await, bed.kept_keys().await);
    let slots = bed.slots();
    // Refused, and before the root batch that goes on with it.
    let erasure = bed.begin_shred("b").await;
    let refusals = slots.path().join("root.slot.1.refusals");
    std::fs::copy(bed.fixture.dir.path().join("root.slot.1.refusals"), &refusals).unwrap();
    let (restored, report) = bed.restore_from(&bed.ask(&MemoryStore::new(), &slots, &[&data], &keys)).await.unwrap();
    assert_eq!((report.refused_again, report.subjects), (1, 2), "{report:?}");
    assert!(matches!(read(&restored, "b", "phone").await, Err(Error::Shredded)));
    restored.lock().await.unwrap();

    let slots = bed.slots();
    remove_refusals(&slots);
    let refused = bed.restore_from(&bed.ask(&MemoryStore::new(), &slots, &[&data], &keys)).await;
    assert!(matches!(refused, Err(Error::Backup(BackupError::UnknownRefusals { .. }))));
    assert_eq!(bed.fixture.vault.erasure(erasure).await.unwrap().f1_at, None);
}

#[tokio::test]
async fn a_list_counts_also_if_its_root_never_came_to_be_retained_in_the_slots() {
    let bed = Bed::with(&["a", "b"]).await;
    // A slot that stopped answering before the backup began.
    let slots = bed.slots();
    let (data, (keys, _)) = (bed.data().await, bed.back_up_as(|ask| ask.retain = true, Plane::Keys).await);
    bed.begin_shred("b").await;
    for noted in [true, false] {
        let refusals = slots.path().join("root.slot.1.refusals");
        match noted {
            true => drop(std::fs::copy(bed.fixture.dir.path().join("root.slot.1.refusals"), &refusals).unwrap()),
            false => remove_refusals(&slots),
        }
        let ask = bed.ask(&MemoryStore::new(), &slots, &[&data], &keys);
        let slot_before = std::fs::read(slot(&slots)).unwrap();
        let (restored, report) = bed.restore_from(&ask).await.unwrap();
        assert_eq!((report.retained, report.refused_again), (false, u64::from(noted)), "{report:?}");
        assert_eq!(matches!(read(&restored, "b", "phone").await, Err(Error::Shredded)), noted);
        restored.lock().await.unwrap();
        std::fs::write(slot(&slots), slot_before).unwrap();
    }
}

#[tokio::test]
async fn an_old_data_plane_opens_after_a_rotation_of_data_keys_unless_they_were_forgotten() {
    let big = format!(r#""{}""#, "x".repeat(6000));
    let bed = Bed::with(&["a", "b"]).await;
    bed.fixture.put("a", &[("home_address", &big)]).await.unwrap();
    let data = bed.data().await;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        bed.fixture.rotate(NewRotation::Deks { which: DeksOf::All, forget: false }).await;
    }
    let (restored, report) = bed.restore(&[&data], &bed.keys().await).await.unwrap();
    assert_eq!((report.unreadable, report.missing, report.rows), (0, 0, 3), "{report:?}");
    assert_eq!(read(&restored, "a", "phone").await.unwrap(), PHONE.1);
    assert_eq!(read(&restored, "a", "home_address").await.unwrap(), big);
    assert_eq!(found(&restored, PHONE.1).await, ["a", "b"]);
    restored.lock().await.unwrap();

    tokio::time::sleep(Duration::from_millis(5)).await;
    bed.fixture.rotate(NewRotation::Deks { which: DeksOf::All, forget: true }).await;
    let (restored, report) = bed.restore(&[&data], &bed.keys().await).await.unwrap();
    assert_eq!(report.unreadable, 2, "the control: nothing leads to them any more");
    assert!(matches!(read(&restored, "a", "phone").await, Err(Error::NoSuchField)));
}

#[tokio::test]
async fn a_key_plane_of_a_rotation_of_lookups_is_brought_up_to_the_data_whatever_it_was_at() {
    let bed = Bed::with(&["a", "b"]).await;
    let more: Vec<String> = (0..300).map(|n| format!("s{n}")).collect();
    for subject in &more {
        bed.fixture.put(subject, &[NAME]).await.unwrap();
    }
    let data = bed.data().await;
    bed.fixture.put("a", &[OTHER_PHONE]).await.unwrap();
    bed.fixture.vault.rotate(NewRotation::Lookups, Some(1), None).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (half, _) = bed.back_up_as(|_| {}, Plane::Keys).await;
    let (restored, report) = bed.restore(&[&data], &half).await.unwrap();
    assert!(report.lookups_mended >= 1, "{report:?}");
    // The data is older than the change.
    assert_eq!(found(&restored, PHONE.1).await, ["a", "b"]);
    assert_eq!(found(&restored, OTHER_PHONE.1).await, [""; 0]);
    restored.lock().await.unwrap();

    let running = bed.fixture.vault.rotations().await.unwrap()[0].id;
    bed.fixture.vault.change_rotation(running, None, Some(100_000)).await.unwrap();
    bed.fixture.ended(running).await;
    let (restored, _) = bed.restore(&[&data], &bed.keys().await).await.unwrap();
    assert_eq!(found(&restored, PHONE.1).await, ["a", "b"]);
    assert_eq!(found(&restored, OTHER_PHONE.1).await, [""; 0]);
}

fn remove_refusals(slots: &TempDir) {
    for entry in std::fs::read_dir(slots.path()).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.extension().is_some_and(|kind| kind == "refusals") {
            std::fs::remove_file(entry).unwrap();
        }
    }
}

#[tokio::test]
async fn a_backup_that_nobody_confirms_retains_nothing_after_a_restart() {
    let mut bed = Bed::with(&["a", "b"]).await;
    let (data, (keys, done)) = (bed.data().await, bed.back_up_as(|ask| ask.retain = true, Plane::Keys).await);
    let erasure = bed.begin_shred("b").await;
    bed.fixture.rotate(Layer::Root).await;
    assert_eq!(bed.fixture.vault.erasure(erasure).await.unwrap().f1_at, None, "it may still be confirmed");
    bed.fixture.restart().await;
    let shredded = bed.fixture.vault.wait_final(erasure, Duration::from_secs(20)).await.unwrap();
    assert!(shredded.f1_at.is_some());
    assert!(matches!(bed.fixture.vault.keep_backup(done.info.backup()).await, Err(Error::NotFound(_))));
    assert!(matches!(bed.refusal(&[&data], &keys).await, BackupError::Older { .. }));
}

#[tokio::test]
async fn increments_bring_what_changed_and_what_went() {
    let bed = Bed::with(&["a", "b", "c"]).await;
    let (base, first) = bed.back_up_as(|_| {}, Plane::Data).await;
    bed.fixture.put("a", &[OTHER_PHONE]).await.unwrap();
    bed.fixture.put("d", &[NAME]).await.unwrap();
    bed.fixture.shred(&["c"]).await;
    let index = Index::decode(&first.index.unwrap().encode());
    let (increment, second) = bed.back_up_as(|ask| ask.base = index, Plane::Data).await;
    assert_eq!((second.manifest.rows, second.manifest.gone), (2, 1), "only what changed");
    let keys = bed.keys().await;
    let (restored, report) = bed.restore(&[&base, &increment], &keys).await.unwrap();
    assert_eq!(read(&restored, "a", "phone").await.unwrap(), OTHER_PHONE.1);
    assert_eq!(read(&restored, "d", "name").await.unwrap(), NAME.1);
    assert_eq!(report.missing, 0);
    restored.lock().await.unwrap();
    for order in [&[&*increment][..], &[&*increment, &*base], &[&*base, &*base]] {
        assert!(matches!(bed.refusal(order, &keys).await, BackupError::OutOfOrder { .. }));
    }
}

#[tokio::test]
async fn what_does_not_belong_together_is_refused_before_anything_is_written() {
    let (bed, other) = (Bed::with(&["a"]).await, Bed::with(&["x"]).await);
    let (data, keys) = (bed.data().await, bed.keys().await);
    assert!(matches!(bed.refusal(&[&keys], &data).await, BackupError::WrongPlane { .. }));
    assert!(matches!(bed.refusal(&[&keys], &keys).await, BackupError::WrongPlane { .. }));
    let (slots, store) = (bed.slots(), MemoryStore::new());
    let mut ask = bed.ask(&store, &slots, &[&data], &keys);
    ask.identities = other.identities.clone();
    assert!(matches!(bed.restore_from(&ask).await, Err(Error::Backup(BackupError::NotForUs { .. }))));
    ask.identities = bed.identities.clone();
    ask.data = vec![{
        let mut foreign = BackupAsk::new(Plane::Data, bed.recipients.clone());
        foreign.id = crate::ids::BackupId([9; 16]);
        let mut bytes = Vec::new();
        other.fixture.vault.back_up(&foreign, &mut bytes, &|_, _| {}).await.unwrap();
        let path = bed.archives.path().join("foreign");
        std::fs::write(&path, bytes).unwrap();
        path
    }];
    assert!(matches!(bed.restore_from(&ask).await, Err(Error::Backup(BackupError::OtherVault { .. }))));
    let whole = std::fs::read(&data).unwrap();
    ask.data = vec![bed.archives.path().join("cut")];
    for len in [0, 10, 300, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&ask.data[0], &whole[..len]).unwrap();
        assert!(matches!(bed.restore_from(&ask).await, Err(Error::Backup(_))), "cut to {len}");
    }
    assert!(ask.store.scan(&[], None, 1).await.unwrap().is_empty(), "nothing was written by any of them");
    assert_eq!(std::fs::read(slot(&slots)).unwrap(), std::fs::read(slot(&bed.fixture.dir)).unwrap());
    ask.data = vec![data];
    assert!(bed.restore_from(&ask).await.is_ok(), "the control: as they belong they are taken");
    let again = bed.restore_from(&ask).await;
    assert!(matches!(again, Err(Error::Backup(BackupError::NotEmpty))));
}

#[tokio::test]
async fn a_restore_that_was_cut_short_is_told_and_run_again() {
    let bed = Bed::with(&["a", "b"]).await;
    let (data, keys, slots) = (bed.data().await, bed.keys().await, bed.slots());
    let unlock = || Unlock::KeyFile(bed.fixture.key.duplicate());
    let mut whole = None;
    for commits in 0..40 {
        let store = Arc::new(MemoryStore::new());
        let ask = RestoreAsk { store: store.clone(), ..bed.ask(&MemoryStore::new(), &slots, &[&data], &keys) };
        store.fail_commit_after(commits, Fault::InDoubtLost);
        match Vault::restore(&ask, unlock(), &|_, _| {}).await {
            Ok((restored, _)) => {
                whole = Some((commits, restored));
                break;
            }
            Err(_) => {
                // As the machine that stopped then left it.
                let left = Arc::new(store.fork());
                if left.rows() > 0 {
                    let opened = Vault::open(left.clone(), &ask.places, VaultOptions::default()).await;
                    assert!(matches!(opened, Err(Error::Backup(BackupError::Unfinished))), "after {commits} commits");
                }
                let copy = tempfile::tempdir().unwrap();
                std::fs::copy(slot(&slots), slot(&copy)).unwrap();
                let again = RestoreAsk { store: left, places: vec![slot(&copy).into()], ..ask };
                let (restored, _) = Vault::restore(&again, unlock(), &|_, _| {}).await.unwrap();
                assert_eq!(read(&restored, "a", "phone").await.unwrap(), PHONE.1, "after {commits} commits");
            }
        }
    }
    let (commits, restored) = whole.expect("a restore has fewer commits than that");
    assert!(commits > 3, "only {commits} commits were cut short");
    assert_eq!(read(&restored, "b", "phone").await.unwrap(), PHONE.1);
}

#[tokio::test]
async fn a_restore_that_fails_at_its_end_again_and_again_costs_no_root() {
    let bed = Bed::with(&["a", "b"]).await;
    let (data, keys) = (bed.data().await, bed.kept_keys().await);
    bed.begin_shred("b").await;
    bed.fixture.rotate(Layer::Root).await;
    let unlock = || Unlock::KeyFile(bed.fixture.key.duplicate());
    let attempt = async |slots: &TempDir, commits| {
        let store = Arc::new(MemoryStore::new());
        store.fail_commit_after(commits, Fault::InDoubtLost);
        let ask = RestoreAsk { store, ..bed.ask(&MemoryStore::new(), slots, &[&data], &keys) };
        Vault::restore(&ask, unlock(), &|_, _| {}).await.is_ok()
    };
    let mut needed = 0;
    while !attempt(&bed.slots(), needed).await {
        needed += 1;
    }
    let slots = bed.slots();
    for _ in 0..5 {
        assert!(!attempt(&slots, needed - 1).await);
    }
    let (restored, report) = bed.restore_from(&bed.ask(&MemoryStore::new(), &slots, &[&data], &keys)).await.unwrap();
    assert!(report.retained && report.refused_again == 1);
    assert_eq!(read(&restored, "a", "phone").await.unwrap(), PHONE.1);
}

#[tokio::test]
async fn a_large_field_outlives_its_row_being_sealed_anew_behind_the_key_plane() {
    let bed = Bed::with(&["a"]).await;
    let big = format!(r#""{}""#, "x".repeat(6000));
    bed.fixture.put("a", &[("home_address", &big)]).await.unwrap();
    let (base, first) = bed.back_up_as(|_| {}, Plane::Data).await;
    let keys = bed.kept_keys().await;
    bed.fixture.vault.forget_field(&id("a"), &name("name"), None).await.unwrap();
    let (increment, _) = bed.back_up_as(|ask| ask.base = first.index, Plane::Data).await;
    let (restored, report) = bed.restore(&[&base, &increment], &keys).await.unwrap();
    assert_eq!((report.unreadable, report.missing, report.rows), (0, 0, 2), "{report:?}");
    assert_eq!(read(&restored, "a", "home_address").await.unwrap(), big);
    assert_eq!(read(&restored, "a", "phone").await.unwrap(), PHONE.1);
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_of_a_busy_vault_are_whole() {
    let bed = Bed::with(&["a"]).await;
    let many: Vec<String> = (0..60).map(|n| format!("s{n}")).collect();
    for subject in &many {
        bed.fixture.put(subject, &[NAME, PHONE]).await.unwrap();
    }
    let stop = Arc::new(AtomicBool::new(false));
    let busy = |work: fn(Vault, usize) -> futures_like::Work| {
        let (vault, stop) = (bed.fixture.vault.clone(), stop.clone());
        tokio::spawn(async move {
            let mut turn = 0;
            while !stop.load(Ordering::Relaxed) {
                work(vault.clone(), turn).await;
                turn += 1;
            }
        })
    };
    let writer = busy(|vault, turn| {
        Box::pin(async move {
            let subject = id(&format!("w{}", turn % 200));
            let fields = changes(&[NAME, if turn % 2 == 0 { PHONE } else { OTHER_PHONE }]);
            // One that is being shredded is refused.
            let _ = vault.put_fields(&subject, fields, &PutOptions::default()).await;
        })
    });
    let shredder = busy(|vault, turn| {
        Box::pin(async move {
            let _ = vault.shred(erasure_of(vec![id(&format!("s{}", turn % 50))]), None).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        })
    });
    let rotation = bed.fixture.vault.rotate(Layer::Keks, Some(50), None).await.unwrap().made;
    for turn in 0..4 {
        let data = bed.data().await;
        let (keys, _) = bed.back_up_as(|ask| ask.retain = true, Plane::Keys).await;
        let slots = bed.slots();
        let ask = bed.ask(&MemoryStore::new(), &slots, &[&data], &keys);
        let (restored, report) = bed.restore_from(&ask).await.unwrap();
        assert_eq!(report.unreadable, 0, "turn {turn}");
        assert_eq!(read(&restored, "a", "phone").await.unwrap(), PHONE.1, "turn {turn}");
        assert_eq!(read(&restored, "s55", "phone").await.unwrap(), PHONE.1, "turn {turn}");
        restored.lock().await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    shredder.await.unwrap();
    // However slow the machine, the rotation goes on.
    for _ in 0..2000 {
        if bed.fixture.vault.rotation(rotation.id).await.unwrap().done > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the rotation stands still");
}

mod futures_like {
    /// One turn of somebody who keeps the vault busy.
    pub(super) type Work = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
}
