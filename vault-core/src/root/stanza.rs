//! Unlock stanzas: the slot key wrapped by each unlock key, so that a passphrase and a key file may open one slot.
//!
//! An unlock key in an HSM is drawn here, sealed by a key that never leaves the HSM, and kept in the stanza only so.

use zeroize::Zeroizing;

use super::pkcs11::{IV_LEN, KEY_ID_LEN, SEALED_LEN};
use super::{Hsm, HsmError, SlotError};
use crate::crypto::passphrase::{self, Cost, CostOutOfBounds, SALT_LEN};
use crate::crypto::{Random, SlotKey, UnlockKey, sealed_box};
use crate::ids::VaultId;
use crate::time::Timestamp;

/// Length of a wrapped slot key, in bytes.
pub(super) const WRAPPED_LEN: usize = sealed_box::OVERHEAD + 32;

/// A way to unlock a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A passphrase, stretched by Argon2id.
    Passphrase,
    /// A key file of 256 random bits.
    KeyFile,
    /// A key in an HSM, through PKCS#11.
    Pkcs11,
}

impl Method {
    /// What to call it in a sentence.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::KeyFile => "key file",
            Self::Pkcs11 => "HSM",
        }
    }
}

/// What a slot is unlocked with.
pub enum Unlock {
    /// A passphrase, as typed.
    Passphrase(Zeroizing<String>),
    /// A key file's key.
    KeyFile(UnlockKey),
    /// A key in this HSM.
    Pkcs11(Hsm),
    /// Nothing: all slots are in hardware, and each is opened by its own token.
    Hardware,
}

impl Unlock {
    /// Which way this is.
    pub fn method(&self) -> Method {
        match self {
            Self::Passphrase(_) => Method::Passphrase,
            Self::KeyFile(_) => Method::KeyFile,
            Self::Pkcs11(_) | Self::Hardware => Method::Pkcs11,
        }
    }
}

/// What a new slot shall be unlocked with.
pub enum NewUnlock {
    /// A passphrase, and what stretching it shall cost.
    Passphrase(Zeroizing<String>, Cost),
    /// A key file's key.
    KeyFile(UnlockKey),
    /// A fresh key in this HSM.
    Pkcs11(Hsm),
}

/// How a stanza's unlock key comes about: what is stored beside the wrapped slot key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    Passphrase { cost: Cost, salt: [u8; SALT_LEN] },
    KeyFile,
    Pkcs11(HsmKey),
}

/// An unlock key that a key in an HSM seals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HsmKey {
    /// Tells the keys of one stanza, over all its rotations, from those of others in the same HSM.
    pub(super) family: [u8; 16],
    /// The key in the HSM.
    pub(super) id: [u8; KEY_ID_LEN],
    pub(super) made_at: Timestamp,
    pub(super) iv: [u8; IV_LEN],
    pub(super) sealed: [u8; SEALED_LEN],
}

impl HsmKey {
    /// Makes a fresh key in the HSM, and an unlock key that it seals.
    fn make(vault: VaultId, hsm: &Hsm, family: [u8; 16]) -> Result<(Self, UnlockKey), HsmError> {
        let mut random = Random::for_keys(4);
        let key = UnlockKey::draw(&mut random);
        let (id, iv) = (random.array(), random.array());
        let mut made = Self { family, id, made_at: Timestamp::now(), iv, sealed: [0; SEALED_LEN] };
        hsm.make_key(&made.label(vault), &id)?;
        made.sealed = hsm.seal(&id, &iv, &made.aad(vault), key.expose())?;
        Ok((made, key))
    }

    fn open(&self, vault: VaultId, hsm: &Hsm) -> Result<UnlockKey, HsmError> {
        let opened = hsm.open(&self.id, &self.iv, &self.aad(vault), &self.sealed)?;
        let short =
            || HsmError::Failed { token: hsm.place().token.clone(), why: "it opened less than a key".to_owned() };
        UnlockKey::from_slice(&opened).ok_or_else(short)
    }

    /// What all keys of this stanza are called in the HSM.
    pub(super) fn label(&self, vault: VaultId) -> String {
        format!("udv-{}-{}", hex::encode(vault.0), hex::encode(self.family))
    }

    fn aad(&self, vault: VaultId) -> Vec<u8> {
        let made_at = self.made_at.0.to_be_bytes();
        [&b"uv1/slot/hsm"[..], &vault.0, &self.family, &self.id, &made_at].concat()
    }
}

impl Origin {
    pub(super) fn method(&self) -> Method {
        match self {
            Self::Passphrase { .. } => Method::Passphrase,
            Self::KeyFile => Method::KeyFile,
            Self::Pkcs11(_) => Method::Pkcs11,
        }
    }
}

/// Why a stanza is not made or opened.
#[derive(Debug)]
pub(super) enum StanzaError {
    Cost(CostOutOfBounds),
    Hsm(HsmError),
}

impl StanzaError {
    pub(super) fn of_slot(self, slot: &str) -> SlotError {
        match self {
            Self::Cost(error) => error.into(),
            Self::Hsm(error) => SlotError::Hsm { slot: slot.to_owned(), error },
        }
    }
}

impl From<CostOutOfBounds> for StanzaError {
    fn from(error: CostOutOfBounds) -> Self {
        Self::Cost(error)
    }
}

impl From<HsmError> for StanzaError {
    fn from(error: HsmError) -> Self {
        Self::Hsm(error)
    }
}

/// One wrapped slot key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stanza {
    pub(super) origin: Origin,
    pub(super) wrapped: [u8; WRAPPED_LEN],
}

impl Stanza {
    /// Wraps `slot_key`. A passphrase costs an Argon2id run, an HSM makes a key.
    pub(super) fn new(vault: VaultId, unlock: &NewUnlock, slot_key: &SlotKey) -> Result<Self, StanzaError> {
        match unlock {
            NewUnlock::Passphrase(passphrase, cost) => {
                let salt = passphrase::salt();
                let key = passphrase::unlock_key(passphrase.as_bytes(), &salt, *cost)?;
                Ok(Self::wrap(vault, Origin::Passphrase { cost: *cost, salt }, &key, slot_key))
            }
            NewUnlock::KeyFile(key) => Ok(Self::wrap(vault, Origin::KeyFile, key, slot_key)),
            NewUnlock::Pkcs11(hsm) => Ok(Self::in_hsm(vault, hsm, Random::new(16).array(), slot_key)?),
        }
    }

    /// The same where `added` was made of this unlock key for another slot key: an HSM keeps the key that it has.
    pub(super) fn again(
        added: &Stanza,
        vault: VaultId,
        unlock: &NewUnlock,
        slot_key: &SlotKey,
    ) -> Result<Self, StanzaError> {
        match (unlock, &added.origin) {
            (NewUnlock::Pkcs11(hsm), Origin::Pkcs11(made)) => {
                Ok(Self::wrap(vault, added.origin, &made.open(vault, hsm)?, slot_key))
            }
            _ => Self::new(vault, unlock, slot_key),
        }
    }

    /// Wraps `slot_key` with a fresh key in an HSM.
    pub(super) fn in_hsm(vault: VaultId, hsm: &Hsm, family: [u8; 16], slot_key: &SlotKey) -> Result<Self, HsmError> {
        let (made, key) = HsmKey::make(vault, hsm, family)?;
        Ok(Self::wrap(vault, Origin::Pkcs11(made), &key, slot_key))
    }

    /// The key in an HSM that it needs, if it is of that sort.
    pub(super) fn hsm_key(&self) -> Option<&HsmKey> {
        match &self.origin {
            Origin::Pkcs11(key) => Some(key),
            _ => None,
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

    /// The slot key, if this unlock key opens one of the stanzas, and which one. An HSM's error is told only if no stanza
    /// opens.
    pub(super) fn slot_key(
        &mut self,
        vault: VaultId,
        stanzas: &[Stanza],
    ) -> Result<Option<(usize, SlotKey)>, StanzaError> {
        let mut failed = None;
        for (at, stanza) in stanzas.iter().enumerate() {
            let opened = match (self.unlock, stanza.origin) {
                (Unlock::Passphrase(text), Origin::Passphrase { cost, salt }) => {
                    stanza.unwrap_with(vault, self.stretch(text, cost, salt)?)
                }
                (Unlock::KeyFile(key), Origin::KeyFile) => stanza.unwrap_with(vault, key),
                (Unlock::Pkcs11(hsm), Origin::Pkcs11(sealed)) => match sealed.open(vault, hsm) {
                    Ok(key) => stanza.unwrap_with(vault, &key),
                    Err(error) => {
                        failed = Some(error);
                        None
                    }
                },
                _ => None,
            };
            if let Some(key) = opened {
                return Ok(Some((at, key)));
            }
        }
        failed.map_or(Ok(None), |error| Err(error.into()))
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

/// `u8 1 ‖ u32 memory in KiB ‖ u32 passes ‖ u32 lanes ‖ 16 B salt` for a passphrase, `u8 2` for a key file, `u8 3 ‖
/// 16 B family ‖ 16 B id ‖ u64 made at (ms) ‖ 12 B IV ‖ 48 B sealed unlock key` for an HSM.
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
        Origin::Pkcs11(key) => {
            out.push(PKCS11);
            out.extend_from_slice(&key.family);
            out.extend_from_slice(&key.id);
            out.extend_from_slice(&key.made_at.0.to_be_bytes());
            out.extend_from_slice(&key.iv);
            out.extend_from_slice(&key.sealed);
        }
    }
}

pub(super) const PASSPHRASE: u8 = 1;
pub(super) const KEY_FILE: u8 = 2;
pub(super) const PKCS11: u8 = 3;
