//! The engines beside each other, bare: filling, small durable batches, reads, opening, and a copy of the rows.

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use vault_core::store::{DiskOptions, DiskStore, EngineName, Store, copy};

use crate::figures::{Pattern, quantile};
use crate::limits::engine::{Bed, Shape};
use crate::process::disk_bytes;
use crate::work::Work;
use crate::{EnginesArgs, Failure};

/// Pages that a vault's store has for each data row, in hundredths, and the mean sizes of both, as a run of `all` finds them.
const PAGES_PER_HUNDRED: usize = 141;
const DATA_BYTES: usize = 1367;
const PAGE_BYTES: usize = 383;

/// Measures both and prints a table, a line as soon as it is known.
pub(crate) fn run(args: &EnginesArgs) -> Result<(), Failure> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    println!("| engine | data rows | measured | figure |\n|---|---:|---|---:|");
    for &data_rows in &args.rows {
        for engine in [EngineName::Sled, EngineName::Fjall] {
            let scratch = match &args.dir {
                Some(dir) => tempfile::tempdir_in(dir)?,
                None => tempfile::tempdir()?,
            };
            let table = Table { engine, data_rows };
            runtime.block_on(measure(&table, scratch.path(), Duration::from_secs(args.seconds)))?;
        }
    }
    Ok(())
}

/// What a line of the table begins with.
struct Table {
    engine: EngineName,
    data_rows: usize,
}

impl Table {
    fn add(&self, measured: &str, figure: &str) {
        println!("| {} | {} | {measured} | {figure} |", self.engine, self.data_rows);
    }

    fn rate(&self, measured: &str, units: u64, took: Duration) {
        self.add(measured, &format!("{:.0}/s", units as f64 / took.as_secs_f64()));
    }
}

async fn measure(table: &Table, scratch: &Path, time: Duration) -> Result<(), Failure> {
    let (dir, engine) = (scratch.join("store"), table.engine);
    let page_rows = table.data_rows * PAGES_PER_HUNDRED / 100;
    let shape = Shape { data_rows: table.data_rows, data_bytes: DATA_BYTES, page_rows, page_bytes: PAGE_BYTES };
    let start = Instant::now();
    let bed = Bed::fill(engine, &dir, shape).await?;
    table.rate("rows filled in, 1000 a commit", (table.data_rows + page_rows) as u64, start.elapsed());
    bed.close().await?;
    let filled = disk_bytes(&dir)?;
    table.add("bytes on disk when filled", &mib(filled));

    opened(table, "first start after filling", &dir).await?;
    opened(table, "second start", &dir).await?;

    let bed = Rc::new(Bed::open(engine, &dir, shape)?);
    let pattern = Pattern { rounds: 1, round: time, warm_up: Duration::ZERO, paced: Duration::ZERO };
    for writers in [1, 64] {
        for (work, name) in [(Work::Update, "of 1 row"), (Work::New { batch: 1 }, "of 4 rows")] {
            let figures = bed.measure(work, writers, pattern).await?;
            table.add(
                &format!("durable batches {name}, {writers} at once"),
                &format!(
                    "{:.0}/s, p50 {:.1} ms, p99 {:.1} ms",
                    figures.rate(),
                    quantile(&figures.closed, 0.5),
                    quantile(&figures.closed, 0.99)
                ),
            );
        }
    }
    let (reads, took) = bed.read(time).await?;
    table.rate("reads of a row", reads, took);
    bed.close().await?;
    table.add("bytes on disk after the batches", &mib(disk_bytes(&dir)?));

    opened(table, "start after the batches", &dir).await?;
    copied(table, &dir, &scratch.join("copy")).await
}

async fn opened(table: &Table, measured: &str, dir: &Path) -> Result<(), Failure> {
    let start = Instant::now();
    let store = DiskStore::open(table.engine, dir, DiskOptions::default())?;
    table.add(measured, &format!("{:.2} s", start.elapsed().as_secs_f64()));
    Ok(store.close().await?)
}

/// What `vault-server compact` does.
async fn copied(table: &Table, from: &Path, to: &Path) -> Result<(), Failure> {
    let open = |dir: &Path| DiskStore::open(table.engine, dir, DiskOptions::default());
    let source = open(from)?;
    let start = Instant::now();
    copy::count(&source, |_| ()).await?;
    let target = open(to)?;
    let rows = copy::copy(&source, &target, |_| ()).await?;
    target.close().await?;
    drop(target);
    let target = open(to)?;
    if !copy::same(&source, &target, |_| ()).await? {
        return Err("the copy differs".into());
    }
    target.close().await?;
    table.rate("rows compacted: counted, copied, compared", rows, start.elapsed());
    source.close().await?;
    table.add("bytes on disk when compacted", &mib(disk_bytes(to)?));
    opened(table, "start when compacted", to).await
}

fn mib(bytes: u64) -> String {
    format!("{:.0} MiB", bytes as f64 / f64::from(1 << 20))
}
