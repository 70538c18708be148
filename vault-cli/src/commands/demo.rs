//! `demo`: the whole story on a temporary vault, one line a step, ending with the attempt to bring a shredded customer back.

mod customers;
mod interrupt;
mod search;
mod server;
mod story;

use std::fs;
use std::path::{Path, PathBuf};

use indicatif::ProgressBar;

use super::{erase, import, key};
use crate::args::DemoArgs;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::Ui;
use customers::Customers;
use search::copy_dir;
use server::{Launcher, Server};
use story::Story;

/// A small vault of real-looking customers that comes with the program.
const SAMPLE: &str = include_str!("../../sample/customers.ndjson");
/// What a server says when the store is from before its slot.
const OLDER: &str = "older than its slot";

/// Everything the steps share.
struct Demo<'a> {
    launcher: Launcher,
    /// The vault itself.
    data: PathBuf,
    /// Where the thief keeps copies; always temporary.
    scratch: tempfile::TempDir,
    customers: Customers,
    story: Story,
    ui: &'a Ui,
    /// Everything the vault's servers printed.
    logs: String,
}

/// Tells the story; exit 8 if any check in it fails.
pub(crate) fn run(args: &DemoArgs, ui: &Ui) -> Result<Exit, Failure> {
    let input = match &args.input {
        Some(path) => fs::read_to_string(path)
            .map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))?,
        None => SAMPLE.to_owned(),
    };
    let customers = Customers::parse(input)?;
    let launcher = Launcher::new()?;
    let scratch = tempfile::tempdir()?;
    let interrupted = interrupt::clean_up_after(launcher.running(), scratch.path().to_owned())?;
    let data = match &args.keep {
        Some(dir) => new_or_empty(dir)?,
        None => scratch.path().join("vault"),
    };
    let mut demo = Demo { launcher, data, scratch, customers, story: Story::new(ui), ui, logs: String::new() };
    demo.tell().inspect_err(|_| interrupted.yield_to_signal())?;
    interrupted.yield_to_signal();
    if let Some(dir) = &args.keep {
        ui.note(&format!("the vault is kept; serve it with: vault-server dev --data {}", dir.display()));
    }
    demo.story.end()
}

fn new_or_empty(dir: &Path) -> Result<PathBuf, Failure> {
    let occupied = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if occupied || dir.is_file() {
        return Err(Failure::usage(format!("{} is not empty; the demo makes a vault of its own", dir.display())));
    }
    Ok(dir.to_owned())
}

impl Demo<'_> {
    fn tell(&mut self) -> Result<(), Failure> {
        self.ordinary_days()?;
        self.thief_copies()?;
        self.customer_is_shredded()?;
        self.control()?;
        self.attack()?;
        self.search_everything()
    }

    /// Store, read, find, mask, rotate.
    fn ordinary_days(&mut self) -> Result<(), Failure> {
        let server = self.launcher.start(&self.data)?;
        let client = server.client(self.ui)?;
        self.story.step(true, &format!("a new vault serves at {}", server.url()))?;

        let hidden = ProgressBar::hidden();
        let summary = import::import(&client, self.customers.text.as_bytes(), self.ui, &hidden)?;
        let stored = summary.created;
        self.story.step(
            summary.failed == 0 && stored == self.customers.len(),
            &format!("{stored} of {} customers imported", self.customers.len()),
        )?;
        self.read_one(&client)?;
        self.look_up_one(&client)?;
        self.show_masked(&client)?;
        self.rotate(&client)?;
        self.stop(server)
    }

    fn read_one(&mut self, client: &Client) -> Result<(), Failure> {
        let one = self.customers.witness();
        let wrong = one.differences(client)?;
        self.story.step(
            wrong.is_empty(),
            &match wrong.as_slice() {
                [] => format!("{} reads back byte for byte, all {} fields", one.subject(), one.fields()),
                wrong => format!("{} differs in {}", one.subject(), wrong.join(", ")),
            },
        )
    }

    fn look_up_one(&mut self, client: &Client) -> Result<(), Failure> {
        for (how, found) in self.customers.witness().lookups(client)? {
            let right = found.iter().any(|id| id == self.customers.witness().subject());
            self.story.step(right, &format!("found by {how}: {}", found.join(", ")))?;
        }
        Ok(())
    }

    fn show_masked(&mut self, client: &Client) -> Result<(), Failure> {
        let one = self.customers.witness();
        let Some((name, masked, hides)) = one.masked(client)? else {
            return Ok(());
        };
        self.story.step(hides, &format!("shown to whoever gives no purpose: {name} {masked}"))
    }

    fn rotate(&mut self, client: &Client) -> Result<(), Failure> {
        let before = story::epoch(client)?;
        key::rotate_and_wait(client, "root")?;
        let after = story::epoch(client)?;
        self.story.step(after > before, &format!("root key rotated: epoch {before}, now {after}"))?;
        let pages = key::rotate_and_wait(client, "keks")?;
        self.story.step(true, &format!("page keys rotated: {pages} pages"))?;
        self.all_there(client, None)
    }

    /// Everybody, but for the one who was shredded, reads back byte for byte.
    fn all_there(&mut self, client: &Client, but: Option<&str>) -> Result<(), Failure> {
        let (mut there, mut expected) = (0, 0);
        for customer in self.customers.iter().filter(|c| Some(c.subject()) != but) {
            expected += 1;
            there += u64::from(customer.differences(client)?.is_empty());
        }
        let who = if but.is_some() { "the other" } else { "all" };
        self.story.step(
            there == expected,
            &format!("{who} {expected} customers are intact ({there} read back byte for byte)"),
        )
    }

    fn stop(&mut self, server: Server) -> Result<(), Failure> {
        self.logs.push_str(&server.stop()?);
        Ok(())
    }

    /// The stopped vault is copied whole: store, slot and key file.
    fn thief_copies(&mut self) -> Result<(), Failure> {
        copy_dir(&self.data, &self.stolen())?;
        self.story.step(true, "stopped, and a thief copies the whole directory: store, slot and key file")
    }

    fn stolen(&self) -> PathBuf {
        self.scratch.path().join("stolen")
    }

    fn customer_is_shredded(&mut self) -> Result<(), Failure> {
        let server = self.launcher.start(&self.data)?;
        let client = server.client(self.ui)?;
        self.story.step(true, "started again")?;
        self.all_there(&client, None)?;

        let victim = self.customers.victim().subject().to_owned();
        erase::shred_one(&client, &victim, self.ui)?;
        self.story.step(true, &format!("{victim} shredded: final"))?;
        let gone = self.customers.victim().is_gone(&client)?;
        self.story.step(gone, &format!("reading {victim} answers 410"))?;
        for (how, found) in self.customers.victim().lookups(&client)? {
            self.story.step(!found.contains(&victim), &format!("lookup by {how} no longer finds {victim}"))?;
        }
        self.all_there(&client, Some(&victim))?;
        self.stop(server)
    }

    /// With its own old slot the copy opens: it is complete, and what fails below fails for the right reason.
    fn control(&mut self) -> Result<(), Failure> {
        let copy = self.scratch.path().join("control");
        copy_dir(&self.stolen(), &copy)?;
        let server = self.launcher.start(&copy)?;
        let victim = self.customers.victim();
        let there = victim.differences(&server.client(self.ui)?)?.is_empty();
        let text = format!("control: while its old root key lives, the thief's copy still shows {}", victim.subject());
        self.story.step(there, &text)?;
        server.stop().map(drop)
    }

    /// Every old byte of the store, with today's slot and key file.
    fn attack(&mut self) -> Result<(), Failure> {
        let copy = self.scratch.path().join("attack");
        copy_dir(&self.stolen(), &copy)?;
        for name in ["root.slot", "unlock.key"] {
            fs::copy(self.data.join(name), copy.join(name))?;
        }
        let victim = self.customers.victim().subject();
        match self.launcher.start(&copy) {
            Ok(server) => {
                let text = format!("attack: the old store served again at {}", server.url());
                self.story.step(false, &text)
            }
            Err(refusal) => {
                let failed = refusal.status.is_some_and(|status| !status.success());
                let said = refusal.log.lines().find(|line| line.contains(OLDER));
                let text = match said {
                    Some(said) => format!(
                        "attack: old store, today's slot and key: {victim} does not come back. The server says: {}",
                        said.trim()
                    ),
                    None => format!("attack: {}", Failure::from(refusal)),
                };
                self.story.step(failed && said_older(&text), &text)
            }
        }
    }

    /// Looks for every customer's values in the vault's files and in what its servers printed.
    fn search_everything(&mut self) -> Result<(), Failure> {
        let search = self.customers.search();
        let control = search.count_in(self.customers.plain().as_bytes());
        let (hits, bytes) = search.count_under(&self.data)?;
        let in_logs = search.count_in(self.logs.as_bytes());
        self.story.step(
            control == search.len() && hits == 0 && in_logs == 0,
            &format!(
                "{} of the vault and its servers' output searched for {} phone numbers, e-mail and street \
                 addresses: {} found",
                indicatif::HumanBytes(bytes + self.logs.len() as u64),
                search.len(),
                hits + in_logs
            ),
        )
    }
}

fn said_older(text: &str) -> bool {
    text.contains(OLDER)
}
