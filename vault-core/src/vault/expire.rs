//! Tombstones that have had their time: taken out of the directory, so that the id is unknown again.
//!
//! An index by time leads to them, so that nothing has to be scanned: `tag ‖ time (u64, ms) ‖ first half of the subject's
//! tag`, with the subject's tag as its payload.

use super::Inner;
use super::records::DirectoryEntry;
use super::session::{Session, reading};
use super::subject;
use super::writer::Write;
use crate::crypto::tag::Tag;
use crate::error::Error;
use crate::time::Timestamp;
use crate::trie::{self, EntryKey, Header, Kind, Op, Payload};

/// Tombstones that one root batch takes out.
const SWEEP_MAX: usize = 500;

/// The edit that puts a tombstone into the index.
pub(crate) fn index(header: &Header, directory: &EntryKey, at: Timestamp) -> (Kind, EntryKey, Op) {
    let tag = subject::tag_of(directory);
    (Kind::System, index_key(header, at, &tag), Op::Insert(Payload::new(tag.to_vec())))
}

fn index_key(header: &Header, at: Timestamp, tag: &Tag) -> EntryKey {
    let mut discriminator = [0; 16];
    discriminator[..8].copy_from_slice(&at.0.to_be_bytes());
    discriminator[8..].copy_from_slice(&tag[..8]);
    header.entry_key(Kind::System, "tombstones", "", b"", discriminator)
}

/// Writes that take out what has expired, one for each tombstone. For a root batch.
pub(crate) async fn sweep(inner: &Inner, session: &Session) -> Result<Vec<Write>, Error> {
    reading!(session, |snapshot| sweep_from(inner, &snapshot.header).await)
}

async fn sweep_from(inner: &Inner, header: &Header) -> Result<Vec<Write>, Error> {
    let prefix = &index_key(header, Timestamp(0), &[0; 16])[..16];
    let now = Timestamp::now();
    let mut writes = Vec::new();
    for (key, payload) in trie::scan(&inner.pages, header, Kind::System, prefix, None, SWEEP_MAX).await? {
        let at = Timestamp(u64::from_be_bytes(key[16..24].try_into().expect("8 bytes of a key")));
        if at.plus_seconds(inner.options.tombstone_seconds) > now {
            // Oldest first: the rest has time yet.
            break;
        }
        writes.push(take_out(inner, header, key, &payload, at).await?);
    }
    Ok(writes)
}

async fn take_out(inner: &Inner, header: &Header, index: EntryKey, tag: &[u8], at: Timestamp) -> Result<Write, Error> {
    const DAMAGED: Error = Error::Damaged("an entry of the tombstone index does not decode");
    let mut directory: EntryKey = [0; 32];
    directory[..16].copy_from_slice(tag.get(..16).ok_or(DAMAGED)?);
    let found = subject::find_by_key(inner, header, directory).await?;
    let mut write = Write { guards: vec![found.guard()], reclaim: true, ..Write::default() };
    write.edits.push((Kind::System, index, Op::Remove));
    // The id may have been enrolled again, or even shredded again, since.
    if let Some(DirectoryEntry::Tombstone(tombstone)) = found.entry
        && tombstone.at == at
    {
        write.edits.push((Kind::Directory, directory, Op::Remove));
        write.delta.tombstones = -1;
    }
    Ok(write)
}
