//! Erasures that wait: for their time, for a hold, for a second person; and those that are taken back.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use crate::audit::Action;
use crate::error::Error;
use crate::ids::{CallerId, ErasureId, HoldName};
use crate::time::Timestamp;
use crate::vault::tests::{Fixture, erasure_of, id, slot};
use crate::vault::{ErasureState, NewErasure, VaultOptions};

const ASKER: CallerId = CallerId([1; 16]);
const OTHER: CallerId = CallerId([2; 16]);

impl Fixture {
    async fn with(subjects: &[&str]) -> Self {
        let fixture = Self::new().await;
        for subject in subjects {
            fixture.put(subject, &[("nickname", r#""x""#)]).await.unwrap();
        }
        fixture
    }

    async fn ask(&self, subjects: &[&str], change: impl FnOnce(&mut NewErasure)) -> ErasureId {
        let mut asked = erasure_of(subjects.iter().map(|subject| id(subject)).collect());
        asked.by = Some(ASKER);
        change(&mut asked);
        self.vault.shred(asked, None).await.unwrap().made.id
    }

    async fn state(&self, erasure: ErasureId) -> ErasureState {
        self.vault.erasure(erasure).await.unwrap().state
    }

    async fn reaches(&self, erasure: ErasureId, state: ErasureState) {
        for _ in 0..2000 {
            if self.state(erasure).await == state {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("it stays {:?}", self.state(erasure).await);
    }

    async fn hold(&self, subject: &str) {
        self.vault.add_hold(&id(subject), &HoldName::parse("case_1").unwrap(), "lawsuit", OTHER).await.unwrap();
    }

    async fn release(&self, subject: &str) {
        self.vault.release_hold(&id(subject), &HoldName::parse("case_1").unwrap()).await.unwrap();
    }

    async fn is_readable(&self, subject: &str) -> bool {
        match self.read(subject, "nickname").await {
            Ok(_) => true,
            Err(Error::Shredded) => false,
            Err(other) => panic!("{other}"),
        }
    }

    async fn is_whole(&self) {
        assert_eq!(self.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0]);
    }
}

fn in_millis(millis: u64) -> Timestamp {
    Timestamp(Timestamp::now().0 + millis)
}

#[tokio::test]
async fn it_waits_for_its_time_and_runs_by_itself_also_after_a_restart() {
    let mut fixture = Fixture::with(&["a", "b", "c"]).await;
    let soon = fixture.ask(&["a", "nobody"], |asked| asked.not_before = Some(in_millis(300))).await;
    let later = fixture.ask(&["b"], |asked| asked.not_before = Some(in_millis(3_600_000))).await;
    let dark = fixture.ask(&["c"], |asked| (asked.not_before, asked.refuse_now) = (Some(in_millis(1500)), true)).await;
    assert_eq!(fixture.state(soon).await, ErasureState::Pending);
    assert!(fixture.is_readable("a").await && fixture.is_readable("b").await);
    assert!(!fixture.is_readable("c").await, "refused for the time of grace already");
    fixture.reaches(soon, ErasureState::Final).await;
    assert!(!fixture.is_readable("a").await);
    assert_eq!(fixture.state(dark).await, ErasureState::Pending);
    fixture.restart().await;
    fixture.reaches(dark, ErasureState::Final).await;
    assert_eq!(fixture.state(later).await, ErasureState::Pending);
    assert!(fixture.is_readable("b").await);
    let open = fixture.vault.status().erasures.unwrap();
    assert_eq!((open.pending, open.refused, open.late), (1, 0, 0));
    fixture.is_whole().await;
}

#[tokio::test]
async fn what_is_taken_back_can_be_read_again() {
    let mut fixture = Fixture::with(&["a", "b", "c"]).await;
    fixture.hold("b").await;
    let dark = |asked: &mut NewErasure| (asked.not_before, asked.refuse_now) = (Some(in_millis(3_600_000)), true);
    let erasure = fixture.ask(&["a", "b"], dark).await;
    assert!(!fixture.is_readable("a").await && fixture.is_readable("b").await);
    fixture.restart().await;
    let cancelled = fixture.vault.cancel_erasure(erasure).await.unwrap();
    assert_eq!((cancelled.state, cancelled.counts.cancelled, cancelled.f1_at), (ErasureState::Cancelled, 2, None));
    assert!(fixture.is_readable("a").await);
    assert!(matches!(fixture.vault.cancel_erasure(erasure).await, Err(Error::Conflict(_))));
    // What another erasure wants as well stays refused: that one goes on.
    let first = fixture.ask(&["c"], dark).await;
    let second = fixture.ask(&["c"], |_| ()).await;
    fixture.vault.cancel_erasure(first).await.unwrap();
    fixture.reaches(second, ErasureState::Final).await;
    assert!(!fixture.is_readable("c").await);
    assert_eq!(fixture.vault.status().counts.unwrap().refused, 0);
    fixture.is_whole().await;
}

#[tokio::test]
async fn held_subjects_wait_while_the_rest_goes_on() {
    let fixture = Fixture::with(&["a", "b"]).await;
    fixture.hold("b").await;
    let erasure = fixture.ask(&["a", "b"], |_| ()).await;
    fixture.reaches(erasure, ErasureState::Held).await;
    let shown = fixture.vault.erasure(erasure).await.unwrap();
    assert_eq!((shown.counts.r#final, shown.counts.held, shown.f1_at), (1, 1, None));
    assert_eq!(shown.items[0].hold.as_ref().unwrap().as_str(), "case_1");
    assert!(fixture.is_readable("b").await);
    fixture.release("b").await;
    fixture.reaches(erasure, ErasureState::Final).await;
    assert!(!fixture.is_readable("b").await);
    assert_eq!(fixture.vault.certificates(erasure, &[id("a"), id("b")]).await.unwrap().len(), 2);
    fixture.is_whole().await;
}

#[tokio::test]
async fn a_large_one_waits_for_a_second_person() {
    let mut fixture = Fixture::with(&["a", "b"]).await;
    fixture.reopen(VaultOptions { approve_above: 1, ..VaultOptions::default() }).await;
    let small = fixture.ask(&["nobody"], |_| ()).await;
    assert_eq!(fixture.state(small).await, ErasureState::Final);
    let large = fixture.ask(&["a", "b"], |_| ()).await;
    assert_eq!(fixture.state(large).await, ErasureState::AwaitingApproval);
    assert!(matches!(fixture.vault.approve_erasure(large, ASKER).await, Err(Error::SecondPerson)));
    assert!(fixture.is_readable("a").await);
    let approved = fixture.vault.approve_erasure(large, OTHER).await.unwrap();
    assert_eq!(approved.approved_by, Some(OTHER));
    fixture.reaches(large, ErasureState::Final).await;
    assert!(matches!(fixture.vault.approve_erasure(large, OTHER).await, Err(Error::Conflict(_))));
    let asked = fixture.ask(&["a", "b", "c"], |_| ()).await;
    assert_eq!(fixture.vault.cancel_erasure(asked).await.map(|erasure| erasure.state).ok(), None, "nobody is left");
    fixture.is_whole().await;
}

#[tokio::test]
async fn a_subject_that_went_or_is_another_one_by_then_is_left_alone() {
    let fixture = Fixture::with(&["a", "b"]).await;
    let waiting = fixture.ask(&["a", "b"], |asked| asked.not_before = Some(in_millis(700))).await;
    fixture.shred(&["a", "b"]).await;
    let again = crate::vault::PutOptions { enrol_again: true, ..Default::default() };
    let fields = crate::vault::tests::changes(&[("nickname", r#""new""#)]);
    fixture.vault.put_fields(&id("a"), fields, &again).await.unwrap();
    fixture.reaches(waiting, ErasureState::Final).await;
    let shown = fixture.vault.erasure(waiting).await.unwrap();
    assert_eq!((shown.counts.r#final, shown.counts.shredded), (0, 2));
    assert!(fixture.is_readable("a").await, "it was enrolled again: that is somebody else");
    fixture.is_whole().await;
}

#[tokio::test]
async fn late_ones_are_counted() {
    let fixture = Fixture::with(&["a"]).await;
    let change = |asked: &mut NewErasure| {
        (asked.not_before, asked.deadline) = (Some(in_millis(3_600_000)), Some(in_millis(0)));
    };
    let erasure = fixture.ask(&["a"], change).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(fixture.vault.erasure(erasure).await.unwrap().late);
    assert_eq!(fixture.vault.status().erasures.unwrap().late, 1);
    let told = fixture.log.read(0, 1000).unwrap();
    let of_erasure = |line: &Vec<u8>| crate::audit::Entry::decode(line).is_some_and(|e| e.what == Action::Erasure);
    assert!(!told.iter().any(of_erasure), "without a request there is nobody to tell of");
}

#[tokio::test]
async fn what_may_be_taken_back_decides_nothing_for_the_others() {
    let fixture = Fixture::with(&["a", "b", "c", "d"]).await;
    let dark = |asked: &mut NewErasure| (asked.not_before, asked.refuse_now) = (Some(in_millis(3_600_000)), true);
    let profile = |asked: &mut NewErasure| {
        asked.compartment = Some(crate::ids::Compartment::profile());
    };
    // One compartment of a subject whose whole waits in its time of grace: only that goes, and the whole can be taken back.
    let whole = fixture.ask(&["a"], dark).await;
    let part = fixture.ask(&["a"], profile).await;
    fixture.reaches(part, ErasureState::Final).await;
    fixture.vault.cancel_erasure(whole).await.unwrap();
    assert!(fixture.vault.describe(&id("a")).await.is_ok(), "the subject lives");
    // A mark that is taken back is not that of who is due, in whatever order they came.
    let away = fixture.dir.path().join("away");
    std::fs::rename(slot(&fixture.dir), &away).unwrap();
    let due = fixture.ask(&["b"], |_| ()).await;
    let later = fixture.ask(&["b"], dark).await;
    let _ = fixture.vault.cancel_erasure(later).await;
    std::fs::rename(&away, slot(&fixture.dir)).unwrap();
    fixture.reaches(due, ErasureState::Final).await;
    assert!(!fixture.is_readable("b").await);
    // A hold that comes in the time of grace of a compartment keeps it from the next erasure as well.
    let waiting = fixture.ask(&["c"], |asked| (profile(asked), dark(asked)).1).await;
    fixture.hold("c").await;
    let mut asked = erasure_of(vec![id("c")]);
    profile(&mut asked);
    assert!(matches!(fixture.vault.shred(asked, None).await, Err(Error::Held { .. })));
    fixture.vault.cancel_erasure(waiting).await.unwrap();
    assert!(fixture.is_readable("c").await);
    fixture.is_whole().await;
}

#[tokio::test]
async fn an_erasure_with_nothing_to_do_ends_also_if_that_was_not_written_down() {
    let mut fixture = Fixture::with(&[]).await;
    // The commit that writes it down succeeds, the one that ends it does not.
    fixture.store.fail_commit_after(1, crate::store::Fault::Full);
    let asked = fixture.vault.shred(erasure_of(vec![id("nobody")]), None).await;
    assert!(matches!(asked, Err(Error::DiskFull)));
    fixture.restart().await;
    let (erasures, _) = fixture.vault.erasures(None, 10).await.unwrap();
    fixture.reaches(erasures[0].id, ErasureState::Final).await;
}
