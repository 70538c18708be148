//! Power loss: the disk keeps what was synced, and of the rest whatever comes; everything acknowledged is there.
//!
//! The real server runs under a tracer that writes down every change of its files (`watch.c`). For many moments the
//! directory is made anew as the disk could be after a loss of power right then (`disk.rs`), and the real server is
//! started on it. `UDV_TEST_CUTS=1000` tries more moments for each engine, `UDV_TEST_SEED=7` repeats a run's choices (not the
//! order in which the server's threads got to the disk).

mod control;
mod disk;
mod journal;
mod load;

use std::fs;
use std::sync::Mutex;
use std::thread;

use tempfile::TempDir;
use vault_core::audit;
use vault_core::store::EngineName;

use self::disk::{Disk, Loss};
use self::journal::{Event, Journal, length, watched};
use self::load::{Load, WRITERS};
use crate::harness::{Choices, Vault, engine, number_from, plain_words, seed};

/// Images that are tried at the same time.
const TRIED_AT_ONCE: usize = 2;

/// One vault's life on a disk, and what was acknowledged when.
struct Life {
    vault: Vault,
    journal: Journal,
    load: Load,
    /// Before its first start.
    before: Disk,
    /// How long the journal was when the vault was made.
    made: usize,
}

/// Makes a vault, works on it, and ends it, over two starts.
fn live(engine: EngineName, requests: u64, choices: &mut Choices) -> Life {
    let audit = ["interval", "entry"][choices.below(2) as usize];
    let more = format!("[audit]\nsync = \"{audit}\"\n{}", Vault::KEY_FILE);
    let vault = Vault::unmade_in(tempfile::tempdir().unwrap(), engine, &more);
    let journal = vault.root().join("journal");
    let before = Disk::holding(&vault.data());
    let under_watch = |command| watched(&command, &journal, &vault.data());
    crate::harness::run(under_watch(vault.init_command_for_key_file())).expect(0);
    let made = length(&journal);
    let mut load = Load::new(&journal);
    for _ in 0..2 {
        let running = vault.start_with(under_watch(vault.command())).unwrap();
        load.run(&running, requests / 2 / WRITERS as u64, choices);
        plain_words(&running.stop());
    }
    let journal = Journal::read(&journal, &vault.data());
    Life { vault, journal, load, before, made }
}

/// Moments to lose power at: anywhere, when something was just acknowledged, and in the middle of writing a slot.
fn cuts(life: &Life, count: u64, choices: &mut Choices) -> Vec<usize> {
    let records = &life.journal.records;
    let after = |told: usize| records.partition_point(|record| record.end <= told);
    let first = after(life.made);
    let told: Vec<_> = life.load.acknowledged().into_iter().map(after).collect();
    let slot = |inode| {
        let named = |event: &Event| {
            matches!(event, Event::Open { inode: of, path, .. }
            if *of == inode && path.ends_with("root.slot"))
        };
        records.iter().any(|record| named(&record.event))
    };
    let of_slots = |(at, record): (usize, &journal::Record)| match record.event {
        Event::Write { inode, .. } if slot(inode) => Some(at + 1),
        _ => None,
    };
    let slots: Vec<_> = records.iter().enumerate().skip(first).filter_map(of_slots).collect();
    assert!(!told.is_empty() && !slots.is_empty(), "the load was no load");
    let one = |list: &[usize], choices: &mut Choices| list[choices.below(list.len() as u64) as usize];
    let mut cuts: Vec<_> = (0..count)
        .map(|number| match number % 4 {
            0 => one(&told, choices),
            1 => one(&slots, choices),
            _ => first + choices.below((records.len() - first) as u64 + 1) as usize,
        })
        .collect();
    cuts.sort_unstable();
    cuts
}

/// An image of the disk that is to be tried.
struct Image {
    root: TempDir,
    /// Records of the journal that the disk has seen.
    at: usize,
    told: String,
    choices: Choices,
}

/// Starts the server on an image and holds what it tells against what was acknowledged.
fn try_image(life: &Life, image: Image) {
    let Image { root, at, told, mut choices } = image;
    // Shown by what fails.
    eprintln!("{told}");
    let root = if choices.below(4) == 0 { lose_power_again(root, &mut choices) } else { root };
    let cut = at.checked_sub(1).map_or(0, |last| life.journal.records[last].end);
    let vault = Vault::placed(root);
    let running = vault.start();
    life.load.check(&running.admin, cut, &mut choices);
    plain_words(&running.stop());
    vault.verify().expect(0);
    let heads = life.load.heads.lock().unwrap();
    let kept = heads.iter().filter(|head| head.told <= cut);
    let kept: Vec<_> = kept.map(|head| (format!("the head at {}", head.told), head.note.clone())).collect();
    drop(heads);
    let report = audit::check_with(&vault.data().join("audit"), None, &kept, &|_, _| ()).unwrap();
    assert_eq!(report.problems, Vec::<String>::new(), "{told}");
}

/// Starts the server on an image, and makes another of it as it could be if power was lost while it recovered.
fn lose_power_again(root: TempDir, choices: &mut Choices) -> TempDir {
    let vault = Vault::placed(root);
    let (journal, mut disk) = (vault.root().join("journal"), Disk::holding(&vault.data()));
    let running = vault.start_with(watched(&vault.command(), &journal, &vault.data())).unwrap();
    running.server.kill();
    let journal = Journal::read(&journal, &vault.data());
    disk.follow(&journal, 0..choices.below(journal.records.len() as u64 + 1) as usize);
    let again = tempfile::tempdir().unwrap();
    disk.image(Loss::choose(choices), choices, &journal, &make_dir(&again));
    again
}

fn make_dir(root: &TempDir) -> std::path::PathBuf {
    let data = root.path().join("data");
    fs::create_dir(&data).unwrap();
    data
}

#[test]
fn power_losses_take_nothing_acknowledged() {
    lose_power(engine(), 40);
}

#[test]
fn power_losses_take_nothing_with_the_other_engine_either() {
    lose_power(if engine() == EngineName::Sled { EngineName::Fjall } else { EngineName::Sled }, 30);
}

fn lose_power(engine: EngineName, cuts_by_default: u64) {
    let (seed, count) = (seed(), number_from("UDV_TEST_CUTS").unwrap_or(cuts_by_default));
    eprintln!("power losses of {engine}: seed {seed}, {count} cuts");
    let mut choices = Choices::new(seed);
    let mut life = live(engine, 240, &mut choices);
    let cuts = cuts(&life, count, &mut choices);
    let mut disk = std::mem::take(&mut life.before);
    let mut done = 0;
    let images = Mutex::new(cuts.into_iter().enumerate().map(|(number, at)| {
        disk.follow(&life.journal, done..at);
        done = at;
        let loss = Loss::choose(&mut choices);
        let root = tempfile::tempdir().unwrap();
        disk.image(loss, &mut choices, &life.journal, &make_dir(&root));
        let choices = Choices::new(choices.below(u64::MAX));
        Image { root, at, choices, told: format!("image {number} of {engine}: cut after record {at}, {loss:?}") }
    }));
    thread::scope(|scope| {
        for _ in 0..TRIED_AT_ONCE {
            scope.spawn(|| {
                while let Some(image) = { images.lock().unwrap().next() } {
                    try_image(&life, image);
                }
            });
        }
    });
    drop(images);
    disk.follow(&life.journal, done..life.journal.records.len());
    disk.is_as_in(&life.vault.data(), &life.journal);
    eprintln!("power losses of {engine}: {} records, {count} cuts", life.journal.records.len());
}
