//! What to measure, for how long, and where.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use vault_core::store::EngineName;

use crate::figures::Pattern;

/// Options of `all` and `run`.
#[derive(Args)]
pub(crate) struct MeasureArgs {
    /// The short form: 10^5 subjects, 3 rounds of half a second each. Ten minutes on two cores that have nothing else to
    /// do.
    #[arg(long)]
    quick: bool,
    /// The storage engines, one after the other.
    #[arg(long, value_delimiter = ',', default_values_t = [EngineName::Sled, EngineName::Fjall], value_name = "ENGINE")]
    engine: Vec<EngineName>,
    /// Subjects that are enrolled before anything is measured. With several numbers everything is measured for each, which
    /// shows how figures grow. [default: 100000 with --quick, otherwise 100000,1000000]
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = clap::value_parser!(u64).range(2_000..))]
    subjects: Vec<u64>,
    /// How long a round takes. [default: 0.5 with --quick, otherwise 5]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Rounds of each measurement; the median is told. [default: 3 with --quick, otherwise 5; of personas 1, otherwise 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Where the temporary directories are made; the disk under them is what is measured. A memory file system is no disk.
    /// [default: the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where bench.json, rates.svg and latencies.svg go.
    #[arg(long, value_name = "DIR", default_value = "target/vault-bench")]
    out: PathBuf,
}

/// What can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// One field and ten fields of a subject, in full and masked, over 1, 16 and 64 connections.
    Reads,
    /// Subjects by phone number.
    Lookups,
    /// Values by their tokens.
    Tokens,
    /// New subjects with 6 fields and 2 lookups, and updates of one field, over 1, 16 and 64 connections.
    Writes,
    /// 100 and 1,000 subjects a request, written and read.
    Batches,
    /// 80 reads, 15 updates, 4 lookups and a shred of each 100 requests.
    Mixed,
    /// Shreds until final: one by one, and erasures of 100 and 1,000.
    Shreds,
    /// A new key for every page (`keks`), and what reads notice of it.
    Rotation,
    /// Reads, lookups and updates with caches of a sixteenth of what is stored.
    Cold,
    /// Reads over TLS.
    Tls,
    /// Bytes on the disk for each subject, compacted.
    Size,
    /// GDPRbench's controller, customer, processor and regulator, and the same of PostgreSQL.
    Personas,
}

/// All of it, decided.
pub(crate) struct Settings {
    pub(crate) quick: bool,
    pub(crate) engines: Vec<EngineName>,
    pub(crate) subjects: Vec<u64>,
    pub(crate) dir: Option<PathBuf>,
    pub(crate) out: PathBuf,
    round: Duration,
    rounds: u32,
    persona_rounds: u32,
    workloads: Vec<Workload>,
}

impl Settings {
    /// Of these workloads.
    pub(crate) fn new(args: MeasureArgs, workloads: &[Workload]) -> Settings {
        let default = |quick: f64, long: f64| Duration::from_secs_f64(if args.quick { quick } else { long });
        let subjects = match args.subjects.as_slice() {
            [] if args.quick => vec![100_000],
            [] => vec![100_000, 1_000_000],
            given => given.to_vec(),
        };
        Settings {
            quick: args.quick,
            round: args.seconds.unwrap_or_else(|| default(0.5, 5.0)),
            rounds: args.rounds.unwrap_or(if args.quick { 3 } else { 5 }),
            persona_rounds: args.rounds.unwrap_or(if args.quick { 1 } else { 3 }),
            engines: args.engine,
            subjects,
            dir: args.dir,
            out: args.out,
            workloads: workloads.to_vec(),
        }
    }

    /// Whether this is wanted.
    pub(crate) fn wants(&self, workload: Workload) -> bool {
        self.workloads.contains(&workload)
    }

    /// Whether anything is wanted but the personas, who have a vault of their own.
    pub(crate) fn is_about_subjects(&self) -> bool {
        self.workloads.iter().any(|workload| *workload != Workload::Personas)
    }

    /// Everything that is wanted.
    pub(crate) fn workloads(&self) -> &[Workload] {
        &self.workloads
    }

    /// Rounds without a loop at a fixed pace.
    pub(crate) fn rounds(&self) -> Pattern {
        Pattern {
            rounds: self.rounds,
            round: self.round,
            warm_up: self.round.mul_f64(0.4).min(Duration::from_secs(2)),
            paced: Duration::ZERO,
        }
    }

    /// Rounds, and a loop at a fixed pace for twice as long as one of them.
    pub(crate) fn rounds_and_pace(&self) -> Pattern {
        Pattern { paced: self.round * 2, ..self.rounds() }
    }

    /// Records that the personas work on.
    pub(crate) fn records(&self) -> u64 {
        if self.quick { 10_000 } else { 100_000 }
    }

    /// What each persona asks in a round.
    pub(crate) fn operations(&self) -> u64 {
        if self.quick { 1_000 } else { 10_000 }
    }

    /// How often each persona asks.
    pub(crate) fn persona_rounds(&self) -> u64 {
        self.persona_rounds.into()
    }

    /// A temporary directory that goes with its owner.
    pub(crate) fn scratch(&self) -> Result<tempfile::TempDir, crate::Failure> {
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix("vault-bench-");
        match &self.dir {
            Some(dir) => builder
                .tempdir_in(dir)
                .map_err(|why| format!("no directory can be made in {}: {why}", dir.display()).into()),
            None => Ok(builder.tempdir()?),
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|_| "a number of seconds, such as 0.5 or 5".to_owned())?;
    match number {
        0.05..=3600.0 => Ok(Duration::from_secs_f64(number)),
        _ => Err("from 0.05 to 3600 seconds".to_owned()),
    }
}
