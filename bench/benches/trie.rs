//! The sealed trie on the engine in memory: insert, find, shred and rekey, with 10^5 subjects, or also 10^6 when the
//! environment variable UDV_BENCH_LARGE is set.
//!
//! A subject is one directory entry of 190 bytes and two lookup entries. What is timed is the trie's own work: finding
//! pages, opening, changing and sealing them. Its batch is then thrown away, so that every round finds the same trie;
//! only `rekey_all` commits its steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput};
use tokio::runtime::{Builder, Runtime};
use vault_bench::cpu::{CpuTime, spent};
use vault_bench::seeded::Seeded;
use vault_core::crypto::{Random, RootKey};
use vault_core::ids::VaultId;
use vault_core::store::{Batch, Health, MemoryStore, Row, Store, StoreError};
use vault_core::time::Timestamp;
use vault_core::trie::{
    Applied, Edits, EntryKey, Header, Kind, Mode, Pages, Payload, RekeyCursor, RekeyStep, apply, find,
};

/// Bytes of a directory entry's payload: ids, two keys, two lookup tags.
const PAYLOAD: usize = 190;
/// The page cache of a vault that is not told otherwise.
const CACHE_BYTES: usize = 256 << 20;
/// Pages a vault rekeys in one step.
const STEP_PAGES: usize = 1024;
/// Subjects in a batch.
const BATCHES: [usize; 3] = [1, 100, 1000];

fn main() {
    let mut criterion = Criterion::default()
        .with_measurement(CpuTime)
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    let large = std::env::var_os("UDV_BENCH_LARGE").is_some();
    for subjects in [100_000, 1_000_000] {
        if subjects == 100_000 || large {
            measure(&mut criterion, subjects);
        }
    }
    criterion.final_summary();
}

fn measure(criterion: &mut Criterion<CpuTime>, subjects: u64) {
    let mut bed = Bed::filled(subjects);
    let mut group = criterion.benchmark_group(format!("trie/{subjects}"));
    group.sampling_mode(SamplingMode::Flat);
    finding(&mut group, &bed);
    for size in BATCHES {
        group.throughput(Throughput::Elements(size as u64));
        inserting(&mut group, &bed, size);
        shredding(&mut group, &bed, size);
    }
    group.finish();
    bed.rekey_all();
}

fn finding(group: &mut BenchmarkGroup<'_, CpuTime>, bed: &Bed) {
    let mut chooser = Seeded::new(3);
    group.throughput(Throughput::Elements(1));
    group.bench_function("find", |bencher| {
        bencher.iter(|| {
            let directory = Subject::of(chooser.below(bed.subjects)).directory;
            let found = bed.runtime.block_on(find(&bed.pages, &bed.header, Kind::Directory, &directory));
            assert_eq!(found.expect("the trie is whole").expect("every subject is there").len(), PAYLOAD);
        });
    });
}

fn inserting(group: &mut BenchmarkGroup<'_, CpuTime>, bed: &Bed, size: usize) {
    let mut newcomer = bed.subjects;
    group.bench_function(format!("insert {size}"), |bencher| {
        bencher.iter(|| {
            let mut edits = Edits::new();
            for _ in 0..size {
                Subject::of(newcomer).insert_into(&mut edits);
                newcomer += 1;
            }
            bed.apply(edits, Mode::Data { root: &bed.root })
        });
    });
}

fn shredding(group: &mut BenchmarkGroup<'_, CpuTime>, bed: &Bed, size: usize) {
    let mut chooser = Seeded::new(4);
    let next = RootKey::draw(&mut Random::for_keys(1));
    let (mut shreds, mut bytes, mut most) = (0, 0, 0);
    group.bench_function(format!("shred {size}"), |bencher| {
        bencher.iter(|| {
            let mut edits = Edits::new();
            for _ in 0..size {
                Subject::of(chooser.below(bed.subjects)).remove_from(&mut edits);
            }
            let applied = bed.apply(edits, Mode::Root { next: &next, rekey: None, renew: false, now: Timestamp(1) });
            let written = written(&applied);
            (shreds, bytes, most) = (shreds + 1, bytes + written, most.max(written));
        });
    });
    // None were made if a filter named other benchmarks.
    if let Some(mean) = bytes.checked_div(shreds) {
        println!(
            "    bytes written by a shred of {size}: {mean} on average, {most} at most; {} a subject",
            mean / size
        );
    }
}

/// Bytes of the rows that a batch writes, their keys included.
fn written(applied: &Applied) -> usize {
    applied.put.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
}

/// A trie with subjects in it.
struct Bed {
    runtime: Runtime,
    subjects: u64,
    store: Arc<Metered>,
    pages: Pages,
    header: Header,
    root: RootKey,
}

impl Bed {
    fn filled(subjects: u64) -> Bed {
        let (vault, mut random) = (VaultId([5; 16]), Random::for_keys(8));
        let store = Arc::new(Metered::default());
        let mut bed = Bed {
            runtime: Builder::new_current_thread().build().expect("a runtime without timers or sockets starts"),
            subjects,
            pages: Pages::new(store.clone(), vault, CACHE_BYTES),
            store,
            header: Header::new(vault, Timestamp(0), &mut random),
            root: RootKey::draw(&mut random),
        };
        let (mut number, start) = (0, spent());
        while number < subjects {
            let mut edits = Edits::new();
            for _ in 0..10_000.min(subjects - number) {
                Subject::of(number).insert_into(&mut edits);
                number += 1;
            }
            let applied = bed.apply(edits, Mode::Data { root: &bed.root });
            bed.commit(applied);
        }
        println!(
            "trie of {subjects} subjects: filled in {:.1} s of CPU, {} rows",
            since(start),
            bed.store.engine.rows()
        );
        bed
    }

    fn apply(&self, edits: Edits, mode: Mode<'_>) -> Applied {
        self.runtime.block_on(apply(&self.pages, &self.header, edits, mode)).expect("the trie is whole")
    }

    fn commit(&mut self, mut applied: Applied) {
        let (put, delete) = (std::mem::take(&mut applied.put), std::mem::take(&mut applied.delete));
        let batch = Batch { put, delete, ..Batch::default() };
        self.runtime.block_on(self.store.commit(batch)).expect("the engine in memory takes every batch");
        self.pages.publish(&applied);
        self.header = applied.header;
    }

    /// Gives every page a fresh key, committed step by step, and tells what it took.
    fn rekey_all(&mut self) {
        let (mut steps, mut pages, mut bytes) = (0, 0, 0);
        let (start, engine) = (spent(), self.store.spent());
        let mut cursor = Some(RekeyCursor::start());
        while let Some(at) = cursor {
            let next = RootKey::draw(&mut Random::for_keys(1));
            let step = RekeyStep { cursor: at, max_pages: STEP_PAGES };
            let applied = self
                .apply(Edits::new(), Mode::Root { next: &next, rekey: Some(step), renew: false, now: Timestamp(1) });
            cursor = applied.next_cursor.clone();
            (steps, pages, bytes) = (steps + 1, pages + applied.rekeyed, bytes + written(&applied));
            self.commit(applied);
            self.root = next;
        }
        let engine = (self.store.spent() - engine).as_secs_f64();
        let (subjects, trie, mib) = (self.subjects, since(start) - engine, bytes >> 20);
        println!("trie/{subjects}/rekey_all: {trie:.2} s of CPU, and {engine:.2} s in the engine;");
        println!("    {pages} pages in {steps} steps, {mib} MiB written");
    }
}

/// The engine in memory, with a meter of what it takes itself: its map is no part of the trie.
#[derive(Default)]
struct Metered {
    engine: MemoryStore,
    nanos: AtomicU64,
}

impl Metered {
    fn spent(&self) -> Duration {
        Duration::from_nanos(self.nanos.load(Ordering::Relaxed))
    }

    async fn metered<T>(&self, work: impl Future<Output = T>) -> T {
        let start = spent();
        let done = work.await;
        let nanos = u64::try_from((spent() - start).as_nanos()).unwrap_or(u64::MAX);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        done
    }
}

#[async_trait::async_trait]
impl Store for Metered {
    async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.metered(self.engine.get(key)).await
    }

    async fn scan(&self, start: &[u8], end: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StoreError> {
        self.metered(self.engine.scan(start, end, limit)).await
    }

    async fn commit(&self, batch: Batch) -> Result<(), StoreError> {
        self.metered(self.engine.commit(batch)).await
    }

    fn health(&self) -> Health {
        self.engine.health()
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.engine.close().await
    }
}

fn since(start: Duration) -> f64 {
    (spent() - start).as_secs_f64()
}

/// What a subject has in the trie.
struct Subject {
    directory: EntryKey,
    lookups: [EntryKey; 2],
    payload: Payload,
}

impl Subject {
    /// The subject of this number: always the same one.
    fn of(number: u64) -> Subject {
        let mut seeded = Seeded::new(number.wrapping_mul(0xd6e8_feb8_6659_fd93));
        let tag: [u8; 16] = seeded.bytes();
        let lookup = |seeded: &mut Seeded| join(seeded.bytes(), tag);
        let lookups = [lookup(&mut seeded), lookup(&mut seeded)];
        Subject { directory: join(tag, [0; 16]), lookups, payload: Payload::new(seeded.bytes::<PAYLOAD>().to_vec()) }
    }

    fn insert_into(self, edits: &mut Edits) {
        edits.insert(Kind::Directory, self.directory, self.payload);
        for lookup in self.lookups {
            edits.insert(Kind::Lookups, lookup, Payload::default());
        }
    }

    fn remove_from(self, edits: &mut Edits) {
        edits.remove(Kind::Directory, self.directory);
        for lookup in self.lookups {
            edits.remove(Kind::Lookups, lookup);
        }
    }
}

fn join(tag: [u8; 16], discriminator: [u8; 16]) -> EntryKey {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&tag);
    key[16..].copy_from_slice(&discriminator);
    key
}
