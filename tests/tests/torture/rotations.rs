//! Every layer of keys is rotated to its end, twice, under a steady load, while the server is killed.
//!
//! `UDV_TEST_LONG=1` does it over a hundred thousand subjects with twenty kills.

use std::thread;
use std::time::Instant;

use serde_json::{Value, json};
use vault_core::store::EngineName;

use super::model::Trouble;
use super::rotator::Rotator;
use super::stage::{Stage, other_engine};
use crate::harness::{Keys, Running, engine};

const WORKERS: u64 = 4;
/// The layers that rotate online, twice each; those of one step are cut short seldom.
const ROTATIONS: [(&str, bool); 8] = [
    ("root", false),
    ("keks", false),
    ("deks", false),
    ("lookups", false),
    ("root", false),
    ("keks", false),
    ("deks", true),
    ("lookups", false),
];
/// Which of them the next kill hits; then from the beginning.
const CUT: [usize; 8] = [2, 3, 1, 6, 7, 5, 0, 4];

struct Size {
    subjects: u64,
    kills: usize,
    /// Pages or subjects a second while a rotation waits for its kill.
    rate: u64,
    lookups: usize,
}

const LONG: Size = Size { subjects: 100_000, kills: 20, rate: 4000, lookups: 1000 };
const SHORT: Size = Size { subjects: 2000, kills: 5, rate: 500, lookups: 50 };
const SHORTER: Size = Size { subjects: 600, kills: 5, rate: 300, lookups: 50 };

fn size(otherwise: Size) -> Size {
    if std::env::var_os("UDV_TEST_LONG").is_some() { LONG } else { otherwise }
}

#[test]
fn every_layer_rotates_twice_under_load_and_kills() {
    rotate(engine(), &size(SHORT));
}

#[test]
fn every_layer_rotates_twice_with_the_other_engine_too() {
    rotate(other_engine(), &size(SHORTER));
}

fn rotate(engine: EngineName, size: &Size) {
    let mut stage = Stage::new("rotations", engine, WORKERS, size.subjects / WORKERS);
    let mut running = stage.start();
    enrol(&mut stage, &running);
    running.stop();
    let mut before = Keys::of(&stage.vault, engine);
    running = stage.start();
    let mut kills = [0; ROTATIONS.len()];
    (0..size.kills).for_each(|n| kills[CUT[n % CUT.len()]] += 1);
    for ((layer, forget), kills) in ROTATIONS.into_iter().zip(kills) {
        running = one(&mut stage, running, size, layer, forget, kills);
        if layer == "lookups" {
            running.server.kill();
            all_others(&mut stage, &before, engine);
            let cut = stage.choices.one_in(2);
            if !stage.rotate_unlock(cut) {
                stage.rotate_unlock(false);
            }
            before = Keys::of(&stage.vault, engine);
            running = stage.start();
            stage.settle(&running.admin, size.lookups);
        }
    }
    running.stop();
    let tally = stage.finish();
    let steps: u64 = stage.workers.iter().map(|worker| worker.steps).sum();
    stage.say(&format!("{} kills, {steps} answered steps", size.kills));
    assert!(steps > 100 && tally.live > 0 && tally.shredded > 0, "the load was no load");
}

/// Asserts that no key of before is in use, whatever the vault says of its rotations.
fn all_others(stage: &mut Stage, before: &Keys, engine: EngineName) {
    let begun = Instant::now();
    let now = Keys::of(&stage.vault, engine);
    let living = now.subjects.keys().filter(|id| before.subjects.contains_key(*id)).count();
    let left = now.left_of(before);
    stage.say(&format!(
        "looked at the keys in {:.1} s: {living} subjects lived through the round, left of its keys: {left:?}",
        begun.elapsed().as_secs_f64()
    ));
    if living == 0 || !left.is_empty() {
        stage.fail(Trouble::Deviation(format!("keys of before are in use: {left:?}; of {living} subjects")));
    }
}

fn enrol(stage: &mut Stage, running: &Running) {
    let enrolled: Result<(), Trouble> = thread::scope(|scope| {
        let enrolling: Vec<_> =
            stage.workers.iter_mut().map(|worker| scope.spawn(|| worker.enrol_all(&running.admin))).collect();
        enrolling.into_iter().try_for_each(|enrolling| enrolling.join().unwrap())
    });
    enrolled.unwrap_or_else(|trouble| stage.fail(trouble));
    stage.say("enrolled");
}

/// Rotates one layer to its end, which so many kills do not keep it from.
fn one(stage: &mut Stage, mut running: Running, size: &Size, layer: &str, forget: bool, kills: usize) -> Running {
    let mut asked = json!({ "layer": layer });
    if forget {
        asked["forget"] = true.into();
    }
    if kills > 0 {
        asked["rate"] = size.rate.into();
    }
    let mut id = None;
    for kill in 1..=kills as u64 {
        let admin = running.admin.clone();
        let reached = stage.under_load(&admin, |ending, choices| {
            let rotator = Rotator::new(admin.clone());
            let id = id.take().map_or_else(|| rotator.begin(&asked), Ok)?;
            // Somewhere in its part of the way, so that each kill hits it further on.
            let permille = (1000 * (kill - 1) + choices.below(1000)) / (kills as u64 + 1);
            let far = |rotation: &Value| {
                let number = |name: &str| rotation[name].as_u64().unwrap_or_default();
                number("done") * 1000 >= number("total") * permille
            };
            let rotation = rotator.wait_until(&id, far)?;
            ending.kill(running)?;
            Ok((id, rotation))
        });
        running = stage.start();
        let begun = Instant::now();
        stage.settle(&running.admin, size.lookups);
        stage.say(&format!(
            "checked in {:.1} s, {layer} killed at {}/{} {}",
            begun.elapsed().as_secs_f64(),
            reached.1["done"],
            reached.1["total"],
            reached.1["state"]
        ));
        id = Some(reached.0);
    }
    let admin = running.admin.clone();
    stage.under_load(&admin, |_, _| {
        let rotator = Rotator::new(admin.clone());
        // It goes on by itself, and need not be slow any more.
        let id = match id {
            Some(id) => rotator.hurry(&id).map(|()| id)?,
            None => rotator.begin(&asked)?,
        };
        let rotation = rotator.wait_until(&id, |rotation| rotation["state"] == "cancelled")?;
        match rotation["state"] == "done" {
            true => Ok(()),
            false => Err(Trouble::Deviation(format!("it did not come to its end: {rotation}"))),
        }
    });
    stage.say(&format!("{layer} rotated with {kills} kills"));
    running
}
