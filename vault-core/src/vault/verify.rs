//! The scrub: every page reachable, every row and field opens, every value token has its subject, and the counts are what
//! META says.

mod log;

use std::collections::HashSet;

use super::metadata::RowMetadata;
use super::records::{DirectoryEntry, SubjectRecord, TokenOf, TokenRecord, decode};
use super::rotate::deks;
use super::types::VerifyReport;
use super::{Inner, Vault, evidence, meta, notes, outbox, row, subject, tokens};
use crate::error::Error;
use crate::ids::{Compartment, SubjectUuid};
use crate::schema::FieldValue;
use crate::store::StoreError;
use crate::trie::{Duty, EntryKey, Generations, Header, Kind, Visit, walk};

/// Problems that are listed; more are only counted.
const LISTED: usize = 1000;
/// Rows that one look at the store takes.
const SCAN: usize = 1000;

impl Vault {
    /// Opens everything and lists what is damaged or missing. `progress` is told how many of how many pages and subjects
    /// are done. For a vault that stands still: see [`Vault::unlock_at_rest`].
    ///
    /// # Errors
    /// [`Error::Locked`], or the store's. Damage is no error here but in the report.
    pub async fn verify(&self, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<VerifyReport, Error> {
        let session = self.session()?;
        let snapshot = session.settled().await;
        let counts = snapshot.counts;
        let total = counts.pages + counts.subjects;
        let mut scrub = Scrub::default();
        scrub.pages.insert(row_of_header(&snapshot.header));
        walk(&self.inner.pages, &snapshot.header, &mut |visit| {
            scrub.visit(&visit);
            progress(scrub.report.pages, total);
        })
        .await?;
        scrub.tokens();
        scrub.lookups(snapshot.header.generations(Kind::Lookups));
        for (directory, record) in std::mem::take(&mut scrub.subjects) {
            scrub.subject(&self.inner, &record).await?;
            scrub.older_keys(&self.inner, &snapshot.header, &directory, &record).await?;
            progress(scrub.report.pages + scrub.report.subjects, total);
        }
        scrub.compare("pages of the trie", scrub.report.pages, counts.pages);
        scrub.compare("subjects", scrub.report.subjects, counts.subjects);
        let (pages, rows) = scrub.unreachable(&self.inner, &snapshot.header).await?;
        scrub.compare("page rows in the store, the header's among them", pages, counts.pages + 1);
        scrub.compare("data rows in the store", rows, counts.rows);
        if scrub.more > 0 {
            scrub.report.problems.push(format!("and {} more", scrub.more));
        }
        Ok(scrub.report)
    }
}

#[derive(Default)]
struct Scrub {
    report: VerifyReport,
    pages: HashSet<Vec<u8>>,
    subjects: Vec<(EntryKey, SubjectRecord)>,
    /// Lookup entries that no subject has claimed yet.
    lookups: HashSet<(u32, EntryKey)>,
    /// Whose each value token is.
    tokens: Vec<SubjectUuid>,
    /// How many the subjects' lists have.
    listed: usize,
    more: usize,
}

impl Scrub {
    fn problem(&mut self, text: String) {
        if self.report.problems.len() < LISTED {
            self.report.problems.push(text);
        } else {
            self.more += 1;
        }
    }

    fn compare(&mut self, what: &str, found: u64, expected: u64) {
        if found != expected {
            self.problem(format!("{what}: {found} found, {expected} expected by the META record"));
        }
    }

    fn visit(&mut self, visit: &Visit<'_>) {
        match visit {
            Visit::Page { row, .. } => {
                self.report.pages += 1;
                self.pages.insert(row.to_vec());
            }
            Visit::Entry { kind: Kind::Lookups, generation, key, .. } => {
                self.lookups.insert((*generation, **key));
            }
            Visit::Entry { kind: Kind::Directory, key, payload, .. } => match decode(payload) {
                Ok(DirectoryEntry::Subject(record)) => self.subjects.push((**key, record)),
                Ok(DirectoryEntry::Tombstone(_)) => {}
                Err(_) => self.problem("a directory entry does not decode".to_owned()),
            },
            Visit::Entry { kind: Kind::Tokens, key, payload, .. } if tokens::is_token(key) => {
                match decode::<TokenRecord>(payload) {
                    Ok(token) => self.tokens.push(token.uuid),
                    Err(_) => self.problem("a value token does not decode".to_owned()),
                }
            }
            Visit::Entry { kind: Kind::Tokens, payload, .. } => {
                self.listed += 1;
                if decode::<TokenOf>(payload).is_err() {
                    self.problem("an entry of a subject's list of value tokens does not decode".to_owned());
                }
            }
            Visit::Entry { .. } => {}
            Visit::Missing { kind, row } => {
                self.problem(format!("page {} of {kind:?} is missing, with all below it", place(row)));
            }
            Visit::Damaged { kind, row } => {
                self.pages.insert(row.to_vec());
                self.problem(format!("page {} of {kind:?} is damaged, with all below it", place(row)));
            }
        }
    }

    /// Every value token is in the list of a subject that is there: a shred left none behind.
    fn tokens(&mut self) {
        let subjects: HashSet<SubjectUuid> = self.subjects.iter().map(|(_, record)| record.uuid).collect();
        let orphans = self.tokens.iter().filter(|uuid| !subjects.contains(uuid)).count();
        if orphans > 0 {
            self.problem(format!("{orphans} value tokens are of subjects that are not there"));
        }
        let (found, listed) = (self.tokens.len(), self.listed);
        if found != listed {
            self.problem(format!("value tokens: {found} found, {listed} in the lists of their subjects"));
        }
    }

    /// A subject's lookup entries are there, and there are no others. A generation that retires may lack some.
    fn lookups(&mut self, generations: Generations) {
        let kept = |generation| match generations.beside {
            Some((beside, Duty::Building)) => generation == beside || generation == generations.serving,
            _ => generation == generations.serving,
        };
        let mut missing = 0;
        for (directory, record) in &self.subjects {
            let own = record.lookups_generation;
            for (refs, generation) in [(&record.lookups, own), (&record.next_lookups, own + 1)] {
                for listed in refs {
                    let found = self.lookups.remove(&(generation, subject::lookup_entry(listed.tag, directory)));
                    missing += usize::from(!found && kept(generation));
                }
            }
        }
        if missing > 0 {
            self.problem(format!("{missing} lookup entries are missing, of those that subjects list"));
        }
        if !self.lookups.is_empty() {
            let left = self.lookups.len();
            self.problem(format!("{left} lookup entries are of no subject that lists them"));
        }
    }

    /// Opens every field of a subject.
    async fn subject(&mut self, inner: &Inner, record: &SubjectRecord) -> Result<(), Error> {
        self.report.subjects += 1;
        for keys in &record.compartments {
            let place_of_row = record.row_place(keys);
            let at = place(&place_of_row.key());
            let opened = match subject::open_row(inner, &place_of_row).await {
                Ok(row) => row,
                Err(Error::Damaged(what)) => {
                    self.problem(format!("data row {at}: {what}"));
                    continue;
                }
                Err(Error::Store(StoreError::Corrupt(what))) => {
                    self.problem(format!("data row {at}: the engine does not read it ({what})"));
                    continue;
                }
                Err(other) => return Err(other),
            };
            if RowMetadata::open(&opened, &place_of_row).is_err() {
                self.problem(format!("data row {at}: the metadata of its fields does not open"));
            }
            for name in opened.fields.keys() {
                let field = subject::open_field(inner, &opened, name, &place_of_row).await;
                let decoded = field.and_then(|bytes| match keys.name == Compartment::system() {
                    true => notes::check(name, &bytes),
                    false => Ok(FieldValue::decode(&bytes).map(|_| ())?),
                });
                match decoded {
                    Ok(()) => self.report.fields += 1,
                    Err(Error::Store(error)) if !matches!(error, StoreError::Corrupt(_)) => return Err(error.into()),
                    Err(_) => self.problem(format!("data row {at}: field `{name}` does not open")),
                }
            }
        }
        Ok(())
    }

    /// Opens every older data key under its successor.
    async fn older_keys(
        &mut self,
        inner: &Inner,
        header: &Header,
        directory: &EntryKey,
        record: &SubjectRecord,
    ) -> Result<(), Error> {
        for keys in &record.compartments {
            let at = place(&record.row_place(keys).key());
            let versions = match deks::kept_versions(inner, header, directory, keys.ordinal).await {
                Err(error) if is_damage(&error) => {
                    self.problem(format!("data row {at}: its older data keys cannot be looked for"));
                    continue;
                }
                versions => versions?,
            };
            for version in versions {
                match deks::open_old(inner, header, directory, record, keys, version).await {
                    Ok(Some(_)) => {}
                    Ok(None) | Err(Error::Damaged(_) | Error::Store(StoreError::Corrupt(_))) => {
                        self.problem(format!("data row {at}: its older data key of version {version} does not open"));
                    }
                    Err(other) => return Err(other),
                }
            }
        }
        Ok(())
    }

    /// Counts the store's rows, and reports page rows that nothing leads to.
    async fn unreachable(&mut self, inner: &Inner, header: &Header) -> Result<(u64, u64), Error> {
        let (mut pages, mut rows) = (0, 0);
        let mut start = Vec::new();
        loop {
            let part = match inner.store.scan(&start, None, SCAN).await {
                Err(StoreError::Corrupt(what)) => {
                    self.problem(format!("the rows behind {} cannot be read through ({what})", place(&start)));
                    return Ok((pages, rows));
                }
                part => part?,
            };
            for (key, value) in &part {
                match key.first() {
                    Some(&row::PREFIX) => rows += 1,
                    Some(b'p') => {
                        pages += 1;
                        if !self.pages.contains(key) {
                            self.problem(format!("page {} is in the store, but nothing leads to it", place(key)));
                        }
                    }
                    _ if key == meta::KEY => {}
                    Some(&evidence::PREFIX) => {
                        if evidence::open(header, key, value).is_err() {
                            self.problem(format!("row {} with the evidence of a shred does not open", place(key)));
                        }
                    }
                    Some(&outbox::PREFIX) => {
                        if outbox::open(header, key, value).is_err() {
                            self.problem(format!("row {} of entries for the audit log does not open", place(key)));
                        }
                    }
                    _ => self.problem(format!("row {} is none of the vault's", place(key))),
                }
            }
            let Some((last, _)) = part.last() else { return Ok((pages, rows)) };
            start = [&last[..], &[0]].concat();
        }
    }
}

fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Damaged(_) | Error::Store(StoreError::Corrupt(_)))
}

fn row_of_header(header: &Header) -> Vec<u8> {
    header.current_row().map(<[u8]>::to_vec).unwrap_or_default()
}

/// Enough of a row's key to tell it from others; it is random, or a uuid.
pub(super) fn place(key: &[u8]) -> String {
    hex::encode(key.get(1..).unwrap_or_default()).chars().take(40).collect()
}
