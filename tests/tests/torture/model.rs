//! What a vault may be found to hold, from what it was asked and what it answered.
//!
//! A [`Model`] is of subjects that nobody else writes. What was asked of one and not answered may have been done, and may
//! yet be done until the server is gone; what was answered has happened. From that follow, for each subject, the states
//! in which it may be found: by a read, by a lookup, before and after a restart. The model knows nothing of kills, and
//! nothing of what the vault does inside.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::harness::{Answer, Client};

/// The field that subjects are looked up by.
pub(crate) const PHONE: &str = "phone";
/// How many subjects a request reads when all are checked.
const READ_AT_ONCE: usize = 500;

/// The fields of a live subject.
pub(crate) type Fields = BTreeMap<&'static str, String>;

/// What a subject can be found to be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum State {
    Absent,
    Live(Fields),
    /// Refused or final: a reader cannot tell, and must not read.
    Shredded,
}

/// What can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Sets fields, or removes those without a value; creates a subject that is absent.
    Write {
        fields: BTreeMap<&'static str, Option<String>>,
        enrol_again: bool,
    },
    Shred,
}

/// Why a change was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// 404, to a shred or to the removal of a field.
    Absent,
    /// 410, or 409 to an enrolment before the shred is final.
    Shredded,
}

/// Why something could not be found to be as it should.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// There was no answer: what was asked may have been done.
    Gone,
    /// 503: the same, and the server may do it yet.
    Busy,
    /// The vault is not as the model allows.
    Deviation(String),
}

/// Something that was asked, for one subject or several in one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ask(u64);

/// How many subjects are in which state, where that is certain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) absent: usize,
    pub(crate) live: usize,
    pub(crate) shredded: usize,
}

/// One subject.
#[derive(Clone, Debug)]
struct Subject {
    /// What it may be if nothing of what is unanswered was done.
    settled: BTreeSet<State>,
    /// In the order in which it was asked.
    unanswered: Vec<(Ask, Change)>,
}

/// The subjects of one worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct Model {
    subjects: BTreeMap<String, Subject>,
    /// Who was ever given a number: who else has it contradicts everything that was asked.
    given: BTreeMap<String, BTreeSet<String>>,
    asked: u64,
}

impl Tally {
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            absent: self.absent + other.absent,
            live: self.live + other.live,
            shredded: self.shredded + other.shredded,
        }
    }
}

impl Change {
    /// Sets fields.
    pub(crate) fn set(fields: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        let fields = fields.into_iter().map(|(name, value)| (name, Some(value))).collect();
        Self::Write { fields, enrol_again: false }
    }

    /// Removes one field.
    pub(crate) fn remove(field: &'static str) -> Self {
        Self::Write { fields: BTreeMap::from([(field, None)]), enrol_again: false }
    }

    /// The same, also of a subject that was shredded.
    pub(crate) fn enrolling_again(self) -> Self {
        match self {
            Self::Write { fields, .. } => Self::Write { fields, enrol_again: true },
            Self::Shred => Self::Shred,
        }
    }

    /// What comes of a state; nothing if the change is refused in it.
    fn after(&self, state: &State) -> Option<State> {
        let Self::Write { fields, enrol_again } = self else {
            return Some(if *state == State::Absent { State::Absent } else { State::Shredded });
        };
        let mut held = match state {
            State::Live(held) => held.clone(),
            State::Absent if self.only_removes() => return None,
            State::Shredded if !enrol_again => return None,
            State::Absent | State::Shredded => Fields::new(),
        };
        for (name, value) in fields {
            match value {
                Some(value) => held.insert(name, value.clone()),
                None => held.remove(name),
            };
        }
        Some(State::Live(held))
    }

    fn only_removes(&self) -> bool {
        matches!(self, Self::Write { fields, .. } if fields.values().all(Option::is_none))
    }
}

impl Refusal {
    /// Whether a change is rightly refused like this in a state.
    fn fits(self, change: &Change, state: &State) -> bool {
        match self {
            Self::Absent => *state == State::Absent && (*change == Change::Shred || change.only_removes()),
            Self::Shredded => *state == State::Shredded,
        }
    }
}

impl Subject {
    fn new() -> Self {
        Self { settled: BTreeSet::from([State::Absent]), unanswered: Vec::new() }
    }

    /// Every state in which it may be found now. What is unanswered was done or not, in the order in which it was asked.
    fn allowed(&self) -> BTreeSet<State> {
        let mut states = self.settled.clone();
        for (_, change) in &self.unanswered {
            let after: Vec<_> = states.iter().filter_map(|state| change.after(state)).collect();
            states.extend(after);
        }
        states
    }

    fn take(&mut self, ask: Ask) -> Option<Change> {
        let at = self.unanswered.iter().position(|(of, _)| *of == ask)?;
        Some(self.unanswered.remove(at).1)
    }
}

impl Model {
    pub(crate) fn ids(&self) -> impl Iterator<Item = &String> {
        self.subjects.keys()
    }

    /// Makes a subject known, as absent, so that it is checked before anything was asked of it.
    pub(crate) fn know(&mut self, id: &str) {
        self.subjects.entry(id.to_owned()).or_insert_with(Subject::new);
    }

    /// The states in which a subject may be found now.
    pub(crate) fn allowed(&self, id: &str) -> BTreeSet<State> {
        self.subjects.get(id).map_or_else(|| BTreeSet::from([State::Absent]), Subject::allowed)
    }

    /// Every number that was ever given.
    pub(crate) fn phones(&self) -> impl Iterator<Item = &String> {
        self.given.keys()
    }

    /// Notes that changes are about to be asked for in one request, each of another subject. From now on they may be done.
    pub(crate) fn ask<'a>(&mut self, changes: impl IntoIterator<Item = (&'a str, Change)>) -> Ask {
        self.asked += 1;
        let ask = Ask(self.asked);
        for (id, change) in changes {
            if let Change::Write { fields, .. } = &change
                && let Some(Some(phone)) = fields.get(PHONE)
            {
                self.given.entry(phone.clone()).or_default().insert(id.to_owned());
            }
            self.know(id);
            if let Some(subject) = self.subjects.get_mut(id) {
                subject.unanswered.push((ask, change));
            }
        }
        ask
    }

    /// Notes that what was asked of a subject was acknowledged.
    pub(crate) fn done(&mut self, ask: Ask, id: &str) -> Result<(), Trouble> {
        self.answered(ask, id, "acknowledged", |change, state| change.after(state))
    }

    /// Notes that it was refused, which must be right.
    pub(crate) fn refused(&mut self, ask: Ask, id: &str, why: Refusal) -> Result<(), Trouble> {
        self.answered(ask, id, "refused", |change, state| why.fits(change, state).then(|| state.clone()))
    }

    fn answered(
        &mut self,
        ask: Ask,
        id: &str,
        how: &str,
        then: impl Fn(&Change, &State) -> Option<State>,
    ) -> Result<(), Trouble> {
        let subject = self.subjects.get_mut(id).expect("only what was asked of a subject is answered");
        let change = subject.take(ask).expect("an ask is answered once for each subject");
        let before = subject.allowed();
        subject.settled = before.iter().filter_map(|state| then(&change, state)).collect();
        if subject.settled.is_empty() {
            return Err(Trouble::Deviation(format!("{id}: {change:?} was {how}, and it may be {before:?}")));
        }
        Ok(())
    }

    /// Reads a subject, which must be as the model allows at this moment.
    pub(crate) fn read(&self, client: &Client, id: &str) -> Result<State, Trouble> {
        let answer = answered(client.attempt("GET", &format!("/v1/subjects/{id}/fields?view=full"), &[], None))?;
        let found = state(id, answer.status, &answer.json())?;
        self.fits(id, &found)?;
        Ok(found)
    }

    fn fits(&self, id: &str, found: &State) -> Result<(), Trouble> {
        let allowed = self.allowed(id);
        if allowed.contains(found) {
            return Ok(());
        }
        Err(Trouble::Deviation(format!("{id} is {found:?}, and may be {allowed:?}")))
    }

    /// Looks a number up: it must find who must have it, and nobody who must not.
    pub(crate) fn look_up(&self, client: &Client, phone: &str) -> Result<usize, Trouble> {
        let body = json!({ "field": PHONE, "value": phone }).to_string();
        let answer = answered(client.attempt("POST", "/v1/lookups", &[], Some(body.as_bytes())))?;
        let json = answer.json();
        let ids = json["subjects"].as_array().filter(|_| answer.status == 200 && json["next"].is_null());
        let Some(ids) = ids else {
            return Err(Trouble::Deviation(format!("a lookup answers {}: {}", answer.status, answer.body)));
        };
        let found: BTreeSet<&str> = ids.iter().filter_map(Value::as_str).collect();
        let given = self.given.get(phone);
        let mut allowed = BTreeSet::new();
        for id in given.into_iter().flatten() {
            let states = self.allowed(id);
            let has = states.iter().filter(|state| has_phone(state, phone)).count();
            if has == states.len() && !found.contains(id.as_str()) {
                return Err(Trouble::Deviation(format!("{phone} finds {found:?}, and {id} has it: {states:?}")));
            }
            if has > 0 {
                allowed.insert(id.as_str());
            }
        }
        match found.difference(&allowed).next() {
            None if found.len() == ids.len() => Ok(found.len()),
            None => Err(Trouble::Deviation(format!("{phone} finds somebody twice: {ids:?}"))),
            Some(id) => Err(Trouble::Deviation(format!("{phone} finds {id}, which may be {:?}", self.allowed(id)))),
        }
    }

    /// Reads several subjects in one request, which must be as the model allows at this moment.
    pub(crate) fn read_all(&self, client: &Client, ids: &[String]) -> Result<Vec<State>, Trouble> {
        let items: Vec<_> = ids.iter().map(|id| json!({ "subject": id, "view": "full" })).collect();
        let body = json!({ "items": items }).to_string();
        let answer = answered(client.attempt("POST", "/v1/batch/read", &[], Some(body.as_bytes())))?;
        let json = answer.json();
        let results = json["results"].as_array().filter(|results| results.len() == ids.len());
        let Some(results) = results else {
            return Err(Trouble::Deviation(format!("a batch of reads answers {}: {}", answer.status, answer.body)));
        };
        let mut found = Vec::new();
        for (id, result) in ids.iter().zip(results) {
            let status = result["status"].as_u64().unwrap_or_default() as u16;
            let state = state(id, status, result)?;
            self.fits(id, &state)?;
            found.push(state);
        }
        Ok(found)
    }

    /// Reads every subject after a restart. Each must be as the model allows; what was unanswered is settled by what is
    /// found, for nothing is in flight any more.
    pub(crate) fn settle(&mut self, client: &Client) -> Result<Tally, Trouble> {
        let ids: Vec<String> = self.ids().cloned().collect();
        let mut tally = Tally::default();
        for chunk in ids.chunks(READ_AT_ONCE) {
            for (id, state) in chunk.iter().zip(self.read_all(client, chunk)?) {
                match state {
                    State::Absent => tally.absent += 1,
                    State::Live(_) => tally.live += 1,
                    State::Shredded => tally.shredded += 1,
                }
                let settled = Subject { settled: BTreeSet::from([state]), unanswered: Vec::new() };
                self.subjects.insert(id.clone(), settled);
            }
        }
        Ok(tally)
    }

    /// Looks every number up that was ever given.
    pub(crate) fn look_all_up(&self, client: &Client) -> Result<usize, Trouble> {
        self.phones().map(|phone| self.look_up(client, phone)).sum()
    }
}

fn has_phone(state: &State, phone: &str) -> bool {
    matches!(state, State::Live(fields) if fields.get(PHONE).is_some_and(|has| has == phone))
}

/// An answer that means something.
pub(crate) fn answered<E>(attempt: Result<Answer, E>) -> Result<Answer, Trouble> {
    let answer = attempt.map_err(|_| Trouble::Gone)?;
    if answer.status == 503 { Err(Trouble::Busy) } else { Ok(answer) }
}

/// What a read shows.
fn state(id: &str, status: u16, answer: &Value) -> Result<State, Trouble> {
    let odd = || Trouble::Deviation(format!("{id} is read with {status}: {answer}"));
    match status {
        404 => Ok(State::Absent),
        410 => Ok(State::Shredded),
        503 => Err(Trouble::Busy),
        200 => {
            let fields = answer["fields"].as_object().ok_or_else(odd)?;
            let known = |name: &str| FIELDS.into_iter().find(|field| *field == name);
            let pairs = fields.iter().map(|(name, value)| Some((known(name)?, value.as_str()?.to_owned())));
            pairs.collect::<Option<_>>().map(State::Live).ok_or_else(odd)
        }
        _ => Err(odd()),
    }
}

/// The fields that are written; a vault that answers another is not the one that was written.
pub(crate) const FIELDS: [&str; 3] = ["name", "nickname", PHONE];

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Change {
        Change::set([("name", name.to_owned())])
    }

    fn live(name: &str) -> State {
        State::Live(Fields::from([("name", name.to_owned())]))
    }

    #[test]
    fn what_is_acknowledged_is_the_only_state() {
        let mut model = Model::default();
        let ask = model.ask([("a", named("1"))]);
        assert_eq!(model.allowed("a"), BTreeSet::from([State::Absent, live("1")]));
        model.done(ask, "a").unwrap();
        assert_eq!(model.allowed("a"), BTreeSet::from([live("1")]));
        assert!(model.fits("a", &State::Absent).is_err() && model.fits("a", &live("1")).is_ok());
    }

    #[test]
    fn what_is_unanswered_may_come_late_and_is_settled_by_what_is_found() {
        let mut model = Model::default();
        let first = model.ask([("a", named("1"))]);
        model.done(first, "a").unwrap();
        model.ask([("a", named("2"))]);
        let third = model.ask([("a", named("3"))]);
        model.done(third, "a").unwrap();
        assert_eq!(model.allowed("a"), BTreeSet::from([live("2"), live("3")]));
    }

    #[test]
    fn nothing_comes_back_from_a_shred_but_by_an_enrolment() {
        let mut model = Model::default();
        let ask = model.ask([("a", named("1"))]);
        model.done(ask, "a").unwrap();
        let ask = model.ask([("a", Change::Shred)]);
        model.done(ask, "a").unwrap();
        let write = model.ask([("a", named("2"))]);
        assert_eq!(model.allowed("a"), BTreeSet::from([State::Shredded]));
        assert!(model.clone().done(write, "a").is_err(), "a write of a shredded subject is not acknowledged");
        model.refused(write, "a", Refusal::Shredded).unwrap();
        let again = model.ask([("a", named("3").enrolling_again())]);
        assert!(model.clone().refused(again, "a", Refusal::Absent).is_err());
        model.done(again, "a").unwrap();
        assert_eq!(model.allowed("a"), BTreeSet::from([live("3")]));
    }

    #[test]
    fn refusals_must_be_right() {
        let mut model = Model::default();
        let ask = model.ask([("a", named("1"))]);
        model.done(ask, "a").unwrap();
        let ask = model.ask([("a", Change::Shred)]);
        assert!(model.clone().refused(ask, "a", Refusal::Absent).is_err());
        assert!(model.clone().refused(ask, "a", Refusal::Shredded).is_err());
        let ask = model.ask([("b", Change::Shred)]);
        model.refused(ask, "b", Refusal::Absent).unwrap();
        let ask = model.ask([("b", Change::remove("nickname"))]);
        model.refused(ask, "b", Refusal::Absent).unwrap();
    }
}
