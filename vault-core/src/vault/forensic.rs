//! The forensic test: somebody keeps every version of every row ever written and every state of the slot, and then gets
//! the current root. What comes back, and what does not.
//!
//! Each claim stands beside its control: the same attack with an older root, which does succeed.

#![allow(clippy::unwrap_used)]

mod rotations;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::records::{DirectoryEntry, SubjectRecord, decode};
use super::row::Row as FieldRow;
use super::tests::{Fixture, changes, id, name};
use super::{Layer, PutOptions};
use crate::crypto::RootKey;
use crate::ids::Compartment;
use crate::root::{FileSlot, RootEntry, RootSlot, Unlock};
use crate::schema::FieldValue;
use crate::store::{MemoryStore, Row};
use crate::trie::Kind;
use crate::trie::attacker::{Reach, reach};

/// What the attacker has, and the truth to hold his findings to.
pub(super) struct World {
    pub(super) fixture: Fixture,
    /// Every state that the slot was in, as file contents.
    slots: Vec<Vec<u8>>,
    /// By subject: the epoch in which it was enrolled, and the one that its shred led to.
    lives: BTreeMap<String, (u64, Option<u64>)>,
}

/// What an attack brings back.
#[derive(Default)]
pub(super) struct Loot {
    pub(super) subjects: BTreeSet<String>,
    /// (subject, field, value as given) of every row version that opened.
    pub(super) values: BTreeSet<(String, String, String)>,
    reach: Reach,
}

impl World {
    async fn new() -> Self {
        Self::of(Fixture::on(Arc::new(MemoryStore::keeping())).await)
    }

    pub(super) fn of(fixture: Fixture) -> Self {
        let mut world = Self { fixture, slots: Vec::new(), lives: BTreeMap::new() };
        world.photograph();
        world
    }

    pub(super) fn photograph(&mut self) {
        self.slots.push(std::fs::read(super::tests::slot(&self.fixture.dir)).unwrap());
    }

    fn epoch(&self) -> u64 {
        self.fixture.vault.status().epoch.unwrap()
    }

    pub(super) async fn enrol(&mut self, subjects: std::ops::Range<u32>) {
        for n in subjects {
            let subject = format!("subject-{n}");
            let (phone, email) = (phone(n), email(n));
            self.fixture.put(&subject, &[("phone", &phone), ("email", &email)]).await.unwrap();
            self.lives.insert(subject, (self.epoch(), None));
        }
    }

    async fn shred(&mut self, subjects: &[u32]) {
        let names: Vec<String> = subjects.iter().map(|n| format!("subject-{n}")).collect();
        let erasure = self.fixture.shred(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
        assert_eq!(erasure.counts.r#final, subjects.len() as u64);
        let epoch = self.epoch();
        for subject in names {
            self.lives.get_mut(&subject).unwrap().1 = Some(epoch);
        }
        self.photograph();
    }

    fn rows(&self) -> Vec<Row> {
        self.fixture.store.every_version()
    }

    /// The current root, from the slot as it is now.
    pub(super) async fn current_root(&self) -> RootEntry {
        self.roots_in(self.slots.last().unwrap()).await.pop().unwrap()
    }

    /// The roots in a state of the slot, opened with today's unlock key.
    async fn roots_in(&self, state: &[u8]) -> Vec<RootEntry> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old.slot");
        std::fs::write(&path, state).unwrap();
        let slot = FileSlot::open(&path).unwrap();
        slot.unlock(&Unlock::KeyFile(self.fixture.key.duplicate())).unwrap();
        slot.read().await.unwrap().entries
    }

    /// All that follows from every row ever written and one root key.
    pub(super) fn attack(&self, root: &RootKey) -> Loot {
        let rows = self.rows();
        let mut loot = Loot { reach: reach(&rows, root, self.fixture.vault.inner.vault), ..Loot::default() };
        for (kind, _, payload) in &loot.reach.entries {
            if *kind == Kind::Directory
                && let DirectoryEntry::Subject(record) = decode(payload).unwrap()
            {
                loot.subjects.insert(record.subject.to_string());
                open_all(&rows, &record, &mut loot.values);
            }
        }
        loot
    }

    fn living(&self) -> BTreeSet<String> {
        self.lives.iter().filter(|(_, (_, shredded))| shredded.is_none()).map(|(s, _)| s.clone()).collect()
    }

    /// Shredded subjects that the root of `epoch` must bring back, for they lived in it, and all that it may.
    fn exposed_to(&self, epoch: u64) -> (BTreeSet<String>, BTreeSet<String>) {
        let later: Vec<_> =
            self.lives.iter().filter(|(_, (_, shredded))| shredded.is_some_and(|at| at > epoch)).collect();
        let lived = later.iter().filter(|(_, (enrolled, _))| *enrolled <= epoch);
        (lived.map(|(s, _)| (*s).clone()).collect(), later.iter().map(|(s, _)| (*s).clone()).collect())
    }
}

/// Tries a subject's keys on every version of every data row.
fn open_all(rows: &[Row], record: &SubjectRecord, values: &mut BTreeSet<(String, String, String)>) {
    for keys in &record.compartments {
        let place = record.row_place(keys);
        for (_, sealed) in rows.iter().filter(|(key, _)| *key == place.key()) {
            let Ok(row) = FieldRow::open(sealed, &place) else { continue };
            for field in row.fields.keys() {
                let bytes = row.open_field(field, &place, None).unwrap();
                let value = match keys.name == Compartment::system() {
                    // Texts stand in a note as they are.
                    true => String::from_utf8_lossy(&bytes).into_owned(),
                    false => FieldValue::decode(&bytes).unwrap().given().to_owned(),
                };
                values.insert((record.subject.to_string(), field.to_string(), value));
            }
        }
    }
}

fn phone(n: u32) -> String {
    format!(r#""+97150123{:04}""#, 1000 + n)
}

fn email(n: u32) -> String {
    format!(r#""user{n}@example.org""#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_ever_written_and_the_current_root_bring_no_shredded_subject_back() {
    let mut world = World::new().await;
    world.enrol(0..60).await;
    world.shred(&[3, 17]).await;
    world.enrol(60..90).await;
    // Values change before their subject is shredded: the old ones must go as well.
    for n in [5u32, 6, 61] {
        let subject = format!("subject-{n}");
        world.fixture.put(&subject, &[("phone", &phone(5000 + n)), ("nickname", r#""x""#)]).await.unwrap();
    }
    world.shred(&[5, 61]).await;
    world.fixture.rotate(Layer::Root).await;
    world.photograph();
    world.shred(&(20..40).collect::<Vec<_>>()).await;
    world.fixture.rotate(Layer::Keks).await;
    world.photograph();
    world.enrol(90..95).await;
    world.shred(&[90, 0]).await;

    // The claim.
    let current = world.current_root().await;
    assert_eq!(current.epoch, world.epoch());
    let loot = world.attack(&current.key);
    assert_eq!(loot.subjects, world.living(), "every living subject, and nobody else");
    for subject in world.living() {
        let n: u32 = subject.rsplit('-').next().unwrap().parse().unwrap();
        assert!(loot.values.contains(&(subject.clone(), "email".into(), email(n))), "{subject}");
    }
    assert!(loot.values.iter().all(|(subject, ..)| world.living().contains(subject)));
    let living_tags: BTreeSet<Vec<u8>> = tags_of(&world, world.living());
    for (kind, key, _) in &loot.reach.entries {
        if *kind == Kind::Lookups {
            assert!(living_tags.contains(&key[16..]), "a lookup entry of a shredded subject");
        }
    }

    // The controls: an older root, from an older state of the slot, brings back exactly who was shredded after it.
    let mut succeeded = 0;
    for state in world.slots.clone() {
        for root in world.roots_in(&state).await {
            let loot = world.attack(&root.key);
            let dead: BTreeSet<String> = loot.subjects.difference(&world.living()).cloned().collect();
            // Who was enrolled later may come back too, through a page that kept its key; who was shredded by then, never.
            let (least, most) = world.exposed_to(root.epoch);
            assert!(least.is_subset(&dead), "with the root of epoch {}", root.epoch);
            assert!(dead.is_subset(&most), "with the root of epoch {}", root.epoch);
            for subject in &dead {
                assert!(loot.values.iter().any(|(of, ..)| of == subject), "its values open, too");
            }
            succeeded += usize::from(!dead.is_empty());
        }
    }
    assert!(succeeded >= 4, "the attack works where it should: {succeeded}");
}

/// Second halves of the lookup entries that these subjects may have.
fn tags_of(world: &World, subjects: BTreeSet<String>) -> BTreeSet<Vec<u8>> {
    let snapshot = world.fixture.vault.inner.session.load_full().unwrap().snapshot();
    subjects
        .iter()
        .map(|subject| super::subject::directory_key(&snapshot.header, &id(subject))[..16].to_vec())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_field_does_not_come_back() {
    let mut world = World::new().await;
    world.enrol(0..20).await;
    let before = world.current_root().await;
    let subject = "subject-7";
    world.fixture.vault.forget_field(&id(subject), &name("phone"), None).await.unwrap();
    let options = PutOptions { final_: true, ..PutOptions::default() };
    let overwrite = changes(&[("email", r#""new@example.org""#)]);
    world.fixture.vault.put_fields(&id("subject-8"), overwrite, &options).await.unwrap();
    world.photograph();

    let gone = [(subject, "phone", phone(7)), ("subject-8", "email", email(8))];
    let kept = [(subject, "email", email(7)), ("subject-8", "phone", phone(8))];
    let has = |loot: &Loot, (subject, field, value): &(&str, &str, String)| {
        loot.values.contains(&((*subject).to_owned(), (*field).to_owned(), value.clone()))
    };
    let loot = world.attack(&world.current_root().await.key);
    assert!(gone.iter().all(|value| !has(&loot, value)));
    assert!(kept.iter().all(|value| has(&loot, value)));
    let control = world.attack(&before.key);
    assert!(gone.iter().all(|value| has(&control, value)), "the control: the root from before opens it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shredded_compartment_does_not_come_back_and_the_others_stay() {
    let mut world = World::of(Fixture::apart_on(Arc::new(MemoryStore::keeping())).await);
    world.enrol(0..20).await;
    let interests = |n: u32| format!(r#"["hobby {n}"]"#);
    for n in 0..20 {
        let subject = format!("subject-{n}");
        let fields = [("interests", &*interests(n)), ("second_email", &*email(1000 + n))];
        world.fixture.put(&subject, &fields).await.unwrap();
    }
    // A value that was overwritten before must go as well.
    world.fixture.put("subject-7", &[("interests", r#"["later"]"#)]).await.unwrap();
    let before = world.current_root().await;
    world.fixture.shred_compartment("subject-7", "marketing").await;
    world.fixture.put("subject-7", &[("interests", r#"["anew"]"#)]).await.unwrap();
    world.photograph();

    let of = |loot: &Loot, subject: &str, field: &str| -> BTreeSet<String> {
        let found = loot.values.iter().filter(|(of, name, _)| of == subject && name == field);
        found.map(|(_, _, value)| value.clone()).collect()
    };
    let loot = world.attack(&world.current_root().await.key);
    assert_eq!(of(&loot, "subject-7", "interests"), BTreeSet::from([r#"["anew"]"#.to_owned()]));
    assert!(of(&loot, "subject-7", "second_email").is_empty());
    assert_eq!(of(&loot, "subject-7", "email"), BTreeSet::from([email(7)]), "profile is intact");
    assert_eq!(of(&loot, "subject-8", "interests"), BTreeSet::from([interests(8)]), "and so is everybody else");
    let entries = |loot: &Loot| {
        let tag = &tags_of(&world, BTreeSet::from(["subject-7".to_owned()]));
        let entries =
            loot.reach.entries.iter().filter(|(kind, key, _)| *kind == Kind::Lookups && tag.contains(&key[16..]));
        // A page that was written several times shows them several times.
        entries.map(|(_, key, _)| key).collect::<BTreeSet<_>>().len()
    };
    assert_eq!(entries(&loot), 2, "phone and email; the one in the compartment is gone");
    let control = world.attack(&before.key);
    let all = BTreeSet::from([interests(7), r#"["later"]"#.to_owned()]);
    assert_eq!(of(&control, "subject-7", "interests"), all, "the control: the root from before opens it");
    assert_eq!(entries(&control), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_paths_tell_a_position_until_the_lookups_generation_is_dropped() {
    let mut world = World::new().await;
    world.enrol(0..400).await;
    let before = world.rows().len();
    world.shred(&[123]).await;
    let root = world.current_root().await;
    let loot = world.attack(&root.key);

    // While the generation lives: he holds its tag key, and sees which pages the root batch wrote.
    let written: BTreeSet<Vec<u8>> = world.rows()[before..].iter().map(|(key, _)| key.clone()).collect();
    let changed: Vec<&Vec<u8>> = loot
        .reach
        .places
        .iter()
        .filter(|(kind, _, row)| *kind == Kind::Lookups && written.contains(row))
        .map(|(_, path, _)| path)
        .collect();
    let (_, _, tag_key) = loot.reach.tag_keys.iter().find(|(kind, ..)| *kind == Kind::Lookups).unwrap();
    // How many nibbles of a number's tag lie on a changed path.
    let fit = |n: u32| {
        let tag = tag_key.tag("lookup", "phone", format!("+97150123{:04}", 1000 + n).as_bytes());
        let nibbles: Vec<u8> = tag.iter().flat_map(|b| [b >> 4, b & 15]).collect();
        changed.iter().filter(|path| nibbles.starts_with(path)).map(|path| path.len()).max().unwrap_or(0)
    };
    let (right, guesses) = (fit(123), 5000);
    let decoys = (1000..1000 + guesses).filter(|&n| fit(n) >= right).count();
    println!(
        "the changed paths tell {right} nibbles of the removed tag: of {guesses} phone numbers that were never stored, \
         {decoys} fit as well as the right one does"
    );
    assert!(right > 0, "the removed tag's path was rekeyed, and that can be seen");
    // A position, shared by many numbers, and never a value.
    assert!(decoys > 0, "a guess is not confirmed: others fit as well");
    assert!(!loot.reach.entries.iter().any(|(kind, key, _)| {
        *kind == Kind::Lookups && key[..16] == tag_key.tag("lookup", "phone", b"+971501231123")
    }));

    world.fixture.rotate(Layer::Lookups).await;
    world.photograph();
    let loot = world.attack(&world.current_root().await.key);
    assert!(loot.subjects.contains("subject-0"), "the directory is still there");
    let old_entries: BTreeSet<Vec<u8>> = world
        .attack(&root.key)
        .reach
        .entries
        .iter()
        .filter(|(kind, ..)| *kind == Kind::Lookups)
        .map(|(_, key, _)| key[..16].to_vec())
        .collect();
    assert!(old_entries.len() > 700, "the control: with the root before, they are all there");
    let alive =
        |tag: &[u8]| loot.reach.entries.iter().any(|(kind, key, _)| *kind == Kind::Lookups && key[..16] == *tag);
    assert!(!old_entries.iter().any(|tag| alive(tag)), "no page of it opens");
    for (kind, _, tag_key) in &loot.reach.tag_keys {
        for n in 0..400 {
            let form = format!("+97150123{:04}", 1000 + n);
            let tag = tag_key.tag("lookup", "phone", form.as_bytes());
            assert!(!old_entries.contains(&tag[..]), "{kind:?}: a tag key in force matches an old tag");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_noted_of_a_shredded_subject_does_not_come_back() {
    let mut world = World::new().await;
    world.enrol(0..20).await;
    let before = world.current_root().await;
    let (hold, by) = (crate::ids::HoldName::parse("case_1").unwrap(), crate::ids::CallerId([1; 16]));
    let purpose = crate::ids::Purpose::parse("marketing").unwrap();
    for n in [7, 8] {
        let (subject, vault) = (id(&format!("subject-{n}")), &world.fixture.vault);
        vault
            .give_consent(&subject, &purpose, "v1", &format!("source {n}"), crate::ids::CallerId([7; 16]))
            .await
            .unwrap();
        vault.restrict(&subject, Some(&format!("restriction {n}"))).await.unwrap();
        vault.add_hold(&subject, &hold, &format!("hold {n}"), by).await.unwrap();
    }
    world.fixture.vault.release_hold(&id("subject-7"), &hold).await.unwrap();
    world.shred(&[7]).await;

    let has = |loot: &Loot, text: String| loot.values.iter().any(|(_, _, value)| value.contains(&text));
    let indexed = |loot: &Loot| {
        let snapshot = world.fixture.vault.inner.session.load_full().unwrap().snapshot();
        let of = |n: u32| super::subject::directory_key(&snapshot.header, &id(&format!("subject-{n}")))[..16].to_vec();
        let held = |n| loot.reach.entries.iter().any(|(kind, key, _)| *kind == Kind::System && key[16..] == of(n));
        (held(7), held(8))
    };
    let loot = world.attack(&world.current_root().await.key);
    for text in ["source", "restriction", "hold"] {
        assert!(!has(&loot, format!("{text} 7")), "{text}");
        assert!(has(&loot, format!("{text} 8")), "the living one's opens: {text}");
    }
    assert_eq!(indexed(&loot), (false, true));
    let control = world.attack(&before.key);
    for text in ["source", "restriction", "hold"] {
        assert!(has(&control, format!("{text} 7")), "the control: the root from before opens it: {text}");
    }
    assert!(indexed(&control).0, "the control: it was in the index");
}
