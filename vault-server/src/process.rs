//! The server's own memory: what is done so that it is neither dumped nor swapped out, and what is told of it.

use vault_core::memory;

use crate::commands::Failure;
use crate::config::LockMemory;

/// Locks the process's memory as configured, and says in the log what came of it.
///
/// # Errors
/// If it is required and the system does not allow it.
pub(crate) fn lock_memory(wanted: LockMemory) -> Result<(), Failure> {
    if wanted == LockMemory::Off {
        tracing::info!("core dumps are off; memory may be swapped out, as configured");
        return Ok(());
    }
    match memory::lock() {
        Ok(()) => tracing::info!("core dumps are off, and memory is locked"),
        Err(why) if wanted == LockMemory::Required => {
            let told = "the memory of this process is not locked, and lock_memory under [process] requires it";
            return Err(Failure::failed(format!("{told}: {why}")));
        }
        Err(why) if memory::may_be_swapped() => {
            tracing::warn!(%why, "memory is not locked: keys and values may be written to swap space");
        }
        Err(_) => tracing::info!("core dumps are off; memory is not locked, and this machine has no swap space"),
    }
    Ok(())
}
