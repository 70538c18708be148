//! When callers were last seen, written down now and then: for people, so coarsely, and never worth an error.

use std::sync::Arc;
use std::time::Duration;

use super::table::LastUsed;
use super::{find, noting};
use crate::error::Error;
use crate::memory;
use crate::time::Timestamp;
use crate::vault::Inner;
use crate::vault::session::{Session, reading};

/// How often it is looked who was seen.
const NOTE_EVERY: Duration = Duration::from_secs(60);
/// What was seen that much later than is written down is written down, in milliseconds.
const NOTE_AFTER: u64 = 5 * 60 * 1000;

/// Writes down who was seen, for as long as the session lasts.
pub(crate) async fn note_now_and_then(inner: Arc<Inner>, session: Arc<Session>) {
    loop {
        tokio::time::sleep(NOTE_EVERY).await;
        warn_of(memory::apart(|| inner.note_used(&session, NOTE_AFTER)).await);
    }
}

/// Writes down all that is known, before the session ends.
pub(crate) async fn note_all(inner: &Inner, session: &Session) {
    warn_of(inner.note_used(session, 0).await);
}

fn warn_of(noted: Result<(), Error>) {
    if let Err(error) = noted {
        tracing::warn!(%error, "when callers were last seen could not be written down");
    }
}

impl Inner {
    /// One ordinary commit for all callers that were seen more than `millis` after what is written down.
    pub(in crate::vault) async fn note_used(&self, session: &Session, millis: u64) -> Result<(), Error> {
        let moved = self.moved(millis);
        let mut writes = Vec::with_capacity(moved.len());
        for (id, _, at) in &moved {
            let found = reading!(session, |snapshot| find(self, &snapshot.header, *id).await)?;
            let mut record = found.record.clone();
            record.last_used_at = Some(*at);
            writes.push(noting(&session.snapshot().header, &record, Some(&found))?);
        }
        if writes.is_empty() {
            return Ok(());
        }
        let committed = session.commit(writes).await?;
        // One that changed meanwhile has its turn the next time.
        for ((_, used, at), _) in moved.iter().zip(committed).filter(|(_, committed)| *committed) {
            used.note(*at);
        }
        Ok(())
    }

    fn moved(&self, millis: u64) -> Vec<(crate::ids::CallerId, Arc<LastUsed>, Timestamp)> {
        let table = self.callers.load();
        let callers = table.iter().flat_map(|table| table.all());
        let living = callers.filter(|caller| !caller.record.revoked);
        living.filter_map(|caller| Some((caller.record.id, caller.used.clone(), caller.used.moved(millis)?))).collect()
    }
}
