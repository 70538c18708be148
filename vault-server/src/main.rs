//! The program; all of it is in the library, so that benchmarks can drive its routes without a network.

use std::alloc::System;
use std::process::ExitCode;

use zeroizing_alloc::ZeroAlloc;

/// Overwrites memory when it is freed: buffers of HTTP, TLS and JSON hold values and do not wipe themselves.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<System> = ZeroAlloc(System);

fn main() -> ExitCode {
    vault_server::run()
}
