//! The bytes of one copy in a slot file: fixed layout, one block of 4 KiB.
//!
//! ```text
//! off 0     7 B  "udvslot"          7 u8 format = 2                 (numbers are big-endian)
//! off 8     u64  sequence: the write that made this copy
//! off 16    16 B vault id
//! off 32    u8   number of unlock stanzas, 1 to 8, then each:
//!                u8 1, u32 memory in KiB, u32 passes, u32 lanes, 16 B salt    (passphrase, Argon2id)
//!             or u8 2                                                         (key file)
//!             or u8 3, 16 B family, 16 B id of the key in the HSM, u64 made at (ms), 12 B IV,
//!                48 B unlock key, sealed in the HSM by AES-256-GCM,           (HSM, through PKCS#11)
//!                AAD = "uv1/slot/hsm" ‖ vault id ‖ family ‖ id ‖ made at
//!                81 B the slot key, wrapped (sealed box, label "uv1/slot/wrap", AAD = vault id ‖ the above)
//!           u16  length of the sealed entries, then
//!                sealed box, label "uv1/slot/entries", AAD = all bytes of the block before it, of
//!                u8 number of entries, 1 to 32, then each: u64 epoch, 16 B root id, 32 B root key,
//!                u8 1 if it is retained for a backup, otherwise 0
//!           zeros
//! off 4064  32 B SHA-256 of bytes 0..4064
//! ```
//! The digest tells damage from a wrong unlock key before anything is unlocked; it keeps nobody out, the boxes do.

use zeroize::Zeroizing;

use super::RootEntry;
use super::stanza::{self, HsmKey, Origin, Stanza, WRAPPED_LEN};
use crate::crypto::passphrase::Cost;
use crate::crypto::{RootKey, SlotKey, Unauthentic, digest, sealed_box};
use crate::ids::{RootId, VaultId};
use crate::time::Timestamp;

/// Length of a copy, in bytes.
pub(super) const BLOCK_LEN: usize = 4096;
/// The most unlock keys a slot may have.
pub(super) const STANZAS_MAX: usize = 8;
/// The most roots a slot may hold at once.
pub(super) const ENTRIES_MAX: usize = 32;

const MAGIC: &[u8; 8] = b"udvslot\x02";
const DIGEST_AT: usize = BLOCK_LEN - 32;
const ENTRY_LEN: usize = 8 + 16 + 32 + 1;

/// A copy whose bytes are whole; what it seals is not opened yet.
pub(super) struct Block {
    pub(super) sequence: u64,
    pub(super) vault: VaultId,
    pub(super) stanzas: Vec<Stanza>,
    /// All bytes before the sealed entries: their AAD.
    head: Vec<u8>,
    sealed: Vec<u8>,
}

impl Block {
    /// Reads a copy; `None` if it is cut short, damaged, of another format, or has an Argon2id cost out of bounds.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != BLOCK_LEN || digest(&bytes[..DIGEST_AT]) != bytes[DIGEST_AT..] {
            return None;
        }
        let mut at = Cursor { bytes: &bytes[..DIGEST_AT], used: 0 };
        if at.array::<8>()? != *MAGIC {
            return None;
        }
        let sequence = u64::from_be_bytes(at.array()?);
        let vault = VaultId(at.array()?);
        let count = usize::from(at.array::<1>()?[0]);
        if !(1..=STANZAS_MAX).contains(&count) {
            return None;
        }
        let stanzas = (0..count).map(|_| read_stanza(&mut at)).collect::<Option<Vec<_>>>()?;
        let len = usize::from(u16::from_be_bytes(at.array()?));
        let head = bytes[..at.used].to_vec();
        let sealed = at.take(len)?.to_vec();
        Some(Self { sequence, vault, stanzas, head, sealed })
    }

    /// Opens the entries.
    pub(super) fn entries(&self, key: &SlotKey) -> Result<Vec<RootEntry>, Unauthentic> {
        read_entries(&key.open_entries(&self.head, &self.sealed)?).ok_or(Unauthentic)
    }
}

/// The bytes of a copy. `stanzas` and `entries` are within their bounds.
pub(super) fn block(
    sequence: u64,
    vault: VaultId,
    stanzas: &[Stanza],
    entries: &[RootEntry],
    key: &SlotKey,
) -> Vec<u8> {
    let plaintext = put_entries(entries);
    let mut out = Vec::with_capacity(BLOCK_LEN);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&sequence.to_be_bytes());
    out.extend_from_slice(&vault.0);
    out.push(u8::try_from(stanzas.len()).expect("a slot has at most 8 stanzas"));
    for stanza in stanzas {
        stanza::put_origin(&mut out, &stanza.origin);
        out.extend_from_slice(&stanza.wrapped);
    }
    let len = u16::try_from(sealed_box::OVERHEAD + plaintext.len()).expect("32 entries take less than 2 KiB");
    out.extend_from_slice(&len.to_be_bytes());
    let sealed = key.seal_entries(&out, &plaintext);
    out.extend_from_slice(&sealed);
    assert!(out.len() <= DIGEST_AT, "8 stanzas and 32 entries fit a block");
    out.resize(DIGEST_AT, 0);
    let sum = digest(&out);
    out.extend_from_slice(&sum);
    out
}

fn read_stanza(at: &mut Cursor<'_>) -> Option<Stanza> {
    let origin = match at.array::<1>()?[0] {
        stanza::PASSPHRASE => {
            let mut number = || at.array().map(u32::from_be_bytes);
            let cost = Cost { memory_kib: number()?, passes: number()?, lanes: number()? };
            Origin::Passphrase { cost: cost.check().ok()?, salt: at.array()? }
        }
        stanza::KEY_FILE => Origin::KeyFile,
        stanza::PKCS11 => Origin::Pkcs11(HsmKey {
            family: at.array()?,
            id: at.array()?,
            made_at: Timestamp(u64::from_be_bytes(at.array()?)),
            iv: at.array()?,
            sealed: at.array()?,
        }),
        _ => return None,
    };
    Some(Stanza { origin, wrapped: at.array::<WRAPPED_LEN>()? })
}

fn put_entries(entries: &[RootEntry]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(Vec::with_capacity(1 + entries.len() * ENTRY_LEN));
    out.push(u8::try_from(entries.len()).expect("a slot holds at most 32 roots"));
    for entry in entries {
        out.extend_from_slice(&entry.epoch.to_be_bytes());
        out.extend_from_slice(&entry.id.0);
        out.extend_from_slice(entry.key.expose());
        out.push(u8::from(entry.retained));
    }
    out
}

fn read_entries(bytes: &[u8]) -> Option<Vec<RootEntry>> {
    let (&count, rest) = bytes.split_first()?;
    let count = usize::from(count);
    if !(1..=ENTRIES_MAX).contains(&count) || rest.len() != count * ENTRY_LEN {
        return None;
    }
    let mut at = Cursor { bytes: rest, used: 0 };
    let mut entry = || {
        let (epoch, id) = (u64::from_be_bytes(at.array()?), RootId(at.array()?));
        let key = RootKey::from_slice(at.take(32)?)?;
        let retained = match at.array::<1>()? {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        Some(RootEntry { epoch, id, key, retained })
    };
    (0..count).map(|_| entry()).collect()
}

/// Blocks and the entries in them. The digest is made to fit, for no mutant has the right one.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn decode_again(bytes: &[u8]) -> bool {
    if let Some(entries) = read_entries(bytes) {
        assert_eq!(&put_entries(&entries)[..], bytes);
        return true;
    }
    let mut block = bytes.to_vec();
    block.resize(BLOCK_LEN, 0);
    let sum = digest(&block[..DIGEST_AT]);
    block[DIGEST_AT..].copy_from_slice(&sum);
    let Some(parsed) = Block::parse(&block) else { return false };
    let mut again = parsed.head.clone();
    again.extend_from_slice(&parsed.sealed);
    assert!(block.starts_with(&again) && parsed.stanzas.len() <= STANZAS_MAX);
    assert!(parsed.entries(&SlotKey::draw(&mut crate::crypto::Random::for_keys(1))).is_err(), "no key of its own");
    true
}

/// Blocks with a key file and with a passphrase, and what lies sealed in them.
#[cfg(test)]
pub(crate) fn blocks() -> Vec<Vec<u8>> {
    use super::NewUnlock;
    use crate::crypto::Random;
    use crate::crypto::passphrase::new_key_file;

    let (vault, mut random) = (VaultId([7; 16]), Random::for_keys(8));
    let key = SlotKey::draw(&mut random);
    let entries = [RootEntry::draw(3, &mut random), RootEntry { retained: true, ..RootEntry::draw(2, &mut random) }];
    let unlock = NewUnlock::KeyFile(new_key_file().0);
    let stanza = Stanza::new(vault, &unlock, &key).unwrap_or_else(|_| panic!("a key file costs nothing"));
    let cost = Cost { memory_kib: 65536, passes: 3, lanes: 1 };
    let typed = Stanza { origin: Origin::Passphrase { cost, salt: [5; 16] }, wrapped: stanza.wrapped };
    let one = block(9, vault, std::slice::from_ref(&stanza), &entries[..1], &key);
    let two = block(10, vault, &[stanza, typed], &entries, &key);
    vec![one[..DIGEST_AT].to_vec(), two[..DIGEST_AT].to_vec(), put_entries(&entries).to_vec()]
}

/// Takes pieces off a byte string, never past its end.
struct Cursor<'a> {
    bytes: &'a [u8],
    used: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let piece = self.bytes.get(self.used..self.used.checked_add(len)?)?;
        self.used += len;
        Some(piece)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }
}
