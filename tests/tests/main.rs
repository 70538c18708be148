//! The vault from outside: the real server, the real command line, a client that knows only the contract.
//!
//! Every test makes vaults of its own in a temporary directory and leaves no process behind. What a test needs and the
//! machine does not have skips it with a line that starts with `SKIPPED:`; `UDV_TEST_REQUIRE=all` makes that a failure.
#![allow(clippy::unwrap_used)]

mod api;
mod backups;
mod builds;
mod checkers;
mod cli;
mod clock;
mod contract;
mod copying;
mod damage;
mod disk;
mod erasing;
mod faults;
mod forensic;
mod harness;
mod leaks;
mod load;
mod logs;
mod memory;
mod power;
mod readme;
mod records;
mod salvage;
mod site;
mod slots;
mod stop;
mod story;
mod tls;
mod torture;
mod tour;
