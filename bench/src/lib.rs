//! What the benchmarks share: a clock that other programs do not disturb, and data drawn from a seed.

pub mod cpu;
pub mod seeded;
pub mod wide;
