//! `audit tail` and `audit export`: the entries of the audit log.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use indicatif::ProgressBar;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use vault_core::audit::size_of;

use super::Context;
use crate::client::Client;
use crate::exit::{Exit, Failure};
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

fn page(client: &Client, from: u64, limit: u64) -> Result<Page, Failure> {
    client.get(&format!("/v1/audit/entries?from={from}&limit={limit}"))?.json()
}

/// Shows the newest entries.
pub(crate) fn tail(lines: u64, follow: bool, context: &Context) -> Result<Exit, Failure> {
    let client = context.client()?;
    let items = newest(&client, lines)?;
    show(&items, context)?;
    if !follow {
        return Ok(Exit::Done);
    }
    // Behind what this look itself left.
    let mut from = page(&client, 0, 1)?.size;
    loop {
        thread::sleep(LOOK_EVERY);
        let fresh = fresh(&client, &mut from)?;
        if !fresh.is_empty() {
            show(&fresh, context)?;
        }
    }
}

/// As many entries as are asked for, the newest last.
fn newest(client: &Client, lines: u64) -> Result<Vec<Item>, Failure> {
    let size = page(client, 0, 1)?.size;
    let mut from = size.saturating_sub(lines);
    let mut items = Vec::new();
    while from < size {
        let some = page(client, from, PAGE.min(size - from))?;
        if some.data.is_empty() {
            return Err(Failure::failed("the server answered with no entries where it has some"));
        }
        from += some.data.len() as u64;
        items.extend(some.data);
    }
    Ok(items)
}

/// Entries since the last look. Fetching them is an entry itself, so it is done only when the signed head, which tells
/// without one, shows that there are others.
fn fresh(client: &Client, from: &mut u64) -> Result<Vec<Item>, Failure> {
    let head = client.get("/v1/audit/checkpoint")?;
    let size = size_of(head.text()?.as_bytes()).unwrap_or(0);
    if size <= *from + 1 {
        return Ok(Vec::new());
    }
    let some = page(client, *from, PAGE)?;
    *from += some.data.len() as u64;
    Ok(some.data)
}

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
    let bar = progress::counting(&context.ui, "entries", 0);
    let mut out = io::BufWriter::new(io::stdout().lock());
    write_entries(&client, from, to, &bar, &mut out)?;
    out.flush()?;
    bar.finish_and_clear();
    Ok(Exit::Done)
}

fn write_entries(
    client: &Client,
    from: u64,
    to: Option<u64>,
    bar: &ProgressBar,
    out: &mut impl Write,
) -> Result<(), Failure> {
    // What this adds to the log by looking at it is not its end.
    let end = match to {
        Some(to) => to,
        None => page(client, 0, 1)?.size,
    };
    bar.set_length(end.saturating_sub(from));
    let mut at = from;
    while at < end {
        let some = page(client, at, PAGE.min(end - at))?;
        for item in &some.data {
            writeln!(out, "{}", item.entry.get())?;
        }
        bar.inc(some.data.len() as u64);
        match some.next {
            Some(next) if next > at => at = next,
            _ => break,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fake::FakeVault;

    /// An answer of the server: entries from an index on.
    fn entries(from: u64, count: u64, size: u64) -> (u16, String) {
        let one = |index| format!(r#"{{"index":{index},"entry":{{"at":"t","what":"read","outcome":"done"}}}}"#);
        let data: Vec<String> = (from..from + count).map(one).collect();
        let next = if from + count < size { (from + count).to_string() } else { "null".to_owned() };
        (200, format!(r#"{{"data":[{}],"next":{next},"size":{size}}}"#, data.join(",")))
    }

    fn head(size: u64) -> (u16, String) {
        let root = "A".repeat(43);
        (200, format!("udv/0\n{size}\n{root}=\n\n\u{2014} udv/0 {}\n", "A".repeat(92)))
    }

    #[test]
    fn the_newest_entries_are_fetched_by_pages() {
        let fake = FakeVault::answering(vec![entries(0, 1, 1500), entries(250, 1000, 1501), entries(1250, 250, 1502)]);
        let client = Client::anonymous(&fake.connection()).unwrap();
        let items = newest(&client, 1250).unwrap();
        assert_eq!((items.len(), items[0].index, items[1249].index), (1250, 250, 1499));
        let asked = fake.requests();
        assert!(asked[1].starts_with("GET /v1/audit/entries?from=250&limit=1000 "), "{}", asked[1]);
        assert!(asked[2].starts_with("GET /v1/audit/entries?from=1250&limit=250 "), "{}", asked[2]);
    }

    #[test]
    fn who_follows_does_not_make_the_log_grow_by_itself() {
        let fake = FakeVault::answering(vec![head(10), head(11), head(12), entries(10, 2, 12), head(13)]);
        let client = Client::anonymous(&fake.connection()).unwrap();
        let mut from = 10;
        // Nothing; what may be the own look; something else.
        assert!(fresh(&client, &mut from).unwrap().is_empty() && fresh(&client, &mut from).unwrap().is_empty());
        assert_eq!((fresh(&client, &mut from).unwrap().len(), from), (2, 12));
        assert!(fresh(&client, &mut from).unwrap().is_empty());
        assert_eq!(fake.requests().iter().filter(|asked| asked.contains("/entries")).count(), 1);
    }

    #[test]
    fn an_export_ends_where_the_log_ended() {
        let fake = FakeVault::answering(vec![entries(0, 1, 3), entries(1, 2, 4)]);
        let client = Client::anonymous(&fake.connection()).unwrap();
        let mut out = Vec::new();
        write_entries(&client, 1, None, &ProgressBar::hidden(), &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap().lines().count(), 2);
        assert!(fake.requests()[1].starts_with("GET /v1/audit/entries?from=1&limit=2 "));
    }

    #[test]
    fn an_entry_is_a_row() {
        let entry = r#"{"at":"t","what":"read","outcome":"refused","status":403,"by":"ab","rule":"restricted","subjects":["1","2","3","4"],"fields":["phone"]}"#;
        let item = Item { index: 7, entry: RawValue::from_string(entry.to_owned()).unwrap() };
        assert_eq!(row(&item), ["7", "t", "read", "refused (restricted)", "ab", "", "1 2 and 2 more", "phone"]);
    }
}
