//! The key that signs the audit log: kept in the trie, given to the log while the vault is unlocked, and replaced.

use serde::{Deserialize, Serialize};

use super::records::{decode, encode};
use super::session::{Session, reading};
use super::writer::{Guard, Write};
use super::{Inner, Vault};
use crate::audit::{Action, Entry, KeyChange, Log, Outcome, trail};
use crate::crypto::{LogKey, Random, digest};
use crate::error::Error;
use crate::time::Timestamp;
use crate::trie::{self, EntryKey, Header, Kind, Op};

/// The keys that sign the log.
#[derive(Clone, Debug)]
pub struct LogKeys {
    /// The present one, as a C2SP verifier key.
    pub current: String,
    /// Since when it signs.
    pub since: Timestamp,
    /// For each change, oldest first: the head then, signed by the key before and by the one after.
    pub changes: Vec<String>,
}

/// The keys as they are kept.
#[derive(Serialize, Deserialize)]
pub(super) struct LogKeyRecord {
    seed: zeroize::Zeroizing<[u8; 32]>,
    since: Timestamp,
    /// Drawn, and not in use yet: a change is under way.
    next: Option<zeroize::Zeroizing<[u8; 32]>>,
}

impl Vault {
    /// The keys that sign the audit log.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no log.
    pub async fn log_keys(&self) -> Result<LogKeys, Error> {
        let (session, log) = (self.session()?, self.inner.log()?);
        let (record, _) = find(&self.inner, &session).await?.ok_or(Error::Damaged("the key of the audit log"))?;
        Ok(LogKeys { current: log.vkey()?, since: record.since, changes: log.key_changes()? })
    }

    /// The keys that may sign the audit log, as C2SP verifier keys: the present one and, while a change is under way, the
    /// next. For a look at the log's files; the log need not be open.
    ///
    /// # Errors
    /// [`Error::Locked`], or the store's.
    pub async fn log_signers(&self) -> Result<Vec<String>, Error> {
        let session = self.session()?;
        let found = find(&self.inner, &session).await?;
        let seeds = found.into_iter().flat_map(|(record, _)| [Some(record.seed), record.next]).flatten();
        Ok(seeds.map(|seed| Log::vkey_of(self.inner.vault, &key(&seed))).collect())
    }

    /// The audit log, for whoever checks it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none.
    pub fn audit_log(&self) -> Result<Log, Error> {
        self.inner.log()
    }

    /// Replaces the key that signs the audit log. The change is an entry of the log, and its head then is signed by both;
    /// afterwards the old key is destroyed.
    ///
    /// # Errors
    /// [`Error::Log`]; [`Error::Slot`] if a root slot does not answer: the new key signs all the same, and the old one is
    /// destroyed later.
    pub async fn rotate_log_key(&self) -> Result<LogKeys, Error> {
        let session = self.session()?;
        {
            let _one = self.inner.rotating.lock().await;
            let (mut record, guard) =
                find(&self.inner, &session).await?.ok_or(Error::Damaged("the key of the audit log"))?;
            if record.next.is_none() {
                record.next = Some(zeroize::Zeroizing::new(Random::for_keys(1).array()));
                let edits = vec![(Kind::System, place(&session.snapshot().header), Op::Insert(encode(&record)?))];
                let write = Write { guards: vec![guard], edits, ..Write::default() };
                if trail::aside(session.commit(vec![write])).await? != [true] {
                    return Err(Error::Conflict("the key of the log is being changed already: retry"));
                }
            }
            change(&self.inner, &session, &self.inner.log()?).await?;
        }
        self.log_keys().await
    }
}

impl Inner {
    pub(super) fn log(&self) -> Result<Log, Error> {
        self.outbox.log().cloned().ok_or(Error::NotFound("audit log"))
    }

    /// Gives the log its key; draws one for a vault that has none yet. Goes on with a change that a crash cut short.
    pub(super) async fn unlock_log(&self, session: &Session, at_rest: bool) -> Result<(), Error> {
        let Some(log) = self.outbox.log() else { return Ok(()) };
        let record = match find(self, session).await? {
            Some((record, _)) => record,
            None if at_rest => return Ok(()),
            None => {
                let seed = zeroize::Zeroizing::new(Random::for_keys(1).array());
                let record = LogKeyRecord { seed, since: Timestamp::now(), next: None };
                let edits = vec![(Kind::System, place(&session.snapshot().header), Op::Insert(encode(&record)?))];
                session.commit(vec![Write { edits, reclaim: true, ..Write::default() }]).await?;
                record
            }
        };
        // A crash may have left a change of the key that is told already: the old one signs nothing any more.
        let next = record.next.as_ref().map(|next| key(next));
        let next = match next {
            Some(next) if log.changed_to(&Log::vkey_of(self.vault, &next))? => Some(next),
            _ => None,
        };
        log.unlock(self.vault, next.unwrap_or_else(|| key(&record.seed)))?;
        if record.next.is_some()
            && !at_rest
            && let Err(error) = change(self, session, log).await
        {
            tracing::warn!(%error, "the change of the log's key is finished at the next unlock");
        }
        Ok(())
    }
}

/// Puts the next key into use: entry, head signed by both, and then the old one goes.
async fn change(inner: &Inner, session: &Session, log: &Log) -> Result<(), Error> {
    let Some((mut record, guard)) = find(inner, session).await? else { return Ok(()) };
    let Some(next) = record.next.take() else { return Ok(()) };
    let (old, new) = (key(&record.seed), key(&next));
    let told = KeyChange { old: Log::vkey_of(inner.vault, &old), new: Log::vkey_of(inner.vault, &new) };
    if log.changed_to(&told.new)? {
        log.unlock(inner.vault, new)?;
    } else {
        // Whoever unlocks the vault after a crash did not ask for it.
        let asked = trail::so_far().pop().filter(|entry| entry.what == Action::LogKey);
        let of_request = asked.is_some();
        let entry = asked.unwrap_or_else(|| Entry::new(Action::LogKey, Outcome::Done));
        let end = inner.outbox.append(&[Entry { log_key: Some(told), ..entry }])?;
        if of_request {
            trail::committed();
        }
        log.durable(end).await?;
        log.change_key(new)?;
    }
    record = LogKeyRecord { seed: next, since: Timestamp::now(), next: None };
    let edits = vec![(Kind::System, place(&session.snapshot().header), Op::Replace(encode(&record)?))];
    // The old seed is in a page of the trie: it takes a root batch to forget it.
    let write = Write { guards: vec![guard], edits, reclaim: true, ..Write::default() };
    trail::aside(session.finalize(write)).await.map(|_| ())
}

fn key(seed: &[u8; 32]) -> LogKey {
    LogKey::from_slice(seed).expect("a seed has 32 bytes")
}

fn place(header: &Header) -> EntryKey {
    header.entry_key(Kind::System, "log-key", "", b"", [0; 16])
}

async fn find(inner: &Inner, session: &Session) -> Result<Option<(LogKeyRecord, Guard)>, Error> {
    let found = reading!(session, |snapshot| {
        let key = place(&snapshot.header);
        let payload = trie::find(&inner.pages, &snapshot.header, Kind::System, &key).await;
        payload.map(|payload| (key, payload)).map_err(Error::from)
    })?;
    let (key, Some(payload)) = found else { return Ok(None) };
    let guard = Guard::Entry { kind: Kind::System, key, seen: Some(digest(&payload)) };
    Ok(Some((decode(&payload)?, guard)))
}
