//! Checking a certificate: from its bytes alone, with the log's key if the reader has it from elsewhere.

use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::{Checkpoint, check_record, record_hash, tlog::Hash};

use super::{
    Certificate, Evidence, FORMAT, LEN_MAX, Request, STATEMENT, Subject, request_commitment, subject_commitment,
};
use crate::audit::{Action, Concluded, Entry, Level, Outcome, Shred};
use crate::ids::ErasureId;
use crate::time::Timestamp;

/// Why a certificate is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// It is not a certificate, or not in its canonical bytes.
    #[error("this is not an erasure certificate, or its bytes were changed ({0}): ask for it again")]
    Form(&'static str),
    /// It is signed by another key than the one it was held against.
    #[error(
        "the certificate is signed by another key than the given one: get the log's key from a place that you trust"
    )]
    OtherKey,
    /// A signature or a proof does not hold.
    #[error("the certificate does not hold: {0}")]
    Forged(&'static str),
}

/// What a certificate that holds says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// The erasure.
    pub erasure: ErasureId,
    /// The key that signed it.
    pub log_key: String,
    /// Entries in the log when it was made.
    pub log_size: u64,
    /// The head of the log then, as it was signed.
    pub checkpoint: String,
    /// The shred of the subject that it is about.
    pub shred: Option<Shred>,
    /// The request as it ended.
    pub request: Option<Concluded>,
    /// Levels reached, each since when, by the entries that say so.
    pub levels: Vec<(Level, Timestamp)>,
}

/// Checks a certificate, against a key from elsewhere if one is given. Without it the certificate only shows that one key
/// signed all of it.
///
/// # Errors
/// [`CheckError`].
pub fn check(bytes: &[u8], pinned: Option<&str>) -> Result<Checked, CheckError> {
    let certificate = parse(bytes)?;
    if pinned.is_some_and(|key| key.trim() != certificate.log_key) {
        return Err(CheckError::OtherKey);
    }
    let log = SignedLog::open(&certificate)?;
    let erasure = ErasureId(hexadecimal(&certificate.erasure).ok_or(CheckError::Form("its erasure is no id"))?);
    let mut levels = Vec::new();
    let shred = match &certificate.subject {
        Some(subject) => Some(check_subject(&log, erasure, subject)?),
        None => None,
    };
    let request = match &certificate.request {
        Some(request) => {
            let (at, concluded) = check_request(&log, erasure, request)?;
            levels.push((Level::F1, at));
            Some(concluded)
        }
        None => None,
    };
    if shred.is_none() && request.is_none() {
        return Err(CheckError::Form("it is about nothing"));
    }
    if !certificate.levels.is_sorted_by(|one, next| one.index < next.index) {
        return Err(CheckError::Form("its levels are not in the order of the log"));
    }
    for evidence in &certificate.levels {
        let entry = log.entry(erasure, evidence, Action::ErasureLevel)?;
        let level = entry.level.filter(|level| *level != Level::F1);
        levels.push((level.ok_or(CheckError::Form("an entry tells no level beyond F1"))?, entry.at));
    }
    let log_size = log.size;
    Ok(Checked {
        erasure,
        log_key: certificate.log_key,
        log_size,
        checkpoint: certificate.checkpoint,
        shred,
        request,
        levels,
    })
}

fn parse(bytes: &[u8]) -> Result<Certificate, CheckError> {
    if bytes.len() > LEN_MAX {
        return Err(CheckError::Form("it is too long"));
    }
    let certificate: Certificate =
        serde_json::from_slice(bytes).map_err(|_| CheckError::Form("it is not JSON of this format"))?;
    if certificate.certificate != FORMAT || certificate.statement != STATEMENT {
        return Err(CheckError::Form("its version is not known here"));
    }
    // What is read and written again must be what was there: no other spacing, order, escape or digit passes.
    if certificate.encode() != bytes {
        return Err(CheckError::Form("its bytes are not canonical"));
    }
    Ok(certificate)
}

/// The log that the checkpoint speaks of.
struct SignedLog {
    size: u64,
    root: Hash,
}

impl SignedLog {
    fn open(certificate: &Certificate) -> Result<Self, CheckError> {
        let malformed = CheckError::Form("its checkpoint is malformed");
        let note = Note::from_bytes(certificate.checkpoint.as_bytes()).map_err(|_| malformed.clone())?;
        let verifier = StandardVerifier::new(&certificate.log_key)
            .map_err(|_| CheckError::Form("its log key is not a verifier key"))?;
        let (key_name, rest) = certificate.log_key.split_once('+').ok_or_else(|| malformed.clone())?;
        if rest.bytes().take(8).any(|byte| byte.is_ascii_uppercase()) {
            return Err(CheckError::Form("its log key is not canonical"));
        }
        let verified = note.verify(&VerifierList::new(vec![Box::new(verifier)]));
        let (signatures, others) =
            verified.map_err(|_| CheckError::Forged("the checkpoint is not signed by the log's key"))?;
        // One signature, and the note written again is the same: no byte of it is unsigned or ambiguous.
        if signatures.len() != 1 || !others.is_empty() || note.to_bytes() != certificate.checkpoint.as_bytes() {
            return Err(malformed);
        }
        let checkpoint = Checkpoint::from_bytes(note.text()).map_err(|_| malformed.clone())?;
        let origin = format!("udv/{}", certificate.vault);
        if checkpoint.origin() != origin || key_name != origin {
            return Err(CheckError::Forged("the log is another vault's"));
        }
        Ok(Self { size: checkpoint.size(), root: *checkpoint.hash() })
    }

    /// The entry, if it is in the log, is of this erasure and says that this was done.
    fn entry(&self, erasure: ErasureId, evidence: &Evidence, what: Action) -> Result<Entry, CheckError> {
        let leaf = record_hash(evidence.entry.as_bytes());
        let proof = evidence.proof.iter().map(|digest| Hash(digest.0)).collect();
        check_record(&proof, self.size, self.root, evidence.index, leaf)
            .map_err(|_| CheckError::Forged("an entry is not in the log that the checkpoint signs"))?;
        let entry = Entry::decode(evidence.entry.as_bytes()).ok_or(CheckError::Form("an entry is not readable"))?;
        if entry.what != what || entry.outcome != Outcome::Done || entry.erasure != Some(erasure) {
            return Err(CheckError::Forged("an entry is about something else"));
        }
        Ok(entry)
    }
}

fn check_subject(log: &SignedLog, erasure: ErasureId, subject: &Subject) -> Result<Shred, CheckError> {
    let entry = log.entry(erasure, &subject.evidence, Action::Shredded)?;
    let shred = entry.shred.ok_or(CheckError::Form("an entry tells of no shred"))?;
    if subject_commitment(&salt(&subject.salt)?, &erasure.0, &subject.id) != shred.commitment {
        return Err(CheckError::Forged("the entry is not about this subject"));
    }
    Ok(shred)
}

fn check_request(log: &SignedLog, erasure: ErasureId, request: &Request) -> Result<(Timestamp, Concluded), CheckError> {
    let entry = log.entry(erasure, &request.evidence, Action::ErasureLevel)?;
    let concluded = entry.request.ok_or(CheckError::Form("an entry tells of no request"))?;
    let reference = request.reference.as_deref();
    if reference == Some("") {
        return Err(CheckError::Form("an empty reference is left out"));
    }
    if request_commitment(&salt(&request.salt)?, &erasure.0, &request.reason, reference) != concluded.commitment {
        return Err(CheckError::Forged("the entry is not about this reason and reference"));
    }
    if entry.level != Some(Level::F1) {
        return Err(CheckError::Form("an entry tells no end of a request"));
    }
    Ok((entry.at, concluded))
}

fn salt(text: &str) -> Result<[u8; 16], CheckError> {
    hexadecimal(text).ok_or(CheckError::Form("a salt is not 32 hexadecimal digits"))
}

/// 16 bytes in the one way that they are written.
fn hexadecimal(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    (hex::encode(bytes) == text).then_some(bytes)
}
