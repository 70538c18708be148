//! What one request does, noted while it does it, so that its entry can be written before its answer leaves.
//!
//! A request runs in the scope of its [`Trail`]. Use cases note the subjects that they find and the fields that they show;
//! a commit takes what is noted up to then with it, and what is left at the end is the request's own entry. Outside of a
//! scope, in what the vault does by itself, noting does nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Action, Entry, Outcome, Pseudonym};
use crate::crypto::AuditKey;
use crate::error::Error;
use crate::ids::{CallerId, FieldName, Purpose};
use crate::policy::Rule;
use crate::time::Timestamp;

/// Subjects that one entry names at most, and fields: an entry stays well below 64 KiB.
const SUBJECTS_MAX: usize = 500;
const FIELDS_MAX: usize = 250;
const DAY_MILLIS: u64 = 24 * 3600 * 1000;

tokio::task_local! {
    static TRAIL: Option<Trail>;
}

/// The trail of one request; cheap to clone.
#[derive(Clone)]
pub struct Trail(Arc<Mutex<Noted>>);

struct Noted {
    at: Timestamp,
    what: Action,
    by: Option<CallerId>,
    purpose: Option<Purpose>,
    /// Since the last item or commit.
    open: Touched,
    /// Parts of a request that each ended in their own way, and that no commit took with it.
    items: Vec<Item>,
    /// Whether a commit took entries with it.
    committed: bool,
}

/// Whose data, and which.
#[derive(Clone, Default)]
struct Touched {
    subjects: BTreeSet<Pseudonym>,
    fields: BTreeSet<FieldName>,
}

struct Item {
    touched: Touched,
    outcome: Outcome,
    rule: Option<Rule>,
}

/// The day of a time, in days since 1970-01-01 (UTC): pseudonyms are of a day.
pub fn day_of(at: Timestamp) -> u32 {
    u32::try_from(at.0 / DAY_MILLIS).unwrap_or(u32::MAX)
}

impl Trail {
    /// The trail of what begins now.
    pub fn new(what: Action) -> Self {
        let (open, items) = (Touched::default(), Vec::new());
        let noted = Noted { at: Timestamp::now(), what, by: None, purpose: None, open, items, committed: false };
        Self(Arc::new(Mutex::new(noted)))
    }

    /// Runs a future in the scope of this trail. A task that it spawns is outside, unless [`carried`].
    pub async fn follow<F: Future>(&self, future: F) -> F::Output {
        TRAIL.scope(Some(self.clone()), future).await
    }

    /// What is asked for.
    pub fn what(&self) -> Action {
        self.noted().what
    }

    /// The caller, if it authenticated.
    pub fn by(&self) -> Option<CallerId> {
        self.noted().by
    }

    /// The entries that the request leaves besides those that went with its commits, now that it was answered with this
    /// status; none if there is nothing that those do not tell.
    pub fn entries(&self, status: u16, rule: Option<Rule>) -> Vec<Entry> {
        let mut noted = self.noted();
        let open = std::mem::take(&mut noted.open);
        let mut items = std::mem::take(&mut noted.items);
        if !(200..300).contains(&status) {
            // Nothing was shown, whatever was looked at.
            let touched = items.into_iter().fold(open, |all, item| all.and(item.touched));
            let entry = Entry { status: Some(status), rule, ..noted.entry(outcome_of(status)) };
            return spread(entry, touched);
        }
        if !open.is_empty() || (items.is_empty() && !noted.committed) {
            items.push(Item { touched: open, outcome: Outcome::Done, rule: None });
        }
        noted.grouped(items)
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a request ended that was answered with this status, which is not one of success.
fn outcome_of(status: u16) -> Outcome {
    if matches!(status, 401 | 403 | 423 | 429) { Outcome::Refused } else { Outcome::Failed }
}

/// Notes who makes the request in scope.
pub fn caller(id: CallerId) {
    with(|noted| noted.by = Some(id));
}

/// Notes the purpose that it named, which is a declared one of its own.
pub fn purpose(purpose: Option<Purpose>) {
    with(|noted| noted.purpose = purpose);
}

/// A future that stays in the present scope when it is spawned.
pub fn carried<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let trail = TRAIL.try_with(Clone::clone).ok().flatten();
    TRAIL.scope(trail, future)
}

/// Runs a future outside of any scope: it is not what the request asked for.
pub(crate) async fn aside<F: Future>(future: F) -> F::Output {
    TRAIL.scope(None, future).await
}

/// Notes a subject that the request is about.
pub(crate) fn subject(key: &AuditKey) {
    with(|noted| {
        let pseudonym = noted.pseudonym(key);
        noted.open.subjects.insert(pseudonym);
    });
}

/// Notes fields that are shown, by their ids.
pub(crate) fn fields<'f>(ids: impl IntoIterator<Item = &'f FieldName>) {
    with(|noted| noted.open.fields.extend(ids.into_iter().cloned()));
}

/// How the request in scope names a subject; none outside of a scope.
pub(crate) fn name(key: &AuditKey) -> Option<Pseudonym> {
    with(|noted| noted.pseudonym(key))
}

/// Notes a subject of many, and the fields that are shown of it.
pub(crate) fn found<'f>(name: Option<Pseudonym>, ids: impl IntoIterator<Item = &'f FieldName>) {
    part(name, ids, (Outcome::Done, None));
}

/// Notes a part of a request that is refused or fails.
pub(crate) fn failed<'f>(name: Option<Pseudonym>, ids: impl IntoIterator<Item = &'f FieldName>, error: &Error) {
    part(name, ids, end_of(error));
}

/// Notes a part of a request that can not be read, so that it is about nobody.
pub fn unread() {
    part(None, [], (Outcome::Failed, None));
}

fn part<'f>(
    name: Option<Pseudonym>,
    ids: impl IntoIterator<Item = &'f FieldName>,
    (outcome, rule): (Outcome, Option<Rule>),
) {
    with(|noted| {
        let touched = Touched { subjects: name.into_iter().collect(), fields: ids.into_iter().cloned().collect() };
        noted.items.push(Item { touched, outcome, rule });
    });
}

/// Ends a part of a request: what was noted since the part before is its.
pub(crate) fn ended<T>(result: &Result<T, Error>) {
    let (outcome, rule) = result.as_ref().err().map_or((Outcome::Done, None), end_of);
    with(|noted| {
        let touched = std::mem::take(&mut noted.open);
        noted.items.push(Item { touched, outcome, rule });
    });
}

fn end_of(error: &Error) -> (Outcome, Option<Rule>) {
    match error {
        Error::Refused { rule, .. } => (Outcome::Refused, Some(*rule)),
        _ => (Outcome::Failed, None),
    }
}

/// Forgets what was noted since the last part or commit: it is done again.
pub(crate) fn anew() {
    with(|noted| noted.open = Touched::default());
}

/// The entries of a change of one subject that is about to be committed; none outside of a scope.
pub(crate) fn change<'f>(key: &AuditKey, ids: impl IntoIterator<Item = &'f FieldName>) -> Vec<Entry> {
    with(|noted| {
        let subjects = BTreeSet::from([noted.pseudonym(key)]);
        spread(noted.entry(Outcome::Done), Touched { subjects, fields: ids.into_iter().cloned().collect() })
    })
    .unwrap_or_default()
}

/// The entries of a change about which nothing more is known than what was noted; none outside of a scope.
pub(crate) fn so_far() -> Vec<Entry> {
    with(|noted| spread(noted.entry(Outcome::Done), noted.open.clone())).unwrap_or_default()
}

/// A commit took its entries with it.
pub(crate) fn committed() {
    with(|noted| {
        noted.open = Touched::default();
        noted.committed = true;
    });
}

/// Puts an entry to those of a commit: together with the one before, if that tells the same of other subjects.
pub(crate) fn add(entries: &mut Vec<Entry>, next: Entry) {
    match entries.last_mut() {
        Some(last) if last.subjects.len() + next.subjects.len() <= SUBJECTS_MAX && tell_the_same(last, &next) => {
            last.subjects.extend(next.subjects);
            last.subjects.sort_unstable();
            last.subjects.dedup();
        }
        _ => entries.push(next),
    }
}

fn tell_the_same(one: &Entry, other: &Entry) -> bool {
    let nobody = |entry: &Entry| Entry { subjects: Vec::new(), ..entry.clone() };
    !one.subjects.is_empty() && !other.subjects.is_empty() && one.at == other.at && nobody(one) == nobody(other)
}

fn with<T>(note: impl FnOnce(&mut Noted) -> T) -> Option<T> {
    TRAIL.try_with(|trail| trail.as_ref().map(|trail| note(&mut trail.noted()))).ok().flatten()
}

impl Noted {
    fn pseudonym(&self, key: &AuditKey) -> Pseudonym {
        Pseudonym(key.pseudonym(day_of(self.at)))
    }

    fn entry(&self, outcome: Outcome) -> Entry {
        let entry = Entry::new(self.what, outcome);
        Entry { at: self.at, by: self.by, purpose: self.purpose.clone(), ..entry }
    }

    /// One entry for all items that tell the same of several subjects.
    fn grouped(&self, items: Vec<Item>) -> Vec<Entry> {
        let mut groups: BTreeMap<(BTreeSet<FieldName>, &str, Option<&str>), Group> = BTreeMap::new();
        for Item { touched, outcome, rule } in items {
            let key = (touched.fields, outcome.as_str(), rule.map(Rule::as_str));
            let group = groups.entry(key).or_insert_with(|| Group::of(outcome, rule));
            group.nameless += u64::from(touched.subjects.is_empty());
            group.subjects.extend(touched.subjects);
        }
        let mut entries = Vec::new();
        for ((fields, ..), Group { outcome, rule, subjects, nameless }) in groups {
            let entry = Entry { rule, ..self.entry(outcome) };
            if nameless > 0 {
                let nobody = Touched { subjects: BTreeSet::new(), fields: fields.clone() };
                entries.extend(spread(Entry { count: Some(nameless).filter(|&n| n > 1), ..entry.clone() }, nobody));
            }
            if !subjects.is_empty() {
                entries.extend(spread(entry, Touched { subjects, fields }));
            }
        }
        entries
    }
}

/// Items that share their entries.
struct Group {
    outcome: Outcome,
    rule: Option<Rule>,
    subjects: BTreeSet<Pseudonym>,
    /// Items of no subject that has a pseudonym.
    nameless: u64,
}

impl Group {
    fn of(outcome: Outcome, rule: Option<Rule>) -> Self {
        Self { outcome, rule, subjects: BTreeSet::new(), nameless: 0 }
    }
}

impl Touched {
    fn is_empty(&self) -> bool {
        self.subjects.is_empty() && self.fields.is_empty()
    }

    fn and(mut self, other: Self) -> Self {
        self.subjects.extend(other.subjects);
        self.fields.extend(other.fields);
        self
    }
}

/// As many entries as it takes.
fn spread(entry: Entry, touched: Touched) -> Vec<Entry> {
    let subjects: Vec<Pseudonym> = touched.subjects.into_iter().collect();
    let fields: Vec<FieldName> = touched.fields.into_iter().collect();
    let mut entries = Vec::new();
    for subjects in parts(&subjects, SUBJECTS_MAX) {
        for fields in parts(&fields, FIELDS_MAX) {
            entries.push(Entry { subjects: subjects.to_vec(), fields: fields.to_vec(), ..entry.clone() });
        }
    }
    entries
}

/// The parts of a list; one that is empty is one part.
fn parts<T>(all: &[T], size: usize) -> Vec<&[T]> {
    if all.is_empty() { vec![all] } else { all.chunks(size).collect() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::crypto::Random;

    fn key() -> AuditKey {
        AuditKey::draw(&mut Random::for_keys(1))
    }

    fn name(text: &str) -> FieldName {
        FieldName::parse(text).unwrap()
    }

    fn refused<T>() -> Result<T, Error> {
        Err(Error::Refused { rule: Rule::ConsentMissing, field: None })
    }

    #[tokio::test]
    async fn outside_of_a_scope_nothing_is_noted() {
        subject(&key());
        ended(&Ok::<(), Error>(()));
        assert!(change(&key(), []).is_empty() && so_far().is_empty());
        let trail = Trail::new(Action::Lock);
        trail.follow(aside(async { subject(&key()) })).await;
        assert!(trail.entries(200, None)[0].subjects.is_empty());
    }

    #[tokio::test]
    async fn one_entry_tells_the_caller_the_subject_and_what_it_saw() {
        let (trail, key, phone) = (Trail::new(Action::Read), key(), name("phone"));
        trail
            .follow(async {
                carried(async {
                    caller(CallerId([7; 16]));
                    purpose(Purpose::parse("support").ok());
                    subject(&key);
                    subject(&key);
                    fields([&phone]);
                })
                .await
            })
            .await;
        let [entry] = &trail.entries(200, None)[..] else { panic!("one entry") };
        assert_eq!((entry.what, entry.outcome, entry.by), (Action::Read, Outcome::Done, Some(CallerId([7; 16]))));
        assert_eq!(entry.subjects, [Pseudonym(key.pseudonym(day_of(entry.at)))]);
        assert_eq!((&entry.fields, entry.purpose.as_ref().unwrap().as_str()), (&vec![phone], "support"));
    }

    #[tokio::test]
    async fn an_answer_that_is_no_success_is_one_entry_with_its_reason() {
        for (status, outcome) in [(401, Outcome::Refused), (423, Outcome::Refused), (404, Outcome::Failed)] {
            let trail = Trail::new(Action::Read);
            trail.follow(async { found(super::name(&key()), [&name("phone")]) }).await;
            let [entry] = &trail.entries(status, Some(Rule::Role))[..] else { panic!("one entry") };
            assert_eq!((entry.outcome, entry.status, entry.rule), (outcome, Some(status), Some(Rule::Role)));
            assert_eq!(entry.subjects.len(), 1);
        }
    }

    #[tokio::test]
    async fn a_batch_tells_which_fields_of_which_subjects() {
        let trail = Trail::new(Action::Read);
        trail
            .follow(async {
                for n in 0..1100 {
                    subject(&key());
                    fields([&name(if n % 11 == 0 { "email" } else { "phone" })]);
                    ended(&Ok::<(), Error>(()));
                }
                subject(&key());
                ended(&refused::<()>());
                ended(&Err::<(), Error>(Error::UnknownSubject));
                ended(&Err::<(), Error>(Error::UnknownSubject));
            })
            .await;
        let entries = trail.entries(200, None);
        let told: Vec<_> = entries
            .iter()
            .map(|e| (e.outcome.as_str(), e.fields.first().map_or("", |f| f.as_str()), e.subjects.len(), e.count))
            .collect();
        assert_eq!(
            told,
            [
                ("failed", "", 0, Some(2)),
                ("refused", "", 1, None),
                ("done", "email", 100, None),
                ("done", "phone", 500, None),
                ("done", "phone", 500, None)
            ]
        );
        assert_eq!(entries[1].rule, Some(Rule::ConsentMissing));
    }

    #[tokio::test]
    async fn what_a_commit_took_is_not_told_again() {
        let trail = Trail::new(Action::Write);
        let taken = trail
            .follow(async {
                subject(&key());
                let taken = so_far();
                committed();
                taken
            })
            .await;
        assert_eq!((taken.len(), taken[0].subjects.len()), (1, 1));
        assert!(trail.entries(200, None).is_empty());
        let trail = Trail::new(Action::Write);
        trail.follow(async { committed() }).await;
        assert_eq!(trail.entries(503, None)[0].outcome, Outcome::Failed, "and what went wrong then is");
    }

    #[tokio::test]
    async fn changes_of_many_subjects_share_entries() {
        let trail = Trail::new(Action::Write);
        let mut entries = Vec::new();
        trail
            .follow(async {
                for n in 0..700 {
                    let fields = [name(if n < 600 { "phone" } else { "email" })];
                    change(&key(), &fields).into_iter().for_each(|entry| add(&mut entries, entry));
                }
            })
            .await;
        let sizes: Vec<usize> = entries.iter().map(|entry| entry.subjects.len()).collect();
        assert_eq!(sizes, [500, 100, 100]);
        let most = Entry { fields: vec![name(&"f".repeat(60)); FIELDS_MAX], ..entries[0].clone() };
        assert!(most.encode().len() < 48 * 1024, "{}", most.encode().len());
    }
}
