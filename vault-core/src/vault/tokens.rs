//! Value tokens: random stand-ins for a subject's fields. They live in the sealed trie and die with the subject.
//!
//! | room | what |
//! |---|---|
//! | here | where a token's entries lie, revoking, and how they are removed |
//! | `create` | making them |
//! | `resolve` | from a token to the field's present value |
//! | `shape` | what they look like |
//!
//! A token has two entries: `tag("token", "", token)` tells what it stands for; `tag("tokens-of", "", uuid) ‖ token tag`
//! lists it with its subject's, so that a shred finds it. With an end it is also in the index by time (`expire`), and once
//! it is spent it has a mark for the next root batch. All of them go together.

mod create;
mod resolve;
mod shape;
#[cfg(test)]
mod tests;

pub use create::{CreatedToken, NewToken};
pub use resolve::{ResolveItem, Resolved};
pub use shape::TokenShape;

use std::collections::BTreeSet;

use super::expire::{Expiring, SWEEP_MAX};
use super::records::{SubjectRecord, TokenOf, TokenRecord, decode, encode};
use super::session::{Session, reading};
use super::writer::{Guard, Write};
use super::{Inner, Vault};
use crate::audit::trail;
use crate::crypto::digest;
use crate::crypto::tag::Tag;
use crate::error::Error;
use crate::ids::{CallerId, Compartment, FieldName, SubjectUuid};
use crate::policy::Role;
use crate::time::Timestamp;
use crate::trie::{self, EntryKey, Header, Kind, Op, Payload};

/// Tokens that one root batch removes with the subjects it shreds. A subject with more is shredded in several rounds, its
/// tokens first.
pub(super) const FORGET_MAX: usize = 1000;
/// Entries of a subject's list that are read at once.
const PAGE: usize = 1000;
/// The longest text that is looked up as a token, in bytes.
const TOKEN_MAX: usize = 128;

/// All that is told of a token that does not resolve, whatever the reason.
const UNKNOWN: Error = Error::NotFound("value token");

impl Vault {
    /// Revokes a token: it resolves no more once this returns, and the next root batch forgets it. One that is bound to a
    /// caller is revoked by that caller, or by an admin.
    ///
    /// # Errors
    /// [`Error::NotFound`] if it would not resolve for this caller anyway.
    pub async fn revoke_token(&self, token: &str, role: Role, caller: CallerId) -> Result<(), Error> {
        let session = self.session()?;
        let may = |found: &FoundToken| role == Role::Admin || found.record.caller.is_none_or(|bound| bound == caller);
        let write = reading!(session, |snapshot| self.inner.revoking(&snapshot.header, token, &may).await)?;
        // Somebody else revoked or used it up at the same time.
        if session.commit(vec![write]).await? == [true] { Ok(()) } else { Err(UNKNOWN) }
    }
}

/// A token as it was found.
struct FoundToken {
    tag: Tag,
    record: TokenRecord,
    seen: [u8; 32],
}

impl FoundToken {
    /// The write that uses it up. Of two that were prepared from the same state one is committed.
    fn spend(&self, header: &Header) -> Result<Write, Error> {
        let key = entry_key(self.tag);
        let guard = Guard::Entry { kind: Kind::Tokens, key, seen: Some(self.seen) };
        let mut write = Write { guards: vec![guard], reclaim: true, ..Write::default() };
        let spent = TokenRecord { spent: true, ..self.record.clone() };
        write.edits.push((Kind::Tokens, key, Op::Insert(encode(&spent)?)));
        write.edits.push((Kind::System, mark_key(header, self.tag), Op::Insert(Payload::default())));
        Ok(write)
    }
}

impl Inner {
    /// The write that revokes a token.
    async fn revoking(
        &self,
        header: &Header,
        token: &str,
        may: &(dyn Fn(&FoundToken) -> bool + Sync),
    ) -> Result<Write, Error> {
        let found = self.living_token(header, token).await?.filter(may).ok_or(UNKNOWN)?;
        if let Some(record) = self.subject_of(header, &found.record).await? {
            trail::subject(&record.audit_key);
            trail::fields([&found.record.field]);
        }
        found.spend(header)
    }

    /// A token that is neither spent nor past its end.
    async fn living_token(&self, header: &Header, token: &str) -> Result<Option<FoundToken>, Error> {
        if token.len() > TOKEN_MAX {
            return Ok(None);
        }
        let tag = token_tag(header, token);
        let Some(payload) = trie::find(&self.pages, header, Kind::Tokens, &entry_key(tag)).await? else {
            return Ok(None);
        };
        let record: TokenRecord = decode(&payload)?;
        let over = record.spent || record.expires_at.is_some_and(|at| at <= Timestamp::now());
        Ok((!over).then(|| FoundToken { tag, record, seen: digest(&payload) }))
    }
}

fn token_tag(header: &Header, token: &str) -> Tag {
    header.tag_key(Kind::Tokens).tag("token", "", token.as_bytes())
}

fn entry_key(tag: Tag) -> EntryKey {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&tag);
    key
}

fn list_key(header: &Header, uuid: SubjectUuid, tag: Tag) -> EntryKey {
    header.entry_key(Kind::Tokens, "tokens-of", "", &uuid.0, tag)
}

fn mark_key(header: &Header, tag: Tag) -> EntryKey {
    header.entry_key(Kind::System, "spent-tokens", "", b"", tag)
}

/// Whether an entry's key is that of a token, and not one of a subject's list.
pub(super) fn is_token(key: &EntryKey) -> bool {
    key[16..] == [0; 16]
}

/// The edits that take a token out, with all that goes with it. For a root batch.
pub(super) fn removal(header: &Header, tag: Tag, record: &TokenRecord) -> Vec<(Kind, EntryKey, Op)> {
    let key = entry_key(tag);
    let mut edits =
        vec![(Kind::Tokens, key, Op::Remove), (Kind::Tokens, list_key(header, record.uuid, tag), Op::Remove)];
    edits.extend(record.expires_at.map(|at| Expiring::Token.unindex(header, &key, at)));
    edits.extend(record.spent.then(|| (Kind::System, mark_key(header, tag), Op::Remove)));
    edits
}

/// The write that takes out what was used up or revoked; none if nothing was. For a root batch.
pub(super) async fn sweep(inner: &Inner, session: &Session) -> Result<Option<Write>, Error> {
    reading!(session, |snapshot| sweep_from(inner, &snapshot.header).await)
}

async fn sweep_from(inner: &Inner, header: &Header) -> Result<Option<Write>, Error> {
    let prefix = &mark_key(header, [0; 16])[..16];
    let marks = trie::scan(&inner.pages, header, Kind::System, prefix, None, SWEEP_MAX).await?;
    // Without a guard: what is spent changes no more, and is removed by root batches only, one at a time.
    let mut write = Write { reclaim: true, ..Write::default() };
    for (mark, _) in &marks {
        write.edits.push((Kind::System, *mark, Op::Remove));
        let tag: Tag = mark[16..].try_into().expect("an entry key has 32 bytes");
        if let Some(payload) = trie::find(&inner.pages, header, Kind::Tokens, &entry_key(tag)).await? {
            write.edits.extend(removal(header, tag, &decode(&payload)?));
        }
    }
    Ok((!marks.is_empty()).then_some(write))
}

/// Puts the removal of a subject's tokens into a write for a root batch, of as many as there is `room` for. Answers
/// whether these are all that it has.
pub(super) async fn forget_all(
    inner: &Inner,
    header: &Header,
    record: &SubjectRecord,
    room: &mut usize,
    write: &mut Write,
) -> Result<bool, Error> {
    forget(inner, header, record, room, write, |_| true).await
}

/// The same for the tokens of the fields of these compartments.
pub(super) async fn forget_in(
    inner: &Inner,
    header: &Header,
    record: &SubjectRecord,
    compartments: &BTreeSet<&Compartment>,
    room: &mut usize,
    write: &mut Write,
) -> Result<bool, Error> {
    forget(inner, header, record, room, write, |of| compartments.contains(&of.compartment)).await
}

/// The same for the tokens of these fields (by id).
pub(super) async fn forget_of(
    inner: &Inner,
    header: &Header,
    record: &SubjectRecord,
    fields: &BTreeSet<&FieldName>,
    room: &mut usize,
    write: &mut Write,
) -> Result<bool, Error> {
    forget(inner, header, record, room, write, |of| fields.contains(&of.field)).await
}

async fn forget(
    inner: &Inner,
    header: &Header,
    record: &SubjectRecord,
    room: &mut usize,
    write: &mut Write,
    wanted: impl Fn(&TokenOf) -> bool,
) -> Result<bool, Error> {
    let prefix = list_key(header, record.uuid, [0; 16]);
    let mut after: Option<EntryKey> = None;
    if record.tokens == 0 {
        return Ok(true);
    }
    loop {
        let page = trie::scan(&inner.pages, header, Kind::Tokens, &prefix[..16], after.as_ref(), PAGE).await?;
        for (listed, payload) in &page {
            if !wanted(&decode(payload)?) {
                continue;
            }
            if *room == 0 {
                return Ok(false);
            }
            *room -= 1;
            write.edits.push((Kind::Tokens, *listed, Op::Remove));
            let tag: Tag = listed[16..].try_into().expect("an entry key has 32 bytes");
            if let Some(payload) = trie::find(&inner.pages, header, Kind::Tokens, &entry_key(tag)).await? {
                write.edits.extend(removal(header, tag, &decode(&payload)?));
            }
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => after = Some(*last),
            _ => return Ok(true),
        }
    }
}
