//! What the log is told of shreds: each subject once, whatever happens in between, and what it says is so.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use super::evidence::{self, subject_salt};
use super::tests::{Fixture, erasure_of, id, name, slot};
use super::{Layer, Vault, VaultOptions};
use crate::audit::{Action, Digest, Entry, Level, Log, LogReport, Shred, ToldErasure};
use crate::certificate::{check, subject_commitment};
use crate::crypto::digest;
use crate::error::Error;
use crate::ids::{BackupId, CallerId, ErasureId, HoldName};
use crate::root::{FileSlot, RootEntry, RootSlot, Unlock};
use crate::store::{Fault, MemoryStore, Store};
use crate::time::Timestamp;
use crate::trie::Header;

const WAIT: Duration = Duration::from_secs(20);

impl Fixture {
    fn logged(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        self.log.scan(0..self.log.size(), |_, bytes| entries.push(Entry::decode(bytes).unwrap())).unwrap();
        entries
    }

    fn shreds(&self) -> Vec<(ErasureId, Shred)> {
        let shredded =
            |entry: Entry| (entry.what == Action::Shredded).then(|| (entry.erasure.unwrap(), entry.shred.unwrap()));
        self.logged().into_iter().filter_map(shredded).collect()
    }

    fn levels(&self, erasure: ErasureId) -> Vec<Level> {
        self.logged().into_iter().filter(|e| e.erasure == Some(erasure)).filter_map(|e| e.level).collect()
    }

    async fn commitment(&self, erasure: ErasureId, subject: &str) -> Digest {
        let session = self.vault.session().unwrap();
        let record = super::erase::find(&self.vault.inner, &session.snapshot().header, erasure).await.unwrap();
        subject_commitment(&subject_salt(record.salts().unwrap(), &id(subject)), &erasure.0, subject)
    }

    async fn root(&self) -> RootEntry {
        let slot = FileSlot::open(&slot(&self.dir)).unwrap();
        slot.unlock(&Unlock::KeyFile(self.key.duplicate())).unwrap();
        slot.read().await.unwrap().entries.pop().unwrap()
    }

    async fn header_digest(&self) -> Digest {
        let row = Header::row_key(&self.root().await.key);
        Digest(digest(&self.store.get(&row).await.unwrap().unwrap()))
    }

    pub(super) async fn enrol(&self, subjects: &[&str]) {
        for subject in subjects {
            self.put(subject, &[("nickname", r#""x""#)]).await.unwrap();
        }
    }
}

#[tokio::test]
async fn each_subject_is_told_once_with_what_was_destroyed() {
    let fixture = Fixture::on(Arc::new(MemoryStore::keeping())).await;
    fixture.enrol(&["a", "b", "c"]).await;
    // The first erasure there is gives the header a page for all of them.
    fixture.shred(&["nobody"]).await;
    let before = (fixture.vault.status().epoch.unwrap(), fixture.header_digest().await);
    let erasure = fixture.shred(&["a", "b", "nobody"]).await;
    let after = (fixture.vault.status().epoch.unwrap(), fixture.header_digest().await);
    assert_eq!((erasure.counts.r#final, erasure.counts.unknown), (2, 1));

    let shreds = fixture.shreds();
    let mut named: Vec<Digest> = shreds.iter().map(|(_, shred)| shred.commitment).collect();
    let mut expected = [fixture.commitment(erasure.id, "a").await, fixture.commitment(erasure.id, "b").await];
    named.sort_by_key(|digest| digest.0);
    expected.sort_by_key(|digest| digest.0);
    assert_eq!(named, expected);
    for (of, shred) in &shreds {
        assert_eq!(*of, erasure.id);
        assert_eq!((shred.epochs, shred.headers), ([before.0, after.0], [before.1, after.1]));
        assert_eq!(shred.slots, [slot(&fixture.dir).display().to_string()]);
        assert!(shred.f0_at <= shred.f1_at && erasure.f0_at <= Some(shred.f0_at));
    }
    assert_eq!(fixture.levels(erasure.id), [Level::F1, Level::F3]);
    let ended = fixture.logged().into_iter().rev().find_map(|entry| entry.request).unwrap();
    assert_eq!((ended.total, ended.r#final, ended.unknown), (3, 2, 1));
    // Nothing is left to be told, and telling again tells nothing.
    evidence::tell(&fixture.vault.inner, &fixture.vault.session().unwrap(), None).await.unwrap();
    assert_eq!(fixture.shreds().len(), 2);
    assert_eq!(fixture.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn nothing_is_told_before_every_slot_has_forgotten_the_old_root() {
    let mut fixture = Fixture::new().await;
    fixture.enrol(&["a", "b"]).await;
    let away = fixture.dir.path().join("away");
    std::fs::rename(slot(&fixture.dir), &away).unwrap();
    let erasure = fixture.vault.shred(erasure_of(vec![id("a")]), None).await.unwrap().made;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let waiting = fixture.vault.erasure(erasure.id).await.unwrap();
    assert_eq!((waiting.counts.refused, waiting.counts.r#final, waiting.f1_at), (1, 0, None));
    assert_eq!(fixture.shreds().len(), 0);
    // Nor does who lets a retained root go wait for the slot, also while the finalizer waits for it from before.
    let forgetting = async || tokio::time::timeout(WAIT, fixture.vault.forget_retained()).await.unwrap();
    // A field that waits for the next root meanwhile is refused, too.
    let (b, nickname) = (id("b"), name("nickname"));
    let field = tokio::time::timeout(WAIT, fixture.vault.forget_field(&b, &nickname, None));
    let (field, forgotten) = tokio::join!(field, forgetting());
    assert!(matches!(field.unwrap(), Err(Error::Slot(_))));
    forgotten.unwrap();
    let again = forgetting().await;
    assert!(matches!(again, Err(Error::Slot(_))), "{again:?}");
    let dropping = tokio::time::timeout(WAIT, fixture.vault.drop_backup(BackupId([7; 16]))).await.unwrap();
    assert!(matches!(dropping, Err(Error::Slot(_))), "{dropping:?}");
    std::fs::rename(&away, slot(&fixture.dir)).unwrap();
    fixture.restart().await;
    assert!(fixture.vault.wait_final(erasure.id, WAIT).await.unwrap().f1_at.is_some());
    assert_eq!(fixture.shreds().len(), 1);
}

#[tokio::test]
async fn a_crash_between_the_root_batch_and_its_telling_tells_once() {
    // The commits after the refusal: the root batch, then the telling. Whether the one that fails landed or not.
    for fault in [Fault::InDoubtLanded, Fault::InDoubtLost] {
        for commits in [1, 2] {
            let mut fixture = Fixture::new().await;
            fixture.enrol(&["a", "b"]).await;
            fixture.store.fail_commit_after(commits, fault);
            let erasure = fixture.vault.shred(erasure_of(vec![id("a"), id("b")]), None).await.unwrap().made;
            tokio::time::timeout(WAIT, fixture.vault.failed()).await.unwrap();
            // What was told of a commit in doubt is told by the outbox if it landed, and was not told if it did not.
            fixture.vault.close().await.unwrap();
            fixture.vault = fixture.open(fixture.store.clone()).await.unwrap();
            fixture.vault.unlock(Unlock::KeyFile(fixture.key.duplicate())).await.unwrap();
            let ended = fixture.vault.wait_final(erasure.id, WAIT).await.unwrap();
            assert_eq!((ended.counts.r#final, ended.counts.refused), (2, 0), "{fault:?} {commits}");
            assert_eq!(fixture.shreds().len(), 2, "{fault:?} {commits}");
            assert_eq!(fixture.levels(erasure.id), [Level::F1, Level::F3], "{fault:?} {commits}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_retained_root_is_told_once_when_that_is_gone() {
    let fixture = Fixture::new().await;
    fixture.enrol(&["a", "b", "c", "d"]).await;
    let session = fixture.vault.session().unwrap();
    // Told by now, so that nothing looks at epochs up to this one any more.
    fixture.shred(&["a"]).await;
    let root = session.root.load_full();
    fixture.vault.inner.begin_retaining(&session, &root, BackupId([7; 16])).await.unwrap();
    let mut waiting = Vec::new();
    for subject in ["b", "c"] {
        waiting.push(fixture.vault.shred(erasure_of(vec![id(subject)]), None).await.unwrap().made.id);
        // Its root batch comes before the one of this.
        fixture.rotate(Layer::Deks).await;
    }
    let rows = evidence::rows(&*fixture.store).await.unwrap();
    assert_eq!((rows.len(), fixture.shreds().len()), (2, 1));
    fixture.vault.forget_retained().await.unwrap();
    for erasure in waiting {
        assert!(fixture.vault.wait_final(erasure, WAIT).await.unwrap().f1_at.is_some());
    }
    assert_eq!(fixture.shreds().len(), 3);
    fixture.shred(&["d"]).await;
    assert_eq!(fixture.shreds().len(), 4);
    assert_eq!(evidence::rows(&*fixture.store).await.unwrap(), []);
    assert_eq!(fixture.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_for_a_root_that_another_backup_released_is_told_with_the_next_root() {
    let fixture = Fixture::new().await;
    fixture.enrol(&["a", "b"]).await;
    let session = fixture.vault.session().unwrap();
    let retain = async |backup| {
        let root = session.root.load_full();
        fixture.vault.inner.begin_retaining(&session, &root, BackupId([backup; 16])).await.unwrap();
    };
    retain(7).await;
    let erasure = fixture.vault.shred(erasure_of(vec![id("a")]), None).await.unwrap().made.id;
    fixture.rotate(Layer::Deks).await;
    assert_eq!((evidence::rows(&*fixture.store).await.unwrap().len(), fixture.shreds().len()), (1, 0));
    retain(8).await;
    // Shreds nobody.
    fixture.rotate(Layer::Deks).await;
    assert!(fixture.vault.wait_final(erasure, WAIT).await.unwrap().f1_at.is_some());
    assert_eq!(fixture.shreds().len(), 1);
}

#[tokio::test]
async fn what_could_not_be_told_is_told_with_the_next_shred() {
    let fixture = Fixture::new().await;
    fixture.enrol(&["a", "b"]).await;
    // After the commits of the refusal and of the root batch.
    fixture.store.fail_commit_after(2, Fault::Full);
    let first = fixture.vault.shred(erasure_of(vec![id("a")]), None).await.unwrap().made;
    while fixture.store.will_fail() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((evidence::rows(&*fixture.store).await.unwrap().len(), fixture.shreds().len()), (1, 0));
    let second = fixture.shred(&["b"]).await;
    let first = fixture.vault.wait_final(first.id, WAIT).await.unwrap();
    for erasure in [&first, &second] {
        assert_eq!(erasure.counts.r#final, 1);
        assert_eq!(fixture.levels(erasure.id), [Level::F1, Level::F3]);
    }
    assert_eq!(fixture.shreds().len(), 2);
}

#[tokio::test]
async fn every_erasure_of_a_subject_has_evidence_of_its_own() {
    let mut fixture = Fixture::new().await;
    fixture.enrol(&["a"]).await;
    let away = fixture.dir.path().join("away");
    std::fs::rename(slot(&fixture.dir), &away).unwrap();
    let first = fixture.vault.shred(erasure_of(vec![id("a")]), None).await.unwrap().made;
    let second = fixture.vault.shred(erasure_of(vec![id("a")]), None).await.unwrap().made;
    std::fs::rename(&away, slot(&fixture.dir)).unwrap();
    fixture.restart().await;
    for erasure in [&first, &second] {
        assert!(fixture.vault.wait_final(erasure.id, WAIT).await.unwrap().f1_at.is_some());
        let made = fixture.vault.certificates(erasure.id, &[id("a"), id("b")]).await.unwrap();
        assert_eq!(made.iter().map(|one| one.subject.as_str()).collect::<Vec<_>>(), ["a"]);
        let checked = check(&made[0].certificate.encode(), Some(&fixture.log.vkey().unwrap())).unwrap();
        assert_eq!(checked.erasure, erasure.id);
        let whole = fixture.vault.certificate(erasure.id).await.unwrap().encode();
        assert_eq!(check(&whole, None).unwrap().request.unwrap().r#final, 1);
    }
    assert_eq!(fixture.shreds().len(), 2);
}

#[tokio::test]
async fn f2_is_noted_of_who_was_final_before_the_slots_were_rotated() {
    let fixture = Fixture::new().await;
    fixture.enrol(&["a", "b"]).await;
    let early = fixture.shred(&["a"]).await;
    let nobody = fixture.shred(&["nobody"]).await;
    let began = Timestamp::now();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let late = fixture.shred(&["b"]).await;
    let session = fixture.vault.session().unwrap();
    for _ in 0..2 {
        evidence::reach_f2(&fixture.vault.inner, &session, began).await.unwrap();
    }
    assert_eq!(fixture.levels(early.id), [Level::F1, Level::F3, Level::F2]);
    assert_eq!(fixture.levels(late.id), [Level::F1, Level::F3]);
    assert_eq!(fixture.levels(nobody.id), [Level::F1, Level::F3]);
    let certificate = fixture.vault.certificate(early.id).await.unwrap();
    assert_eq!(check(&certificate.encode(), None).unwrap().levels.len(), 3);
}

#[tokio::test]
async fn the_salts_of_an_erasure_go_with_its_tombstones() {
    let mut fixture = Fixture::new().await;
    fixture.enrol(&["a"]).await;
    let erasure = fixture.shred(&["a"]).await;
    assert_eq!(fixture.vault.certificates(erasure.id, &[id("a")]).await.unwrap().len(), 1);
    fixture.vault.close().await.unwrap();
    let options = VaultOptions { tombstone_seconds: 0, log: Some(fixture.log.clone()), ..VaultOptions::default() };
    fixture.vault = Vault::open(fixture.store.clone(), &[slot(&fixture.dir).into()], options).await.unwrap();
    fixture.vault.unlock(Unlock::KeyFile(fixture.key.duplicate())).await.unwrap();
    // A root batch tidies up on its way.
    fixture.rotate(Layer::Root).await;
    let answer = fixture.vault.certificates(erasure.id, &[id("a")]).await;
    assert!(matches!(answer, Err(Error::NotFound(_))));
    assert_eq!(fixture.vault.erasure(erasure.id).await.unwrap().counts.r#final, 1);
}

#[tokio::test]
async fn an_erasure_that_the_log_does_not_tell_is_found() {
    let fixture = Fixture::new().await;
    fixture.enrol(&["a", "b", "c"]).await;
    let erasure = fixture.shred(&["a", "b"]).await.id;
    let told = |shredded, ended| LogReport {
        erasures: [(erasure, ToldErasure { shredded, ended })].into(),
        size: fixture.log.size(),
        ..LogReport::default()
    };
    let problems = async |report: &LogReport| {
        let session = fixture.vault.session().unwrap();
        assert_eq!(super::outbox::all(&fixture.vault.inner, &session.snapshot().header).await.unwrap().len(), 0);
        fixture.vault.verify_log(report, &|size| fixture.log.root(size)).await.unwrap()
    };
    // Entries that are durable in the log leave the outbox with a later commit.
    for _ in 0..500 {
        let session = fixture.vault.session().unwrap();
        if super::outbox::all(&fixture.vault.inner, &session.snapshot().header).await.unwrap().is_empty() {
            break;
        }
        fixture.enrol(&["c"]).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(problems(&told(2, true)).await, Vec::<String>::new());
    assert!(problems(&told(1, true)).await[0].contains("2 subjects are final, the log tells of 1"));
    assert!(problems(&told(2, false)).await[0].contains("does not tell it"));
    let empty = LogReport { size: fixture.log.size(), ..LogReport::default() };
    assert_eq!(problems(&empty).await.len(), 2);
    let moved = LogReport { moved: 256, ..empty };
    assert_eq!(problems(&moved).await, Vec::<String>::new());
    let older = LogReport { size: 1, ..told(2, true) };
    assert!(problems(&older).await[0].contains("it is an older copy"));
}

#[tokio::test]
async fn who_takes_another_log_has_no_evidence_of_before_and_goes_on() {
    let mut fixture = Fixture::new().await;
    fixture.enrol(&["a", "b", "c"]).await;
    let erasure = fixture.shred(&["a", "b"]).await.id;
    // One that is final for one of two.
    let hold = HoldName::parse("case").unwrap();
    fixture.enrol(&["d", "e"]).await;
    fixture.vault.add_hold(&id("e"), &hold, "lawsuit", CallerId([7; 16])).await.unwrap();
    let half = fixture.vault.shred(erasure_of(vec![id("d"), id("e")]), None).await.unwrap().made.id;
    while fixture.vault.erasure(half).await.unwrap().counts.r#final < 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // So that a commit tells of the log.
    fixture.log.durable(fixture.log.size()).await.unwrap();
    fixture.enrol(&["f"]).await;
    fixture.vault.close().await.unwrap();
    let log = Log::open(&fixture.dir.path().join("another")).unwrap();
    let open = async |accept_loss| {
        let options = VaultOptions { accept_loss, log: Some(log.clone()), ..VaultOptions::default() };
        let vault = Vault::open(fixture.store.clone(), &[slot(&fixture.dir).into()], options).await.unwrap();
        let unlocked = vault.unlock(Unlock::KeyFile(fixture.key.duplicate())).await;
        (vault, unlocked)
    };
    let (vault, refused) = open(false).await;
    assert!(matches!(refused, Err(Error::OtherLog { entries: 0, had: 1.. })), "{refused:?}");
    vault.close().await.unwrap();

    let (vault, taken) = open(true).await;
    taken.unwrap();
    vault.lock().await.unwrap();
    fixture.vault = vault;
    fixture.log = log.clone();
    fixture.vault.unlock(Unlock::KeyFile(fixture.key.duplicate())).await.unwrap();
    fixture.vault.release_hold(&id("e"), &hold).await.unwrap();
    assert!(fixture.vault.wait_final(half, WAIT).await.unwrap().f1_at.is_some());
    let told = LogReport { size: log.size(), ..LogReport::default() };
    let problems = fixture.vault.verify_log(&told, &|size| log.root(size)).await.unwrap();
    assert_eq!(problems, Vec::<String>::new());
    for id in [erasure, half] {
        let answer = fixture.vault.certificate(id).await.unwrap_err();
        assert!(matches!(answer, Error::Conflict(told) if told.contains("is lost")), "{answer:?}");
    }
    // Nor is there one where nobody was, though nothing is lost.
    let nobody = fixture.shred(&["nobody"]).await.id;
    let answer = fixture.vault.certificate(nobody).await.unwrap_err();
    assert!(matches!(answer, Error::Conflict(told) if told.contains("nobody")), "{answer:?}");
    // What comes from here on is told again.
    let erasure = fixture.shred(&["c"]).await.id;
    fixture.vault.certificate(erasure).await.unwrap();
    fixture.restart().await;
    assert_eq!(fixture.vault.erasure(erasure).await.unwrap().counts.r#final, 1);
}
