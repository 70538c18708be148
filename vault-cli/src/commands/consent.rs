//! `consent`: what subjects agreed to, and what they withdrew.

use serde::{Deserialize, Serialize};

use super::Context;
use crate::address::segment;
use crate::args::{ConsentCommand, GiveArgs};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::{Ui, printable};

#[derive(Serialize)]
struct Agreed<'a> {
    version: &'a str,
    source: &'a str,
}

#[derive(Serialize)]
struct Withdrawn<'a> {
    source: &'a str,
}

#[derive(Serialize, Deserialize)]
struct Consent {
    purpose: String,
    version: String,
    source: String,
    given_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    withdrawn_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    withdrawn_source: Option<String>,
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Consent>,
}

/// Runs a `consent` command.
pub(crate) fn run(command: &ConsentCommand, context: &Context) -> Result<Exit, Failure> {
    let client = context.client()?;
    match command {
        ConsentCommand::List { id, purpose } => list(id, purpose.as_deref(), &client, &context.ui),
        ConsentCommand::Give(args) => give(args, &client, &context.ui),
        ConsentCommand::Withdraw { id, purpose, source } => {
            withdraw(id, purpose, source.as_deref(), &client, &context.ui)
        }
    }
}

fn list(id: &str, purpose: Option<&str>, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    let page: Page = client.get(&format!("/v1/subjects/{}/consents", segment(id)))?.json()?;
    let wanted = |consent: &Consent| purpose.is_none_or(|purpose| consent.purpose == purpose);
    let consents: Vec<_> = page.data.into_iter().filter(wanted).collect();
    if ui.wants_json() {
        ui.json(&consents)?;
        return Ok(Exit::Done);
    }
    let rows: Vec<_> = consents.iter().map(row).collect();
    ui.table(&["PURPOSE", "STATE", "VERSION", "GIVEN", "SOURCE", "OVER SINCE", "WITHDRAWN BY"], &rows)?;
    Ok(Exit::Done)
}

fn row(consent: &Consent) -> Vec<String> {
    let (state, over) = match (&consent.withdrawn_at, &consent.replaced_at) {
        (Some(at), _) => ("withdrawn", Some(at)),
        (None, Some(at)) => ("replaced", Some(at)),
        (None, None) => ("in force", None),
    };
    let text = |text: Option<&String>| text.map_or_else(|| "-".to_owned(), Clone::clone);
    vec![
        consent.purpose.clone(),
        state.to_owned(),
        consent.version.clone(),
        consent.given_at.clone(),
        consent.source.clone(),
        text(over),
        text(consent.withdrawn_source.as_ref()),
    ]
}

fn give(args: &GiveArgs, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    let answer =
        client.put(&place(&args.id, &args.purpose), &Agreed { version: &args.version, source: &args.source })?;
    if ui.wants_json() {
        ui.line(answer.text()?)?;
        return Ok(Exit::Done);
    }
    let consent: Consent = answer.json()?;
    let (purpose, version, since) = (&consent.purpose, &consent.version, &consent.given_at);
    let told = format!("consent to {purpose} is in force: version {version}, since {since}");
    ui.note(&printable(&told));
    Ok(Exit::Done)
}

fn withdraw(id: &str, purpose: &str, source: Option<&str>, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    let place = place(id, purpose);
    match source {
        Some(source) => client.delete_with(&place, &Withdrawn { source })?,
        None => client.delete(&place)?,
    };
    ui.note(&format!("consent to {} is not given any more", printable(purpose)));
    Ok(Exit::Done)
}

fn place(id: &str, purpose: &str) -> String {
    format!("/v1/subjects/{}/consents/{}", segment(id), segment(purpose))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fake::FakeVault;
    use crate::output::Format;

    const UI: Ui = Ui { format: Format::Table, quiet: true, progress: false, yes: false };
    const GIVEN: &str = r#"{"purpose":"marketing","version":"v1","source":"form","given_at":"t"}"#;

    #[test]
    fn giving_and_withdrawing_name_the_place_and_say_how() {
        let fake = FakeVault::answering(vec![(200, GIVEN.into()), (204, String::new()), (204, String::new())]);
        let client = Client::anonymous(&fake.connection()).unwrap();
        let (id, purpose) = ("a/b".to_owned(), "marketing".to_owned());
        let args = GiveArgs { id, purpose, version: "v1".into(), source: "form".into() };
        give(&args, &client, &UI).unwrap();
        withdraw("a/b", "marketing", Some("letter"), &client, &UI).unwrap();
        withdraw("a/b", "marketing", None, &client, &UI).unwrap();
        let asked = fake.requests();
        assert!(asked[0].starts_with("PUT /v1/subjects/a%2Fb/consents/marketing "), "{}", asked[0]);
        assert!(asked[0].ends_with(r#"{"version":"v1","source":"form"}"#), "{}", asked[0]);
        assert!(asked[1].starts_with("DELETE /v1/subjects/a%2Fb/consents/marketing "), "{}", asked[1]);
        assert!(asked[1].ends_with(r#"{"source":"letter"}"#), "{}", asked[1]);
        assert!(!asked[2].contains('{'), "{}", asked[2]);
    }

    #[test]
    fn a_row_tells_how_a_consent_stands() {
        let of = |more: &str| {
            let text = GIVEN.replace('}', &format!("{more}}}"));
            row(&serde_json::from_str(&text).unwrap())
        };
        assert_eq!(of("")[1], "in force");
        assert_eq!(of(r#","replaced_at":"u""#)[1], "replaced");
        let withdrawn = of(r#","withdrawn_at":"w","withdrawn_source":"letter""#);
        assert_eq!((&*withdrawn[1], &*withdrawn[5], &*withdrawn[6]), ("withdrawn", "w", "letter"));
    }
}
