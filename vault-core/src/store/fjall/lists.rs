//! Whether fjall's lists are what was written, before fjall opens them: it takes the numbers in them for lengths before it
//! looks at their checksums, if it does at all, and a changed one ends the process for want of memory.
//!
//! A keyspace has a list of its tables, `v‖id`, and `current`, which names it: `u64 id ‖ u128 checksum of that file (XXH3) ‖ 0`.
//! That file and every table end with a table of contents and a trailer. The table of contents is `"TOC!" ‖ u32 entries`, each
//! `u64 place ‖ u64 length ‖ u16 name length ‖ name`; the trailer `"SFA!" ‖ 1 ‖ 0 ‖ u128 checksum of the table of contents ‖
//! u64 its place ‖ u64 its length`. In the list, the part `tables` is `u8 levels`, for each `u8 runs`, for each `u32 tables`,
//! for each `u64 id ‖ 0 ‖ u128 checksum ‖ u64 sequence number`. Numbers are little-endian.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_128;

use super::made::listed;

const CURRENT_LEN: usize = 8 + 16 + 1;
const TRAILER_LEN: usize = 4 + 1 + 1 + 16 + 8 + 8;
const TRAILER_START: &[u8] = b"SFA!\x01\x00";
const CONTENTS_START: &[u8] = b"TOC!";
/// A table of contents has about ten entries.
const CONTENTS_MAX: u64 = 64 * 1024;

/// The first file that is damaged, of the lists of all keyspaces in `dir` and of what they name.
pub(super) fn damaged(dir: &Path) -> io::Result<Option<PathBuf>> {
    for keyspace in listed(&dir.join("keyspaces"))? {
        if let Some(damaged) = damaged_in(&keyspace)? {
            return Ok(Some(damaged));
        }
    }
    Ok(None)
}

fn damaged_in(keyspace: &Path) -> io::Result<Option<PathBuf>> {
    let path = keyspace.join("current");
    let Some(current) = read(&path)? else {
        // Whether it may be missing is looked at elsewhere.
        return Ok(None);
    };
    let Some((id, checksum)) = parse_current(&current) else { return Ok(Some(path)) };
    let path = keyspace.join(format!("v{id}"));
    let Some(list) = read(&path)?.filter(|list| xxh3_128(list) == checksum) else { return Ok(Some(path)) };
    let Some(tables) = parse_list(&list) else { return Ok(Some(path)) };
    for id in tables {
        let path = keyspace.join("tables").join(id.to_string());
        if !is_table(&path)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Which list is the present one, and its checksum.
fn parse_current(current: &[u8]) -> Option<(u64, u128)> {
    let mut rest = current;
    let (id, checksum) = (u64::from_le_bytes(take(&mut rest)?), u128::from_le_bytes(take(&mut rest)?));
    (current.len() == CURRENT_LEN && rest == [0]).then_some((id, checksum))
}

/// The tables that a list names.
fn parse_list(list: &[u8]) -> Option<Vec<u64>> {
    let (place, checksum) = parse_trailer(list.get(list.len().checked_sub(TRAILER_LEN)?..)?)?;
    let contents = list.get(usize::try_from(place).ok()?..list.len() - TRAILER_LEN)?;
    if xxh3_128(contents) != checksum {
        return None;
    }
    let mut rest = part(contents, list, b"tables")?;
    let mut tables = Vec::new();
    let [levels] = take(&mut rest)?;
    for _ in 0..levels {
        let [runs] = take(&mut rest)?;
        for _ in 0..runs {
            for _ in 0..u32::from_le_bytes(take(&mut rest)?) {
                tables.push(u64::from_le_bytes(take(&mut rest)?));
                take::<{ 1 + 16 + 8 }>(&mut rest)?;
            }
        }
    }
    Some(tables)
}

/// A part of `file` by its name in the table of contents.
fn part<'f>(contents: &[u8], file: &'f [u8], name: &[u8]) -> Option<&'f [u8]> {
    let mut rest = contents.strip_prefix(CONTENTS_START)?;
    for _ in 0..u32::from_le_bytes(take(&mut rest)?) {
        let (place, length) = (u64::from_le_bytes(take(&mut rest)?), u64::from_le_bytes(take(&mut rest)?));
        let name_length = u16::from_le_bytes(take(&mut rest)?);
        let (its_name, behind) = rest.split_at_checked(name_length.into())?;
        rest = behind;
        if its_name == name {
            return file.get(usize::try_from(place).ok()?..usize::try_from(place.checked_add(length)?).ok()?);
        }
    }
    None
}

/// Where the table of contents is, and its checksum.
fn parse_trailer(trailer: &[u8]) -> Option<(u64, u128)> {
    let mut rest = trailer.strip_prefix(TRAILER_START)?;
    let checksum = u128::from_le_bytes(take(&mut rest)?);
    Some((u64::from_le_bytes(take(&mut rest)?), checksum))
}

/// Whether there is a file whose table of contents is whole; what else is in a table has checksums that are looked at.
fn is_table(path: &Path) -> io::Result<bool> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let Some(end) = file.metadata()?.len().checked_sub(TRAILER_LEN as u64) else { return Ok(false) };
    let mut trailer = [0; TRAILER_LEN];
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut trailer)?;
    let Some((place, checksum)) = parse_trailer(&trailer) else { return Ok(false) };
    let Some(length) = end.checked_sub(place).filter(|length| *length <= CONTENTS_MAX) else { return Ok(false) };
    let mut contents = Vec::new();
    file.seek(SeekFrom::Start(place))?;
    file.take(length).read_to_end(&mut contents)?;
    Ok(xxh3_128(&contents) == checksum)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(*taken)
}
