//! Evidence of shreds: what a root batch destroyed, kept beside it until the old root is gone from every slot, and told to
//! the audit log then.
//!
//! ```text
//! row 'v' ‖ u64 epoch of the new root ‖ u16 part
//! sealed box under the header's META key, label "uv1/evidence", AAD = vault id ‖ the row's key: an encoded `Destroyed`
//! ```
//! The row rides in the root batch, so no crash can part the shred from its evidence. It names no subject: commitments only.

use serde::{Deserialize, Serialize};

use super::Inner;
use crate::audit::Digest;
use crate::codec::{self, CodecError};
use crate::crypto::digest;
use crate::error::Error;
use crate::ids::ErasureId;
use crate::store::Row;
use crate::time::Timestamp;
use crate::trie::{Applied, Header, Kind};

/// First byte of the rows' keys.
const PREFIX: u8 = b'v';
/// Shreds that one row tells of.
const SHREDS_MAX: usize = 500;

/// One subject, or compartment, of one erasure in a root batch.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Shredding {
    pub(crate) erasure: ErasureId,
    /// Names the subject to who knows id and salt.
    pub(crate) commitment: [u8; 32],
    /// When its refusal was durable.
    pub(crate) f0_at: Timestamp,
}

/// What one root batch destroyed.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Destroyed {
    /// Of the root before and of the one that replaced it.
    pub(crate) epochs: [u64; 2],
    /// SHA-256 of the sealed headers that they open.
    pub(crate) headers: [[u8; 32]; 2],
    pub(crate) lookups: u32,
    pub(crate) slots: Vec<String>,
    pub(crate) shreds: Vec<Shredding>,
}

impl Destroyed {
    /// Hashes of the sealed headers, as the log writes them.
    pub(crate) fn digests(&self) -> [Digest; 2] {
        self.headers.map(Digest)
    }

    /// The rows that keep what a root batch destroys which leads from header `before`, sealed as `sealed`, to the one of
    /// `applied`.
    pub(super) fn rows(
        (before, sealed): (&Header, &[u8]),
        applied: &Applied,
        slots: &[String],
        shreds: &[Shredding],
    ) -> Result<Vec<Row>, CodecError> {
        let after = &applied.header;
        let next = after.current_row().and_then(|key| applied.put.iter().find(|(row, _)| row == key));
        let next = next.map_or(&[][..], |(_, value)| value);
        let mut rows = Vec::new();
        for (part, shreds) in (0_u16..).zip(shreds.chunks(SHREDS_MAX)) {
            let destroyed = Self {
                epochs: [before.epoch(), after.epoch()],
                headers: [digest(sealed), digest(next)],
                lookups: before.generation(Kind::Lookups),
                slots: slots.to_vec(),
                shreds: shreds.to_vec(),
            };
            let key = key(after.epoch(), part);
            let sealed = after.meta_key().seal_evidence(&aad(after, &key), &codec::encode_record(&destroyed)?);
            rows.push((key, sealed));
        }
        Ok(rows)
    }
}

/// Evidence that is not told yet, oldest first, with the keys of its rows.
pub(super) async fn untold(inner: &Inner, header: &Header) -> Result<Vec<(Vec<u8>, Destroyed)>, Error> {
    let mut found = Vec::new();
    for (key, sealed) in inner.store.scan(&[PREFIX], Some(&[PREFIX + 1]), 4096).await? {
        let opened = header.meta_key().open_evidence(&aad(header, &key), &sealed);
        let opened = opened.map_err(|_| Error::Damaged("a row with the evidence of a shred"))?;
        found.push((key, codec::decode_record(&opened)?));
    }
    Ok(found)
}

fn key(epoch: u64, part: u16) -> Vec<u8> {
    [&[PREFIX][..], &epoch.to_be_bytes(), &part.to_be_bytes()].concat()
}

fn aad(header: &Header, key: &[u8]) -> Vec<u8> {
    [&header.vault().0[..], key].concat()
}
