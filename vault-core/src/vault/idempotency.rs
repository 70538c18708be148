//! Requests that are done once, however often they are sent: a caller names such a request by a key of its own.
//!
//! What the request did and the record of it are committed together, so that one that failed is not remembered and may
//! be sent again. A record holds no body and no key; its digest covers both, so that nobody who does not know the key can
//! try bodies against it. It expires, and is then taken out like everything that does.

#[cfg(test)]
mod tests;

use tokio::sync::{Mutex, MutexGuard};
use zeroize::Zeroizing;

use super::Inner;
use super::expire::Expiring;
use super::records::{IdempotencyRecord, decode, encode};
use super::session::{Session, reading};
use super::writer::{Guard, Write};
use crate::crypto::tag::Tag;
use crate::crypto::{digest, equal, put_lp};
use crate::error::Error;
use crate::ids::{CallerId, IdempotencyKey};
use crate::time::Timestamp;
use crate::trie::{self, EntryKey, Header, Kind, Op};

/// Requests with keys that can be under way at once.
const LANES: usize = 16;

/// A request that is to be done once.
pub struct Idempotency<'a> {
    /// Who sends it; each caller has keys of its own.
    pub caller: CallerId,
    /// What the caller names it by.
    pub key: IdempotencyKey,
    /// What is asked for.
    pub path: &'static str,
    /// The request itself.
    pub body: &'a [u8],
    /// What it is answered with, for whoever sends it again.
    pub status: u16,
}

/// What a request made, or what it had made when it was sent before.
#[derive(Clone, Debug)]
pub struct Made<T> {
    /// The thing, as it is now.
    pub made: T,
    /// If the request was done before: what it was answered with.
    pub repeated: Option<u16>,
}

impl<T> Made<T> {
    /// Made by this request.
    pub(super) fn now(made: T) -> Self {
        Self { made, repeated: None }
    }
}

/// Lets one request with a certain key through at a time.
#[derive(Default)]
pub(crate) struct UnderWay([Mutex<()>; LANES]);

/// How a request begins.
pub(crate) enum Begun<'a> {
    /// Nothing is known of it: it is done, with the claim in the commit that completes it, if it has a key.
    First(Option<Claim<'a>>),
    /// It was done.
    Done(IdempotencyRecord),
}

/// The right to do a request, for as long as this is held.
pub(crate) struct Claim<'a> {
    key: EntryKey,
    digest: Tag,
    status: u16,
    /// The expired record in its place.
    seen: Option<[u8; 32]>,
    _lane: MutexGuard<'a, ()>,
}

impl Inner {
    /// Begins a request. One with a key waits for those with the same key that are under way.
    ///
    /// # Errors
    /// [`Error::IdempotencyMismatch`] if the key belongs to another request.
    pub(super) async fn begin(&self, session: &Session, request: Option<&Idempotency<'_>>) -> Result<Begun<'_>, Error> {
        let Some(request) = request else { return Ok(Begun::First(None)) };
        let header = session.snapshot().header.clone();
        let (key, own) = (request.entry_key(&header), request.digest(&header));
        let lane = self.under_way.0[usize::from(key[0]) % LANES].lock().await;
        let found = reading!(session, |snapshot| {
            trie::find(&self.pages, &snapshot.header, Kind::System, &key).await.map_err(Error::from)
        })?;
        let seen = found.as_deref().map(|payload| digest(payload));
        let record = found.map(|payload| decode::<IdempotencyRecord>(&payload)).transpose()?;
        match record {
            Some(record) if record.at.plus_seconds(self.options.idempotency_seconds) > Timestamp::settled() => {
                if equal(&record.digest, &own) { Ok(Begun::Done(record)) } else { Err(Error::IdempotencyMismatch) }
            }
            _ => Ok(Begun::First(Some(Claim { key, digest: own, status: request.status, seen, _lane: lane }))),
        }
    }
}

impl Claim<'_> {
    /// Has the write that completes the request record that it made `resource`.
    pub(crate) fn note(&self, header: &Header, resource: [u8; 16], write: &mut Write) -> Result<(), Error> {
        let record = IdempotencyRecord { at: Timestamp::now(), digest: self.digest, resource, status: self.status };
        // Should something else write here all the same, one of the two is not committed.
        write.guards.push(Guard::Entry { kind: Kind::System, key: self.key, seen: self.seen });
        write.edits.push((Kind::System, self.key, Op::Insert(encode(&record)?)));
        write.edits.push(Expiring::Idempotency.index(header, &self.key, record.at));
        Ok(())
    }
}

impl Idempotency<'_> {
    fn entry_key(&self, header: &Header) -> EntryKey {
        // A caller's id is of one length, so the two can not run together.
        let named = [&self.caller.0, self.key.as_str().as_bytes()].concat();
        header.entry_key(Kind::System, "idempotency", "", &named, [0; 16])
    }

    /// `tag("idempotency-request", path, LP(key) ‖ body)` under the tag key of the system's subtree.
    fn digest(&self, header: &Header) -> Tag {
        let key = self.key.as_str().as_bytes();
        let mut message = Zeroizing::new(Vec::with_capacity(4 + key.len() + self.body.len()));
        put_lp(&mut message, key);
        message.extend_from_slice(self.body);
        header.tag_key(Kind::System).tag("idempotency-request", self.path, &message)
    }
}

/// For a write of one commit that has no other guard: whether it was made.
pub(super) fn made(committed: &[bool]) -> Result<(), Error> {
    match committed {
        [true] => Ok(()),
        _ => Err(Error::Conflict("a request with this idempotency key is under way: send it again")),
    }
}
