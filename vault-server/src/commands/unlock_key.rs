//! `unlock-key`: other unlock keys for a stopped vault, and a new root with them.
//!
//! On the machine of the slots, and not over the network: any set of them, while a server that runs only replaces those that
//! it has a place for.

use std::path::Path;

use vault_core::crypto::passphrase::{Cost, new_key_file};
use vault_core::root::{NewUnlock, Unlock};
use vault_core::vault::NewRotation;

use super::init::{hsm, passphrase, unwritable};
use super::{Failure, block_on};
use crate::args::UnlockKeyArgs;
use crate::config::Config;
use crate::files;
use crate::serve::say;
use crate::site::Site;
use crate::unlock::Source;

pub(super) fn run(args: &UnlockKeyArgs, config: &Config) -> Result<(), Failure> {
    let site = Site::of_config(config);
    if let Some(path) = args.new_key_file.as_deref().filter(|path| path.exists()) {
        let told = "exists already and is never overwritten: choose another path";
        return Err(Failure::failed(format!("{} {told}", path.display())));
    }
    let present = site.unlock_key(args.passphrase_file.as_deref())?;
    let count = block_on(async {
        let vault = site.open().await?;
        vault.unlock(present).await?;
        // Only now: no new key file is left lying about by who cannot open the vault.
        let changed = match unlocks(args, config) {
            Ok(unlocks) => {
                let count = unlocks.len();
                // A new key file is in its place already.
                let asked = NewRotation::Unlock { unlocks, place: Box::new(|| Ok(())) };
                let changed = vault.rotate(asked, None, None).await;
                if let (Err(_), Some(path)) = (&changed, &args.new_key_file) {
                    let path = path.display();
                    note!(
                        "keep {path} and the unlock key from before until this is done, for it may have begun; do it again with \
                         another file"
                    );
                }
                changed.map(|_| count).map_err(Failure::from)
            }
            Err(failure) => Err(failure),
        };
        let closed = vault.close().await;
        let count = changed?;
        closed.map(|()| count).map_err(Failure::from)
    })
    .map_err(|failure| failure.if_in_use(". Stop the server: unlock keys are changed on a vault that stands still"))?;
    say("the vault has other unlock keys and a new root key; those from before open it no more");
    say("a rotation of keks follows at the next start: until that is done, pages have keys from before");
    if let Some(path) = &args.new_key_file {
        note!("the key file is {}: keep it off this machine", path.display());
    }
    if count < 2 {
        note!("there is one unlock key only, and who loses it loses everybody's data: keep it in two places");
    }
    note!("if [unlock] of the configuration names a file from before, correct it");
    Ok(())
}

/// What is to unlock it. A new key file is written before anything depends on it; it stays if the change fails, for the
/// change may have begun.
fn unlocks(args: &UnlockKeyArgs, config: &Config) -> Result<Vec<NewUnlock>, Failure> {
    let mut unlocks = Vec::new();
    if args.pkcs11 {
        unlocks.push(NewUnlock::Pkcs11(hsm(config)?));
    }
    if args.new_passphrase || args.new_passphrase_file.is_some() {
        unlocks.push(NewUnlock::Passphrase(passphrase(args.new_passphrase_file.as_deref())?, Cost::DEFAULT));
    }
    if let Some(path) = &args.keep_key_file {
        unlocks.push(NewUnlock::KeyFile(kept(path)?));
    }
    if let Some(path) = &args.new_key_file {
        let (key, text) = new_key_file();
        files::write_secret(path, &text).map_err(|why| unwritable(path, &why))?;
        unlocks.push(NewUnlock::KeyFile(key));
    }
    Ok(unlocks)
}

fn kept(path: &Path) -> Result<vault_core::crypto::UnlockKey, Failure> {
    match Source::KeyFile(path.to_owned()).read()? {
        Unlock::KeyFile(key) => Ok(key),
        _ => Err(Failure::failed(format!("{} is no key file", path.display()))),
    }
}
