//! kill -9 of the real server under a mixed load with rotations of every layer, again and again: at its work, while it
//! starts, and while its unlock key is changed, by itself or on the stopped vault.
//!
//! `UDV_TEST_KILLS=100` kills more often.

use std::thread;
use std::time::Duration;

use vault_core::store::EngineName;

use super::model::Trouble;
use super::rotator::Rotator;
use super::stage::{Ending, Stage, other_engine};
use crate::harness::{Choices, Running, engine, number_from};

const WORKERS: u64 = 4;
const SUBJECTS_EACH: u64 = 30;
const KILLS: u64 = 7;

#[test]
fn kills_lose_nothing_acknowledged_and_undo_no_shred() {
    torture(engine());
}

#[test]
fn kills_lose_nothing_with_the_other_engine_either() {
    torture(other_engine());
}

fn torture(engine: EngineName) {
    let kills = number_from("UDV_TEST_KILLS").unwrap_or(KILLS);
    let mut stage = Stage::new("kills", engine, WORKERS, SUBJECTS_EACH);
    let (mut unlocks, mut cut, mut online) = (0, 0, 0);
    for kill in 0..kills {
        if kill % 3 == 1 {
            stage.kill_while_starting();
        }
        if kill % 4 == 3 {
            let killed = stage.choices.one_in(2);
            let done = stage.rotate_unlock(killed);
            unlocks += u64::from(done);
            cut += u64::from(killed);
        }
        if kill > 0 && kill % 50 == 0 {
            stage.say(&format!("{kill} kills"));
        }
        let running = stage.start();
        stage.settle(&running.admin, usize::MAX);
        let ids: Vec<String> = stage.workers.iter().flat_map(|worker| worker.ids().iter().cloned()).collect();
        let (admin, unlock) = (running.admin.clone(), kill % 3 == 2);
        online += stage.under_load(&admin, |ending, choices| round(running, &ids, unlock, ending, choices));
    }
    // What a kill cut short is done again.
    let running = stage.start();
    let rotator = stage.rotator(&running);
    let again = rotator.rotate_unlock().and_then(|()| rotator.cut_short());
    let all_cut = again.unwrap_or_else(|trouble| stage.fail(trouble));
    running.stop();
    let tally = stage.finish();
    let steps: u64 = stage.workers.iter().map(|worker| worker.steps).sum();
    stage.say(&format!(
        "{kills} kills, {steps} answered steps, unlock keys changed {unlocks} times on the stopped vault, where {cut} attempts were \
         killed, and {online} times online; {all_cut} of all were cut short"
    ));
    assert!(steps > kills * 20 && tally.live > 0 && tally.shredded > 0, "the load was no load");
}

/// Rotates for a while, then kills the server; returns how often it changed its unlock key by itself. It did so in the place of
/// the key file, so that the next start has nothing else.
fn round(
    running: Running,
    ids: &[String],
    unlock: bool,
    ending: &Ending,
    choices: &mut Choices,
) -> Result<u64, Trouble> {
    let left = 200 + choices.below(1800);
    let (all_now, unlock) = (choices.one_in(5), unlock.then(|| choices.fork()));
    let rotator = Rotator::new(running.admin.clone());
    thread::scope(|scope| {
        let emergency = all_now.then(|| {
            let command = running.cli_command(Rotator::ALL_NOW);
            scope.spawn(move || Rotator::all_now(command))
        });
        let rotator = &rotator;
        let unlocking = unlock.map(|choices| scope.spawn(|| rotator.rotate_unlock_on_and_on(choices)));
        let stepped = step_for(left, rotator, ids, choices);
        // Whatever was seen: nothing else ends the others.
        ending.kill(running).and(stepped)?;
        emergency.map_or(Ok(()), |emergency| emergency.join().unwrap())?;
        unlocking.map_or(Ok(0), |unlocking| unlocking.join().unwrap())
    })
}

/// Asks for one thing or another about rotations, for so many milliseconds.
fn step_for(mut left: u64, rotator: &Rotator, ids: &[String], choices: &mut Choices) -> Result<(), Trouble> {
    while left > 0 {
        match rotator.step(choices, ids) {
            Ok(()) | Err(Trouble::Busy) => {}
            Err(Trouble::Gone) => {
                return Err(Trouble::Deviation("the server did not answer about a rotation".into()));
            }
            Err(deviation) => return Err(deviation),
        }
        let pause = choices.below(120).min(left);
        thread::sleep(Duration::from_millis(pause));
        left -= pause.max(1);
    }
    Ok(())
}
