//! One decoder of the table, named by the program's name.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    vault_core::fuzzing::run(env!("CARGO_BIN_NAME"), bytes);
});
