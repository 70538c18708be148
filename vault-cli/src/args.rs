//! The command line: every command, flag and help text.

mod audit;
mod keys;
mod notes;
mod schema;
mod subjects;
mod tokens;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

pub(crate) use audit::{AuditCommand, CallerAccesses, SubjectAccesses};
pub(crate) use keys::{CallerCommand, CreateCaller, KeyCommand, Layer, Rotate, RotateCaller, UnlockArgs};
pub(crate) use notes::{ConsentCommand, GiveArgs, HoldCommand, RestrictArgs};
pub(crate) use schema::SchemaCommand;
pub(crate) use subjects::{
    EraseArgs, EraseCommand, ExportArgs, ForgetArgs, FormChoice, ImportArgs, LookupArgs, PutArgs, ShowArgs,
    SubjectCommand, ViewChoice,
};

pub(crate) use tokens::{CreateToken, ResolveToken, ShapeChoice, TokenCommand, TokenView};

use crate::output::{Format, Ui};

const AFTER: &str = "\
Examples:
  vault-cli demo                                    the whole story on a temporary vault
  vault-cli status                                  the vault of `vault-server dev` in this directory
  vault-cli subject put cust-1 name='Ada Example' email=ada@example.org
  vault-cli erase cust-1 --reason 'request of 3 May'

Which vault: --url, else the named --profile, else UDV_URL, else the profile `default`, else
http://127.0.0.1:8250. The API token is read from a file: --token-file, profile, UDV_TOKEN_FILE, or
./vault-data/admin.token when it exists. Profiles live in $XDG_CONFIG_HOME/udv/config.toml:
  [profiles.live]
  url = \"https://vault.example:8250\"
  token_file = \"live.token\"      # relative to the file
  ca = \"ca.pem\"                  # only for a private certificate authority

Exit codes: 0 done, 1 failed, 2 usage, 3 not found, 4 not authenticated or refused by policy,
5 held or conflict, 6 locked or unreachable, 7 shredded, 8 a verification failed, 9 part of a batch
failed, 130 interrupted.";

/// Keep, find, rotate and forget personal data in a vault.
///
/// Data goes to standard output, everything else to standard error. Secrets are never given as flags:
/// only files, standard input and hidden prompts carry them.
#[derive(Debug, Parser)]
#[command(name = "vault-cli", version, propagate_version = true, after_help = AFTER)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags every command understands.
#[derive(Debug, Default, Clone, Args)]
#[command(next_help_heading = "Everywhere")]
pub(crate) struct Globals {
    /// Address of the vault (or UDV_URL)
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// File with the API token (or UDV_TOKEN_FILE)
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// PEM file of the authority that signed the server's certificate
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Profile in config.toml that holds url, token_file and ca
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) profile: Option<String>,
    /// How data is written
    #[arg(long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub(crate) output: Format,
    /// Only data, warnings and errors
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
    /// No progress bars
    #[arg(long, global = true)]
    pub(crate) no_progress: bool,
    /// Agree beforehand to what cannot be undone
    #[arg(long, short, global = true)]
    pub(crate) yes: bool,
}

impl Globals {
    pub(crate) fn ui(&self) -> Ui {
        Ui { format: self.output, quiet: self.quiet, progress: !self.no_progress, yes: self.yes }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the whole story on a temporary vault: store, find, rotate, shred, and try to bring back
    #[command(after_help = "\
Needs the vault-server program beside this one or on PATH, and nothing else: no network, no running vault.
Exits 8 if any of its checks fails.

Examples:
  vault-cli demo
  vault-cli demo --keep ./demo-vault       afterwards: vault-server dev --data ./demo-vault")]
    Demo(DemoArgs),
    /// Show whether the vault is unlocked and well
    #[command(after_help = "\
Works while the vault is locked. A slot that is `unreachable` keeps shreds refused instead of final.

Example:
  vault-cli status --output json")]
    Status,
    /// Store, show, find and forget the data of one subject; import many
    #[command(subcommand)]
    Subject(SubjectCommand),
    /// Shred subjects for good, and see erasure requests
    Erase(EraseArgs),
    /// See, note and withdraw what subjects consent to
    #[command(subcommand)]
    Consent(ConsentCommand),
    /// Restrict the processing of a subject's data
    Restrict(RestrictArgs),
    /// Lift the restriction of a subject
    #[command(after_help = "Example:\n  vault-cli unrestrict cust-1")]
    Unrestrict {
        /// The subject's id
        id: String,
    },
    /// Legal holds: what must not be shredded yet
    #[command(subcommand)]
    Hold(HoldCommand),
    /// See and rotate the vault's own keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// Lock the vault: the root key leaves memory, nothing can be read until it is unlocked
    #[command(after_help = "Example:\n  vault-cli lock && vault-cli status")]
    Lock,
    /// Unlock the vault with a passphrase or the key its server is configured with
    Unlock(UnlockArgs),
    /// See, check and change the schema: which fields there are, and who sees them for what
    #[command(subcommand)]
    Schema(SchemaCommand),
    /// Create, resolve and revoke value tokens: random stand-ins for one field of a subject
    #[command(subcommand)]
    Token(TokenCommand),
    /// Ask the audit log who saw what
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Create, list, rotate and revoke callers: the programs and people that may use the vault
    #[command(subcommand)]
    Caller(CallerCommand),
    /// Print a completion script for a shell
    #[command(after_help = "\
Example:
  vault-cli completions bash > ~/.local/share/bash-completion/completions/vault-cli")]
    Completions {
        /// The shell that will read it
        shell: Shell,
    },
    /// Write manual pages, one for each command
    #[command(after_help = "\
Example:
  vault-cli man ~/.local/share/man/man1 && man vault-cli-erase")]
    Man {
        /// Directory for the pages; created if missing
        dir: PathBuf,
    },
}

/// Flags of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Customers to use instead of the sample that comes with the program (NDJSON, as for import)
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Make the vault in DIR, new or empty, and leave it there
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &[&str]) -> Result<Command, clap::Error> {
        let words = ["vault-cli"].iter().chain(line);
        Cli::try_parse_from(words).map(|cli| cli.command)
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn ids_and_subcommands_of_erase_are_told_apart() {
        let Command::Erase(listing) = parse(&["erase", "list"]).unwrap() else { panic!("not erase") };
        assert!(matches!(listing.command, Some(EraseCommand::List { state: None })));
        let Command::Erase(ids) = parse(&["erase", "--", "list", "show"]).unwrap() else { panic!("not erase") };
        assert!(ids.command.is_none());
        assert_eq!(ids.ids, ["list", "show"]);
        let Command::Erase(many) = parse(&["erase", "a", "b", "--dry-run"]).unwrap() else { panic!("not erase") };
        assert_eq!(many.ids, ["a", "b"]);
        assert!(many.dry_run);
    }

    #[test]
    fn wrong_lines_are_refused() {
        for line in [
            &["subject", "put", "x", "a=b", "--json", "-"][..],
            &["key", "rotate", "locks"],
            &["key", "rotate", "deks", "--older-than", "1d", "--subject", "x"],
            &["key", "rotate", "all", "--now", "--rate", "5"],
            &["key", "rotate", "keks", "--rate", "0"],
            &["unlock", "--configured-key", "--passphrase-file", "x"],
            &["caller", "create", "shop"],
            &["caller", "rotate", "x", "--overlap", "soon"],
            &["subject", "lookup", "phone"],
            &["subject", "lookup", "phone", "--last4", "8301"],
            &["subject", "lookup", "phone", "--and", "email=a@example.org"],
            &["subject", "lookup", "phone", "+1", "--last4", "8301", "--and", "email=a@example.org"],
            &["subject", "show", "x", "--view", "half"],
            &["erase", "x", "--dry-run", "--no-wait"],
            &["nothing"],
        ] {
            assert!(parse(line).is_err(), "{line:?}");
        }
    }

    #[test]
    fn global_flags_work_after_the_command() {
        let cli = Cli::try_parse_from(["vault-cli", "status", "--output", "json", "-q"]).unwrap();
        assert!(cli.globals.quiet);
        assert_eq!(cli.globals.output, Format::Json);
    }

    fn every_help(command: &mut clap::Command, texts: &mut Vec<String>) {
        texts.push(command.render_long_help().to_string());
        for sub in command.get_subcommands_mut() {
            every_help(sub, texts);
        }
    }

    #[test]
    fn help_teaches_by_example_and_keeps_to_our_words() {
        let mut texts = Vec::new();
        every_help(&mut Cli::command(), &mut texts);
        assert!(texts.len() > 20, "{}", texts.len());
        for text in &texts {
            let low = text.to_lowercase();
            for banned in ["master", "delete", "manager", "util", "blind index", "todo", "get_"] {
                assert!(!low.contains(banned), "{banned} in {text}");
            }
            for (at, _) in low.match_indices("token") {
                let before = &low[..at];
                let ours = ["api ", "api\n", "value ", "value\n", "admin.", "live.", "shop.", "--", "udv_"]
                    .iter()
                    .any(|prefix| before.ends_with(prefix));
                // The command of that name, and what it takes.
                let command =
                    before.ends_with("vault-cli ") || before.ends_with("\n  ") || before.ends_with(['<', '[']);
                let command = command || text.starts_with("Create, resolve and revoke value tokens");
                let named = command || low[at..].starts_with("token_file");
                assert!(ours || named, "bare token in {text}");
            }
        }
    }
}
