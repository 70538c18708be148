//! Erasure certificates: fetched into files, and checked without a server.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vault_core::certificate::{Checked, LEN_MAX, check as check_bytes};

use super::Context;
use crate::address::segment;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::{Ui, printable};
use crate::progress;

/// Subjects whose certificates one request asks for.
const TOGETHER: usize = 1000;

#[derive(Serialize)]
struct Wanted<'a> {
    subjects: &'a [String],
}

#[derive(Deserialize)]
struct Page {
    data: Vec<OfSubject>,
}

#[derive(Deserialize)]
struct OfSubject {
    subject: String,
    index: u64,
    /// The certificate's own bytes: they are canonical, so they must not be written anew.
    certificate: String,
}

/// Prints the certificate of a request, or of some of its subjects.
pub(crate) fn print(
    erasure: &str,
    subjects: &[String],
    out: Option<&Path>,
    context: &Context,
) -> Result<Exit, Failure> {
    let client = context.client()?;
    if let Some(dir) = out {
        let count = save(dir, erasure, subjects, &client, &context.ui)?;
        context.ui.note(&format!("{count} certificates are in {}", dir.display()));
        return Ok(missing(subjects.len() + 1, count));
    }
    if subjects.is_empty() {
        write_out(client.get(&place(erasure))?.text()?)?;
        return Ok(Exit::Done);
    }
    let mut found = 0;
    for some in subjects.chunks(TOGETHER) {
        for one in fetch(erasure, some, &client)? {
            write_out(&one.certificate)?;
            found += 1;
        }
    }
    if found == 0 {
        return Err(Failure::failed("the erasure has no certificate of these subjects")
            .hint("held and cancelled subjects have none, nor has who was shredded before or never enrolled"));
    }
    Ok(missing(subjects.len(), found))
}

fn missing(wanted: usize, found: usize) -> Exit {
    if found < wanted { Exit::Partial } else { Exit::Done }
}

/// Writes the certificate of a request and those of its subjects into a directory, a file each; tells how many.
pub(crate) fn save(dir: &Path, erasure: &str, subjects: &[String], client: &Client, ui: &Ui) -> Result<usize, Failure> {
    fs::create_dir_all(dir).map_err(|why| unwritable(dir, &why))?;
    let mut written = 0;
    match client.get(&place(erasure)) {
        Ok(whole) => {
            write_file(&dir.join(format!("{}.json", printable(erasure))), whole.text()?)?;
            written += 1;
        }
        // Some of its subjects are held: it has not ended, and those that are final have their own.
        Err(failure) if failure.exit == Exit::Conflict => ui.warn(&failure.message),
        Err(failure) => return Err(failure),
    }
    let bar = progress::counting(ui, "certificates", subjects.len() as u64);
    for some in subjects.chunks(TOGETHER) {
        for one in fetch(erasure, some, client)? {
            write_file(&dir.join(format!("{}-{}.json", printable(erasure), one.index)), &one.certificate)?;
            written += 1;
        }
        bar.inc(some.len() as u64);
    }
    bar.finish_and_clear();
    Ok(written)
}

fn fetch(erasure: &str, subjects: &[String], client: &Client) -> Result<Vec<OfSubject>, Failure> {
    let page: Page = client.post(&format!("{}s", place(erasure)), &Wanted { subjects })?.json()?;
    let asked = page.data.iter().all(|one| subjects.contains(&one.subject));
    if asked { Ok(page.data) } else { Err(Failure::failed("the server answered with certificates of other subjects")) }
}

fn place(erasure: &str) -> String {
    format!("/v1/erasures/{}/certificate", segment(erasure))
}

fn write_out(text: &str) -> Result<(), Failure> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// Whole or not at all: a file that is there is a certificate.
fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let written = tempfile::NamedTempFile::new_in(dir).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.persist(path).map_err(|error| error.error)
    });
    written.map(|_| ()).map_err(|why| unwritable(path, &why))
}

fn unwritable(path: &Path, why: &io::Error) -> Failure {
    Failure::failed(format!("{} cannot be written ({why})", path.display()))
        .hint("the subjects are shredded all the same: fetch the certificates again with `vault-cli erase certificate`")
}

#[derive(Serialize)]
struct Verdict {
    file: String,
    holds: bool,
    pinned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    erasure: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    f1_at: Option<String>,
}

/// Checks certificates offline, against a log key from elsewhere if one is given.
pub(crate) fn check(files: &[PathBuf], log_key: Option<&str>, ui: &Ui) -> Result<Exit, Failure> {
    let mut verdicts = Vec::new();
    let bar = progress::counting(ui, "checking", files.len() as u64);
    for file in files {
        let bytes = read(file).map_err(|why| Failure::failed(format!("{} cannot be read ({why})", file.display())))?;
        verdicts.push(verdict(file, &check_bytes(&bytes, log_key).map_err(|why| why.to_string()), log_key.is_some()));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let refused = verdicts.iter().filter(|verdict| !verdict.holds).count();
    if ui.wants_json() {
        ui.json(&verdicts)?;
    } else {
        for verdict in &verdicts {
            ui.line(&told(verdict))?;
        }
    }
    if log_key.is_none() {
        ui.warn("key not pinned: give --log-key with the log's key from a place that you trust");
    }
    if refused > 0 {
        ui.warn(&format!("{refused} of {} certificates are refused", verdicts.len()));
        return Ok(Exit::Verification);
    }
    Ok(Exit::Done)
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let limit = LEN_MAX as u64 + 1;
    let mut bytes = Vec::new();
    match file.to_str() {
        Some("-") => io::stdin().take(limit).read_to_end(&mut bytes)?,
        _ => fs::File::open(file)?.take(limit).read_to_end(&mut bytes)?,
    };
    Ok(bytes)
}

fn verdict(file: &Path, checked: &Result<Checked, String>, pinned: bool) -> Verdict {
    let (checked, why) = match checked {
        Ok(checked) => (Some(checked), None),
        Err(why) => (None, Some(why.clone())),
    };
    let f1_at = checked.and_then(|checked| {
        let of_request = || checked.levels.first().map(|(_, at)| *at);
        checked.shred.as_ref().map(|shred| shred.f1_at).or_else(of_request)
    });
    Verdict {
        file: file.display().to_string(),
        holds: checked.is_some(),
        pinned,
        why,
        erasure: checked.map(|checked| checked.erasure.to_string()),
        f1_at: f1_at.map(|at| at.to_string()),
    }
}

fn told(verdict: &Verdict) -> String {
    let file = printable(&verdict.file);
    match (&verdict.why, &verdict.erasure, &verdict.f1_at) {
        (Some(why), ..) => format!("{file}: REFUSED: {why}"),
        (None, Some(erasure), Some(at)) => format!("{file}: holds: erasure {erasure}, final (F1) since {at}"),
        _ => format!("{file}: holds"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::output::Format;

    const EXAMPLE: &str = include_str!("../../../docs/certificate.example.json");

    #[test]
    fn good_and_changed_files_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (good, bad) = (dir.path().join("good.json"), dir.path().join("bad.json"));
        fs::write(&good, EXAMPLE).unwrap();
        fs::write(&bad, EXAMPLE.replacen("ticket 7", "ticket 8", 1)).unwrap();
        let ui = Ui { format: Format::Json, quiet: true, progress: false, yes: false };
        let key = EXAMPLE.lines().find(|line| line.contains("log_key")).unwrap().split('"').nth(3).unwrap();
        assert_eq!(check(std::slice::from_ref(&good), Some(key), &ui).unwrap(), Exit::Done);
        assert_eq!(check(std::slice::from_ref(&good), None, &ui).unwrap(), Exit::Done);
        assert_eq!(check(&[good.clone(), bad], Some(key), &ui).unwrap(), Exit::Verification);
        assert_eq!(check(&[good], Some("udv/00+00000000+AA=="), &ui).unwrap(), Exit::Verification);
        assert!(check(&[dir.path().join("none.json")], None, &ui).is_err());
    }
}
