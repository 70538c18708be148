//! `restrict` and `unrestrict`: whether a subject's data may be processed.

use serde::{Deserialize, Serialize};

use super::Context;
use crate::address::segment;
use crate::args::RestrictArgs;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::{Ui, printable};

#[derive(Serialize)]
struct Asked<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

#[derive(Deserialize)]
struct Restriction {
    since: String,
}

/// Runs `restrict`.
pub(crate) fn restrict(args: &RestrictArgs, context: &Context) -> Result<Exit, Failure> {
    put(args, &context.client()?, &context.ui)
}

/// Runs `unrestrict`.
pub(crate) fn unrestrict(id: &str, context: &Context) -> Result<Exit, Failure> {
    lift(id, &context.client()?, &context.ui)
}

fn put(args: &RestrictArgs, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    let answer = client.put(&place(&args.id), &Asked { reason: args.reason.as_deref() })?;
    if ui.wants_json() {
        ui.line(answer.text()?)?;
        return Ok(Exit::Done);
    }
    let restriction: Restriction = answer.json()?;
    ui.note(&format!("processing is restricted since {}", printable(&restriction.since)));
    Ok(Exit::Done)
}

fn lift(id: &str, client: &Client, ui: &Ui) -> Result<Exit, Failure> {
    client.delete(&place(id))?;
    ui.note("processing is not restricted any more");
    Ok(Exit::Done)
}

fn place(id: &str) -> String {
    format!("/v1/subjects/{}/restriction", segment(id))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fake::FakeVault;
    use crate::output::Format;

    #[test]
    fn a_restriction_is_put_with_or_without_a_reason_and_lifted() {
        let since = || (200, r#"{"since":"t"}"#.to_owned());
        let fake = FakeVault::answering(vec![since(), since(), (204, String::new())]);
        let client = Client::anonymous(&fake.connection()).unwrap();
        let ui = Ui { format: Format::Table, quiet: true, progress: false, yes: false };
        let with = |reason: Option<&str>| RestrictArgs { id: "a".into(), reason: reason.map(str::to_owned) };
        put(&with(Some("disputed")), &client, &ui).unwrap();
        put(&with(None), &client, &ui).unwrap();
        lift("a", &client, &ui).unwrap();
        let asked = fake.requests();
        assert!(asked[0].starts_with("PUT /v1/subjects/a/restriction "), "{}", asked[0]);
        assert!(asked[0].ends_with(r#"{"reason":"disputed"}"#), "{}", asked[0]);
        assert!(asked[1].ends_with("\r\n\r\n{}"), "{}", asked[1]);
        assert!(asked[2].starts_with("DELETE /v1/subjects/a/restriction "), "{}", asked[2]);
    }
}
