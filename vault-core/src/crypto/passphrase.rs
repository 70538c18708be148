//! From a passphrase to an unlock key: Argon2id (RFC 9106), its parameters stored beside the salt.

use argon2::{Algorithm, Argon2, Params, Version};

use super::random::Random;
use super::{Unauthentic, UnlockKey};

/// Length of the salt, in bytes.
pub const SALT_LEN: usize = 16;

/// What an Argon2id run costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

/// The parameters are weaker than the floor, or larger than any vault writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Argon2id parameters must lie between 64 MiB, 3 passes, 1 lane and 4 GiB, 64 passes, 16 lanes")]
pub struct CostOutOfBounds;

impl Cost {
    /// 256 MiB, 3 passes, 1 lane.
    pub const DEFAULT: Self = Self { memory_kib: 256 * 1024, passes: 3, lanes: 1 };
    /// The least that is accepted, wherever the parameters come from: 64 MiB, 3 passes, 1 lane (RFC 9106 §4, second choice).
    pub const FLOOR: Self = Self { memory_kib: 64 * 1024, passes: 3, lanes: 1 };
    /// The most: a damaged or hostile slot must not take the machine down.
    const CEILING: Self = Self { memory_kib: 4 * 1024 * 1024, passes: 64, lanes: 16 };

    /// Checks the bounds.
    ///
    /// # Errors
    /// [`CostOutOfBounds`] below [`Cost::FLOOR`] or above the ceiling.
    pub fn check(self) -> Result<Self, CostOutOfBounds> {
        let bounds = [
            (self.memory_kib, Self::FLOOR.memory_kib, Self::CEILING.memory_kib),
            (self.passes, Self::FLOOR.passes, Self::CEILING.passes),
            (self.lanes, Self::FLOOR.lanes, Self::CEILING.lanes),
        ];
        if bounds.iter().all(|&(have, least, most)| (least..=most).contains(&have)) {
            Ok(self)
        } else {
            Err(CostOutOfBounds)
        }
    }
}

/// A fresh salt.
pub fn salt() -> [u8; SALT_LEN] {
    Random::new(SALT_LEN).array()
}

/// Stretches a passphrase. Takes as long and as much memory as `cost` says: call it off the async workers.
///
/// # Errors
/// [`CostOutOfBounds`] for a cost outside its bounds.
pub fn unlock_key(passphrase: &[u8], salt: &[u8; SALT_LEN], cost: Cost) -> Result<UnlockKey, CostOutOfBounds> {
    let cost = cost.check()?;
    let mut key = zeroize::Zeroizing::new([0u8; 32]);
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(|_| CostOutOfBounds)?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase, salt, &mut *key)
        .map_err(|_| CostOutOfBounds)?;
    UnlockKey::from_slice(&*key).ok_or(CostOutOfBounds)
}

/// Reads a key file's text: `udv-unlock-key-1:` and 64 hexadecimal digits.
///
/// # Errors
/// [`Unauthentic`] if it is anything else.
pub fn parse_key_file(text: &str) -> Result<UnlockKey, Unauthentic> {
    let digits = text.trim_end().strip_prefix(KEY_FILE_PREFIX).ok_or(Unauthentic)?;
    let mut bytes = zeroize::Zeroizing::new([0u8; 32]);
    hex::decode_to_slice(digits, &mut *bytes).map_err(|_| Unauthentic)?;
    UnlockKey::from_slice(&*bytes).ok_or(Unauthentic)
}

/// A fresh key file's key and text.
pub fn new_key_file() -> (UnlockKey, zeroize::Zeroizing<String>) {
    let key = UnlockKey::draw(&mut Random::for_keys(1));
    let digits = zeroize::Zeroizing::new(hex::encode(key.expose()));
    let text = zeroize::Zeroizing::new(format!("{KEY_FILE_PREFIX}{}\n", *digits));
    (key, text)
}

const KEY_FILE_PREFIX: &str = "udv-unlock-key-1:";

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_floor_is_enforced() {
        let weak = [
            Cost { memory_kib: 64 * 1024 - 1, ..Cost::FLOOR },
            Cost { passes: 2, ..Cost::FLOOR },
            Cost { lanes: 0, ..Cost::FLOOR },
            Cost { memory_kib: u32::MAX, ..Cost::FLOOR },
        ];
        for cost in weak {
            assert_eq!(unlock_key(b"pass", &[0; 16], cost).err(), Some(CostOutOfBounds));
        }
        assert!(Cost::DEFAULT.check().is_ok());
    }

    #[test]
    fn passphrase_and_salt_both_count() {
        let key = |pass: &[u8], salt: u8| unlock_key(pass, &[salt; 16], Cost::FLOOR).unwrap();
        let first = key(b"correct horse", 1);
        assert_eq!(first, key(b"correct horse", 1));
        assert_ne!(first, key(b"correct horsf", 1));
        assert_ne!(first, key(b"correct horse", 2));
    }

    #[test]
    fn key_files_round_trip_and_refuse_other_text() {
        let (key, text) = new_key_file();
        assert_eq!(parse_key_file(&text), Ok(key));
        for bad in ["", "udv-unlock-key-1:", "udv-unlock-key-1:zz", &text[..text.len() - 2], "hello"] {
            assert_eq!(parse_key_file(bad), Err(Unauthentic));
        }
    }
}
