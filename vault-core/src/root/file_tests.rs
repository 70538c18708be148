//! The file slot on real files: what unlocks it, damage of every kind, what is written where.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;
use zeroize::Zeroizing;

use super::layout::{BLOCK_LEN, Block, ENTRIES_MAX, STANZAS_MAX, block};
use super::stanza::Stanza;
use super::{FileSlot, Method, NewUnlock, RootEntry, RootSlot, SlotError, Unlock};
use crate::crypto::passphrase::Cost;
use crate::crypto::{Random, SlotKey, UnlockKey, digest};
use crate::ids::VaultId;

const VAULT: VaultId = VaultId([7; 16]);
const OTHER_VAULT: VaultId = VaultId([8; 16]);

/// A slot in a directory of its own, with one key file.
struct Bed {
    _dir: TempDir,
    path: PathBuf,
    slot: FileSlot,
    key: UnlockKey,
    first: RootEntry,
}

impl Bed {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.slot");
        let (key, first) = (unlock_key(), root(1));
        let slot = FileSlot::create(&path, VAULT, &[NewUnlock::KeyFile(key.duplicate())], &first).unwrap();
        Self { _dir: dir, path, slot, key, first }
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.path).unwrap()
    }

    fn put(&self, bytes: &[u8]) {
        std::fs::write(&self.path, bytes).unwrap();
    }

    /// What somebody reads who starts with the file and the key file only.
    fn read_anew(&self) -> Result<super::Reading, SlotError> {
        let slot = FileSlot::open(&self.path)?;
        slot.unlock(&Unlock::KeyFile(self.key.duplicate()))?;
        read(&slot)
    }
}

fn root(epoch: u64) -> RootEntry {
    RootEntry::draw(epoch, &mut Random::new(48))
}

fn unlock_key() -> UnlockKey {
    UnlockKey::draw(&mut Random::for_keys(1))
}

fn passphrase(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.to_owned())
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn read(slot: &FileSlot) -> Result<super::Reading, SlotError> {
    wait(slot.read())
}

fn damage(bytes: &mut [u8], copy: usize) {
    bytes[copy * BLOCK_LEN + 40..copy * BLOCK_LEN + 600].fill(0xa5);
}

fn fix_digest(block: &mut [u8]) {
    let sum = digest(&block[..BLOCK_LEN - 32]);
    block[BLOCK_LEN - 32..].copy_from_slice(&sum);
}

#[test]
fn passphrase_and_key_file_both_unlock_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root.slot");
    let (key, first) = (unlock_key(), root(1));
    let unlocks = [
        NewUnlock::Passphrase(passphrase("correct horse"), Cost::FLOOR),
        NewUnlock::KeyFile(unlock_key()),
        NewUnlock::KeyFile(key.duplicate()),
    ];
    drop(FileSlot::create(&path, VAULT, &unlocks, &first).unwrap());
    let slot = FileSlot::open(&path).unwrap();
    assert_eq!(slot.methods(), [Method::Passphrase, Method::KeyFile, Method::KeyFile]);
    assert_eq!(slot.vault(), VAULT);
    let name = path.display().to_string();
    assert_eq!(read(&slot), Err(SlotError::Locked { slot: name.clone() }));
    for right in [Unlock::Passphrase(passphrase("correct horse")), Unlock::KeyFile(key)] {
        slot.unlock(&right).unwrap();
        assert_eq!(read(&slot).unwrap().entries, [first.duplicate()]);
        slot.lock();
        assert!(!slot.is_unlocked());
        assert_eq!(wait(slot.settle(&[root(2)])), Err(SlotError::Locked { slot: name.clone() }));
    }
    for wrong in [Unlock::Passphrase(passphrase("correct horsf")), Unlock::KeyFile(unlock_key())] {
        assert_eq!(slot.unlock(&wrong), Err(SlotError::WrongUnlockKey { slot: name.clone() }));
        assert!(!slot.is_unlocked());
    }
}

#[test]
fn the_file_is_small_private_and_never_replaced() {
    let bed = Bed::new();
    let meta = std::fs::metadata(&bed.path).unwrap();
    assert_eq!((meta.len(), meta.permissions().mode() & 0o777), (8192, 0o600));
    let before = bed.bytes();
    let again = FileSlot::create(&bed.path, VAULT, &[NewUnlock::KeyFile(unlock_key())], &root(1));
    assert_eq!(again.err(), Some(SlotError::Exists { slot: bed.name() }));
    assert_eq!(bed.bytes(), before);
}

#[test]
fn unlock_keys_of_a_new_slot_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("root.slot");
    let create = |unlocks: &[NewUnlock]| FileSlot::create(&path, VAULT, unlocks, &root(1)).err();
    let count = Some(SlotError::Count { what: "unlock keys", most: STANZAS_MAX });
    assert_eq!(create(&[]), count);
    let many: Vec<_> = (0..=STANZAS_MAX).map(|_| NewUnlock::KeyFile(unlock_key())).collect();
    assert_eq!(create(&many), count);
    let weak = NewUnlock::Passphrase(passphrase("x"), Cost { passes: 1, ..Cost::FLOOR });
    assert!(matches!(create(&[weak]), Some(SlotError::Cost(_))));
    assert!(!path.exists());
}

#[test]
fn a_missing_slot_is_named() {
    let bed = Bed::new();
    std::fs::remove_file(&bed.path).unwrap();
    let missing = SlotError::Missing { slot: bed.name() };
    assert!(missing.to_string().contains(&bed.name()));
    assert_eq!(FileSlot::open(&bed.path).err(), Some(missing.clone()));
    assert_eq!(read(&bed.slot), Err(missing.clone()));
    assert_eq!(wait(bed.slot.settle(&[root(2)])), Err(missing));
    assert!(!bed.path.exists(), "a slot that was taken away is not made anew");
}

#[test]
fn a_way_that_was_never_set_up_is_told_apart_from_a_wrong_one() {
    let bed = Bed::new();
    let error = bed.slot.unlock(&Unlock::Passphrase(passphrase("correct horse"))).unwrap_err();
    let expected = SlotError::NoSuchMethod { slot: bed.name(), method: "passphrase", others: "key file".to_owned() };
    assert_eq!(error, expected);
}

#[test]
fn another_vaults_slot_is_refused_and_left_alone() {
    let (ours, theirs) = (Bed::new(), tempfile::tempdir().unwrap());
    let path = theirs.path().join("root.slot");
    let unlocks = [NewUnlock::KeyFile(ours.key.duplicate())];
    let foreign = FileSlot::create(&path, OTHER_VAULT, &unlocks, &root(5)).unwrap();
    assert!(matches!(foreign.belongs_to(VAULT), Err(SlotError::OtherVault { .. })));
    assert_eq!(ours.slot.belongs_to(VAULT), Ok(()));
    // It takes our slot's place while the vault runs.
    std::fs::copy(&path, &ours.path).unwrap();
    let before = ours.bytes();
    let other = SlotError::OtherVault { slot: ours.name() };
    assert_eq!(read(&ours.slot), Err(other.clone()));
    assert_eq!(wait(ours.slot.stage(&[root(2)])), Err(other.clone()));
    assert_eq!(wait(ours.slot.settle(&[root(2)])), Err(other));
    assert_eq!(ours.bytes(), before);
}

#[test]
fn staging_overwrites_one_copy_and_settling_both() {
    let bed = Bed::new();
    let (before, next) = (bed.bytes(), root(2));
    wait(bed.slot.stage(&[bed.first.duplicate(), next.duplicate()])).unwrap();
    let staged = bed.bytes();
    let changed: Vec<bool> =
        before.chunks(BLOCK_LEN).zip(staged.chunks(BLOCK_LEN)).map(|(old, new)| old != new).collect();
    assert_eq!(changed, [true, false], "the older copy");
    let reading = bed.read_anew().unwrap();
    assert_eq!((reading.entries, reading.even), (vec![bed.first.duplicate(), next.duplicate()], false));

    wait(bed.slot.settle(&[next.duplicate()])).unwrap();
    let settled = bed.bytes();
    assert_eq!(settled.len(), 8192);
    let reading = bed.read_anew().unwrap();
    assert_eq!((reading.entries, reading.even), (vec![next], true));
    // First the copy without the new root, and each write counts on.
    let sequence = |bytes: &[u8], copy| Block::parse(&bytes[copy * BLOCK_LEN..][..BLOCK_LEN]).unwrap().sequence;
    assert_eq!([sequence(&before, 0), sequence(&before, 1)], [1, 2]);
    assert_eq!([sequence(&staged, 0), sequence(&staged, 1)], [3, 2]);
    assert_eq!([sequence(&settled, 0), sequence(&settled, 1)], [5, 4]);
}

#[test]
fn after_settling_the_old_root_opens_from_no_copy() {
    let bed = Bed::new();
    let next = root(2);
    let opened = |bytes: &[u8]| -> Vec<RootEntry> {
        let blocks = bytes.chunks(BLOCK_LEN).map(|b| Block::parse(b).unwrap());
        let entries = |b: Block| {
            let unlock = Unlock::KeyFile(bed.key.duplicate());
            let (_, key) = super::stanza::Unlocking::new(&unlock).slot_key(VAULT, &b.stanzas).unwrap().unwrap();
            b.entries(&key).unwrap()
        };
        blocks.flat_map(entries).collect()
    };
    wait(bed.slot.stage(&[bed.first.duplicate(), next.duplicate()])).unwrap();
    // The control: until then it opens.
    assert!(opened(&bed.bytes()).contains(&bed.first));
    wait(bed.slot.settle(&[next.duplicate()])).unwrap();
    assert_eq!(opened(&bed.bytes()), [next.duplicate(), next]);
}

#[test]
fn one_damaged_copy_costs_nothing_and_is_repaired() {
    for copy in [0, 1] {
        for staged in [false, true] {
            let bed = Bed::new();
            let next = root(2);
            if staged {
                wait(bed.slot.stage(&[bed.first.duplicate(), next.duplicate()])).unwrap();
            }
            let mut bytes = bed.bytes();
            damage(&mut bytes, copy);
            bed.put(&bytes);
            let reading = bed.read_anew().unwrap();
            assert!(reading.entries.contains(&bed.first), "copy {copy}, staged {staged}");
            assert!(!reading.even);
            // What comes next goes to the damaged copy first.
            wait(bed.slot.stage(&[bed.first.duplicate(), next.duplicate()])).unwrap();
            assert!(bed.bytes().chunks(BLOCK_LEN).all(|b| Block::parse(b).is_some()));
            wait(bed.slot.settle(&[next.duplicate()])).unwrap();
            let reading = bed.read_anew().unwrap();
            assert_eq!((reading.entries, reading.even), (vec![next], true));
        }
    }
}

#[test]
fn two_damaged_copies_are_damage_and_a_running_vault_repairs_them() {
    let bed = Bed::new();
    let mut bytes = bed.bytes();
    damage(&mut bytes, 0);
    damage(&mut bytes, 1);
    bed.put(&bytes);
    let damaged = SlotError::Damaged { slot: bed.name() };
    assert_eq!(FileSlot::open(&bed.path).err(), Some(damaged.clone()));
    assert_eq!(bed.slot.unlock(&Unlock::KeyFile(bed.key.duplicate())), Err(damaged.clone()));
    assert_eq!(read(&bed.slot), Err(damaged));
    wait(bed.slot.settle(&[bed.first.duplicate()])).unwrap();
    let reading = bed.read_anew().unwrap();
    assert_eq!((reading.entries, reading.even), (vec![bed.first], true));
}

#[test]
fn whole_copies_that_are_not_ours_are_not_overwritten() {
    let bed = Bed::new();
    std::fs::remove_file(&bed.path).unwrap();
    // The same vault, but another slot key.
    let unlocks = [NewUnlock::KeyFile(bed.key.duplicate())];
    let replaced = FileSlot::create(&bed.path, VAULT, &unlocks, &root(9)).unwrap();
    assert_eq!(wait(bed.slot.settle(&[root(2)])), Err(SlotError::Damaged { slot: bed.name() }));
    assert_eq!(read(&replaced).unwrap().entries.len(), 1);
}

#[test]
fn a_file_cut_short_anywhere_gives_the_root_or_says_damaged() {
    let bed = Bed::new();
    let whole = bed.bytes();
    let lengths = (0..=8192).step_by(97).chain([4095, 4096, 4097, 8191, 8192]);
    for len in lengths {
        bed.put(&whole[..len]);
        match bed.read_anew() {
            Ok(reading) => {
                assert!(len >= BLOCK_LEN, "{len}");
                assert_eq!((reading.entries, reading.even), (vec![bed.first.duplicate()], len == 8192), "{len}");
            }
            Err(error) => {
                assert!(len < BLOCK_LEN, "{len}");
                assert_eq!(error, SlotError::Damaged { slot: bed.name() });
            }
        }
    }
    bed.put(&whole[..5000]);
    wait(bed.slot.settle(&[bed.first.duplicate()])).unwrap();
    assert!(bed.read_anew().unwrap().even);
}

#[test]
fn any_flipped_bit_sends_to_the_other_copy() {
    let bed = Bed::new();
    let mut bytes = bed.bytes();
    // Every bit of a copy, looked at alone.
    for bit in 0..BLOCK_LEN * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(Block::parse(&bytes[..BLOCK_LEN]).is_none(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(Block::parse(&bytes[..BLOCK_LEN]).is_some());
    // And through the file, in either copy and in both.
    for at in (0..BLOCK_LEN).step_by(41) {
        let flip = |copies: &[usize]| {
            let mut flipped = bytes.clone();
            copies.iter().for_each(|copy| flipped[copy * BLOCK_LEN + at] ^= 0x10);
            bed.put(&flipped);
            bed.read_anew()
        };
        for copy in [0, 1] {
            assert_eq!(flip(&[copy]).unwrap().entries, [bed.first.duplicate()], "byte {at} of copy {copy}");
        }
        assert_eq!(flip(&[0, 1]), Err(SlotError::Damaged { slot: bed.name() }), "byte {at} of both");
    }
}

/// The digest keeps nobody out, so it is made to fit: the boxes must notice by themselves.
#[test]
fn any_forged_bit_is_noticed_without_the_digest() {
    let slot_key = SlotKey::draw(&mut Random::for_keys(1));
    let key = unlock_key();
    let stanza = Stanza::new(VAULT, &NewUnlock::KeyFile(key.duplicate()), &slot_key).unwrap();
    let first = root(1);
    let unlock = Unlock::KeyFile(key);
    let opened = |bytes: &[u8]| {
        let block = Block::parse(bytes)?;
        let (_, key) = super::stanza::Unlocking::new(&unlock).slot_key(VAULT, &block.stanzas).unwrap()?;
        block.entries(&key).ok()
    };
    let bytes = block(1, VAULT, &[stanza], std::slice::from_ref(&first), &slot_key);
    let used = bytes[..BLOCK_LEN - 32].iter().rposition(|&b| b != 0).unwrap() + 1;
    for bit in 0..used * 8 {
        let mut forged = bytes.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        fix_digest(&mut forged);
        assert_eq!(opened(&forged), None, "bit {bit}");
    }
    let mut same = bytes.clone();
    fix_digest(&mut same);
    assert_eq!(opened(&same), Some(vec![first]));
}

#[test]
fn a_forged_cost_below_the_floor_is_not_taken() {
    let slot_key = SlotKey::draw(&mut Random::for_keys(1));
    let unlock = NewUnlock::Passphrase(passphrase("correct horse"), Cost::FLOOR);
    let stanza = Stanza::new(VAULT, &unlock, &slot_key).unwrap();
    let bytes = block(1, VAULT, &[stanza], &[root(1)], &slot_key);
    assert!(Block::parse(&bytes).is_some());
    // Offset 34: memory, passes and lanes, 4 bytes each.
    for (at, value) in [(34, 8u32), (38, 1), (42, 0), (34, u32::MAX)] {
        let mut forged = bytes.clone();
        forged[at..at + 4].copy_from_slice(&value.to_be_bytes());
        fix_digest(&mut forged);
        assert!(Block::parse(&forged).is_none(), "{value} at {at}");
    }
}

#[test]
fn a_full_slot_fits_its_block() {
    let slot_key = SlotKey::draw(&mut Random::for_keys(1));
    let origin = super::stanza::Origin::Passphrase { cost: Cost::FLOOR, salt: [1; 16] };
    let stanza = Stanza { origin, wrapped: [2; super::stanza::WRAPPED_LEN] };
    let stanzas = vec![stanza; STANZAS_MAX];
    let entries: Vec<_> = (0..ENTRIES_MAX as u64).map(root).collect();
    let bytes = block(u64::MAX, VAULT, &stanzas, &entries, &slot_key);
    let read = Block::parse(&bytes).unwrap();
    assert_eq!((bytes.len(), read.sequence, read.vault), (BLOCK_LEN, u64::MAX, VAULT));
    assert_eq!(read.stanzas, stanzas);
    assert_eq!(read.entries(&slot_key).unwrap(), entries);
}

#[test]
fn a_slot_takes_neither_no_root_nor_too_many() {
    let bed = Bed::new();
    let before = bed.bytes();
    let many: Vec<_> = (0..=ENTRIES_MAX as u64).map(root).collect();
    for entries in [&[][..], &many] {
        let count = SlotError::Count { what: "roots", most: ENTRIES_MAX };
        assert_eq!(wait(bed.slot.settle(entries)), Err(count));
    }
    assert_eq!(bed.bytes(), before);
}

#[test]
fn nothing_printable_holds_a_key() {
    let bed = Bed::new();
    let shown = format!("{:?} {:?}", bed.first, read(&bed.slot).unwrap());
    assert!(shown.contains("RootKey(..)"));
    let key = bed.first.key.expose();
    assert!(!shown.contains(&hex::encode(key)) && !shown.contains(&format!("{}, {}, {}", key[0], key[1], key[2])));
    assert!(!bed.bytes().windows(32).any(|w| w == key));
}

fn parse_hostile(head: &[u8]) -> Option<Block> {
    let mut bytes = vec![0; BLOCK_LEN];
    bytes[..8].copy_from_slice(b"udvslot\x02");
    bytes[8..8 + head.len()].copy_from_slice(head);
    fix_digest(&mut bytes);
    Block::parse(&bytes)
}

proptest! {
    #[test]
    fn hostile_blocks_are_bounded(head in proptest::collection::vec(any::<u8>(), 0..4056), count in 0u8..10) {
        let mut head = head;
        if head.len() > 25 {
            head[24] = count;
            head[25] = 2;
        }
        if let Some(block) = parse_hostile(&head) {
            prop_assert!((1..=STANZAS_MAX).contains(&block.stanzas.len()));
            let key = SlotKey::draw(&mut Random::for_keys(1));
            prop_assert!(block.entries(&key).is_err());
        }
    }
}
