//! What the vault stands on, measured alone in the same run: whatever the vault reaches is told as a share of these.

pub(crate) mod disk;
pub(crate) mod engine;
pub(crate) mod route;
pub(crate) mod sealing;
