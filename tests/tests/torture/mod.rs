//! The vault under torture, held against a model of what it may be found to hold.
//!
//! `UDV_TEST_SEED=7` repeats a run's choices, not the moments of its kills; every run prints its seed.

pub(crate) mod model;
pub(crate) mod workload;

mod controls;
mod kills;
mod rotations;
mod rotator;
mod stage;
