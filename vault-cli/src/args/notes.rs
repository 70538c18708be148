//! Arguments of the commands about consent, restriction and legal holds.

use clap::{Args, Subcommand};

/// `vault-cli consent …`
#[derive(Debug, Subcommand)]
pub(crate) enum ConsentCommand {
    /// List the consents of a subject, in force and over, oldest first
    #[command(after_help = "\
Examples:
  vault-cli consent list cust-1
  vault-cli consent list cust-1 marketing")]
    List {
        /// The subject's id
        id: String,
        /// Only consents to this purpose
        purpose: Option<String>,
    },
    /// Note that a subject consents to a purpose
    #[command(after_help = "\
The same version of the text again changes nothing; another one takes the place of the former.

Example:
  vault-cli consent give cust-1 marketing --version 2026-05 --source 'sign-up form'")]
    Give(GiveArgs),
    /// Note that a subject withdraws its consent: it bites at the next read
    #[command(after_help = "\
Withdrawing what is not given is no error.

Example:
  vault-cli consent withdraw cust-1 marketing --source 'letter of 3 May'")]
    Withdraw {
        /// The subject's id
        id: String,
        /// The purpose
        purpose: String,
        /// Where or how it was withdrawn
        #[arg(long, value_name = "S")]
        source: Option<String>,
    },
}

/// Flags of `consent give`.
#[derive(Debug, Args)]
#[command(disable_version_flag = true)]
pub(crate) struct GiveArgs {
    /// The subject's id
    pub(crate) id: String,
    /// A purpose that the schema declares
    pub(crate) purpose: String,
    /// Which version of the text was agreed to
    #[arg(long, value_name = "V")]
    pub(crate) version: String,
    /// Where or how: a form, a call
    #[arg(long, value_name = "S")]
    pub(crate) source: String,
}

/// Flags of `restrict`.
#[derive(Debug, Args)]
#[command(after_help = "\
Only purposes that the schema exempts read a restricted subject, or find it.

Example:
  vault-cli restrict cust-1 --reason 'accuracy is disputed'")]
pub(crate) struct RestrictArgs {
    /// The subject's id
    pub(crate) id: String,
    /// Why; a later one takes the place of the former
    #[arg(long, value_name = "R")]
    pub(crate) reason: Option<String>,
}

/// `vault-cli hold …`
#[derive(Debug, Subcommand)]
pub(crate) enum HoldCommand {
    /// Put a subject under a legal hold: nothing of it is shredded or removed until it is released
    #[command(after_help = "\
A name is of a-z, 0-9 and _. Adding a hold again takes the new reason and keeps its time.

Example:
  vault-cli hold add cust-1 case_2026_17 --reason 'claim before the district court'")]
    Add {
        /// The subject's id
        id: String,
        /// Name of the hold, for example of the case
        name: String,
        /// Why
        #[arg(long, value_name = "R")]
        reason: String,
    },
    /// Release a subject from a hold
    #[command(after_help = "Example:\n  vault-cli hold release cust-1 case_2026_17")]
    Release {
        /// The subject's id
        id: String,
        /// Name of the hold
        name: String,
    },
    /// List every subject under a hold
    #[command(after_help = "Example:\n  vault-cli hold list --output json")]
    List,
}
