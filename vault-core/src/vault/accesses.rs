//! Who saw what of a subject, and whose data a caller saw: both answered from the audit log.
//!
//! The log names subjects by pseudonyms that change every day. Who has a subject's audit key makes its pseudonyms and finds
//! its entries; the other way round, the pseudonyms that a part of the log has are held against those that every subject
//! of the directory has on these days. Without the key, after a shred, neither leads anywhere.

mod reach;

use std::collections::{BTreeMap, VecDeque};

pub use reach::{Reach, Reached};

use super::session::reading;
use super::{Vault, subject};
use crate::audit::{Action, Entry, Log, LogError, Outcome, Pseudonym, day_of};
use crate::crypto::AuditKey;
use crate::error::Error;
use crate::ids::{CallerId, FieldName, Purpose, SubjectId};
use crate::memory;
use crate::policy::Rule;
use crate::schema::Schema;
use crate::time::Timestamp;

/// The most accesses that one page answers.
pub const ACCESSES_MAX: usize = 1000;
/// Entries that one page of a subject's accesses looks at; it may find none of his and have a next.
const LOOK_MAX: u64 = 500_000;
/// Entries that are read at once.
const READ: usize = 1000;
/// Every entry begins with its time, which has a fixed length.
const AT: (&str, usize) = ("{\"at\":\"", 24);

/// A stretch of time, from its begin to before its end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Span {
    /// None for as early as there is something.
    pub from: Option<Timestamp>,
    /// None for as late as there is something.
    pub to: Option<Timestamp>,
}

/// One thing that was done with a subject's data, or refused.
#[derive(Clone, Debug)]
pub struct Access {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: Action,
    /// Who; none for what the vault does by itself.
    pub by: Option<CallerId>,
    /// The caller's name, if it was not forgotten.
    pub caller_name: Option<String>,
    /// What for.
    pub purpose: Option<Purpose>,
    /// Which fields, as they are called now.
    pub fields: Vec<FieldName>,
    /// How it ended.
    pub outcome: Outcome,
    /// The rule that refused.
    pub rule: Option<Rule>,
}

/// A page of them.
pub struct AccessPage {
    /// In the order of the log: the newest last.
    pub accesses: Vec<Access>,
    /// Where the next page starts; there may be one even if this one is empty.
    pub next: Option<String>,
}

/// The newest of them.
pub struct NewestAccesses {
    /// In the order of the log: the newest last.
    pub accesses: Vec<Access>,
    /// How many more there are, older than these.
    pub left_off: u64,
}

impl Vault {
    /// What was done with a subject's data, by whom and what for, in pages; nothing if the vault has no log.
    ///
    /// # Errors
    /// [`Error::UnknownSubject`]; [`Error::Shredded`]: then no entry can be told to be of it any more. [`Error::Invalid`] if
    /// `after` is not the `next` of an earlier page; [`Error::Log`].
    pub async fn accesses(
        &self,
        id: &SubjectId,
        span: Span,
        after: Option<&str>,
        limit: usize,
    ) -> Result<AccessPage, Error> {
        let from = after.map_or(Ok(0), parse_after)?;
        let looking = self.looking_for(id, span).await?;
        let Some(log) = self.inner.outbox.log().cloned() else {
            return Ok(AccessPage { accesses: Vec::new(), next: None });
        };
        let limit = limit.clamp(1, ACCESSES_MAX);
        let (entries, end) = blocking(move || looking.page(&log, from, limit)).await?;
        Ok(AccessPage { accesses: self.shown(entries)?, next: end.map(|index| index.to_string()) })
    }

    /// The newest of them, at most [`ACCESSES_MAX`].
    ///
    /// # Errors
    /// As [`Vault::accesses`].
    pub async fn newest_accesses(&self, id: &SubjectId) -> Result<NewestAccesses, Error> {
        let looking = self.looking_for(id, Span::default()).await?;
        let Some(log) = self.inner.outbox.log().cloned() else {
            return Ok(NewestAccesses { accesses: Vec::new(), left_off: 0 });
        };
        let (entries, left_off) = blocking(move || looking.newest(&log)).await?;
        Ok(NewestAccesses { accesses: self.shown(entries)?, left_off })
    }

    async fn looking_for(&self, id: &SubjectId, span: Span) -> Result<Looking, Error> {
        let session = self.session()?;
        let found = reading!(session, |snapshot| subject::find(&self.inner, &snapshot.header, id).await)?;
        let record = found.living(self.inner.options.tombstone_seconds)?;
        // A request is told by when it came, which is before it enrolled the subject.
        let earliest = Timestamp(record.enrolled_at.0.saturating_sub(24 * 3600 * 1000));
        let span = Span { from: span.from.max(Some(earliest)), ..span };
        Ok(Looking { key: record.audit_key, within: Within::of(span), today: None })
    }

    fn shown(&self, entries: Vec<Entry>) -> Result<Vec<Access>, Error> {
        let schema = self.schema()?;
        let names = self.caller_names();
        Ok(entries.into_iter().map(|entry| access(entry, &schema, &names)).collect())
    }

    /// The callers that are remembered, revoked ones among them.
    fn caller_names(&self) -> BTreeMap<CallerId, String> {
        let table = self.inner.callers.load();
        table.iter().flat_map(|table| table.known()).map(|caller| (caller.id, caller.name)).collect()
    }

    /// The callers of this id or name, revoked ones among them.
    pub fn callers_called(&self, named: &str) -> Vec<CallerId> {
        let names = self.caller_names();
        let by_id = CallerId::parse(named).ok();
        names.into_iter().filter(|(id, name)| by_id == Some(*id) || name == named).map(|(id, _)| id).collect()
    }
}

fn access(entry: Entry, schema: &Schema, names: &BTreeMap<CallerId, String>) -> Access {
    Access {
        at: entry.at,
        what: entry.what,
        by: entry.by,
        caller_name: entry.by.and_then(|id| names.get(&id).cloned()),
        purpose: entry.purpose,
        fields: entry.fields.into_iter().map(|id| named(schema, id)).collect(),
        outcome: entry.outcome,
        rule: entry.rule,
    }
}

/// What the field of this id is called now.
fn named(schema: &Schema, id: FieldName) -> FieldName {
    schema.field_by_id(&id).map_or(id, |spec| spec.name.clone())
}

/// Where a page starts.
fn parse_after(text: &str) -> Result<u64, Error> {
    text.parse().map_err(|_| Error::Invalid { field: "after", expected: "the `next` of the page before" })
}

/// Where a page starts, as it is asked for.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn parse_cursor(text: &str) -> bool {
    parse_after(text).is_ok()
}

async fn blocking<T: Send + 'static>(look: impl FnOnce() -> Result<T, LogError> + Send + 'static) -> Result<T, Error> {
    Ok(memory::blocking(look).await.map_err(|_| Error::Failed)??)
}

/// A stretch of time, as the text that times are compared by in entries.
struct Within {
    from: String,
    to: Option<String>,
}

impl Within {
    fn of(span: Span) -> Self {
        Self { from: span.from.unwrap_or(Timestamp(0)).to_string(), to: span.to.map(|to| to.to_string()) }
    }

    /// The time of an entry, as its text, if it is in the stretch.
    fn time_of<'l>(&self, line: &'l str) -> Option<&'l str> {
        let at = line.strip_prefix(AT.0)?.get(..AT.1)?;
        (at >= self.from.as_str() && self.to.as_deref().is_none_or(|to| at < to)).then_some(at)
    }
}

/// Entries of one subject are looked for.
struct Looking {
    key: AuditKey,
    within: Within,
    /// The day that was looked at last, as its text, and the pseudonym of that day.
    today: Option<(String, Pseudonym, String)>,
}

impl Looking {
    /// Up to `limit` entries from an index on, and where to go on.
    fn page(mut self, log: &Log, from: u64, limit: usize) -> Result<(Vec<Entry>, Option<u64>), LogError> {
        let mut entries = Vec::new();
        let end = log.size().min(from.saturating_add(LOOK_MAX));
        let stopped = each(log, from, end, |line| {
            entries.extend(self.own(line));
            entries.len() < limit
        })?;
        Ok((entries, (stopped < log.size()).then_some(stopped)))
    }

    /// The newest entries, and how many more there are.
    fn newest(mut self, log: &Log) -> Result<(Vec<Entry>, u64), LogError> {
        let (mut newest, mut left_off) = (VecDeque::new(), 0);
        each(log, 0, log.size(), |line| {
            newest.extend(self.own(line));
            if newest.len() > ACCESSES_MAX {
                newest.pop_front();
                left_off += 1;
            }
            true
        })?;
        Ok((newest.into(), left_off))
    }

    /// The entry, if it is of the subject and in the stretch of time. Most lines are passed over without reading them.
    fn own(&mut self, line: &str) -> Option<Entry> {
        let at = self.within.time_of(line)?;
        let (_, pseudonym, text) = self.of_day(at)?;
        if !line.contains(text.as_str()) {
            return None;
        }
        let pseudonym = *pseudonym;
        Entry::decode(line.as_bytes()).filter(|entry| entry.subjects.contains(&pseudonym))
    }

    fn of_day(&mut self, at: &str) -> Option<&(String, Pseudonym, String)> {
        let day = at.get(..10)?;
        if self.today.as_ref().is_none_or(|(known, ..)| known != day) {
            let pseudonym = Pseudonym(self.key.pseudonym(day_of(Timestamp::parse(at)?)));
            self.today = Some((day.to_owned(), pseudonym, hex::encode(pseudonym.0)));
        }
        self.today.as_ref()
    }
}

/// Calls `look` with each entry from `from` to before `end` until it answers `false`; answers the index behind the last.
fn each(log: &Log, from: u64, end: u64, mut look: impl FnMut(&str) -> bool) -> Result<u64, LogError> {
    let mut at = from;
    while at < end {
        let lines = log.read(at, READ.min(usize::try_from(end - at).unwrap_or(READ)))?;
        if lines.is_empty() {
            break;
        }
        for line in &lines {
            at += 1;
            if !look(std::str::from_utf8(line).unwrap_or_default()) {
                return Ok(at);
            }
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests;
