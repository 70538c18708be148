//! Whose data a caller saw in a stretch of time: what to tell whom, should its API token have been in wrong hands.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{AT, Span, Within, blocking, each, named, parse_after};
use crate::audit::{Action, Entry, Log, LogError, Outcome, Pseudonym, day_of, trail};
use crate::error::Error;
use crate::ids::{CallerId, FieldName, SubjectId};
use crate::time::Timestamp;
use crate::trie::EntryKey;
use crate::vault::records::{DirectoryEntry, SubjectRecord, SubjectState};
use crate::vault::session::reading;
use crate::vault::{Vault, subject};

/// Pseudonyms that one page holds in memory, and entries that it looks at. The directory is walked once a page.
const PSEUDONYMS_MAX: usize = 50_000;
const LOOK_MAX: u64 = 2_000_000;
/// Subjects that are read at once.
const SUBJECTS: usize = 1000;

/// Subjects whose data a caller saw. One that was seen often may be on several pages.
pub struct Reach {
    /// Whose, and what.
    pub subjects: Vec<Reached>,
    /// How often it saw data of subjects that no key is left of, or that are refused: nobody can tell any more who they were.
    pub unlinkable: u64,
    /// Where the next page starts; there may be one even if this one is empty.
    pub next: Option<String>,
}

/// One of them.
pub struct Reached {
    /// Who.
    pub subject: SubjectId,
    /// The fields that were shown, as they are called now.
    pub fields: BTreeSet<FieldName>,
    /// When first.
    pub first: Timestamp,
    /// When last.
    pub last: Timestamp,
    /// How often.
    pub count: u64,
}

/// What was seen under a pseudonym.
struct Seen {
    fields: BTreeSet<FieldName>,
    first: Timestamp,
    last: Timestamp,
    count: u64,
}

impl Action {
    /// Whether it shows data of the subjects that its entries name.
    pub fn shows(self) -> bool {
        matches!(
            self,
            Self::Read
                | Self::Lookup
                | Self::Describe
                | Self::Export
                | Self::Accesses
                | Self::Metadata
                | Self::Consent
                | Self::Hold
                | Self::TokenResolve
        )
    }
}

impl Vault {
    /// Whose data these callers saw, and which fields, in pages. What they were refused, and what they wrote, is not in it.
    ///
    /// A page takes memory for 50,000 pseudonyms at most, and for what it answers.
    ///
    /// # Errors
    /// [`Error::Invalid`] if `after` is not the `next` of an earlier page; [`Error::Log`].
    pub async fn reach(&self, callers: Vec<CallerId>, span: Span, after: Option<&str>) -> Result<Reach, Error> {
        let from = after.map_or(Ok(0), parse_after)?;
        let Some(log) = self.inner.outbox.log().cloned() else {
            self.session()?;
            return Ok(Reach { subjects: Vec::new(), unlinkable: 0, next: None });
        };
        let (mut seen, next) = blocking(move || look(&log, from, &callers, &Within::of(span))).await?;
        let subjects = self.linked(&mut seen).await?;
        let unlinkable = seen.values().map(|seen| seen.count).sum();
        Ok(Reach { subjects, unlinkable, next: next.map(|index| index.to_string()) })
    }

    /// Walks the directory once, and takes out what is some subject's.
    async fn linked(&self, seen: &mut HashMap<Pseudonym, Seen>) -> Result<Vec<Reached>, Error> {
        let session = self.session()?;
        let days: BTreeSet<u32> = seen.values().map(|seen| day_of(seen.first)).collect();
        let mut reached = Vec::new();
        let mut after: Option<EntryKey> = None;
        while !seen.is_empty() {
            let page =
                reading!(session, |snapshot| subject::page(&self.inner, &snapshot.header, after, SUBJECTS).await)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (_, entry) in &page {
                if let DirectoryEntry::Subject(record) = entry
                    && record.state == SubjectState::Active
                {
                    reached.extend(reached_of(record, &days, seen)?);
                }
            }
        }
        let schema = self.schema()?;
        let names = |fields: BTreeSet<FieldName>| fields.into_iter().map(|id| named(&schema, id)).collect();
        Ok(reached.into_iter().map(|one| Reached { fields: names(one.fields), ..one }).collect())
    }
}

fn reached_of(
    record: &SubjectRecord,
    days: &BTreeSet<u32>,
    seen: &mut HashMap<Pseudonym, Seen>,
) -> Result<Option<Reached>, Error> {
    let mut all: Option<Seen> = None;
    for &day in days {
        let Some(one) = seen.remove(&Pseudonym(record.audit_key.pseudonym(day))) else { continue };
        match &mut all {
            Some(all) => all.add(one),
            None => all = Some(one),
        }
    }
    let Some(Seen { fields, first, last, count }) = all else { return Ok(None) };
    trail::found(trail::name(&record.audit_key), []);
    Ok(Some(Reached { subject: SubjectId::parse(&record.subject)?, fields, first, last, count }))
}

impl Seen {
    fn of(entry: &Entry) -> Self {
        Self { fields: BTreeSet::new(), first: entry.at, last: entry.at, count: 0 }
    }

    fn note(&mut self, entry: &Entry) {
        self.fields.extend(entry.fields.iter().cloned());
        self.first = self.first.min(entry.at);
        self.last = self.last.max(entry.at);
        self.count += entry.count.unwrap_or(1);
    }

    fn add(&mut self, other: Self) {
        self.fields.extend(other.fields);
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        self.count += other.count;
    }
}

/// What the callers saw, by pseudonym, from an index of the log on, and where to go on.
fn look(
    log: &Log,
    from: u64,
    callers: &[CallerId],
    within: &Within,
) -> Result<(HashMap<Pseudonym, Seen>, Option<u64>), LogError> {
    let marks: BTreeMap<CallerId, String> = callers.iter().map(|id| (*id, format!("\"by\":\"{id}\""))).collect();
    let mut seen: HashMap<Pseudonym, Seen> = HashMap::new();
    let end = log.size().min(from.saturating_add(LOOK_MAX));
    let stopped = each(log, from, end, |line| {
        let rest = within.time_of(line).and_then(|_| line.get(AT.0.len() + AT.1..));
        if rest.is_some_and(|rest| marks.values().any(|mark| rest.contains(mark.as_str())))
            && let Some(entry) = Entry::decode(line.as_bytes())
            && entry.outcome == Outcome::Done
            && entry.what.shows()
            && entry.by.is_some_and(|by| marks.contains_key(&by))
        {
            for pseudonym in &entry.subjects {
                seen.entry(*pseudonym).or_insert_with(|| Seen::of(&entry)).note(&entry);
            }
        }
        seen.len() < PSEUDONYMS_MAX
    })?;
    Ok((seen, (stopped < log.size()).then_some(stopped)))
}
