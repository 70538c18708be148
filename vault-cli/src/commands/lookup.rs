//! `subject lookup`: whose value this is, by all of it or by its last four digits.

use std::io::{self, Read};

use serde::Deserialize;
use zeroize::Zeroizing;

use super::Context;
use super::subject::{quoted, value_json};
use crate::args::LookupArgs;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::printable;

/// The server takes no larger request.
const MAX_VALUE: u64 = 1024 * 1024;

#[derive(Deserialize)]
struct Found {
    subjects: Vec<String>,
    next: Option<String>,
}

/// Runs `subject lookup`.
pub(crate) fn run(args: &LookupArgs, context: &Context) -> Result<Exit, Failure> {
    let (region, purpose) = (args.region.as_deref(), args.purpose.as_deref());
    let subjects = match (&args.value, &args.last4, &args.and) {
        (Some(value), ..) => {
            let json = Zeroizing::new(value_json(&args.field, &read(value)?)?);
            find(&context.client()?, &args.field, &json, region, purpose)?
        }
        (None, Some(last4), Some(and)) => {
            let body = by_last4(&args.field, last4, and, region)?;
            context.client()?.post_text("/v1/lookups", &body, purpose)?.json::<Found>()?.subjects
        }
        _ => return Err(Failure::usage("give the value to look for, or --last4 with --and")),
    };
    if context.ui.wants_json() {
        context.ui.json(&serde_json::json!({ "subjects": subjects }))?;
        return Ok(Exit::Done);
    }
    for subject in &subjects {
        context.ui.line(&printable(subject))?;
    }
    if subjects.is_empty() {
        context.ui.note("no subject has this value");
    }
    Ok(Exit::Done)
}

/// A value as it is given, or from standard input.
fn read(given: &str) -> Result<Zeroizing<String>, Failure> {
    if given != "-" {
        return Ok(Zeroizing::new(given.to_owned()));
    }
    let mut text = Zeroizing::new(String::new());
    io::stdin().take(MAX_VALUE).read_to_string(&mut text)?;
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// The request for a lookup by last four digits. Refusals never show the value.
fn by_last4(field: &str, last4: &str, and: &str, region: Option<&str>) -> Result<Zeroizing<String>, Failure> {
    let (other, value) = and
        .split_once('=')
        .filter(|(name, value)| !name.is_empty() && !value.is_empty())
        .ok_or_else(|| Failure::usage("--and is not FIELD=VALUE"))?;
    let value = Zeroizing::new(value_json(other, &read(value)?)?);
    let region = region.map_or_else(String::new, |region| format!(",\"region\":{}", quoted(region)));
    Ok(Zeroizing::new(format!(
        "{{\"field\":{},\"last4\":{},\"and\":{{\"field\":{},\"value\":{}{region}}}}}",
        quoted(field),
        quoted(last4),
        quoted(other),
        *value
    )))
}

/// All subjects with a value, which is given as JSON; follows the pages of a long answer.
pub(crate) fn find(
    client: &Client,
    field: &str,
    value: &str,
    region: Option<&str>,
    purpose: Option<&str>,
) -> Result<Vec<String>, Failure> {
    let mut subjects = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let mut body = Zeroizing::new(format!("{{\"field\":{},\"value\":{value}", quoted(field)));
        for (name, text) in [("region", region), ("after", after.as_deref())] {
            if let Some(text) = text {
                body.push_str(&format!(",\"{name}\":{}", quoted(text)));
            }
        }
        body.push('}');
        let found: Found = client.post_text("/v1/lookups", &body, purpose)?.json()?;
        subjects.extend(found.subjects);
        match found.next {
            Some(next) => after = Some(next),
            None => return Ok(subjects),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fake::FakeVault;

    #[test]
    fn a_long_lookup_is_followed_page_by_page() {
        let fake = FakeVault::answering(vec![
            (200, r#"{"subjects":["a"],"next":"p2"}"#.into()),
            (200, r#"{"subjects":["b"]}"#.into()),
        ]);
        let client = Client::anonymous(&fake.connection()).unwrap();
        let found = find(&client, "phone", "\"050 123\"", Some("AE"), None).unwrap();
        assert_eq!(found, ["a", "b"]);
        let asked = fake.requests();
        assert!(asked[0].ends_with(r#"{"field":"phone","value":"050 123","region":"AE"}"#));
        assert!(asked[1].contains(r#""after":"p2""#));
    }

    #[test]
    fn last_four_digits_go_with_another_value() {
        let body = by_last4("phone", "8301", "email=jane=1@example.org", None).unwrap();
        let expected = r#"{"field":"phone","last4":"8301","and":{"field":"email","value":"jane=1@example.org"}}"#;
        assert_eq!(*body, expected);
        let body = by_last4("card", "8301", "phone=050 123 8301", Some("AE")).unwrap();
        assert!(body.ends_with(r#""and":{"field":"phone","value":"050 123 8301","region":"AE"}}"#), "{}", *body);
        for bad in ["jane@example.org", "=jane@example.org", "email="] {
            let failure = by_last4("phone", "8301", bad, None).unwrap_err();
            assert_eq!(failure.exit as u8, 2, "{bad}");
            assert!(!failure.message.contains("jane"), "{failure}");
        }
    }
}
