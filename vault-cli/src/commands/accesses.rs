//! `subject accesses` and `audit accesses`: who saw what of a subject, and whose data a caller saw.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Context;
use super::subject::check_id;
use crate::address::segment;
use crate::args::{CallerAccesses, SubjectAccesses};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::Ui;

/// One thing that was done with a subject's data.
#[derive(Debug, Serialize, Deserialize)]
struct Access {
    at: String,
    what: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    caller_name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    purpose: Option<String>,
    fields: Vec<String>,
    outcome: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Access>,
    next: Option<String>,
}

/// A subject whose data was seen.
#[derive(Debug, Serialize, Deserialize)]
struct Reached {
    subject: String,
    fields: BTreeSet<String>,
    first: String,
    last: String,
    count: u64,
}

/// Whose data a caller saw, in all.
#[derive(Serialize)]
struct Reach {
    subjects: Vec<Reached>,
    unlinkable: u64,
}

#[derive(Deserialize)]
struct ReachPage {
    subjects: Vec<Reached>,
    unlinkable: u64,
    next: Option<String>,
}

#[derive(Serialize)]
struct ReachOf<'a> {
    caller: &'a str,
    from: String,
    to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
}

/// Runs `subject accesses`.
pub(crate) fn of_subject(args: &SubjectAccesses, context: &Context) -> Result<Exit, Failure> {
    check_id(&args.id).map_err(Failure::usage)?;
    let accesses = all(&context.client()?, args)?;
    show(&accesses, &context.ui)?;
    Ok(Exit::Done)
}

/// All pages.
fn all(client: &Client, args: &SubjectAccesses) -> Result<Vec<Access>, Failure> {
    let mut path = format!("/v1/subjects/{}/accesses?limit=1000", segment(&args.id));
    for (name, time) in [("from", args.from), ("to", args.to)] {
        path.extend(time.map(|time| format!("&{name}={}", segment(&time.to_string()))));
    }
    let mut accesses = Vec::new();
    let mut next: Option<String> = None;
    loop {
        let after = next.as_deref().map_or_else(String::new, |next| format!("&after={}", segment(next)));
        let page: Page = client.get(&format!("{path}{after}"))?.json()?;
        accesses.extend(page.data);
        match page.next {
            Some(more) => next = Some(more),
            None => return Ok(accesses),
        }
    }
}

fn show(accesses: &[Access], ui: &Ui) -> Result<(), Failure> {
    if ui.wants_json() {
        return ui.json(&serde_json::json!({ "data": accesses }));
    }
    let rows: Vec<Vec<String>> = accesses.iter().map(row).collect();
    ui.table(&["AT", "WHAT", "BY", "PURPOSE", "FIELDS", "OUTCOME"], &rows)
}

fn row(access: &Access) -> Vec<String> {
    let by = access.caller_name.as_ref().or(access.by.as_ref());
    let outcome = match &access.rule {
        Some(rule) => format!("{} ({rule})", access.outcome),
        None => access.outcome.clone(),
    };
    let by = by.cloned().unwrap_or_else(|| "the vault".to_owned());
    let purpose = access.purpose.clone().unwrap_or_default();
    vec![access.at.clone(), access.what.clone(), by, purpose, access.fields.join(", "), outcome]
}

/// Runs `audit accesses`.
pub(crate) fn of_caller(args: &CallerAccesses, context: &Context) -> Result<Exit, Failure> {
    if args.from >= args.to {
        return Err(Failure::usage("--from is not before --to"));
    }
    let reach = reach(&context.client()?, args)?;
    if context.ui.wants_json() {
        context.ui.json(&reach)?;
        return Ok(Exit::Done);
    }
    let cells = |one: &Reached| {
        let fields: Vec<&str> = one.fields.iter().map(String::as_str).collect();
        let (first, last) = (one.first.clone(), one.last.clone());
        vec![one.subject.clone(), fields.join(", "), one.count.to_string(), first, last]
    };
    let rows: Vec<Vec<String>> = reach.subjects.iter().map(cells).collect();
    context.ui.table(&["SUBJECT", "FIELDS", "TIMES", "FIRST", "LAST"], &rows)?;
    if reach.unlinkable > 0 {
        let told = "times it saw data of subjects that are shredded since: nobody can tell any more who they were";
        context.ui.note(&format!("{} {told}", reach.unlinkable));
    }
    Ok(Exit::Done)
}

/// All pages, with what they tell of one subject added up.
fn reach(client: &Client, args: &CallerAccesses) -> Result<Reach, Failure> {
    let (from, to) = (args.from.to_string(), args.to.to_string());
    let mut asked = ReachOf { caller: &args.caller, from, to, after: None };
    let mut subjects: BTreeMap<String, Reached> = BTreeMap::new();
    let mut unlinkable = 0;
    loop {
        let page: ReachPage = client.post("/v1/audit/accesses", &asked)?.json()?;
        unlinkable += page.unlinkable;
        for one in page.subjects {
            match subjects.get_mut(&one.subject) {
                Some(known) => known.add(one),
                None => drop(subjects.insert(one.subject.clone(), one)),
            }
        }
        asked.after = page.next;
        if asked.after.is_none() {
            return Ok(Reach { subjects: subjects.into_values().collect(), unlinkable });
        }
    }
}

impl Reached {
    fn add(&mut self, other: Self) {
        self.fields.extend(other.fields);
        self.count += other.count;
        // Times of one form and length: their order is that of their texts.
        if other.first < self.first {
            self.first = other.first;
        }
        if other.last > self.last {
            self.last = other.last;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fake::FakeVault;

    #[test]
    fn every_page_of_a_subject_is_asked_for() {
        let one = |at: &str, next: &str| {
            let access = format!(r#"{{"at":"{at}","what":"read","fields":["phone"],"outcome":"done"}}"#);
            (200, format!(r#"{{"data":[{access}],"next":{next}}}"#))
        };
        let fake =
            FakeVault::answering(vec![one("1", r#""7""#), (200, r#"{"data":[],"next":"8"}"#.into()), one("2", "null")]);
        let client = Client::anonymous(&fake.connection()).unwrap();
        let args = SubjectAccesses { id: "a b".into(), from: Some("2026-05-01T00:00:00Z".parse().unwrap()), to: None };
        let at: Vec<String> = all(&client, &args).unwrap().into_iter().map(|access| access.at).collect();
        assert_eq!(at, ["1", "2"]);
        let asked = fake.requests();
        let path = "GET /v1/subjects/a%20b/accesses?limit=1000&from=2026-05-01T00%3A00%3A00Z";
        assert!(asked[0].starts_with(&format!("{path} ")), "{}", asked[0]);
        assert!(asked[2].starts_with(&format!("{path}&after=8 ")), "{}", asked[2]);
    }

    #[test]
    fn what_pages_tell_of_one_subject_is_added_up() {
        let page = |field: &str, first: &str, next: &str| {
            let one = format!(r#"{{"subject":"a","fields":["{field}"],"first":"{first}","last":"{first}","count":2}}"#);
            (200, format!(r#"{{"subjects":[{one}],"unlinkable":1,"next":{next}}}"#))
        };
        let fake = FakeVault::answering(vec![page("phone", "2", r#""9""#), page("email", "1", "null")]);
        let client = Client::anonymous(&fake.connection()).unwrap();
        let (from, to) = ("2026-05-01T00:00:00Z".parse().unwrap(), "2026-05-02T00:00:00Z".parse().unwrap());
        let reach = reach(&client, &CallerAccesses { caller: "shop".into(), from, to }).unwrap();
        let [one] = &reach.subjects[..] else { panic!("one subject") };
        assert_eq!((one.count, one.first.as_str(), one.last.as_str(), one.fields.len()), (4, "1", "2", 2));
        assert_eq!(reach.unlinkable, 2);
        assert!(fake.requests()[1].ends_with(r#""to":"2026-05-02T00:00:00Z","after":"9"}"#));
    }
}
