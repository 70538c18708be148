//! The commands, one room each.

mod accesses;
mod audit;
mod caller;
mod certificate;
mod completions;
mod consent;
mod demo;
mod erase;
mod export;
mod hold;
mod import;
mod key;
mod lock;
mod lookup;
mod restrict;
mod schema;
mod status;
mod subject;
mod token;
mod watch;

use crate::args::{AuditCommand, Cli, Command, Globals, SubjectCommand};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::Ui;
use crate::profile::{self, Connection};

/// What a command works with.
pub(crate) struct Context {
    pub(crate) ui: Ui,
    globals: Globals,
}

impl Context {
    /// Where the vault is; commands that need no vault never ask.
    pub(crate) fn connection(&self) -> Result<Connection, Failure> {
        profile::resolve(&self.globals)
    }

    /// A client with the caller's API token.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Client::new(&self.connection()?, &self.ui)
    }
}

/// Runs the command that was asked for.
pub(crate) fn run(cli: &Cli) -> Result<Exit, Failure> {
    let context = Context { ui: cli.globals.ui(), globals: cli.globals.clone() };
    match &cli.command {
        Command::Demo(args) => demo::run(args, &context.ui),
        Command::Status => status::run(&context),
        Command::Subject(SubjectCommand::Import(args)) => import::run(args, &context),
        Command::Subject(command) => subject::run(command, &context),
        Command::Erase(args) => erase::run(args, &context),
        Command::Consent(command) => consent::run(command, &context),
        Command::Restrict(args) => restrict::restrict(args, &context),
        Command::Unrestrict { id } => restrict::unrestrict(id, &context),
        Command::Hold(command) => hold::run(command, &context),
        Command::Key(command) => key::run(command, &context),
        Command::Lock => lock::lock(&context),
        Command::Unlock(args) => lock::unlock(args, &context),
        Command::Schema(command) => schema::run(command, &context),
        Command::Audit(AuditCommand::Accesses(args)) => accesses::of_caller(args, &context),
        Command::Audit(AuditCommand::Tail { lines, follow }) => audit::tail(*lines, *follow, &context),
        Command::Audit(AuditCommand::Verify { log_key, dir: Some(dir), checkpoints }) => {
            watch::verify_dir(dir, log_key.as_deref(), checkpoints, &context.ui)
        }
        Command::Audit(AuditCommand::Verify { log_key, dir: None, .. }) => watch::verify(log_key.as_deref(), &context),
        Command::Audit(AuditCommand::Export { from, to }) => audit::export(*from, *to, &context),
        Command::Caller(command) => caller::run(command, &context),
        Command::Token(command) => token::run(command, &context),
        Command::Completions { shell } => completions::script(*shell),
        Command::Man { dir } => completions::man(dir, &context.ui),
    }
}
