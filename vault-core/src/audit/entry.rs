//! What an entry of the log says: one line of JSON with named parts, of which absent ones are left out.

use serde::{Deserialize, Serialize};

use crate::ids::{CallerId, Compartment, ErasureId, FieldName, Purpose};
use crate::policy::Rule;
use crate::time::Timestamp;
use crate::words::word_enum;

word_enum! {
    /// What was done, or asked for.
    Action {
        /// The server was started.
        Start = "start",
        /// The server was stopped.
        Stop = "stop",
        /// The root key was loaded.
        Unlock = "unlock",
        /// The root key was dropped.
        Lock = "lock",
        /// Fields were read.
        Read = "read",
        /// Subjects were looked for by a value.
        Lookup = "lookup",
        /// It was read what is held of a subject, without values.
        Describe = "describe",
        /// Everything held of a subject was read.
        Export = "export",
        /// It was read who accessed a subject's data.
        Accesses = "accesses",
        /// Fields were put or removed.
        Write = "write",
        /// What is known of a value was read or changed.
        Metadata = "metadata",
        /// A consent was read, given or withdrawn.
        Consent = "consent",
        /// Processing was restricted, or no longer.
        Restriction = "restriction",
        /// A legal hold was put, released or listed.
        Hold = "hold",
        /// Value tokens were made.
        TokenCreate = "token_create",
        /// Value tokens were resolved.
        TokenResolve = "token_resolve",
        /// A value token was revoked.
        TokenRevoke = "token_revoke",
        /// Values were forgotten because their time was over.
        Retention = "retention",
        /// An erasure was asked for, approved, cancelled, or refused its subjects (F0).
        Erasure = "erasure",
        /// A subject, or a compartment of it, is shredded for good (F1).
        Shredded = "shredded",
        /// An erasure reached F2 or F3.
        ErasureLevel = "erasure_level",
        /// Erasures or certificates were read.
        ErasureRead = "erasure_read",
        /// The schema was changed.
        Schema = "schema",
        /// A caller was made, revoked, or its API token replaced.
        Caller = "caller",
        /// A rotation was asked for or altered, or ended; the state of keys was read.
        Keys = "keys",
        /// A root slot was rotated, added or removed.
        Slots = "slots",
        /// The key that signs the log was replaced.
        LogKey = "log_key",
        /// The audit log was read.
        Audit = "audit",
        /// A backup was made.
        Backup = "backup",
        /// The vault was restored from a backup.
        Restore = "restore",
        /// Somebody had a store served that lacks so many commits which the log tells of, or whose log was shorter than it had
        /// been.
        AcceptLoss = "accept_loss",
        /// Anything else that was refused: an unknown path, or no API token.
        Other = "other",
    }
}

word_enum! {
    /// How it ended.
    Outcome {
        /// As asked for.
        Done = "done",
        /// Refused by policy or for want of rights.
        Refused = "refused",
        /// Not done, for another reason.
        Failed = "failed",
    }
}

/// A subject as the log names it: 16 bytes under its own audit key, another one every day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pseudonym(pub [u8; 16]);

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// When.
    #[serde(with = "text")]
    pub at: Timestamp,
    /// What.
    pub what: Action,
    /// How it ended.
    pub outcome: Outcome,
    /// The status code of the answer, where it was a request that is not [`Outcome::Done`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The caller; none for what the vault does by itself and for who did not authenticate.
    #[serde(default, with = "maybe_text", skip_serializing_if = "Option::is_none")]
    pub by: Option<CallerId>,
    /// The declared purpose that the caller named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Purpose>,
    /// The rule that refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Rule>,
    /// Whose data; none for a subject without a key, one that is unknown or shredded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<Pseudonym>,
    /// Which fields, by the ids that they were first declared under.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fields: Vec<FieldName>,
    /// How many times it happened, where one entry stands for several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// The erasure it belongs to.
    #[serde(default, with = "maybe_text", skip_serializing_if = "Option::is_none")]
    pub erasure: Option<ErasureId>,
    /// The commit of the store that it became true with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<u64>,
    /// What an [`Action::Shredded`] entry proves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shred: Option<Shred>,
    /// Which key signs the log from here on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_key: Option<KeyChange>,
    /// The level that an erasure as a whole reached, for [`Action::ErasureLevel`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// The request as it ended, for an [`Action::ErasureLevel`] of F1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Concluded>,
}

/// A change of the key that signs the log; both are C2SP verifier keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyChange {
    /// The one before.
    pub old: String,
    /// The one from here on.
    pub new: String,
}

word_enum! {
    /// How final a shred is.
    Level {
        /// The old root is gone from every slot: no image of the store helps.
        F1 = "F1",
        /// The hardware keys of the slots are others since: no image of the slots' disks helps.
        F2 = "F2",
        /// No root is retained for a backup: no backup helps.
        F3 = "F3",
    }
}

/// 32 bytes, written as hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

/// One subject, or a compartment of it, shredded for good. It names the subject by a salted commitment: who was told id and
/// salt can show that this is about him, and nobody else learns anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shred {
    /// See [`crate::certificate::subject_commitment`].
    #[serde(with = "text")]
    pub commitment: Digest,
    /// Only this compartment; none for the whole subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compartment: Option<Compartment>,
    /// When its refusal was durable (F0).
    #[serde(with = "text")]
    pub f0_at: Timestamp,
    /// When the old root was gone from every slot (F1).
    #[serde(with = "text")]
    pub f1_at: Timestamp,
    /// Epoch of the root before, and of the root that replaced it.
    pub epochs: [u64; 2],
    /// SHA-256 of the sealed vault header before, and of the one that replaced it.
    pub headers: [Digest; 2],
    /// The generation of lookups that the subject was findable in.
    pub lookups: u32,
    /// The root slots that the old root was overwritten in.
    pub slots: Vec<String>,
}

/// An erasure request as it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concluded {
    /// To reason and reference, see [`crate::certificate::request_commitment`].
    #[serde(with = "text")]
    pub commitment: Digest,
    /// When it was asked for.
    #[serde(with = "text")]
    pub asked_at: Timestamp,
    /// By whom.
    #[serde(default, with = "maybe_text", skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<CallerId>,
    /// Who approved it, where a second person had to.
    #[serde(default, with = "maybe_text", skip_serializing_if = "Option::is_none")]
    pub approved_by: Option<CallerId>,
    /// Distinct subjects that were asked for.
    pub total: u64,
    /// Of these: shredded by it.
    pub r#final: u64,
    /// Shredded before.
    pub shredded: u64,
    /// Never enrolled, or holding nothing in the compartment.
    pub unknown: u64,
    /// Taken back before they were due.
    pub cancelled: u64,
    /// Left alone under a legal hold.
    pub held: u64,
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize(deserializer)
    }
}

impl Text for Digest {
    fn read(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl Entry {
    /// An entry of this moment that says only what was done.
    pub fn new(what: Action, outcome: Outcome) -> Self {
        Self {
            at: Timestamp::now(),
            what,
            outcome,
            status: None,
            by: None,
            purpose: None,
            rule: None,
            subjects: Vec::new(),
            fields: Vec::new(),
            count: None,
            erasure: None,
            commit: None,
            shred: None,
            log_key: None,
            level: None,
            request: None,
        }
    }

    /// The bytes that are logged and hashed.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an entry has text keys and no maps")
    }

    /// Reads logged bytes; `None` if they are not an entry of this version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}

impl Serialize for Pseudonym {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Pseudonym {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 16];
        hex::decode_to_slice(&text, &mut bytes).map_err(serde::de::Error::custom)?;
        Ok(Self(bytes))
    }
}

/// Ids and times as their text.
trait Text: Sized + std::fmt::Display {
    fn read(text: &str) -> Option<Self>;
}

impl Text for Timestamp {
    fn read(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

impl Text for CallerId {
    fn read(text: &str) -> Option<Self> {
        Self::parse(text).ok()
    }
}

impl Text for ErasureId {
    fn read(text: &str) -> Option<Self> {
        Self::parse(text).ok()
    }
}

mod text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<T: super::Text, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T: super::Text, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        T::read(&String::deserialize(deserializer)?).ok_or_else(|| Error::custom("not an id or time"))
    }
}

mod maybe_text {
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<T: super::Text, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::text::serialize(value, to),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, T: super::Text, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
        super::text::deserialize(from).map(Some)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn entries_are_plain_json_and_round_trip() {
        let mut entry = Entry::new(Action::Read, Outcome::Done);
        entry.at = Timestamp(1_764_028_800_123);
        let least = r#"{"at":"2025-11-25T00:00:00.123Z","what":"read","outcome":"done"}"#;
        assert_eq!(String::from_utf8(entry.encode()).unwrap(), least);
        assert_eq!(Entry::decode(least.as_bytes()).unwrap(), entry);
        entry.by = Some(CallerId([0xab; 16]));
        entry.subjects = vec![Pseudonym([1; 16])];
        entry.fields = vec![FieldName::parse("phone").unwrap()];
        entry.erasure = Some(ErasureId([2; 16]));
        entry.rule = Some(Rule::Restricted);
        entry.commit = Some(7);
        let text = String::from_utf8(entry.encode()).unwrap();
        assert!(text.contains(r#""by":"abababababababababababababababab""#) && text.contains(r#""rule":"restricted""#));
        assert_eq!(Entry::decode(text.as_bytes()).unwrap(), entry);
        assert_eq!(Entry::decode(b"{}"), None);
    }
}
