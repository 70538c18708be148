//! After a restore into a scratch directory: who was shredded stays dead, and who lives opens.

use std::path::Path;
use std::sync::Arc;

use super::rows;
use crate::backup::Identities;
use crate::error::Error;
use crate::vault::Vault;
use crate::vault::records::{DirectoryEntry, SubjectState};
use crate::vault::row::{Row, RowPlace};
use crate::vault::subject::{self, Found};

/// Rows of shredded subjects that are tried.
const ROWS: usize = 256;
/// Keys of living subjects that each of them is tried with.
const KEYS: usize = 64;
/// Directory entries that are read at a time.
const PAGE: usize = 512;

/// What a drill proved, and what it found wrong.
#[derive(Debug, Default)]
pub struct DrillReport {
    /// Living subjects of whom a row opened: the control.
    pub living_opened: u64,
    /// Tombstones and refused subjects that answer "shredded".
    pub dead_refused: u64,
    /// Tombstones whose time is over: unknown, as if they had never been.
    pub dead_expired: u64,
    /// Old rows of subjects without a key.
    pub rows_tried: u64,
    /// Keys that each was tried with.
    pub keys_tried: u64,
    /// What came back that should not have, or did not open that should have.
    pub problems: Vec<String>,
}

impl Vault {
    /// Proves of a restored vault what a drill is for. `data` is the data plane that it was restored from.
    ///
    /// # Errors
    /// [`Error::Locked`], or the store's. What is wrong is in the report.
    pub async fn drill(&self, data: &Path, identities: &Arc<Identities>) -> Result<DrillReport, Error> {
        let session = self.session()?;
        let snapshot = session.settled().await;
        let inner = &self.inner;
        let mut report = DrillReport::default();
        let mut keys = Vec::new();
        let mut after = None;
        loop {
            let page = subject::page(inner, &snapshot.header, after, PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (key, _) in page {
                let found = subject::find_by_key(inner, &snapshot.header, key).await?;
                self.stands(found, &mut report, &mut keys).await?;
            }
        }
        let old = rows::of_nobody(inner, &snapshot.header, data, identities, ROWS).await?;
        report.rows_tried = old.len() as u64;
        report.keys_tried = keys.len() as u64;
        for (uuid, value) in old {
            for (compartment, ordinal, dek, dek_version) in &keys {
                let place = RowPlace { uuid, compartment, ordinal: *ordinal, dek, dek_version: *dek_version };
                if Row::open(&value, &place).is_ok() {
                    report.problems.push("a row of a shredded subject opens".to_owned());
                }
            }
        }
        if self.status().counts.is_some_and(|counts| counts.subjects > counts.refused) && report.living_opened == 0 {
            report.problems.push("not one living subject opens: the drill proves nothing".to_owned());
        }
        Ok(report)
    }

    async fn stands(
        &self,
        found: Found,
        report: &mut DrillReport,
        keys: &mut Vec<(crate::ids::Compartment, u16, crate::crypto::Dek, u32)>,
    ) -> Result<(), Error> {
        let lives =
            matches!(&found.entry, Some(DirectoryEntry::Subject(record)) if record.state == SubjectState::Active);
        match found.living(self.inner.options.tombstone_seconds) {
            Ok(record) if lives => {
                for held in &record.compartments {
                    match subject::open_row(&self.inner, &record.row_place(held)).await {
                        Ok(_) => report.living_opened += 1,
                        Err(Error::Damaged(what)) => report.problems.push(format!("a living subject: {what}")),
                        Err(other) => return Err(other),
                    }
                    if keys.len() < KEYS {
                        keys.push((held.name.clone(), held.ordinal, held.dek.duplicate(), held.dek_version));
                    }
                }
            }
            Ok(_) => report.problems.push("a subject that was shredded can be read".to_owned()),
            Err(Error::Shredded) => report.dead_refused += 1,
            Err(_) => report.dead_expired += 1,
        }
        Ok(())
    }
}
