//! Log lines: structured, on standard error, without a value, a subject id or a path that holds one.

use std::io::{self, IsTerminal, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;
use tracing::Metadata;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// The target of the lines that there is one of for every request.
pub(crate) const REQUESTS: &str = "vault_server::requests";
/// The target of what the thread that writes lines tells.
const LEFT_OUT: &str = "vault_server::left_out";

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
    // Where there is no thread to be had no server starts either, which says so.
    let _ = std::thread::Builder::new().name("log lines".to_owned()).spawn(|| LINES.write_out(&mut io::stderr()));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(Writers);
    match format {
        LogFormat::Text => builder.with_ansi(colours()).with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).init(),
    }
    quiet_panics();
}

/// Writes out what waits, before the program ends. Does not wait long for somebody who does not read.
pub(crate) fn finish() {
    LINES.hurry(LINES.state());
}

static LINES: Lines = Lines::new();

/// Lines on their way to standard error. A thread of its own writes them, for a pipe that nobody reads must not hold up whoever
/// logs; and those of requests, of which there are many thousand a second, are written together.
struct Lines {
    state: Mutex<State>,
    /// Something waits, or is to be written at once.
    wake: Condvar,
    written: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Bytes that came so far, and of them those that are written or lost.
    put: u64,
    out: u64,
    hurry: bool,
    /// Nothing was written for as long as somebody waits for it: nobody does until something is.
    stuck: bool,
    left_out: u64,
}

/// How long the line of a request waits at most.
const FLUSH_EVERY: Duration = Duration::from_millis(100);
/// Bytes of them that are written without waiting.
const FLUSH_AT: usize = 32 * 1024;
/// Bytes that wait at most; what comes then is left out.
const WAITING_MAX: usize = 4 * 1024 * 1024;
/// How long somebody whose line is not of a request waits for it to be written, so that lines keep their order among what is
/// printed.
const WRITTEN_WITHIN: Duration = Duration::from_millis(500);

/// After how long a pipe that was full is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(10);

impl Lines {
    const fn new() -> Self {
        let state = State { waiting: Vec::new(), put: 0, out: 0, hurry: false, stuck: false, left_out: 0 };
        Self { state: Mutex::new(state), wake: Condvar::new(), written: Condvar::new() }
    }

    fn put(&self, line: &[u8], at_once: bool) {
        let mut state = self.state();
        if state.waiting.len() + line.len() > WAITING_MAX {
            state.left_out += 1;
            return;
        }
        state.waiting.extend_from_slice(line);
        state.put += line.len() as u64;
        if at_once {
            self.hurry(state);
        } else if state.waiting.len() == line.len() || state.waiting.len() >= FLUSH_AT {
            self.wake.notify_one();
        }
    }

    /// Has everything written that waits, and waits for that within bounds.
    fn hurry(&self, mut state: MutexGuard<'_, State>) {
        let through = state.put;
        state.hurry = true;
        self.wake.notify_one();
        if state.stuck {
            return;
        }
        let waited = self.written.wait_timeout_while(state, WRITTEN_WITHIN, |state| state.out < through);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.stuck |= state.out < through;
    }

    /// Writes lines as they come, for ever.
    fn write_out(&self, to: &mut impl Write) {
        let mut lines = Vec::new();
        loop {
            let state = self.wake.wait_while(self.state(), |state| state.waiting.is_empty());
            let state = state.unwrap_or_else(PoisonError::into_inner);
            let gathers = |state: &mut State| !state.hurry && state.waiting.len() < FLUSH_AT;
            let gathered = self.wake.wait_timeout_while(state, FLUSH_EVERY, gathers);
            let (mut state, _) = gathered.unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut lines, &mut state.waiting);
            state.hurry = false;
            drop(state);
            write_all(to, &lines);
            let mut state = self.state();
            state.out += lines.len() as u64;
            state.stuck = false;
            let left_out = std::mem::take(&mut state.left_out);
            drop(state);
            lines.clear();
            self.written.notify_all();
            if left_out > 0 {
                tracing::warn!(target: LEFT_OUT, lines = left_out, "standard error took nothing: log lines are left out");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes all of it, also to a pipe of the kind that does not wait by itself. Where it takes nothing, a full disk or a reader that
/// has gone, lines are lost: that must not end who logs.
fn write_all(to: &mut impl Write, mut lines: &[u8]) {
    while !lines.is_empty() {
        match to.write(lines) {
            Ok(0) => return,
            Ok(written) => lines = &lines[written..],
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(AGAIN_AFTER),
            Err(_) => return,
        }
    }
}

/// Makes the writer of a line.
struct Writers;

/// Whether it is written at once.
struct Writer(bool);

impl MakeWriter<'_> for Writers {
    type Writer = Writer;

    fn make_writer(&self) -> Writer {
        Writer(true)
    }

    fn make_writer_for(&self, of: &Metadata<'_>) -> Writer {
        Writer(![REQUESTS, LEFT_OUT].contains(&of.target()))
    }
}

impl Write for Writer {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        LINES.put(line, self.0);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc::{Receiver, sync_channel};

    use super::*;

    /// Takes a write each time that it is told to.
    struct Slow(Receiver<()>, std::sync::mpsc::Sender<Vec<u8>>);

    impl Write for Slow {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            let told = |_| io::Error::other("the test is over");
            self.0.recv().map_err(told)?;
            self.1.send(lines.to_vec()).map_err(io::Error::other)?;
            Ok(lines.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A pipe that does not wait, and takes three bytes every other time.
    struct Choked(bool, Vec<u8>);

    impl Write for Choked {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            self.0 = !self.0;
            if self.0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let taken = lines.len().min(3);
            self.1.extend_from_slice(&lines[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_pipe_that_does_not_wait_gets_every_line_whole() {
        let mut to = Choked(false, Vec::new());
        write_all(&mut to, b"a line\nanother one\n");
        assert_eq!(to.1, b"a line\nanother one\n");
    }

    #[test]
    fn a_reader_that_does_not_read_holds_nobody_up_and_gets_the_lines_in_their_order_later() {
        let lines: &'static Lines = Box::leak(Box::new(Lines::new()));
        let ((lets, let_in), (out, came)) = (sync_channel(1000), std::sync::mpsc::channel());
        std::thread::spawn(|| lines.write_out(&mut Slow(let_in, out)));

        let line = |number: usize| format!("{number:07}\n").into_bytes();
        let all = WAITING_MAX / 8 + 10_000;
        for number in 0..all {
            lines.put(&line(number), number % 100 == 0);
        }
        // But for the first, at which it came out, nobody waits.
        let state = lines.state();
        let left_out = state.left_out as usize;
        assert!(state.stuck && left_out > 0 && state.waiting.len() <= WAITING_MAX, "{left_out}");
        drop(state);

        (0..1000).for_each(|_| lets.send(()).unwrap());
        let mut text = Vec::new();
        while text.len() < (all - left_out) * 8 {
            text.extend(came.recv().unwrap());
        }
        let took: Vec<u8> = (0..all - left_out).flat_map(line).collect();
        assert!(text == took, "in their order, and none but the last is missing");
        // It reads again: whoever asks waits until his line is out.
        lines.put(b"later\n", true);
        assert_eq!(came.recv().unwrap(), b"later\n");
        let state = lines.state();
        assert_eq!((state.out, state.stuck), (state.put, false));
    }
}
