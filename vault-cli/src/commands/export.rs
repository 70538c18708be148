//! `subject export`: everything held of one person, for that person.

use std::path::Path;

use zeroize::Zeroizing;

use super::Context;
use super::subject::check_id;
use crate::address::segment;
use crate::args::ExportArgs;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::secret;

/// Asks, and writes the document to a file of its owner's or to standard output.
pub(crate) fn run(args: &ExportArgs, context: &Context) -> Result<Exit, Failure> {
    let document = fetch(&context.client()?, &args.id, args.out.as_deref())?;
    match &args.out {
        None => context.ui.line(&document)?,
        Some(path) => {
            save(path, &document)?;
            context.ui.note(&format!("exported to {}: only its owner can read it", path.display()));
        }
    }
    Ok(Exit::Done)
}

/// The document, unless there is something in its place already.
fn fetch(client: &Client, id: &str, out: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    check_id(id).map_err(Failure::usage)?;
    if let Some(path) = out.filter(|path| path.symlink_metadata().is_ok()) {
        return Err(Failure::failed(format!("{} exists already, nothing was exported", path.display()))
            .hint("give another name to --out, or move the file away"));
    }
    let answer = client.get(&format!("/v1/subjects/{}/export", segment(id)))?;
    Ok(Zeroizing::new(answer.text()?.to_owned()))
}

fn save(path: &Path, document: &str) -> Result<(), Failure> {
    let mut file = secret::create_private(path)?;
    secret::write_private(&mut file, document).map_err(|error| {
        // Half a document would look like a whole one to who does not parse it.
        let _ = std::fs::remove_file(path);
        Failure::failed(format!("cannot write {}: {error}", path.display()))
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fake::FakeVault;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn goes_to_a_file_of_its_owners_and_never_over_another() {
        let body = r#"{"format":"udv-export-1","fields":[{"name":"location","value":{"lat":1.50}}]}"#;
        let fake = FakeVault::answering(vec![(200, body.into())]);
        let client = Client::anonymous(&fake.connection()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cust.json");
        let document = fetch(&client, "a/b", Some(&path)).unwrap();
        save(&path, &document).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().trim_end(), body, "byte for byte");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(fake.requests()[0].starts_with("GET /v1/subjects/a%2Fb/export "));

        let failure = fetch(&client, "a/b", Some(&path)).unwrap_err();
        assert_eq!(failure.exit as u8, 1);
        assert!(save(&path, "other").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap().trim_end(), body);
        assert_eq!(fake.requests().len(), 1, "nothing was asked for");
    }

    #[test]
    fn a_shredded_subject_has_nothing_left() {
        let body = r#"{"code":"shredded","title":"The subject was shredded","detail":"nothing of it can be read"}"#;
        let fake = FakeVault::answering(vec![(410, body.into())]);
        let client = Client::anonymous(&fake.connection()).unwrap();
        assert_eq!(fetch(&client, "a", None).unwrap_err().exit as u8, 7);
    }
}
