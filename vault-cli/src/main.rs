//! `vault-cli`: the operator's program, an HTTP client of the vault server.

#![forbid(unsafe_code)]

mod address;
mod age;
mod args;
mod client;
mod commands;
mod exit;
#[cfg(test)]
mod fake;
/// The mutants of `vault-core`, which has the decoders but for what is read here.
#[cfg(test)]
#[path = "../../vault-core/src/fuzzing/mutate.rs"]
mod fuzz;
mod output;
mod profile;
mod progress;
mod secret;

use std::alloc::System;
use std::process::ExitCode;

use clap::Parser;
use vault_core::memory;
use zeroizing_alloc::ZeroAlloc;

/// Overwrites memory when it is freed: buffers of HTTP, TLS and JSON hold passphrases and values and do not wipe themselves.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    // It reads passphrases and values. What the system does not allow is not worth a word each time.
    let _ = (memory::hide(), memory::lock());
    // clap itself ends with 2 on a wrong command line, as documented. SIGINT keeps its default action, so an
    // interrupted command is seen as 130.
    let cli = args::Cli::parse();
    let exit = match commands::run(&cli) {
        Ok(exit) => exit,
        Err(failure) => {
            output::report(&failure);
            failure.exit
        }
    };
    ExitCode::from(exit as u8)
}
