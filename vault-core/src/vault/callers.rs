//! Callers: API clients with a role and purposes. Their API tokens are shown once and stored as keyed hashes.

mod table;
#[cfg(test)]
mod tests;
mod used;

use zeroize::Zeroizing;

use super::idempotency::{self, Begun, Claim, Idempotency};
use super::records::{CallerRecord, PreviousToken, decode, encode};
use super::session::{Session, reading};
use super::types::{Caller, NewCaller, NewToken};
use super::writer::{Guard, Write};
use super::{Inner, Vault};
use crate::crypto::{Random, digest};
use crate::error::Error;
use crate::ids::CallerId;
use crate::schema::Schema;
use crate::time::Timestamp;
use crate::trie::{self, EntryKey, Header, Kind, Op};

pub(crate) use table::CallerTable;
pub(crate) use used::{note_all, note_now_and_then};

/// What every API token begins with.
const TOKEN_PREFIX: &str = "udv_";
/// The longest time for which a replaced API token goes on working, in seconds: 30 days.
pub const OVERLAP_MAX: u64 = 30 * 24 * 3600;
/// How often a change is made again that lost a race for its caller.
const ATTEMPTS: usize = 16;

impl Vault {
    /// Whose API token this is.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`]; [`Error::Locked`] if the vault has not been unlocked since the process started.
    pub fn authenticate(&self, token: &str) -> Result<Caller, Error> {
        let table = self.inner.callers.load();
        let table = table.as_ref().as_ref().ok_or(Error::Locked)?;
        let now = Timestamp::now();
        let caller = table.authenticate(token.as_bytes(), now).ok_or(Error::Unauthenticated)?;
        caller.used.seen(now);
        Ok(caller.shown())
    }

    /// Creates a caller; the API token is in the answer and nowhere else.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unfit name, an undeclared purpose, or a time that is past; [`Error::Conflict`] for a
    /// request that is to be done once and was done, for its API token can not be shown again;
    /// [`Error::IdempotencyMismatch`].
    pub async fn create_caller(
        &self,
        new: NewCaller,
        once: Option<&Idempotency<'_>>,
    ) -> Result<(Caller, Zeroizing<String>), Error> {
        let session = self.session()?;
        let claim = match self.inner.begin(&session, once).await? {
            Begun::First(claim) => claim,
            Begun::Done(_) => {
                let told = "the caller was created already and its API token is shown once: revoke it, create another";
                return Err(Error::Conflict(told));
            }
        };
        check(&session.snapshot().schema, &new)?;
        let header = session.snapshot().header.clone();
        let (token, token_hash) = draw(&header);
        let record = CallerRecord {
            id: CallerId(Random::new(16).array()),
            name: new.name,
            role: new.role,
            purposes: new.purposes,
            created_at: Timestamp::now(),
            expires_at: new.expires_at,
            revoked: false,
            token_hash,
            previous: None,
            last_used_at: None,
            lookups_per_minute: new.lookups_per_minute,
        };
        let mut write = noting(&header, &record, None)?;
        write.delta.callers = 1;
        if let Some(claim) = &claim {
            claim.note(&header, record.id.0, &mut write)?;
        }
        idempotency::made(&session.commit(vec![write]).await?)?;
        self.inner.load_callers(&session).await?;
        Ok((record.shown(), token))
    }

    /// Callers that were not revoked, by name.
    ///
    /// # Errors
    /// [`Error::Locked`].
    pub fn callers(&self) -> Result<Vec<Caller>, Error> {
        self.session()?;
        let table = self.inner.callers.load();
        let all = table.as_ref().as_ref().ok_or(Error::Locked)?.all();
        let mut callers: Vec<Caller> = all.filter(|c| !c.record.revoked).map(|c| c.shown()).collect();
        callers.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        Ok(callers)
    }

    /// Replaces a caller's API token. The one before goes on working for `overlap` seconds, at most [`OVERLAP_MAX`] and
    /// not longer than the caller; one from before that stops at once.
    ///
    /// # Errors
    /// [`Error::NotFound`]; [`Error::Invalid`] for a longer overlap; [`Error::Conflict`] for a caller that has expired,
    /// or a request that is to be done once and was done; [`Error::IdempotencyMismatch`].
    pub async fn rotate_caller(
        &self,
        id: CallerId,
        overlap: u64,
        once: Option<&Idempotency<'_>>,
    ) -> Result<NewToken, Error> {
        if overlap > OVERLAP_MAX {
            return Err(Error::Invalid { field: "overlap", expected: "0 to 2592000 seconds, which are 30 days" });
        }
        let session = self.session()?;
        let claim = match self.inner.begin(&session, once).await? {
            Begun::First(claim) => claim,
            Begun::Done(_) => {
                let told = "the API token was replaced already and the new one is shown once: replace it again";
                return Err(Error::Conflict(told));
            }
        };
        let now = Timestamp::now();
        let (token, token_hash) = draw(&session.snapshot().header);
        let replaced = |record: CallerRecord| {
            if !record.works(now) {
                return Err(Error::Conflict("the caller has expired: create another"));
            }
            let until = now.plus_seconds(overlap).min(record.expires_at.unwrap_or(Timestamp(u64::MAX)));
            let previous = (overlap > 0).then_some(PreviousToken { hash: record.token_hash, until });
            Ok((CallerRecord { token_hash, previous, ..record }, 0))
        };
        let record = self.inner.change_caller(&session, id, claim.as_ref(), replaced).await?;
        let previous_valid_until = record.previous.map_or(now, |previous| previous.until);
        Ok(NewToken { caller: record.shown(), token, previous_valid_until })
    }

    /// Revokes a caller; its API tokens stop working at once.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn revoke_caller(&self, id: CallerId) -> Result<(), Error> {
        let session = self.session()?;
        let revoked = |record| Ok((CallerRecord { revoked: true, ..record }, -1));
        self.inner.change_caller(&session, id, None, revoked).await.map(|_| ())
    }
}

impl Inner {
    /// Changes a caller that was not revoked; `change` also says how many callers there are more.
    async fn change_caller(
        &self,
        session: &Session,
        id: CallerId,
        claim: Option<&Claim<'_>>,
        change: impl Fn(CallerRecord) -> Result<(CallerRecord, i64), Error>,
    ) -> Result<CallerRecord, Error> {
        for _ in 0..ATTEMPTS {
            let found = reading!(session, |snapshot| find(self, &snapshot.header, id).await)?;
            if found.record.revoked {
                return Err(Error::NotFound("caller"));
            }
            let (record, more) = change(found.record.clone())?;
            let header = session.snapshot().header.clone();
            let mut write = noting(&header, &record, Some(&found))?;
            write.delta.callers = more;
            if let Some(claim) = claim {
                claim.note(&header, id.0, &mut write)?;
            }
            if session.commit(vec![write]).await? == [true] {
                self.load_callers(session).await?;
                return Ok(record);
            }
        }
        Err(Error::Overloaded)
    }

    /// Reads all callers anew.
    pub(super) async fn load_callers(&self, session: &Session) -> Result<(), Error> {
        // One at a time, so that an older reading never replaces a newer one.
        let _loading = self.loading_callers.lock().await;
        let mut records: Vec<CallerRecord> = Vec::new();
        let mut after: Option<EntryKey> = None;
        loop {
            let page = reading!(session, |snapshot| {
                let scan = trie::scan(&self.pages, &snapshot.header, Kind::Callers, &[], after.as_ref(), 1000);
                scan.await.map_err(Error::from)
            })?;
            after = page.last().map(|(key, _)| *key);
            for (_, payload) in &page {
                records.push(decode(payload)?);
            }
            if page.is_empty() {
                break;
            }
        }
        let key = session.snapshot().header.caller_key().duplicate();
        let before = self.callers.load();
        let table = CallerTable::new(key, records, before.as_ref().as_ref());
        self.callers.store(std::sync::Arc::new(Some(table)));
        Ok(())
    }
}

/// A new API token, and the form in which it is kept.
fn draw(header: &Header) -> (Zeroizing<String>, [u8; 32]) {
    let secret = Zeroizing::new(Random::new(32).array::<32>());
    let digits = Zeroizing::new(hex::encode(*secret));
    let token = Zeroizing::new(format!("{TOKEN_PREFIX}{}", *digits));
    let hash = header.caller_key().token_hash(token.as_bytes());
    (token, hash)
}

fn check(schema: &Schema, new: &NewCaller) -> Result<(), Error> {
    let name_fits = (1..=128).contains(&new.name.len()) && !new.name.chars().any(char::is_control);
    if !name_fits {
        return Err(Error::Invalid { field: "name", expected: "1 to 128 bytes without control characters" });
    }
    if new.purposes.iter().any(|p| schema.purpose(p.as_str()).is_none()) {
        return Err(Error::Invalid { field: "purposes", expected: "purposes that the schema declares" });
    }
    if new.expires_at.is_some_and(|at| at <= Timestamp::now()) {
        return Err(Error::Invalid { field: "expires_at", expected: "a time to come" });
    }
    Ok(())
}

/// A caller as it was found.
struct Found {
    record: CallerRecord,
    seen: [u8; 32],
}

async fn find(inner: &Inner, header: &Header, id: CallerId) -> Result<Found, Error> {
    let payload = trie::find(&inner.pages, header, Kind::Callers, &key(header, id)).await?;
    let payload = payload.ok_or(Error::NotFound("caller"))?;
    Ok(Found { record: decode(&payload)?, seen: digest(&payload) })
}

fn key(header: &Header, id: CallerId) -> EntryKey {
    header.entry_key(Kind::Callers, "caller", "", &id.0, [0; 16])
}

/// The write that keeps a record in the place of the one that was found.
fn noting(header: &Header, record: &CallerRecord, found: Option<&Found>) -> Result<Write, Error> {
    let key = key(header, record.id);
    let guards = found.map(|found| Guard::Entry { kind: Kind::Callers, key, seen: Some(found.seen) });
    let edit = (Kind::Callers, key, Op::Insert(encode(record)?));
    Ok(Write { edits: vec![edit], guards: guards.into_iter().collect(), ..Write::default() })
}

impl CallerRecord {
    fn shown(&self) -> Caller {
        Caller {
            id: self.id,
            name: self.name.clone(),
            role: self.role,
            purposes: self.purposes.clone(),
            created_at: self.created_at,
            expires_at: self.expires_at,
            previous_valid_until: self.previous.map(|previous| previous.until).filter(|at| *at > Timestamp::now()),
            last_used_at: self.last_used_at,
            lookups_per_minute: self.lookups_per_minute,
        }
    }
}
