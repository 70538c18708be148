//! Any row of the store damaged in any way, below the engine's own checks: always told, or without effect.
//!
//! A small vault that holds one of everything is built, with every version of every row kept. Each case damages one row of
//! a copy, verifies it, serves it and asks for everything, and salvages it. What is answered is what was written, or an
//! error that says damage. Only where an older version of a row is put back, which is not promised to be noticed, may an
//! answer be an older one.
//!
//! `UDV_TEST_CASES=20000` tries more cases, `UDV_TEST_SEED=7` repeats a run's choices.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Once};
use std::time::Duration;

use tempfile::TempDir;

use super::super::tests::{Fixture, erasure_of, full, id, name, slot};
use super::super::*;
use crate::audit::Log;
use crate::crypto::UnlockKey;
use crate::fuzzing::mutate::{Dice, corpora, number_from};
use crate::ids::{CallerId, ErasureId, HoldName, Purpose, SubjectId};
use crate::root::Unlock;
use crate::schema::View;
use crate::store::{Batch, Fault, MemoryStore, Row, Store};
use crate::time::Timestamp;
use crate::trie::{Visit, walk};

const ME: CallerId = CallerId([1; 16]);
const LIMIT: Duration = Duration::from_secs(60);

thread_local! {
    static PANICS: Cell<usize> = const { Cell::new(0) };
}

/// Counts the panics of this thread, on which everything of a vault runs here: a task that panics takes its panic with it.
fn count_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANICS.with(|panics| panics.set(panics.get() + 1));
            before(info);
        }));
    });
}

/// What is answered to a question.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fact {
    Is(String),
    /// It is not there.
    Absent(&'static str),
    /// Damage, said so.
    Told,
    /// An error that nobody expects.
    Strange(String),
}

impl Fact {
    fn of<T>(answer: Result<T, Error>, text: impl FnOnce(T) -> String) -> Self {
        match answer {
            Ok(value) => Self::Is(text(value)),
            Err(Error::UnknownSubject) => Self::Absent("no such subject"),
            Err(Error::NoSuchField) => Self::Absent("no such field"),
            Err(Error::NotFound(_)) => Self::Absent("not found"),
            Err(Error::Shredded) => Self::Absent("shredded"),
            Err(Error::Unauthenticated) => Self::Absent("unauthenticated"),
            Err(Error::Refused { .. }) => Self::Is("refused by policy".into()),
            Err(Error::Damaged(_)) => Self::Told,
            Err(other) => Self::Strange(format!("{other:?}")),
        }
    }
}

type Facts = BTreeMap<String, Fact>;

/// What is asked for, and what is needed to ask.
#[derive(Clone, Default)]
struct Questions {
    subjects: BTreeSet<String>,
    lookups: BTreeSet<(&'static str, String)>,
    erasures: BTreeSet<ErasureId>,
    value_token: String,
    api_token: String,
}

const FIELDS: [&str; 5] = ["email", "nickname", "phone", "device", "birth_date"];

impl Questions {
    async fn ask(&self, vault: &Vault) -> Facts {
        let mut facts = Facts::new();
        for subject in &self.subjects {
            let id = id(subject);
            for field in FIELDS {
                let read = vault.read_fields(&id, Some(&[name(field)]), &full()).await;
                let fact =
                    Fact::of(read, |read| format!("{} {}", read.fields[0].stamp.version, &*read.fields[0].value));
                facts.insert(format!("{subject}.{field}"), fact);
            }
            let fact = Fact::of(vault.consents(&id).await, |consents| format!("{consents:?}"));
            facts.insert(format!("{subject} consents"), fact);
            facts.insert(format!("{subject} export"), Fact::of(vault.export(&id).await, |export| told(&export)));
            let metadata = vault.metadata(&id, &name("email")).await;
            facts.insert(format!("{subject} metadata"), Fact::of(metadata, |metadata| format!("{metadata:?}")));
        }
        for (field, value) in &self.lookups {
            let found = vault.look_up(&full().reader, &name(field), value, None, None, 100).await;
            let fact = Fact::of(found, |page| {
                let found: BTreeSet<&str> = page.subjects.iter().map(SubjectId::as_str).collect();
                format!("{found:?}")
            });
            facts.insert(format!("look up {field} {value}"), fact);
        }
        let item = ResolveItem { token: &self.value_token, view: View::Full };
        let resolved = vault.resolve_token(item, &full().reader, ME).await;
        facts.insert("value token".into(), Fact::of(resolved, |resolved| resolved.value.to_string()));
        let caller = |caller: Caller| format!("{} {:?} {:?}", caller.name, caller.role, caller.purposes);
        facts.insert("API token".into(), Fact::of(vault.authenticate(&self.api_token), caller));
        let callers = vault.callers().map(|callers| callers.into_iter().map(caller).collect::<Vec<_>>().join(", "));
        facts.insert("callers".into(), Fact::of(callers, |callers| callers));
        for erasure in &self.erasures {
            let shown = vault.erasure(*erasure).await;
            let fact = Fact::of(shown, |e| format!("{:?} {:?} {} {:?}", e.state, e.counts, e.reason, e.not_before));
            facts.insert(format!("erasure {erasure}"), fact);
        }
        let held = vault.held(None, 100).await;
        facts.insert("held".into(), Fact::of(held, |(held, _)| format!("{held:?}")));
        facts.insert("schema".into(), Fact::of(vault.schema(), |schema| schema.document().to_json()));
        let rotations = vault.rotations().await;
        // One that an older row tells of as under way goes on by itself, and whether it has ended by now is chance.
        let state = |rotation: &Rotation| match rotation.state {
            RotationState::Queued | RotationState::Running => RotationState::Done,
            ended => ended,
        };
        let rotation = |rotation: &Rotation| format!("{:?} {:?}", rotation.layer, state(rotation));
        facts.insert(
            "rotations".into(),
            Fact::of(rotations, |all| all.iter().map(rotation).collect::<Vec<_>>().join(", ")),
        );
        facts
    }
}

/// An export without its time.
fn told(export: &Export) -> String {
    let fields: Vec<String> = export
        .fields
        .iter()
        .map(|field| {
            let value = field.value.as_ref().map(|value| value.given());
            format!("{:?} {:?} {:?}", field.stamp, value, field.metadata)
        })
        .collect();
    let Export { consents, restriction, holds, standing, .. } = export;
    format!("{standing:?} {consents:?} {restriction:?} {holds:?} {fields:?}")
}

/// A vault's rows, and its files beside.
struct Image {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    history: Vec<Row>,
    dir: TempDir,
    key: UnlockKey,
    questions: Questions,
    /// What is true of it.
    facts: Facts,
    /// What was true once, at whichever step of the building.
    once: BTreeMap<String, BTreeSet<Fact>>,
    /// What each row is, for a person.
    kinds: BTreeMap<Vec<u8>, &'static str>,
}

/// One of everything, an older version of most rows behind it.
async fn image() -> Image {
    let fixture = Fixture::on(Arc::new(MemoryStore::keeping())).await;
    let vault = &fixture.vault;
    let mut questions = Questions::default();
    let mut once: BTreeMap<String, BTreeSet<Fact>> = BTreeMap::new();
    macro_rules! now {
        () => {
            for (question, fact) in questions.ask(vault).await {
                once.entry(question).or_default().insert(fact);
            }
        };
    }
    let caller = NewCaller {
        name: "shop".into(),
        role: Role::Service,
        purposes: [Purpose::parse("support").unwrap()].into(),
        expires_at: None,
        lookups_per_minute: None,
    };
    questions.api_token = vault.create_caller(caller, None).await.unwrap().1.to_string();
    questions.subjects.insert("nobody".into());
    for n in 0..14 {
        let (subject, email) = (format!("s{n}"), format!(r#""user{n}@example.org""#));
        let phone = format!(r#""+9715012{n:05}""#);
        fixture.put(&subject, &[("email", &email), ("nickname", r#""first""#), ("phone", &phone)]).await.unwrap();
        questions.subjects.insert(subject);
        questions.lookups.extend([("email", email), ("phone", phone)]);
    }
    questions.lookups.insert(("email", r#""nobody@example.org""#.into()));
    now!();
    let large = format!(r#"{{"n": "{}"}}"#, "x".repeat(6000));
    fixture.put("s1", &[("device", &large), ("birth_date", r#""1990-02-03""#)]).await.unwrap();
    fixture.put("s2", &[("email", r#""changed@example.org""#), ("nickname", r#""second""#)]).await.unwrap();
    questions.lookups.insert(("email", r#""changed@example.org""#.into()));
    let patch = MetadataPatch { source: Some(Some("a form".into())), ..MetadataPatch::default() };
    vault.change_metadata(&id("s2"), &name("email"), patch).await.unwrap();
    let marketing = Purpose::parse("marketing").unwrap();
    vault.give_consent(&id("s3"), &marketing, "1", "form", ME).await.unwrap();
    vault.restrict(&id("s4"), Some("a dispute")).await.unwrap();
    vault.add_hold(&id("s5"), &HoldName::parse("case_1").unwrap(), "lawsuit", ME).await.unwrap();
    now!();
    let token = NewToken {
        subject: id("s6"),
        field: name("email"),
        ttl: None,
        single_use: false,
        shape: TokenShape::Random,
        purpose: None,
        caller: None,
    };
    questions.value_token = vault.create_token(token).await.unwrap().token.to_string();
    now!();
    questions.erasures.insert(fixture.shred(&["s12"]).await.id);
    now!();
    fixture.rotate(Layer::Lookups).await;
    fixture.rotate(NewRotation::Deks { which: DeksOf::All, forget: false }).await;
    fixture.rotate(Layer::Keks).await;
    now!();
    let later = Timestamp::now().plus_seconds(24 * 3600);
    let pending = NewErasure { not_before: Some(later), ..erasure_of(vec![id("s10")]) };
    questions.erasures.insert(vault.shred(pending, None).await.unwrap().made.id);
    let refused = NewErasure { not_before: Some(later), refuse_now: true, ..erasure_of(vec![id("s11")]) };
    questions.erasures.insert(vault.shred(refused, None).await.unwrap().made.id);
    let document = vault.schema().unwrap().document().clone();
    let mut document: serde_json::Value = serde_json::from_str(&document.to_json()).unwrap();
    document["fields"]["shoe_size"] = serde_json::json!({ "type": "integer" });
    let document = crate::schema::Document::from_json(&document.to_string()).unwrap();
    vault.put_schema(document, None).await.unwrap();
    now!();
    fixture.put("s7", &[("nickname", r#""last""#)]).await.unwrap();
    now!();

    Image::of(&fixture, questions, once).await
}

/// As a kill leaves it between a root batch and what follows: the evidence of the shred is in the store, and two roots are
/// in the slot.
async fn image_of_a_shred_cut_short() -> Image {
    for commits in 0..20 {
        let fixture = Fixture::on(Arc::new(MemoryStore::keeping())).await;
        let mut questions = Questions::default();
        for subject in ["a", "b", "c"] {
            let email = format!(r#""{subject}@example.org""#);
            fixture.put(subject, &[("email", &email)]).await.unwrap();
            questions.subjects.insert(subject.into());
            questions.lookups.insert(("email", email));
        }
        let facts = questions.ask(&fixture.vault).await;
        let once = facts.into_iter().map(|(question, fact)| (question, BTreeSet::from([fact]))).collect();
        fixture.store.fail_commit_after(commits, Fault::InDoubtLanded);
        if let Ok(asked) = fixture.vault.shred(erasure_of(vec![id("b")]), None).await {
            let ended = fixture.vault.wait_final(asked.made.id, Duration::from_secs(20));
            tokio::select! { _ = ended => {}, () = fixture.vault.failed() => {} }
        }
        if !fixture.store.scan(b"v", Some(b"w"), 1).await.unwrap().is_empty() {
            return Image::of(&fixture, questions, once).await;
        }
    }
    panic!("no shred was cut short there");
}

impl Image {
    /// As a kill leaves it: with rows in the outbox.
    async fn of(fixture: &Fixture, questions: Questions, once: BTreeMap<String, BTreeSet<Fact>>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(fixture.dir.path(), dir.path());
        let rows: BTreeMap<_, _> = fixture.store.scan(&[], None, usize::MAX).await.unwrap().into_iter().collect();
        let history = fixture.store.every_version();
        let (key, facts, kinds) = (fixture.key.duplicate(), Facts::new(), BTreeMap::new());
        let mut image = Self { rows, history, dir, key, questions, facts, once, kinds };
        image.kinds = image.kinds_of_rows().await;
        assert_eq!(image.verified(&image.rows).await, [""; 0], "the control: nothing is listed");
        image.facts = image.served(&image.rows).await.unwrap();
        assert_eq!(image.served(&image.rows).await.unwrap(), image.facts, "the control: the answers are the same");
        assert!(image.facts.values().all(|fact| *fact != Fact::Told), "the control: nothing is damaged");
        for (question, fact) in &image.facts {
            // What was not asked from the beginning was not there then.
            let once = image.once.entry(question.clone()).or_default();
            once.extend([fact.clone(), Fact::Absent("not found")]);
        }
        image
    }

    async fn kinds_of_rows(&self) -> BTreeMap<Vec<u8>, &'static str> {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(self.dir.path(), dir.path());
        let store = Self::store(&self.rows).await;
        let vault = Vault::open(store, &[slot(&dir).into()], VaultOptions::default()).await.unwrap();
        vault.unlock_at_rest(self.unlock()).await.unwrap();
        let header = vault.session().unwrap().snapshot().header.clone();
        let mut kinds = BTreeMap::new();
        walk(&vault.inner.pages, &header, &mut |visit| {
            if let Visit::Page { kind, row, .. } = visit {
                kinds.insert(row.to_vec(), kind_of(kind));
            }
        })
        .await
        .unwrap();
        kinds.insert(header.current_row().unwrap().to_vec(), "header");
        for key in self.rows.keys() {
            kinds.entry(key.clone()).or_insert_with(|| match (key[0], key.len()) {
                (b'm', _) => "META",
                (b'd', row::KEY_LEN) => "data row",
                (b'd', _) => "large field",
                (b'o', _) => "outbox",
                (b'v', _) => "evidence",
                other => panic!("a row that nobody knows: {other:?}"),
            });
        }
        kinds
    }
}

fn kind_of(kind: crate::trie::Kind) -> &'static str {
    use crate::trie::Kind::{Callers, Directory, Erasures, Lookups, System, Tokens};
    match kind {
        Directory => "page of the directory",
        Lookups => "page of lookups",
        Erasures => "page of erasures",
        Callers => "page of callers",
        System => "page of the system's",
        Tokens => "page of tokens",
    }
}

fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), &target).unwrap()),
        }
    }
}

/// What is done to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Op {
    FlipFirst,
    FlipMiddle,
    FlipLast,
    FlipAny,
    FlipKeyFirst,
    FlipKeyMiddle,
    FlipKeyLast,
    CutOne,
    CutHalf,
    CutAll,
    Longer,
    ZeroAll,
    ZeroSome,
    Delete,
    Swap,
    /// An older version of it.
    Older,
}

impl Op {
    const ALL: [Op; 16] = [
        Op::FlipFirst,
        Op::FlipMiddle,
        Op::FlipLast,
        Op::FlipAny,
        Op::FlipKeyFirst,
        Op::FlipKeyMiddle,
        Op::FlipKeyLast,
        Op::CutOne,
        Op::CutHalf,
        Op::CutAll,
        Op::Longer,
        Op::ZeroAll,
        Op::ZeroSome,
        Op::Delete,
        Op::Swap,
        Op::Older,
    ];
}

impl Image {
    /// The rows with one of them damaged; none if this cannot be done to it.
    fn damaged(&self, key: &[u8], op: Op, dice: &mut Dice) -> Option<BTreeMap<Vec<u8>, Vec<u8>>> {
        let mut rows = self.rows.clone();
        let value = rows.get_mut(key).unwrap();
        let len = value.len();
        match op {
            Op::FlipFirst => value[0] ^= 1,
            Op::FlipMiddle => value[len / 2] ^= 1 << dice.roll(8),
            Op::FlipLast => value[len - 1] ^= 1,
            Op::FlipAny => value[dice.roll(len)] ^= 1 << dice.roll(8),
            Op::CutOne => value.truncate(len - 1),
            Op::CutHalf => value.truncate(len / 2),
            Op::CutAll => value.clear(),
            Op::Longer => value.push(0),
            Op::ZeroAll => value.fill(0),
            Op::ZeroSome => {
                let from = dice.roll(len);
                value[from..(from + 16).min(len)].fill(0);
            }
            Op::FlipKeyFirst | Op::FlipKeyMiddle | Op::FlipKeyLast => {
                let value = rows.remove(key).unwrap();
                let mut key = key.to_vec();
                let at = match op {
                    Op::FlipKeyFirst => 0,
                    Op::FlipKeyMiddle => key.len() / 2,
                    _ => key.len() - 1,
                };
                key[at] ^= 1 << dice.roll(8);
                rows.insert(key, value);
            }
            Op::Delete => drop(rows.remove(key)),
            Op::Swap => {
                let kind = self.kinds[key];
                let others: Vec<_> = self.rows.keys().filter(|k| *k != key && self.kinds[*k] == kind).collect();
                let other = (*others.get(dice.roll(others.len()))?).clone();
                let (one, two) = (self.rows[key].clone(), self.rows[&other].clone());
                rows.insert(key.to_vec(), two);
                rows.insert(other, one);
            }
            Op::Older => {
                let older: Vec<_> =
                    self.history.iter().filter(|(k, v)| k == key && *v != self.rows[key]).map(|(_, v)| v).collect();
                *value = (*older.get(dice.roll(older.len()))?).clone();
            }
        }
        (rows != self.rows).then_some(rows)
    }

    async fn store(rows: &BTreeMap<Vec<u8>, Vec<u8>>) -> Arc<MemoryStore> {
        let store = MemoryStore::new();
        let put = rows.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        store.commit(Batch { put, ..Batch::default() }).await.unwrap();
        Arc::new(store)
    }

    fn unlock(&self) -> Unlock {
        Unlock::KeyFile(self.key.duplicate())
    }

    /// What `verify` says: nothing, or what it found or why it could not begin.
    async fn verified(&self, rows: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(self.dir.path(), dir.path());
        let verified = async {
            let vault = Vault::open(Self::store(rows).await, &[slot(&dir).into()], VaultOptions::default()).await?;
            vault.unlock_at_rest(self.unlock()).await?;
            let report = vault.verify(&|_, _| ()).await?;
            vault.close().await?;
            Ok::<_, Error>(report.problems)
        };
        verified.await.unwrap_or_else(|error| vec![refusal(&error)])
    }

    /// What a server answers, or why it does not start.
    async fn served(&self, rows: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<Facts, String> {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(self.dir.path(), dir.path());
        let log = Log::open(&dir.path().join("audit")).unwrap();
        let served = async {
            let options = VaultOptions { log: Some(log.clone()), ..VaultOptions::default() };
            let vault = Vault::open(Self::store(rows).await, &[slot(&dir).into()], options).await?;
            vault.unlock(self.unlock()).await?;
            let facts = self.questions.ask(&vault).await;
            vault.close().await?;
            Ok::<_, Error>(facts)
        };
        served.await.map_err(|error| refusal(&error))
    }

    /// Values that a salvage finds, by subject and field; none if it is refused.
    async fn salvaged(&self, rows: &BTreeMap<Vec<u8>, Vec<u8>>) -> Option<(BTreeMap<String, String>, SalvageReport)> {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(self.dir.path(), dir.path());
        let places = [slot(&dir).into()];
        let store = Self::store(rows).await;
        let mut salvage = match Salvage::open(store, &places, self.unlock(), VaultOptions::default(), &|_, _| ()).await
        {
            Ok(salvage) => salvage,
            Err(error) => {
                refusal(&error);
                return None;
            }
        };
        let mut values = BTreeMap::new();
        while let Some(found) = salvage.next().await.unwrap() {
            for field in &found.fields {
                let value = format!("{} {}", field.stamp.version, field.value.given());
                values.insert(format!("{}.{}", found.subject.as_str(), field.stamp.name), value);
            }
        }
        Some((values, salvage.finish().await.unwrap()))
    }
}

/// A refusal must be one of damage.
fn refusal(error: &Error) -> String {
    let of_damage = matches!(
        error,
        Error::Damaged(_) | Error::Root(_) | Error::Slot(_) | Error::OlderThanLog { .. } | Error::OtherLog { .. }
    );
    assert!(of_damage, "a refusal that does not say damage: {error:?}");
    error.to_string()
}

/// How many cases went which way.
#[derive(Debug, Default)]
struct Tally {
    cases: usize,
    not_started: usize,
    served_with_damage: usize,
    without_effect: usize,
    older_answers: usize,
    missing_and_listed: usize,
    older_unnoticed: usize,
    /// The case at hand.
    case: String,
    faults: Vec<String>,
}

impl Tally {
    fn holds(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.faults.push(format!("{}: {}", self.case, otherwise()));
        }
    }
}

async fn case(image: &Image, rows: &BTreeMap<Vec<u8>, Vec<u8>>, what: &str, op: Op, tally: &mut Tally) {
    let listed = image.verified(rows).await;
    // Whether it is noticed at all. What the log has already may go from the outbox; and of a shred whose evidence went
    // the log never tells, which the check of the log is for.
    let aside = op == Op::Delete && (what == "outbox" || what == "evidence");
    if op == Op::Older {
        tally.older_unnoticed += usize::from(listed.is_empty());
    } else {
        tally.holds(!listed.is_empty() || aside, || "verify finds nothing".into());
    }
    match image.served(rows).await {
        Err(why) => {
            // Which the rows are held against the log for, and not among themselves.
            let older = why.contains("older than its audit log");
            let noticed = !listed.is_empty() || op == Op::Older && older;
            tally.holds(noticed, || format!("verify finds nothing, and it does not start: {why}"));
            tally.not_started += 1;
        }
        Ok(facts) => {
            let mut differs = false;
            for (question, fact) in &facts {
                let Some(right) = image.facts.get(question) else { continue };
                differs |= fact != right;
                if fact == right || *fact == Fact::Told {
                    continue;
                }
                let once = image.once.get(question).is_some_and(|once| once.contains(fact));
                if op == Op::Older && (once || question.ends_with("export")) {
                    tally.older_answers += 1;
                    continue;
                }
                tally.holds(op == Op::Older && !listed.is_empty() && is_less(fact, right), || {
                    format!("{question}: {fact:?} instead of {right:?}; verify: {listed:?}")
                });
                tally.missing_and_listed += 1;
            }
            match differs {
                true => tally.served_with_damage += 1,
                false => tally.without_effect += 1,
            }
        }
    }
    if let Some((values, report)) = image.salvaged(rows).await {
        for (question, value) in &values {
            let fact = Fact::Is(value.clone());
            let once = image.once.get(question).is_some_and(|once| once.contains(&fact));
            let right = image.facts.get(question) == Some(&fact);
            let fits = right || restricted(question) || (op == Op::Older && once);
            tally.holds(fits, || format!("salvaged {question}: {value}"));
        }
        let is_value = |question: &str| !question.contains(' ') && question.contains('.') && !restricted(question);
        let all = image.facts.iter().filter(|(q, f)| is_value(q) && matches!(f, Fact::Is(_))).count();
        let lost = report.fields_lost + report.compartments_lost + report.lost + report.without_trace().unwrap_or(1);
        let few = || format!("{} of {all} values, and nothing is said to be lost", values.len());
        tally.holds(values.len() >= all || lost > 0, few);
    }
    let panics = PANICS.replace(0);
    tally.holds(panics == 0, || format!("{panics} panics"));
}

/// Its processing is restricted, so that a read is refused, and a salvage gives what is held.
fn restricted(question: &str) -> bool {
    question.starts_with("s4.")
}

/// Whether an answer only lacks something.
fn is_less(fact: &Fact, right: &Fact) -> bool {
    match (fact, right) {
        (Fact::Absent(_), _) => true,
        (Fact::Is(fact), Fact::Is(right)) => fact.len() < right.len(),
        _ => false,
    }
}

#[tokio::test]
async fn every_row_damaged_in_every_way_is_told_or_without_effect() {
    let tally = torture(&image().await, 10).await;
    assert!(tally.not_started > 10 && tally.served_with_damage > 10, "{tally:?}");
}

#[tokio::test]
async fn every_row_of_a_shred_cut_short_too() {
    let tally = torture(&image_of_a_shred_cut_short().await, 5).await;
    assert!(tally.not_started > 5 && tally.served_with_damage > 5, "{tally:?}");
}

/// One bit is between the letters of some kinds of rows: a row of entries for the log may turn up where META is.
#[tokio::test]
async fn a_row_that_is_nobodys_is_listed_whatever_its_first_byte() {
    let image = image().await;
    assert_eq!(image.verified(&image.rows).await, [""; 0], "the control");
    // A data row that no subject leads to may be what a shred has left over.
    for first in (0..=u8::MAX).filter(|first| *first != row::PREFIX) {
        let mut rows = image.rows.clone();
        rows.insert([first, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0].to_vec(), b"whatever".to_vec());
        assert_ne!(image.verified(&rows).await, [""; 0], "{:?}", char::from(first));
    }
}

#[tokio::test]
async fn the_torture_sees_a_wrong_answer_and_a_missing_subject() {
    count_panics();
    let mut image = image_of_a_shred_cut_short().await;
    let mut tally = Tally::default();
    case(&image, &image.rows, "data row", Op::Older, &mut tally).await;
    assert_eq!(tally.faults, [""; 0], "the control's control");
    for (question, other) in [("a.email", Fact::Is("1 another".into())), ("nobody.email", Fact::Is("x".into()))] {
        image.questions.subjects.insert("nobody".into());
        let right = image.facts.insert(question.into(), other);
        image.once.clear();
        let mut tally = Tally::default();
        case(&image, &image.rows, "data row", Op::FlipAny, &mut tally).await;
        let seen = |what: &str| tally.faults.iter().any(|fault| fault.contains(what));
        assert!(seen(question) && seen("verify finds nothing"), "{:?}", tally.faults);
        right.into_iter().for_each(|right| drop(image.facts.insert(question.into(), right)));
    }
}

/// Of each kind of row one in each way, then any.
async fn torture(image: &Image, kinds_at_least: usize) -> Tally {
    let seed = number_from("UDV_TEST_SEED").unwrap_or(Timestamp::now().0);
    eprintln!("UDV_TEST_SEED={seed}");
    count_panics();
    let (mut dice, mut tally) = (Dice(seed), Tally::default());
    let kinds: Vec<&str> = BTreeSet::from_iter(image.kinds.values().copied()).into_iter().collect();
    assert!(kinds.len() >= kinds_at_least, "{kinds:?}");
    let mut cases: Vec<(&str, Op)> = kinds.iter().flat_map(|kind| Op::ALL.map(|op| (*kind, op))).collect();
    while (cases.len() as u64) < number_from("UDV_TEST_CASES").unwrap_or(0) {
        cases.push((kinds[dice.roll(kinds.len())], Op::ALL[dice.roll(Op::ALL.len())]));
    }
    for (kind, op) in cases {
        let keys: Vec<_> = image.kinds.iter().filter(|(_, of)| **of == kind).map(|(key, _)| key).collect();
        let key = keys[dice.roll(keys.len())];
        // Not every row has another of its kind, or an older version.
        let Some(rows) = image.damaged(key, op, &mut dice) else { continue };
        tally.case = format!("case {}, {op:?} of {kind} {}", tally.cases, hex::encode(key));
        tokio::time::timeout(LIMIT, case(image, &rows, kind, op, &mut tally)).await.expect("it hangs");
        tally.cases += 1;
    }
    eprintln!("{}", tally.faults.join("\n"));
    let faults = std::mem::take(&mut tally.faults).len();
    eprintln!("{tally:?}");
    assert_eq!(faults, 0, "see above");
    tally
}

/// Writes what corpora can be made of by a vault, beside what `crate::fuzzing` makes by code.
#[tokio::test]
#[ignore = "writes into the tree"]
async fn write_the_corpora_of_a_vault() {
    let image = image().await;
    let put = |decoder: &str, bytes: &[u8]| {
        if !crate::fuzzing::run(decoder, bytes) {
            // Some entries hold bare bytes.
            return;
        }
        let dir = corpora().join(decoder);
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(hex::encode(&crate::crypto::digest(bytes)[..8])), bytes).unwrap();
    };
    let store = Image::store(&image.rows).await;
    let vault = Vault::open(store, &[slot(&image.dir).into()], VaultOptions::default()).await.unwrap();
    vault.unlock_at_rest(image.unlock()).await.unwrap();
    let header = vault.session().unwrap().snapshot().header.clone();
    let (mut seen, mut subjects) = (BTreeMap::<_, usize>::new(), Vec::new());
    walk(&vault.inner.pages, &header, &mut |visit| {
        if let Visit::Entry { kind, payload, key, .. } = visit {
            // Of each kind a few of each length.
            let count = seen.entry((kind, payload.len())).or_default();
            *count += 1;
            if *count == 1 && payload.len() < 4000 {
                put("payload", payload);
            }
            if kind == crate::trie::Kind::Directory {
                subjects.push(*key);
            }
        }
    })
    .await
    .unwrap();
    for key in subjects {
        let found = subject::find_by_key(&vault.inner, &header, key).await.unwrap();
        let Ok(record) = found.living_unnoted(0) else { continue };
        for keys in &record.compartments {
            let place = record.row_place(keys);
            let row = subject::open_row(&vault.inner, &place).await.unwrap();
            put("manifest", &row::encoded_manifest(&row));
            row.open_metadata(&place).unwrap().iter().for_each(|metadata| put("record", metadata));
            if keys.name == crate::ids::Compartment::system() {
                for note in row.fields.keys() {
                    put("record", &subject::open_field(&vault.inner, &row, note, &place).await.unwrap());
                }
            }
        }
    }
    let audit = image.dir.path().join("audit");
    let log = Log::open(&audit).unwrap();
    let entries = log.read(0, 400).unwrap();
    let mut outbox = Vec::new();
    let mut bundle = Vec::new();
    for entry in &entries {
        put("entry", entry);
        let length = u32::try_from(entry.len()).unwrap().to_be_bytes();
        outbox.extend_from_slice(&[&length[..], entry].concat());
        bundle.extend_from_slice(&[&length[2..], entry].concat());
    }
    put("outbox", &outbox);
    put("bundle", &bundle);
    for file in std::fs::read_dir(audit.join("journal")).unwrap() {
        put("journal", &std::fs::read(file.unwrap().path()).unwrap());
    }
    let vault_with_log = {
        let options = VaultOptions { log: Some(log.clone()), ..VaultOptions::default() };
        let vault = Vault::open(Image::store(&image.rows).await, &[slot(&image.dir).into()], options).await.unwrap();
        vault.unlock(image.unlock()).await.unwrap();
        vault
    };
    let head = log.checkpoint().unwrap();
    put("checkpoint", &head);
    put("checkpoint", &[&head[..], b"\n\n", &head].concat());
    for erasure in &image.questions.erasures {
        if let Ok(certificate) = vault_with_log.certificate(*erasure).await {
            put("certificate", &certificate.encode());
        }
    }
    assert!(corpora().join("certificate").is_dir());
}
