//! Lists beside slots that do not answer, and that answer again.

#![allow(clippy::unwrap_used)]
use super::*;
use crate::crypto::Random;
use crate::time::Timestamp;

const VAULT: VaultId = VaultId([7; 16]);

fn refusal(byte: u8) -> Refusal {
    Refusal { at: Timestamp(byte.into()), subject: [byte; 16], compartment: None }
}

struct Bed {
    slots: Vec<PathBuf>,
    root: RootEntry,
    keeper: Keeper,
    _dir: tempfile::TempDir,
}

impl Bed {
    async fn new(slots: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let slots: Vec<PathBuf> = (0..slots).map(|at| dir.path().join(format!("{at}.slot"))).collect();
        let keeper = Keeper::new(VAULT, slots.clone());
        let root = RootEntry::draw(3, &mut Random::new(48));
        keeper.begin(&root, || false).await.unwrap();
        Self { slots, root, keeper, _dir: dir }
    }

    fn list(&self) -> Refusals {
        Refusals::of(&self.root, VAULT)
    }

    /// What is noted beside one slot, as a restore reads it.
    fn noted(&self, at: usize) -> Option<Vec<Refusal>> {
        self.list().gather(&self.slots[at..=at], false)
    }
}

#[tokio::test]
async fn a_slot_that_does_not_answer_is_made_good_once_it_does() {
    let bed = Bed::new(2).await;
    let hangs = bed.keeper.hang(0).await;
    for byte in [1, 2] {
        assert_eq!(bed.keeper.note(vec![refusal(byte)]).await, []);
    }
    let both = Some(vec![refusal(1), refusal(2)]);
    assert_eq!((bed.noted(0), bed.noted(1)), (Some(Vec::new()), both.clone()));
    // As long as it does not answer there is nothing to be done about it.
    bed.keeper.mend_all().await;
    assert!(!bed.keeper.is_whole(bed.root.id, 0));
    drop(hangs);
    bed.keeper.mend_all().await;
    assert_eq!((bed.noted(0), bed.noted(1)), (both.clone(), both));
    assert!(bed.keeper.is_whole(bed.root.id, 0));
    // A root that is let go while one does not answer leaves the list beside that one only, and no key to it.
    let hangs = bed.keeper.hang(1).await;
    bed.keeper.end(bed.root.id).await;
    assert_eq!((bed.noted(0), bed.noted(1).map(|noted| noted.len())), (None, Some(2)));
    assert!(!bed.keeper.is_noting());
    drop(hangs);
    bed.keeper.sweep().await;
    assert_eq!(bed.noted(1), None);
}

#[tokio::test]
async fn lists_that_are_taken_up_beside_a_slow_slot_stay() {
    let bed = Bed::new(2).await;
    assert_eq!(bed.keeper.note(vec![refusal(1)]).await, []);
    let one = Some(vec![refusal(1)]);
    // As after a restart.
    bed.keeper.clear().await;
    let (first, second) = (bed.keeper.hang(0).await, bed.keeper.hang(1).await);
    let mut taking_up = Box::pin(bed.keeper.take_up(&bed.root));
    assert!(tokio::time::timeout(SILENT + Duration::from_secs(1), &mut taking_up).await.is_err());
    drop(second);
    assert!(taking_up.await);
    assert_eq!((bed.noted(0), bed.noted(1)), (one.clone(), one));
    drop(first);
    bed.keeper.mend_all().await;
    assert_eq!(bed.keeper.note(vec![refusal(2)]).await, []);
    let both = Some(vec![refusal(1), refusal(2)]);
    assert_eq!((bed.noted(0), bed.noted(1)), (both.clone(), both));
}

#[tokio::test]
async fn refusals_that_no_slot_takes_yet_wait_and_those_that_none_takes_at_all_cost_the_root() {
    let bed = Bed::new(2).await;
    let (first, second) = (bed.keeper.hang(0).await, bed.keeper.hang(1).await);
    let mut noting = Box::pin(bed.keeper.note(vec![refusal(1)]));
    assert!(tokio::time::timeout(SILENT + Duration::from_secs(1), &mut noting).await.is_err());
    // Who only asks is answered meanwhile.
    assert!(bed.keeper.is_noting());
    drop(second);
    assert_eq!(noting.await, []);
    assert_eq!((bed.noted(0), bed.noted(1)), (Some(Vec::new()), Some(vec![refusal(1)])));
    // No list can be begun where nothing answers.
    let second = bed.keeper.hang(1).await;
    let other = RootEntry::draw(4, &mut Random::new(48));
    assert!(matches!(bed.keeper.begin(&other, || false).await, Err(Error::Conflict(_))));
    drop((first, second));

    for slot in &bed.slots {
        std::fs::remove_file(bed.list().beside(slot)).unwrap();
    }
    assert_eq!(bed.keeper.note(vec![refusal(2)]).await, [bed.root.id]);
}
