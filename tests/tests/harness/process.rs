//! Child processes: started, listened to, stopped, and never left behind.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Generous: the machine may be busy with other tests and builds.
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const RUN_LIMIT: Duration = Duration::from_secs(170);

type Log = Arc<Mutex<Vec<u8>>>;

/// A running server; killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    log: Log,
    readers: Vec<JoinHandle<()>>,
}

/// A server that ended instead of serving.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: ExitStatus,
    /// Both streams.
    pub(crate) text: String,
}

/// A command that ran to its end.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Kills its process when it is dropped, unless that has ended.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Finished {
    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    /// Asserts a failure that is told in plain words, with `words` among them.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, words: &str) -> Self {
        let finished = self.expect(code);
        assert!(finished.err.contains(words), "`{words}` is not in: {}", finished.err);
        plain_words(&finished.err);
        finished
    }
}

impl Refusal {
    /// Asserts that it ended by itself, with an exit code, and told why with `words`.
    #[track_caller]
    pub(crate) fn says(self, words: &str) -> Self {
        assert!(self.status.code().is_some_and(|code| code != 0), "{:?}: {}", self.status, self.text);
        assert!(self.text.contains(words), "`{words}` is not in: {}", self.text);
        plain_words(&self.text);
        self
    }
}

/// Nobody is shown a panic or the inside of a type.
#[track_caller]
pub(crate) fn plain_words(text: &str) {
    for word in ["panicked at", "RUST_BACKTRACE", "unwrap()", "Err(", "Some("] {
        assert!(!text.contains(word), "`{word}` is in: {text}");
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: Command) -> Finished {
    run_within(command, RUN_LIMIT)
}

/// The same for one that takes long.
pub(crate) fn run_within(mut command: Command, limit: Duration) -> Finished {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut child = Guard(child);
    let out = gather(child.0.stdout.take().unwrap());
    let err = gather(child.0.stderr.take().unwrap());
    let status = wait(&mut child.0, limit).unwrap_or_else(|| panic!("still running: {command:?}"));
    Finished { code: status.code(), out: out.join().unwrap(), err: err.join().unwrap() }
}

fn gather(mut stream: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() > deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

impl Server {
    /// Starts a server and waits until it says where it listens.
    pub(crate) fn start(mut command: Command) -> Result<Self, Refusal> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut server = Self { child, url: String::new(), log: Log::default(), readers: Vec::new() };
        let (announce, announced) = mpsc::channel();
        let out = server.child.stdout.take().unwrap();
        let err = server.child.stderr.take().unwrap();
        server.readers.push(follow(out, &server.log, move |line| {
            if let Some(url) = line.trim().strip_prefix("listening on ") {
                let _ = announce.send(url.to_owned());
            }
        }));
        server.readers.push(follow(err, &server.log, |_| ()));
        let deadline = Instant::now() + START_LIMIT;
        loop {
            if let Ok(url) = announced.recv_timeout(Duration::from_millis(10)) {
                server.url = url;
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait().unwrap() {
                server.readers.drain(..).for_each(|reader| reader.join().unwrap());
                return Err(Refusal { status, text: server.log() });
            }
            assert!(Instant::now() < deadline, "the server does not start: {}", server.log());
        }
    }

    /// Everything it printed so far, both streams.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// Asks it to read its certificate again.
    pub(crate) fn hang_up(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).unwrap();
    }

    /// Waits for its end, and tells what it printed.
    pub(crate) fn ended(mut self) -> (ExitStatus, String) {
        let status = wait(&mut self.child, STOP_LIMIT);
        let status = status.unwrap_or_else(|| panic!("the server does not stop: {}", self.log()));
        self.readers.drain(..).for_each(|reader| reader.join().unwrap());
        (status, self.log())
    }

    /// Stops it as an operator would; it must end well.
    pub(crate) fn stop(self) -> String {
        self.terminate();
        let (status, log) = self.ended();
        assert!(status.success(), "{status}: {log}");
        log
    }

    /// Ends it as a power cut would, for the process.
    pub(crate) fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.ended().1
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let running = matches!(self.child.try_wait(), Ok(None));
        let _ = self.child.kill();
        let _ = self.child.wait();
        if running && thread::panicking() {
            let log = self.log();
            let last: Vec<_> = log.lines().rev().take(20).collect();
            eprintln!("the server's last lines, latest first:\n{}", last.join("\n"));
        }
    }
}

fn follow(
    stream: impl Read + Send + 'static,
    log: &Log,
    mut seen: impl FnMut(&str) + Send + 'static,
) -> JoinHandle<()> {
    let log = Arc::clone(log);
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            log.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&line);
            seen(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}
