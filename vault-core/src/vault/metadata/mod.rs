//! What is known of each value besides itself, sealed beside the values in their compartment's row.
//!
//! | room | what |
//! |---|---|
//! | `edit` | what a change asks for, and its bounds |
//! | `index` | the entries that find a value by its metadata |
//! | `change` | reading and changing it, one subject at a time |
//! | `search` | found the other way round: all values of a source, a purpose, a recipient… |
//! | `apply` | one change for all that a search finds |

mod apply;
mod change;
mod edit;
mod index;
mod search;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub use apply::Applied;
pub use edit::{MetadataEdit, MetadataLists, MetadataPatch};
pub(crate) use index::{tags as tags_of, update_all as update_refs};
pub(crate) use search::Cursor;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use search::parse_cursor_again;
pub use search::{FoundValue, MetadataPage, MetadataQuery, SEARCH_MAX};

use super::row::{Row, RowPlace};
use crate::codec;
use crate::error::Error;
use crate::ids::{FieldName, Purpose};
use crate::time::Timestamp;

/// Where a value came from and what may be done with it. Belongs to the field from its first writing to its removal; only
/// an expiry that has passed ends with the value that it was of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Where it came from.
    pub source: Option<String>,
    /// What it may be used for; `None` for whatever the schema allows.
    pub purposes: Option<Vec<Purpose>>,
    /// Purposes that the subject objects to.
    pub objections: Vec<Purpose>,
    /// Whom it was shared with.
    pub recipients: Vec<String>,
    /// Whether automated decisions may use it; `None` if nothing is said.
    pub automated: Option<bool>,
    /// When it has to be forgotten.
    pub expires_at: Option<Timestamp>,
}

impl Metadata {
    /// Whether the value's own time is over.
    pub(crate) fn lapsed(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// The metadata of a row, by the fields' ids.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct RowMetadata(pub(crate) BTreeMap<FieldName, Metadata>);

impl RowMetadata {
    /// Opens the metadata of a row; empty if it has none.
    pub(crate) fn open(row: &Row, place: &RowPlace<'_>) -> Result<Self, Error> {
        match row.open_metadata(place)? {
            Some(bytes) => Ok(codec::decode_record(&bytes)?),
            None => Ok(Self::default()),
        }
    }

    /// Takes the expiry off those of the fields whose value has had its time, for it is being overwritten by one that has
    /// not; answers which.
    pub(crate) fn lift_lapsed<'f>(
        &mut self,
        fields: impl Iterator<Item = &'f FieldName>,
        now: Timestamp,
    ) -> Vec<FieldName> {
        let mut lapsed = Vec::new();
        for field in fields {
            if let Some(metadata) = self.0.get_mut(field).filter(|metadata| metadata.lapsed(now)) {
                metadata.expires_at = None;
                lapsed.push(field.clone());
            }
        }
        lapsed
    }

    /// The bytes to seal; none if there is nothing to say.
    pub(crate) fn encode(&self) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        if self.0.is_empty() {
            return Ok(None);
        }
        codec::encode_record(self).map(Some).map_err(|_| Error::TooLarge)
    }
}
