//! Slots in hardware on a software HSM: made, opened, rotated, and everything that can be wrong with an HSM.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use super::softhsm::{SoftHsm, with_softhsm};
use super::{FileSlot, Hsm, HsmError, HsmPlace, NewUnlock, RootEntry, RootSlot, SlotError, SlotPlace, Unlock};
use crate::crypto::{Random, UnlockKey};
use crate::ids::VaultId;

const VAULT: VaultId = VaultId([7; 16]);

fn root(epoch: u64) -> RootEntry {
    RootEntry::draw(epoch, &mut Random::new(48))
}

fn path(hsm: &SoftHsm) -> PathBuf {
    hsm.dir().join("hardware.slot")
}

fn open(path: PathBuf, place: &HsmPlace) -> Result<FileSlot, SlotError> {
    let slot = FileSlot::open_place(&SlotPlace::Pkcs11 { file: path, hsm: place.clone() })?;
    slot.unlock(&Unlock::Hardware).map(|()| slot)
}

fn hsm_error(outcome: Result<FileSlot, SlotError>) -> HsmError {
    match outcome.err() {
        Some(SlotError::Hsm { error, .. }) => error,
        other => panic!("{other:?}"),
    }
}

async fn rotate(slot: &FileSlot) -> Result<(), SlotError> {
    slot.draw_keys().await?;
    slot.reseal().await?;
    slot.destroy_old_keys().await
}

#[test]
fn only_its_own_token_opens_it() {
    with_softhsm("root::hardware_tests::only_its_own_token_opens_it", async |hsm| {
        let (place, other) = (hsm.token("first"), hsm.token("second"));
        let first = root(1);
        let made = FileSlot::create_in_hardware(&path(&hsm), VAULT, Hsm::new(place.clone()), &first).unwrap();
        assert_eq!(made.read().await.unwrap().entries, [first.duplicate()]);
        let slot = open(path(&hsm), &place).unwrap();
        assert_eq!(slot.read().await.unwrap().entries, [first]);
        assert!(slot.hardware().is_some());
        assert!(matches!(hsm_error(open(path(&hsm), &other)), HsmError::KeyGone { .. }));
    });
}

#[test]
fn a_rotation_ends_every_earlier_state_of_the_file() {
    with_softhsm("root::hardware_tests::a_rotation_ends_every_earlier_state_of_the_file", async |hsm| {
        let place = hsm.token("hsm");
        let first = root(1);
        let slot = FileSlot::create_in_hardware(&path(&hsm), VAULT, Hsm::new(place.clone()), &first).unwrap();
        let before = std::fs::read(path(&hsm)).unwrap();
        let tokens_before = hsm.image("tokens-before");
        slot.settle(&[root(2)]).await.unwrap();
        let since = slot.hardware().unwrap().keys_since;
        rotate(&slot).await.unwrap();
        assert!(slot.hardware().unwrap().keys_since >= since);
        // It is still good for everything, without the HSM, and opens again with it.
        let third = root(3);
        slot.settle(&[third.duplicate()]).await.unwrap();
        assert_eq!(open(path(&hsm), &place).unwrap().read().await.unwrap().entries, [third]);

        let old = hsm.dir().join("old.slot");
        std::fs::write(&old, &before).unwrap();
        assert!(matches!(hsm_error(open(old.clone(), &place)), HsmError::KeyGone { .. }));
        // The control: the HSM as it was, if it could be copied, opens the file as it was.
        let image = hsm.of_image(&tokens_before, &place);
        let opened = open(old, &image).unwrap();
        assert_eq!(opened.read().await.unwrap().entries, [first]);
    });
}

#[test]
fn a_rotation_cut_short_leaves_a_slot_that_opens_and_keys_that_go() {
    with_softhsm("root::hardware_tests::a_rotation_cut_short_leaves_a_slot_that_opens_and_keys_that_go", async |hsm| {
        let place = hsm.token("hsm");
        let first = root(1);
        let slot = FileSlot::create_in_hardware(&path(&hsm), VAULT, Hsm::new(place.clone()), &first).unwrap();
        let before = std::fs::read(path(&hsm)).unwrap();
        slot.draw_keys().await.unwrap();
        let drawn = hsm.image("drawn");
        slot.reseal().await.unwrap();
        let after = std::fs::read(path(&hsm)).unwrap();
        // Each state that a crash can leave: one copy sealed anew, or torn, or both sealed.
        let torn = [&[0; 100][..], &before[100..]].concat();
        let half = [&after[..4096], &before[4096..]].concat();
        for (name, state) in [("before", &before), ("torn", &torn), ("half", &half), ("after", &after)] {
            std::fs::write(path(&hsm), state).unwrap();
            let slot = open(path(&hsm), &place).unwrap();
            assert_eq!(slot.read().await.unwrap().entries, [first.duplicate()], "{name}");
            let even = slot.read().await.unwrap().even;
            assert_eq!(even, name == "before" || name == "after", "{name}");
            if !even {
                assert!(slot.destroy_old_keys().await.is_err(), "{name}: either key may be needed");
                slot.settle(&[first.duplicate()]).await.unwrap();
            }
            slot.draw_keys().await.unwrap();
        }
        // What is drawn and not used yet stays, so that a rotation that goes on finds it.
        slot.draw_keys().await.unwrap();
        slot.destroy_old_keys().await.unwrap();
        slot.reseal().await.unwrap();
        assert!(open(path(&hsm), &place).is_ok());
        // The last of them goes on: every key but one is destroyed.
        let slot = open(path(&hsm), &place).unwrap();
        slot.destroy_old_keys().await.unwrap();
        rotate(&slot).await.unwrap();
        for (at, state) in [before.clone(), torn, half, after].iter().enumerate() {
            let old = hsm.dir().join(format!("old-{at}.slot"));
            std::fs::write(&old, state).unwrap();
            assert!(matches!(hsm_error(open(old, &place)), HsmError::KeyGone { .. }), "{at}");
        }
        let old = hsm.dir().join("old-0.slot");
        assert!(open(old, &hsm.of_image(&drawn, &place)).is_ok(), "the control");
    });
}

#[test]
fn attempts_that_fail_do_not_fill_the_hsm_and_waiting_is_told() {
    with_softhsm("root::hardware_tests::attempts_that_fail_do_not_fill_the_hsm_and_waiting_is_told", async |hsm| {
        let place = hsm.token("hsm");
        let first = root(1);
        let slot = FileSlot::create_in_hardware(&path(&hsm), VAULT, Hsm::new(place.clone()), &first).unwrap();
        let aside = hsm.dir().join("aside");
        std::fs::rename(path(&hsm), &aside).unwrap();
        for _ in 0..3 {
            slot.draw_keys().await.unwrap();
            assert!(matches!(slot.reseal().await, Err(SlotError::Missing { .. })));
        }
        std::fs::rename(&aside, path(&hsm)).unwrap();
        rotate(&slot).await.unwrap();
        hsm.unplug();
        // The software HSM notices only when it has to write.
        for _ in 0..2 {
            assert!(slot.draw_keys().await.is_err());
        }
        let told = slot.hardware().unwrap().waits_for.unwrap();
        assert!(told.contains("hardware.slot") && told.contains("no HSM token `hsm`"), "{told}");
        // Roots go on without the HSM.
        slot.stage(&[first.duplicate(), root(2)]).await.unwrap();
        slot.settle(&[first.duplicate()]).await.unwrap();
        hsm.plug_in();
        slot.draw_keys().await.unwrap();
        slot.reseal().await.unwrap();
        let family = Hsm::new(place.clone());
        slot.destroy_old_keys().await.unwrap();
        assert_eq!(slot.hardware().unwrap().waits_for, None);
        assert_eq!(family.destroy_all_but(&label(&slot), &[]).unwrap(), 1, "one key was left");
        assert!(matches!(hsm_error(open(path(&hsm), &place)), HsmError::KeyGone { .. }), "somebody destroyed it");
        assert!(rotate(&slot).await.unwrap_err().to_string().contains("destroyed"));
    });
}

fn label(slot: &FileSlot) -> String {
    slot.hsm_label().unwrap()
}

#[test]
fn a_wrong_pin_is_tried_once() {
    with_softhsm("root::hardware_tests::a_wrong_pin_is_tried_once", async |hsm| {
        let place = hsm.token("hsm");
        let slot = FileSlot::create_in_hardware(&path(&hsm), VAULT, Hsm::new(place.clone()), &root(1)).unwrap();
        drop(slot);
        std::fs::write(&place.pin_file, "1234\n").unwrap();
        for _ in 0..2 {
            let told = hsm_error(open(path(&hsm), &place));
            assert!(matches!(told, HsmError::WrongPin { .. }));
            assert!(!told.to_string().contains("1234"));
        }
        // The right PIN, in a file that looks as it did: it is not tried, so neither was the wrong one.
        let written = place.pin_file.metadata().unwrap().modified().unwrap();
        std::fs::write(&place.pin_file, "4711\n").unwrap();
        let file = std::fs::File::options().write(true).open(&place.pin_file).unwrap();
        file.set_modified(written).unwrap();
        assert!(matches!(hsm_error(open(path(&hsm), &place)), HsmError::WrongPin { .. }));
        file.set_modified(written + std::time::Duration::from_secs(1)).unwrap();
        assert!(open(path(&hsm), &place).is_ok(), "it was corrected");
        std::fs::remove_file(&place.pin_file).unwrap();
        assert!(matches!(hsm_error(open(path(&hsm), &place)), HsmError::PinFile { .. }));
        let nowhere = HsmPlace { module: hsm.dir().join("no.so"), ..place };
        assert!(matches!(hsm_error(open(path(&hsm), &nowhere)), HsmError::Module { .. }));
    });
}

#[test]
fn an_hsm_is_one_of_several_unlock_keys_of_an_ordinary_slot() {
    with_softhsm("root::hardware_tests::an_hsm_is_one_of_several_unlock_keys_of_an_ordinary_slot", async |hsm| {
        let place = hsm.token("hsm");
        let key = UnlockKey::draw(&mut Random::for_keys(1));
        let unlocks = [NewUnlock::KeyFile(key.duplicate()), NewUnlock::Pkcs11(Hsm::new(place.clone()))];
        let first = root(1);
        drop(FileSlot::create(&path(&hsm), VAULT, &unlocks, &first).unwrap());
        for unlock in [Unlock::KeyFile(key), Unlock::Pkcs11(Hsm::new(place.clone()))] {
            let slot = FileSlot::open(&path(&hsm)).unwrap();
            slot.unlock(&unlock).unwrap();
            assert_eq!(slot.read().await.unwrap().entries, [first.duplicate()]);
            assert_eq!(slot.hardware(), None, "another unlock key opens it as well");
        }
        let refused = open(path(&hsm), &place).err().unwrap();
        assert!(matches!(refused, SlotError::NoSuchMethod { .. }), "{refused}");
    });
}

/// Wherever other unlock keys are cut short: once they are there, no earlier state of the slot opens.
#[test]
fn unlock_keys_cut_short_leave_no_key_in_the_hsm_that_opens_an_earlier_state() {
    let test = "root::hardware_tests::unlock_keys_cut_short_leave_no_key_in_the_hsm_that_opens_an_earlier_state";
    with_softhsm(test, async |hsm| {
        let place = hsm.token("hsm");
        let unlock = || NewUnlock::Pkcs11(Hsm::new(place.clone()));
        let opens = |image: &[u8]| {
            let path = hsm.dir().join("image");
            std::fs::write(&path, image).unwrap();
            FileSlot::open(&path).unwrap().unlock(&Unlock::Pkcs11(Hsm::new(place.clone()))).is_ok()
        };
        let read = || std::fs::read(path(&hsm)).unwrap();
        let open = || {
            let slot = FileSlot::open(&path(&hsm)).unwrap();
            slot.unlock(&Unlock::Pkcs11(Hsm::new(place.clone()))).unwrap();
            slot
        };
        drop(FileSlot::create(&path(&hsm), VAULT, &[unlock()], &root(1)).unwrap());
        let first = read();
        let unlocks = std::sync::Arc::new(vec![unlock()]);
        let slot = open();
        slot.add_unlock_keys(&unlocks).await.unwrap();
        let added = read();
        slot.replace_unlock_keys(&unlocks).await.unwrap();
        let replaced = read();
        assert!(!opens(&first) && opens(&replaced));
        drop(slot);

        // Killed when the keys from before are destroyed and the slot still names them.
        std::fs::write(path(&hsm), &added).unwrap();
        let slot = open();
        slot.add_unlock_keys(&unlocks).await.unwrap();
        slot.replace_unlock_keys(&unlocks).await.unwrap();
        drop(slot);
        let last = read();
        assert!(opens(&last) && ![&first, &added, &replaced].into_iter().any(|image| opens(image)));

        // What is withdrawn leaves nothing either.
        let slot = open();
        slot.add_unlock_keys(&unlocks).await.unwrap();
        slot.withdraw_unlock_keys(&unlocks).await.unwrap();
        assert!(opens(&read()));
        let left = Hsm::new(place.clone()).count_keys().unwrap();
        assert_eq!(left, 1);
    });
}

#[test]
fn copies_of_a_slot_are_told_apart_from_slots_and_a_slot_is_wiped_with_its_key() {
    with_softhsm(
        "root::hardware_tests::copies_of_a_slot_are_told_apart_from_slots_and_a_slot_is_wiped_with_its_key",
        async |hsm| {
            let place = hsm.token("hsm");
            let make = |name: &str| {
                let path = hsm.dir().join(name);
                FileSlot::create_in_hardware(&path, VAULT, Hsm::new(place.clone()), &root(1)).unwrap()
            };
            let (one, two) = (make("one"), make("two"));
            std::fs::copy(hsm.dir().join("one"), hsm.dir().join("copy")).unwrap();
            let copy = open(hsm.dir().join("copy"), &place).unwrap();
            assert!(copy.is_copy_of(&one) && !copy.is_copy_of(&two));
            // Slots in one token do not touch each other's keys.
            rotate(&one).await.unwrap();
            rotate(&two).await.unwrap();
            one.wipe().unwrap();
            assert!(!hsm.dir().join("one").exists());
            assert!(open(hsm.dir().join("two"), &place).is_ok());
            assert!(open(hsm.dir().join("copy"), &place).is_err());
        },
    );
}
