//! The program; all of it is in the library, so that benchmarks can drive its routes without a network.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use mimalloc::MiMalloc;
use zeroizing_alloc::ZeroAlloc;

/// Overwrites memory when it is freed: buffers of HTTP, TLS and JSON hold values and do not wipe themselves. The system's own
/// allocator would take a quarter of the time of a request.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<MiMalloc> = ZeroAlloc(MiMalloc);

fn main() -> ExitCode {
    vault_server::run()
}
