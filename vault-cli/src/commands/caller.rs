//! `caller`: who may use the vault. An API token is shown or written once and never again.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use super::Context;
use crate::address::segment;
use crate::args::{CallerCommand, CreateCaller};
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
        CallerCommand::Revoke { id } => {
            context.ui.confirm(&format!("Revoke caller {}? Its API token stops working at once.", printable(id)))?;
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
    };
    // The file comes first: an API token that cannot be written down would be lost.
    let file = match &args.token_out {
        Some(path) => Some((path.as_path(), secret::create_private(path)?)),
        None => None,
    };
    let created = client.post("/v1/callers", &body).and_then(|answer| answer.json::<Caller>());
    let mut caller = match (created, &file) {
        (Ok(caller), _) => caller,
        (Err(failure), Some((path, _))) => {
            // It is empty and ours; a failure to remove it changes nothing about the refusal.
            let _ = fs::remove_file(path);
            return Err(failure);
        }
        (Err(failure), None) => return Err(failure),
    };
    let token = caller
        .token
        .take()
        .map(Zeroizing::new)
        .ok_or_else(|| Failure::failed("the server created the caller but sent no API token"))?;
    match file {
        Some((path, mut file)) => {
            secret::write_private(&mut file, &token).map_err(|error| lost(&caller.id, path, &error))?;
            show_written(&caller, path, context)
        }
        None => show(caller, token, context),
    }
}

fn lost(id: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot write {}: {error}", path.display()))
        .hint(format!("its API token is lost: vault-cli caller revoke {}, then create it again", printable(id)))
}

fn show_written(caller: &Caller, path: &Path, context: &Context) -> Result<Exit, Failure> {
    if context.ui.wants_json() {
        context.ui.json(caller)?;
    } else {
        context.ui.line(&printable(&caller.id))?;
    }
    context.ui.note(&format!("the API token is in {}", path.display()));
    Ok(Exit::Done)
}

fn show(mut caller: Caller, token: Zeroizing<String>, context: &Context) -> Result<Exit, Failure> {
    if context.ui.wants_json() {
        caller.token = Some(token.as_str().to_owned());
        let shown = context.ui.json(&caller);
        caller.token.zeroize();
        return shown.map(|()| Exit::Done);
    }
    context.ui.note(&format!(
        "caller {} created, id {}. Its API token is shown only now:",
        printable(&caller.name),
        printable(&caller.id)
    ));
    context.ui.line(&token)?;
    Ok(Exit::Done)
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
    let header = ["ID", "NAME", "ROLE", "PURPOSES", "CREATED", "EXPIRES"];
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
        caller.expires_at.clone().unwrap_or_else(|| "never".into()),
    ]
}
