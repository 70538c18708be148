//! Callers: API clients with a role and purposes. Their API tokens are shown once and stored as keyed hashes.

use std::collections::HashMap;

use zeroize::Zeroizing;

use super::idempotency::{self, Begun, Idempotency};
use super::records::{CallerRecord, decode, encode};
use super::session::{Session, reading};
use super::types::{Caller, NewCaller};
use super::writer::Write;
use super::{Inner, Vault};
use crate::crypto::{CallerKey, Random};
use crate::error::Error;
use crate::ids::CallerId;
use crate::schema::Schema;
use crate::time::Timestamp;
use crate::trie::{self, EntryKey, Header, Kind, Op};

/// What every API token begins with.
const TOKEN_PREFIX: &str = "udv_";

/// The callers as they stand, for checking an API token without a look at the trie.
///
/// It is kept while the vault is locked, so that who locked it can unlock it again; it opens no data.
pub(crate) struct CallerTable {
    key: CallerKey,
    by_hash: HashMap<[u8; 32], CallerRecord>,
}

impl Vault {
    /// Whose API token this is.
    ///
    /// # Errors
    /// [`Error::Unauthenticated`]; [`Error::Locked`] if the vault has not been unlocked since the process started.
    pub fn authenticate(&self, token: &str) -> Result<Caller, Error> {
        let table = self.inner.callers.load();
        let table = table.as_ref().as_ref().ok_or(Error::Locked)?;
        // Found by a keyed hash: who does not hold the key learns nothing from how long it takes.
        let record = table.by_hash.get(&table.key.token_hash(token.as_bytes())).ok_or(Error::Unauthenticated)?;
        if record.revoked || record.expires_at.is_some_and(|at| at <= Timestamp::now()) {
            return Err(Error::Unauthenticated);
        }
        Ok(shown(record))
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
        let mut random = Random::new(16 + 32);
        let id = CallerId(random.array());
        let secret = Zeroizing::new(random.array::<32>());
        let digits = Zeroizing::new(hex::encode(*secret));
        let token = Zeroizing::new(format!("{TOKEN_PREFIX}{}", *digits));
        let header = session.snapshot().header.clone();
        let record = CallerRecord {
            id,
            name: new.name,
            role: new.role,
            purposes: new.purposes,
            created_at: Timestamp::now(),
            expires_at: new.expires_at,
            revoked: false,
            token_hash: header.caller_key().token_hash(token.as_bytes()),
        };
        let mut write = noting(&header, &record)?;
        write.delta.callers = 1;
        if let Some(claim) = &claim {
            claim.note(&header, record.id.0, &mut write)?;
        }
        idempotency::made(&session.commit(vec![write]).await?)?;
        self.inner.load_callers(&session).await?;
        Ok((shown(&record), token))
    }

    /// Callers that were not revoked, by name.
    ///
    /// # Errors
    /// [`Error::Locked`].
    pub fn callers(&self) -> Result<Vec<Caller>, Error> {
        self.session()?;
        let table = self.inner.callers.load();
        let records = table.as_ref().as_ref().ok_or(Error::Locked)?.by_hash.values();
        let mut callers: Vec<Caller> = records.filter(|r| !r.revoked).map(shown).collect();
        callers.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        Ok(callers)
    }

    /// Revokes a caller; its API token stops working at once.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub async fn revoke_caller(&self, id: CallerId) -> Result<(), Error> {
        let session = self.session()?;
        let record = reading!(session, |snapshot| find(&self.inner, &snapshot.header, id).await)?;
        if record.revoked {
            return Err(Error::NotFound("caller"));
        }
        let mut write = noting(&session.snapshot().header, &CallerRecord { revoked: true, ..record })?;
        write.delta.callers = -1;
        session.commit(vec![write]).await?;
        self.inner.load_callers(&session).await
    }
}

impl Inner {
    /// Reads all callers anew.
    pub(super) async fn load_callers(&self, session: &Session) -> Result<(), Error> {
        // One at a time, so that an older reading never replaces a newer one.
        let _loading = self.loading_callers.lock().await;
        let mut by_hash = HashMap::new();
        let mut after: Option<EntryKey> = None;
        loop {
            let page = reading!(session, |snapshot| {
                let scan = trie::scan(&self.pages, &snapshot.header, Kind::Callers, &[], after.as_ref(), 1000);
                scan.await.map_err(Error::from)
            })?;
            after = page.last().map(|(key, _)| *key);
            for (_, payload) in &page {
                let record: CallerRecord = decode(payload)?;
                by_hash.insert(record.token_hash, record);
            }
            if page.is_empty() {
                break;
            }
        }
        let key = session.snapshot().header.caller_key().duplicate();
        self.callers.store(std::sync::Arc::new(Some(CallerTable { key, by_hash })));
        Ok(())
    }
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

async fn find(inner: &Inner, header: &Header, id: CallerId) -> Result<CallerRecord, Error> {
    let payload = trie::find(&inner.pages, header, Kind::Callers, &key(header, id)).await?;
    decode(&payload.ok_or(Error::NotFound("caller"))?)
}

fn key(header: &Header, id: CallerId) -> EntryKey {
    header.entry_key(Kind::Callers, "caller", "", &id.0, [0; 16])
}

fn noting(header: &Header, record: &CallerRecord) -> Result<Write, Error> {
    let edit = (Kind::Callers, key(header, record.id), Op::Insert(encode(record)?));
    Ok(Write { edits: vec![edit], ..Write::default() })
}

fn shown(record: &CallerRecord) -> Caller {
    Caller {
        id: record.id,
        name: record.name.clone(),
        role: record.role,
        purposes: record.purposes.clone(),
        created_at: record.created_at,
        expires_at: record.expires_at,
    }
}
