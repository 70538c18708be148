//! Log lines: structured, on standard error, without a value, a subject id or a path that holds one.

use std::io::{self, IsTerminal, Stderr, Write};

use clap::ValueEnum;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

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
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Lossy(io::stderr()));
    match format {
        LogFormat::Text => builder.with_ansi(colours()).with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).init(),
    }
    quiet_panics();
}

/// Standard error, or nothing where it takes nothing: a full disk, or a reader that has gone, must not end who logs.
struct Lossy(Stderr);

impl Write for Lossy {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        Ok(self.0.write(line).unwrap_or(line.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        let _ = self.0.flush();
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
