//! Certificates: the entries that the log holds of an erasure, each with the proof that it is there.

use std::collections::HashMap;

use super::evidence::{request_salt, subject_salt};
use super::records::{ErasureRecord, TOLD_NOWHERE};
use super::session::reading;
use super::{Vault, erase, evidence};
use crate::audit::{Action, Digest, Entry, Level, Log, Outcome};
use crate::certificate::{self, Certificate, Evidence, FORMAT, STATEMENT};
use crate::error::Error;
use crate::ids::{ErasureId, SubjectId, VaultId};
use crate::memory;

/// The most subjects whose certificates are made at once.
pub const CERTIFICATES_MAX: usize = 1000;
/// Entries that are looked at before it is asked whether that was all.
const LOOK: u64 = 4096;

/// The certificate of one subject's shred.
pub struct SubjectCertificate {
    /// The subject.
    pub subject: SubjectId,
    /// Place of its entry in the log.
    pub index: u64,
    /// It.
    pub certificate: Certificate,
}

impl Vault {
    /// The certificate of an erasure as a whole.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such erasure; [`Error::Conflict`] while it is not final; [`Error::Log`].
    pub async fn certificate(&self, id: ErasureId) -> Result<Certificate, Error> {
        let (log, record) = self.certified(id).await?;
        if record.f1_at.is_none() {
            return Err(Error::Conflict("the erasure is not final yet: its certificate is there once it is"));
        }
        let vault = self.inner.vault;
        blocking(move || {
            let found = find(&log, &record, &HashMap::new())?;
            let request = found.ended.as_ref().ok_or(Error::Damaged("the log lacks the end of an erasure"))?;
            let head = Head::of(&log)?;
            let certificate = head.certificate(vault, &record, &found.levels)?;
            Ok(Certificate { request: Some(head.request(&record, request)?), ..certificate })
        })
        .await
    }

    /// The certificates of subjects that an erasure shredded; those that it did not are left out. That of the request is
    /// in each of them, once it has ended.
    ///
    /// # Errors
    /// As for [`Vault::certificate`]; [`Error::Invalid`] for too many subjects.
    pub async fn certificates(&self, id: ErasureId, subjects: &[SubjectId]) -> Result<Vec<SubjectCertificate>, Error> {
        if subjects.len() > CERTIFICATES_MAX {
            return Err(Error::Invalid { field: "subjects", expected: "at most 1,000 subject ids" });
        }
        let (log, record) = self.certified(id).await?;
        let (vault, subjects) = (self.inner.vault, subjects.to_vec());
        blocking(move || of_subjects(vault, &log, &record, &subjects)).await
    }

    async fn certified(&self, id: ErasureId) -> Result<(Log, ErasureRecord), Error> {
        let session = self.session()?;
        let log = self.inner.options.log.clone().ok_or(Error::NotFound("audit log"))?;
        let record = reading!(session, |snapshot| erase::find(&self.inner, &snapshot.header, id).await)?;
        match record.told_from {
            None if record.f1_at.is_some() && record.counts.r#final == 0 => {
                return Err(Error::Conflict("the erasure shredded nobody: there is nothing to certify"));
            }
            None if record.f1_at.is_none() => {}
            None | Some(TOLD_NOWHERE) => {
                let told = "the audit log that told of the erasure is lost: there is no certificate of it any more";
                return Err(Error::Conflict(told));
            }
            _ => {}
        }
        // What is handed out as evidence must not be lost any more.
        log.durable(log.size()).await?;
        Ok((log, record))
    }
}

/// Looks through files away from what answers everybody else.
async fn blocking<T: Send + 'static>(look: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    memory::blocking(look).await.map_err(|_| Error::Failed)?
}

fn of_subjects(
    vault: VaultId,
    log: &Log,
    record: &ErasureRecord,
    subjects: &[SubjectId],
) -> Result<Vec<SubjectCertificate>, Error> {
    let key = record.salts()?;
    let commitment = |subject| evidence::commitment(key, record.id, subject);
    let wanted: HashMap<[u8; 32], &SubjectId> = subjects.iter().map(|s| (commitment(s), s)).collect();
    let found = find(log, record, &wanted)?;
    let head = Head::of(log)?;
    let common = head.certificate(vault, record, &found.levels)?;
    let request = found.ended.as_ref().map(|ended| head.request(record, ended)).transpose()?;
    let mut certificates = Vec::with_capacity(found.shreds.len());
    for (subject, logged) in found.shreds {
        let of = certificate::Subject {
            id: subject.as_str().to_owned(),
            salt: hex::encode(subject_salt(key, subject)),
            evidence: head.evidence(&logged)?,
        };
        let certificate = Certificate { subject: Some(of), request: request.clone(), ..common.clone() };
        certificates.push(SubjectCertificate { subject: subject.clone(), index: logged.0, certificate });
    }
    Ok(certificates)
}

/// An entry's place and bytes.
type Logged = (u64, Vec<u8>);

/// What the log holds of an erasure.
#[derive(Default)]
struct Found<'a> {
    shreds: Vec<(&'a SubjectId, Logged)>,
    ended: Option<Logged>,
    levels: Vec<Logged>,
}

/// Looks through the part of the log that the erasure's shreds are in.
fn find<'a>(log: &Log, record: &ErasureRecord, wanted: &HashMap<[u8; 32], &'a SubjectId>) -> Result<Found<'a>, Error> {
    let mut found = Found::default();
    let Some(mut from) = record.told_from else { return Ok(found) };
    let (end, name) = (log.size(), record.id.to_string());
    while from < end && !found.is_all(record) {
        let part = from..end.min(from + LOOK);
        from = part.end;
        log.scan(part, |index, bytes| {
            // Most entries are of others, and need not be read.
            if contains(bytes, name.as_bytes()) {
                found.take(record, wanted, (index, bytes));
            }
        })?;
    }
    Ok(found)
}

impl<'a> Found<'a> {
    fn take(
        &mut self,
        record: &ErasureRecord,
        wanted: &HashMap<[u8; 32], &'a SubjectId>,
        (index, bytes): (u64, &[u8]),
    ) {
        let Some(entry) = Entry::decode(bytes) else { return };
        if entry.erasure != Some(record.id) || entry.outcome != Outcome::Done {
            return;
        }
        let logged = (index, bytes.to_vec());
        match (entry.what, entry.shred, entry.level) {
            (Action::Shredded, Some(shred), _) => {
                let subject = wanted.get(&shred.commitment.0);
                self.shreds.extend(subject.map(|subject| (*subject, logged)));
            }
            (Action::ErasureLevel, _, Some(Level::F1)) => self.ended = Some(logged),
            (Action::ErasureLevel, _, Some(_)) => self.levels.push(logged),
            _ => {}
        }
    }

    /// Whether nothing of the erasure can come behind, for its shreds are told before its end: then the rest of the log need
    /// not be looked at.
    fn is_all(&self, record: &ErasureRecord) -> bool {
        let levels = [record.f2_at, record.f3_at].iter().flatten().count();
        self.ended.is_some() && self.levels.len() == levels
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The log's signed head, which all proofs of a certificate lead to.
struct Head<'a> {
    log: &'a Log,
    note: String,
    key: String,
    size: u64,
}

impl<'a> Head<'a> {
    fn of(log: &'a Log) -> Result<Self, Error> {
        const DAMAGED: Error = Error::Damaged("the checkpoint of the audit log");
        let note = String::from_utf8(log.checkpoint()?).map_err(|_| DAMAGED)?;
        let size = note.lines().nth(1).and_then(|line| line.parse().ok()).ok_or(DAMAGED)?;
        Ok(Self { log, note, key: log.vkey()?, size })
    }

    fn evidence(&self, (index, bytes): &Logged) -> Result<Evidence, Error> {
        let proof = self.log.inclusion(*index, self.size)?.into_iter().map(Digest).collect();
        let entry = String::from_utf8(bytes.clone()).map_err(|_| Error::Damaged("an entry of the log"))?;
        Ok(Evidence { index: *index, entry, proof })
    }

    fn request(&self, record: &ErasureRecord, ended: &Logged) -> Result<certificate::Request, Error> {
        Ok(certificate::Request {
            reason: record.reason.clone(),
            reference: record.reference.clone().filter(|reference| !reference.is_empty()),
            salt: hex::encode(request_salt(record.salts()?)),
            evidence: self.evidence(ended)?,
        })
    }

    fn certificate(&self, vault: VaultId, record: &ErasureRecord, levels: &[Logged]) -> Result<Certificate, Error> {
        Ok(Certificate {
            certificate: FORMAT.to_owned(),
            statement: STATEMENT.to_owned(),
            vault: vault.to_string(),
            erasure: record.id.to_string(),
            subject: None,
            request: None,
            levels: levels.iter().map(|level| self.evidence(level)).collect::<Result<_, _>>()?,
            checkpoint: self.note.clone(),
            log_key: self.key.clone(),
        })
    }
}
