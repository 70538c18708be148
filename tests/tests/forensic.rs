//! What a thief's old copy is worth after a shred, tried from outside: on its own, with the new slot, with the new keys.

use std::path::Path;

use vault_core::store::{Batch, DiskOptions, DiskStore, Store};

use crate::harness::{CUSTOMERS, Customer, Running, Vault, copy_dir, customers, engine};

const READ: &str = "fields?view=full";

fn reads(running: &Running, customer: &Customer) {
    let reader = running.admin.for_purpose("account");
    customer.check(&reader.get(&format!("/v1/subjects/{}/{READ}", customer.id)).expect(200).body);
    assert!(running.admin.find(&customer.lookups()[0]).contains(&customer.id));
}

fn is_gone(running: &Running, customer: &Customer) {
    let reader = running.admin.for_purpose("account");
    reader.get(&format!("/v1/subjects/{}/{READ}", customer.id)).problem(410, "shredded");
    for lookup in customer.lookups() {
        assert_eq!(running.admin.find(&lookup), Vec::<String>::new());
    }
}

/// Which rows, by their keys.
type Chosen = fn(&[u8]) -> bool;

/// Makes a store of chosen rows of two others.
fn compose(target: &Path, parts: &[(&Path, Chosen)]) {
    let options = || DiskOptions { cache_bytes: 16 << 20, reserve_bytes: 0, min_free_bytes: 0 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let new = DiskStore::open(engine(), target, options()).unwrap();
        for (source, chosen) in parts {
            let source = DiskStore::open(engine(), source, options()).unwrap();
            let rows = source.scan(&[], None, usize::MAX).await.unwrap();
            let put: Vec<_> = rows.into_iter().filter(|(key, _)| chosen(key)).collect();
            assert!(!put.is_empty());
            for chunk in put.chunks(500) {
                new.commit(Batch { put: chunk.to_vec(), ..Batch::default() }).await.unwrap();
            }
            source.close().await.unwrap();
        }
        new.close().await.unwrap();
    });
}

fn is_data(key: &[u8]) -> bool {
    key.starts_with(b"d")
}

fn is_not_data(key: &[u8]) -> bool {
    !is_data(key)
}

#[test]
fn old_copies_bring_no_shredded_customer_back() {
    let everybody = customers();
    let (shredded, living) = (&everybody[41], [&everybody[0], &everybody[40], &everybody[42], &everybody[224]]);
    let vault = Vault::configured();
    let running = vault.start();
    running.cli(&["subject", "import", CUSTOMERS]).expect(0);
    reads(&running, shredded);
    running.stop();
    let old = vault.root().join("old");
    copy_dir(&vault.data(), &old);

    let running = vault.start();
    running.admin.delete(&format!("/v1/subjects/{}", shredded.id)).expect(200);
    is_gone(&running, shredded);
    running.stop();

    with_the_new_slot(&vault, &old);
    with_the_new_keys(&vault, &old, shredded, &living, &everybody);
    with_the_old_slot(&old, shredded);
}

/// The old store, with the slot as it is now: refused, and nothing is touched.
fn with_the_new_slot(vault: &Vault, old: &Path) {
    let attack = Vault::dev();
    copy_dir(old, &attack.data());
    std::fs::copy(vault.data().join("root.slot"), attack.data().join("root.slot")).unwrap();
    let refusal = attack.refusal().says("older than its slot");
    assert_eq!(refusal.status.code(), Some(1), "{}", refusal.text);
    attack.verify().refused(8, "older than its slot");
    let slot = |directory: &Path| std::fs::read(directory.join("root.slot")).unwrap();
    assert_eq!(slot(&attack.data()), slot(&vault.data()), "the slot is left as it was");
}

/// The old data rows, with the key pages and the slot as they are now: the living only.
fn with_the_new_keys(vault: &Vault, old: &Path, shredded: &Customer, living: &[&Customer], everybody: &[Customer]) {
    let restored = Vault::dev();
    copy_dir(&vault.data(), &restored.data());
    let store = restored.data().join("store");
    std::fs::remove_dir_all(&store).unwrap();
    compose(&store, &[(&old.join("store"), is_data), (&vault.data().join("store"), is_not_data)]);
    let running = restored.start();
    is_gone(&running, shredded);
    for customer in living {
        reads(&running, customer);
    }
    let reader = running.admin.for_purpose("account");
    for customer in everybody.iter().filter(|customer| customer.id != shredded.id) {
        customer.check(&reader.get(&format!("/v1/subjects/{}/{READ}", customer.id)).expect(200).body);
    }
    // Enrolled again, the same id does not meet its old data.
    let again = serde_json::json!({ "fields": { "nickname": "again" } });
    running.admin.patch(&format!("/v1/subjects/{}/fields?enrol=again", shredded.id), &again).expect(201);
    let read = reader.get(&format!("/v1/subjects/{}/{READ}", shredded.id)).expect(200).json();
    assert_eq!(read["fields"], again["fields"]);
    running.stop();
}

/// The control: with the root of its own time the old store has the customer still.
fn with_the_old_slot(old: &Path, shredded: &Customer) {
    let control = Vault::dev();
    copy_dir(old, &control.data());
    let running = control.start();
    reads(&running, shredded);
    running.stop();
}

#[test]
fn a_slot_older_than_its_store_is_refused() {
    let vault = Vault::configured();
    let running = vault.start();
    running.admin.set("jane", &serde_json::json!({ "name": "Jane" })).expect(201);
    running.stop();
    let [slot, kept] = [vault.data().join("root.slot"), vault.root().join("kept.slot")];
    std::fs::copy(&slot, &kept).unwrap();
    let running = vault.start();
    running.admin.delete("/v1/subjects/jane").expect(200);
    running.stop();
    let current = std::fs::read(&slot).unwrap();
    std::fs::copy(&kept, &slot).unwrap();
    vault.refusal().says("newer than its slot");
    std::fs::write(&slot, current).unwrap();
    vault.start().stop();
}
