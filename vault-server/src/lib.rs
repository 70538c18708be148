//! The user data vault over HTTP: starts it, serves it, scrubs it.

#![forbid(unsafe_code)]

/// A line on standard error for who runs the program. That nobody reads it any more is no reason to stop.
macro_rules! note {
    ($($told:tt)*) => {{
        use ::std::io::Write as _;
        let _ = ::std::writeln!(::std::io::stderr(), $($told)*);
    }};
}

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

use std::process::ExitCode;

use clap::Parser;
use vault_core::memory;
use vault_core::vault::Vault;

/// What the program does, as its arguments say.
pub fn run() -> ExitCode {
    if let Err(why) = memory::hide() {
        note!("vault-server: core dumps could not be switched off ({why}): switch them off for this service");
    }
    let args = args::Args::parse();
    let outcome = commands::run(args);
    logging::finish();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            note!("vault-server: {failure}");
            ExitCode::from(failure.exit)
        }
    }
}

/// The routes over a vault that is open, with the limits of a configuration that names none.
pub fn router(vault: Vault) -> axum::Router {
    app::App::new(vault, None, &config::Limits::default(), backups::Backups::default()).router()
}
