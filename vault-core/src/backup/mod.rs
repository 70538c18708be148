//! Backup archives: rows of one plane, packed and encrypted, that prove themselves whole before anything is restored.
//!
//! ```text
//! an age file (age-encryption.org/v1) to one or more X25519 recipients, of a tar archive (ustar):
//!   udv-backup.json     what it is: [`Info`]
//!   rows/000001 …       chunks of about 4 MiB, each row as u32 key length ‖ key ‖ u32 value length ‖ value (big-endian)
//!   gone/000001 …       of an increment: keys of rows that are there no more, each as u32 length ‖ key
//!   manifest.json       last: [`Manifest`], with the SHA-256 of every chunk in order
//! ```
//! `age -d` opens one, and `tar` lists it. A row that comes twice counts as it came last. There are two planes: the *data
//! plane* (sealed fields; worthless without keys, to be kept anywhere) and the *key plane* (what the root key opens; only
//! the current one is of use). The root key is in neither. age notices every changed byte and a cut; the manifest says
//! what belongs into the archive. Who knows a recipient can write archives to it: what is in them is sealed anyway.

mod age;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod index;
mod read;
mod write;

use serde::{Deserialize, Serialize};

pub use self::age::{Identities, Recipients};
pub use index::Index;
pub(crate) use read::{Piece, Pieces};
pub(crate) use write::Archive;

use crate::ids::{BackupId, VaultId};
use crate::time::Timestamp;
use crate::words::word_enum;

/// The version of the archives' format.
const FORMAT: u32 = 1;
/// The name of the first entry.
const INFO: &str = "udv-backup.json";
/// The name of the last entry.
const MANIFEST: &str = "manifest.json";
/// Bytes at which a chunk is closed.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;

word_enum! {
    /// What an archive holds.
    Plane {
        /// Rows of sealed fields.
        Data = "data",
        /// Pages that lead to their keys, and the vault's record of itself.
        Keys = "keys",
    }
}

/// What an archive says about itself, in its first entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Info {
    /// Version of the format: 1.
    pub format: u32,
    /// Names this archive.
    #[serde(with = "hex_id")]
    pub id: [u8; 16],
    /// The vault it is of.
    #[serde(with = "hex_id")]
    pub vault: [u8; 16],
    /// What it holds.
    pub plane: Plane,
    /// The epoch of the vault's root when it was made. A key plane opens with the root of this epoch only.
    pub epoch: u64,
    /// The commit it stands at; only in a key plane.
    pub sequence: Option<u64>,
    /// The version of the schema in force; only in a key plane.
    pub schema_version: Option<u16>,
    /// When it was begun, in milliseconds since 1970.
    pub created_at: Timestamp,
    /// The archive that this one is the increment of; none if it stands alone.
    #[serde(with = "hex_id_or_none")]
    pub base: Option<[u8; 16]>,
}

impl Info {
    /// Names this archive.
    pub fn backup(&self) -> BackupId {
        BackupId(self.id)
    }

    /// The vault it is of.
    pub fn vault(&self) -> VaultId {
        VaultId(self.vault)
    }
}

/// What an archive holds, in its last entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format: 1.
    pub format: u32,
    /// Rows, counted as often as they come.
    pub rows: u64,
    /// Keys of rows that are gone since the base.
    pub gone: u64,
    /// Bytes of all chunks.
    pub bytes: u64,
    /// Every chunk in order.
    pub chunks: Vec<ChunkSum>,
    /// SHA-256, in hexadecimal, over the digests of the chunks one after the other.
    pub sha256: String,
}

/// One chunk in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkSum {
    /// The name of its entry.
    pub name: String,
    /// Its SHA-256 in hexadecimal.
    pub sha256: String,
}

/// What is wrong with an archive or a key to it. Nothing was restored then.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// Not an age recipient.
    #[error("`{0}` is no age recipient: give the line that starts with age1, as `age-keygen` prints it")]
    Recipient(String),
    /// No recipient at all.
    #[error("a backup is always encrypted: name at least one recipient (age1…)")]
    NoRecipient,
    /// Not a file of age identities.
    #[error("{0} holds no age identity: its lines start with AGE-SECRET-KEY-1, as `age-keygen` writes them")]
    Identity(String),
    /// The file cannot be read or written.
    #[error("{path}: {why}")]
    File {
        /// Which.
        path: String,
        /// What the system said.
        why: std::io::Error,
    },
    /// None of the identities opens it.
    #[error("{path} is not encrypted to any of these identities: give the file with the right one")]
    NotForUs {
        /// Which archive.
        path: String,
    },
    /// It is cut short, changed, or not one of ours.
    #[error("the archive {path} is refused: {why}. Nothing was restored; use another copy of it")]
    Unsound {
        /// Which archive.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// It is of another vault.
    #[error("the archive {path} is of another vault: give one of the vault that these root slots belong to")]
    OtherVault {
        /// Which archive.
        path: String,
    },
    /// It is of the other plane.
    #[error("the archive {path} is a {is} plane: give the data planes and the key plane in their own options")]
    WrongPlane {
        /// Which archive.
        path: String,
        /// What it is.
        is: &'static str,
    },
    /// A data plane is not the increment of the one before it.
    #[error(
        "the archive {path} does not follow the one before it: give a whole data plane first, then its increments in the \
         order in which they were made"
    )]
    OutOfOrder {
        /// Which archive.
        path: String,
    },
    /// The root that opens it was destroyed.
    #[error(
        "the key plane is older than the root slot: it was made at epoch {archive_epoch} ({made}), the slot is at {slot_epoch}. \
         Shreds became final since, and the root that opens it was destroyed for them. Use a key plane made at epoch \
         {slot_epoch}; to be able to use one that lags, retain its root when it is made"
    )]
    Older {
        /// Of the key plane.
        archive_epoch: u64,
        /// Of the slot.
        slot_epoch: u64,
        /// When it was made.
        made: Timestamp,
    },
    /// The slots are old copies.
    #[error(
        "the key plane is newer than the root slot: it was made at epoch {archive_epoch}, the slot is at {slot_epoch}. The \
         slot is an old copy: use the current one"
    )]
    Newer {
        /// Of the key plane.
        archive_epoch: u64,
        /// Of the slot.
        slot_epoch: u64,
    },
    /// Who was refused since is not known.
    #[error(
        "it is not known who was refused since {since}, when the key plane was made: there is no list of refusals beside the \
         root slots. Put the files <slot>.<epoch>.refusals back; or accept that those subjects come back to life \
         (--accept-unknown-refusals), and shred them again by the audit log"
    )]
    UnknownRefusals {
        /// When the key plane was made.
        since: Timestamp,
    },
    /// There is something in the store.
    #[error("the store is not empty, and a restore writes over nothing: give an empty directory")]
    NotEmpty,
    /// A restore was cut short.
    #[error("a restore into this store was not finished: run it again with the same archives, or remove the store")]
    Unfinished,
    /// Whoever took the archive's bytes failed.
    #[error("the archive could not be written on ({0}): see to its place and begin again")]
    Sink(std::io::Error),
}

mod hex_id {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(id: &[u8; 16], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(id))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 16], D::Error> {
        parse(&String::deserialize(deserializer)?)
            .ok_or_else(|| serde::de::Error::custom("an id has 32 hexadecimal digits"))
    }

    pub(super) fn parse(text: &str) -> Option<[u8; 16]> {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id).ok().map(|()| id)
    }
}

mod hex_id_or_none {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(id: &Option<[u8; 16]>, serializer: S) -> Result<S::Ok, S::Error> {
        match id {
            Some(id) => serializer.serialize_some(&hex::encode(id)),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<[u8; 16]>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let id = super::hex_id::parse(&text);
        id.map(Some).ok_or_else(|| serde::de::Error::custom("an id has 32 hexadecimal digits"))
    }
}

#[cfg(test)]
mod tests;
