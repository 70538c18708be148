//! Router tests over a vault in memory.
