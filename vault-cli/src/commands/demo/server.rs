//! A vault server as a child process of the demo: started, watched, stopped, and never left behind.

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::Client;
use crate::exit::Failure;
use crate::output::Ui;
use crate::profile::Connection;

const PROGRAM: &str = "vault-server";
const ANNOUNCEMENT: &str = "listening on ";
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The server promises to stop within 10 s of SIGTERM.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(50);

/// Everything a server printed, both streams.
type Log = Arc<Mutex<Vec<u8>>>;

/// The process id of the server that runs now, for whoever must end it from another thread.
pub(super) type Running = Arc<Mutex<Option<Pid>>>;

/// Starts servers, one at a time.
pub(super) struct Launcher {
    program: PathBuf,
    running: Running,
}

/// A running `vault-server dev`; killed when dropped.
pub(super) struct Server {
    child: Child,
    running: Running,
    url: String,
    data: PathBuf,
    log: Log,
}

/// A server that did not come to serve.
pub(super) struct Refusal {
    /// None when it had to be killed because it neither served nor ended.
    pub(super) status: Option<ExitStatus>,
    pub(super) log: String,
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let last = refusal.log.lines().rev().find(|line| !line.trim().is_empty());
        let ended = refusal
            .status
            .map_or_else(|| "did not start in time".to_owned(), |status| format!("ended at once ({status})"));
        let last = crate::output::printable(last.unwrap_or("it said nothing"));
        Self::failed(format!("{PROGRAM} {ended}: {last}"))
    }
}

/// The server's program: beside this one, else on PATH.
fn find_program() -> Result<PathBuf, Failure> {
    let beside = env::current_exe().ok().and_then(|own| own.parent().map(|dir| dir.join(PROGRAM)));
    let on_path = env::var_os("PATH").unwrap_or_default();
    beside
        .into_iter()
        .chain(env::split_paths(&on_path).map(|dir| dir.join(PROGRAM)))
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Failure::failed(format!("the demo needs {PROGRAM}, which is neither beside vault-cli nor on PATH"))
                .hint("build both with: cargo build --release")
        })
}

impl Launcher {
    /// Finds the server's program.
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(Self::of(find_program()?))
    }

    fn of(program: PathBuf) -> Self {
        Self { program, running: Running::default() }
    }

    /// A view of what runs now.
    pub(super) fn running(&self) -> Running {
        Arc::clone(&self.running)
    }

    /// Starts the server on a data directory and waits until it is ready to serve.
    pub(super) fn start(&self, data: &Path) -> Result<Server, Refusal> {
        let mut command = Command::new(&self.program);
        command
            .args(["dev", "--listen", "127.0.0.1:0", "--data"])
            .arg(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the demo, which then ends the server; otherwise the server may be gone first.
            .process_group(0);
        // Settings meant for the operator's real vault must not reach this one.
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("UDV_") {
                command.env_remove(name);
            }
        }
        let mut child = command.spawn().map_err(|error| Refusal {
            status: None,
            log: format!("{} cannot be run: {error}", self.program.display()),
        })?;
        *lock(&self.running) = Some(Pid::from_child(&child));
        let log = Log::default();
        let (announce, announced) = mpsc::channel();
        let stdout = child.stdout.take().map(|stream| {
            let log = Arc::clone(&log);
            thread::spawn(move || {
                follow(stream, &log, |line| {
                    if let Some(url) = line.trim().strip_prefix(ANNOUNCEMENT) {
                        // The demo may have given up waiting; then nobody needs the address.
                        let _ = announce.send(url.to_owned());
                    }
                });
            })
        });
        let stderr = child.stderr.take().map(|stream| {
            let log = Arc::clone(&log);
            thread::spawn(move || follow(stream, &log, |_| ()))
        });
        let mut server = Server { child, running: self.running(), url: String::new(), data: data.to_owned(), log };
        let deadline = Instant::now() + START_TIMEOUT;
        match server.wait_ready(&announced, deadline) {
            Ok(()) => Ok(server),
            Err(status) => {
                // Killed first, so that both streams end and all it said is known.
                server.kill();
                for reader in [stdout, stderr].into_iter().flatten() {
                    let _ = reader.join();
                }
                Err(Refusal { status, log: server.log() })
            }
        }
    }
}

impl Server {
    fn wait_ready(&mut self, announced: &mpsc::Receiver<String>, deadline: Instant) -> Result<(), Option<ExitStatus>> {
        while self.url.is_empty() {
            match announced.recv_timeout(LOOK) {
                Ok(url) => self.url = url,
                Err(RecvTimeoutError::Timeout) => self.check_alive(deadline)?,
                Err(RecvTimeoutError::Disconnected) => {
                    thread::sleep(LOOK);
                    self.check_alive(deadline)?;
                }
            }
        }
        let client = Client::anonymous(&self.connection()).map_err(|_| None)?;
        while client.get("/readyz").is_err() {
            thread::sleep(LOOK);
            self.check_alive(deadline)?;
        }
        Ok(())
    }

    fn check_alive(&mut self, deadline: Instant) -> Result<(), Option<ExitStatus>> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(Some(status)),
            Ok(None) if Instant::now() < deadline => Ok(()),
            _ => Err(None),
        }
    }

    fn connection(&self) -> Connection {
        Connection { url: self.url.clone(), token_file: Some(self.data.join("admin.token")), ca: None }
    }

    /// A client with the admin's API token of this vault.
    pub(super) fn client(&self, ui: &Ui) -> Result<Client, Failure> {
        Client::new(&self.connection(), ui)
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Everything it printed so far.
    pub(super) fn log(&self) -> String {
        String::from_utf8_lossy(&lock(&self.log)).into_owned()
    }

    /// Asks it to stop (SIGTERM), waits, and returns what it printed. An exit status other than 0 is a failure.
    pub(super) fn stop(mut self) -> Result<String, Failure> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)
            .map_err(|error| Failure::failed(format!("cannot stop {PROGRAM}: {error}")))?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(self.log()),
                Some(status) => {
                    return Err(Failure::failed(format!("{PROGRAM} did not stop cleanly ({status})")));
                }
                None if Instant::now() > deadline => {
                    return Err(Failure::failed(format!(
                        "{PROGRAM} did not stop within {} s of SIGTERM",
                        STOP_TIMEOUT.as_secs()
                    )));
                }
                None => thread::sleep(LOOK),
            }
        }
    }

    fn kill(&mut self) {
        // Both fail only when it is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
        *lock(&self.running) = None;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a thread that panicked left behind is still whole: a list of bytes, or a number.
pub(super) fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn follow(stream: impl Read, log: &Log, mut seen: impl FnMut(&str)) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        lock(log).extend_from_slice(&line);
        seen(&String::from_utf8_lossy(&line));
        line.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn script(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join(PROGRAM);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    #[test]
    fn a_server_that_refuses_is_told_with_its_last_words() {
        let dir = tempfile::tempdir().unwrap();
        let program = script(dir.path(), "echo starting; echo 'the store is older than its slot' >&2; exit 3");
        let refusal = Launcher::of(program).start(dir.path()).err().unwrap();
        assert_eq!(refusal.status.unwrap().code(), Some(3));
        assert!(refusal.log.contains("older than its slot"));
    }

    #[test]
    fn a_server_is_found_ready_and_stopped_by_sigterm() {
        use crate::fake::FakeVault;
        let fake =
            FakeVault::answering(vec![(503, r#"{"status":"locked"}"#.into()), (200, r#"{"status":"ready"}"#.into())]);
        let url = fake.connection().url;
        let dir = tempfile::tempdir().unwrap();
        let program = script(
            dir.path(),
            &format!("trap 'echo bye; exit 0' TERM\necho 'listening on {url}'\nwhile :; do sleep 0.05; done"),
        );
        let Ok(server) = Launcher::of(program).start(dir.path()) else { panic!("it announced itself and is ready") };
        assert_eq!(server.url(), url);
        assert_eq!(fake.requests().len(), 2);
        server.stop().unwrap();
    }
}
