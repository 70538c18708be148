//! Benchmarks of the vault live in `benches/`.
