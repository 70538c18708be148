//! The vault against its audit log: that has all it ever had, and tells of whoever is final, or no certificate can be given.

use std::collections::BTreeMap;

use super::super::records::TOLD_NOWHERE;
use super::super::{Vault, erase, outbox};
use crate::audit::{LogError, LogReport, ToldErasure};
use crate::error::Error;
use crate::ids::ErasureId;

impl Vault {
    /// What the log does not tell of erasures that are final by the vault's own records, and whether it is shorter than it
    /// was, or another; `root_at` tells the root over its first so many entries. What a crash left in the outbox counts as told.
    ///
    /// # Errors
    /// [`Error::Locked`], or the store's.
    pub async fn verify_log(
        &self,
        log: &LogReport,
        root_at: &dyn Fn(u64) -> Result<Option<[u8; 32]>, LogError>,
    ) -> Result<Vec<String>, Error> {
        let session = self.session()?;
        let snapshot = session.settled().await;
        let mut waiting: BTreeMap<ErasureId, ToldErasure> = BTreeMap::new();
        for entry in outbox::all(&self.inner, &snapshot.header).await? {
            ToldErasure::take(&mut waiting, &entry);
        }
        let mut problems = Vec::new();
        let had = snapshot.logged;
        if log.size < had.size {
            problems.push(format!(
                "the audit log has {} entries, and had {}: it is an older copy, or its end was removed",
                log.size, had.size
            ));
        } else if had.size > 0 {
            match root_at(had.size) {
                Ok(root) if root == Some(had.root) => {}
                Ok(_) => problems.push(format!(
                    "the first {} entries of the audit log are not those that it had: it was begun anew or changed",
                    had.size
                )),
                Err(error) => problems.push(error.to_string()),
            }
        }
        if log.commit > snapshot.sequence {
            problems.push(format!(
                "the store is older than its audit log: its last commit is {}, the log tells of {}; what the log tells of \
                 later commits is lost",
                snapshot.sequence, log.commit
            ));
        }
        let mut after = None;
        loop {
            let page = erase::list(&self.inner, &snapshot.header, after, 1000).await?;
            let Some(last) = page.last() else { return Ok(problems) };
            after = Some(last.id);
            for record in &page {
                let told = log.erasures.get(&record.id).copied().unwrap_or_default();
                let more = waiting.get(&record.id).copied().unwrap_or_default();
                let (id, is_final, known) = (record.id, record.counts.r#final, told.shredded + more.shredded);
                // Before this vault had a log, or where entries were moved away, nothing can be said. After a restore the
                // log may tell more than the vault knows.
                if log.moved > 0 || record.told_from.is_none_or(|from| from == TOLD_NOWHERE) {
                    continue;
                }
                if known < is_final {
                    problems.push(format!("erasure {id}: {is_final} subjects are final, the log tells of {known}"));
                }
                if record.f1_at.is_some() && !(told.ended || more.ended) {
                    problems.push(format!("erasure {id} has ended, and the log does not tell it"));
                }
            }
        }
    }
}
