//! GDPRbench (Shastri, Banakar, Wasserman, Kumar and Chidambaram, VLDB 2020) by a driver of our own: four personas with
//! their mixes of operations, against the vault and against plain PostgreSQL.
//!
//! A record is one value with its metadata: user, purpose, objection, recipient, source, day of expiry, and whether
//! automated decisions may use it. A user owns four. In the vault a user is a subject and a record one of its fields; in
//! PostgreSQL a record is a row. Both are asked the same operations in the same order:
//!
//! | persona | operations |
//! |---|---|
//! | controller | 25 % create a record; 25 % delete by purpose, expiry or user; 50 % change metadata by purpose, user or recipient |
//! | customer | 20 % each: read a value, read metadata, change a value, change metadata, delete a record, all by key |
//! | processor | 80 % read a value by key; 20 % read by purpose, by objection, by what decisions may use |
//! | regulator | 46 % read metadata of a user; 31 % read the log; 23 % verify that a user is gone |
//!
//! Keys, users, purposes and recipients are chosen evenly, or with a Zipf distribution of exponent 0.99. A deletion by
//! purpose or expiry takes 10 records and a read by purpose 100, so that the set survives what is asked of it.

mod operation;
mod postgres;
mod vault;

use std::path::Path;
use std::rc::Rc;
use std::time::Instant;

use tokio::task::LocalSet;
use vault_core::store::EngineName;

use crate::Failure;
use crate::drive::{Latencies, no_latencies};
use crate::server::Program;
use crate::settings::Settings;
use operation::{Operation, Operations};
pub(crate) use operation::{PERSONAS, Persona};

/// Connections, each with one operation under way.
const CONNECTIONS: u16 = 16;

/// How the keys of operations are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    Uniform,
    Zipfian,
}

/// Who was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Vault(EngineName),
    Postgres,
}

/// What one persona saw of one system.
pub(crate) struct Seen {
    pub(crate) asked: Asked,
    pub(crate) persona: Persona,
    pub(crate) choice: Choice,
    pub(crate) records: u64,
    /// Operations a second in each round.
    pub(crate) rates: Vec<f64>,
    pub(crate) latencies: Latencies,
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Asked::Vault(engine) => write!(f, "vault on {engine}"),
            Asked::Postgres => f.write_str("PostgreSQL"),
        }
    }
}

impl Choice {
    /// In tables.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Choice::Uniform => "uniform",
            Choice::Zipfian => "zipfian",
        }
    }
}

impl Seen {
    /// Operations a second: the median of the rounds.
    pub(crate) fn rate(&self) -> f64 {
        let mut rates = self.rates.clone();
        rates.sort_by(f64::total_cmp);
        rates.get(rates.len() / 2).copied().unwrap_or_default()
    }
}

impl Personas {
    /// How many times as fast as PostgreSQL the vault was, for each choice of keys.
    pub(crate) fn of_postgres(&self, engine: EngineName, persona: Persona) -> Vec<(Choice, f64)> {
        let rate = |asked: Asked, choice: Choice| {
            let of = |seen: &&Seen| seen.asked == asked && seen.persona == persona && seen.choice == choice;
            self.seen.iter().find(of).map(Seen::rate)
        };
        let ratio = |choice| Some((choice, rate(Asked::Vault(engine), choice)? / rate(Asked::Postgres, choice)?));
        [Choice::Uniform, Choice::Zipfian].into_iter().filter_map(ratio).collect()
    }
}

/// What all personas saw, and why PostgreSQL was not asked, if it was not.
pub(crate) struct Personas {
    pub(crate) seen: Vec<Seen>,
    pub(crate) skipped: Option<String>,
}

/// Something that does operations, one after the other.
trait Performer: 'static {
    /// One operation, to its end. What does not exist any more is no failure.
    fn perform(&mut self, operation: &Operation) -> impl Future<Output = Result<(), Failure>>;
}

/// Measures all personas on all systems.
pub(crate) async fn measure(
    settings: &Settings,
    program: &Program,
    mut progress: impl FnMut(&str),
) -> Result<Personas, Failure> {
    let mut personas = Personas { seen: Vec::new(), skipped: None };
    for choice in [Choice::Uniform, Choice::Zipfian] {
        let plan = Plan {
            choice,
            records: settings.records(),
            operations: settings.operations(),
            rounds: settings.persona_rounds(),
        };
        for &engine in &settings.engines {
            progress(&format!("personas, {}: loading a vault on {engine}", choice.as_str()));
            let scratch = settings.scratch()?;
            let vault = vault::Bed::load(program, &scratch.path().join("vault"), engine, plan.records).await?;
            let performers = vault.performers(CONNECTIONS).await?;
            personas.seen.extend(plan.run(Asked::Vault(engine), performers, &mut progress).await?);
            vault.stop()?;
        }
        progress(&format!("personas, {}: loading PostgreSQL", choice.as_str()));
        let scratch = settings.scratch()?;
        match against_postgres(scratch.path(), plan, &mut progress).await? {
            Ok(seen) => personas.seen.extend(seen),
            Err(why) => personas.skipped = Some(why),
        }
    }
    Ok(personas)
}

async fn against_postgres(
    scratch: &Path,
    plan: Plan,
    progress: &mut impl FnMut(&str),
) -> Result<Result<Vec<Seen>, String>, Failure> {
    let cluster = match postgres::Cluster::start(scratch)? {
        Ok(cluster) => cluster,
        Err(why) => return Ok(Err(why)),
    };
    cluster.load(plan.records).await?;
    let performers = cluster.performers(CONNECTIONS).await?;
    Ok(Ok(plan.run(Asked::Postgres, performers, progress).await?))
}

/// What is asked of each system.
#[derive(Clone, Copy)]
struct Plan {
    choice: Choice,
    records: u64,
    operations: u64,
    rounds: u64,
}

impl Plan {
    async fn run<P: Performer>(
        self,
        asked: Asked,
        mut performers: Vec<P>,
        progress: &mut impl FnMut(&str),
    ) -> Result<Vec<Seen>, Failure> {
        let Plan { choice, records, .. } = self;
        let mut all = Vec::new();
        // Those first who leave everything as it is.
        for persona in PERSONAS {
            let mut seen = Seen { asked, persona, choice, records, rates: Vec::new(), latencies: no_latencies() };
            for round in 0..self.rounds {
                let operations = Operations::new(persona, choice, records, round);
                self.round(operations, &mut performers, &mut seen).await?;
            }
            progress(&format!("personas, {}: {} of {asked}: {:.0}/s", choice.as_str(), persona.as_str(), seen.rate()));
            all.push(seen);
        }
        Ok(all)
    }

    /// All performers take from one row of operations until it is done.
    async fn round<P: Performer>(
        self,
        operations: Operations,
        performers: &mut Vec<P>,
        seen: &mut Seen,
    ) -> Result<(), Failure> {
        let list: Rc<[Operation]> = operations.take(usize::try_from(self.operations)?).collect();
        let next = Rc::new(std::cell::Cell::new(0));
        let (local, start) = (LocalSet::new(), Instant::now());
        let tasks: Vec<_> = std::mem::take(performers)
            .into_iter()
            .map(|mut performer| {
                let (list, next) = (Rc::clone(&list), Rc::clone(&next));
                local.spawn_local(async move {
                    let mut latencies = no_latencies();
                    while let Some(operation) = list.get(next.replace(next.get() + 1)) {
                        let begun = Instant::now();
                        performer.perform(operation).await?;
                        latencies.saturating_record(u64::try_from(begun.elapsed().as_micros())?);
                    }
                    Ok::<_, Failure>((performer, latencies))
                })
            })
            .collect();
        local.await;
        seen.rates.push(self.operations as f64 / start.elapsed().as_secs_f64());
        for task in tasks {
            let (performer, latencies) = task.await??;
            performers.push(performer);
            seen.latencies += latencies;
        }
        Ok(())
    }
}
