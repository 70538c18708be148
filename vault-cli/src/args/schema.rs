//! Flags of `schema`.

use std::path::PathBuf;

use clap::Subcommand;

/// What to do with the schema.
#[derive(Debug, Subcommand)]
pub(crate) enum SchemaCommand {
    /// Print the schema in force, or an earlier version, as TOML
    #[command(
        after_help = "\
The document goes to standard output, ready to be edited and applied; --output json prints it as JSON.

Examples:
  vault-cli schema show > schema.toml
  vault-cli schema show --version 1",
        disable_version_flag = true
    )]
    Show {
        /// An earlier version
        #[arg(long, value_name = "N")]
        version: Option<u16>,
    },
    /// Say whether a document is a schema that the vault would take; changes nothing
    #[command(after_help = "\
Names the line of what is wrong and a way out. Exits 0 if it would be taken, 5 if it does not fit what is
stored, 1 if it is no schema.

Example:
  vault-cli schema check schema.toml")]
    Check {
        /// The document, as TOML
        file: PathBuf,
    },
    /// Put a schema into force: it decides every read and write from then on
    #[command(after_help = "\
A change that would orphan or reinterpret stored values is refused. What the change may open to readers is for
you to judge: this asks first, and needs --yes where there is no terminal.

Example:
  vault-cli schema apply schema.toml")]
    Apply {
        /// The document, as TOML
        file: PathBuf,
    },
}
