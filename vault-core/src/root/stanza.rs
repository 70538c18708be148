//! Unlock stanzas: the slot key wrapped by each unlock key, so that a passphrase and a key file may open one slot.

use zeroize::Zeroizing;

use super::SlotError;
use crate::crypto::passphrase::{self, Cost, CostOutOfBounds, SALT_LEN};
use crate::crypto::{SlotKey, UnlockKey, sealed_box};
use crate::ids::VaultId;

/// Length of a wrapped slot key, in bytes.
pub(super) const WRAPPED_LEN: usize = sealed_box::OVERHEAD + 32;

/// A way to unlock a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A passphrase, stretched by Argon2id.
    Passphrase,
    /// A key file of 256 random bits.
    KeyFile,
}

impl Method {
    /// What to call it in a sentence.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::KeyFile => "key file",
        }
    }
}

/// What a slot is unlocked with.
pub enum Unlock {
    /// A passphrase, as typed.
    Passphrase(Zeroizing<String>),
    /// A key file's key.
    KeyFile(UnlockKey),
}

impl Unlock {
    /// Which way this is.
    pub fn method(&self) -> Method {
        match self {
            Self::Passphrase(_) => Method::Passphrase,
            Self::KeyFile(_) => Method::KeyFile,
        }
    }
}

/// What a new slot shall be unlocked with.
pub enum NewUnlock {
    /// A passphrase, and what stretching it shall cost.
    Passphrase(Zeroizing<String>, Cost),
    /// A key file's key.
    KeyFile(UnlockKey),
}

/// How a stanza's unlock key comes about: what is stored beside the wrapped slot key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Passphrase { cost: Cost, salt: [u8; SALT_LEN] },
    KeyFile,
}

impl Origin {
    pub(super) fn method(&self) -> Method {
        match self {
            Self::Passphrase { .. } => Method::Passphrase,
            Self::KeyFile => Method::KeyFile,
        }
    }
}

/// One wrapped slot key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stanza {
    pub(super) origin: Origin,
    pub(super) wrapped: [u8; WRAPPED_LEN],
}

impl Stanza {
    /// Wraps `slot_key`. A passphrase costs an Argon2id run.
    pub(super) fn new(vault: VaultId, unlock: &NewUnlock, slot_key: &SlotKey) -> Result<Self, CostOutOfBounds> {
        match unlock {
            NewUnlock::Passphrase(passphrase, cost) => {
                let salt = passphrase::salt();
                let key = passphrase::unlock_key(passphrase.as_bytes(), &salt, *cost)?;
                Ok(Self::wrap(vault, Origin::Passphrase { cost: *cost, salt }, &key, slot_key))
            }
            NewUnlock::KeyFile(key) => Ok(Self::wrap(vault, Origin::KeyFile, key, slot_key)),
        }
    }

    fn wrap(vault: VaultId, origin: Origin, key: &UnlockKey, slot_key: &SlotKey) -> Self {
        let wrapped = key.wrap(&place(vault, &origin), slot_key);
        Self { origin, wrapped: wrapped.try_into().expect("a box adds 49 bytes to the 32 of a key") }
    }

    fn unwrap_with(&self, vault: VaultId, key: &UnlockKey) -> Option<SlotKey> {
        key.unwrap_slot_key(&place(vault, &self.origin), &self.wrapped).ok()
    }
}

/// An unlock key at work on the stanzas of a slot: a passphrase is stretched once for each salt it meets.
pub(super) struct Unlocking<'a> {
    unlock: &'a Unlock,
    stretched: Vec<(Origin, UnlockKey)>,
}

impl<'a> Unlocking<'a> {
    pub(super) fn new(unlock: &'a Unlock) -> Self {
        Self { unlock, stretched: Vec::new() }
    }

    /// The slot key, if this unlock key opens one of the stanzas.
    pub(super) fn slot_key(&mut self, vault: VaultId, stanzas: &[Stanza]) -> Result<Option<SlotKey>, SlotError> {
        for stanza in stanzas {
            let opened = match (self.unlock, stanza.origin) {
                (Unlock::Passphrase(text), Origin::Passphrase { cost, salt }) => {
                    stanza.unwrap_with(vault, self.stretch(text, cost, salt)?)
                }
                (Unlock::KeyFile(key), Origin::KeyFile) => stanza.unwrap_with(vault, key),
                _ => None,
            };
            if opened.is_some() {
                return Ok(opened);
            }
        }
        Ok(None)
    }

    fn stretch(&mut self, text: &str, cost: Cost, salt: [u8; SALT_LEN]) -> Result<&UnlockKey, CostOutOfBounds> {
        let origin = Origin::Passphrase { cost, salt };
        let at = match self.stretched.iter().position(|(o, _)| *o == origin) {
            Some(at) => at,
            None => {
                self.stretched.push((origin, passphrase::unlock_key(text.as_bytes(), &salt, cost)?));
                self.stretched.len() - 1
            }
        };
        Ok(&self.stretched[at].1)
    }
}

/// AAD of a wrapped slot key: its vault, and how its unlock key comes about.
fn place(vault: VaultId, origin: &Origin) -> Vec<u8> {
    let mut place = vault.0.to_vec();
    put_origin(&mut place, origin);
    place
}

/// `u8 1 ‖ u32 memory in KiB ‖ u32 passes ‖ u32 lanes ‖ 16 B salt` for a passphrase, `u8 2` for a key file.
pub(super) fn put_origin(out: &mut Vec<u8>, origin: &Origin) {
    match origin {
        Origin::Passphrase { cost, salt } => {
            out.push(PASSPHRASE);
            for number in [cost.memory_kib, cost.passes, cost.lanes] {
                out.extend_from_slice(&number.to_be_bytes());
            }
            out.extend_from_slice(salt);
        }
        Origin::KeyFile => out.push(KEY_FILE),
    }
}

pub(super) const PASSPHRASE: u8 = 1;
pub(super) const KEY_FILE: u8 = 2;
