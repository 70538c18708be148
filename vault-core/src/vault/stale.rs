//! Lookup entries that a changed or removed value left behind.
//!
//! An ordinary write must not wait for a root slot, so it leaves the old lookup entry where it is, lists it as no longer
//! live, and marks the subject. Lookups pass over such an entry; the next root batch removes it with its mark. A shred
//! removes all that is listed, live or not. A subject that is released from its last hold is marked in the same way.

use super::records::{DirectoryEntry, SubjectState, decode, encode};
use super::session::{Session, reading};
use super::subject;
use super::writer::{Guard, Write};
use super::{Inner, holds};
use crate::crypto::digest;
use crate::error::Error;
use crate::trie::{self, EntryKey, Header, Kind, Op, Payload};

/// Marks that one root batch clears.
const SWEEP_MAX: usize = 500;

/// The edit that marks a subject, whose directory entry has the key `directory`.
pub(crate) fn mark(header: &Header, directory: &EntryKey) -> (Kind, EntryKey, Op) {
    (Kind::System, mark_key(header, subject::tag_of(directory)), Op::Insert(Payload::default()))
}

/// The edit that takes the mark away.
pub(crate) fn unmark(header: &Header, directory: &EntryKey) -> (Kind, EntryKey, Op) {
    (Kind::System, mark_key(header, subject::tag_of(directory)), Op::Remove)
}

fn mark_key(header: &Header, subject: [u8; 16]) -> EntryKey {
    header.entry_key(Kind::System, "stale", "", b"", subject)
}

/// Writes that remove what marked subjects left behind, one for each subject. For a root batch.
pub(crate) async fn sweep(inner: &Inner, session: &Session) -> Result<Vec<Write>, Error> {
    reading!(session, |snapshot| sweep_from(inner, &snapshot.header).await)
}

async fn sweep_from(inner: &Inner, header: &Header) -> Result<Vec<Write>, Error> {
    let prefix = &mark_key(header, [0; 16])[..16];
    let marks = trie::scan(&inner.pages, header, Kind::System, prefix, None, SWEEP_MAX).await?;
    let mut writes = Vec::with_capacity(marks.len());
    for (mark, _) in marks {
        writes.extend(clear(inner, header, mark, subject::directory_behind(&mark)).await?);
    }
    Ok(writes)
}

async fn clear(inner: &Inner, header: &Header, mark: EntryKey, directory: EntryKey) -> Result<Option<Write>, Error> {
    let payload = trie::find(&inner.pages, header, Kind::Directory, &directory).await?;
    let mut write = Write { reclaim: true, ..Write::default() };
    write.guards.push(Guard::Entry {
        kind: Kind::Directory,
        key: directory,
        seen: payload.as_deref().map(|p| digest(p)),
    });
    write.edits.push((Kind::System, mark, Op::Remove));
    let entry = payload.map(|p| decode::<DirectoryEntry>(&p)).transpose()?;
    let Some(DirectoryEntry::Subject(mut record)) = entry else { return Ok(Some(write)) };
    if record.state != SubjectState::Active {
        // Its shred is under way and takes everything with it.
        return Ok(None);
    }
    record.forget_lookups(header, &directory, |l| !l.live, &mut write);
    if record.holds.is_empty() {
        write.edits.push(holds::unindex(header, &directory));
    }
    write.edits.push((Kind::Directory, directory, Op::Replace(encode(&DirectoryEntry::Subject(record))?)));
    Ok(Some(write))
}
