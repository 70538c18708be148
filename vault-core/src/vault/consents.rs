//! Consent: a subject gives it for a purpose, in a version of the text agreed to, and withdraws it when it likes.
//!
//! Withdrawal bites at the next read: what decides is in the subject's record, here is the history.

use serde::{Deserialize, Serialize};

use super::notes::{Note, Noted, Noting, is_line};
use super::session::{Snapshot, reading};
use super::subject::Room;
use super::{Inner, Vault, subject};
use crate::codec;
use crate::error::Error;
use crate::ids::{CallerId, Purpose, SubjectId};
use crate::time::Timestamp;

/// The longest version or source of a consent, in bytes.
pub const CONSENT_TEXT_MAX: usize = 256;
/// Consents that are remembered of one subject; older ones that are over make room. One that is in force never does.
pub const CONSENTS_MAX: usize = 64;

const LINE: &str = "1 to 256 bytes of text on one line";

/// A consent, in force or over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// What it is for.
    pub purpose: Purpose,
    /// The version of the text that was agreed to, as the caller names it.
    pub version: String,
    /// Where or how it was given: a form, a call.
    pub source: String,
    /// The caller who noted it.
    pub by: CallerId,
    /// When it was given.
    pub given_at: Timestamp,
    /// When consent to another version of the text took its place.
    pub replaced_at: Option<Timestamp>,
    /// When it was withdrawn.
    pub withdrawn_at: Option<Timestamp>,
    /// Where or how it was withdrawn, if that was told.
    pub withdrawn_source: Option<String>,
}

impl Consent {
    /// Whether it is in force.
    pub fn in_force(&self) -> bool {
        self.withdrawn_at.is_none() && self.replaced_at.is_none()
    }
}

/// The consents of a subject, oldest first.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Consents(pub(super) Vec<Consent>);

impl Note for Consents {
    const FIELD: &'static str = "consents";
    const ROOM: Room = Room::Consents;
}

impl Vault {
    /// The subject's consents, in force and over, oldest first; the newest [`CONSENTS_MAX`] of them.
    ///
    /// # Errors
    /// [`Error::UnknownSubject`] or [`Error::Shredded`].
    pub async fn consents(&self, id: &SubjectId) -> Result<Vec<Consent>, Error> {
        let session = self.session()?;
        reading!(session, |snapshot| self.inner.consents(&snapshot, id).await)
    }

    /// Notes that the subject consents to a purpose, in a version of the text that it agreed to; answers the consent that
    /// is in force. Consent to the same version again changes nothing; to another one takes the place of the former.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a purpose that the schema does not declare, or for texts that do not fit;
    /// [`Error::UnknownSubject`], [`Error::Shredded`].
    pub async fn give_consent(
        &self,
        id: &SubjectId,
        purpose: &Purpose,
        version: &str,
        source: &str,
        by: CallerId,
    ) -> Result<Consent, Error> {
        check_line("version", version)?;
        check_line("source", source)?;
        let session = self.session()?;
        let give = |noting: &mut Noting<'_, Consents>| {
            if noting.schema.purpose(purpose.as_str()).is_none() {
                return Err(Error::Invalid { field: "purpose", expected: "a purpose that the schema declares" });
            }
            if let Some(given) = noting.note.in_force(purpose).filter(|given| given.version == version) {
                return Ok(Noted::Before(given.clone()));
            }
            let consent = Consent {
                purpose: purpose.clone(),
                version: version.to_owned(),
                source: source.to_owned(),
                by,
                given_at: noting.now,
                replaced_at: None,
                withdrawn_at: None,
                withdrawn_source: None,
            };
            noting.note.give(consent.clone());
            if !noting.record.consents.contains(purpose) {
                noting.record.consents.push(purpose.clone());
            }
            Ok(Noted::Now(consent))
        };
        self.inner.change_note(&session, id, &give).await
    }

    /// Notes that the subject withdraws its consent to a purpose: reads for it are refused from here on. Withdrawing what
    /// is not given changes nothing and is no error.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a source that does not fit; [`Error::UnknownSubject`], [`Error::Shredded`].
    pub async fn withdraw_consent(&self, id: &SubjectId, purpose: &Purpose, source: Option<&str>) -> Result<(), Error> {
        source.map_or(Ok(()), |source| check_line("source", source))?;
        let session = self.session()?;
        let withdraw = |noting: &mut Noting<'_, Consents>| {
            let Some(given) = noting.note.in_force(purpose) else { return Ok(Noted::Before(())) };
            given.withdrawn_at = Some(noting.now);
            given.withdrawn_source = source.map(str::to_owned);
            noting.note.bound();
            noting.record.consents.retain(|consented| consented != purpose);
            Ok(Noted::Now(()))
        };
        self.inner.change_note(&session, id, &withdraw).await
    }
}

impl Inner {
    async fn consents(&self, snapshot: &Snapshot, id: &SubjectId) -> Result<Vec<Consent>, Error> {
        let found = subject::find(self, &snapshot.header, id).await?;
        let record = found.living(self.options.tombstone_seconds)?;
        Ok(self.note::<Consents>(&record).await?.0)
    }
}

impl Consents {
    fn in_force(&mut self, purpose: &Purpose) -> Option<&mut Consent> {
        self.0.iter_mut().find(|given| given.purpose == *purpose && given.in_force())
    }

    fn give(&mut self, consent: Consent) {
        if let Some(former) = self.in_force(&consent.purpose) {
            former.replaced_at = Some(consent.given_at);
        }
        self.0.push(consent);
        self.bound();
    }

    /// Drops the oldest that are over, until what is left is few enough and fits into a record.
    fn bound(&mut self) {
        while self.0.len() > CONSENTS_MAX || codec::encode_record(self).is_err() {
            let Some(over) = self.0.iter().position(|given| !given.in_force()) else { return };
            self.0.remove(over);
        }
    }
}

fn check_line(field: &'static str, text: &str) -> Result<(), Error> {
    if is_line(text, CONSENT_TEXT_MAX) { Ok(()) } else { Err(Error::Invalid { field, expected: LINE }) }
}
