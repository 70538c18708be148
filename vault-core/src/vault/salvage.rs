//! Salvage: what of a damaged vault still opens, subject by subject, with no byte of it changed.
//!
//! For a vault of which there is no backup. A start insists that the META record, the schema, the callers and what else it
//! needs are whole; a salvage needs a root slot and the vault header, and takes of the rest what opens. It brings no slot
//! into line with the store, for which root is the right one cannot be told of a damaged store. Who was shredded stays so:
//! their keys are gone, and the refused are left out.

mod found;
mod roots;

use std::collections::HashSet;
use std::sync::Arc;
use std::vec::IntoIter;

pub use found::{LostPart, Salvaged, SalvagedField};

use super::meta::Meta;
use super::records::{DirectoryEntry, SubjectState, decode};
use super::types::VaultOptions;
use super::verify::place;
use super::{Inner, Vault, row, schema};
use crate::error::Error;
use crate::ids::SubjectUuid;
use crate::root::{FileSlot, SlotPlace, Unlock};
use crate::schema::Schema;
use crate::store::{Store, StoreError};
use crate::time::Timestamp;
use crate::trie::{EntryKey, Header, Kind, Visit, walk};

/// Problems and lost subjects that are listed; more are only counted.
const LISTED: usize = 1000;
/// Rows that one look at the store takes.
const SCAN: usize = 1000;

/// What came of a salvage. Names no subject but by its uuid, which is the vault's own and random.
#[derive(Default)]
pub struct SalvageReport {
    /// Subjects of whom everything opens.
    pub whole: u64,
    /// Subjects of whom something is lost.
    pub partly: u64,
    /// Subjects of whom data rows are there, and nothing that leads to their keys.
    pub lost: u64,
    /// The first of those, in the order of their uuids.
    pub lost_uuids: Vec<SubjectUuid>,
    /// Subjects whose shred is durable (F0): left out.
    pub refused: u64,
    /// Ids that were shredded.
    pub tombstones: u64,
    /// Subjects that the META record counts, the refused among them; none if it does not open.
    pub expected: Option<u64>,
    /// Values that open.
    pub fields: u64,
    /// Values that are known to be lost; of a lost row it is not known how many it held.
    pub fields_lost: u64,
    /// Compartments that are lost.
    pub compartments_lost: u64,
    /// Values whose time is over: left out.
    pub expired: u64,
    /// What is damaged or missing.
    pub problems: Vec<String>,
    more: u64,
}

impl SalvageReport {
    /// Subjects that the META record counts and of whom nothing at all was found.
    pub fn without_trace(&self) -> Option<u64> {
        self.expected.map(|all| all.saturating_sub(self.whole + self.partly + self.refused + self.lost))
    }

    fn problem(&mut self, text: String) {
        if self.problems.len() < LISTED {
            self.problems.push(text);
        } else {
            self.more += 1;
        }
    }

    fn visit(&mut self, visit: &Visit<'_>) {
        match visit {
            Visit::Missing { kind, row } => {
                self.problem(format!("page {} of {kind:?} is missing, with all below it", place(row)));
            }
            Visit::Damaged { kind, row } => {
                self.problem(format!("page {} of {kind:?} is damaged, with all below it", place(row)));
            }
            Visit::Page { .. } | Visit::Entry { .. } => {}
        }
    }
}

/// A salvage under way.
pub struct Salvage {
    vault: Vault,
    header: Header,
    schema: Schema,
    /// Directory entries of living subjects that were not looked at yet.
    ahead: IntoIter<EntryKey>,
    /// All subjects that the directory leads to.
    known: HashSet<SubjectUuid>,
    now: Timestamp,
    report: SalvageReport,
}

impl Salvage {
    /// Opens a vault as far as it opens, and looks through its directory. `progress` is told how many pages are done, and
    /// how many there are, if that is known. Changes nothing, besides what the engine does by itself when it opens a store.
    ///
    /// # Errors
    /// [`Error::WrongUnlockKey`], [`Error::Slot`]; [`Error::Root`] if no root of the slots opens the vault header: then
    /// nothing leads to any key. [`Error::Store`].
    pub async fn open(
        store: Arc<dyn Store>,
        places: &[SlotPlace],
        unlock: Unlock,
        options: VaultOptions,
        progress: &(dyn Fn(u64, u64) + Sync),
    ) -> Result<Self, Error> {
        let mut report = SalvageReport::default();
        let slots = roots::open_slots(places, unlock, &mut report).await?;
        let meta = roots::meta_row(&*store, &mut report).await?;
        let header = roots::header(&*store, &slots, meta.as_deref(), &mut report).await?;
        let counts = match meta.map(|row| Meta::open(&row, header.meta_key())) {
            Some(Ok(meta)) => Some(meta.counts),
            Some(Err(_)) => {
                report.problem("the META record does not open: how much there should be is not known".to_owned());
                None
            }
            None => None,
        };
        report.expected = counts.map(|counts| counts.subjects);
        let options = VaultOptions { log: None, ..options };
        let vault = Vault::assemble(store, header.vault(), slots, options);
        let schema = schema_of(&vault.inner, &header, &mut report).await?;
        let mut salvage = Self {
            vault,
            header,
            schema,
            ahead: Vec::new().into_iter(),
            known: HashSet::new(),
            now: Timestamp::now(),
            report,
        };
        salvage.look_through(counts.map_or(0, |counts| counts.pages), progress).await?;
        Ok(salvage)
    }

    /// Subjects that are left to look at.
    pub fn left(&self) -> u64 {
        self.ahead.len() as u64
    }

    /// The schema that values are named by.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The next subject of whom something opens.
    ///
    /// # Errors
    /// [`Error::Store`] if the store cannot be reached. Damage is in the report.
    pub async fn next(&mut self) -> Result<Option<Salvaged>, Error> {
        for key in self.ahead.by_ref() {
            let found = found::subject(&self.vault.inner, &self.header, &self.schema, key, self.now).await;
            let Some(found) = opened(found)? else {
                self.report.problem("a directory entry cannot be read any more".to_owned());
                continue;
            };
            let report = &mut self.report;
            report.fields += found.fields.len() as u64;
            report.expired += found.expired;
            for lost in &found.lost {
                match lost {
                    LostPart::Compartment { .. } => report.compartments_lost += 1,
                    LostPart::Field { .. } => report.fields_lost += 1,
                    LostPart::Metadata { .. } | LostPart::Note { .. } => {}
                }
            }
            for problem in &found.problems {
                report.problem(problem.clone());
            }
            match found.lost.is_empty() {
                true => report.whole += 1,
                false => report.partly += 1,
            }
            return Ok(Some(found));
        }
        Ok(None)
    }

    /// Looks for data rows of subjects that nothing leads to, lets the store go and tells what came of it.
    ///
    /// # Errors
    /// As [`Salvage::next`].
    pub async fn finish(mut self) -> Result<SalvageReport, Error> {
        self.orphans().await?;
        if self.report.more > 0 {
            self.report.problems.push(format!("and {} more", self.report.more));
        }
        self.vault.close().await?;
        Ok(std::mem::take(&mut self.report))
    }

    async fn look_through(&mut self, total: u64, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<(), Error> {
        let (mut keys, mut pages) = (Vec::new(), 0);
        let Self { vault, header, known, report, .. } = self;
        walk(&vault.inner.pages, header, &mut |visit| {
            match &visit {
                Visit::Page { .. } => {
                    pages += 1;
                    progress(pages, total.max(pages));
                }
                Visit::Entry { kind: Kind::Directory, key, payload, .. } => match decode(payload) {
                    Ok(DirectoryEntry::Subject(record)) => {
                        known.insert(record.uuid);
                        match record.state {
                            SubjectState::Active => keys.push(**key),
                            SubjectState::Refused { .. } => report.refused += 1,
                        }
                    }
                    Ok(DirectoryEntry::Tombstone(_)) => report.tombstones += 1,
                    Err(_) => report.problem("a directory entry does not decode".to_owned()),
                },
                _ => {}
            }
            report.visit(&visit);
        })
        .await?;
        self.ahead = keys.into_iter();
        Ok(())
    }

    /// Data rows are in the order of their subjects.
    async fn orphans(&mut self) -> Result<(), Error> {
        let (mut start, end) = (vec![row::PREFIX], [row::PREFIX + 1]);
        let mut last = None;
        loop {
            let Some(rows) = opened(self.vault.inner.store.scan(&start, Some(&end), SCAN).await.map_err(Error::from))?
            else {
                let told =
                    "the data rows cannot be read through: of which subjects there are rows and no keys is not known";
                self.report.problem(told.to_owned());
                return Ok(());
            };
            for (key, _) in &rows {
                let Some(uuid) = key.get(1..17).and_then(|uuid| uuid.try_into().ok()).map(SubjectUuid) else {
                    self.report.problem(format!("row {} is none of the vault's", place(key)));
                    continue;
                };
                if !self.known.contains(&uuid) && last.replace(uuid) != Some(uuid) {
                    self.report.lost += 1;
                    if self.report.lost_uuids.len() < LISTED {
                        self.report.lost_uuids.push(uuid);
                    }
                }
            }
            let Some((key, _)) = rows.last() else { return Ok(()) };
            start = [&key[..], &[0]].concat();
        }
    }
}

impl Drop for Salvage {
    fn drop(&mut self) {
        self.vault.inner.file_slots.iter().for_each(FileSlot::lock);
        self.vault.inner.pages.clear();
    }
}

/// What opened; none if that which was looked at is damaged. A store that does not answer ends the salvage.
fn opened<T>(outcome: Result<T, Error>) -> Result<Option<T>, Error> {
    match outcome {
        Ok(found) => Ok(Some(found)),
        Err(Error::Store(StoreError::Corrupt(_))) => Ok(None),
        Err(error @ (Error::Store(_) | Error::Failed | Error::DiskFull)) => Err(error),
        Err(_) => Ok(None),
    }
}

/// The newest schema that opens.
async fn schema_of(inner: &Inner, header: &Header, report: &mut SalvageReport) -> Result<Schema, Error> {
    if let Some(schema) = opened(schema::load(inner, header).await)? {
        return Ok(schema);
    }
    report.problem("the schema does not open: fields that it declares are named by their ids".to_owned());
    Ok(opened(schema::newest_whole(inner, header).await)?.unwrap_or_else(Schema::builtin))
}

#[cfg(test)]
mod tests;
