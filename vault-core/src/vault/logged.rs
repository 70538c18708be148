//! Writing the audit log: what a request did, before its answer leaves, and what the vault does by itself.

use super::Vault;
use crate::audit::{Action, Entry, Log, Trail};
use crate::error::Error;
use crate::policy::Rule;

impl Action {
    /// Whether its entries are durable before the answer leaves, however often the log is made durable otherwise.
    pub fn is_awaited(self) -> bool {
        matches!(
            self,
            Self::Start
                | Self::Stop
                | Self::Unlock
                | Self::Lock
                | Self::Erasure
                | Self::Shredded
                | Self::ErasureLevel
                | Self::Schema
                | Self::Caller
                | Self::Keys
                | Self::Slots
                | Self::LogKey
                | Self::Backup
                | Self::Restore
                | Self::AcceptLoss
        )
    }
}

impl Vault {
    /// Whether the log takes entries: nothing may be answered while it does not. What is committed and waits for it is
    /// tried again.
    ///
    /// # Errors
    /// [`Error::Log`].
    pub fn log_works(&self) -> Result<(), Error> {
        Ok(self.inner.outbox.flush()?)
    }

    /// Whether the log has room for entries of new values: what is kept back on a full disk is for reading and shredding.
    ///
    /// # Errors
    /// [`Error::Log`].
    pub fn log_has_room(&self) -> Result<(), Error> {
        match self.inner.outbox.log() {
            Some(log) if log.is_short() => Err(log.full().into()),
            _ => Ok(()),
        }
    }

    /// Whether it takes entries, as far as is known without one: if it does not, nothing is answered.
    pub fn log_takes_entries(&self) -> bool {
        self.inner.outbox.log().is_none_or(Log::takes_entries)
    }

    /// Writes entries of what is no request; they are durable when this returns, if they are of a kind that is waited for.
    ///
    /// # Errors
    /// [`Error::Log`].
    pub async fn log(&self, entries: &[Entry]) -> Result<(), Error> {
        self.append(entries.to_vec(), entries.iter().any(|entry| entry.what.is_awaited()), false).await
    }

    /// Writes what a request did, besides what went with its commits, now that it is to be answered with this status. The
    /// answer may leave once this returns, and must not otherwise. Where others are `under_way`, those that end now share a write.
    ///
    /// # Errors
    /// [`Error::Log`].
    pub async fn conclude(&self, trail: &Trail, status: u16, rule: Option<Rule>, under_way: bool) -> Result<(), Error> {
        self.append(trail.entries(status, rule), trail.what().is_awaited(), under_way).await
    }

    async fn append(&self, entries: Vec<Entry>, awaited: bool, under_way: bool) -> Result<(), Error> {
        let Some(log) = self.inner.outbox.log() else { return Ok(()) };
        let outbox = &self.inner.outbox;
        let end = if under_way { outbox.append_together(entries).await? } else { outbox.append(&entries)? };
        if awaited || log.sync_every_entry() {
            log.durable(end).await?;
        }
        Ok(())
    }
}
