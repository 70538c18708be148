//! A rotation that races a shred always loses: every order of their steps.
//!
//! Each side reads the vault and prepares a write, and each write is committed by the one writer; nothing happens in between
//! two such steps. So all that can come of a race is seen by trying every order of them, with a write that does not hold
//! prepared anew, and with both writes in one batch either way round. The choices of a run are replayed up to one that has
//! another way to go, until there is none.
//!
//! After every run, all rows that were ever written and the root of then must not bring the shredded subject back.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use tokio::sync::oneshot;

use super::walk::{self, Task};
use super::*;
use crate::error::Error;
use crate::root::{Finish, Unlock};
use crate::store::MemoryStore;
use crate::trie::{RekeyStep, Succession};
use crate::vault::forensic::World;
use crate::vault::records::ErasureRecord;
use crate::vault::session::Session;
use crate::vault::tests::{Fixture, erasure_of, id, slot};
use crate::vault::writer::Command;
use crate::vault::{VaultOptions, erase, shred};

const SHREDDED: &str = "subject-0";
const LIVING: &str = "subject-1";

/// What is rotated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Race {
    Deks,
    DeksForgetting,
    Building,
    Pruning,
    Keks,
}

/// Where a side is.
enum At {
    Reads,
    /// It has a write, or several, to be committed.
    Commits(Prepared),
    Done,
}

struct Prepared {
    writes: Vec<Write>,
    /// The same of a root batch.
    root: bool,
    rekey: Option<RekeyStep>,
}

/// A step of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Choice {
    Rotation,
    Shred,
    /// Both commit in one batch, the rotation's write first.
    RotationFirst,
    ShredFirst,
}

/// The choices that lead to a run: which of how many.
#[derive(Default)]
struct Path(Vec<(usize, usize)>);

impl Path {
    /// The next run's, if there is one.
    fn advance(&mut self) -> bool {
        while let Some((taken, of)) = self.0.pop() {
            if taken + 1 < of {
                self.0.push((taken + 1, of));
                return true;
            }
        }
        false
    }
}

/// A vault in which nothing happens by itself, the rotation and the shred.
struct Run {
    world: World,
    vault: Vault,
    session: Arc<Session>,
    race: Race,
    deks: DeksWork,
    began: Timestamp,
    rotation: At,
    erasure: ErasureRecord,
    shred: At,
    refused: bool,
}

impl Run {
    async fn new(race: Race) -> Self {
        let mut world = World::of(Fixture::on(Arc::new(MemoryStore::keeping())).await);
        world.enrol(0..2).await;
        world.fixture.vault.close().await.unwrap();
        let places = [slot(&world.fixture.dir).into()];
        let vault = Vault::open(world.fixture.store.clone(), &places, VaultOptions::default()).await.unwrap();
        vault.unlock_at_rest(Unlock::KeyFile(world.fixture.key.duplicate())).await.unwrap();
        let session = vault.session().unwrap();
        let forget = race == Race::DeksForgetting;
        let deks = DeksWork { which: WhichDeks::All, forget, at: Walk::After(None), damaged: 0 };
        let erasure = erase::immediate(&erasure_of(vec![id(SHREDDED)]), 1);
        let (rotation, shred) = (At::Reads, At::Reads);
        let began = Timestamp::now().plus_seconds(1);
        let run = Self { world, vault, session, race, deks, began, rotation, erasure, shred, refused: false };
        run.come_to_the_race().await;
        run
    }

    /// What a rotation of lookups does before the step that races.
    async fn come_to_the_race(&self) {
        if !matches!(self.race, Race::Building | Race::Pruning) {
            return;
        }
        self.succeed(Succession::Begin).await;
        if self.race == Race::Building {
            return;
        }
        let mut built = self.prepare_walk(Task::Build).await;
        assert_eq!(self.commit(&mut built).await, [true, true]);
        self.succeed(Succession::Switch).await;
        let header = self.session.snapshot().header.clone();
        let old = trie::scan_beside(&self.vault.inner.pages, &header, Kind::Lookups, None, 100).await.unwrap();
        let beside = old.into_iter().map(|(key, _)| (key, Op::Remove)).collect();
        let emptied = Write { reclaim: true, beside, ..Write::default() };
        self.commit(&mut Prepared { writes: vec![emptied], root: true, rekey: None }).await;
        self.succeed(Succession::Drop).await;
    }

    async fn succeed(&self, change: Succession) {
        let write = Write { reclaim: true, succession: Some(change), ..Write::default() };
        assert_eq!(self.commit(&mut Prepared { writes: vec![write], root: true, rekey: None }).await, [true]);
    }

    async fn prepare_walk(&self, task: Task<'_>) -> Prepared {
        let task = (task, Walk::After(None));
        let mut step = walk::prepare(&self.vault.inner, &self.session, &task, 64).await.unwrap();
        let writes = step.take_writes();
        Prepared { writes, root: matches!(self.race, Race::DeksForgetting | Race::Pruning), rekey: None }
    }

    /// The rotation reads.
    async fn prepare_rotation(&mut self) {
        let prepared = match self.race {
            Race::Deks | Race::DeksForgetting => self.prepare_walk(Task::Renew(&self.deks, self.began)).await,
            Race::Building => self.prepare_walk(Task::Build).await,
            Race::Pruning => self.prepare_walk(Task::Prune).await,
            Race::Keks => {
                let step = RekeyStep { cursor: RekeyCursor::start(), max_pages: 1024 };
                Prepared { writes: Vec::new(), root: true, rekey: Some(step) }
            }
        };
        let nothing = prepared.writes.is_empty() && prepared.rekey.is_none();
        self.rotation = if nothing { At::Done } else { At::Commits(prepared) };
    }

    /// The shred reads: first to refuse the subject, then to destroy its keys.
    async fn prepare_shred(&mut self) {
        let inner = &self.vault.inner;
        let subject = id(SHREDDED);
        let write = if self.refused {
            let key = subject::directory_key(&self.session.snapshot().header, &subject);
            shred::prepare_final(inner, &self.session, vec![(self.erasure.id, key)]).await.unwrap().1
        } else {
            let mut record = self.erasure.clone();
            record.accepted = true;
            let snapshot = self.session.snapshot();
            let (write, _) = inner.prepare_refusal(&snapshot, &[&subject], &mut record, None).await.unwrap();
            write
        };
        self.shred = At::Commits(Prepared { writes: vec![write], root: self.refused, rekey: None });
    }

    /// Has the writer commit, and the slot settle what is part of a root batch.
    async fn commit(&self, prepared: &mut Prepared) -> Vec<bool> {
        let writes = std::mem::take(&mut prepared.writes);
        if !prepared.root {
            return self.session.commit(writes).await.unwrap();
        }
        let roots = &self.vault.inner.roots;
        let current = self.session.root.load_full();
        let next = Arc::new(roots.stage(&current, &mut Random::new(64)).await.unwrap().next);
        let (reply, answer) = oneshot::channel();
        let rekey = prepared.rekey.take();
        let asked = Command::Root { next: next.clone(), writes, rekey, reply };
        assert!(self.session.writer.send(asked).await.is_ok());
        let Ok(done) = answer.await.unwrap() else { panic!("the root batch was not committed") };
        assert!(matches!(roots.finish(&next).await, Finish::Done));
        done.committed
    }

    fn choices(&self) -> Vec<Choice> {
        let mut choices = Vec::new();
        if !matches!(self.rotation, At::Done) {
            choices.push(Choice::Rotation);
        }
        if !matches!(self.shred, At::Done) {
            choices.push(Choice::Shred);
        }
        if let (At::Commits(_), At::Commits(_)) = (&self.rotation, &self.shred) {
            choices.extend([Choice::RotationFirst, Choice::ShredFirst]);
        }
        choices
    }

    async fn take(&mut self, choice: Choice) {
        match choice {
            Choice::Rotation => match std::mem::replace(&mut self.rotation, At::Done) {
                At::Commits(mut prepared) => {
                    let held = self.commit(&mut prepared).await;
                    self.rotated(&held);
                }
                _ => self.prepare_rotation().await,
            },
            Choice::Shred => match std::mem::replace(&mut self.shred, At::Done) {
                At::Commits(mut prepared) => {
                    let held = self.commit(&mut prepared).await;
                    self.shredded(held[0]);
                }
                _ => self.prepare_shred().await,
            },
            Choice::RotationFirst | Choice::ShredFirst => {
                let sides = [&mut self.rotation, &mut self.shred].map(|side| std::mem::replace(side, At::Done));
                let [At::Commits(rotation), At::Commits(shred)] = sides else { panic!("both commit") };
                let (root, rekey) = (rotation.root || shred.root, rotation.rekey);
                let rotations = rotation.writes.len();
                let rotation_first = choice == Choice::RotationFirst;
                let writes = match rotation_first {
                    true => rotation.writes.into_iter().chain(shred.writes).collect(),
                    false => shred.writes.into_iter().chain(rotation.writes).collect::<Vec<_>>(),
                };
                let held = self.commit(&mut Prepared { writes, root, rekey }).await;
                let (first, rest) = held.split_at(if rotation_first { rotations } else { 1 });
                let (rotated, shredded) = if rotation_first { (first, rest) } else { (rest, first) };
                self.shredded(shredded[0]);
                self.rotated(rotated);
            }
        }
    }

    fn rotated(&mut self, held: &[bool]) {
        self.rotation = if held.iter().all(|held| *held) { At::Done } else { At::Reads };
    }

    fn shredded(&mut self, held: bool) {
        let last = self.refused;
        self.refused |= held;
        self.shred = if held && last { At::Done } else { At::Reads };
    }

    /// Starts the vault as it always runs, and looks.
    async fn check(mut self, told: &str) {
        self.vault.close().await.unwrap();
        self.world.fixture.restart().await;
        self.world.photograph();
        let fixture = &self.world.fixture;
        assert!(matches!(fixture.read(SHREDDED, "email").await, Err(Error::Shredded)), "{told}");
        assert_eq!(fixture.read(LIVING, "email").await.unwrap(), r#""user1@example.org""#, "{told}");
        assert_eq!(fixture.look_up("email", r#""user1@example.org""#).await, [LIVING], "{told}");
        assert_eq!(fixture.look_up("email", r#""user0@example.org""#).await, [""; 0], "{told}");
        if self.race != Race::Building {
            // A generation that is half built when its rotation is not there is no state of a vault.
            assert_eq!(fixture.vault.verify(&|_, _| ()).await.unwrap().problems, [""; 0], "{told}");
        }
        assert!(!self.brings_back().await, "{told}: the shredded subject is back");
    }

    async fn brings_back(&self) -> bool {
        let loot = self.world.attack(&self.world.current_root().await.key);
        assert!(loot.subjects.contains(LIVING), "the attack works");
        loot.subjects.contains(SHREDDED) || loot.values.iter().any(|(subject, ..)| subject == SHREDDED)
    }
}

/// Every order of the steps; answers how many there are.
async fn every_order(race: Race) -> usize {
    let mut path = Path::default();
    let mut runs = 0;
    loop {
        let mut run = Run::new(race).await;
        let (mut step, mut told) = (0, Vec::new());
        loop {
            let choices = run.choices();
            if choices.is_empty() {
                break;
            }
            if step == path.0.len() {
                path.0.push((0, choices.len()));
            }
            assert_eq!(path.0[step].1, choices.len(), "a run is repeated as it was");
            let choice = choices[path.0[step].0];
            told.push(choice);
            run.take(choice).await;
            step += 1;
            assert!(step < 40, "they keep each other from getting on: {told:?}");
        }
        run.check(&format!("{race:?}: {told:?}")).await;
        runs += 1;
        if !path.advance() {
            eprintln!("{race:?} against a shred: {runs} orders");
            return runs;
        }
    }
}

#[tokio::test]
async fn new_data_keys() {
    assert!(every_order(Race::Deks).await > 20);
}

#[tokio::test]
async fn new_data_keys_that_forget() {
    assert!(every_order(Race::DeksForgetting).await > 20);
}

#[tokio::test]
async fn a_generation_of_lookups_that_is_built() {
    assert!(every_order(Race::Building).await > 20);
}

#[tokio::test]
async fn a_generation_of_lookups_that_is_gone() {
    assert!(every_order(Race::Pruning).await > 20);
}

#[tokio::test]
async fn new_page_keys() {
    assert!(every_order(Race::Keks).await > 20);
}

/// The control: a write of a rotation that guards nothing, committed behind the shred, does bring the subject back.
#[tokio::test]
async fn a_rotation_without_guards_would_win() {
    for race in [Race::Deks, Race::DeksForgetting, Race::Building] {
        let mut run = Run::new(race).await;
        run.take(Choice::Rotation).await;
        let At::Commits(prepared) = &mut run.rotation else { panic!("it has something to commit") };
        prepared.writes.iter_mut().for_each(|write| write.guards.clear());
        for _ in 0..4 {
            run.take(Choice::Shred).await;
        }
        assert!(matches!(run.shred, At::Done));
        run.take(Choice::Rotation).await;
        run.vault.close().await.unwrap();
        run.world.photograph();
        assert!(run.brings_back().await, "{race:?}");
    }
}

#[test]
fn a_path_goes_every_way_once() {
    // Two ways, then two or three.
    let (mut path, mut seen) = (Path::default(), Vec::new());
    loop {
        if path.0.is_empty() {
            path.0.push((0, 2));
        }
        if path.0.len() == 1 {
            let ways = 2 + path.0[0].0;
            path.0.push((0, ways));
        }
        seen.push((path.0[0].0, path.0[1].0));
        if !path.advance() {
            break;
        }
    }
    assert_eq!(seen, [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]);
}
