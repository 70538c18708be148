//! The index of a data plane: which rows it has, and a digest of each, so that the next one needs to hold only what changed.
//!
//! ```text
//! 8 B "udvindx\x01"     8  16 B id of the archive     24  its rows, ascending: u16 key length ‖ key ‖ 16 B digest of the value
//! ```
//! It names rows as the store does and tells nothing that the store does not. The digests are cut SHA-256 of sealed bytes.

use std::collections::BTreeMap;

use crate::crypto::digest;
use crate::ids::BackupId;

const MAGIC: &[u8; 8] = b"udvindx\x01";
const DIGEST_LEN: usize = 16;

/// The rows of a data plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// The archive.
    pub of: BackupId,
    rows: BTreeMap<Vec<u8>, [u8; DIGEST_LEN]>,
}

impl Index {
    /// An empty one.
    pub fn new(of: BackupId) -> Self {
        Self { of, rows: BTreeMap::new() }
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Reads one; `None` if it is none, or damaged.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.strip_prefix(MAGIC)?;
        let mut index = Self::new(BackupId(*take(&mut rest)?));
        while !rest.is_empty() {
            let len = usize::from(u16::from_be_bytes(*take(&mut rest)?));
            let (key, after) = rest.split_at_checked(len)?;
            rest = after;
            // Ascending, so that there is one way to write it.
            index.rows.last_key_value().is_none_or(|(last, _)| last.as_slice() < key).then_some(())?;
            index.rows.insert(key.to_vec(), *take(&mut rest)?);
        }
        Some(index)
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24 + self.rows.len() * 40);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&self.of.0);
        for (key, digest) in &self.rows {
            out.extend_from_slice(&u16::try_from(key.len()).expect("keys of rows are short").to_be_bytes());
            out.extend_from_slice(key);
            out.extend_from_slice(digest);
        }
        out
    }

    /// Notes a row; answers whether `base` has just this.
    pub(crate) fn note(&mut self, key: &[u8], value: &[u8], base: Option<&Self>) -> bool {
        let mut sum = [0; DIGEST_LEN];
        sum.copy_from_slice(&digest(value)[..DIGEST_LEN]);
        self.rows.insert(key.to_vec(), sum);
        base.is_some_and(|base| base.rows.get(key) == Some(&sum))
    }

    /// Rows that `base` has and this one has not.
    pub(crate) fn gone_since<'a>(&'a self, base: &'a Self) -> impl Iterator<Item = &'a [u8]> {
        base.rows.keys().filter(|key| !self.rows.contains_key(*key)).map(Vec::as_slice)
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(head)
}
