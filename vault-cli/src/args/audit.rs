//! Arguments of the commands about the audit log.

use clap::{Args, Subcommand};

/// `vault-cli audit …`
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Show whose data a caller saw, and which fields: what to tell whom after a breach
    #[command(after_help = "\
Times are RFC 3339; --to is the time before which it ends. Subjects that were shredded since are only counted:
nobody can tell any more who they were.

Example:
  vault-cli audit accesses --caller shop --from 2026-05-01T00:00:00Z --to 2026-05-02T00:00:00Z")]
    Accesses(CallerAccesses),
}

/// Flags of `audit accesses`.
#[derive(Debug, Args)]
pub(crate) struct CallerAccesses {
    /// Id or name of the caller; it may be revoked
    #[arg(long)]
    pub(crate) caller: String,
    /// From this time on
    #[arg(long, value_name = "TIME")]
    pub(crate) from: jiff::Timestamp,
    /// Until before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) to: jiff::Timestamp,
}

/// Flags of `subject accesses`.
#[derive(Debug, Args)]
pub(crate) struct SubjectAccesses {
    /// The subject's id
    pub(crate) id: String,
    /// From this time on; since the subject was enrolled by default
    #[arg(long, value_name = "TIME")]
    pub(crate) from: Option<jiff::Timestamp>,
    /// Until before this time
    #[arg(long, value_name = "TIME")]
    pub(crate) to: Option<jiff::Timestamp>,
}
