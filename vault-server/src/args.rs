//! The command line.

mod backups;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};
use vault_core::store::EngineName;

pub(crate) use backups::{BackupArgs, RestoreArgs, Step};

use crate::logging::LogFormat;
use crate::remote::RemoteArgs;

/// A vault for personal data that can really forget.
///
/// Try it:        vault-server dev
/// Run it:        vault-server init --config vault.toml, then vault-server run --config vault.toml
/// Talk to it:    vault-cli status
#[derive(Debug, Parser)]
#[command(name = "vault-server", version, verbatim_doc_comment)]
pub(crate) struct Args {
    /// How log lines look on standard error; their level is set by UDV_LOG (error, warn, info, debug).
    #[arg(long, global = true, value_enum)]
    pub(crate) log_format: Option<LogFormat>,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a vault for trying it out: made if it is new, unlocked, on the loopback only.
    ///
    /// DIR then holds store/ (the data), root.slot and unlock.key (what opens it) and admin.token (the API token).
    /// Start it again with the same DIR to go on.
    Dev(DevArgs),
    /// Make a vault for real use, as the configuration file says. Refuses one that exists.
    ///
    /// Asks twice for a passphrase, or takes it from a file; --key-file writes a second unlock key. Keep two: who loses
    /// all of them loses everybody's data.
    Init(InitArgs),
    /// Serve a vault made by `init`. It starts locked unless an unattended unlock is configured.
    ///
    /// Unlock it with `vault-cli unlock`. SIGTERM finishes what was begun and stops within 10 seconds; SIGHUP reads the
    /// TLS certificate again.
    Run(ServeArgs),
    /// Check a stopped vault from end to end: every page reachable, every row and field opens. Exits 8 on damage.
    ///
    /// With --salvage DIR it writes out what of a damaged vault still opens: the last resort where there is no backup to
    /// restore. Work on a copy of the vault's directory, for opening a store lets its engine tidy its files.
    Verify(VerifyArgs),
    /// Back up a vault, running or stopped: a data plane (sealed values) and a key plane (what leads to their keys).
    ///
    /// Both are encrypted to age recipients (`age-keygen`, age-encryption.org). The root key is in neither: a restore needs a
    /// root slot as well. Keep data planes as long as you like; a key plane serves until the next shred becomes final, unless
    /// its root is retained.
    Backup(BackupArgs),
    /// Restore a vault from any data plane, a current key plane and a root slot; or try it with --drill.
    ///
    /// Restores into the store that the configuration names, which must be empty. Who was shredded stays so.
    Restore(RestoreArgs),
    /// Make a new admin API token for a stopped vault, for who lost the last one and can unlock it.
    AdminToken(AdminTokenArgs),
    /// The root slots, which hold the root key: list, check, add, remove, rotate.
    ///
    /// Keep at least two. A slot in a file is opened by the vault's unlock key. A slot in hardware is opened by a key in an
    /// HSM alone; a rotation replaces and destroys that key, so that not even images of the slot's own disk bring a shredded
    /// subject back.
    #[command(subcommand)]
    Slots(SlotsCommand),
    /// Copy a stopped vault's store to another engine, compare the two row by row, and put the new one in its place.
    ///
    /// Nothing is lost when it is killed: run it again. The store as it was is kept beside the new one, as
    /// DIR.old-ENGINE, until --remove. It holds rows of subjects who were shredded since it was new as well; no key opens
    /// them, but do not keep it longer than you need it.
    Migrate(MigrateArgs),
    /// Copy a stopped vault's store to a fresh one of the same engine, compare the two row by row, and put it in its place.
    ///
    /// Gives back the space of what was removed, and makes the next start fast. As with `migrate`, the store as it was is
    /// kept as DIR.old-ENGINE until --remove.
    Compact(CompactArgs),
    /// Change what unlocks a stopped vault: another passphrase, key file or HSM key. The root key is replaced with it.
    ///
    /// What is named here unlocks the vault from then on, and nothing else does: name again what is to stay. An old copy of
    /// a root slot and an old passphrase lead to no header that is written under the new root, and to no page that is
    /// written once the rotation of `keks` is done that follows at the next start. Root slots in hardware keep their own
    /// keys.
    UnlockKey(UnlockKeyArgs),
    /// Read the configuration file, with UDV_SECTION__KEY overrides, and say what is wrong with it.
    CheckConfig(ConfigArgs),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct DevArgs {
    /// The directory of the vault.
    #[arg(long, value_name = "DIR", default_value = "./vault-data")]
    pub(crate) data: PathBuf,
    /// Where to listen; a loopback address. Port 0 takes any free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8250")]
    pub(crate) listen: SocketAddr,
    #[command(flatten)]
    pub(crate) accepting: AcceptingArgs,
}

#[derive(Clone, Copy, Debug, ClapArgs)]
pub(crate) struct AcceptingArgs {
    /// Serve a store that is older than its audit log, though what the log tells of later is lost: put back as it was
    /// before, or damaged so that its engine dropped its last writes. Or one whose audit log is lost, another one or lost its
    /// end: then erasures from before get no certificates any more. Needed once; the audit log tells that it was done.
    #[arg(long)]
    pub(crate) accept_loss: bool,
}

#[derive(Debug, ClapArgs)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("other").args(["key_file", "pkcs11"]).multiple(true))]
pub(crate) struct InitArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Take the passphrase from this file (its first line) instead of asking.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Write a new key file here, which unlocks the vault as well.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// Make a key in the HSM token that [unlock] pkcs11 names, which unlocks the vault as well.
    #[arg(long)]
    pub(crate) pkcs11: bool,
    /// No passphrase: a key file or an HSM is the only unlock key.
    #[arg(long, requires = "other", conflicts_with = "passphrase_file")]
    pub(crate) no_passphrase: bool,
    /// Write the admin's API token to this file (0600) instead of printing it.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_out: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) of: ConfigArgs,
    #[command(flatten)]
    pub(crate) accepting: AcceptingArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct ConfigArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
}

#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub(crate) struct Which {
    /// The directory of a vault made by `dev`.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The configuration file of a vault made by `init`.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SlotsCommand {
    /// List them, without opening any.
    List(OfVault),
    /// Open each, and say what it holds and whether they agree. Exits 8 if something is wrong.
    Check(OfVault),
    /// Give slots in hardware fresh keys now, and destroy the ones from before.
    Rotate(OfVault),
    /// Make one more, in a file or in hardware, with the present root in it. The server must be stopped.
    Add(AddSlot),
    /// Wipe one, with its key in the HSM. The server must be stopped; the last one stays.
    Remove(RemoveSlot),
}

#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
pub(crate) struct Whose {
    /// The directory of a vault made by `dev`.
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The configuration file of a vault made by `init`.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Ask the server that runs at this address.
    #[arg(long, value_name = "URL")]
    pub(crate) url: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct OfVault {
    #[command(flatten)]
    pub(crate) whose: Whose,
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    /// Take the passphrase from this file (its first line) instead of asking.
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AddSlot {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The file of the new slot, best on a disk of its own.
    pub(crate) place: PathBuf,
    /// Take the passphrase from this file (its first line) instead of asking.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Write a new key file here, which opens the new slot as well.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// In hardware: the PKCS#11 module.
    #[arg(long, value_name = "FILE", requires_all = ["token", "pin_file"])]
    pub(crate) module: Option<PathBuf>,
    /// The token in it, by its label or its serial number.
    #[arg(long, value_name = "NAME", requires = "module")]
    pub(crate) token: Option<String>,
    /// A file with its PIN.
    #[arg(long, value_name = "FILE", requires = "module")]
    pub(crate) pin_file: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct RemoveSlot {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The file of the slot, as `slots list` shows it.
    pub(crate) place: PathBuf,
    /// Take the passphrase from this file (its first line) instead of asking.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Take the passphrase from this file (its first line) instead of asking.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Check the erasure certificates in this directory (*.json), too: each for itself, and against this vault's log.
    #[arg(long, value_name = "DIR")]
    pub(crate) certificates: Option<PathBuf>,
    /// Instead of a check, write what still opens to this directory, new or empty: in plain text, for the owner alone.
    ///
    /// subjects.ndjson has one line a subject, which `vault-cli subject import` takes back; schema.toml what they are
    /// declared by; report.json what is lost, without personal data. Needs a root slot and the vault header, and of the rest
    /// as much as is whole. No byte of vault or slots is written but the entries in the audit log that tell of it. Shredded
    /// subjects stay shredded.
    #[arg(long, value_name = "DIR", conflicts_with = "certificates")]
    pub(crate) salvage: Option<PathBuf>,
    /// Draw no progress bar.
    #[arg(long)]
    pub(crate) no_progress: bool,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct AdminTokenArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Take the passphrase from this file (its first line) instead of asking.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Write the API token to this file (0600) instead of printing it.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct MigrateArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// The engine to copy to: sled or fjall.
    #[arg(long, value_name = "ENGINE")]
    pub(crate) to: EngineName,
    #[command(flatten)]
    pub(crate) copying: CopyingArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CompactArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) copying: CopyingArgs,
}

#[derive(Debug, ClapArgs)]
pub(crate) struct CopyingArgs {
    /// Remove the store as it was once the new one is in its place. Where an earlier call left one, this removes it and
    /// copies nothing.
    #[arg(long)]
    pub(crate) remove: bool,
    /// Draw no progress bar.
    #[arg(long)]
    pub(crate) no_progress: bool,
}

#[derive(Debug, ClapArgs)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("next").args(["new_passphrase", "new_passphrase_file", "new_key_file", "keep_key_file", "pkcs11"]).multiple(true).required(true))]
pub(crate) struct UnlockKeyArgs {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Take the present passphrase from this file (its first line) instead of asking or using the configured key.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// A passphrase unlocks it from now on; asks for it twice. Also for one that stays.
    #[arg(long, conflicts_with = "new_passphrase_file")]
    pub(crate) new_passphrase: bool,
    /// The same, from this file (its first line).
    #[arg(long, value_name = "FILE")]
    pub(crate) new_passphrase_file: Option<PathBuf>,
    /// Write a new key file here, which unlocks it from now on.
    #[arg(long, value_name = "FILE")]
    pub(crate) new_key_file: Option<PathBuf>,
    /// This key file unlocks it from now on, such as one that stays.
    #[arg(long, value_name = "FILE")]
    pub(crate) keep_key_file: Option<PathBuf>,
    /// A fresh key in the HSM token that [unlock] pkcs11 names unlocks it from now on.
    #[arg(long)]
    pub(crate) pkcs11: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn a_vault_is_named_by_one_of_two() {
        assert!(Args::try_parse_from(["vault-server", "verify"]).is_err());
        assert!(Args::try_parse_from(["vault-server", "verify", "--data", "d", "--config", "c"]).is_err());
        assert!(Args::try_parse_from(["vault-server", "verify", "--data", "d"]).is_ok());
    }

    #[test]
    fn an_unlock_key_at_least_is_named() {
        assert!(Args::try_parse_from(["vault-server", "unlock-key", "--config", "c"]).is_err());
        let two = ["vault-server", "unlock-key", "--config", "c", "--new-passphrase", "--keep-key-file", "k"];
        assert!(Args::try_parse_from(two).is_ok());
    }

    #[test]
    fn no_passphrase_needs_a_key_file() {
        assert!(Args::try_parse_from(["vault-server", "init", "--config", "c", "--no-passphrase"]).is_err());
        let args = ["vault-server", "init", "--config", "c", "--no-passphrase", "--key-file", "k"];
        assert!(Args::try_parse_from(args).is_ok());
    }
}
