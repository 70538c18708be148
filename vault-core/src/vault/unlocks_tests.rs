//! Other unlock keys: what opens the vault before, on the way and after, and what an old image is good for.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::tests::{Fixture, changes, id, name, slot};
use super::{Layer, NewRotation, PutOptions, Vault, VaultOptions};
use crate::crypto::UnlockKey;
use crate::crypto::passphrase::{Cost, new_key_file};
use crate::error::Error;
use crate::root::{FileSlot, Method, NewUnlock, RootSlot, SlotError, Unlock};
use crate::store::{MemoryStore, Store};
use crate::trie::Header;

fn new_passphrase() -> NewUnlock {
    NewUnlock::Passphrase(Zeroizing::new("correct horse".into()), Cost::FLOOR)
}

fn passphrase() -> Unlock {
    Unlock::Passphrase(Zeroizing::new("correct horse".into()))
}

async fn change(vault: &Vault, unlocks: Vec<NewUnlock>) -> Result<(), Error> {
    let asked = NewRotation::Unlock { unlocks, place: Box::new(|| Ok(())) };
    vault.rotate(asked, None, None).await.map(drop)
}

#[tokio::test]
async fn one_set_takes_the_place_of_another() {
    let mut fixture = Fixture::new().await;
    fixture.put("a", &[("email", r#""a@example.org""#)]).await.unwrap();
    let before = fixture.vault.keys().await.unwrap();
    // Times are told in milliseconds.
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let (key, _) = new_key_file();
    let unlocks = vec![new_passphrase(), NewUnlock::KeyFile(key.duplicate())];
    change(&fixture.vault, unlocks).await.unwrap();
    let after = fixture.vault.keys().await.unwrap();
    assert_eq!(after.methods, [Method::KeyFile, Method::Passphrase]);
    let [root, since] = [Layer::Root, Layer::Unlock];
    assert!(after.of(root).unwrap().version > before.of(root).unwrap().version, "the root goes with them");
    assert!(after.of(since).unwrap().since > before.of(since).unwrap().since);
    assert!(before.of(since).unwrap().last.is_none() && after.of(since).unwrap().last.is_some());
    assert_eq!(after.of(root).unwrap().last, after.of(since).unwrap().last, "the root went with them");
    // The vault goes on with the slot as it is now.
    fixture.shred(&["nobody"]).await;
    fixture.put("b", &[("email", r#""b@example.org""#)]).await.unwrap();
    fixture.shred(&["b"]).await;

    fixture.vault.close().await.unwrap();
    let vault = fixture.open(fixture.store.clone()).await.unwrap();
    let refused = vault.unlock(Unlock::KeyFile(fixture.key.duplicate())).await;
    assert!(matches!(refused, Err(Error::WrongUnlockKey)), "the key from before");
    vault.unlock(passphrase()).await.unwrap();
    vault.lock().await.unwrap();
    vault.unlock(Unlock::KeyFile(key.duplicate())).await.unwrap();
    fixture.vault = vault;
    assert_eq!(fixture.read("a", "email").await.unwrap(), r#""a@example.org""#);
    // One is taken away: the one that stays is named again.
    change(&fixture.vault, vec![NewUnlock::KeyFile(key.duplicate())]).await.unwrap();
    assert_eq!(fixture.vault.unlock_methods(), [Method::KeyFile]);
    assert!(matches!(change(&fixture.vault, Vec::new()).await, Err(Error::Invalid { .. })));
    let many = (0..8).map(|_| NewUnlock::KeyFile(key.duplicate())).collect();
    assert!(matches!(change(&fixture.vault, many).await, Err(Error::Invalid { .. })));
    fixture.key = key;
    fixture.restart().await;
    assert_eq!(fixture.read("a", "email").await.unwrap(), r#""a@example.org""#);
}

/// What somebody gets from a slot file with an unlock key.
async fn roots_in(image: &[u8], unlock: Unlock) -> Result<Vec<crate::root::RootEntry>, SlotError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, image).unwrap();
    let slot = FileSlot::open(&path)?;
    slot.unlock(&unlock)?;
    Ok(slot.read().await?.entries)
}

/// What the slot key of an old image, which its unlock key opened, makes of a newer one.
async fn with_the_slot_key_of(old: &[u8], unlock: &Unlock, newer: &[u8]) -> Result<usize, SlotError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, old).unwrap();
    let slot = FileSlot::open(&path).unwrap();
    slot.unlock(unlock).unwrap();
    std::fs::write(&path, newer).unwrap();
    slot.read().await.map(|reading| reading.entries.len())
}

#[tokio::test]
async fn an_old_image_and_the_old_key_lead_to_no_header_written_since() {
    let fixture = Fixture::on(Arc::new(MemoryStore::keeping())).await;
    fixture.put("a", &[("email", r#""a@example.org""#)]).await.unwrap();
    let image = || std::fs::read(slot(&fixture.dir)).unwrap();
    let old_key = || Unlock::KeyFile(fixture.key.duplicate());
    let old_image = image();
    assert_eq!(with_the_slot_key_of(&old_image, &old_key(), &image()).await.unwrap(), 1, "the control");
    let before = fixture.store.every_version().len();
    change(&fixture.vault, vec![new_passphrase()]).await.unwrap();
    let list = fixture.vault.rotations().await.unwrap();
    fixture.ended(list.iter().rfind(|rotation| rotation.layer == Layer::Keks).unwrap().id).await;
    fixture.put("b", &[("email", r#""b@example.org""#)]).await.unwrap();

    assert!(roots_in(&image(), old_key()).await.is_err(), "the old key opens the slot no more");
    assert_eq!(roots_in(&image(), passphrase()).await.unwrap().len(), 1, "the control: the new one does");
    assert!(with_the_slot_key_of(&old_image, &old_key(), &image()).await.is_err(), "nor does the old slot key");
    let old_root = roots_in(&old_image, old_key()).await.unwrap().pop().unwrap();
    let new_root = roots_in(&image(), passphrase()).await.unwrap().pop().unwrap();
    let rows = fixture.store.every_version();
    let vault = fixture.vault.inner.vault;
    let headers = |rows: &[(Vec<u8>, Vec<u8>)], root: &crate::root::RootEntry| {
        rows.iter().filter(|(_, sealed)| Header::open(&root.key, vault, sealed).is_ok()).count()
    };
    assert_eq!(headers(&rows[before..], &old_root), 0);
    assert!(headers(&rows[..before], &old_root) > 0, "the control: it opens the header from before");
    assert!(headers(&rows[before..], &new_root) > 0, "the control: its successor opens the one since");
}

/// Two slots, and what opens both of them at each step.
#[tokio::test]
async fn at_every_step_one_unlock_key_opens_all_slots() {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = ["one", "two"].iter().map(|name| dir.path().join(name)).collect();
    let places: Vec<_> = paths.iter().map(|path| path.clone().into()).collect();
    let (old, new) = (new_key_file().0, new_key_file().0);
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    let unlocks = vec![NewUnlock::KeyFile(old.duplicate())];
    let vault = Vault::create(store.clone(), &places, unlocks, VaultOptions::default()).await.unwrap();
    let put = changes(&[("email", r#""a@example.org""#)]);
    vault.put_fields(&id("a"), put, &PutOptions::default()).await.unwrap();
    vault.close().await.unwrap();

    let opens =
        |path: &Path, key: &UnlockKey| FileSlot::open(path).unwrap().unlock(&Unlock::KeyFile(key.duplicate())).is_ok();
    let slots: Vec<FileSlot> = paths.iter().map(|path| FileSlot::open(path).unwrap()).collect();
    slots.iter().for_each(|slot| slot.unlock(&Unlock::KeyFile(old.duplicate())).unwrap());
    let unlocks = Arc::new(vec![NewUnlock::KeyFile(new.duplicate())]);
    for step in 0..4 {
        match step {
            0 | 1 => slots[step].add_unlock_keys(&unlocks).await.unwrap(),
            _ => slots[step - 2].replace_unlock_keys(&unlocks).await.unwrap(),
        }
        let all = |key| paths.iter().all(|path| opens(path, key));
        assert!(all(&old) || all(&new), "after step {step}");
        // Killed here: whoever has the key that opens all starts the vault and does it again.
        let present = if all(&new) { &new } else { &old };
        let images: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
        let again = Vault::open(store.clone(), &places, VaultOptions::default()).await.unwrap();
        again.unlock(Unlock::KeyFile(present.duplicate())).await.unwrap();
        let read = again.read_fields(&id("a"), Some(&[name("email")]), &super::tests::full()).await.unwrap();
        assert_eq!(read.fields.len(), 1);
        again.close().await.unwrap();
        paths.iter().zip(images).for_each(|(path, image)| std::fs::write(path, image).unwrap());
    }
    assert!(paths.iter().all(|path| opens(path, &new) && !opens(path, &old)));
}

#[tokio::test]
async fn what_rotations_left_that_were_cut_short_makes_room_for_another() {
    let fixture = Fixture::new().await;
    let slots = &fixture.vault.inner.file_slots;
    let left: Vec<UnlockKey> = (0..9).map(|_| new_key_file().0).collect();
    for (n, key) in left.iter().enumerate() {
        // As far as a rotation comes that is killed then.
        slots[0].add_unlock_keys(&Arc::new(vec![NewUnlock::KeyFile(key.duplicate())])).await.unwrap();
        assert_eq!(fixture.vault.slot_unlocks().await[0].len(), (n + 2).min(8));
    }
    let image = std::fs::read(slot(&fixture.dir)).unwrap();
    let opens = |key: &UnlockKey| {
        FileSlot::open(&slot(&fixture.dir)).unwrap().unlock(&Unlock::KeyFile(key.duplicate())).is_ok()
    };
    assert!(opens(&fixture.key), "what it was unlocked by stays");
    assert!(opens(&left[8]) && opens(&left[0]) && !opens(&left[5]));

    // Unlocked by one of them, it is that one that stays.
    let (by, new) = (left[3].duplicate(), new_key_file().0);
    slots[0].lock();
    slots[0].unlock(&Unlock::KeyFile(by.duplicate())).unwrap();
    let many: Vec<_> = (0..6).map(|_| NewUnlock::KeyFile(new_key_file().0)).collect();
    slots[0].add_unlock_keys(&Arc::new(many)).await.unwrap();
    assert!(opens(&by) && !opens(&fixture.key) && !opens(&left[7]));
    assert!(opens(&left[8]), "it may be all that opens another slot");
    std::fs::write(slot(&fixture.dir), image).unwrap();
    slots[0].lock();
    slots[0].unlock(&Unlock::KeyFile(fixture.key.duplicate())).unwrap();

    change(&fixture.vault, vec![NewUnlock::KeyFile(new.duplicate())]).await.unwrap();
    assert!(opens(&new) && !opens(&fixture.key) && left.iter().all(|key| !opens(key)));
}

#[tokio::test]
async fn a_new_key_is_put_in_its_place_while_both_open() {
    let mut fixture = Fixture::new().await;
    fixture.put("a", &[("email", r#""a@example.org""#)]).await.unwrap();
    let path = slot(&fixture.dir);
    let key = new_key_file().0;
    let opens =
        |path: &Path, key: &UnlockKey| FileSlot::open(path).unwrap().unlock(&Unlock::KeyFile(key.duplicate())).is_ok();
    let asked =
        |place: super::PlaceNew| NewRotation::Unlock { unlocks: vec![NewUnlock::KeyFile(key.duplicate())], place };
    // It cannot be put in its place: the one from before stays, and it may be tried again.
    let refused = fixture.vault.rotate(asked(Box::new(|| Err(std::io::ErrorKind::StorageFull.into()))), None, None);
    assert!(matches!(refused.await, Err(Error::Conflict(_))));
    assert!(opens(&path, &fixture.key));
    assert!(fixture.vault.keys().await.unwrap().of(Layer::Unlock).unwrap().last.is_none());
    assert!(!opens(&path, &key) && fixture.vault.slot_unlocks().await == [[Method::KeyFile]], "it is taken back");
    let taken_back = fixture.vault.rotations().await.unwrap().pop().unwrap();
    assert_eq!((taken_back.layer, taken_back.state), (Layer::Unlock, super::RotationState::Cancelled));

    let seen = Arc::new(std::sync::Mutex::new(None));
    let (old, new, at, noted) = (fixture.key.duplicate(), key.duplicate(), path.clone(), seen.clone());
    let look = move || {
        *noted.lock().unwrap() = Some((opens(&at, &old), opens(&at, &new)));
        Ok(())
    };
    let done = fixture.vault.rotate(asked(Box::new(look)), None, None).await.unwrap().made;
    assert_eq!(*seen.lock().unwrap(), Some((true, true)));
    assert_eq!((done.layer, done.state, done.done), (Layer::Unlock, super::RotationState::Done, 1));
    assert_eq!(fixture.vault.rotation(done.id).await.unwrap().state, super::RotationState::Done);
    let status = fixture.vault.keys().await.unwrap();
    assert_eq!(status.of(Layer::Unlock).unwrap().last.unwrap().id, done.id);
    assert!(FileSlot::open(&path).unwrap().unlock(&Unlock::KeyFile(fixture.key.duplicate())).is_err());
    fixture.key = key;
    fixture.restart().await;
    assert_eq!(fixture.read("a", "email").await.unwrap(), r#""a@example.org""#);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn while_unlock_keys_change_others_rotate_and_nobody_alters_it() {
    let fixture = Fixture::new().await;
    let (placing, placed) = std::sync::mpsc::channel::<()>();
    let placed = std::sync::Mutex::new(placed);
    let asked = NewRotation::Unlock {
        unlocks: vec![NewUnlock::KeyFile(fixture.key.duplicate())],
        place: Box::new(move || placed.lock().unwrap().recv().map_err(std::io::Error::other)),
    };
    let vault = fixture.vault.clone();
    let changing = tokio::spawn(async move { vault.rotate(asked, None, None).await });
    let id = loop {
        let list = fixture.vault.rotations().await.unwrap();
        if let Some(unlock) = list.iter().find(|rotation| rotation.layer == Layer::Unlock) {
            break unlock.id;
        }
        tokio::task::yield_now().await;
    };
    // It is begun, though it has to wait for its turn.
    let root = fixture.vault.rotate(Layer::Root, None, None).await.unwrap().made;
    let vault = fixture.vault.clone();
    let altering = tokio::spawn(async move { vault.change_rotation(id, None, Some(5)).await });
    // Who wants to know what opens the slots does not see the keys of before and those that come.
    let vault = fixture.vault.clone();
    let seen = tokio::spawn(async move { vault.slot_unlocks().await });
    // It is asked for before the root batch is.
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    placing.send(()).unwrap();
    assert_eq!(seen.await.unwrap(), [[Method::KeyFile]]);
    assert!(matches!(altering.await.unwrap(), Err(Error::Conflict(_))));
    assert_eq!(changing.await.unwrap().unwrap().made.state, super::RotationState::Done);
    assert_eq!(fixture.ended(id).await.state, super::RotationState::Done, "and it stays so");
    assert_eq!(fixture.ended(root.id).await.state, super::RotationState::Done);
}
