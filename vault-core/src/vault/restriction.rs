//! Restriction of processing: while it lasts, only the purposes that the schema exempts read a subject or find it.

use serde::{Deserialize, Serialize};

use super::notes::{Note, Noted, Noting, is_line};
use super::subject::Room;
use super::{REASON_MAX, Vault};
use crate::error::Error;
use crate::ids::SubjectId;
use crate::time::Timestamp;

/// That a subject's processing is restricted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restriction {
    /// Since when.
    pub since: Timestamp,
    /// Why, if that was told.
    pub reason: Option<String>,
}

/// The restriction of a subject, while there is one.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Restrictions(pub(super) Option<Restriction>);

impl Note for Restrictions {
    const FIELD: &'static str = "restriction";
    const ROOM: Room = Room::Holds;
}

impl Vault {
    /// Restricts the processing of a subject; answers since when. Restricting it again keeps that time, and takes another
    /// reason if one is given.
    ///
    /// # Errors
    /// [`Error::Invalid`] for too long a reason; [`Error::UnknownSubject`], [`Error::Shredded`].
    pub async fn restrict(&self, id: &SubjectId, reason: Option<&str>) -> Result<Restriction, Error> {
        if reason.is_some_and(|reason| !is_line(reason, REASON_MAX)) {
            return Err(Error::Invalid { field: "reason", expected: "1 to 1,024 bytes of text on one line" });
        }
        let session = self.session()?;
        let restrict = |noting: &mut Noting<'_, Restrictions>| {
            let before = noting.note.0.take();
            let (since, former) = before.map_or((noting.now, None), |before| (before.since, before.reason));
            let changed = !noting.record.restricted || reason.is_some_and(|reason| former.as_deref() != Some(reason));
            let restriction = Restriction { since, reason: reason.map(str::to_owned).or(former) };
            if !changed {
                return Ok(Noted::Before(restriction));
            }
            noting.record.restricted = true;
            noting.note.0 = Some(restriction.clone());
            Ok(Noted::Now(restriction))
        };
        self.inner.change_note(&session, id, &restrict).await
    }

    /// Lifts the restriction of a subject; if there is none, that is no error.
    ///
    /// # Errors
    /// [`Error::UnknownSubject`], [`Error::Shredded`].
    pub async fn unrestrict(&self, id: &SubjectId) -> Result<(), Error> {
        let session = self.session()?;
        let lift = |noting: &mut Noting<'_, Restrictions>| {
            if !noting.record.restricted {
                return Ok(Noted::Before(()));
            }
            noting.record.restricted = false;
            noting.note.0 = None;
            Ok(Noted::Now(()))
        };
        self.inner.change_note(&session, id, &lift).await
    }
}
