//! Counts the instructions that the vault's work takes, and fails if some work takes more than its bound.
//!
//! A time depends on the machine and on what else it does; how many instructions a program executes hardly does. callgrind
//! (of valgrind) counts those between entering and leaving one function, in a simulated processor with AES instructions.
//!
//! ```text
//! cargo run --release -p vault-instructions
//! ```

mod work;

use std::process::{Command, ExitCode};

use mimalloc::MiMalloc;
use zeroizing_alloc::ZeroAlloc;

use work::{WORKS, Work};

/// As in the server: allocating, and overwriting what is freed, are part of the work.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

/// Above these sizes, which nothing reaches, glibc would use string instructions.
const TUNABLES: &str = "glibc.cpu.x86_rep_stosb_threshold=1073741824:glibc.cpu.x86_rep_movsb_threshold=1073741824";

/// By how much a count may exceed what is expected. Between runs counts differ by less than 1 %: hash tables are seeded
/// anew, and keys and nonces are random. The rest is room for another processor, on which glibc may choose other ways to
/// copy memory. More is a change of the program.
const ALLOWED: f64 = 1.10;
/// Below this part of it the expectation is to be lowered, so that what was gained is kept.
const GAINED: f64 = 0.85;

fn main() -> ExitCode {
    let done = match std::env::args().nth(1) {
        None => check(),
        Some(name) => match WORKS.iter().find(|work| work.name == name) {
            Some(work) => (work.run)(work.times).map(|()| true),
            None => Err(format!("no work is named {name}")),
        },
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(why) => {
            eprintln!("vault-instructions: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Counts everything; answers whether all of it is within its bound.
fn check() -> Result<bool, String> {
    let mut within = true;
    println!("{:<44} {:>12} {:>12} {:>7}", "instructions", "counted", "expected", "ratio");
    for work in WORKS {
        let counted = count(work)?;
        let ratio = counted as f64 / work.expected as f64;
        let told = match ratio {
            _ if ratio > ALLOWED => "MORE THAN ITS BOUND",
            _ if ratio < GAINED => "lower what is expected",
            _ => "",
        };
        within &= ratio <= ALLOWED;
        println!("{:<44} {counted:>12} {:>12} {ratio:>7.3} {told}", work.what, work.expected);
    }
    if !within {
        eprintln!(
            "some work takes over {ALLOWED} times the instructions that are expected of it: find out why with \
             `valgrind --tool=callgrind` and callgrind_annotate, or say in bench/instructions/src/work.rs why it has to"
        );
    }
    Ok(within)
}

/// Instructions of one time that a work is done.
fn count(work: &Work) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|e| format!("this program is not found: {e}"))?;
    let counting = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*work::measured*"])
        // Or glibc clears large blocks with one instruction, which callgrind counts for each byte: wiped stacks would hide
        // the rest.
        .env("GLIBC_TUNABLES", TUNABLES)
        .arg(program)
        .arg(work.name)
        .output()
        .map_err(|e| {
            format!("valgrind does not start ({e}): install it, for example with `apt-get install valgrind`")
        })?;
    let told = String::from_utf8_lossy(&counting.stderr);
    if !counting.status.success() {
        return Err(format!("{} fails under valgrind:\n{told}", work.what));
    }
    let collected = told.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, number)| number.trim());
    match collected.and_then(|number| number.parse::<u64>().ok()) {
        Some(all) if all > 0 => Ok(all / u64::from(work.times)),
        _ => Err(format!("callgrind counted nothing of {}:\n{told}", work.what)),
    }
}
