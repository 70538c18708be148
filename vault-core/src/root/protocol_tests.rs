//! The protocol on real slot files: a root batch, slots that go away, stores that are too old or too new.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;

use tempfile::TempDir;

use super::{FileSlot, Finish, NewUnlock, RootEntry, RootError, RootSlot, Roots, SlotError, SlotState, Unlock};
use crate::crypto::{Random, RootKey, UnlockKey};
use crate::ids::VaultId;
use crate::store::StoreError;

const VAULT: VaultId = VaultId([7; 16]);

/// Two slot files that one key file unlocks.
struct Bed {
    dir: TempDir,
    key: UnlockKey,
    first: RootEntry,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = UnlockKey::draw(&mut Random::for_keys(1));
        let bed = Self { dir, key, first: RootEntry::draw(1, &mut Random::new(48)) };
        for at in 0..2 {
            let unlocks = [NewUnlock::KeyFile(bed.key.duplicate())];
            drop(FileSlot::create(&bed.path(at), VAULT, &unlocks, &bed.first).unwrap());
        }
        bed
    }

    fn path(&self, at: usize) -> PathBuf {
        self.dir.path().join(format!("root-{at}.slot"))
    }

    fn slot(&self, at: usize) -> FileSlot {
        let slot = FileSlot::open(&self.path(at)).unwrap();
        slot.unlock(&Unlock::KeyFile(self.key.duplicate())).unwrap();
        slot
    }

    /// As after a start: both slots unlocked.
    fn roots(&self) -> Roots {
        Roots::new((0..2).map(|at| Arc::new(self.slot(at)) as Arc<dyn RootSlot>).collect())
    }

    fn bytes(&self) -> Vec<Vec<u8>> {
        (0..2).map(|at| std::fs::read(self.path(at)).unwrap()).collect()
    }

    fn away(&self, at: usize) -> PathBuf {
        let aside = self.path(at).with_extension("aside");
        std::fs::rename(self.path(at), &aside).unwrap();
        aside
    }

    async fn holds(&self, at: usize) -> Vec<RootEntry> {
        self.slot(at).read().await.unwrap().entries
    }
}

/// Recovers as with a header that `root` opens.
async fn recover(roots: &Roots, store_epoch: u64, root: &RootEntry) -> Result<RootEntry, RootError> {
    roots.recover(store_epoch, |key: RootKey| std::future::ready(Ok((key == root.key).then(Vec::new)))).await
}

fn states(roots: &Roots) -> Vec<SlotState> {
    roots.status().iter().map(|s| s.state).collect()
}

fn random() -> Random {
    Random::new(48)
}

#[tokio::test]
async fn a_root_batch_leaves_only_the_new_root() {
    let bed = Bed::new();
    let roots = bed.roots();
    assert_eq!(states(&roots), [SlotState::Unreachable; 2]);
    let current = recover(&roots, 1, &bed.first).await.unwrap();
    assert_eq!((&current, states(&roots)), (&bed.first, vec![SlotState::Ok; 2]));
    let next = roots.stage(&current, &mut random()).await.unwrap().next;
    assert_eq!(next.epoch, 2);
    assert_eq!(bed.holds(0).await, [current.duplicate(), next.duplicate()]);
    assert_eq!(roots.stage(&current, &mut random()).await.unwrap_err(), SlotError::Outstanding);
    assert_eq!(roots.finish(&next).await, Finish::Done);
    for at in 0..2 {
        assert_eq!(bed.holds(at).await, [next.duplicate()]);
    }
    let after = roots.stage(&next, &mut random()).await.unwrap().next;
    assert_eq!(roots.abandon(&next).await, Finish::Done);
    assert_eq!(bed.holds(1).await, [next.duplicate()]);
    assert_ne!(after.key, next.key);
}

#[tokio::test]
async fn recovery_keeps_the_root_of_the_store_whichever_it_is() {
    for committed in [false, true] {
        let bed = Bed::new();
        let roots = bed.roots();
        let staged = roots.stage(&bed.first, &mut random()).await.unwrap();
        let kept = if committed { staged.next } else { bed.first.duplicate() };
        let roots = bed.roots();
        assert_eq!(recover(&roots, kept.epoch, &kept).await.unwrap(), kept);
        for at in 0..2 {
            assert_eq!(bed.holds(at).await, [kept.duplicate()], "committed {committed}");
        }
    }
}

#[tokio::test]
async fn recovery_of_slots_in_order_writes_nothing() {
    let bed = Bed::new();
    let before = bed.bytes();
    recover(&bed.roots(), 1, &bed.first).await.unwrap();
    assert_eq!(bed.bytes(), before);
}

#[tokio::test]
async fn a_root_batch_waits_for_a_slot_that_is_away() {
    let bed = Bed::new();
    let roots = bed.roots();
    recover(&roots, 1, &bed.first).await.unwrap();
    let aside = bed.away(1);
    let error = roots.stage(&bed.first, &mut random()).await.unwrap_err();
    assert_eq!(error, SlotError::Missing { slot: bed.path(1).display().to_string() });
    assert_eq!(bed.holds(0).await, [bed.first.duplicate()], "what was staged is wiped");
    assert_eq!(states(&roots), [SlotState::Ok, SlotState::Behind]);
    std::fs::rename(aside, bed.path(1)).unwrap();
    let staged = roots.stage(&bed.first, &mut random()).await.unwrap();
    assert_eq!(bed.holds(1).await, [bed.first.duplicate(), staged.next]);
}

#[tokio::test]
async fn a_slot_that_is_away_at_the_end_is_finished_later() {
    let bed = Bed::new();
    let roots = bed.roots();
    let next = roots.stage(&bed.first, &mut random()).await.unwrap().next;
    let aside = bed.away(0);
    let Finish::Waiting(waiting) = roots.finish(&next).await else { panic!("one slot still has the old root") };
    let name = bed.path(0).display().to_string();
    assert_eq!(waiting.iter().map(|(name, _)| name).collect::<Vec<_>>(), [&name]);
    assert!(waiting[0].1.contains("missing"));
    assert!(matches!(roots.retry_behind(&next).await, Finish::Waiting(_)));
    std::fs::rename(aside, bed.path(0)).unwrap();
    assert_eq!(roots.retry_behind(&next).await, Finish::Done);
    assert_eq!(bed.holds(0).await, [next.duplicate()]);
}

#[tokio::test]
async fn one_slot_is_enough_to_unlock() {
    let bed = Bed::new();
    let roots = bed.roots();
    let next = roots.stage(&bed.first, &mut random()).await.unwrap().next;
    let roots = bed.roots();
    let aside = bed.away(1);
    assert_eq!(recover(&roots, 2, &next).await.unwrap(), next);
    assert_eq!(states(&roots), [SlotState::Ok, SlotState::Unreachable]);
    assert!(matches!(roots.retry_behind(&next).await, Finish::Waiting(_)));
    assert_eq!(states(&roots), [SlotState::Ok, SlotState::Unreachable]);
    std::fs::rename(aside, bed.path(1)).unwrap();
    assert_eq!(roots.retry_behind(&next).await, Finish::Done);
    assert_eq!(bed.holds(1).await, [next]);
}

#[tokio::test]
async fn no_slot_at_all_names_each() {
    let bed = Bed::new();
    let roots = bed.roots();
    bed.away(0);
    bed.away(1);
    let text = recover(&roots, 1, &bed.first).await.unwrap_err().to_string();
    assert!((0..2).all(|at| text.contains(&bed.path(at).display().to_string())), "{text}");
}

#[tokio::test]
async fn stores_that_do_not_fit_are_refused_and_nothing_is_wiped() {
    let bed = Bed::new();
    let roots = bed.roots();
    let next = roots.stage(&bed.first, &mut random()).await.unwrap().next;
    assert_eq!(roots.finish(&next).await, Finish::Done);
    // Something to wipe, so that wiping would show.
    drop(roots.stage(&next, &mut random()).await.unwrap());
    let before = bed.bytes();
    let roots = bed.roots();

    let older = recover(&roots, 1, &bed.first).await.unwrap_err();
    assert_eq!(older, RootError::OlderThanSlot { store_epoch: 1, slot_epoch: 2 });
    assert!(older.to_string().contains("older than its slot"));
    let newer = recover(&roots, 9, &bed.first).await.unwrap_err();
    assert_eq!(newer, RootError::NewerThanSlot { store_epoch: 9, slot_epoch: 3 });
    let damaged = recover(&roots, 2, &bed.first).await.unwrap_err();
    assert_eq!(damaged, RootError::HeaderDamaged { store_epoch: 2 });
    let gone = StoreError::Unavailable("gone".to_owned());
    let unanswered = roots.recover(2, |_| std::future::ready(Err(gone.clone()))).await.unwrap_err();
    assert_eq!(unanswered, RootError::Store(gone.clone()));
    assert_eq!(bed.bytes(), before);
    // The control: with the right header it is wiped.
    recover(&roots, 2, &next).await.unwrap();
    assert_ne!(bed.bytes(), before);
}

/// An old store with an old copy of one slot, while the other slot knows better: going on would wipe the only root of
/// the real store.
#[tokio::test]
async fn one_newer_slot_keeps_an_old_store_out() {
    let bed = Bed::new();
    let old_slot = std::fs::read(bed.path(0)).unwrap();
    let roots = bed.roots();
    let next = roots.stage(&bed.first, &mut random()).await.unwrap().next;
    assert_eq!(roots.finish(&next).await, Finish::Done);
    std::fs::write(bed.path(0), old_slot).unwrap();
    let roots = bed.roots();
    let refused = recover(&roots, 1, &bed.first).await.unwrap_err();
    assert_eq!(refused, RootError::OlderThanSlot { store_epoch: 1, slot_epoch: 2 });
    // Nor when the newer slot comes back only later.
    let aside = bed.away(1);
    recover(&roots, 1, &bed.first).await.unwrap();
    std::fs::rename(aside, bed.path(1)).unwrap();
    let Finish::Waiting(waiting) = roots.retry_behind(&bed.first).await else { panic!("a newer slot was overwritten") };
    assert!(waiting[0].1.contains("newer"));
    assert!(matches!(roots.stage(&bed.first, &mut random()).await, Err(SlotError::Newer { .. })));
    assert_eq!(bed.holds(1).await, [next]);
}

#[tokio::test]
async fn a_slot_that_lags_is_brought_up() {
    let bed = Bed::new();
    let old_slot = std::fs::read(bed.path(0)).unwrap();
    let roots = bed.roots();
    let next = roots.stage(&bed.first, &mut random()).await.unwrap().next;
    assert_eq!(roots.finish(&next).await, Finish::Done);
    std::fs::write(bed.path(0), old_slot).unwrap();
    assert_eq!(recover(&bed.roots(), 2, &next).await.unwrap(), next);
    assert_eq!(bed.holds(0).await, [next]);
}

/// Two roots staged for one epoch, of which the second was committed: the header decides.
#[tokio::test]
async fn the_header_decides_between_roots_of_one_epoch() {
    let bed = Bed::new();
    let (lost, landed) = (RootEntry::draw(2, &mut random()), RootEntry::draw(2, &mut random()));
    bed.slot(0).stage(&[bed.first.duplicate(), lost]).await.unwrap();
    bed.slot(0).stage(&[bed.first.duplicate(), landed.duplicate()]).await.unwrap();
    bed.slot(1).stage(&[bed.first.duplicate(), landed.duplicate()]).await.unwrap();
    assert_eq!(recover(&bed.roots(), 2, &landed).await.unwrap(), landed);
    assert_eq!(bed.holds(0).await, [landed.duplicate()]);
}

#[tokio::test]
async fn the_whole_protocol_runs_in_a_spawned_task() {
    let bed = Bed::new();
    let (roots, first) = (bed.roots(), bed.first.duplicate());
    let task = tokio::spawn(async move {
        let opens = async |key: RootKey| {
            tokio::task::yield_now().await;
            Ok((key == first.key).then(Vec::new))
        };
        let current = roots.recover(1, opens).await.unwrap();
        let next = roots.stage(&current, &mut random()).await.unwrap().next;
        roots.finish(&next).await
    });
    assert_eq!(task.await.unwrap(), Finish::Done);
}
