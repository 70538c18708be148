//! `vault-bench load`: drives a real server over HTTP, and tells its rates beside those of what it stands on.

mod load;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// Measures a vault from outside.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start `vault-server dev` on a temporary directory, load it over keep-alive connections, and print a table.
    ///
    /// The limits are measured in the same run: `/healthz` for what only reads, and the bare storage engine, with rows
    /// of the sizes found in the vault's store, for what writes.
    Load(LoadArgs),
    /// Measure the storage engines beside each other, without a vault, and print a table.
    Engines(EnginesArgs),
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

#[derive(Args)]
struct LoadArgs {
    /// Connections that are open at once, each with one request under way.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    connections: u16,
    /// Connections for the requests that hold 100 subjects.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    batch_connections: u16,
    /// How long each measurement takes.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// How often each is repeated; the median by rate is told.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    repeat: u32,
    /// Subjects that are enrolled before anything is measured.
    #[arg(long, default_value_t = 20_000)]
    subjects: u64,
    /// Where the temporary directory is made; the disk under it is what is measured.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Also write the figures to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Load(args) => load::run(&args),
        Command::Engines(args) => load::engines::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vault-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
