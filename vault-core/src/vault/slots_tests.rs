//! Slots in hardware under a vault at work: rotations, an HSM that goes away, slots of both sorts.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::session::reading;
use super::tests::{changes, erasure_of, id};
use super::*;
use crate::crypto::passphrase::new_key_file;
use crate::ids::ErasureId;
use crate::root::softhsm::{SoftHsm, with_softhsm};
use crate::root::{HsmPlace, NewUnlock, RootError, SlotError, SlotPlace, SlotState, Unlock};
use crate::store::MemoryStore;
use crate::time::Timestamp;

const WAIT: Duration = Duration::from_secs(30);

fn in_hardware(hsm: &SoftHsm, name: &str, place: &HsmPlace) -> SlotPlace {
    SlotPlace::Pkcs11 { file: hsm.dir().join(name), hsm: place.clone() }
}

fn rotating_every(seconds: u64) -> VaultOptions {
    VaultOptions { slot_rotation_seconds: seconds, ..VaultOptions::default() }
}

async fn enrol(vault: &Vault, subject: &str) {
    let fields = changes(&[("nickname", r#""x""#)]);
    vault.put_fields(&id(subject), fields, &PutOptions::default()).await.unwrap();
}

async fn shred(vault: &Vault, subject: &str) -> ErasureId {
    enrol(vault, subject).await;
    vault.shred(erasure_of(vec![id(subject)]), None).await.unwrap().made.id
}

async fn f2_at(vault: &Vault, erasure: ErasureId) -> Option<Timestamp> {
    let session = vault.session().unwrap();
    let found = async { reading!(session, |now| erase::find(&vault.inner, &now.header, erasure).await) };
    found.await.unwrap().f2_at
}

/// Asks until it holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + WAIT;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_slot_rotation_makes_shreds_final_on_the_slots_own_disk() {
    with_softhsm("vault::slots_tests::a_slot_rotation_makes_shreds_final_on_the_slots_own_disk", async |hsm| {
        let (place, store) = (hsm.token("hsm"), Arc::new(MemoryStore::new()));
        let places = [in_hardware(&hsm, "one", &place), in_hardware(&hsm, "two", &hsm.token("other"))];
        let vault = Vault::create(store.clone(), &places, Vec::new(), rotating_every(0)).await.unwrap();
        let first = shred(&vault, "a").await;
        vault.wait_final(first, WAIT).await.unwrap();
        assert_eq!(f2_at(&vault, first).await, None);
        let begun = vault.rotate_slots().await.unwrap();
        assert!(f2_at(&vault, first).await.unwrap() >= begun);
        let second = shred(&vault, "b").await;
        vault.wait_final(second, WAIT).await.unwrap();
        assert_eq!(f2_at(&vault, second).await, None, "it is later than the rotation");
        vault.close().await.unwrap();

        // No passphrase opens it, none is asked for, and it goes on.
        let vault = Vault::open(store.clone(), &places, rotating_every(0)).await.unwrap();
        let passphrase = Unlock::Passphrase(Zeroizing::new("correct horse".to_owned()));
        let refused = vault.unlock(passphrase).await.unwrap_err();
        assert!(matches!(refused, Error::Slot(SlotError::NoSuchMethod { .. })), "{refused}");
        vault.unlock(Unlock::Hardware).await.unwrap();
        assert!(vault.status().all_in_hardware);
        vault.rotate_slots().await.unwrap();
        assert!(f2_at(&vault, second).await.is_some());
        vault.close().await.unwrap();

        // One file under two names.
        std::fs::copy(hsm.dir().join("one"), hsm.dir().join("copy")).unwrap();
        let twice = [in_hardware(&hsm, "one", &place), in_hardware(&hsm, "copy", &place)];
        let refused = Vault::open(store, &twice, rotating_every(0)).await.err().unwrap();
        assert!(matches!(refused, Error::Slot(SlotError::Copied { .. })), "{refused}");
    });
}

#[test]
fn without_its_hsm_a_vault_goes_on_and_the_rotation_waits() {
    with_softhsm("vault::slots_tests::without_its_hsm_a_vault_goes_on_and_the_rotation_waits", async |hsm| {
        let (place, store) = (hsm.token("hsm"), Arc::new(MemoryStore::new()));
        let places = [in_hardware(&hsm, "root.slot", &place)];
        let vault = Vault::create(store.clone(), &places, Vec::new(), rotating_every(1)).await.unwrap();
        let rotated = || vault.status().slots[0].hardware.clone().unwrap();
        let made = rotated().keys_since;
        until("the first rotation", async || rotated().keys_since > made).await;
        hsm.unplug();
        until("the rotation to wait", async || rotated().waits_for.is_some()).await;
        let told = rotated().waits_for.unwrap();
        assert!(told.contains("root.slot") && told.contains("hsm"), "{told}");
        let erasure = shred(&vault, "a").await;
        assert!(vault.wait_final(erasure, WAIT).await.unwrap().f1_at.is_some(), "F1 needs no HSM");
        assert_eq!(f2_at(&vault, erasure).await, None);
        assert_eq!(vault.status().slots[0].state, SlotState::Ok);
        hsm.plug_in();
        until("F2", async || f2_at(&vault, erasure).await.is_some()).await;
        assert_eq!(rotated().waits_for, None);
        vault.close().await.unwrap();

        // At a start it is needed.
        hsm.unplug();
        let vault = Vault::open(store, &places, rotating_every(1)).await.unwrap();
        // The software HSM remembers its tokens until it is asked for more.
        let told = loop {
            match vault.unlock(Unlock::Hardware).await {
                Ok(()) => {
                    until("the module to notice", async || vault.rotate_slots().await.is_err()).await;
                    vault.lock().await.unwrap();
                }
                Err(error) => break error.to_string(),
            }
        };
        assert!(told.contains("root.slot") && told.contains("hsm"), "{told}");
        hsm.plug_in();
        vault.unlock(Unlock::Hardware).await.unwrap();
    });
}

#[test]
fn slots_of_both_sorts_agree_and_wait_for_each_other() {
    with_softhsm("vault::slots_tests::slots_of_both_sorts_agree_and_wait_for_each_other", async |hsm| {
        let (place, store) = (hsm.token("hsm"), Arc::new(MemoryStore::new()));
        let share = hsm.dir().join("share");
        std::fs::create_dir(&share).unwrap();
        let places = [SlotPlace::File(share.join("root.slot")), in_hardware(&hsm, "hardware.slot", &place)];
        let (key, _) = new_key_file();
        let unlocks = vec![NewUnlock::KeyFile(key.duplicate())];
        let vault = Vault::create(store.clone(), &places, unlocks, rotating_every(0)).await.unwrap();
        assert!(!vault.status().all_in_hardware);

        let away = hsm.dir().join("away");
        std::fs::rename(&share, &away).unwrap();
        let erasure = shred(&vault, "a").await;
        let waiting = vault.wait_final(erasure, Duration::from_millis(500)).await.unwrap();
        assert!(waiting.f1_at.is_none() && waiting.waiting_for[0].contains("share/root.slot"), "{waiting:?}");
        assert!(matches!(vault.describe(&id("a")).await, Err(Error::Shredded)));
        std::fs::rename(&away, &share).unwrap();
        assert!(vault.wait_final(erasure, WAIT).await.unwrap().f1_at.is_some());
        vault.rotate_slots().await.unwrap();
        assert_eq!(f2_at(&vault, erasure).await, None, "images of the file's disk open with its key file");
        vault.close().await.unwrap();

        let vault = Vault::open(store.clone(), &places, rotating_every(0)).await.unwrap();
        let refused = vault.unlock(Unlock::Hardware).await.unwrap_err();
        assert!(matches!(refused, Error::Slot(SlotError::NoSuchMethod { .. })), "{refused}");
        let wrong = vault.unlock(Unlock::KeyFile(new_key_file().0)).await.unwrap_err();
        assert!(matches!(wrong, Error::WrongUnlockKey), "{wrong}");
        vault.unlock(Unlock::KeyFile(key.duplicate())).await.unwrap();

        // One more slot, and a vault that lives by that one alone.
        let third = in_hardware(&hsm, "third.slot", &place);
        vault.add_slot(third.clone(), Vec::new()).await.unwrap();
        vault.close().await.unwrap();
        let alone = Vault::open(store.clone(), std::slice::from_ref(&third), rotating_every(0)).await.unwrap();
        alone.unlock(Unlock::Hardware).await.unwrap();
        let erasure = shred(&alone, "b").await;
        alone.wait_final(erasure, WAIT).await.unwrap();
        alone.rotate_slots().await.unwrap();
        assert!(f2_at(&alone, erasure).await.is_some());
        alone.close().await.unwrap();
        // Slots that were left out are behind, and say so when they are used alone.
        let stale = Vault::open(store, &places[1..], rotating_every(0)).await.unwrap();
        let refused = stale.unlock(Unlock::Hardware).await.unwrap_err();
        assert!(matches!(refused, Error::Root(RootError::NewerThanSlot { .. })), "{refused}");
    });
}

#[test]
fn rotations_beside_shreds_lose_nothing() {
    with_softhsm("vault::slots_tests::rotations_beside_shreds_lose_nothing", async |hsm| {
        let (place, store) = (hsm.token("hsm"), Arc::new(MemoryStore::new()));
        let places = [in_hardware(&hsm, "root.slot", &place)];
        let vault = Vault::create(store.clone(), &places, Vec::new(), rotating_every(0)).await.unwrap();
        let rotating = tokio::spawn({
            let vault = vault.clone();
            async move {
                for _ in 0..10 {
                    vault.rotate_slots().await.unwrap();
                }
            }
        });
        let mut erasures = Vec::new();
        while !rotating.is_finished() || erasures.len() < 10 {
            let erasure = shred(&vault, &format!("s{}", erasures.len())).await;
            vault.wait_final(erasure, WAIT).await.unwrap();
            erasures.push(erasure);
        }
        rotating.await.unwrap();
        enrol(&vault, "kept").await;
        vault.rotate_slots().await.unwrap();
        for erasure in erasures {
            assert!(f2_at(&vault, erasure).await.is_some());
        }
        vault.close().await.unwrap();
        let vault = Vault::open(store, &places, rotating_every(0)).await.unwrap();
        vault.unlock(Unlock::Hardware).await.unwrap();
        assert!(vault.describe(&id("kept")).await.is_ok());
    });
}
