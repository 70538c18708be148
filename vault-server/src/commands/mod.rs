//! What the command line can ask for; one file a command.

mod admin_token;
mod backup;
mod check_config;
mod copying;
mod dev;
mod init;
mod restore;
mod run;
mod slots;
mod unlock_key;
mod verify;

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use vault_core::Error;
use vault_core::memory;
use vault_core::store::StoreError;

use crate::args::{Args, Command, OfVault, Which};
use crate::config::{Config, ConfigError};
use crate::logging::{self, LogFormat};
use crate::remote::Remote;
use crate::site::Site;
use crate::unlock::SourceError;

/// Runs one command to its end.
///
/// # Errors
/// What to tell on standard error, and the exit code.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let format = args.log_format;
    if !matches!(args.command, Command::Run(_) | Command::Dev(_)) {
        // Those two say what comes of it. The others are soon over, and hold keys all the same.
        let _ = memory::lock();
    }
    match args.command {
        Command::Dev(args) => {
            logging::start(format.unwrap_or_default());
            dev::run(&args)
        }
        Command::Init(args) => init::run(&args, &load(&args.config, format)?),
        Command::Run(args) => run::run(&load(&args.of.config, format)?, args.accepting),
        Command::Verify(args) => verify::run(&args, &site(&args.which, format)?),
        Command::Backup(args) => backup::run(&args, format),
        Command::Restore(args) => restore::run(&args, &site(&args.which, format)?),
        Command::AdminToken(args) => admin_token::run(&args, &site(&args.which, format)?),
        Command::Slots(command) => slots::run(&command, format),
        Command::Migrate(args) => copying::migrate(&args, &Site::of_config(&load(&args.config, format)?)),
        Command::Compact(args) => copying::compact(&args, &site(&args.which, format)?),
        Command::UnlockKey(args) => unlock_key::run(&args, &load(&args.config, format)?),
        Command::CheckConfig(args) => check_config::run(&args.config),
    }
}

/// What to do about a store in use, for commands that can ask its server.
const IN_USE: &str = ". Stop the server first, or give --url and --token-file instead";

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    /// 1 failed, 2 usage, 8 a verification failed.
    pub(crate) exit: u8,
    text: String,
    kind: FailureKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailureKind {
    StoreInUse,
    Damage,
    Other,
}

impl Failure {
    /// It could not be done.
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Self { exit: 1, text: text.into(), kind: FailureKind::Other }
    }

    /// It was asked for in a way that is not taken.
    pub(crate) fn usage(text: impl Into<String>) -> Self {
        Self { exit: 2, ..Self::failed(text) }
    }

    /// What is stored is damaged.
    pub(crate) fn damage(text: impl Into<String>) -> Self {
        Self { kind: FailureKind::Damage, ..Self::failed(text) }
    }

    /// Whether what is stored is damaged.
    fn is_damage(&self) -> bool {
        self.kind == FailureKind::Damage
    }

    /// For a verification, damage is what it looked for: exit code 8.
    fn of_verification(mut self) -> Self {
        if self.kind == FailureKind::Damage {
            self.exit = 8;
        }
        self
    }

    /// Another process has the store open.
    pub(crate) fn store_in_use(store: &Path) -> Self {
        let text = format!(
            "the store in {} is in use by another process: stop that server first, or choose another vault",
            store.display()
        );
        Self { kind: FailureKind::StoreInUse, ..Self::failed(text) }
    }

    /// Another process has a root slot.
    pub(crate) fn slot_in_use(slot: &Path) -> Self {
        let text = format!(
            "the root slot {} is in use by another process: stop the server that has it, or its vault would open for nobody",
            slot.display()
        );
        Self { kind: FailureKind::StoreInUse, ..Self::failed(text) }
    }

    /// Adds what to do when another process has the store open.
    fn if_in_use(mut self, hint: &str) -> Self {
        if self.kind == FailureKind::StoreInUse {
            self.text.push_str(hint);
        }
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        use vault_core::root::{RootError, SlotError};
        match &error {
            // A damaged store may open as an older one, for the engine drops what follows the damage.
            Error::Root(
                RootError::OlderThanSlot { .. }
                | RootError::NewerThanSlot { .. }
                | RootError::HeaderDamaged { .. }
                | RootError::Store(StoreError::Corrupt(_)),
            )
            | Error::Damaged(_)
            | Error::OlderThanLog { .. }
            | Error::OtherLog { .. }
            | Error::Store(StoreError::Corrupt(_))
            | Error::Slot(SlotError::Damaged { .. }) => Self::damage(error.to_string()),
            _ => Self::failed(error.to_string()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Error::Store(error).into()
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::failed(error.to_string())
    }
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::failed(error.to_string())
    }
}

/// Reads a configuration and starts logging as it or the command line says.
fn load(path: &Path, format: Option<LogFormat>) -> Result<Config, Failure> {
    let config = Config::load(path, variables())?;
    logging::start(format.unwrap_or(config.log.format));
    Ok(config)
}

/// The environment, as far as it is text.
fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// The server that a command is to ask, if it is to ask one.
fn remote(of: &OfVault) -> Result<Option<Remote>, Failure> {
    of.whose.url.as_ref().map(|url| Remote::new(url, &of.remote)).transpose()
}

/// Otherwise the stopped vault.
fn local(of: &OfVault, format: Option<LogFormat>) -> Result<Site, Failure> {
    site(&Which { data: of.whose.data.clone(), config: of.whose.config.clone() }, format)
}

fn site(which: &Which, format: Option<LogFormat>) -> Result<Site, Failure> {
    match (&which.data, &which.config) {
        (_, Some(config)) => Ok(Site::of_config(&load(config, format)?)),
        (Some(data), None) => {
            logging::start(format.unwrap_or_default());
            Ok(Site::of_dir(data))
        }
        (None, None) => Err(Failure::usage("name the vault by --data or --config")),
    }
}

/// A progress bar: on standard error, and only on a terminal.
fn bar(what: &'static str, hidden: bool) -> ProgressBar {
    styled(&format!("{what} {{bar:40}} {{pos}}/{{len}} {{elapsed}}"), hidden)
}

/// The same of another look.
fn styled(template: &str, hidden: bool) -> ProgressBar {
    if hidden {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(0);
    ProgressStyle::with_template(template).into_iter().for_each(|style| bar.set_style(style));
    bar
}

/// Runs a command's asynchronous part.
fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    // A thread that has nothing to do keeps no secrets on its stack.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().on_thread_park(memory::wipe_stack).build();
    let runtime = runtime.map_err(|why| Failure::failed(format!("no threads can be started ({why})")))?;
    let result = runtime.block_on(memory::wiping(work));
    // A thread that waits for a slow disk must not keep a stopped server from exiting.
    runtime.shutdown_timeout(Duration::from_millis(300));
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use vault_core::root::RootError;

    #[test]
    fn damage_is_what_a_verification_looks_for() {
        let exit = |failure: Failure| failure.of_verification().exit;
        assert_eq!(exit(Error::Damaged("a page").into()), 8);
        assert_eq!(exit(Error::Store(StoreError::Corrupt("a checksum".to_owned())).into()), 8);
        let older = RootError::OlderThanSlot { store_epoch: 1, slot_epoch: 4 };
        assert_eq!(exit(Error::Root(older).into()), 8);
        let page = RootError::Store(StoreError::Corrupt("a page".to_owned()));
        assert_eq!(exit(Error::Root(page).into()), 8);
        assert_eq!(exit(Error::WrongUnlockKey.into()), 1);
        assert_eq!(exit(Failure::store_in_use(Path::new("x"))), 1);
        assert_eq!(Failure::from(Error::Damaged("a page")).exit, 1);
    }
}
