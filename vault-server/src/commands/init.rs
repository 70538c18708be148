//! `init`: a vault for real use, as its configuration says.

use std::path::{Path, PathBuf};

use vault_core::crypto::passphrase::{Cost, new_key_file};
use vault_core::root::{Hsm, NewUnlock, SlotPlace, Unlock};
use zeroize::Zeroizing;

use super::dev::admin;
use super::{Failure, block_on};
use crate::args::InitArgs;
use crate::config::Config;
use crate::files;
use crate::serve::say;
use crate::site::{Site, prompt};
use crate::unlock::{PASSPHRASE_MIN, Source};

pub(super) fn run(args: &InitArgs, config: &Config) -> Result<(), Failure> {
    let site = Site::of_config(config);
    refuse_existing(&site, args)?;
    warn(&site);
    let mut unlocks = Vec::new();
    if args.pkcs11 {
        unlocks.push(NewUnlock::Pkcs11(hsm(config)?));
    }
    if asks_for_passphrase(args, &site)? {
        let passphrase = passphrase(args.passphrase_file.as_deref())?;
        unlocks.push(NewUnlock::Passphrase(passphrase, Cost::DEFAULT));
    }
    if let Some(path) = &args.key_file {
        let (key, text) = new_key_file();
        files::write_secret(path, &text).map_err(|why| unwritable(path, &why))?;
        unlocks.push(NewUnlock::KeyFile(key));
    }
    let ways = if site.slots.iter().all(SlotPlace::is_hardware) { site.slots.len() } else { unlocks.len() };
    let token = block_on(make(&site, unlocks)).inspect_err(|_| {
        // It opens nothing: there is no vault.
        if let Some(path) = &args.key_file {
            let _ = std::fs::remove_file(path);
        }
    })?;
    tell(args, ways, &token)
}

/// The HSM that is to open the slots in files, too.
pub(super) fn hsm(config: &Config) -> Result<Hsm, Failure> {
    let configured = config.unlock.pkcs11.as_ref().map(|hsm| Hsm::new(hsm.hsm()));
    let told = "--pkcs11 needs [unlock] pkcs11 = { module = …, token = …, pin_file = … } in the configuration";
    configured.ok_or_else(|| Failure::usage(told))
}

/// A vault whose slots are all in hardware has no other unlock key.
fn asks_for_passphrase(args: &InitArgs, site: &Site) -> Result<bool, Failure> {
    if !site.slots.iter().all(SlotPlace::is_hardware) {
        return Ok(!args.no_passphrase);
    }
    match args.key_file.is_some() || args.passphrase_file.is_some() || args.pkcs11 {
        true => {
            Err(Failure::usage("every root slot is in hardware: no other unlock key would open anything, leave it out"))
        }
        false => Ok(false),
    }
}

/// Before anybody is asked for a passphrase, and before anything is written.
fn refuse_existing(site: &Site, args: &InitArgs) -> Result<(), Failure> {
    let files = site.slots.iter().map(SlotPlace::file);
    let written = args.key_file.iter().chain(&args.token_out).map(PathBuf::as_path);
    if let Some(path) = files.chain(written).find(|path| path.exists()) {
        let told = "exists already and is never overwritten: nothing was changed. Choose another path, or serve the vault \
                    that is there with `vault-server run`";
        return Err(Failure::failed(format!("{} {told}", path.display())));
    }
    // Found out after the vault is made, this would lose its API token.
    match args.token_out.as_deref().map(files::parent).filter(|dir| !dir.is_dir()) {
        Some(dir) => {
            Err(Failure::failed(format!("{} is no directory: make it, or correct --token-out", dir.display())))
        }
        None => Ok(()),
    }
}

fn warn(site: &Site) {
    for slot in site.slots_beside_store() {
        note!(
            "warning: the root slot {slot} is on the same disk as the store: who takes an image of that disk takes both. \
             Better: a disk of its own, without snapshots"
        );
    }
}

/// A new passphrase, from a file or asked twice.
pub(super) fn passphrase(file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    let passphrase = match file {
        Some(path) => match Source::PassphraseFile(path.to_owned()).read()? {
            Unlock::Passphrase(text) => text,
            _ => return Err(Failure::failed("the file holds a key, not a passphrase")),
        },
        None => {
            let first = prompt("New passphrase of the vault: ")?;
            if *first != *prompt("The same again: ")? {
                return Err(Failure::failed("the two passphrases differ: nothing was made, start again"));
            }
            first
        }
    };
    if passphrase.chars().count() < PASSPHRASE_MIN {
        let told = format!("a passphrase has at least {PASSPHRASE_MIN} characters; several words are better");
        return Err(Failure::failed(told));
    }
    Ok(passphrase)
}

async fn make(site: &Site, unlocks: Vec<NewUnlock>) -> Result<Zeroizing<String>, Failure> {
    for place in site.slots.iter().map(SlotPlace::file).chain([site.store.as_path()]) {
        let parent = files::parent(place);
        std::fs::create_dir_all(parent).map_err(|why| unwritable(parent, &why))?;
    }
    let vault = site.create(unlocks).await?;
    let (_, token) = vault.create_caller(admin(), None).await?;
    vault.close().await?;
    Ok(token)
}

fn tell(args: &InitArgs, unlocks: usize, token: &str) -> Result<(), Failure> {
    hand_over(token, args.token_out.as_deref()).map_err(|failure| {
        let told = "The vault is made all the same: `vault-server admin-token` makes another API token";
        Failure::failed(format!("{failure}. {told}"))
    })?;
    if let Some(path) = &args.key_file {
        note!("the key file is {}: keep it off this machine", path.display());
    }
    if unlocks < 2 {
        note!(
            "there is one unlock key only, and who loses it loses everybody's data: keep it in two places. A vault made \
             with both a passphrase and --key-file has two, and so has one with two slots in hardware"
        );
    }
    note!("serve the vault with: vault-server run --config {}", args.config.display());
    Ok(())
}

/// Shows a new API token once, or writes it to a file for its owner only.
pub(super) fn hand_over(token: &str, out: Option<&Path>) -> Result<(), Failure> {
    match out {
        None => {
            note!("the admin's API token, shown this once:");
            say(token);
            Ok(())
        }
        Some(path) => {
            let line = Zeroizing::new(format!("{token}\n"));
            files::write_secret(path, &line).map_err(|why| unwritable(path, &why))?;
            note!("the admin's API token is in {}", path.display());
            Ok(())
        }
    }
}

pub(super) fn unwritable(path: &Path, why: &std::io::Error) -> Failure {
    Failure::failed(format!("{} cannot be written: {why}", path.display()))
}
