//! Arguments of the commands about the audit log.

use std::path::PathBuf;

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
    /// Show the newest entries of the log
    #[command(after_help = "Examples:\n  vault-cli audit tail\n  vault-cli audit tail -n 100 --follow")]
    Tail {
        /// How many
        #[arg(short = 'n', long = "lines", default_value_t = 20, value_name = "N")]
        lines: u64,
        /// Go on with what is logged from now on
        #[arg(short, long)]
        follow: bool,
    },
    /// Check that the log only grows, and show its key; or a log's directory from its files alone. Exits 8 if it does not hold
    #[command(after_help = "\
Remembers the signed head in $XDG_STATE_HOME/udv, and has the server prove that the next one goes on from it. The key may
be an older one of this log: changes of it are followed, for the key before signed each.
With --dir it works without a server, on a copy of the log or the log of a stopped vault, and holds heads that were kept
against it.

Examples:
  vault-cli audit verify
  vault-cli audit verify --dir vault-data/audit --log-key 'udv/0123456789abcdef0123456789abcdef+2fa81e66+AUx...'")]
    Verify {
        /// The log's key, from a place that you trust
        #[arg(long, value_name = "KEY")]
        log_key: Option<String>,
        /// Check this directory of a log instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
        /// A signed head that somebody kept, to be held against that log as well; repeatable
        #[arg(long = "checkpoint", value_name = "FILE", requires = "dir")]
        checkpoints: Vec<PathBuf>,
    },
    /// Write entries to standard output, one JSON document a line
    #[command(after_help = "Example:\n  vault-cli audit export --from 100000 > entries.ndjson")]
    Export {
        /// Index of the first entry
        #[arg(long, default_value_t = 0, value_name = "N")]
        from: u64,
        /// Index of the entry before which it ends
        #[arg(long, value_name = "N")]
        to: Option<u64>,
    },
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
