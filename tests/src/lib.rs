//! Black-box tests of the vault live in `tests/`.
