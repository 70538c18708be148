//! `vault-bench`: measures a vault from outside, beside the limits of what it stands on.

mod alarm;
mod customers;
mod drive;
mod engines;
mod figures;
mod http;
mod limits;
mod personas;
mod plan;
mod population;
mod process;
mod report;
mod rotation;
mod server;
mod settings;
mod work;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use settings::{MeasureArgs, Settings, Workload};

/// What can go wrong here: always told to a person, never handled.
pub(crate) type Failure = Box<dyn Error>;

/// Measures a vault from outside: a real server on a real disk, asked over keep-alive connections.
///
/// Everything:         cargo run --release -p vault-bench -- all --quick
/// One kind of work:   cargo run --release -p vault-bench -- run reads writes --quick --engine fjall
///
/// Every run also measures its limits, such as an empty route or the bare storage engine, and tells each figure as a share
/// of its limit. The tables go to standard output, bench.json and two plots to --out. docs/performance.md tells the method.
#[derive(Parser)]
#[command(verbatim_doc_comment)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure every kind of work, on both engines, and print what was aimed at beside what was reached.
    All(MeasureArgs),
    /// Measure some kinds of work.
    Run(RunArgs),
    /// Measure the storage engines beside each other, without a vault, and print a table.
    Engines(EnginesArgs),
    /// Serve the empty route until standard input ends.
    #[command(hide = true)]
    EmptyRoute,
}

#[derive(Args)]
struct RunArgs {
    /// What to measure.
    #[arg(required = true, value_enum, value_name = "WORKLOAD")]
    workloads: Vec<Workload>,
    #[command(flatten)]
    measure: MeasureArgs,
}

#[derive(Args)]
struct EnginesArgs {
    /// Data rows that the engines are filled with; for each as many pages as a vault's store has.
    #[arg(long, value_delimiter = ',', default_values_t = [100_000, 500_000])]
    rows: Vec<usize>,
    /// How long each measurement of a rate takes.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Where the temporary directories are made; the disk under them is what is measured.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::All(args) => plan::run(&Settings::new(args, Workload::value_variants())),
        Command::Run(args) => plan::run(&Settings::new(args.measure, &args.workloads)),
        Command::Engines(args) => engines::run(&args),
        Command::EmptyRoute => limits::route::serve(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vault-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
