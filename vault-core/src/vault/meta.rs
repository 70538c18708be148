//! The META record: what proves that the store is this vault's, whole, and of this epoch.
//!
//! ```text
//! row 'm'
//! off  0  8 B "UDVMETA1"     8 u16 format = 5     10 vault id (16 B)     26 u64 epoch         in the open
//! off 34  sealed box under the header's META key, AAD = bytes 0..34:
//!         u64 commit sequence ‖ u64 subjects ‖ u64 tombstones ‖ u64 refused ‖ u64 callers ‖ u64 pages ‖ u64 rows
//!         ‖ u64 entries of the audit log that were durable by then ‖ u64 shreds
//!         ‖ u64 settled time of the commit, ms ‖ root over these entries (32 B)
//! ```
//! Written with every commit, and expected by the next: two writers can not both go on. A truncated store opens cleanly
//! in some engines, with every record gone; without a valid META the vault does not start on it.

use super::types::Counts;
use crate::audit::TreeHead;
use crate::crypto::MetaKey;
use crate::error::Error;
use crate::ids::VaultId;
use crate::time::Timestamp;

/// The record's key in the store.
pub(crate) const KEY: &[u8] = b"m";

const MAGIC: &[u8; 8] = b"UDVMETA1";
const FORMAT: u16 = 5;
const OPEN_LEN: usize = 34;

/// The part in the open, readable while locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MetaHead {
    pub(crate) vault: VaultId,
    pub(crate) epoch: u64,
}

/// The whole record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) head: MetaHead,
    pub(crate) sequence: u64,
    pub(crate) counts: Counts,
    /// What of the audit log was durable when it was written: one with fewer entries, or others, is not the one it was.
    pub(crate) logged: TreeHead,
    /// When it was written, as far as the clock was trusted then.
    pub(crate) at: Timestamp,
}

impl MetaHead {
    fn encode(self) -> [u8; OPEN_LEN] {
        let mut out = [0; OPEN_LEN];
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&FORMAT.to_be_bytes());
        out[10..26].copy_from_slice(&self.vault.0);
        out[26..].copy_from_slice(&self.epoch.to_be_bytes());
        out
    }

    /// Reads the open part.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        const DAMAGED: Error = Error::Damaged("the META record is not one of this version");
        let head: &[u8; OPEN_LEN] = bytes.first_chunk().ok_or(DAMAGED)?;
        if &head[..8] != MAGIC || head[8..10] != FORMAT.to_be_bytes() {
            return Err(DAMAGED);
        }
        let vault = VaultId(head[10..26].try_into().map_err(|_| DAMAGED)?);
        Ok(Self { vault, epoch: u64::from_be_bytes(head[26..].try_into().map_err(|_| DAMAGED)?) })
    }
}

impl Meta {
    /// Seals the record.
    pub(crate) fn seal(&self, key: &MetaKey) -> Vec<u8> {
        let c = self.counts;
        let numbers = [
            self.sequence,
            c.subjects,
            c.tombstones,
            c.refused,
            c.callers,
            c.pages,
            c.rows,
            self.logged.size,
            c.shreds,
            self.at.0,
        ];
        let plaintext: Vec<u8> = numbers.iter().flat_map(|n| n.to_be_bytes()).chain(self.logged.root).collect();
        let head = self.head.encode();
        [&head[..], &key.seal_meta(&head, &plaintext)].concat()
    }

    /// Opens the record.
    pub(crate) fn open(bytes: &[u8], key: &MetaKey) -> Result<Self, Error> {
        const DAMAGED: Error = Error::Damaged("the META record does not open");
        let head = MetaHead::decode(bytes)?;
        let (open, sealed) = bytes.split_at(OPEN_LEN);
        let plaintext = key.open_meta(open, sealed).map_err(|_| DAMAGED)?;
        let (numbers, root) = plaintext.split_last_chunk::<32>().ok_or(DAMAGED)?;
        let logged = |size| TreeHead { size, root: *root };
        let numbers: Vec<u64> =
            numbers.chunks_exact(8).map(|n| u64::from_be_bytes(n.try_into().expect("chunks of 8 bytes"))).collect();
        let [sequence, subjects, tombstones, refused, callers, pages, rows, entries, shreds, at] = numbers[..] else {
            return Err(DAMAGED);
        };
        let counts = Counts { subjects, tombstones, refused, callers, pages, rows, shreds };
        Ok(Self { head, sequence, counts, logged: logged(entries), at: Timestamp(at) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::crypto::Random;

    #[test]
    fn opens_unchanged_and_with_its_key_only() {
        let key = MetaKey::draw(&mut Random::for_keys(1));
        let counts = Counts { subjects: 3, tombstones: 1, refused: 0, callers: 2, pages: 9, rows: 4, shreds: 1 };
        let meta = Meta {
            head: MetaHead { vault: VaultId([5; 16]), epoch: 7 },
            sequence: 11,
            counts,
            logged: TreeHead { size: 12, root: [14; 32] },
            at: Timestamp(13),
        };
        let bytes = meta.seal(&key);
        assert_eq!(Meta::open(&bytes, &key).unwrap(), meta);
        assert_eq!(MetaHead::decode(&bytes).unwrap(), meta.head);
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(Meta::open(&changed, &key).is_err(), "bit {bit}");
        }
        assert!(Meta::open(&bytes, &MetaKey::draw(&mut Random::for_keys(1))).is_err());
        assert!(MetaHead::decode(b"UDVMETA1").is_err());
    }
}
