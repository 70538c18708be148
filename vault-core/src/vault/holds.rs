//! Legal holds: while a subject has one, nothing of it is shredded or finally forgotten.
//!
//! An index leads to the held subjects. Who is released stays in it until the next root batch and is passed over, for an
//! ordinary request must not wait for a root slot.

use serde::{Deserialize, Serialize};

use super::notes::{Note, Noted, Noting, is_line};
use super::records::{DirectoryEntry, SubjectState};
use super::session::{Snapshot, reading};
use super::subject::Room;
use super::{Inner, REASON_MAX, Vault, stale, subject};
use crate::audit::trail;
use crate::error::Error;
use crate::ids::{CallerId, HoldName, SubjectId};
use crate::time::Timestamp;
use crate::trie::{self, EntryKey, Header, Kind, Op, Payload};

/// The most holds that one subject may have.
pub const HOLDS_MAX: usize = 16;

/// A reason not to shred yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Its name, for example that of a case.
    pub name: HoldName,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// The caller who gave the reason.
    pub by: CallerId,
}

/// A subject and its holds.
#[derive(Clone, Debug)]
pub struct HeldSubject {
    /// Which.
    pub subject: SubjectId,
    /// At least one.
    pub holds: Vec<Hold>,
}

/// The holds of a subject, oldest first.
#[derive(Default, Serialize, Deserialize)]
pub(super) struct Holds(pub(super) Vec<Hold>);

impl Note for Holds {
    const FIELD: &'static str = "holds";
    const ROOM: Room = Room::Holds;
}

impl Vault {
    /// Puts a subject under a hold. A hold that it has keeps its time, and takes the new reason.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a reason that does not fit, [`Error::Conflict`] if the subject has [`HOLDS_MAX`] others;
    /// [`Error::UnknownSubject`]; [`Error::Shredded`] also if its shred is refused and not final yet: that cannot be
    /// stopped any more.
    pub async fn add_hold(&self, id: &SubjectId, name: &HoldName, reason: &str, by: CallerId) -> Result<Hold, Error> {
        if !is_line(reason, REASON_MAX) {
            return Err(Error::Invalid { field: "reason", expected: "1 to 1,024 bytes of text on one line" });
        }
        let session = self.session()?;
        let add = |noting: &mut Noting<'_, Holds>| {
            if let Some(hold) = noting.note.0.iter_mut().find(|hold| hold.name == *name) {
                if hold.reason == reason {
                    return Ok(Noted::Before(hold.clone()));
                }
                (hold.reason, hold.by) = (reason.to_owned(), by);
                return Ok(Noted::Now(hold.clone()));
            }
            if noting.record.holds.len() >= HOLDS_MAX {
                return Err(Error::Conflict(
                    "the subject has 16 legal holds, the most there may be: release one first",
                ));
            }
            if noting.record.holds.is_empty() {
                noting.edits.push(index(noting.header, &noting.key));
            }
            let hold = Hold { name: name.clone(), reason: reason.to_owned(), since: noting.now, by };
            noting.record.holds.push(name.clone());
            noting.note.0.push(hold.clone());
            Ok(Noted::Now(hold))
        };
        self.inner.change_note(&session, id, &add).await
    }

    /// Releases a subject from a hold.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it has no such hold; [`Error::UnknownSubject`], [`Error::Shredded`].
    pub async fn release_hold(&self, id: &SubjectId, name: &HoldName) -> Result<(), Error> {
        let session = self.session()?;
        let release = |noting: &mut Noting<'_, Holds>| {
            if !noting.record.holds.contains(name) {
                return Err(Error::NotFound("hold"));
            }
            noting.record.holds.retain(|held| held != name);
            noting.note.0.retain(|hold| hold.name != *name);
            if noting.record.holds.is_empty() {
                noting.edits.push(stale::mark(noting.header, &noting.key));
            }
            Ok(Noted::Now(()))
        };
        self.inner.change_note(&session, id, &release).await?;
        // An erasure may have waited for that.
        session.open.changed.notify_one();
        Ok(())
    }

    /// The subjects under a hold, in pages, in no order that means anything. A page may have fewer than `limit`, even none,
    /// before the last.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `after` is not the `next` of an earlier page.
    pub async fn held(&self, after: Option<&str>, limit: usize) -> Result<(Vec<HeldSubject>, Option<String>), Error> {
        let session = self.session()?;
        let after = after.map(subject::parse_after).transpose()?;
        let limit = limit.clamp(1, 1000);
        reading!(session, |snapshot| self.inner.held(&snapshot, after, limit).await)
    }
}

impl Inner {
    async fn held(
        &self,
        snapshot: &Snapshot,
        after: Option<[u8; 16]>,
        limit: usize,
    ) -> Result<(Vec<HeldSubject>, Option<String>), Error> {
        let header = &*snapshot.header;
        let prefix = &index_key(header, [0; 16])[..16];
        let after = after.map(|subject| index_key(header, subject));
        let entries = trie::scan(&self.pages, header, Kind::System, prefix, after.as_ref(), limit).await?;
        let next = (entries.len() == limit).then(|| entries.last().map(|(key, _)| hex::encode(&key[16..]))).flatten();
        let mut held = Vec::with_capacity(entries.len());
        for (entry, _) in entries {
            let found = subject::find_by_key(self, header, subject::directory_behind(&entry)).await?;
            if let Some(DirectoryEntry::Subject(record)) = found.entry
                && record.state == SubjectState::Active
                && !record.holds.is_empty()
            {
                trail::found(trail::name(&record.audit_key), []);
                let holds = self.note::<Holds>(&record).await?.0;
                held.push(HeldSubject { subject: SubjectId::parse(&record.subject)?, holds });
            }
        }
        Ok((held, next))
    }
}

fn index(header: &Header, directory: &EntryKey) -> (Kind, EntryKey, Op) {
    (Kind::System, index_key(header, subject::tag_of(directory)), Op::Insert(Payload::default()))
}

/// The edit that takes a subject out of the index of held ones, if it is in it.
pub(super) fn unindex(header: &Header, directory: &EntryKey) -> (Kind, EntryKey, Op) {
    (Kind::System, index_key(header, subject::tag_of(directory)), Op::Remove)
}

fn index_key(header: &Header, subject: [u8; 16]) -> EntryKey {
    header.entry_key(Kind::System, "holds", "", b"", subject)
}
