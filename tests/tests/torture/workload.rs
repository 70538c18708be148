//! A mixed load: writes, reads, lookups, removals and shreds of subjects that are the worker's own, so that each answer is
//! held against exactly what its model allows.

use serde_json::{Value, json};

use super::model::{Ask, Change, Model, PHONE, Refusal, State, Trouble, answered};
use crate::harness::{Answer, Choices, Client};

/// How many subjects one request of a batch writes when all are enrolled.
const ENROLLED_AT_ONCE: usize = 500;
/// Numbers of one worker, so that no two workers share one.
const PHONES_EACH: u64 = 1_000_000;

/// One caller with subjects of its own.
pub(crate) struct Worker {
    pub(crate) model: Model,
    /// Answered requests.
    pub(crate) steps: u64,
    number: u64,
    ids: Vec<String>,
    choices: Choices,
    values: u64,
}

impl Worker {
    /// At most ten workers, of at most a million subjects each.
    pub(crate) fn new(number: u64, subjects: u64, choices: Choices) -> Self {
        assert!(number < 10 && subjects <= PHONES_EACH);
        let ids: Vec<_> = (0..subjects).map(|n| format!("w{number}-{n}")).collect();
        let mut model = Model::default();
        ids.iter().for_each(|id| model.know(id));
        Self { model, steps: 0, number, ids, choices, values: 0 }
    }

    pub(crate) fn ids(&self) -> &[String] {
        &self.ids
    }

    /// Enrols every subject, in batches.
    pub(crate) fn enrol_all(&mut self, client: &Client) -> Result<(), Trouble> {
        for chunk in self.ids.clone().chunks(ENROLLED_AT_ONCE) {
            let changes = chunk.iter().map(|id| (id.clone(), self.everything())).collect();
            self.write_batch(client, changes)?;
        }
        Ok(())
    }

    /// One request, of a client that may read all in full (for the purpose `account`). Only [`Trouble::Deviation`] is the
    /// vault's fault.
    pub(crate) fn step(&mut self, client: &Client) -> Result<(), Trouble> {
        let id = self.any();
        match self.choices.below(100) {
            0..25 => self.model.read(client, &id).map(drop),
            25..40 => {
                let phone = self.phone();
                self.model.look_up(client, &phone).map(drop)
            }
            40..65 => {
                let change = self.change(&id);
                self.patch(client, &id, change)
            }
            65..70 => self.put_one(client, &id),
            70..76 => self.forget_one(client, &id),
            76..84 => {
                let ids = self.some(20);
                let changes = ids.into_iter().map(|id| {
                    let change = self.change(&id);
                    (id, change)
                });
                let changes = changes.collect();
                self.write_batch(client, changes)
            }
            84..89 => {
                let ids = self.some(20);
                self.model.read_all(client, &ids).map(drop)
            }
            89..96 => self.shred(client, &id),
            _ => {
                let ids = self.some(8);
                self.shred_batch(client, &ids)
            }
        }?;
        self.steps += 1;
        Ok(())
    }

    /// Looks up so many of the numbers that were given, or all.
    pub(crate) fn look_some_up(&mut self, client: &Client, most: usize) -> Result<(), Trouble> {
        if self.model.phones().count() <= most {
            return self.model.look_all_up(client).map(drop);
        }
        (0..most).try_for_each(|_| {
            let phone = self.phone();
            self.model.look_up(client, &phone).map(drop)
        })
    }

    fn any(&mut self) -> String {
        self.ids[self.choices.below(self.ids.len() as u64) as usize].clone()
    }

    /// Up to so many different subjects.
    fn some(&mut self, most: u64) -> Vec<String> {
        let count = 1 + self.choices.below(most);
        let chosen: std::collections::BTreeSet<_> = (0..count).map(|_| self.any()).collect();
        chosen.into_iter().collect()
    }

    /// A number out of about as many as there are subjects, so that some share one and others have none.
    fn phone(&mut self) -> String {
        let number = self.number * PHONES_EACH + self.choices.below(self.ids.len() as u64);
        format!("+97150{number:07}")
    }

    /// Every value is a new one.
    fn text(&mut self) -> String {
        self.values += 1;
        format!("value {} of {}", self.values, self.number)
    }

    fn everything(&mut self) -> Change {
        Change::set([("name", self.text()), ("nickname", self.text()), (PHONE, self.phone())])
    }

    /// A write of some fields; of a shredded subject mostly an enrolment.
    fn change(&mut self, id: &str) -> Change {
        if self.model.allowed(id).contains(&State::Shredded) && !self.choices.one_in(4) {
            return self.everything().enrolling_again();
        }
        match self.choices.below(5) {
            0 => Change::set([("name", self.text())]),
            1 => Change::set([(PHONE, self.phone())]),
            2 => Change::set([("name", self.text()), (PHONE, self.phone())]),
            3 => {
                let fields = [("name", Some(self.text())), ("nickname", None)];
                Change::Write { fields: fields.into(), enrol_again: false }
            }
            _ => self.everything(),
        }
    }

    fn patch(&mut self, client: &Client, id: &str, change: Change) -> Result<(), Trouble> {
        let Change::Write { fields, enrol_again } = &change else { unreachable!("a patch writes") };
        let mut query = vec![];
        if *enrol_again {
            query.push("enrol=again");
        }
        if self.choices.one_in(8) {
            query.push("final=true");
        }
        let path = format!("/v1/subjects/{id}/fields?{}", query.join("&"));
        let body = json!({ "fields": fields }).to_string();
        self.ask(client, "PATCH", &path, Some(body), id, change)
    }

    fn put_one(&mut self, client: &Client, id: &str) -> Result<(), Trouble> {
        let (field, value) = match self.choices.below(2) {
            0 => ("nickname", self.text()),
            _ => (PHONE, self.phone()),
        };
        let body = json!({ "value": value }).to_string();
        let path = format!("/v1/subjects/{id}/fields/{field}");
        self.ask(client, "PUT", &path, Some(body), id, Change::set([(field, value)]))
    }

    fn forget_one(&mut self, client: &Client, id: &str) -> Result<(), Trouble> {
        let field = self.choices.of(&["nickname", PHONE]);
        let path = format!("/v1/subjects/{id}/fields/{field}");
        self.ask(client, "DELETE", &path, None, id, Change::remove(field))
    }

    fn shred(&mut self, client: &Client, id: &str) -> Result<(), Trouble> {
        self.ask(client, "DELETE", &format!("/v1/subjects/{id}"), None, id, Change::Shred)
    }

    /// Asks for one change of one subject.
    fn ask(
        &mut self,
        client: &Client,
        method: &str,
        path: &str,
        body: Option<String>,
        id: &str,
        change: Change,
    ) -> Result<(), Trouble> {
        let ask = self.model.ask([(id, change)]);
        let answer = answered(client.attempt(method, path, &[], body.as_deref().map(str::as_bytes)))?;
        self.note(ask, id, answer.status, || format!("{method} {path}: {}", answer.body))
    }

    fn write_batch(&mut self, client: &Client, changes: Vec<(String, Change)>) -> Result<(), Trouble> {
        let item = |(id, change): &(String, Change)| match change {
            Change::Write { fields, enrol_again: true } => json!({ "subject": id, "fields": fields, "enrol": "again" }),
            Change::Write { fields, .. } => json!({ "subject": id, "fields": fields }),
            Change::Shred => unreachable!("a batch writes"),
        };
        let body = json!({ "items": changes.iter().map(item).collect::<Vec<_>>() }).to_string();
        let ids: Vec<_> = changes.iter().map(|(id, _)| id.clone()).collect();
        let ask = self.model.ask(changes.iter().map(|(id, change)| (id.as_str(), change.clone())));
        let answer = answered(client.attempt("POST", "/v1/batch/write", &[], Some(body.as_bytes())))?;
        let json = expected(&answer, 200)?;
        for (id, result) in ids.iter().zip(json["results"].as_array().into_iter().flatten()) {
            match result["status"].as_u64().unwrap_or_default() as u16 {
                // As of a request alone: it may have been done.
                503 => {}
                status => self.note(ask, id, status, || format!("a write in a batch: {result}"))?,
            }
        }
        Ok(())
    }

    fn shred_batch(&mut self, client: &Client, ids: &[String]) -> Result<(), Trouble> {
        let absent = |id: &&String| self.model.allowed(id).contains(&State::Absent);
        let certain = ids.iter().all(|id| self.model.allowed(id).len() == 1);
        let unknown = ids.iter().filter(absent).count();
        let ask = self.model.ask(ids.iter().map(|id| (id.as_str(), Change::Shred)));
        let body = json!({ "subjects": ids, "reason": "on request" }).to_string();
        let answer = answered(client.attempt("POST", "/v1/erasures", &[], Some(body.as_bytes())))?;
        let json = expected(&answer, 201)?;
        if certain && json["counts"]["unknown"] != unknown {
            return Err(Trouble::Deviation(format!("{unknown} of {ids:?} are unknown: {}", answer.body)));
        }
        ids.iter().try_for_each(|id| self.model.done(ask, id))
    }

    /// Notes what was answered for one subject.
    fn note(&mut self, ask: Ask, id: &str, status: u16, told: impl Fn() -> String) -> Result<(), Trouble> {
        match status {
            200..=204 => self.model.done(ask, id),
            404 => self.model.refused(ask, id, Refusal::Absent),
            410 => self.model.refused(ask, id, Refusal::Shredded),
            // Enrolled again before its shred is final.
            409 => self.model.refused(ask, id, Refusal::Shredded),
            _ => Err(Trouble::Deviation(format!("{status} for {id}: {}", told()))),
        }
        .map_err(|trouble| match trouble {
            Trouble::Deviation(deviation) => Trouble::Deviation(format!("{deviation}, {}", told())),
            trouble => trouble,
        })
    }
}

fn expected(answer: &Answer, status: u16) -> Result<Value, Trouble> {
    if answer.status == status {
        return Ok(answer.json());
    }
    Err(Trouble::Deviation(format!("{} instead of {status}: {}", answer.status, answer.body)))
}
