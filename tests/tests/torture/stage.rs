//! A vault, its workers and whoever kills it.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use vault_core::store::EngineName;

use super::model::{Tally, Trouble};
use super::rotator::Rotator;
use super::workload::Worker;
use crate::harness::{Choices, Client, Running, Vault, engine, run, seed, server_command};

/// How long a worker waits when the server is busy.
const BUSY_PAUSE: Duration = Duration::from_millis(3);
/// Far more than erasures take to become final when nothing keeps them.
const FINAL_LIMIT: Duration = Duration::from_secs(120);

/// What everything of one torture is done on.
pub(crate) struct Stage {
    pub(crate) vault: Vault,
    pub(crate) workers: Vec<Worker>,
    pub(crate) choices: Choices,
    /// Names the torture and its seed, in whatever goes wrong.
    name: String,
    begun: Instant,
    /// Whether a server, or a program on the stopped vault, was killed.
    killed: bool,
    /// The key file in use, and how many were made after the first.
    key_file: String,
    key_files: u64,
}

pub(crate) fn other_engine() -> EngineName {
    if engine() == EngineName::Sled { EngineName::Fjall } else { EngineName::Sled }
}

impl Stage {
    pub(crate) fn new(what: &str, engine: EngineName, workers: u64, subjects_each: u64) -> Self {
        let seed = seed();
        let name = format!("{what} on {engine}, seed {seed}");
        eprintln!("{name}");
        let mut choices = Choices::new(seed);
        let workers = (0..workers).map(|n| Worker::new(n, subjects_each, choices.fork())).collect();
        let vault = Vault::configured_in(tempfile::tempdir().unwrap(), engine);
        let (key_file, begun) = ("unlock.key".to_owned(), Instant::now());
        Self { vault, workers, choices, name, begun, killed: false, key_file, key_files: 0 }
    }

    pub(crate) fn say(&self, what: &str) {
        eprintln!("{}: at {:.1} s, {what}", self.name, self.begun.elapsed().as_secs_f64());
    }

    /// Fails, and leaves the vault to be looked at.
    #[track_caller]
    pub(crate) fn fail(&mut self, trouble: Trouble) -> ! {
        self.vault.keep();
        let place = self.vault.root().display().to_string();
        match trouble {
            Trouble::Deviation(deviation) => panic!("{}: {deviation} (the vault is kept in {place})", self.name),
            Trouble::Gone | Trouble::Busy => panic!("{}: no answer (the vault is kept in {place})", self.name),
        }
    }

    fn command(&self) -> Command {
        let mut command = self.vault.command();
        command.env("UDV_LIMITS__LOOKUPS_PER_MINUTE", "0");
        command
    }

    #[track_caller]
    pub(crate) fn start(&mut self) -> Running {
        match self.vault.start_with(self.command()) {
            Ok(running) => running,
            Err(refusal) => self.fail(Trouble::Deviation(format!("it does not start: {}", refusal.text))),
        }
    }

    /// A start that is killed as well, somewhere in its recovery.
    pub(crate) fn kill_while_starting(&mut self) {
        let mut child = self.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(self.choices.below(300)));
        child.kill().unwrap();
        child.wait().unwrap();
        self.killed = true;
    }

    /// Who rotates.
    pub(crate) fn rotator(&self, running: &Running) -> Rotator {
        Rotator::new(running.admin.clone()).after_kills(self.killed)
    }

    /// Holds every subject against its model, after a restart; of the numbers as many as there are subjects at most.
    #[track_caller]
    pub(crate) fn settle(&mut self, client: &Client, lookups_each: usize) -> Tally {
        let client = &client.for_purpose("account");
        let settle = |worker: &mut Worker| {
            let tally = worker.model.settle(client)?;
            worker.look_some_up(client, lookups_each)?;
            Ok(tally)
        };
        let settled: Result<Vec<Tally>, Trouble> = thread::scope(|scope| {
            let settling: Vec<_> = self.workers.iter_mut().map(|worker| scope.spawn(move || settle(worker))).collect();
            settling.into_iter().map(|settling| settling.join().unwrap()).collect()
        });
        settled.unwrap_or_else(|trouble| self.fail(trouble)).into_iter().fold(Tally::default(), Tally::and)
    }

    /// Has every worker work, and `meanwhile` done beside them. Ends when that has ended; if it has killed the server, it must
    /// have said so beforehand.
    #[track_caller]
    pub(crate) fn under_load<T: Send>(
        &mut self,
        client: &Client,
        meanwhile: impl FnOnce(&Ending, &mut Choices) -> Result<T, Trouble>,
    ) -> T {
        let ending = Ending::default();
        let client = client.for_purpose("account");
        let (workers, choices) = (&mut self.workers, &mut self.choices);
        let result = thread::scope(|scope| {
            let working: Vec<_> = workers
                .iter_mut()
                .map(|worker| (worker, client.clone()))
                .map(|(worker, client)| {
                    let ending = &ending;
                    scope.spawn(move || work(worker, &client, ending))
                })
                .collect();
            let result = meanwhile(&ending, choices);
            ending.stopped.store(true, Ordering::SeqCst);
            working.into_iter().try_for_each(|worker| worker.join().unwrap()).and(result)
        });
        self.killed |= ending.killed.load(Ordering::SeqCst);
        result.unwrap_or_else(|trouble| self.fail(trouble))
    }

    /// Gives the stopped vault another key file to be unlocked by, and returns whether it has it. If the program is killed
    /// at it, one of the two key files opens it.
    #[track_caller]
    pub(crate) fn rotate_unlock(&mut self, kill: bool) -> bool {
        self.key_files += 1;
        let new = format!("unlock-{}.key", self.key_files);
        let mut command = server_command();
        command.args(["unlock-key", "--config"]).arg(self.vault.config());
        command.arg("--new-key-file").arg(self.vault.data().join(&new));
        if !kill {
            let finished = run(command);
            if finished.code != Some(0) {
                self.fail(Trouble::Deviation(format!("unlock-key fails: {}", finished.err)));
            }
            self.vault.set_key_file(&new);
            self.key_file = new;
            return true;
        }
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(self.choices.below(1200)));
        child.kill().unwrap();
        child.wait().unwrap();
        self.killed = true;
        self.vault.set_key_file(&new);
        // Which of them it is shows at the start.
        let changed = self.vault.data().join(&new).exists() && self.opens();
        if changed {
            self.key_file = new;
        } else {
            self.vault.set_key_file(&self.key_file);
        }
        changed
    }

    /// Whether the configured key file opens it.
    fn opens(&self) -> bool {
        self.vault.start_with(self.command()).map(|running| running.server.kill()).is_ok()
    }

    /// The end: all that goes on by itself ends, all is as the model allows, and nothing is damaged.
    #[track_caller]
    pub(crate) fn finish(&mut self) -> Tally {
        let running = self.start();
        if let Err(trouble) = self.rotator(&running).let_all_end() {
            self.fail(trouble);
        }
        // None stays refused for ever.
        let deadline = Instant::now() + FINAL_LIMIT;
        loop {
            match refused(&running.admin) {
                None => break,
                Some(open) if Instant::now() > deadline => {
                    self.fail(Trouble::Deviation(format!("an erasure does not become final: {open}")));
                }
                Some(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
        let tally = self.settle(&running.admin, usize::MAX);
        running.stop();
        let verified = self.vault.verify_as_configured();
        if verified.code != Some(0) {
            self.fail(Trouble::Deviation(format!("verify: {}{}", verified.out, verified.err)));
        }
        self.say(&format!("at the end {} absent, {} live, {} shredded", tally.absent, tally.live, tally.shredded));
        tally
    }
}

/// An erasure that is not final yet, looked for in all pages.
fn refused(admin: &Client) -> Option<Value> {
    let mut after = String::new();
    loop {
        let page = admin.get(&format!("/v1/erasures?state=refused&limit=1000{after}")).expect(200).json();
        if let Some(open) = page["data"].as_array().unwrap().first() {
            return Some(open.clone());
        }
        after = format!("&after={}", page["next"].as_str()?);
    }
}

/// How the workers learn that there is nothing more to do.
#[derive(Default)]
pub(crate) struct Ending {
    stopped: AtomicBool,
    killed: AtomicBool,
}

impl Ending {
    /// Kills the server, so that workers may find it gone.
    pub(crate) fn kill(&self, running: Running) -> Result<(), Trouble> {
        self.killed.store(true, Ordering::SeqCst);
        let log = running.server.kill();
        match log.contains("a panic was caught") {
            true => Err(Trouble::Deviation(log)),
            false => Ok(()),
        }
    }
}

fn work(worker: &mut Worker, client: &Client, ending: &Ending) -> Result<(), Trouble> {
    while !ending.stopped.load(Ordering::SeqCst) {
        match worker.step(client) {
            Ok(()) => {}
            Err(Trouble::Busy) => thread::sleep(BUSY_PAUSE),
            Err(Trouble::Gone) if ending.killed.load(Ordering::SeqCst) => return Ok(()),
            Err(Trouble::Gone) => {
                return Err(Trouble::Deviation("the server did not answer, and was not killed".into()));
            }
            Err(deviation) => return Err(deviation),
        }
    }
    Ok(())
}
