//! The forensic test of F2: somebody keeps every version of every row and every state that the slot's file was ever in, and
//! gets the HSM as it is now. No shredded subject comes back. With the HSM as it was, which no real one lets him keep,
//! they do: that is the control.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::records::{DirectoryEntry, decode};
use super::tests::{changes, erasure_of, id};
use super::*;
use crate::root::softhsm::{SoftHsm, with_softhsm};
use crate::root::{FileSlot, HsmPlace, RootEntry, RootSlot, SlotPlace, Unlock};
use crate::store::{MemoryStore, Row};
use crate::trie::Kind;
use crate::trie::attacker::reach;

/// A vault whose only slot is in hardware, and an attacker who keeps all he sees.
struct World {
    vault: Vault,
    store: Arc<MemoryStore>,
    place: HsmPlace,
    file: PathBuf,
    scratch: PathBuf,
    watching: Arc<AtomicBool>,
    watcher: std::thread::JoinHandle<Vec<Vec<u8>>>,
}

impl World {
    async fn new(hsm: &SoftHsm) -> Self {
        let (place, file) = (hsm.token("hsm"), hsm.dir().join("root.slot"));
        let store = Arc::new(MemoryStore::keeping());
        let slot = SlotPlace::Pkcs11 { file: file.clone(), hsm: place.clone() };
        let vault = Vault::create(store.clone(), &[slot], Vec::new(), VaultOptions::default()).await.unwrap();
        let watching = Arc::new(AtomicBool::new(true));
        let watcher = std::thread::spawn({
            let (watching, file) = (watching.clone(), file.clone());
            move || watch(&file, &watching)
        });
        Self { vault, store, place, file, scratch: hsm.dir().join("attacked.slot"), watching, watcher }
    }

    async fn enrol(&self, subjects: std::ops::Range<u32>) {
        for n in subjects {
            let fields = [("email", &*format!(r#""user{n}@example.org""#))];
            let subject = id(&format!("subject-{n}"));
            self.vault.put_fields(&subject, changes(&fields), &PutOptions::default()).await.unwrap();
        }
    }

    async fn shred(&self, subjects: &[&str]) {
        let subjects = subjects.iter().map(|subject| id(subject)).collect();
        let erasure = self.vault.shred(erasure_of(subjects), None).await.unwrap().made;
        let erasure = self.vault.wait_final(erasure.id, Duration::from_secs(20)).await.unwrap();
        assert!(erasure.f1_at.is_some());
    }

    /// Every state of the slot's file that was seen.
    fn states(self) -> (Vec<Row>, Vec<Vec<u8>>, Attack) {
        self.watching.store(false, Ordering::Release);
        let mut states = self.watcher.join().unwrap();
        states.push(std::fs::read(&self.file).unwrap());
        let vault = self.vault.inner.vault;
        (self.store.every_version(), states, Attack { vault, scratch: self.scratch, place: self.place })
    }
}

fn watch(file: &Path, watching: &AtomicBool) -> Vec<Vec<u8>> {
    let mut states: Vec<Vec<u8>> = Vec::new();
    while watching.load(Ordering::Acquire) {
        if let Ok(state) = std::fs::read(file)
            && !states.contains(&state)
        {
            states.push(state);
        }
    }
    states
}

struct Attack {
    vault: VaultId,
    scratch: PathBuf,
    place: HsmPlace,
}

impl Attack {
    /// The roots that a state of the file gives away to who has this HSM.
    async fn roots(&self, state: &[u8], hsm: &HsmPlace) -> Vec<RootEntry> {
        let mut roots = Vec::new();
        // Each copy on its own as well: what one of them would hide, the other may show.
        for bytes in [state.to_vec(), state[..4096].repeat(2), state[4096..].repeat(2)] {
            std::fs::write(&self.scratch, bytes).unwrap();
            let place = SlotPlace::Pkcs11 { file: self.scratch.clone(), hsm: hsm.clone() };
            let Ok(slot) = FileSlot::open_place(&place) else { continue };
            if slot.unlock(&Unlock::Hardware).is_ok() {
                roots.extend(slot.read().await.unwrap().entries);
            }
        }
        roots
    }

    /// The subjects that come back with all rows, all these states and this HSM.
    async fn subjects(&self, rows: &[Row], states: &[Vec<u8>], hsm: &HsmPlace) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut tried: Vec<RootEntry> = Vec::new();
        for state in states {
            for root in self.roots(state, hsm).await {
                if tried.contains(&root) {
                    continue;
                }
                for (kind, _, payload) in reach(rows, &root.key, self.vault).entries {
                    if kind == Kind::Directory
                        && let DirectoryEntry::Subject(record) = decode(&payload).unwrap()
                    {
                        found.insert(record.subject.to_string());
                    }
                }
                tried.push(root);
            }
        }
        found
    }
}

#[test]
fn no_state_of_the_slot_and_the_hsm_as_it_is_bring_a_shredded_subject_back() {
    with_softhsm(
        "vault::forensic_hsm::no_state_of_the_slot_and_the_hsm_as_it_is_bring_a_shredded_subject_back",
        async |hsm| {
            let world = World::new(&hsm).await;
            world.enrol(0..12).await;
            world.shred(&["subject-3"]).await;
            world.vault.rotate_slots().await.unwrap();
            world.shred(&["subject-5", "subject-6"]).await;
            world.enrol(12..16).await;
            // As it was before the rotation that follows.
            let before = hsm.image("before");
            world.shred(&["subject-0", "subject-12"]).await;
            let begun = world.vault.rotate_slots().await.unwrap();
            let (erasures, _) = world.vault.erasures(None, 10).await.unwrap();
            assert!(erasures.iter().all(|erasure| erasure.f1_at.unwrap() <= begun), "F2 is for all of them");
            world.vault.lock().await.unwrap();

            let dead = ["subject-0", "subject-12", "subject-3", "subject-5", "subject-6"];
            let everybody: BTreeSet<String> = (0..16).map(|n| format!("subject-{n}")).collect();
            let living: BTreeSet<String> =
                everybody.iter().filter(|subject| !dead.contains(&subject.as_str())).cloned().collect();
            let (rows, states, attack) = world.states();
            assert!(states.len() > 5, "the file was seen at work: {}", states.len());
            // The claim, with the HSM as it is for who starts it anew.
            let now = hsm.image("now");
            let as_it_is = hsm.of_image(&now, &attack.place);
            assert_eq!(attack.subjects(&rows, &states, &as_it_is).await, living);
            // The control: who was shredded after the rotation before comes back; the one from before it stays dead.
            let as_it_was = hsm.of_image(&before, &attack.place);
            let back = attack.subjects(&rows, &states, &as_it_was).await;
            let back: Vec<&str> = dead.into_iter().filter(|subject| back.contains(*subject)).collect();
            assert_eq!(back, ["subject-0", "subject-12", "subject-5", "subject-6"]);
        },
    );
}
