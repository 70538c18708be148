//! The keys of erasures go when their tombstones do: then nobody can ask any more whether an id was among them.
//!
//! An index by time leads to them: `tag ‖ time (u64, ms) ‖ first half of the id`, with the id as its payload.

use super::erase;
use crate::error::Error;
use crate::ids::ErasureId;
use crate::time::Timestamp;
use crate::trie::{EntryKey, Header, Kind, Op, Payload};
use crate::vault::records::encode;
use crate::vault::session::{Session, reading};
use crate::vault::writer::Write;
use crate::vault::{Inner, expire};

/// Keys that one root batch takes out.
const SWEEP_MAX: usize = 100;

/// The edit that puts an erasure that is final since `at` into the index.
pub(super) fn expiring(header: &Header, id: ErasureId, at: Timestamp) -> (Kind, EntryKey, Op) {
    (Kind::System, index_key(header, at, id), Op::Insert(Payload::new(id.0.to_vec())))
}

/// Writes that take out keys whose time is over, one for each erasure. For a root batch.
pub(crate) async fn sweep(inner: &Inner, session: &Session) -> Result<Vec<Write>, Error> {
    reading!(session, |snapshot| sweep_from(inner, &snapshot.header).await)
}

async fn sweep_from(inner: &Inner, header: &Header) -> Result<Vec<Write>, Error> {
    const DAMAGED: Error = Error::Damaged("an entry of the index of erasures by time");
    let prefix = &index_key(header, Timestamp(0), ErasureId([0; 16]))[..16];
    let mut writes = Vec::new();
    for (index, payload, _) in expire::due(inner, header, prefix, inner.options.tombstone_seconds, SWEEP_MAX).await? {
        let id = ErasureId(payload[..].try_into().map_err(|_| DAMAGED)?);
        let (mut record, guard) = erase::find_guarded(inner, header, id).await?;
        record.key = None;
        let (kind, key, _) = erase::note(header, &record)?;
        let edits = vec![(Kind::System, index, Op::Remove), (kind, key, Op::Replace(encode(&record)?))];
        writes.push(Write { guards: vec![guard], edits, reclaim: true, ..Write::default() });
    }
    Ok(writes)
}

fn index_key(header: &Header, at: Timestamp, id: ErasureId) -> EntryKey {
    let mut discriminator = [0; 16];
    discriminator[..8].copy_from_slice(&at.0.to_be_bytes());
    // The second half of an id is random; the first is its time.
    discriminator[8..].copy_from_slice(&id.0[8..]);
    header.entry_key(Kind::System, "erasure-key-times", "", b"", discriminator)
}
