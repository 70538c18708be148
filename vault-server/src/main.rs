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
mod new_unlock;
mod openapi;
mod problem;
mod process;
mod remote;
mod routes;
mod serve;
mod site;
mod throttle;
mod tls;
mod trail;
mod unlock;

use std::alloc::System;
use std::process::ExitCode;

use clap::Parser;
use vault_core::memory;
use zeroizing_alloc::ZeroAlloc;

/// Overwrites memory when it is freed: buffers of HTTP, TLS and JSON hold values and do not wipe themselves.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    if let Err(why) = memory::hide() {
        eprintln!("vault-server: core dumps could not be switched off ({why}): switch them off for this service");
    }
    let args = args::Args::parse();
    match commands::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("vault-server: {failure}");
            ExitCode::from(failure.exit)
        }
    }
}
