//! The command line of backups.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};
use vault_core::backup::Plane;

use super::{OfVault, Which};

#[derive(Debug, ClapArgs)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("does").args(["out", "release"]).required(true))]
pub(crate) struct BackupArgs {
    #[command(flatten)]
    pub(crate) of: OfVault,
    /// The directory that the archives are written to.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Encrypt to this recipient (age1…); give it again for more. Without it, to those under [backup] in the configuration.
    #[arg(long, value_name = "RECIPIENT")]
    pub(crate) recipient: Vec<String>,
    /// Back up this plane only.
    #[arg(long, value_enum)]
    pub(crate) plane: Option<PlaneArg>,
    /// Of the data plane, only what changed since the newest one in DIR; the whole of it if there is none.
    #[arg(long)]
    pub(crate) incremental: bool,
    /// Retain the root that opens the key plane, so that it serves until the next one is made. Shreds wait for that to be
    /// final; they are refused meanwhile.
    #[arg(long)]
    pub(crate) retain: bool,
    /// Back up nothing, and retain no root any more: shreds that waited become final, and no key plane from before opens.
    #[arg(long, conflicts_with_all = ["recipient", "plane", "incremental", "retain"])]
    pub(crate) release: bool,
    /// Draw no progress bar.
    #[arg(long)]
    pub(crate) no_progress: bool,
}

/// A plane on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlaneArg {
    /// Sealed values.
    Data,
    /// What leads to their keys.
    Keys,
}

/// One archive that is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) plane: Plane,
    /// Only what changed since the newest data plane there is.
    pub(crate) incremental: bool,
}

impl BackupArgs {
    /// What is backed up: the data plane, the key plane, which must know all that is in it, and of a vault that runs what
    /// changed in the data plane meanwhile, for the key plane may lead to nothing else any more.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let whole = Step { plane: Plane::Data, incremental: self.incremental };
        let keys = Step { plane: Plane::Keys, incremental: false };
        match self.plane {
            Some(PlaneArg::Data) => vec![whole],
            Some(PlaneArg::Keys) => vec![keys],
            None if self.of.whose.url.is_some() => vec![whole, keys, Step { incremental: true, ..whole }],
            None => vec![whole, keys],
        }
    }
}

#[derive(Debug, ClapArgs)]
#[group(skip)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Take the newest key plane in this directory, and the newest data plane with its increments.
    #[arg(long, value_name = "DIR", required_unless_present_all = ["key_plane", "data_plane"])]
    pub(crate) from: Option<PathBuf>,
    /// Take this key plane.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_plane: Option<PathBuf>,
    /// Take this data plane; then, giving it again, its increments in order.
    #[arg(long, value_name = "FILE")]
    pub(crate) data_plane: Vec<PathBuf>,
    /// The file of the age identity that opens the archives, as `age-keygen` writes it.
    #[arg(long, value_name = "FILE")]
    pub(crate) identity: PathBuf,
    /// Take the passphrase from this file (its first line) instead of asking.
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Restore into a scratch directory instead, verify, prove that who was shredded stays so, and clean up. The vault may
    /// run meanwhile: nothing of it is changed. Exits 8 if something is wrong.
    #[arg(long)]
    pub(crate) drill: bool,
    /// Where the scratch directory of a drill is made; it takes as much room as the store.
    #[arg(long, value_name = "DIR", requires = "drill")]
    pub(crate) scratch: Option<PathBuf>,
    /// Restore even if it is not known who was refused since the key plane was made: those come back to life.
    #[arg(long)]
    pub(crate) accept_unknown_refusals: bool,
    /// Draw no progress bar.
    #[arg(long)]
    pub(crate) no_progress: bool,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use crate::args::Args;

    fn taken(arguments: &str) -> bool {
        Args::try_parse_from(format!("vault-server {arguments}").split(' ')).is_ok()
    }

    #[test]
    fn a_backup_goes_somewhere_and_a_restore_comes_from_somewhere() {
        assert!(taken("backup --data d --out o --recipient age1x --recipient age1y --incremental --retain"));
        assert!(taken("backup --url http://127.0.0.1:1 --token-file t --out o --plane keys"));
        assert!(taken("backup --data d --release"));
        assert!(!taken("backup --data d"));
        assert!(!taken("backup --out o"));
        assert!(!taken("backup --data d --release --retain"));
        assert!(taken("restore --data d --from o --identity i"));
        assert!(taken("restore --data d --key-plane k --data-plane a --data-plane b --identity i --drill --scratch s"));
        assert!(!taken("restore --data d --key-plane k --identity i"));
        assert!(!taken("restore --data d --from o"));
        assert!(!taken("restore --data d --from o --identity i --scratch s"));
    }
}
