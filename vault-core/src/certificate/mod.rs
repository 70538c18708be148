//! Erasure certificates: signed evidence of a shred that anybody can check without the vault.
//!
//! A certificate is a JSON file. What it claims stands in entries of the audit log, carried as the very bytes that were
//! logged; each comes with the proof that it is in the log whose head the checkpoint signs. The log names no subject: the
//! certificate adds the subject's id and the salt that ties it to the entry's commitment.
//!
//! ```text
//! { "certificate": "udv-erasure-1", "statement": …, "vault": 32 hex, "erasure": 32 hex,
//!   "subject"?: { "id": text, "salt": 32 hex, "evidence": E },       of one subject
//!   "request"?: { "reason": text, "reference"?: text, "salt": 32 hex, "evidence": E },   of the request as it ended
//!   "levels": [E …],                                                of F2 and F3, once reached
//!   "checkpoint": the signed note, "log_key": its verifier key }
//! E = { "index": n, "entry": the logged bytes as text, "proof": [64 hex …] }
//! ```
//! Canonical bytes: these keys in this order, two spaces of indentation, non-ASCII characters as themselves, a newline at the
//! end. Anything else is refused, so that no byte of a certificate can change and still pass.
//!
//! It is evidence, not proof, of deletion: see `docs/erasure.md` for what it can and cannot show.

mod check;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use check::{CheckError, Checked, check};

use crate::audit::Digest;
use crate::crypto::{digest, put_lp};

/// The format and its version.
pub const FORMAT: &str = "udv-erasure-1";
/// What every certificate says of itself.
pub const STATEMENT: &str = "Evidence, not proof, of deletion: the operator of this vault signed, in an append-only log, that the only \
                             keys to this data were destroyed as told below. It can not show that no copy was made while the \
                             data was in use, nor that the software did what it says.";
/// The longest certificate that is looked at, in bytes.
pub const LEN_MAX: usize = 1024 * 1024;

/// An erasure certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// [`FORMAT`].
    pub certificate: String,
    /// [`STATEMENT`].
    pub statement: String,
    /// The vault, as 32 hexadecimal digits.
    pub vault: String,
    /// The erasure, as 32 hexadecimal digits.
    pub erasure: String,
    /// The subject that it is about, for the certificate of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// The request as it ended, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
    /// Levels beyond F1 that were reached since.
    pub levels: Vec<Evidence>,
    /// Signed head of the log: a C2SP checkpoint.
    pub checkpoint: String,
    /// The key that signed it: a C2SP verifier key.
    pub log_key: String,
}

/// The subject of a certificate.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// The caller's id of it.
    pub id: String,
    /// Ties the id to the entry's commitment, as 32 hexadecimal digits.
    pub salt: String,
    /// The entry of its shred.
    pub evidence: Evidence,
}

/// The request of a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Why it was asked for.
    pub reason: String,
    /// The asker's own name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Ties both to the entry's commitment, as 32 hexadecimal digits.
    pub salt: String,
    /// The entry of its end.
    pub evidence: Evidence,
}

/// An entry of the log and the proof that it is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Its place in the log, from 0.
    pub index: u64,
    /// The bytes that were logged: JSON as well.
    pub entry: String,
    /// RFC 6962 inclusion proof towards the checkpoint.
    pub proof: Vec<Digest>,
}

/// A subject's id may be personal.
impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("evidence", &self.evidence).finish_non_exhaustive()
    }
}

impl Certificate {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a certificate has text keys only");
        bytes.push(b'\n');
        bytes
    }
}

/// What an entry names a subject by: `SHA-256("uv1/certificate/subject" ‖ salt ‖ LP(erasure) ‖ LP(id))`, `LP` being a
/// length of 4 bytes, big-endian, and the bytes; the erasure as its 16 bytes, the salt has 16 too.
pub fn subject_commitment(salt: &[u8; 16], erasure: &[u8; 16], id: &str) -> Digest {
    commitment(b"uv1/certificate/subject", salt, &[erasure, id.as_bytes()])
}

/// What an entry names reason and reference by: `SHA-256("uv1/certificate/request" ‖ salt ‖ LP(erasure) ‖ LP(reason) ‖
/// LP(reference))`, with an empty reference if there is none.
pub fn request_commitment(salt: &[u8; 16], erasure: &[u8; 16], reason: &str, reference: Option<&str>) -> Digest {
    commitment(
        b"uv1/certificate/request",
        salt,
        &[erasure, reason.as_bytes(), reference.unwrap_or_default().as_bytes()],
    )
}

fn commitment(label: &[u8], salt: &[u8; 16], parts: &[&[u8]]) -> Digest {
    let mut message = zeroize::Zeroizing::new([label, salt].concat());
    for part in parts {
        put_lp(&mut message, part);
    }
    Digest(digest(&message))
}
