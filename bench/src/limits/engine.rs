//! The limit for what writes: the bare storage engine with rows of the sizes that the vault's own have.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use vault_bench::seeded::Seeded;
use vault_core::store::{Batch, DiskOptions, DiskStore, EngineName, Store};

use crate::Failure;
use crate::figures::{Bench, Figures, Pattern};
use crate::work::Work;

/// Rows read or written at once when a store is looked through or filled.
const STRIDE: usize = 1000;
/// Pages that a new subject changes: its directory leaf and two of lookups.
const PAGES_A_SUBJECT: usize = 3;
/// What the keys of data rows begin with.
const DATA: u8 = b'd';
/// What the keys of pages begin with.
const PAGE: u8 = b'p';

/// How many rows of each sort a store has, and their mean sizes in bytes.
#[derive(Clone, Copy, Default)]
pub(crate) struct Shape {
    pub(crate) data_rows: usize,
    pub(crate) data_bytes: usize,
    pub(crate) page_rows: usize,
    pub(crate) page_bytes: usize,
}

impl Shape {
    /// The shape of a vault's store whose server has stopped.
    pub(crate) async fn of_store(engine: EngineName, dir: &Path) -> Result<Shape, Failure> {
        let store = DiskStore::open(engine, dir, DiskOptions::default())?;
        let mut shape = Shape::default();
        let mut start = Vec::new();
        loop {
            let rows = store.scan(&start, None, STRIDE).await?;
            let Some((last, _)) = rows.last() else { break };
            start = [last.as_slice(), &[0]].concat();
            for (key, value) in &rows {
                shape.add(key, value);
            }
        }
        store.close().await?;
        shape.data_bytes /= shape.data_rows.max(1);
        shape.page_bytes /= shape.page_rows.max(1);
        Ok(shape)
    }

    fn add(&mut self, key: &[u8], value: &[u8]) {
        let (rows, bytes) = match key.first() {
            Some(&DATA) => (&mut self.data_rows, &mut self.data_bytes),
            Some(&PAGE) => (&mut self.page_rows, &mut self.page_bytes),
            _ => return,
        };
        (*rows, *bytes) = (*rows + 1, *bytes + value.len());
    }
}

/// An engine that holds as many rows as the vault's did.
pub(crate) struct Bed {
    store: DiskStore,
    shape: Shape,
    subjects: Cell<u64>,
    chooser: RefCell<Seeded>,
}

impl Bed {
    /// Makes one in `dir`.
    pub(crate) async fn fill(engine: EngineName, dir: &Path, shape: Shape) -> Result<Bed, Failure> {
        let bed = Bed { subjects: Cell::new(0), ..Bed::open(engine, dir, shape)? };
        for first in (0..shape.page_rows).step_by(STRIDE) {
            let numbers = first..shape.page_rows.min(first + STRIDE);
            let put = numbers.map(|number| (page_key(number as u64), bed.noise(shape.page_bytes))).collect();
            bed.store.commit(Batch { put, ..Batch::default() }).await?;
        }
        for first in (0..shape.data_rows).step_by(STRIDE) {
            let put = (first..shape.data_rows.min(first + STRIDE)).map(|_| bed.new_row()).collect();
            bed.store.commit(Batch { put, ..Batch::default() }).await?;
        }
        Ok(bed)
    }

    /// Opens one that was filled.
    pub(crate) fn open(engine: EngineName, dir: &Path, shape: Shape) -> Result<Bed, Failure> {
        let store = DiskStore::open(engine, dir, DiskOptions::default())?;
        let subjects = Cell::new(shape.data_rows as u64);
        Ok(Bed { store, shape, subjects, chooser: RefCell::new(Seeded::new(9)) })
    }

    /// Reads data rows at random, one after the other; answers how many, and in what time.
    pub(crate) async fn read(&self, time: Duration) -> Result<(u64, Duration), Failure> {
        let start = Instant::now();
        let mut reads = 0;
        while start.elapsed() < time {
            for _ in 0..100 {
                let row = self.store.get(&data_key(self.below(self.subjects.get()))).await?;
                row.ok_or("a row that was written is missing")?;
            }
            reads += 100;
        }
        Ok((reads, start.elapsed()))
    }

    /// Keeps `writers` busy with commits as `work` makes them, each waited for.
    pub(crate) async fn measure(
        self: &Rc<Self>,
        work: Work,
        writers: u16,
        pattern: Pattern,
    ) -> Result<Figures, Failure> {
        let once = async move |bed: &mut Rc<Bed>| Ok(bed.store.commit(bed.batch(work)).await?);
        let workers = (0..writers).map(|_| Rc::clone(self)).collect();
        Bench { workers, once: Rc::new(once), units: work.unit().1, process: std::process::id() }.alone(pattern).await
    }

    /// Closes the engine.
    pub(crate) async fn close(&self) -> Result<(), Failure> {
        Ok(self.store.close().await?)
    }

    /// The rows that `work` puts: for an update a row anew; for a new subject its row and other versions of pages.
    fn batch(&self, work: Work) -> Batch {
        let put = match work {
            Work::New { batch } => {
                let subjects = usize::try_from(batch).expect("a batch is small");
                let pages = (0..subjects * PAGES_A_SUBJECT).map(|_| self.below(self.shape.page_rows as u64));
                // A page that several subjects share is written once.
                let pages: BTreeSet<u64> = pages.collect();
                let pages = pages.into_iter().map(|page| (page_key(page), self.noise(self.shape.page_bytes)));
                (0..subjects).map(|_| self.new_row()).chain(pages).collect()
            }
            _ => vec![(data_key(self.below(self.subjects.get())), self.noise(self.shape.data_bytes))],
        };
        Batch { put, ..Batch::default() }
    }

    /// Data rows are in the order of their subjects' times.
    fn new_row(&self) -> (Vec<u8>, Vec<u8>) {
        let number = self.subjects.replace(self.subjects.get() + 1);
        (data_key(number), self.noise(self.shape.data_bytes))
    }

    fn below(&self, bound: u64) -> u64 {
        self.chooser.borrow_mut().below(bound.max(1))
    }

    fn noise(&self, len: usize) -> Vec<u8> {
        let mut chooser = self.chooser.borrow_mut();
        let mut out: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| chooser.number().to_le_bytes()).collect();
        out.truncate(len);
        out
    }
}

fn data_key(number: u64) -> Vec<u8> {
    // As long as a version 7 uuid, an ordinal and the first byte.
    [&[DATA][..], &number.to_be_bytes(), &[0; 10]].concat()
}

fn page_key(number: u64) -> Vec<u8> {
    [&[PAGE][..], &Seeded::new(number).bytes::<32>()].concat()
}
