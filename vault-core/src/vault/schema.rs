//! The schema in force: loaded at unlock, part of every snapshot.

use std::sync::Arc;

use super::{Inner, Vault};
use crate::error::Error;
use crate::schema::Schema;
use crate::trie::Header;

impl Vault {
    /// The fields and purposes that are declared.
    ///
    /// # Errors
    /// [`Error::Locked`].
    pub fn schema(&self) -> Result<Arc<Schema>, Error> {
        Ok(self.session()?.snapshot().schema.clone())
    }
}

/// Reads the schema that is in force; a vault that was never given one has the built-in.
pub(crate) async fn load(_inner: &Inner, _header: &Header) -> Result<Schema, Error> {
    Ok(Schema::builtin())
}
