//! The user data vault over HTTP: starts it, serves it, scrubs it.

mod app;
mod archives;
mod args;
mod auth;
mod backups;
mod body;
mod budget;
mod commands;
mod config;
mod files;
/// The mutants of `vault-core`, which has the decoders but for what is read here.
#[cfg(test)]
#[path = "../../vault-core/src/fuzzing/mutate.rs"]
mod fuzz;
mod idempotency;
mod logging;
mod metrics;
mod openapi;
mod problem;
mod remote;
mod routes;
mod serve;
mod site;
mod throttle;
mod tls;
mod trail;
mod unlock;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    no_core_dumps();
    let args = args::Args::parse();
    match commands::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("vault-server: {failure}");
            ExitCode::from(failure.exit)
        }
    }
}

/// A core dump would write keys and values to disk.
fn no_core_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    if setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).is_err() {
        eprintln!("vault-server: core dumps could not be switched off; switch them off for this service");
    }
}
