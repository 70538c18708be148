//! Payloads of trie entries: what the vault writes under each key, and nothing about how.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::types::{ErasureCounts, Layer, Role, RotationState};
use crate::codec;
use crate::crypto::tag::Tag;
use crate::crypto::{AuditKey, Dek, ErasureKey};
use crate::error::Error;
use crate::ids::{CallerId, Compartment, ErasureId, FieldName, HoldName, Purpose, RotationId, SubjectUuid};
use crate::time::Timestamp;
use crate::trie::{EntryKey, Payload, RekeyCursor};

/// An entry of the directory.
#[derive(Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "nearly all are subjects, and one at a time is held")]
pub(crate) enum DirectoryEntry {
    /// A subject with its keys.
    Subject(SubjectRecord),
    /// The id was shredded: no key, no name.
    Tombstone(Tombstone),
}

impl DirectoryEntry {
    /// Whether it is a subject, and this one.
    pub(crate) fn is_of(&self, uuid: SubjectUuid) -> bool {
        matches!(self, Self::Subject(record) if record.uuid == uuid)
    }
}

/// The fact that an id was shredded.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Tombstone {
    pub(crate) at: Timestamp,
    pub(crate) erasure: ErasureId,
}

impl Tombstone {
    /// Whether the id may be used as if it had never been.
    pub(crate) fn is_over(&self, tombstone_seconds: u64) -> bool {
        self.at.plus_seconds(tombstone_seconds) <= Timestamp::settled()
    }
}

/// A living subject: its keys, and all that a shred must remove elsewhere.
#[derive(Serialize, Deserialize)]
pub(crate) struct SubjectRecord {
    pub(crate) uuid: SubjectUuid,
    pub(crate) state: SubjectState,
    pub(crate) enrolled_at: Timestamp,
    /// The caller's id. Here and not in a data row, so that a lookup opens no row and a shred forgets it with the keys.
    pub(crate) subject: zeroize::Zeroizing<String>,
    #[serde(with = "wrapped_audit")]
    pub(crate) audit_key: AuditKey,
    /// Listed, so that a shred opens no data row.
    pub(crate) lookups: Vec<LookupRef>,
    /// The generation of lookups that these are of: one behind while a rotation forgets the one before.
    pub(crate) lookups_generation: u32,
    /// What a rotation has in the generation after that one.
    pub(crate) next_lookups: Vec<LookupRef>,
    pub(crate) compartments: Vec<CompartmentKeys>,
    /// Purposes that the subject consents to at present; the history is in the compartment `system`.
    pub(crate) consents: Vec<Purpose>,
    /// Whether its processing is restricted.
    pub(crate) restricted: bool,
    /// Legal holds; their reasons are in the compartment `system`.
    pub(crate) holds: Vec<HoldName>,
    /// How many value tokens were ever made for it: whether a shred must look for some. A count, so that whoever
    /// prepared the removal of all its tokens learns of one that was made meanwhile.
    pub(crate) tokens: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SubjectState {
    Active,
    /// F0: a shred is durable, its root batch is not.
    Refused {
        at: Timestamp,
        erasure: ErasureId,
    },
}

/// A lookup entry that the subject has in the trie.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct LookupRef {
    /// The id of the field that it is of.
    pub(crate) field: FieldName,
    pub(crate) of: Indexed,
    pub(crate) tag: Tag,
    /// Whether it is the field's present value. One that is not waits for the next root batch to be removed.
    pub(crate) live: bool,
}

/// What of a field a lookup entry finds it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Indexed {
    /// Its exact value.
    Value,
    /// Where it came from.
    Source,
    /// A purpose it may be used for.
    Purpose,
    /// A purpose that the subject objects to.
    Objection,
    /// Somebody it was shared with.
    Recipient,
    /// The day it expires.
    Expiry,
}

/// A compartment and the key of its fields.
#[derive(Serialize, Deserialize)]
pub(crate) struct CompartmentKeys {
    pub(crate) name: Compartment,
    /// Tells the subject's rows apart in the store, where a name would say too much.
    pub(crate) ordinal: u16,
    pub(crate) dek_version: u32,
    #[serde(with = "wrapped_dek")]
    pub(crate) dek: Dek,
    /// When it was drawn.
    pub(crate) dek_since: Timestamp,
    /// F0: the shred of this compartment alone is durable, its root batch is not.
    pub(crate) refused: Option<ErasureId>,
}

/// An API client, its API tokens only as keyed hashes.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct CallerRecord {
    pub(crate) id: CallerId,
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) purposes: std::sync::Arc<[Purpose]>,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) revoked: bool,
    pub(crate) token_hash: [u8; 32],
    /// The API token before this one, for as long as it goes on working.
    pub(crate) previous: Option<PreviousToken>,
    /// Written down now and then only.
    pub(crate) last_used_at: Option<Timestamp>,
    /// Its own budget of lookups; 0 for none.
    pub(crate) lookups_per_minute: Option<u32>,
}

/// An API token that was replaced.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct PreviousToken {
    pub(crate) hash: [u8; 32],
    pub(crate) until: Timestamp,
}

/// What a value token stands for, and for whom. The token itself is nowhere but in the tag that leads here.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct TokenRecord {
    /// The subject; enrolled again, it is another one.
    pub(crate) uuid: SubjectUuid,
    /// The tag of its directory entry.
    pub(crate) directory: Tag,
    /// The id of the field.
    pub(crate) field: FieldName,
    /// The only purpose that it resolves for.
    pub(crate) purpose: Option<Purpose>,
    /// The only caller that it resolves for.
    pub(crate) caller: Option<CallerId>,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) single_use: bool,
    /// Used up or revoked: it resolves no more, and the next root batch removes it.
    pub(crate) spent: bool,
}

/// The other entry of a value token, in the list of its subject's: what it is of.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct TokenOf {
    /// The id of the field.
    pub(crate) field: FieldName,
    /// The compartment that the field was in.
    pub(crate) compartment: Compartment,
}

/// An erasure request: counts and times, no subject.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct ErasureRecord {
    pub(crate) id: ErasureId,
    pub(crate) reason: String,
    pub(crate) reference: Option<String>,
    pub(crate) compartment: Option<Compartment>,
    pub(crate) created_at: Timestamp,
    pub(crate) counts: ErasureCounts,
    pub(crate) total: u64,
    /// Its subjects are left alone until then.
    pub(crate) not_before: Option<Timestamp>,
    /// Whether reads are refused until then already.
    pub(crate) refuse_now: bool,
    /// By when it should be done.
    pub(crate) deadline: Timestamp,
    pub(crate) approval: Approval,
    /// Whether all of its subjects are written down; one that is not after a crash was never acknowledged.
    pub(crate) accepted: bool,
    /// Set before anything is taken back.
    pub(crate) cancelled_at: Option<Timestamp>,
    /// When the first refusals were durable.
    pub(crate) f0_at: Option<Timestamp>,
    /// When nothing of it was open any more.
    pub(crate) ended_at: Option<Timestamp>,
    /// Written once the old root is gone from every slot, for all of its subjects.
    pub(crate) f1_at: Option<Timestamp>,
    /// Written once the hardware keys of all slots are others, if all of them have some.
    pub(crate) f2_at: Option<Timestamp>,
    /// Written once no root is retained for a backup.
    pub(crate) f3_at: Option<Timestamp>,
    /// Who asked.
    pub(crate) requested_by: Option<CallerId>,
    /// Salts the commitments of its certificates. Goes when its tombstones do: who has it can test an id that he guesses.
    #[serde(with = "wrapped_erasure")]
    pub(crate) key: Option<Arc<ErasureKey>>,
    /// The log's size before the first of its shreds was told: they are behind. Or [`TOLD_NOWHERE`].
    pub(crate) told_from: Option<u64>,
}

/// In place of that: the log that told of shreds of the erasure is lost.
pub(crate) const TOLD_NOWHERE: u64 = u64::MAX;

/// A subject of an erasure that is not shredded yet; the entry's key leads to it.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct ErasureItem {
    pub(crate) state: ItemState,
    /// The subject; enrolled again, it is another one.
    pub(crate) uuid: SubjectUuid,
    /// When its refusal was durable.
    pub(crate) f0_at: Option<Timestamp>,
    /// What the evidence of its shred names it by.
    pub(crate) commitment: [u8; 32],
}

/// How a subject of an erasure stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ItemState {
    /// Not due yet.
    Pending,
    /// Due, and kept by a legal hold.
    Held,
    /// F0: on its way to be final.
    Refused,
}

/// Whether a second person must agree to an erasure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Approval {
    NotNeeded,
    Awaited,
    By(CallerId),
}

impl Approval {
    /// The second person, once there is one.
    pub(crate) fn second(self) -> Option<CallerId> {
        match self {
            Self::By(second) => Some(second),
            Self::NotNeeded | Self::Awaited => None,
        }
    }
}

/// A rotation and where it goes on after a restart.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct RotationRecord {
    pub(crate) id: RotationId,
    pub(crate) work: Work,
    pub(crate) state: RotationState,
    pub(crate) rate: Option<u32>,
    pub(crate) done: u64,
    pub(crate) total: u64,
    pub(crate) started_at: Timestamp,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) detail: Option<String>,
}

impl RotationRecord {
    /// What it replaces.
    pub(crate) fn layer(&self) -> Layer {
        match self.work {
            Work::Unlock => Layer::Unlock,
            Work::Root => Layer::Root,
            Work::Keks(_) => Layer::Keks,
            Work::Deks(_) => Layer::Deks,
            Work::Lookups(_) => Layer::Lookups,
        }
    }
}

/// What a rotation replaces, and how far it is.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum Work {
    Root,
    Keks(RekeyCursor),
    Deks(DeksWork),
    Lookups(LookupsWork),
    /// Noted when it is done.
    Unlock,
}

/// A new generation of lookups.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct LookupsWork {
    pub(crate) stage: LookupsStage,
    pub(crate) then: Then,
    /// Subjects whose rows do not open, so that it is not known what they are to be found by.
    pub(crate) damaged: u64,
    /// Subjects when it began: each is walked past twice.
    pub(crate) subjects: u64,
    /// Shreds that there had been then.
    pub(crate) shreds: u64,
}

/// What a rotation of lookups does next.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum LookupsStage {
    /// Put the new generation beside the serving one.
    Begin,
    /// Write every subject's entries into it.
    Build(Walk),
    /// Have it serve.
    Switch,
    /// Have what was built retire.
    Undo,
    /// Take the entries out of the one that retires, then that one.
    Empty,
    /// Take what it had out of every subject's record.
    Prune(Walk),
}

/// What follows once a generation is forgotten.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Then {
    /// It was left over from another rotation: this one begins.
    Begin,
    Done,
    Cancelled,
    Failed,
}

/// New DEKs for some subjects.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct DeksWork {
    pub(crate) which: WhichDeks,
    /// Whether the old ones are forgotten, with all that were before them.
    pub(crate) forget: bool,
    pub(crate) at: Walk,
    /// Compartments whose rows do not open, so that they keep their DEK.
    pub(crate) damaged: u64,
}

/// Which DEKs get a successor, of those that are older than the rotation.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) enum WhichDeks {
    All,
    /// Those that were drawn before then.
    Before(Timestamp),
    /// Those of the subjects whose directory entries have these tags, ascending.
    Of(Vec<Tag>),
}

/// How far a walk through the directory is.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Walk {
    /// Everything up to this entry is done.
    After(Option<EntryKey>),
    End,
}

/// The DEKs that a compartment had before, oldest first: each is sealed under the one that came after it.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct DekChain {
    pub(crate) links: Vec<DekLink>,
}

/// A DEK that was replaced.
#[derive(Serialize, Deserialize)]
pub(crate) struct DekLink {
    pub(crate) version: u32,
    /// UV1 bytes.
    pub(crate) sealed: Vec<u8>,
}

/// A request that was done, so that it is not done again: never its body, nor the caller's key.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct IdempotencyRecord {
    pub(crate) at: Timestamp,
    /// Of the request's path, key and body.
    pub(crate) digest: Tag,
    /// What it made.
    pub(crate) resource: [u8; 16],
    /// What it was answered with.
    pub(crate) status: u16,
}

/// Encodes a payload.
pub(crate) fn encode<T: Serialize>(record: &T) -> Result<Payload, Error> {
    // The only way to fail is a record over the limit: names and reasons are bounded, so it is the subject that is large.
    codec::encode(record).map_err(|_| Error::TooLarge)
}

/// Decodes a payload.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, Error> {
    Ok(codec::decode(payload)?)
}

mod wrapped_erasure {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::crypto::ErasureKey;

    pub(super) fn serialize<S: Serializer>(key: &Option<Arc<ErasureKey>>, serializer: S) -> Result<S::Ok, S::Error> {
        key.as_ref().map(|key| key.expose()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Arc<ErasureKey>>, D::Error> {
        let Some(bytes) = Option::<[u8; 32]>::deserialize(deserializer)?.map(zeroize::Zeroizing::new) else {
            return Ok(None);
        };
        let key = ErasureKey::from_slice(&*bytes).ok_or_else(|| serde::de::Error::custom("a key has 32 bytes"))?;
        Ok(Some(Arc::new(key)))
    }
}

macro_rules! wrapped {
    ($module:ident, $key:ty) => {
        mod $module {
            use serde::{Deserialize, Deserializer, Serialize, Serializer};

            pub(super) fn serialize<S: Serializer>(key: &$key, serializer: S) -> Result<S::Ok, S::Error> {
                key.expose().serialize(serializer)
            }

            pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$key, D::Error> {
                let bytes = zeroize::Zeroizing::new(<[u8; 32]>::deserialize(deserializer)?);
                <$key>::from_slice(&*bytes).ok_or_else(|| serde::de::Error::custom("a key has 32 bytes"))
            }
        }
    };
}

wrapped!(wrapped_dek, crate::crypto::Dek);
wrapped!(wrapped_audit, crate::crypto::AuditKey);
