//! `schema`: the document that says which fields there are and who sees them for what.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Context;
use crate::args::SchemaCommand;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::printable;

/// The largest document that a vault takes, in bytes.
const DOCUMENT_MAX: u64 = 256 * 1024;

#[derive(Serialize, Deserialize)]
struct Applied {
    version: u16,
    changed: bool,
    /// Fields whose values are kept for less long than before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    forgets: Vec<String>,
}

/// Runs a `schema` command.
pub(crate) fn run(command: &SchemaCommand, context: &Context) -> Result<Exit, Failure> {
    match command {
        SchemaCommand::Show { version } => show(*version, context),
        SchemaCommand::Check { file } => check(file, context),
        SchemaCommand::Apply { file } => apply(file, context),
    }
}

fn show(version: Option<u16>, context: &Context) -> Result<Exit, Failure> {
    let path = version.map_or_else(|| "/v1/schema".to_owned(), |version| format!("/v1/schema?version={version}"));
    let client = context.client()?;
    let answer = if context.ui.wants_json() { client.get(&path)? } else { client.get_toml(&path)? };
    if let Some(version) = answer.etag.as_deref().and_then(number) {
        context.ui.note(&format!("version {version}"));
    }
    context.ui.line(answer.text()?.trim_end())?;
    Ok(Exit::Done)
}

fn check(file: &Path, context: &Context) -> Result<Exit, Failure> {
    let document = read(file)?;
    let answer = context.client()?.put_toml("/v1/schema?check=true", &document, None);
    let applied: Applied = answer.map_err(|failure| in_file(file, failure))?.json()?;
    if context.ui.wants_json() {
        context.ui.json(&applied)?;
    } else {
        if !applied.forgets.is_empty() {
            context.ui.note(forgetting(&applied.forgets).trim_end());
        }
        context.ui.note(&format!("{}: would be taken in place of version {}", file.display(), applied.version));
    }
    Ok(Exit::Done)
}

fn apply(file: &Path, context: &Context) -> Result<Exit, Failure> {
    let document = read(file)?;
    let client = context.client()?;
    let over = client.get("/v1/schema")?.etag;
    let checked = client.put_toml("/v1/schema?check=true", &document, None);
    let checked: Applied = checked.map_err(|failure| in_file(file, failure))?.json()?;
    context.ui.confirm(&format!(
        "{}Put {} into force in place of version {}? It decides every read and write from then on.",
        forgetting(&checked.forgets),
        file.display(),
        over.as_deref().and_then(number).unwrap_or("?")
    ))?;
    let applied = put(&client, file, &document, over.as_deref())?;
    if context.ui.wants_json() {
        context.ui.json(&applied)?;
    } else if applied.changed {
        context.ui.note(&format!("version {} is in force", applied.version));
    } else {
        context.ui.note(&format!("nothing to change: it is version {} already", applied.version));
    }
    Ok(Exit::Done)
}

fn put(client: &Client, file: &Path, document: &str, over: Option<&str>) -> Result<Applied, Failure> {
    let applied = client.put_toml("/v1/schema", document, over).map_err(|failure| match failure.status {
        Some(412) => failure.hint("somebody changed the schema meanwhile: see it with vault-cli schema show"),
        _ => in_file(file, failure),
    })?;
    applied.json()
}

fn read(file: &Path) -> Result<String, Failure> {
    let cannot = |error: std::io::Error| Failure::usage(format!("cannot read {}: {error}", file.display()));
    if fs::metadata(file).map_err(cannot)?.len() > DOCUMENT_MAX {
        return Err(Failure::usage(format!("{} is larger than a schema may be: 256 KiB", file.display())));
    }
    fs::read_to_string(file).map_err(cannot)
}

/// What a shorter retention does, for who is about to shorten one.
fn forgetting(fields: &[String]) -> String {
    match fields {
        [] => String::new(),
        fields => {
            let names: Vec<_> = fields.iter().map(|name| printable(name)).collect();
            format!("Kept for less long than before: {}. Older values are forgotten for good. ", names.join(", "))
        }
    }
}

/// A refusal that is about the document names its file.
fn in_file(file: &Path, mut failure: Failure) -> Failure {
    if matches!(failure.status, Some(409 | 422)) {
        failure.message = format!("{}: {}", file.display(), failure.message);
    }
    failure
}

/// The number in an ETag.
fn number(etag: &str) -> Option<&str> {
    etag.strip_prefix("\"v")?.strip_suffix('"')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fake::FakeVault;

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("schema.toml");
        fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn a_document_is_sent_as_it_is_over_the_version_it_was_made_from() {
        let fake = FakeVault::answering(vec![(200, r#"{"version":3,"changed":true}"#.into())]);
        let client = Client::anonymous(&fake.connection()).unwrap();
        let (_dir, path) = file("# mine\n");
        let applied = put(&client, &path, "# mine\n", Some("\"v2\"")).unwrap();
        assert_eq!((applied.version, applied.changed), (3, true));
        let sent = fake.requests().remove(0).to_lowercase();
        assert!(sent.contains("put /v1/schema "), "{sent}");
        assert!(sent.contains("application/toml") && !sent.contains("application/json"), "{sent}");
        assert!(sent.contains("if-match: \"v2\"") && sent.ends_with("# mine\n"), "{sent}");
    }

    #[test]
    fn a_refusal_names_the_file_and_has_its_exit_code() {
        for (status, exit) in [(422, 1), (409, 5), (412, 5)] {
            let fake = FakeVault::answering(vec![(status, r#"{"detail":"line 3: no"}"#.into())]);
            let client = Client::anonymous(&fake.connection()).unwrap();
            let (_dir, path) = file("x");
            let failure = put(&client, &path, "x", None).err().unwrap();
            assert_eq!(failure.exit as u8, exit);
            assert_eq!(failure.message.contains("schema.toml: line 3: no"), status != 412, "{failure}");
        }
    }

    #[test]
    fn what_cannot_be_a_schema_is_not_sent() {
        let (_dir, path) = file(&"x".repeat(300 * 1024));
        assert_eq!(read(&path).unwrap_err().exit as u8, 2);
        assert_eq!(read(&path.with_extension("none")).unwrap_err().exit as u8, 2);
        assert_eq!(number("\"v12\""), Some("12"));
    }
}
