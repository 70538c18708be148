//! Refusals noted beside a root slot while a root is retained: what a restore with that root has to refuse again.
//!
//! ```text
//! file <slot>.<epoch>.refusals      8 B "udvrefs\x01", then records: u32 length ‖ sealed box
//! the box: under HKDF(retained root key, "uv1/root/refusals"), label "uv1/refusals", AAD = vault id ‖ root id ‖ u64 offset
//! of it, one after the other: u64 time ‖ 16 B subject's tag ‖ u8 length ‖ compartment (empty: the whole subject)
//! ```
//! A backup of the key plane of that epoch knows nothing of these. The file is as secret as the root: it opens with it only,
//! and is wiped with it.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::RootEntry;
use crate::crypto::tag::Tag;
use crate::crypto::{RefusalKey, Unauthentic};
use crate::ids::{Compartment, RootId, VaultId};
use crate::time::Timestamp;

const MAGIC: &[u8; 8] = b"udvrefs\x01";
/// The extension of a file that is being written.
const PART: &str = "part";

/// One refusal (F0).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) at: Timestamp,
    /// The subject's tag in the directory.
    pub(crate) subject: Tag,
    /// Only this compartment.
    pub(crate) compartment: Option<Compartment>,
}

/// The refusals since a root was retained.
pub(crate) struct Refusals {
    pub(crate) epoch: u64,
    pub(crate) root: RootId,
    vault: VaultId,
    key: RefusalKey,
}

/// What became of reading a file of refusals.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// There is no such file: nothing is known.
    Unknown,
    /// These, in their order.
    These(Vec<Refusal>),
    /// These, and behind them a record that was cut short: by a crash, before it was acknowledged; or by somebody.
    Torn(Vec<Refusal>),
}

impl Refusals {
    pub(crate) fn of(root: &RootEntry, vault: VaultId) -> Self {
        Self { epoch: root.epoch, root: root.id, vault, key: root.key.refusal_key() }
    }

    /// The file beside a slot.
    pub(crate) fn beside(&self, slot: &Path) -> PathBuf {
        let mut name = slot.as_os_str().to_owned();
        name.push(format!(".{}.refusals", self.epoch));
        PathBuf::from(name)
    }

    /// Makes a file of these refusals, in place of whatever is there.
    pub(crate) fn write(&self, slot: &Path, refusals: &[Refusal]) -> std::io::Result<()> {
        let path = self.beside(slot);
        let part = path.with_extension(PART);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(MAGIC)?;
        if !refusals.is_empty() {
            file.write_all(&self.record(MAGIC.len(), refusals)?)?;
        }
        file.sync_all()?;
        std::fs::rename(&part, &path)?;
        sync_parent(&path)
    }

    /// What is noted beside any of the slots, if it is whole beside one of them. A record that was cut short counts as whole
    /// if `crashed` may have cut it: it was not acknowledged then.
    pub(crate) fn gather(&self, slots: &[PathBuf], crashed: bool) -> Option<Vec<Refusal>> {
        let mut all: Option<Vec<Refusal>> = None;
        let mut torn = Vec::new();
        for slot in slots {
            match self.read(slot) {
                Ok(Noted::These(some)) => add(all.get_or_insert_default(), some),
                Ok(Noted::Torn(some)) if crashed => add(all.get_or_insert_default(), some),
                Ok(Noted::Torn(some)) => torn.extend(some),
                Ok(Noted::Unknown) => {}
                Err(error) => {
                    tracing::warn!(slot = %slot.display(), %error, "refusals noted beside a root slot could not be read");
                }
            }
        }
        if let Some(all) = &mut all {
            add(all, torn);
        }
        all
    }

    /// Removes files beside a slot that are of none of these epochs: what a crash left of roots that are gone.
    pub(crate) fn sweep(slot: &Path, kept: &[u64]) -> std::io::Result<()> {
        let (Some(name), Some(dir)) = (slot.file_name().and_then(|name| name.to_str()), slot.parent()) else {
            return Ok(());
        };
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let beside =
                path.file_name().and_then(|beside| beside.to_str()).and_then(|beside| beside.strip_prefix(name));
            let Some(beside) = beside.and_then(|beside| beside.strip_prefix('.')) else { continue };
            let stem = [".refusals", ".part"].iter().find_map(|end| beside.strip_suffix(end));
            if let Some(Ok(epoch)) = stem.map(str::parse::<u64>)
                && (!kept.contains(&epoch) || beside.ends_with(".part"))
            {
                wipe(&path)?;
            }
        }
        Ok(())
    }

    /// Adds refusals, durably. Bytes of a record that a crash cut short are written over: it was never acknowledged.
    pub(crate) fn append(&self, slot: &Path, refusals: &[Refusal]) -> std::io::Result<()> {
        let path = self.beside(slot);
        let bytes = std::fs::read(&path)?;
        let whole = records(&bytes).map_or(MAGIC.len(), |records| records.whole);
        let record = self.record(whole, refusals)?;
        let file = OpenOptions::new().write(true).open(&path)?;
        file.set_len(whole as u64)?;
        file.write_all_at(&record, whole as u64)?;
        file.sync_all()
    }

    /// Reads the file beside a slot.
    ///
    /// # Errors
    /// The system's; `InvalidData` if it is damaged, or another root's.
    pub(crate) fn read(&self, slot: &Path) -> std::io::Result<Noted> {
        let mut bytes = Vec::new();
        match File::open(self.beside(slot)) {
            Ok(mut file) => file.read_to_end(&mut bytes)?,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Noted::Unknown),
            Err(error) => return Err(error),
        };
        let records = records(&bytes).ok_or(ErrorKind::InvalidData)?;
        let torn = records.whole < bytes.len();
        let mut found = Vec::new();
        for (offset, sealed) in records.sealed {
            let opened =
                self.key.open_refusals(&self.aad(offset), sealed).map_err(|Unauthentic| ErrorKind::InvalidData)?;
            found.extend(decode(&opened).ok_or(ErrorKind::InvalidData)?);
        }
        Ok(if torn { Noted::Torn(found) } else { Noted::These(found) })
    }

    /// Overwrites and removes the file beside a slot.
    pub(crate) fn wipe(&self, slot: &Path) -> std::io::Result<()> {
        wipe(&self.beside(slot))
    }

    fn record(&self, offset: usize, refusals: &[Refusal]) -> std::io::Result<Vec<u8>> {
        let sealed = self.key.seal_refusals(&self.aad(offset), &encode(refusals));
        let len = u32::try_from(sealed.len()).map_err(|_| ErrorKind::InvalidInput)?;
        Ok([&len.to_be_bytes()[..], &sealed].concat())
    }

    fn aad(&self, offset: usize) -> Vec<u8> {
        [&self.vault.0[..], &self.root.0, &(offset as u64).to_be_bytes()].concat()
    }
}

/// Adds those that are not there yet.
fn add(all: &mut Vec<Refusal>, more: Vec<Refusal>) {
    let known: HashSet<_> = all.iter().map(|known| (known.subject, known.compartment.clone())).collect();
    all.extend(more.into_iter().filter(|refusal| !known.contains(&(refusal.subject, refusal.compartment.clone()))));
}

fn wipe(path: &Path) -> std::io::Result<()> {
    let len = match std::fs::metadata(path) {
        Ok(found) => found.len(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let overwritten = OpenOptions::new().write(true).open(path).and_then(|file| {
        file.write_all_at(&vec![0; usize::try_from(len).unwrap_or_default()], 0)?;
        file.sync_all()
    });
    // Removed all the same: one that stays is taken for complete.
    std::fs::remove_file(path)?;
    overwritten?;
    sync_parent(path)
}

fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

struct Records<'b> {
    /// With the offset of each.
    sealed: Vec<(usize, &'b [u8])>,
    /// How many bytes they take.
    whole: usize,
}

/// The whole records; none if the file is no file of refusals.
fn records(bytes: &[u8]) -> Option<Records<'_>> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let (mut sealed, mut whole) = (Vec::new(), MAGIC.len());
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let Some((record, after)) = after.split_at_checked(u32::from_be_bytes(*len) as usize) else { break };
        sealed.push((whole, record));
        whole += 4 + record.len();
        rest = after;
    }
    Some(Records { sealed, whole })
}

fn encode(refusals: &[Refusal]) -> Vec<u8> {
    let mut out = Vec::with_capacity(refusals.len() * 32);
    for refusal in refusals {
        out.extend_from_slice(&refusal.at.0.to_be_bytes());
        out.extend_from_slice(&refusal.subject);
        let name = refusal.compartment.as_ref().map_or("", Compartment::as_str);
        out.push(u8::try_from(name.len()).expect("a compartment's name has at most 64 bytes"));
        out.extend_from_slice(name.as_bytes());
    }
    out
}

fn decode(mut bytes: &[u8]) -> Option<Vec<Refusal>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (at, rest) = bytes.split_first_chunk::<8>()?;
        let (subject, rest) = rest.split_first_chunk::<16>()?;
        let (&len, rest) = rest.split_first()?;
        let (name, rest) = rest.split_at_checked(len.into())?;
        let compartment = match std::str::from_utf8(name).ok()? {
            "" => None,
            name => Some(Compartment::parse(name).ok()?),
        };
        found.push(Refusal { at: Timestamp(u64::from_be_bytes(*at)), subject: *subject, compartment });
        bytes = rest;
    }
    Some(found)
}

/// The records of a file, and what lies sealed in one.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn decode_again(bytes: &[u8]) -> bool {
    let found = decode(bytes);
    if let Some(found) = &found {
        assert_eq!(encode(found), bytes);
    }
    let records = records(bytes);
    if let Some(records) = &records {
        assert!(records.whole <= bytes.len() && records.sealed.iter().all(|(at, _)| *at < records.whole));
    }
    found.is_some() || records.is_some()
}

/// A file of three records, and what lies sealed in one.
#[cfg(test)]
pub(crate) fn files() -> Vec<Vec<u8>> {
    let refusal = |byte: u8, compartment| Refusal { at: Timestamp(byte.into()), subject: [byte; 16], compartment };
    let noted = encode(&[refusal(1, None), refusal(2, Some(Compartment::profile()))]);
    let record = |sealed: &[u8]| [&u32::try_from(sealed.len()).expect("short").to_be_bytes(), sealed].concat();
    vec![[&MAGIC[..], &record(&[1; 40]), &record(b""), &record(&noted)].concat(), noted]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::crypto::Random;

    fn refusal(byte: u8) -> Refusal {
        let compartment = (byte % 2 == 1).then(Compartment::profile);
        Refusal { at: Timestamp(byte.into()), subject: [byte; 16], compartment }
    }

    #[test]
    fn reads_what_was_noted_also_after_a_torn_write_and_only_with_its_root() {
        let dir = tempfile::tempdir().unwrap();
        let slot = dir.path().join("root.slot");
        let root = RootEntry::draw(3, &mut Random::new(48));
        let refusals = Refusals::of(&root, VaultId([7; 16]));
        assert_eq!(refusals.read(&slot).unwrap(), Noted::Unknown);
        refusals.write(&slot, &[]).unwrap();
        refusals.append(&slot, &[refusal(1), refusal(2)]).unwrap();
        let path = refusals.beside(&slot);
        let torn = [&std::fs::read(&path).unwrap()[..], &[0, 0, 1, 0, 9]].concat();
        std::fs::write(&path, torn).unwrap();
        assert_eq!(refusals.read(&slot).unwrap(), Noted::Torn(vec![refusal(1), refusal(2)]));
        refusals.append(&slot, &[refusal(3)]).unwrap();
        let all = Noted::These(vec![refusal(1), refusal(2), refusal(3)]);
        assert_eq!(refusals.read(&slot).unwrap(), all);
        let other = RootEntry { epoch: 3, ..RootEntry::draw(3, &mut Random::new(48)) };
        assert!(Refusals::of(&other, VaultId([7; 16])).read(&slot).is_err());
        assert!(Refusals::of(&root, VaultId([8; 16])).read(&slot).is_err());
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(16).any(|window| window == [2; 16]), "a tag stands in the open");
        let mut changed = bytes.clone();
        changed[40] ^= 1;
        std::fs::write(&path, changed).unwrap();
        assert!(refusals.read(&slot).is_err());
        refusals.wipe(&slot).unwrap();
        assert_eq!(refusals.read(&slot).unwrap(), Noted::Unknown);
    }

    #[test]
    fn lists_beside_several_slots_make_each_other_whole() {
        let dir = tempfile::tempdir().unwrap();
        let slots: Vec<PathBuf> = ["a.slot", "b.slot"].iter().map(|name| dir.path().join(name)).collect();
        let refusals = Refusals::of(&RootEntry::draw(3, &mut Random::new(48)), VaultId([7; 16]));
        assert_eq!(refusals.gather(&slots, true), None);
        refusals.write(&slots[0], &[refusal(1)]).unwrap();
        refusals.write(&slots[1], &[refusal(1), refusal(2)]).unwrap();
        let all = Some(vec![refusal(1), refusal(2)]);
        assert_eq!(refusals.gather(&slots, false), all);
        // One that was cut short is known not to be whole, unless a crash may have done it.
        let path = refusals.beside(&slots[1]);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(refusals.gather(&slots[1..], false), None);
        assert_eq!(refusals.gather(&slots[1..], true), Some(Vec::new()));
        assert_eq!(refusals.gather(&slots, false), Some(vec![refusal(1)]));

        std::fs::write(dir.path().join("a.slot"), "a slot").unwrap();
        Refusals::sweep(&slots[0], &[3]).unwrap();
        assert!(refusals.beside(&slots[0]).exists());
        Refusals::sweep(&slots[0], &[4]).unwrap();
        assert!(!refusals.beside(&slots[0]).exists() && refusals.beside(&slots[1]).exists());
        assert!(dir.path().join("a.slot").exists());
    }
}
