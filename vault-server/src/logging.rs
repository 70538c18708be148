//! Log lines: structured, on standard error, without a value, a subject id or a path that holds one.

use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;
use tracing::Metadata;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The target of the lines that there is one of for every request.
pub(crate) const REQUESTS: &str = "vault_server::requests";

/// The variable that sets the level, in the syntax of `tracing`: `debug`, or `info,vault_core=debug`.
const LEVEL_VARIABLE: &str = "UDV_LOG";

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging, and makes panics say where they happened and nothing else.
pub(crate) fn start(format: LogFormat) {
    let filter = EnvFilter::try_from_env(LEVEL_VARIABLE).unwrap_or_else(|_| EnvFilter::new("info,sled=warn"));
    let lines: &'static Lines = Box::leak(Box::default());
    // Without it lines go out at once, each by itself.
    let gathers = std::thread::Builder::new().name("log lines".to_owned()).spawn(|| lines.flush_now_and_then()).is_ok();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Writers { lines, gathers });
    match format {
        LogFormat::Text => builder.with_ansi(colours()).with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).init(),
    }
    quiet_panics();
}

/// Lines of requests, which are written out together: there are many thousand a second.
#[derive(Default)]
struct Lines(Mutex<Vec<u8>>);

/// How long such a line waits at most.
const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// Bytes of them that are written out without waiting.
const FLUSH_AT: usize = 32 * 1024;

impl Lines {
    fn flush_now_and_then(&self) {
        loop {
            std::thread::sleep(FLUSH_EVERY);
            self.flush(&mut self.waiting());
        }
    }

    /// Standard error, or nothing where it takes nothing: a full disk, or a reader that has gone, must not end who logs.
    fn flush(&self, waiting: &mut Vec<u8>) {
        if !waiting.is_empty() {
            let _ = io::stderr().write_all(waiting);
            waiting.clear();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes the writer of a line.
struct Writers {
    lines: &'static Lines,
    /// Whether lines may wait, for somebody writes them out.
    gathers: bool,
}

struct Writer {
    lines: &'static Lines,
    at_once: bool,
}

impl<'a> MakeWriter<'a> for Writers {
    type Writer = Writer;

    fn make_writer(&'a self) -> Writer {
        Writer { lines: self.lines, at_once: true }
    }

    fn make_writer_for(&'a self, of: &Metadata<'_>) -> Writer {
        Writer { lines: self.lines, at_once: !(self.gathers && of.target() == REQUESTS) }
    }
}

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = self.lines.waiting();
        waiting.extend_from_slice(line);
        // Along with what waits, so that lines keep their order.
        if self.at_once || waiting.len() >= FLUSH_AT {
            self.lines.flush(&mut waiting);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A panic's message may hold what it was working on, so only its place is told.
fn quiet_panics() {
    std::panic::set_hook(Box::new(|panic| match panic.location() {
        Some(at) => tracing::error!(file = at.file(), line = at.line(), "internal error: a panic was caught"),
        None => tracing::error!("internal error: a panic was caught"),
    }));
}
