//! What has had its time: tombstones, so that the id is unknown again; records of requests that were done once; value
//! tokens.
//!
//! An index by time leads to them, so that nothing has to be scanned: `tag ‖ time (u64, ms) ‖ first half of the entry's
//! tag`, with the entry's tag as its payload.

use super::records::{DirectoryEntry, IdempotencyRecord, TokenRecord, decode};
use super::session::{Session, reading};
use super::types::VaultOptions;
use super::writer::{Guard, Write};
use super::{Inner, subject, tokens};
use crate::crypto::digest;
use crate::error::Error;
use crate::time::Timestamp;
use crate::trie::{self, EntryKey, Header, Kind, Op, Payload};

/// Entries of one sort that one root batch takes out.
pub(crate) const SWEEP_MAX: usize = 500;

/// The sorts of entries that expire. Their keys are a tag and sixteen zeros.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiring {
    Tombstone,
    Idempotency,
    Token,
}

impl Expiring {
    /// The edit that puts an entry of this sort into the index, to be taken out when its time since `at` is over.
    pub(crate) fn index(self, header: &Header, entry: &EntryKey, at: Timestamp) -> (Kind, EntryKey, Op) {
        let tag = &entry[..16];
        (Kind::System, self.index_key(header, at, tag), Op::Insert(Payload::new(tag.to_vec())))
    }

    /// The edit that takes it out of the index.
    pub(crate) fn unindex(self, header: &Header, entry: &EntryKey, at: Timestamp) -> (Kind, EntryKey, Op) {
        (Kind::System, self.index_key(header, at, &entry[..16]), Op::Remove)
    }

    fn index_key(self, header: &Header, at: Timestamp, tag: &[u8]) -> EntryKey {
        let name = match self {
            Self::Tombstone => "tombstones",
            Self::Idempotency => "idempotency-times",
            Self::Token => "token-times",
        };
        let mut discriminator = [0; 16];
        discriminator[..8].copy_from_slice(&at.0.to_be_bytes());
        discriminator[8..].copy_from_slice(&tag[..8]);
        header.entry_key(Kind::System, name, "", b"", discriminator)
    }

    fn seconds(self, options: &VaultOptions) -> u64 {
        match self {
            Self::Tombstone => options.tombstone_seconds,
            Self::Idempotency => options.idempotency_seconds,
            // Indexed by the time of its end.
            Self::Token => 0,
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Tombstone => Kind::Directory,
            Self::Idempotency => Kind::System,
            Self::Token => Kind::Tokens,
        }
    }

    /// Since when an entry waits to be taken out; never, if it is something else by now.
    fn since(self, payload: &[u8]) -> Result<Option<Timestamp>, Error> {
        Ok(match self {
            Self::Tombstone => match decode(payload)? {
                DirectoryEntry::Tombstone(tombstone) => Some(tombstone.at),
                DirectoryEntry::Subject(_) => None,
            },
            Self::Idempotency => Some(decode::<IdempotencyRecord>(payload)?.at),
            Self::Token => decode::<TokenRecord>(payload)?.expires_at,
        })
    }
}

/// Writes that take out what has expired, one for each entry. For a root batch.
pub(crate) async fn sweep(inner: &Inner, session: &Session) -> Result<Vec<Write>, Error> {
    let mut writes = Vec::new();
    for sort in [Expiring::Tombstone, Expiring::Idempotency, Expiring::Token] {
        writes.extend(reading!(session, |snapshot| sweep_from(inner, &snapshot.header, sort).await)?);
    }
    Ok(writes)
}

async fn sweep_from(inner: &Inner, header: &Header, sort: Expiring) -> Result<Vec<Write>, Error> {
    let prefix = &sort.index_key(header, Timestamp(0), &[0; 16])[..16];
    let mut writes = Vec::new();
    for (key, payload, at) in due(inner, header, prefix, sort.seconds(&inner.options), SWEEP_MAX).await? {
        writes.push(take_out(inner, header, sort, key, &payload, at).await?);
    }
    Ok(writes)
}

/// The oldest entries of an index by time, `tag ‖ time ‖ …`, that are at least as many seconds old, with their times.
pub(super) async fn due(
    inner: &Inner,
    header: &Header,
    tag: &[u8],
    seconds: u64,
    most: usize,
) -> Result<Vec<(EntryKey, Payload, Timestamp)>, Error> {
    let now = Timestamp::settled();
    let listed_at = |key: &EntryKey| Timestamp(u64::from_be_bytes(key[16..24].try_into().expect("8 bytes of a key")));
    let is_over = |key: &EntryKey| listed_at(key).plus_seconds(seconds) <= now;
    let mut found = trie::scan(&inner.pages, header, Kind::System, tag, None, 1).await?;
    // Nothing is due in most cases, which the oldest one shows: the others are not looked at then.
    if let Some((oldest, _)) = found.first().filter(|(key, _)| is_over(key)) {
        let after = *oldest;
        found.extend(trie::scan(&inner.pages, header, Kind::System, tag, Some(&after), most - 1).await?);
    }
    let due = found.into_iter().take_while(|(key, _)| is_over(key));
    Ok(due.map(|(key, payload)| (key, payload, listed_at(&key))).collect())
}

async fn take_out(
    inner: &Inner,
    header: &Header,
    sort: Expiring,
    index: EntryKey,
    tag: &[u8],
    at: Timestamp,
) -> Result<Write, Error> {
    const DAMAGED: Error = Error::Damaged("an entry of the index by time does not decode");
    let (kind, mut key): (Kind, EntryKey) = (sort.kind(), [0; 32]);
    key[..16].copy_from_slice(tag.get(..16).ok_or(DAMAGED)?);
    let payload = trie::find(&inner.pages, header, kind, &key).await?;
    let guard = Guard::Entry { kind, key, seen: payload.as_deref().map(|p| digest(p)) };
    let mut write = Write { guards: vec![guard], reclaim: true, ..Write::default() };
    write.edits.push((Kind::System, index, Op::Remove));
    // The key may have been used again since: the id enrolled or shredded anew, the request sent anew.
    let Some(payload) = payload else { return Ok(write) };
    if sort.since(&payload)? == Some(at) {
        write.edits.push((kind, key, Op::Remove));
        write.delta.tombstones -= i64::from(sort == Expiring::Tombstone);
        if sort == Expiring::Token {
            write.edits.extend(tokens::removal(header, subject::tag_of(&key), &decode(&payload)?));
        }
    }
    Ok(write)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::vault::tests::Fixture;

    #[tokio::test]
    async fn what_is_due_is_found_oldest_first_up_to_a_limit() {
        let fixture = Fixture::new().await;
        let session = fixture.vault.session().unwrap();
        let listed =
            |entry: u8, at: u64| Expiring::Tombstone.index(&session.snapshot().header, &[entry; 32], Timestamp(at));
        let far = Timestamp::now().0 - 1000;
        let edits = vec![listed(1, 5000), listed(2, 5000), listed(3, 4000), listed(4, far)];
        assert_eq!(session.commit(vec![Write { edits, ..Write::default() }]).await.unwrap(), [true]);
        let header = session.snapshot().header.clone();
        let (_, key, _) = listed(0, 0);
        let (inner, tag) = (&fixture.vault.inner, &key[..16]);
        for (most, expected) in [(1, vec![4000]), (2, vec![4000, 5000]), (3, vec![4000, 5000, 5000])] {
            for most in if most == 3 { most..6 } else { most..most + 1 } {
                let found = due(inner, &header, tag, 10, most).await.unwrap();
                assert_eq!(found.iter().map(|(.., at)| at.0).collect::<Vec<_>>(), expected, "{most}");
            }
        }
        // Nothing is, if the oldest is not.
        assert_eq!(due(inner, &header, tag, 100 * 365 * 24 * 3600, 6).await.unwrap(), []);
    }
}
