//! What a program that holds keys and values does about its own memory: it is not dumped, not swapped out where the system
//! allows, and wiped where it was used.
//!
//! Keys and values wipe themselves when they are dropped. What is left of them is what a compiler copies: stack frames
//! and registers, which [`wiped`] and [`wiping`] overwrite, and freed memory, which the server's allocator overwrites.

mod registers;
mod stack;

use std::io;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

pub(crate) use stack::{apart, ciphering, outside};
pub use stack::{blocking, wipe_stack, wiped, wiping};

/// Switches core dumps off, which would write keys and values to disk. The process can then be traced, and its memory
/// read, by root alone.
///
/// # Errors
/// If the system refuses either.
pub fn hide() -> io::Result<()> {
    let limited = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // Where core dumps are piped to a program the limit alone is not obeyed.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(limited?)
}

/// Why memory was not locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// Whatever exceeds the limit could not be allocated, and the process would end in the middle of its work.
    #[error(
        "the limit for locked memory is {} KiB, and must be none: set LimitMEMLOCK=infinity in the systemd unit, \
         `ulimits: memlock: -1` for a container, or give the capability CAP_IPC_LOCK",
        .bytes / 1024
    )]
    Limited {
        /// The limit.
        bytes: u64,
    },
    /// The system refused.
    #[error("the system does not lock it ({0})")]
    Refused(rustix::io::Errno),
}

/// Keeps everything the process has in memory, and all that it will have, out of swap space. Only what is used is locked,
/// as it is used.
///
/// # Errors
/// [`LockError`]; then nothing is locked.
pub fn lock() -> Result<(), LockError> {
    if let Some(bytes) = limit() {
        return Err(LockError::Limited { bytes });
    }
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT).map_err(LockError::Refused)
}

/// How much may be locked at most; none for any amount.
fn limit() -> Option<u64> {
    // In a user namespace of its own, the capability does not count for this.
    let outside = std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| is_whole(&map));
    if outside && capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK)) {
        return None;
    }
    let limits = getrlimit(Resource::Memlock);
    let unlimited = Rlimit { current: None, maximum: None };
    if limits.maximum.is_none() && setrlimit(Resource::Memlock, unlimited).is_ok() {
        return None;
    }
    limits.current
}

/// Whether a map of user ids is that of the initial namespace.
fn is_whole(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Whether the machine has swap space at present; so if that is not known.
pub fn may_be_swapped() -> bool {
    std::fs::read_to_string("/proc/swaps").map_or(true, |table| lists_swap(&table))
}

/// The first line is a heading.
fn lists_swap(table: &str) -> bool {
    table.lines().skip(1).any(|line| !line.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_space_is_read_from_its_table() {
        let heading = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";
        assert!(!lists_swap(heading));
        assert!(!lists_swap(""));
        assert!(lists_swap(&format!("{heading}/dev/sda2                               partition\t8388604\t0\t-2\n")));
    }

    #[test]
    fn a_limit_is_told_with_what_to_do() {
        let told = LockError::Limited { bytes: 8 << 20 }.to_string();
        assert!(told.contains("8192 KiB") && told.contains("LimitMEMLOCK=infinity"), "{told}");
    }
}
