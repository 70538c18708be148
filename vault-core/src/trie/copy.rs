//! Copying every page that a header leads to, sealed as it lies in the store: for a backup of the key plane.
//!
//! Top down and without stopping anybody. A page that is resealed under its key keeps its row, and one that is split keeps
//! its key as that of the inner page, so what a parent named is there when its turn comes. Only a root batch replaces
//! rows: none may run meanwhile. What ordinary batches write behind the walk's back is copied once more by the caller.

use super::header::Header;
use super::page::Shape;
use super::pages::{Pages, row_key};
use super::path::Path;
use super::{Branch, TrieError};
use crate::crypto::PageKey;
use crate::store::Row;

/// The pages that are still to be copied.
pub struct Copying {
    ahead: Vec<(PageKey, Branch, Path)>,
}

impl Copying {
    /// All pages below `header`; the header's own row is not among them.
    pub fn of(header: &Header) -> Self {
        let roots = header.subtrees().iter();
        let ahead = roots.filter_map(|tree| Some((tree.root.as_ref()?.duplicate(), tree.branch, Path::ROOT))).collect();
        Self { ahead }
    }

    /// The rows of up to `limit` more pages; none at the end.
    ///
    /// # Errors
    /// [`TrieError::Missing`] or [`TrieError::Damaged`]: the vault needs its scrub, and no backup of it is whole.
    pub async fn next(&mut self, pages: &Pages, limit: usize) -> Result<Vec<Row>, TrieError> {
        let mut rows = Vec::with_capacity(limit.min(self.ahead.len()));
        while rows.len() < limit {
            let Some((key, branch, path)) = self.ahead.pop() else { break };
            let address = key.address();
            let (sealed, page) = pages.fetch_sealed(&key, &address, branch, &path).await?;
            if let Shape::Inner(inner) = page.shape() {
                let below = inner.children().map(|(nibble, key)| (key, branch, path.child(inner.skip, nibble)));
                self.ahead.extend(below);
            }
            rows.push((row_key(&address), sealed));
        }
        Ok(rows)
    }
}
