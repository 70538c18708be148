//! The load: which measurements are made, in which order, and what each is held against.

mod client;
mod engine;
pub(crate) mod engines;
mod report;
mod runner;
mod server;
mod work;

use std::error::Error;
use std::rc::Rc;
use std::time::Duration;

use tokio::runtime::Builder;
use vault_core::store::EngineName;

use crate::LoadArgs;
use report::Report;
use runner::{Figures, Runner};
use server::Server;
use work::Work;

/// What can go wrong here: always told to a person, never handled.
pub(crate) type Failure = Box<dyn Error>;

/// Subjects in a batch request.
const BATCH: u64 = 100;

/// Measures everything and prints the table.
pub(crate) fn run(args: &LoadArgs) -> Result<(), Failure> {
    // One thread for the client: the server is what should have the processors.
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let scratch = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir)?,
        None => tempfile::tempdir()?,
    };
    let mut report = Report::new(args);
    let mut server = Server::start(scratch.path())?;
    runtime.block_on(measure_server(args, &server, &mut report))?;
    server.stop()?;
    let shape = runtime.block_on(engine::Shape::of_store(&server.store_dir()))?;
    report.shape(&shape);
    runtime.block_on(measure_engine(args, scratch.path(), shape, &mut report))?;
    report.print();
    match &args.json {
        Some(file) => Ok(std::fs::write(file, report.json())?),
        None => Ok(()),
    }
}

async fn measure_server(args: &LoadArgs, server: &Server, report: &mut Report) -> Result<(), Failure> {
    let runner = Rc::new(Runner::new(server).await?);
    let (many, few) = (args.connections, args.batch_connections);
    runner.enrol(args.subjects, few).await?;
    runner.widen().await?;
    for (work, connections) in [
        (Work::Health, many),
        (Work::Enrol { batch: 1 }, many),
        (Work::Update, many),
        (Work::Read { batch: 1 }, many),
        (Work::ReadWide { fields: 1 }, many),
        (Work::ReadWide { fields: 10 }, many),
        (Work::Lookup, many),
        (Work::Enrol { batch: BATCH }, few),
        (Work::Read { batch: BATCH }, few),
        (Work::Shred { batch: 1 }, many),
        (Work::Shred { batch: BATCH }, few),
    ] {
        let figures =
            median(args.repeat, async || runner.measure(work, connections, Duration::from_secs(args.seconds)).await);
        report.add(work, connections, figures.await?);
    }
    Ok(())
}

async fn measure_engine(
    args: &LoadArgs,
    scratch: &std::path::Path,
    shape: engine::Shape,
    report: &mut Report,
) -> Result<(), Failure> {
    let bed = engine::Bed::fill(EngineName::Sled, &scratch.join("engine"), shape).await?;
    let (many, few) = (args.connections, args.batch_connections);
    for (work, connections) in
        [(Work::Update, many), (Work::Enrol { batch: 1 }, many), (Work::Enrol { batch: BATCH }, few)]
    {
        let figures =
            median(args.repeat, async || bed.measure(work, connections, Duration::from_secs(args.seconds)).await);
        report.add_engine(work, connections, figures.await?);
    }
    bed.close().await
}

/// The measurement whose rate is in the middle.
async fn median(repeat: u32, mut measure: impl AsyncFnMut() -> Result<Figures, Failure>) -> Result<Figures, Failure> {
    let mut all = Vec::new();
    for _ in 0..repeat {
        all.push(measure().await?);
    }
    all.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
    Ok(all.swap_remove((all.len() - 1) / 2))
}
