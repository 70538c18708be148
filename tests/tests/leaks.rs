//! Many operations by callers who stay connected: memory, handles, threads and the store do not grow with their number.
//!
//! `UDV_TEST_OPERATIONS=4000000` runs that many (10,000 otherwise), `UDV_TEST_SEED=7` others. For a long run build the
//! programs for release, and name their directory in `UDV_TEST_PROGRAMS`.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Choices, Client, Running, Vault, files_under, number_from, run_within, server_command};

const CALLERS: u64 = 6;
/// Subjects of each caller: the same ids over and over, shredded and enrolled again.
const SUBJECTS: u64 = 40;
/// How often the figures are taken in one run.
const SAMPLES: u64 = 60;
/// How often keys rotate in one run, each time another layer.
const ROTATIONS: u64 = 12;

/// What may grow between the middle of the run and its end, beside a part of it. Memory that is held, which is judged by what
/// a fresh process on the same store holds: what a cache takes that is not full yet. Resident memory: what the allocator's arenas spread by, which keep what a peak once took; it is freed,
/// for what is freed is overwritten with zeros, and so told from what is held. Handles: a file of the engine's that is open for a
/// moment. Threads: of those that block, which tokio starts as they are needed and ends after seconds.
const SLACK: Figures = Figures { held_kib: 6.0 * 1024.0, memory_kib: 6.0 * 1024.0, handles: 6.0, threads: 8.0 };
/// What a compacted store may take: of a subject that lives, of an erasure that is done (its record and the evidence of it,
/// which stay), and to begin with, which is what an engine makes its files of.
const STORE_BYTES: (u64, u64, u64) = (8 << 10, 2 << 10, 12 << 20);

/// What is watched of the process.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    /// Memory that is not zeros.
    held_kib: f64,
    memory_kib: f64,
    handles: f64,
    threads: f64,
}

impl Figures {
    fn of(process: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let number = |name: &str| -> f64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        let handles = fs::read_dir(format!("/proc/{process}/fd")).unwrap().count() as f64;
        let held_kib = held(process).unwrap_or_default() as f64 / 1024.0;
        Self { held_kib, memory_kib: number("VmRSS:"), handles, threads: number("Threads:") }
    }
}

/// Bytes of the parts, of 64 each, that are not zeros in the memory that is a process's own. Only root may look.
fn held(process: u32) -> io::Result<u64> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps"))?;
    let memory = fs::File::open(format!("/proc/{process}/mem"))?;
    let table = fs::File::open(format!("/proc/{process}/pagemap"))?;
    let (mut bytes, mut page, mut entries) = (0, vec![0; 1 << 20], vec![0; (1 << 20) / 4096 * 8]);
    // No file behind it.
    for line in maps.lines().filter(|line| line.contains(" rw") && !line.contains('/')) {
        let (begin, end) = line.split_once(' ').and_then(|(range, _)| range.split_once('-')).unwrap();
        let [mut at, end] = [begin, end].map(|at| u64::from_str_radix(at, 16).unwrap());
        while at < end {
            let most = page.len().min((end - at) as usize);
            // An allocator keeps much more in reserve than it ever touches. The highest two bits of a page's entry: it is in
            // memory, or swapped out.
            let known = table.read_at(&mut entries[..most / 4096 * 8], at / 4096 * 8)?;
            if entries[..known].iter().skip(7).step_by(8).all(|highest| highest & 0xc0 == 0) {
                at += most as u64;
                continue;
            }
            // It may have been given back meanwhile.
            let Ok(read @ 1..) = memory.read_at(&mut page[..most], at) else { break };
            let pages = page[..read].chunks(4096).filter(|page| **page != [0; 4096][..page.len()]);
            bytes += pages.flat_map(|page| page.chunks(64)).filter(|part| **part != [0; 64]).count() as u64 * 64;
            at += read as u64;
        }
    }
    Ok(bytes)
}

/// What it is called and is, and how much of it may come on top.
type Figure = (&'static str, fn(&Figures) -> f64, f64);

const HELD: Figure = ("KiB of memory that is held", |f| f.held_kib, 0.15);
const FIGURES: [Figure; 3] =
    [("KiB of memory", |f| f.memory_kib, 0.5), ("handles", |f| f.handles, 0.04), ("threads", |f| f.threads, 0.04)];

/// What grew, if anything did. The first third warms up; of the rest the later half is held against the earlier one, median
/// against median, so that a peak is no growth.
fn grown(samples: &[Figures]) -> Vec<String> {
    let warm = &samples[samples.len() / 3..];
    let (earlier, later) = warm.split_at(warm.len() / 2);
    FIGURES.iter().filter_map(|figure| more(figure, earlier, later)).collect()
}

/// What the process held at the end, if that is more than a fresh one holds which does the same on the same store. Erasures
/// stay on record, so the store grows, and an engine keeps in memory where its pages are: that is no leak.
fn held_beyond(fresh: &[Figures], samples: &[Figures]) -> Option<String> {
    let last = |samples: &'_ [Figures]| samples[samples.len() * 2 / 3..].to_vec();
    more(&HELD, &last(fresh), &last(samples))
}

/// Whether a figure is that much larger than before, and by how much.
fn more((name, of, part): &Figure, before: &[Figures], after: &[Figures]) -> Option<String> {
    let (before, after) = (median(before, of), median(after, of));
    let bound = before * (1.0 + part) + of(&SLACK);
    (after > bound)
        .then(|| format!("{name}: {before} before, or in a fresh process, {after} at the end, {bound} at most"))
}

fn median(samples: &[Figures], of: &fn(&Figures) -> f64) -> f64 {
    let mut values: Vec<f64> = samples.iter().map(of).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A caller: what it does next, and how its subjects are.
struct Worker {
    admin: Client,
    name: u64,
    choices: Choices,
    /// By subject: the value that it holds, if it lives.
    lives: Vec<Option<u64>>,
    shreds: u64,
}

impl Worker {
    fn step(&mut self) {
        let chosen = self.choices.below(SUBJECTS);
        let id = format!("w{}-{chosen}", self.name);
        let path = format!("/v1/subjects/{id}");
        let Some(value) = self.lives[chosen as usize] else { return self.write(chosen, &path, "?enrol=again") };
        match self.choices.below(100) {
            0..45 => assert_eq!(self.admin.field(&id, "name").expect(200).json()["value"], text(value)),
            45..65 => {
                let lookup = json!({ "field": "phone", "value": phone(self.name, chosen) });
                assert_eq!(self.admin.find(&lookup), [id]);
            }
            65..98 => self.write(chosen, &path, ""),
            _ => {
                let told = self.admin.delete(&path);
                assert!([200, 202].contains(&told.status), "{}", told.body);
                self.lives[chosen as usize] = None;
                self.shreds += 1;
            }
        }
    }

    fn write(&mut self, chosen: u64, path: &str, query: &str) {
        let value = self.choices.below(u64::MAX);
        let fields = json!({ "fields": { "name": text(value), "phone": phone(self.name, chosen) } });
        let path = format!("{path}/fields{query}");
        loop {
            let answer = self.admin.patch(&path, &fields);
            match answer.status {
                200 | 201 => break,
                // Enrolled again before its shred is final.
                409 => thread::sleep(Duration::from_millis(20)),
                _ => panic!("{path}: {} {}", answer.status, answer.body),
            }
        }
        self.lives[chosen as usize] = Some(value);
    }
}

/// Texts of different lengths, as values are.
fn text(value: u64) -> String {
    format!("{value:x}").repeat(1 + (value % 9) as usize)
}

fn phone(caller: u64, subject: u64) -> String {
    format!("+97150123{:04}", caller * 1000 + subject)
}

#[test]
fn memory_handles_and_store_do_not_grow_with_the_number_of_operations() {
    let operations = number_from("UDV_TEST_OPERATIONS").unwrap_or(10_000);
    let seed = number_from("UDV_TEST_SEED").unwrap_or(1);
    println!("UDV_TEST_OPERATIONS={operations} UDV_TEST_SEED={seed}");
    let vault = Vault::configured();
    let running = start(&vault);
    let workers = (0..CALLERS).map(|name| Worker {
        admin: running.admin.alone(),
        name,
        choices: Choices::new(seed * CALLERS + name),
        lives: vec![None; SUBJECTS as usize],
        shreds: 0,
    });
    let begun = Instant::now();
    let (samples, workers) = work(&running, &vault, operations, workers.collect());
    println!("{operations} operations in {:?}", begun.elapsed());
    for worker in &workers {
        for (chosen, value) in worker.lives.iter().enumerate() {
            let read = worker.admin.field(&format!("w{}-{chosen}", worker.name), "name");
            assert_eq!(
                value.map(text),
                (read.status == 200).then(|| read.json()["value"].as_str().unwrap().to_owned())
            );
        }
    }
    running.stop();
    let running = start(&vault);
    let again = workers.into_iter().map(|worker| Worker { admin: running.admin.alone(), ..worker }).collect();
    let (fresh, workers) = work(&running, &vault, (operations / 10).max(6000), again);
    let shreds = workers.iter().map(|worker| worker.shreds).sum();
    let living = workers.iter().flat_map(|worker| &worker.lives).flatten().count() as u64;
    drop(workers);
    running.stop();
    assert_eq!(grown(&samples), Vec::<String>::new(), "{samples:?}");
    assert_eq!(held_beyond(&fresh, &samples), None, "{samples:?}, of a fresh process {fresh:?}");
    store_is_small(&vault, living, shreds);
}

fn start(vault: &Vault) -> Running {
    let mut command = vault.command();
    // Caches that are full early: filling up is no growth.
    command.env("UDV_STORE__CACHE_MIB", "4").env("UDV_CACHE__PAGES_MIB", "2");
    // A line for each request would be kept by this test.
    command.env("UDV_LIMITS__LOOKUPS_PER_MINUTE", "0").env("UDV_LOG", "warn,sled=warn");
    vault.start_with(command).unwrap_or_else(|refusal| panic!("{}", refusal.text))
}

/// Does the operations, and takes the figures meanwhile.
fn work(running: &Running, vault: &Vault, operations: u64, workers: Vec<Worker>) -> (Vec<Figures>, Vec<Worker>) {
    let done = AtomicU64::new(0);
    let (ended, end) = mpsc::channel();
    thread::scope(|scope| {
        let each = |mut worker: Worker| {
            let (done, ended) = (&done, ended.clone());
            move || {
                while done.fetch_add(1, Ordering::Relaxed) < operations {
                    worker.step();
                }
                let _ = ended.send(());
                worker
            }
        };
        let workers: Vec<_> = workers.into_iter().map(|worker| scope.spawn(each(worker))).collect();
        let (mut samples, mut rotations) = (Vec::new(), 0);
        let mut layers = ["keks", "deks", "lookups", "root"].into_iter().cycle();
        // Until the first is at its end: from then on the load is another.
        while end.recv_timeout(Duration::from_millis(5)) == Err(mpsc::RecvTimeoutError::Timeout) {
            let so_far = done.load(Ordering::Relaxed);
            if so_far >= samples.len() as u64 * operations / SAMPLES {
                samples.push(Figures::of(running.server.id()));
                println!(
                    "{so_far} {:?} store {} KiB",
                    samples[samples.len() - 1],
                    bytes_of(&vault.data().join("store")) >> 10
                );
            }
            if so_far > (rotations + 1) * operations / (ROTATIONS + 1) {
                rotations += 1;
                rotate(&running.admin, layers.next().unwrap());
            }
        }
        assert!(samples.len() as u64 > SAMPLES / 2, "too few figures to judge by: {}", samples.len());
        (samples, workers.into_iter().map(|worker| worker.join().unwrap()).collect())
    })
}

/// Asks for a rotation; one of that kind that goes on is as good.
fn rotate(admin: &Client, layer: &str) {
    let answer = admin.post("/v1/keys/rotations", &json!({ "layer": layer }));
    assert!([202, 409].contains(&answer.status), "{}", answer.body);
}

/// Compacts the stopped vault's store, and holds its size against what is in it.
fn store_is_small(vault: &Vault, living: u64, shreds: u64) {
    let before = bytes_of(&vault.data().join("store"));
    let mut compact = server_command();
    compact.args(["compact", "--remove", "--config"]).arg(vault.config());
    run_within(compact, Duration::from_secs(1800)).expect(0);
    let after = bytes_of(&vault.data().join("store"));
    let (of_subject, of_erasure, first) = STORE_BYTES;
    let bound = first + living * of_subject + shreds * of_erasure;
    println!("store: {before} bytes, compacted {after}, {bound} at most; {living} subjects, {shreds} erasures");
    assert!(after <= bound, "the compacted store takes {after} bytes, {bound} at most");
    vault.verify().expect(0);
}

fn bytes_of(directory: &Path) -> u64 {
    // Files come and go meanwhile.
    files_under(directory).iter().filter_map(|file| fs::metadata(file).ok()).map(|found| found.len()).sum()
}

#[test]
fn growth_is_told_from_what_goes_up_and_down() {
    let taken = |of: &dyn Fn(f64) -> Figures| (0..SAMPLES).map(|n| of(n as f64)).collect::<Vec<_>>();
    let samples = |of: &dyn Fn(f64) -> Figures| grown(&taken(of));
    let level = Figures { held_kib: 50_000.0, memory_kib: 90_000.0, handles: 30.0, threads: 12.0 };
    let warmed_up = |n: f64| Figures { held_kib: 50_000.0 - 30_000.0 / (1.0 + n * n), ..level };
    let waves = |n: f64| Figures { held_kib: 50_000.0 + 6_000.0 * (n / 3.0).sin(), handles: 30.0 + n % 3.0, ..level };
    assert!(samples(&warmed_up).is_empty() && samples(&waves).is_empty());
    // What a leak of 2 KiB an operation would look like in the short run, and of a handle each thousand.
    let leaking = |n: f64| Figures { held_kib: 50_000.0 + n / 60.0 * 40_000.0, ..level };
    let open = |n: f64| Figures { handles: 30.0 + n / 60.0 * 40.0, threads: 12.0 + n, ..level };
    assert_eq!(samples(&open).len(), 2);
    let fresh = taken(&|_| level);
    assert!(held_beyond(&fresh, &taken(&warmed_up)).is_none() && held_beyond(&fresh, &taken(&waves)).is_none());
    assert!(held_beyond(&fresh, &taken(&leaking)).is_some());
}
