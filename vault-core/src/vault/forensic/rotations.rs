//! What a finished rotation proves: the old key of its layer, with every row ever written, opens nothing that its
//! successor directly wraps.

use std::collections::BTreeMap;

use super::*;
use crate::crypto::Dek;
use crate::crypto::field::{Place, SealedField};
use crate::vault::records::{CompartmentKeys, DekChain, DekLink};
use crate::vault::{DeksOf, NewRotation};

/// The subjects' records as they are now, by subject.
fn records(world: &World, root: &RootKey) -> BTreeMap<String, SubjectRecord> {
    let rows: Vec<Row> = world.fixture.store.fork().every_version();
    let reach = reach(&rows, root, world.fixture.vault.inner.vault);
    let entries = reach.entries.iter().filter(|(kind, ..)| *kind == Kind::Directory);
    let subjects = entries.filter_map(|(_, _, payload)| match decode(payload).unwrap() {
        DirectoryEntry::Subject(record) => Some((record.subject.to_string(), record)),
        DirectoryEntry::Tombstone(_) => None,
    });
    subjects.collect()
}

fn values_of(rows: &[Row], record: &SubjectRecord) -> BTreeSet<String> {
    let mut values = BTreeSet::new();
    open_all(rows, record, &mut values);
    values.into_iter().map(|(.., value)| value).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_data_key_opens_nothing_that_was_sealed_under_its_successor() {
    let mut world = World::new().await;
    world.enrol(0..10).await;
    let old = records(&world, &world.current_root().await.key);
    let before = world.rows().len();
    tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    world.fixture.rotate(NewRotation::Deks { which: DeksOf::All, forget: false }).await;
    world.photograph();
    world.fixture.put("subject-3", &[("phone", &phone(5000))]).await.unwrap();
    let new = records(&world, &world.current_root().await.key);

    let rows = world.rows();
    let (earlier, later) = rows.split_at(before);
    for subject in world.living() {
        assert!(values_of(later, &old[&subject]).is_empty(), "{subject}: the old key, on every row since");
        assert!(values_of(later, &new[&subject]).len() >= 2, "the control: the new key opens them");
        assert_eq!(values_of(earlier, &old[&subject]).len(), 2, "the control: the old key opens what is older");
        assert!(values_of(earlier, &new[&subject]).is_empty());
    }
    assert!(values_of(later, &new["subject-3"]).contains(&phone(5000)));
}

/// What opens with the older data keys that chains lead to, besides what an attack opens without them.
fn through_chains(world: &World, loot: &Loot) -> BTreeSet<(String, String, String)> {
    let of = |wanted| loot.reach.entries.iter().filter(move |(kind, ..)| *kind == wanted);
    let chains = of(Kind::System).filter_map(|(_, _, payload)| decode::<DekChain>(payload).ok());
    let links: Vec<DekLink> = chains.flat_map(|chain| chain.links).collect();
    let rows = world.rows();
    let mut values = BTreeSet::new();
    for (_, _, payload) in of(Kind::Directory) {
        let DirectoryEntry::Subject(mut record) = decode(payload).unwrap() else { continue };
        for at in 0..record.compartments.len() {
            while let Some((version, dek)) = links.iter().find_map(|link| older(&record, at, link)) {
                record.compartments[at].dek = dek;
                record.compartments[at].dek_version = version;
                open_all(&rows, &record, &mut values);
            }
        }
    }
    values
}

/// The key in a link, if a compartment's present one opens it.
fn older(record: &SubjectRecord, at: usize, link: &DekLink) -> Option<(u32, Dek)> {
    let keys = &record.compartments[at];
    let sealed = SealedField::parse(&link.sealed).ok()?;
    let place = Place { subject: record.uuid, compartment: keys.name.as_str(), field: "#old-dek" };
    let opened = sealed.open(&keys.dek, &place).ok()?;
    Some((link.version, Dek::from_slice(&opened)?))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_key_that_was_forgotten_does_not_come_back() {
    let versions = |loot: &Loot| -> BTreeSet<u32> {
        let directory = loot.reach.entries.iter().filter(|(kind, ..)| *kind == Kind::Directory);
        let records = directory.filter_map(|(_, _, payload)| match decode(payload).unwrap() {
            DirectoryEntry::Subject(record) => Some(record),
            DirectoryEntry::Tombstone(_) => None,
        });
        let keys =
            |record: SubjectRecord| record.compartments.into_iter().map(|keys: CompartmentKeys| keys.dek_version);
        records.flat_map(keys).collect()
    };
    for forget in [false, true] {
        let mut world = World::new().await;
        world.enrol(0..20).await;
        // Overwritten before: only the old key opens it, in old images.
        world.fixture.put("subject-7", &[("phone", &phone(5007))]).await.unwrap();
        let before = world.current_root().await;
        // A key of the same millisecond is not older than the rotation.
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        world.fixture.rotate(NewRotation::Deks { which: DeksOf::All, forget: false }).await;
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
        world.fixture.rotate(NewRotation::Deks { which: DeksOf::All, forget }).await;
        world.photograph();

        let old = ("subject-7".to_owned(), "phone".to_owned(), phone(7));
        let present = ("subject-7".to_owned(), "phone".to_owned(), phone(5007));
        let loot = world.attack(&world.current_root().await.key);
        assert_eq!(loot.subjects, world.living());
        assert!(loot.values.contains(&present));
        if forget {
            assert_eq!(versions(&loot), BTreeSet::from([3]), "of every version of every record, only the newest key");
            assert!(!loot.values.contains(&old));
            assert!(!through_chains(&world, &loot).contains(&old));
        } else {
            assert!(through_chains(&world, &loot).contains(&old), "the control: without forgetting");
        }
        let control = world.attack(&before.key);
        assert!(versions(&control).contains(&1) && control.values.contains(&old), "the control: the root from before");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_tag_key_matches_nothing_and_its_pages_open_from_nothing_that_is_alive() {
    let mut world = World::new().await;
    world.enrol(0..100).await;
    let before = world.current_root().await;
    let earlier = world.attack(&before.key);
    let lookups = |loot: &Loot| -> BTreeSet<Vec<u8>> {
        let pages = loot.reach.places.iter().filter(|(kind, ..)| *kind == Kind::Lookups);
        pages.map(|(_, _, row)| row.clone()).collect()
    };
    let (_, _, old) = earlier.reach.tag_keys.iter().find(|(kind, ..)| *kind == Kind::Lookups).unwrap();
    // Every tag anywhere: of entries, and of lists in records, in all their versions.
    let matches = |loot: &Loot| -> usize {
        let mut tags: BTreeSet<[u8; 16]> = BTreeSet::new();
        for (kind, key, payload) in &loot.reach.entries {
            match kind {
                Kind::Lookups => {
                    tags.insert(key[..16].try_into().unwrap());
                }
                Kind::Directory => {
                    if let DirectoryEntry::Subject(record) = decode(payload).unwrap() {
                        tags.extend(record.all_lookups().map(|listed| listed.tag));
                    }
                }
                _ => {}
            }
        }
        let known = |n: u32| old.tag("lookup", "phone", format!("+97150123{:04}", 1000 + n).as_bytes());
        (0..100).filter(|n| tags.contains(&known(*n))).count()
    };
    assert_eq!(matches(&earlier), 100, "the control: before, the tag key finds everybody");
    world.fixture.rotate(Layer::Lookups).await;
    world.photograph();

    let loot = world.attack(&world.current_root().await.key);
    assert_eq!(loot.subjects, world.living());
    assert_eq!(matches(&loot), 0);
    assert!(loot.reach.tag_keys.iter().all(|(.., key)| key != old), "and it is nowhere any more");
    assert!(lookups(&loot).is_disjoint(&lookups(&earlier)), "no page of the old generation is led to");
    assert!(lookups(&loot).len() > 3 && lookups(&earlier).len() > 3, "the control: both have pages");
    let control = world.attack(&before.key);
    assert!(matches(&control) == 100 && lookups(&control).is_superset(&lookups(&earlier)), "the control: the old root");
}
