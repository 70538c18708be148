//! `slots`: the root slots of a vault, listed, checked, added, removed and rotated.

mod shown;

use std::path::Path;

use vault_core::audit::{Action, Entry, Outcome};
use vault_core::crypto::passphrase::{Cost, new_key_file};
use vault_core::root::{FileSlot, Hsm, HsmPlace, NewUnlock, Reading, RootSlot, SlotPlace, Unlock};
use vault_core::vault::Vault;

use self::shown::{Found, Row};
use super::init::{passphrase, unwritable};
use super::{Failure, IN_USE, block_on, load, local, remote};
use crate::args::{AddSlot, RemoveSlot, SlotsCommand};
use crate::files;
use crate::logging::LogFormat;
use crate::serve::say;
use crate::site::Site;

pub(super) fn run(command: &SlotsCommand, format: Option<LogFormat>) -> Result<(), Failure> {
    match command {
        SlotsCommand::List(of) => match remote(of)? {
            Some(remote) => shown::of_server(&remote.get("/v1/slots")?).map(drop),
            None => list(&local(of, format)?),
        },
        SlotsCommand::Check(of) => match remote(of)? {
            Some(remote) => shown::of_server(&remote.get("/v1/slots")?)?.verdict(),
            None => check(&local(of, format)?, of.passphrase_file.as_deref()),
        },
        SlotsCommand::Rotate(of) => match remote(of)? {
            Some(remote) => shown::of_server(&remote.post("/v1/slots/rotate", &serde_json::json!({}))?).map(drop),
            None => rotate(&local(of, format)?, of.passphrase_file.as_deref()),
        },
        SlotsCommand::Add(args) => add(args, &Site::of_config(&load(&args.config, format)?)),
        SlotsCommand::Remove(args) => remove(args, &Site::of_config(&load(&args.config, format)?)),
    }
}

/// Opens none of them.
fn list(site: &Site) -> Result<(), Failure> {
    let rows: Vec<Row> = site.slots.iter().map(|place| Row::closed(place, FileSlot::open_place(place))).collect();
    shown::table(&rows);
    Ok(())
}

/// Reads the slots alone, not the store: the server may run.
fn check(site: &Site, passphrase_file: Option<&Path>) -> Result<(), Failure> {
    let unlock = site.unlock_key(passphrase_file)?;
    let rows = block_on(async { Ok(read_all(site, &unlock).await) })?;
    shown::table(&rows);
    warn(site);
    shown::verdict(&rows)
}

async fn read_all(site: &Site, unlock: &Unlock) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut slots: Vec<FileSlot> = Vec::new();
    let mut first: Option<Reading> = None;
    for place in &site.slots {
        let found = read(place, unlock, &slots).await;
        rows.push(Row::opened(place, &found, first.as_ref()));
        if let Ok((slot, reading, _)) = found {
            slots.push(slot);
            first.get_or_insert(reading);
        }
    }
    rows
}

/// The slot, what it holds, and whether it is a copy of one of the `others`.
async fn read(place: &SlotPlace, unlock: &Unlock, others: &[FileSlot]) -> Found {
    let slot = FileSlot::open_place(place)?;
    slot.unlock(unlock)?;
    let reading = slot.read().await?;
    let copied = place.is_hardware() && others.iter().any(|other| slot.is_copy_of(other));
    Ok((slot, reading, copied))
}

/// What is not wrong, and could be better.
fn warn(site: &Site) {
    for slot in site.slots_beside_store() {
        note!("warning: the root slot {slot} is on the same disk as the store: one image of that disk holds both");
    }
    let beside = |at: usize, place: &SlotPlace| {
        site.slots[..at].iter().any(|other| files::same_disk(other.file(), place.file()))
    };
    for (_, place) in site.slots.iter().enumerate().filter(|(at, place)| beside(*at, place)) {
        note!("warning: the root slot {place} shares its disk with another one: they are lost together");
    }
    for place in site.slots.iter().filter(|place| !place.is_hardware()) {
        note!(
            "note: the root slot {place} is a file that its unlock key opens: images of its disk keep old roots, and \
             shreds do not reach F2"
        );
    }
}

fn rotate(site: &Site, passphrase_file: Option<&Path>) -> Result<(), Failure> {
    block_on(async {
        let vault = site.open().await?;
        site.unlock(&vault, passphrase_file).await?;
        let rotated = vault.rotate_slots().await;
        vault.close().await?;
        rotated?;
        Ok(())
    })
    .map_err(|failure| failure.if_in_use(IN_USE))?;
    say("the root slots in hardware have fresh keys, and the ones from before are destroyed");
    Ok(())
}

fn add(args: &AddSlot, site: &Site) -> Result<(), Failure> {
    let place = new_place(args)?;
    if site.slots.iter().any(|slot| slot.file() == place.file()) || place.file().exists() {
        let told = "exists or is configured already: choose another path";
        return Err(Failure::failed(format!("{place} {told}")));
    }
    let unlock = site.unlock_key(args.passphrase_file.as_deref())?;
    let (unlocks, key_text) = match place.is_hardware() {
        true => (Vec::new(), None),
        false => unlocks(args, &unlock)?,
    };
    if let (Some(path), Some(text)) = (&args.key_file, &key_text) {
        files::write_secret(path, text).map_err(|why| unwritable(path, &why))?;
    }
    block_on(async {
        let vault = site.open().await?;
        vault.unlock_at_rest(unlock).await?;
        let made = vault.add_slot(place.clone(), unlocks).await;
        let logged = log(&vault, made.is_ok()).await;
        vault.close().await?;
        made?;
        Ok(logged?)
    })
    .map_err(|failure| failure.if_in_use(". Stop the server: a slot is added to a vault that stands still"))?;
    say(&format!("the root slot {place} is made. Add it to the configuration:\n{}", shown::configuration(&place)));
    Ok(())
}

/// Tells the audit log of a slot that was made or wiped.
async fn log(vault: &Vault, done: bool) -> Result<(), vault_core::Error> {
    let outcome = if done { Outcome::Done } else { Outcome::Failed };
    vault.log(&[Entry::new(Action::Slots, outcome)]).await
}

fn new_place(args: &AddSlot) -> Result<SlotPlace, Failure> {
    let absolute = |path: &Path| {
        std::path::absolute(path).map_err(|why| Failure::failed(format!("{} is no path: {why}", path.display())))
    };
    let file = absolute(&args.place)?;
    let (Some(module), Some(token), Some(pin_file)) = (&args.module, &args.token, &args.pin_file) else {
        return Ok(SlotPlace::File(file));
    };
    if args.key_file.is_some() {
        return Err(Failure::usage("a slot in hardware has no other unlock key: leave --key-file out"));
    }
    let hsm = HsmPlace { module: absolute(module)?, token: token.clone(), pin_file: absolute(pin_file)? };
    Ok(SlotPlace::Pkcs11 { file, hsm })
}

type Unlocks = (Vec<NewUnlock>, Option<zeroize::Zeroizing<String>>);

/// The unlock key that the others have, so that one opens all; and a new key file, if one is asked for.
fn unlocks(args: &AddSlot, unlock: &Unlock) -> Result<Unlocks, Failure> {
    let mut unlocks = match unlock {
        Unlock::Passphrase(text) => vec![NewUnlock::Passphrase(text.clone(), Cost::DEFAULT)],
        Unlock::KeyFile(key) => vec![NewUnlock::KeyFile(key.duplicate())],
        Unlock::Pkcs11(hsm) => vec![NewUnlock::Pkcs11(Hsm::new(hsm.place().clone()))],
        Unlock::Hardware if args.key_file.is_some() => Vec::new(),
        Unlock::Hardware => vec![NewUnlock::Passphrase(passphrase(args.passphrase_file.as_deref())?, Cost::DEFAULT)],
    };
    let text = args.key_file.as_ref().map(|_| {
        let (key, text) = new_key_file();
        unlocks.push(NewUnlock::KeyFile(key));
        text
    });
    Ok((unlocks, text))
}

/// Only once the others are seen to open the vault.
fn remove(args: &RemoveSlot, site: &Site) -> Result<(), Failure> {
    let path = std::path::absolute(&args.place).unwrap_or_else(|_| args.place.clone());
    let place = site.slots.iter().find(|slot| slot.file() == path);
    let place = place.cloned().ok_or_else(|| {
        Failure::failed(format!("{} is no root slot of this configuration: `vault-server slots list`", path.display()))
    })?;
    let rest = site.without(&place).ok_or_else(|| {
        Failure::failed("it is the last root slot, and nothing would open the vault any more: add another one first")
    })?;
    let slot = FileSlot::open_place(&place).map_err(vault_core::Error::from)?;
    block_on(async {
        let vault = rest.open().await?;
        slot.belongs_to(vault.status().vault).map_err(vault_core::Error::from)?;
        rest.unlock_at_rest(&vault, args.passphrase_file.as_deref()).await?;
        let wiped = slot.wipe();
        let logged = log(&vault, wiped.is_ok()).await;
        vault.close().await?;
        wiped.map_err(vault_core::Error::from)?;
        Ok(logged?)
    })
    .map_err(|failure| failure.if_in_use(". Stop the server: a slot is removed from a vault that stands still"))?;
    say(&format!(
        "the root slot {place} is wiped. Remove it from the configuration:\n{}",
        shown::configuration(&place)
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn asked(module: Option<&str>, key_file: Option<&str>) -> AddSlot {
        AddSlot {
            config: "vault.toml".into(),
            place: "/slots/new.slot".into(),
            passphrase_file: None,
            key_file: key_file.map(Into::into),
            module: module.map(Into::into),
            token: module.map(|_| "t".to_owned()),
            pin_file: module.map(|_| "pin".into()),
        }
    }

    #[test]
    fn a_slot_is_a_file_or_in_hardware() {
        assert_eq!(new_place(&asked(None, Some("k"))).unwrap(), SlotPlace::File("/slots/new.slot".into()));
        let hardware = new_place(&asked(Some("/m.so"), None)).unwrap();
        assert!(hardware.is_hardware());
        let text = shown::configuration(&hardware);
        assert!(text.starts_with("[[slots.pkcs11]]\nfile = \"/slots/new.slot\"\nmodule = \"/m.so\"\ntoken = \"t\"\n"));
        assert!(new_place(&asked(Some("/m.so"), Some("k"))).is_err());
    }

    #[test]
    fn a_new_file_opens_with_what_the_others_open_with() {
        let key = new_key_file().0;
        let (made, text) = unlocks(&asked(None, None), &Unlock::KeyFile(key)).unwrap();
        assert!(matches!(made[..], [NewUnlock::KeyFile(_)]) && text.is_none());
        let (made, text) = unlocks(&asked(None, Some("k")), &Unlock::Hardware).unwrap();
        assert!(matches!(made[..], [NewUnlock::KeyFile(_)]) && text.is_some());
    }
}
