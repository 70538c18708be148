//! `hold`: legal holds, which keep subjects from being shredded.

use serde::{Deserialize, Serialize};

use super::Context;
use crate::address::segment;
use crate::args::HoldCommand;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::{Ui, printable};

#[derive(Serialize)]
struct Asked<'a> {
    reason: &'a str,
}

#[derive(Serialize, Deserialize)]
struct Hold {
    name: String,
    reason: String,
    since: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Held {
    subject: String,
    holds: Vec<Hold>,
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Held>,
    next: Option<String>,
}

/// Runs a `hold` command.
pub(crate) fn run(command: &HoldCommand, context: &Context) -> Result<Exit, Failure> {
    let client = context.client()?;
    match command {
        HoldCommand::Add { id, name, reason } => add(id, name, reason, &client, &context.ui),
        HoldCommand::Release { id, name } => {
            client.delete(&place(id, name))?;
            context.ui.note("released");
            Ok(Exit::Done)
        }
        HoldCommand::List => list(&client, &context.ui),
    }
}

fn add(id: &str, name: &str, reason: &str, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    let answer = client.put(&place(id, name), &Asked { reason })?;
    if ui.wants_json() {
        ui.line(answer.text()?)?;
        return Ok(Exit::Done);
    }
    let hold: Hold = answer.json()?;
    ui.note(&format!("held by {} since {}", printable(&hold.name), printable(&hold.since)));
    Ok(Exit::Done)
}

fn list(client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    let held = all(client)?;
    if ui.wants_json() {
        ui.json(&held)?;
        return Ok(Exit::Done);
    }
    let rows: Vec<_> = held.iter().flat_map(|held| held.holds.iter().map(|hold| row(&held.subject, hold))).collect();
    ui.table(&["SUBJECT", "HOLD", "SINCE", "BY", "REASON"], &rows)?;
    Ok(Exit::Done)
}

fn all(client: &Client) -> Result<Vec<Held>, Failure> {
    let mut held = Vec::new();
    let mut path = "/v1/holds?limit=1000".to_owned();
    loop {
        let page: Page = client.get(&path)?.json()?;
        held.extend(page.data);
        match page.next {
            Some(next) => path = format!("/v1/holds?limit=1000&after={}", segment(&next)),
            None => return Ok(held),
        }
    }
}

fn row(subject: &str, hold: &Hold) -> Vec<String> {
    let by = hold.by.clone().unwrap_or_default();
    vec![subject.to_owned(), hold.name.clone(), hold.since.clone(), by, hold.reason.clone()]
}

fn place(id: &str, name: &str) -> String {
    format!("/v1/subjects/{}/holds/{}", segment(id), segment(name))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fake::FakeVault;
    use crate::output::Format;

    #[test]
    fn a_hold_is_put_with_its_reason() {
        let fake = FakeVault::answering(vec![(200, r#"{"name":"case_1","reason":"r","since":"t"}"#.into())]);
        let client = Client::anonymous(&fake.connection()).unwrap();
        let ui = Ui { format: Format::Table, quiet: true, progress: false, yes: false };
        add("a b", "case_1", "r", &client, &ui).unwrap();
        let asked = fake.requests();
        assert!(asked[0].starts_with("PUT /v1/subjects/a%20b/holds/case_1 "), "{}", asked[0]);
        assert!(asked[0].ends_with(r#"{"reason":"r"}"#), "{}", asked[0]);
    }

    #[test]
    fn every_page_is_listed_an_empty_one_too() {
        let one = |subject: &str, next: &str| {
            let holds = r#"[{"name":"case_1","reason":"r","since":"t"}]"#;
            (200, format!(r#"{{"data":[{{"subject":"{subject}","holds":{holds}}}],"next":{next}}}"#))
        };
        let empty = (200, r#"{"data":[],"next":"n2"}"#.to_owned());
        let fake = FakeVault::answering(vec![one("a", r#""n1""#), empty, one("b", "null")]);
        let client = Client::anonymous(&fake.connection()).unwrap();
        let subjects: Vec<_> = all(&client).unwrap().into_iter().map(|held| held.subject).collect();
        assert_eq!(subjects, ["a", "b"]);
        assert!(fake.requests()[2].starts_with("GET /v1/holds?limit=1000&after=n2 "));
    }
}
