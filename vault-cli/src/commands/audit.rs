//! `audit tail`, `verify` and `export`: the audit log, looked at and checked.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use vault_core::audit::{check, is_continued, signed_size};

use super::Context;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::{Ui, printable};
use crate::progress;

/// Entries that one request asks for.
const PAGE: u64 = 1000;
/// How often it is looked for new ones.
const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Deserialize)]
struct Page {
    data: Vec<Item>,
    next: Option<u64>,
    size: u64,
}

#[derive(Deserialize)]
struct Item {
    index: u64,
    /// As it was logged, to the byte.
    entry: Box<RawValue>,
}

#[derive(Deserialize)]
struct Keys {
    current: String,
    changes: Vec<String>,
}

#[derive(Deserialize)]
struct Consistency {
    proof: Vec<String>,
}

fn page(client: &Client, from: u64, limit: u64) -> Result<Page, Failure> {
    client.get(&format!("/v1/audit/entries?from={from}&limit={limit}"))?.json()
}

/// Shows the newest entries.
pub(crate) fn tail(lines: u64, follow: bool, context: &Context) -> Result<Exit, Failure> {
    let client = context.client()?;
    let size = page(&client, 0, 1)?.size;
    let mut from = size.saturating_sub(lines);
    let mut rows = Vec::new();
    while from < size {
        let some = page(&client, from, PAGE.min(size - from))?;
        from += some.data.len() as u64;
        rows.extend(some.data);
    }
    show(&rows, context)?;
    if !follow {
        return Ok(Exit::Done);
    }
    loop {
        thread::sleep(LOOK_EVERY);
        let some = page(&client, from, PAGE)?;
        from += some.data.len() as u64;
        // Looking at the log is logged as well.
        let others: Vec<Item> = some.data.into_iter().filter(|item| !item.entry.get().contains(LOOKING)).collect();
        if !others.is_empty() {
            show(&others, context)?;
        }
    }
}

const LOOKING: &str = r#""what":"audit""#;
const HEADER: [&str; 8] = ["INDEX", "AT", "WHAT", "OUTCOME", "BY", "PURPOSE", "SUBJECTS", "FIELDS"];

fn show(items: &[Item], context: &Context) -> Result<(), Failure> {
    if context.ui.wants_json() {
        return items.iter().try_for_each(|item| context.ui.line(item.entry.get()));
    }
    let rows: Vec<_> = items.iter().map(row).collect();
    context.ui.table(&HEADER, &rows)
}

fn row(item: &Item) -> Vec<String> {
    let entry: Value = serde_json::from_str(item.entry.get()).unwrap_or_default();
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let list = |key: &str| {
        let all: Vec<&str> = entry[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        match all.len() {
            0..=3 => all.join(" "),
            more => format!("{} and {} more", all[..2].join(" "), more - 2),
        }
    };
    let outcome = match (entry["rule"].as_str(), entry["status"].as_u64()) {
        (Some(rule), _) => format!("{} ({rule})", text("outcome")),
        (None, Some(status)) => format!("{} ({status})", text("outcome")),
        (None, None) => text("outcome"),
    };
    let (at, what) = (text("at"), text("what"));
    vec![item.index.to_string(), at, what, outcome, text("by"), text("purpose"), list("subjects"), list("fields")]
}

/// Writes entries as they were logged, a line each.
pub(crate) fn export(from: u64, to: Option<u64>, context: &Context) -> Result<Exit, Failure> {
    let client = context.client()?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut at = from;
    // What this adds to the log by looking at it is not its end.
    let end = to.unwrap_or(page(&client, 0, 1)?.size);
    let bar = progress::counting(&context.ui, "entries", end.saturating_sub(from));
    while at < end {
        let some = page(&client, at, PAGE.min(end - at))?;
        for item in &some.data {
            writeln!(out, "{}", item.entry.get())?;
        }
        bar.inc(some.data.len() as u64);
        at = match some.next {
            Some(next) => next,
            None => break,
        };
    }
    out.flush()?;
    bar.finish_and_clear();
    Ok(Exit::Done)
}

/// Checks that the log goes on from where it was seen last.
pub(crate) fn verify(log_key: Option<&str>, context: &Context) -> Result<Exit, Failure> {
    let client = context.client()?;
    let keys: Keys = client.get("/v1/audit/keys")?.json()?;
    let head = client.get("/v1/audit/checkpoint")?.text()?.to_owned();
    let key = log_key.unwrap_or(&keys.current);
    let Some(size) = signed_size(head.as_bytes(), key) else {
        let changed = keys.changes.iter().any(|note| signed_size(note.as_bytes(), key).is_some());
        let told = match changed {
            true => {
                "the log's key was changed since: check the change with `vault-cli audit verify --dir`, and use the present key"
            }
            false => "the head of the log is not signed by this key",
        };
        return Ok(refused(told, &context.ui));
    };
    let name = head.lines().next().unwrap_or_default().replace('/', "-");
    let place = state_dir()?.join(format!("{}.checkpoint", printable(&name)));
    if let Ok(before) = fs::read_to_string(&place) {
        let seen = before.lines().nth(1).and_then(|line| line.parse::<u64>().ok()).unwrap_or(0);
        if seen > size {
            let told = format!("the log had {seen} entries when it was last seen, and has {size}: some are gone");
            return Ok(refused(&told, &context.ui));
        }
        let proof: Consistency = client.get(&format!("/v1/audit/consistency?from={seen}&to={size}"))?.json()?;
        let hashes: Option<Vec<[u8; 32]>> = proof.proof.iter().map(|text| hash(text)).collect();
        if !hashes.is_some_and(|hashes| is_continued(before.as_bytes(), head.as_bytes(), &hashes)) {
            return Ok(refused("the log does not go on from where it was last seen: it was rewritten", &context.ui));
        }
        context.ui.note(&format!("it goes on from the {seen} entries that were seen before"));
    }
    let dir = place.parent().unwrap_or(Path::new("."));
    let kept = fs::create_dir_all(dir).and_then(|()| fs::write(&place, &head));
    kept.map_err(|why| Failure::failed(format!("{} cannot be written ({why})", place.display())))?;
    context.ui.line(&format!("the log has {size} entries, signed by {}", printable(key)))?;
    if log_key.is_none() {
        context.ui.warn("key not pinned: give --log-key with the log's key from a place that you trust");
    }
    Ok(Exit::Done)
}

fn refused(told: &str, ui: &Ui) -> Exit {
    ui.warn(told);
    Exit::Verification
}

fn hash(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut hash = [0; 32];
    if digits.len() != 64 {
        return None;
    }
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

/// Where what was seen is remembered.
fn state_dir() -> Result<PathBuf, Failure> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    let none = || Failure::failed("there is no place to remember the log's head in").hint("set XDG_STATE_HOME or HOME");
    Ok(state.or_else(home).ok_or_else(none)?.join("udv"))
}

/// Checks a log from its files alone.
pub(crate) fn verify_dir(dir: &Path, log_key: Option<&str>, ui: &Ui) -> Result<Exit, Failure> {
    if !dir.is_dir() {
        return Err(Failure::failed(format!("{} is no directory", dir.display())));
    }
    let bar = progress::counting(ui, "checking", 0);
    let report = check(dir, log_key, &|done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let report = report.map_err(|why| Failure::failed(why.to_string()))?;
    for problem in &report.problems {
        ui.line(&printable(problem))?;
    }
    let (size, signed) = (report.size, report.signed);
    if !report.problems.is_empty() {
        let told =
            format!("{} problems among {size} entries: keep the log as it is, it is evidence", report.problems.len());
        return Ok(refused(&told, ui));
    }
    let moved = if report.moved > 0 { format!(", {} of them moved away", report.moved) } else { String::new() };
    ui.line(&format!("the log is whole: {size} entries{moved}, {signed} of them signed"))?;
    if log_key.is_none() {
        ui.warn("key not pinned: give --log-key with the log's key from a place that you trust");
    }
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn hashes_have_64_digits() {
        assert_eq!(hash(&"0f".repeat(32)), Some([15; 32]));
        for bad in ["", "0f", &"zz".repeat(32), &"0".repeat(63)] {
            assert_eq!(hash(bad), None);
        }
    }

    #[test]
    fn an_entry_is_a_row() {
        let entry = r#"{"at":"t","what":"read","outcome":"refused","status":403,"by":"ab","rule":"restricted","subjects":["1","2","3","4"],"fields":["phone"]}"#;
        let item = Item { index: 7, entry: RawValue::from_string(entry.to_owned()).unwrap() };
        assert_eq!(row(&item), ["7", "t", "read", "refused (restricted)", "ab", "", "1 2 and 2 more", "phone"]);
    }
}
