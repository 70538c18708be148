//! `subject import`: many subjects from NDJSON, streamed in batches; bad lines are told by number, never by value.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Context;
use crate::args::ImportArgs;
use crate::client::{Answer, Client};
use crate::exit::{Exit, Failure, Problem};
use crate::output::Ui;
use crate::progress;
use record::Record;

pub(crate) mod record;

const MAX_ITEMS: usize = 250;
const MAX_BATCH: usize = 4 * 1024 * 1024;
/// A longer line cannot fit a request (8 MiB); it is skipped without being held in memory.
const MAX_LINE: u64 = 8 * 1024 * 1024;

/// What came of an import.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    /// Lines that were not blank.
    pub(crate) lines: u64,
    pub(crate) created: u64,
    pub(crate) merged: u64,
    pub(crate) failed: u64,
}

#[derive(Deserialize)]
struct Results {
    results: Vec<ItemResult>,
}

#[derive(Deserialize)]
struct ItemResult {
    status: u16,
    problem: Option<Problem>,
}

/// Imports a file or standard input.
pub(crate) fn run(args: &ImportArgs, context: &Context) -> Result<Exit, Failure> {
    let client = context.client()?;
    let (source, bytes): (Box<dyn Read>, _) = if args.file == Path::new("-") {
        (Box::new(io::stdin()), None)
    } else {
        let file = File::open(&args.file)
            .map_err(|error| Failure::failed(format!("cannot read {}: {error}", args.file.display())))?;
        let bytes = file.metadata().ok().filter(|m| m.is_file()).map(|m| m.len());
        (Box::new(file), bytes)
    };
    let bar = progress::reading(&context.ui, "importing", bytes);
    let summary = import(&client, BufReader::new(source), &context.ui, &bar)?;
    bar.finish_and_clear();
    conclude(&summary, context)
}

fn conclude(summary: &Summary, context: &Context) -> Result<Exit, Failure> {
    if context.ui.wants_json() {
        context.ui.json(summary)?;
    } else {
        context.ui.line(&format!(
            "{} lines: {} created, {} merged, {} failed",
            summary.lines, summary.created, summary.merged, summary.failed
        ))?;
    }
    Ok(if summary.failed == 0 { Exit::Done } else { Exit::Partial })
}

/// Streams NDJSON into the vault. Fails only when the import as a whole cannot go on.
pub(crate) fn import(
    client: &Client,
    mut source: impl BufRead,
    ui: &Ui,
    bar: &ProgressBar,
) -> Result<Summary, Failure> {
    let mut import = Import { client, ui, bar, batch: Vec::new(), batch_bytes: 0, summary: Summary::default() };
    let mut line = Zeroizing::new(Vec::new());
    let mut number = 0;
    loop {
        let read = read_line(&mut source, &mut line)?;
        if read == 0 {
            break;
        }
        number += 1;
        import.take(number, &line)?;
        bar.inc(read);
    }
    import.flush()?;
    Ok(import.summary)
}

/// Reads one line into `line` and returns the bytes consumed, 0 at the end. Of a line longer than
/// [`MAX_LINE`] only so much is kept that it can be told.
fn read_line(source: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    line.clear();
    let mut read = source.by_ref().take(MAX_LINE + 1).read_until(b'\n', line)? as u64;
    while read > MAX_LINE && line.last() != Some(&b'\n') {
        let chunk = source.fill_buf()?;
        let end = chunk.iter().position(|byte| *byte == b'\n');
        let skipped = end.map_or(chunk.len(), |at| at + 1);
        source.consume(skipped);
        read += skipped as u64;
        if end.is_some() || skipped == 0 {
            break;
        }
    }
    Ok(read)
}

/// A line ready to be sent.
struct Item {
    line: u64,
    json: Zeroizing<String>,
}

struct Import<'a> {
    client: &'a Client,
    ui: &'a Ui,
    bar: &'a ProgressBar,
    batch: Vec<Item>,
    batch_bytes: usize,
    summary: Summary,
}

impl Import<'_> {
    fn take(&mut self, line: u64, bytes: &[u8]) -> Result<(), Failure> {
        if bytes.trim_ascii().is_empty() {
            return Ok(());
        }
        self.summary.lines += 1;
        if bytes.len() as u64 > MAX_LINE {
            self.bad(line, "longer than 8 MiB");
            return Ok(());
        }
        match Record::parse(bytes) {
            Ok(record) => self.queue(Item { line, json: record.item() }),
            Err(reason) => {
                self.bad(line, &reason);
                Ok(())
            }
        }
    }

    fn queue(&mut self, item: Item) -> Result<(), Failure> {
        if self.batch_bytes + item.json.len() > MAX_BATCH {
            self.flush()?;
        }
        self.batch_bytes += item.json.len();
        self.batch.push(item);
        if self.batch.len() == MAX_ITEMS {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        match (batch.first(), batch.last()) {
            (Some(first), Some(last)) => self.send(&batch).map_err(|failure| Failure {
                message: format!("the import stopped in lines {} to {}: {}", first.line, last.line, failure.message),
                ..failure
            }),
            _ => Ok(()),
        }
    }

    /// Sends items as one request; halves them when the server finds fault with the request as a whole,
    /// so that one bad line does not keep its neighbours out.
    fn send(&mut self, items: &[Item]) -> Result<(), Failure> {
        match self.client.post_text("/v1/batch/write", &body(items), None) {
            Ok(answer) => self.account(items, &answer),
            Err(failure) if !failure.blames_the_body() => Err(failure),
            Err(failure) => match items {
                [item] => {
                    self.bad(item.line, &failure.message);
                    Ok(())
                }
                _ => {
                    let (first, second) = items.split_at(items.len() / 2);
                    self.send(first)?;
                    self.send(second)
                }
            },
        }
    }

    fn account(&mut self, items: &[Item], answer: &Answer) -> Result<(), Failure> {
        let results: Results = answer.json()?;
        if results.results.len() != items.len() {
            return Err(Failure::failed("the server answered for another number of items than were sent"));
        }
        for (item, result) in items.iter().zip(results.results) {
            match result.status {
                201 => self.summary.created += 1,
                200 => self.summary.merged += 1,
                status => {
                    let problem = result.problem.unwrap_or_default();
                    self.bad(item.line, &Failure::refused(status, &problem).message);
                }
            }
        }
        Ok(())
    }

    fn bad(&mut self, line: u64, reason: &str) {
        self.summary.failed += 1;
        self.bar.suspend(|| self.ui.warn(&format!("line {line}: {reason}")));
    }
}

fn body(items: &[Item]) -> Zeroizing<String> {
    let size: usize = items.iter().map(|item| item.json.len() + 1).sum();
    let mut body = Zeroizing::new(String::with_capacity(size + 16));
    body.push_str("{\"items\":[");
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            body.push(',');
        }
        body.push_str(&item.json);
    }
    body.push_str("]}");
    body
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fake::FakeVault;
    use crate::output::Format;

    fn import_text(fake: &FakeVault, text: &str) -> Result<Summary, Failure> {
        let ui = Ui { format: Format::Table, quiet: true, progress: false, yes: false };
        let client = Client::anonymous(&fake.connection()).unwrap();
        import(&client, text.as_bytes(), &ui, &ProgressBar::hidden())
    }

    fn results(statuses: &[u16]) -> (u16, String) {
        let items: Vec<_> =
            statuses.iter().map(|status| format!("{{\"status\":{status},\"subject\":\"x\"}}")).collect();
        (200, format!("{{\"results\":[{}]}}", items.join(",")))
    }

    #[test]
    fn good_lines_go_in_and_bad_ones_are_counted() {
        let fake = FakeVault::answering(vec![results(&[201, 200, 422])]);
        let text = "{\"subject\":\"a\",\"name\":\"A\"}\n\nnonsense\n{\"name\":\"B\"}\n\
                    {\"subject\":\"c\",\"name\":\"C\"}\n{\"subject\":\"d\",\"birth_date\":\"x\"}";
        let summary = import_text(&fake, text).unwrap();
        assert_eq!(summary, Summary { lines: 5, created: 1, merged: 1, failed: 3 });
        let asked = fake.requests();
        assert!(asked[0].ends_with(
            r#"{"items":[{"subject":"a","fields":{"name":"A"}},{"subject":"c","fields":{"name":"C"}},{"subject":"d","fields":{"birth_date":"x"}}]}"#
        ));
    }

    #[test]
    fn batches_hold_at_most_250_items() {
        let text: String = (0..260).map(|n| format!("{{\"subject\":\"s{n}\",\"name\":\"N\"}}\n")).collect();
        let fake = FakeVault::answering(vec![results(&[201; 250]), results(&[201; 10])]);
        assert_eq!(import_text(&fake, &text).unwrap().created, 260);
        assert_eq!(fake.requests().len(), 2);
    }

    #[test]
    fn a_refused_batch_is_halved_until_the_bad_line_is_alone() {
        let malformed = r#"{"code":"malformed","detail":"item refused"}"#;
        let fake = FakeVault::answering(vec![(400, malformed.into()), results(&[201]), (400, malformed.into())]);
        let text = "{\"subject\":\"a\",\"name\":\"A\"}\n{\"subject\":\"b\",\"name\":\"B\"}\n";
        let summary = import_text(&fake, text).unwrap();
        assert_eq!((summary.created, summary.failed), (1, 1));
    }

    #[test]
    fn a_locked_vault_stops_the_import_and_says_where() {
        let fake = FakeVault::answering(vec![(423, r#"{"code":"locked","detail":"locked"}"#.into())]);
        let failure = import_text(&fake, "{\"subject\":\"a\",\"name\":\"A\"}\n").unwrap_err();
        assert_eq!(failure.exit as u8, 6);
        assert!(failure.message.contains("lines 1 to 1"), "{failure}");
    }

    #[test]
    fn an_endless_line_is_skipped_not_swallowed() {
        let long = usize::try_from(MAX_LINE).unwrap() + 100_000;
        let mut text = "x".repeat(long);
        text.push_str("\nshort\n");
        let mut source = BufReader::new(text.as_bytes());
        let mut line = Vec::new();
        assert_eq!(read_line(&mut source, &mut line).unwrap(), long as u64 + 1);
        assert_eq!(line.len() as u64, MAX_LINE + 1);
        assert_eq!(read_line(&mut source, &mut line).unwrap(), 6);
        assert_eq!(line, b"short\n");
        assert_eq!(read_line(&mut source, &mut line).unwrap(), 0);
    }
}
