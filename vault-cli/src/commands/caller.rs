//! `caller`: who may use the vault. An API token is shown or written once and never again.

use std::fs::{self, File};
use std::path::Path;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Context;
use crate::address::segment;
use crate::args::{CallerCommand, CreateCaller, RotateCaller};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::printable;
use crate::secret;

#[derive(Serialize)]
struct NewCaller<'a> {
    name: &'a str,
    role: &'a str,
    purposes: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lookups_per_minute: Option<u32>,
}

#[derive(Serialize)]
struct Overlap {
    overlap: u64,
}

#[derive(Serialize, Deserialize)]
struct Rotated {
    id: String,
    previous_valid_until: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct Caller {
    id: String,
    name: String,
    role: String,
    #[serde(default)]
    purposes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    created_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_valid_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lookups_per_minute: Option<u32>,
    /// Only in the answer to a creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Caller>,
    next: Option<String>,
}

/// Runs a `caller` command.
pub(crate) fn run(command: &CallerCommand, context: &Context) -> Result<Exit, Failure> {
    let client = context.client()?;
    match command {
        CallerCommand::Create(args) => create(args, &client, context),
        CallerCommand::List => list(&client, context),
        CallerCommand::Rotate(args) => rotate(args, &client, context),
        CallerCommand::Revoke { id } => {
            context.ui.confirm(&format!("Revoke caller {}? Its API tokens stop working at once.", printable(id)))?;
            client.delete(&format!("/v1/callers/{}", segment(id)))?;
            context.ui.note("revoked");
            Ok(Exit::Done)
        }
    }
}

fn create(args: &CreateCaller, client: &Client, context: &Context) -> Result<Exit, Failure> {
    let body = NewCaller {
        name: &args.name,
        role: &args.role,
        purposes: &args.purposes,
        expires_at: args.expires_at.map(|time| time.to_string()),
        lookups_per_minute: args.lookups_per_minute,
    };
    let out = TokenOut::prepare(args.token_out.as_deref())?;
    let created = client.post("/v1/callers", &body).and_then(|answer| answer.json::<Caller>());
    let mut caller = out.unless_refused(created)?;
    let token = caller.token.take().map(Zeroizing::new);
    let told = format!("caller {} created, id {}", printable(&caller.name), printable(&caller.id));
    out.hand_over(&caller, &caller.id, token, &told, context)
}

fn rotate(args: &RotateCaller, client: &Client, context: &Context) -> Result<Exit, Failure> {
    let out = TokenOut::prepare(args.token_out.as_deref())?;
    let rotated = request_rotation(client, &args.id, args.overlap);
    let mut rotated = out.unless_refused(rotated)?;
    let token = rotated.token.take().map(Zeroizing::new);
    let until = printable(&rotated.previous_valid_until);
    let told =
        format!("the API token of caller {} is replaced, the one before works until {until}", printable(&args.id));
    out.hand_over(&rotated, &rotated.id, token, &told, context)
}

fn request_rotation(client: &Client, id: &str, overlap: u64) -> Result<Rotated, Failure> {
    client.post(&format!("/v1/callers/{}/rotate", segment(id)), &Overlap { overlap })?.json()
}

/// Where a new API token goes: into a file of its own, or onto standard output.
struct TokenOut<'a>(Option<(&'a Path, File)>);

/// An answer with the API token that was taken out of it.
#[derive(Serialize)]
struct WithToken<'a, T> {
    #[serde(flatten)]
    answer: &'a T,
    token: &'a str,
}

impl<'a> TokenOut<'a> {
    /// Makes the file, before anything is asked for: an API token that cannot be written down would be lost.
    fn prepare(path: Option<&'a Path>) -> Result<Self, Failure> {
        let file = path.map(|path| Ok::<_, Failure>((path, secret::create_private(path)?)));
        Ok(Self(file.transpose()?))
    }

    /// Takes the file away again if there is nothing to be written into it.
    fn unless_refused<T>(&self, outcome: Result<T, Failure>) -> Result<T, Failure> {
        if let (Err(_), Some((path, _))) = (&outcome, &self.0) {
            // It is empty and ours; a failure to remove it changes nothing about the refusal.
            let _ = fs::remove_file(path);
        }
        outcome
    }

    fn hand_over<T: Serialize>(
        self,
        answer: &T,
        id: &str,
        token: Option<Zeroizing<String>>,
        told: &str,
        context: &Context,
    ) -> Result<Exit, Failure> {
        let token = token.ok_or_else(|| Failure::failed("the server did it but sent no API token"))?;
        match self.0 {
            Some((path, mut file)) => {
                secret::write_private(&mut file, &token).map_err(|error| lost(id, path, &error))?;
                if context.ui.wants_json() {
                    context.ui.json(answer)?;
                } else {
                    context.ui.line(&printable(id))?;
                }
                context.ui.note(&format!("{told}; the API token is in {}", path.display()));
            }
            None if context.ui.wants_json() => context.ui.json(&WithToken { answer, token: &token })?,
            None => {
                context.ui.note(&format!("{told}. The API token is shown only now:"));
                context.ui.line(&token)?;
            }
        }
        Ok(Exit::Done)
    }
}

fn lost(id: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot write {}: {error}", path.display()))
        .hint(format!("its API token is lost: vault-cli caller rotate {} --overlap 0 makes another", printable(id)))
}

fn list(client: &Client, context: &Context) -> Result<Exit, Failure> {
    let mut callers = Vec::new();
    let mut path = "/v1/callers".to_owned();
    loop {
        let page: Page = client.get(&path)?.json()?;
        callers.extend(page.data);
        match page.next {
            Some(next) => path = format!("/v1/callers?after={}", segment(&next)),
            None => break,
        }
    }
    if context.ui.wants_json() {
        context.ui.json(&callers)?;
        return Ok(Exit::Done);
    }
    let rows: Vec<_> = callers.iter().map(row).collect();
    let header = ["ID", "NAME", "ROLE", "PURPOSES", "CREATED", "LAST USED", "EXPIRES"];
    context.ui.table(&header, &rows)?;
    Ok(Exit::Done)
}

fn row(caller: &Caller) -> Vec<String> {
    vec![
        caller.id.clone(),
        caller.name.clone(),
        caller.role.clone(),
        caller.purposes.join(","),
        caller.created_at.clone(),
        caller.last_used_at.clone().unwrap_or_else(|| "never".into()),
        caller.expires_at.clone().unwrap_or_else(|| "never".into()),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fake::FakeVault;

    #[test]
    fn a_rotation_sends_its_overlap() {
        let answer = r#"{"id":"c1","token":"udv_new","previous_valid_until":"2026-03-10T10:00:00Z"}"#;
        let fake = FakeVault::answering(vec![(200, answer.into())]);
        let client = Client::anonymous(&fake.connection()).unwrap();
        let rotated = request_rotation(&client, "c1", 7200).unwrap();
        assert_eq!(rotated.token.as_deref(), Some("udv_new"));
        let asked = fake.requests();
        assert!(asked[0].starts_with("POST /v1/callers/c1/rotate ") && asked[0].ends_with(r#"{"overlap":7200}"#));
    }

    #[test]
    fn a_list_tells_who_was_never_used() {
        let caller = |more: &str| -> Caller {
            serde_json::from_str(&format!(
                r#"{{"id":"c1","name":"shop","role":"service","created_at":"2026-03-01T00:00:00Z"{more}}}"#
            ))
            .unwrap()
        };
        assert_eq!(row(&caller(""))[5], "never");
        assert_eq!(row(&caller(r#","last_used_at":"2026-03-10T10:00:00Z""#))[5], "2026-03-10T10:00:00Z");
    }

    #[test]
    fn a_file_is_left_only_if_it_holds_an_api_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shop.token");
        let out = TokenOut::prepare(Some(&path)).unwrap();
        assert!(out.unless_refused(Ok(())).is_ok() && path.exists());
        assert!(out.unless_refused(Err::<(), _>(Failure::failed("no"))).is_err() && !path.exists());
    }
}
