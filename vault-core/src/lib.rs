//! The engine of the user data vault: it seals what is personal, finds it, rotates its keys and forgets it for good.
//!
//! # Threat model
//! Somebody may hold every byte the store ever wrote, and later the current root key and passphrase too. He learns the
//! living from that; of a finally shredded subject he learns no value. Whoever can write to the store can destroy, but
//! cannot forge, move or swap; the rollback of one whole row is not detected. See `docs/architecture.md`.
//!
//! # Map
//! [`crypto`] is the only code that names cipher crates. [`store`] keeps rows and knows no keys. [`trie`] is the
//! forgetting map that everything findable lives in. [`root`] keeps the root key outside the store and replaces it
//! safely. [`audit`] is the log of what was done,
//! [`certificate`] the evidence of a shred. [`memory`] keeps secrets out of dumps and swap, and off the stack. [`backup`] is what archives are made of. [`schema`] says which fields exist, [`policy`] who sees them. [`vault`] holds keys and store together: one method per use case.

pub mod audit;
pub mod backup;
pub mod certificate;
pub mod codec;
pub mod crypto;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod ids;
pub mod memory;
pub mod policy;
pub mod root;
pub mod schema;
pub mod store;
pub mod time;
pub mod trie;
pub mod vault;
mod words;

pub use error::Error;
