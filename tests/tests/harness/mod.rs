//! What the tests stand on: programs, vaults, a client, customers, and a search for traces.

mod choices;
mod client;
mod customers;
mod keys;
mod process;
mod programs;
mod rows;
mod traces;
mod vault;

use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) use self::choices::{Choices, number_from, seed};
pub(crate) use self::client::{Answer, Client};
pub(crate) use self::customers::{CUSTOMERS, Customer, customers};
pub(crate) use self::keys::{Key, Keys};
pub(crate) use self::process::{Finished, Refusal, Server, plain_words, run, run_within};
pub(crate) use self::programs::{able_python, program, target};
pub(crate) use self::rows::Rows;
pub(crate) use self::traces::Traces;
pub(crate) use self::vault::{Running, Vault, copy_dir, engine, files_under, server_command};

/// Says that a test did not run, and why; or fails, where everything is required to run.
pub(crate) fn skip(reason: &str) {
    let required = std::env::var("UDV_TEST_REQUIRE").is_ok_and(|value| value == "all");
    assert!(!required, "a test that must run cannot: {reason}");
    eprintln!("SKIPPED: {reason}");
}

/// Asks until `ready` answers something; fails after a minute.
pub(crate) fn wait_for<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = ready() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited a minute in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Overwrites bytes of a file in place.
pub(crate) fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}
