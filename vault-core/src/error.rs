//! What can go wrong in the vault, told once, with the next step.
//!
//! No text here holds a value, a subject id or a key. The server turns these into statuses in one place.

use crate::ids::FieldName;

/// An error of the vault's use cases.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A wrong key, a damaged or a moved ciphertext: which of these is not said.
    #[error("the sealed bytes do not open: they are damaged, or not from this place")]
    Unauthentic,
}

/// Names a field in an error.
pub type Field = FieldName;
