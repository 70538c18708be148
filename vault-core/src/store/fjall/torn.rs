//! A batch that a loss of power left torn at the end of fjall's journal: found, and cut off.
//!
//! A batch is on several pages of the disk, and before its `fdatasync` returns any of them may be there and others not.
//! fjall drops a last batch that stops short, but takes one with a hole for damage. Only the last one can have holes: the
//! next is begun when it is durable. And it was acknowledged to nobody.
//!
//! A batch is `1 ‖ u32 items ‖ u64 sequence number`, its items, `3 ‖ u64 checksum of the items (XXH3) ‖ "FJL" ‖ 3`; an
//! item is `2 ‖ u8 type ‖ u8 compression ‖ u64 keyspace ‖ u16 key length ‖ u32 value length ‖ u32 bytes of it here ‖ key ‖
//! value`. Numbers are little-endian.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

const START_LEN: usize = 1 + 4 + 8;
const ITEM_HEAD_LEN: usize = 1 + 1 + 1 + 8 + 2 + 4 + 4;
const TRAILER: [u8; 4] = *b"FJL\x03";

/// Cuts off a last batch whose checksum does not match; whether there was one.
pub(super) fn cut(dir: &Path) -> io::Result<bool> {
    let Some(journal) = active_journal(dir)? else { return Ok(false) };
    let Some(end) = torn_at(&fs::read(&journal)?) else { return Ok(false) };
    let file = File::options().write(true).open(journal)?;
    file.set_len(end as u64)?;
    file.sync_all()?;
    Ok(true)
}

/// The journal with the highest number.
fn active_journal(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut active = None;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let number = name.strip_suffix(".jnl").and_then(|number| number.parse::<u64>().ok());
        active = active.max(number.map(|number| (number, path)));
    }
    Ok(active.map(|(_, path)| path))
}

/// Where the last batch begins, if it is all that is wrong.
fn torn_at(journal: &[u8]) -> Option<usize> {
    let mut at = 0;
    while let Some((len, true)) = batch(&journal[at..]) {
        at += len;
    }
    let rest = &journal[at..];
    // Made longer than what is in it, a journal ends in zeros.
    let torn = rest.iter().any(|byte| *byte != 0);
    // A hole may be in the batch's own heads, so that its end cannot be told; but behind it there is no other.
    let later = (1..rest.len()).any(|from| matches!(batch(&rest[from..]), Some((_, true))));
    (torn && !later).then_some(at)
}

/// How long the batch at the beginning is, and whether its checksum matches; none if there is no batch to its end.
fn batch(bytes: &[u8]) -> Option<(usize, bool)> {
    let head = bytes.get(..START_LEN).filter(|head| head[0] == 1)?;
    let items = u32::from_le_bytes(head[1..5].try_into().ok()?);
    let mut rest = &bytes[START_LEN..];
    for _ in 0..items {
        rest = rest.get(item_len(rest)?..)?;
    }
    let items = &bytes[START_LEN..bytes.len() - rest.len()];
    let end = rest.get(..1 + 8 + TRAILER.len()).filter(|end| end[0] == 3 && end.ends_with(&TRAILER))?;
    let whole = end[1..9] == xxh3_64(items).to_le_bytes();
    Some((START_LEN + items.len() + end.len(), whole))
}

fn item_len(bytes: &[u8]) -> Option<usize> {
    let head = bytes.get(..ITEM_HEAD_LEN).filter(|head| head[0] == 2)?;
    let key = u16::from_le_bytes(head[11..13].try_into().ok()?);
    let value = u32::from_le_bytes(head[17..21].try_into().ok()?);
    ITEM_HEAD_LEN.checked_add(usize::from(key))?.checked_add(usize::try_from(value).ok()?)
}
