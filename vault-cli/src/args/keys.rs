//! Arguments of the commands about keys, the lock and callers.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use vault_core::vault::RATE_MAX;

/// `vault-cli key …`
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Show every layer of keys: version, age, what is still on older versions
    #[command(after_help = "Examples:\n  vault-cli key status\n  vault-cli key status --ended")]
    Status {
        /// Also show the rotations of the last 30 days that have ended (in JSON: the rotations alone)
        #[arg(long)]
        ended: bool,
    },
    /// Bring new keys of a layer into use, while the vault serves
    #[command(after_help = "\
Layers:
  unlock   what opens the root slots: a new passphrase, and a new key file where the server has one; done at once,
           and keks follow by themselves
  root     the key that opens the vault's header, kept outside the store in the root slots; done at once
  keks     the keys of all key pages, which wrap everybody's data keys; takes a while on a large vault
  deks     the data keys, of everybody or of some: what they opened is sealed again under new ones
  lookups  the key that lookups are made with, and everything that is found by it

A rotation survives a restart of the server and goes on by itself. An old data key stays in the vault, sealed under its
successor, so that older backups of the data still open for the living; --forget destroys it, and they do not any more.

Examples:
  vault-cli key rotate unlock
  vault-cli key rotate unlock --passphrase-file new-passphrase.txt
  vault-cli key rotate unlock --key-file /media/safe/new.key --wait
  vault-cli key rotate root --wait
  vault-cli key rotate keks --rate 500
  vault-cli key rotate deks --older-than 90d
  vault-cli key rotate deks --subject customer/17 --forget --wait
  vault-cli key rotate lookups --rate 1000
  vault-cli key rotate all --now
  vault-cli key watch 0197a1de7c1f700080003c54f1f3b1aa")]
    Rotate(Rotate),
    /// Follow a rotation until it ends
    #[command(after_help = "Example:\n  vault-cli key watch 0197a1de7c1f700080003c54f1f3b1aa")]
    Watch {
        /// Id of the rotation, as `key rotate` printed it
        rotation: String,
    },
    /// Show the root slots, what shreds reach with them, and rotate those in hardware
    #[command(after_help = "\
A root slot in hardware is opened by a key in an HSM alone. A slot rotation replaces and destroys that key, so that not
even images of the slot's own disk bring a shredded subject back (F2). It happens by itself every hour.

Examples:
  vault-cli key slots
  vault-cli key slots --rotate")]
    Slots {
        /// Give slots in hardware fresh keys now
        #[arg(long)]
        rotate: bool,
    },
    /// Let a rotation rest
    Pause {
        /// Id of the rotation
        rotation: String,
    },
    /// Let a paused rotation go on
    Resume {
        /// Id of the rotation
        rotation: String,
    },
    /// Give a rotation another rate: at most so many pages or subjects a second
    #[command(after_help = "Example:\n  vault-cli key throttle 0197a1de7c1f700080003c54f1f3b1aa --rate 200")]
    Throttle {
        /// Id of the rotation
        rotation: String,
        /// Pages or subjects a second
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
        rate: u32,
    },
    /// Stop a rotation; what is already rotated stays rotated
    Cancel {
        /// Id of the rotation
        rotation: String,
    },
}

/// Flags of `key rotate`.
#[derive(Debug, Args)]
pub(crate) struct Rotate {
    /// Which layer of keys
    #[arg(value_enum)]
    pub(crate) layer: Layer,
    /// At most this many pages or subjects a second, to leave room for other work
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(RATE_MAX)))]
    pub(crate) rate: Option<u32>,
    /// Of deks: only those older than this: 90s, 30m, 12h, 90d
    #[arg(long, value_name = "TIME", value_parser = seconds, conflicts_with = "subjects")]
    pub(crate) older_than: Option<u64>,
    /// Of deks: only those of this subject; repeatable, up to 256 times
    #[arg(long = "subject", value_name = "ID")]
    pub(crate) subjects: Vec<String>,
    /// Of deks: destroy the old keys, and with them what older backups of the data are good for
    #[arg(long)]
    pub(crate) forget: bool,
    /// Of unlock and all: read the new passphrase from FILE (- is standard input) instead of asking for it
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Of unlock and all: draw a new key file and write it to FILE, in place of one kept elsewhere than on the server
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Of unlock and all: also take away unlock keys that are not replaced: one that is lost, or that a rotation left
    #[arg(long)]
    pub(crate) replace_all: bool,
    /// Follow it until it ends
    #[arg(long)]
    pub(crate) wait: bool,
    /// Of all: every layer, one after the other, with older data keys destroyed; tells what was exposed until when
    #[arg(long, conflicts_with_all = ["rate", "older_than", "subjects", "forget", "wait"])]
    pub(crate) now: bool,
}

/// A layer of keys that can be rotated.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Layer {
    /// What opens the root slots
    Unlock,
    /// The root key
    Root,
    /// The page keys
    Keks,
    /// The data keys
    Deks,
    /// The key of lookups
    Lookups,
    /// All of them, if keys may have become known
    All,
}

impl Layer {
    /// The layer's name in the API, if it is one.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::Unlock => Some("unlock"),
            Self::Root => Some("root"),
            Self::Keks => Some("keks"),
            Self::Deks => Some("deks"),
            Self::Lookups => Some("lookups"),
            Self::All => None,
        }
    }
}

/// Flags of `unlock`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without a flag the passphrase comes from $CREDENTIALS_DIRECTORY/udv-passphrase when that exists (a service
credential), else from a hidden prompt. An open file descriptor is given as /dev/fd/N.
The passphrase needs no API token; --configured-key needs one of an admin or of security.

Examples:
  vault-cli unlock
  vault-cli unlock --passphrase-file - < passphrase.txt
  vault-cli unlock --passphrase-file /dev/fd/3 3< passphrase.txt
  vault-cli unlock --configured-key")]
pub(crate) struct UnlockArgs {
    /// Read the passphrase from FILE (- is standard input)
    #[arg(long, value_name = "FILE", conflicts_with = "configured_key")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Use the key the server is configured with, such as its key file
    #[arg(long)]
    pub(crate) configured_key: bool,
}

/// `vault-cli caller …`
#[derive(Debug, Subcommand)]
pub(crate) enum CallerCommand {
    /// Create a caller and show its API token, this one time
    #[command(after_help = "\
Roles: admin, service (reads and writes for its purposes), security (keys and locking), privacy (erasures),
auditor (reads records of what happened).

Examples:
  vault-cli caller create webshop --role service --purpose delivery --purpose account
  vault-cli caller create webshop --role service --token-out webshop.token")]
    Create(CreateCaller),
    /// List callers and when they were last used, without their API tokens
    List,
    /// Replace a caller's API token and show the new one, this one time
    #[command(after_help = "\
The API token before goes on working for the overlap, so that programs can be given the new one meanwhile;
one from before that stops at once. --overlap 0 stops it at once too.

Examples:
  vault-cli caller rotate 0197a1de7c1f700080003c54f1f3b1aa --overlap 2d --token-out webshop.token
  vault-cli caller rotate 0197a1de7c1f700080003c54f1f3b1aa --overlap 0")]
    Rotate(RotateCaller),
    /// Take a caller's access away at once
    #[command(after_help = "\
Asks first; scripts give --yes.

Example:
  vault-cli caller revoke 0197a1de7c1f700080003c54f1f3b1aa")]
    Revoke {
        /// Id of the caller, as `caller list` shows it
        id: String,
    },
}

/// Flags of `caller create`.
#[derive(Debug, Args)]
pub(crate) struct CreateCaller {
    /// A name people recognise
    pub(crate) name: String,
    /// What it may do: admin, service, security, privacy or auditor
    #[arg(long)]
    pub(crate) role: String,
    /// A purpose it may read for; repeatable
    #[arg(long = "purpose", value_name = "P")]
    pub(crate) purposes: Vec<String>,
    /// When its access ends (RFC 3339, such as 2027-01-01T00:00:00Z)
    #[arg(long, value_name = "TIME")]
    pub(crate) expires_at: Option<jiff::Timestamp>,
    /// Lookups it may make a minute, in place of what the server allows; 0 for any number
    #[arg(long, value_name = "N")]
    pub(crate) lookups_per_minute: Option<u32>,
    /// Write the API token to a new FILE that only you can read, instead of showing it
    #[arg(long, value_name = "FILE")]
    pub(crate) token_out: Option<PathBuf>,
}

/// Flags of `caller rotate`.
#[derive(Debug, Args)]
pub(crate) struct RotateCaller {
    /// Id of the caller, as `caller list` shows it
    pub(crate) id: String,
    /// How long the API token before goes on working: 90s, 30m, 1h, 2d; at most 30d
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = seconds)]
    pub(crate) overlap: u64,
    /// Write the API token to a new FILE that only you can read, instead of showing it
    #[arg(long, value_name = "FILE")]
    pub(crate) token_out: Option<PathBuf>,
}

/// A length of time in seconds: a number and its unit, seconds without one.
fn seconds(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err("the unit is one of s, m, h, d".to_owned()),
    };
    let count: u64 = digits.parse().map_err(|_| "a length of time is a number and its unit, such as 1h".to_owned())?;
    count.checked_mul(unit).ok_or_else(|| "this is too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time() {
        for (text, expected) in [("0", 0), ("90", 90), ("90s", 90), ("30m", 1800), ("1h", 3600), ("30d", 2_592_000)] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for bad in ["", "h", "1w", "-1h", "1.5h", "1 h", "1hh", "99999999999999999999d", "9999999999999999999d"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }
}
