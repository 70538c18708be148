//! The server under load: built by the cargo that runs us, started on a directory of its own, ended with us.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::Failure;

/// Clock ticks a second, in which the kernel tells processor time: 100 on every Linux that Rust runs on.
const TICKS: u64 = 100;

/// A running `vault-server dev`.
pub(super) struct Server {
    child: Child,
    data: PathBuf,
    pub(super) address: SocketAddr,
    pub(super) token: String,
}

impl Server {
    /// Builds it, as optimised as we are, and starts it below `scratch`. Its log goes to a file there.
    pub(super) fn start(scratch: &Path) -> Result<Server, Failure> {
        let program = build()?;
        let data = scratch.join("vault");
        let log = scratch.join("server.log");
        let mut child = Command::new(program)
            .args(["dev", "--listen", "127.0.0.1:0", "--data"])
            .arg(&data)
            .stdout(Stdio::piped())
            .stderr(File::create(&log)?)
            .spawn()?;
        let stdout = child.stdout.take().ok_or("the server's output was piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let Some(address) = line.trim().strip_prefix("listening on http://") else {
            let _ = child.kill();
            return Err(format!("the server did not start: {}", fs::read_to_string(&log)?).into());
        };
        let address = address.parse()?;
        let token = fs::read_to_string(data.join("admin.token"))?.trim().to_owned();
        Ok(Server { child, data, address, token })
    }

    /// Where its engine's files are.
    pub(super) fn store_dir(&self) -> PathBuf {
        self.data.join("store")
    }

    /// Its process.
    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop, and waits until it has.
    pub(super) fn stop(&mut self) -> Result<(), Failure> {
        kill_process(Pid::from_child(&self.child), Signal::TERM)?;
        match self.child.wait()? {
            status if status.success() => Ok(()),
            status => Err(format!("the server stopped with {status}").into()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing to do if it has ended already, as it usually has.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Microseconds of processor time a process has taken so far, all its threads together.
pub(super) fn cpu_micros(process: u32) -> Result<u64, Failure> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may hold anything; user and system time are the 12th and 13th field after it.
    let (_, fields) = stat.rsplit_once(") ").ok_or("a process has a name")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks * (1_000_000 / TICKS))
}

fn build() -> Result<PathBuf, Failure> {
    let own = std::env::current_exe()?;
    let directory = own.parent().ok_or("a program lies in a directory")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--package", "vault-server", "--bin", "vault-server"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    if !command.status()?.success() {
        return Err("the server does not build".into());
    }
    Ok(directory.join("vault-server"))
}
