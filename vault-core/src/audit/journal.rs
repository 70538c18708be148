//! The journal: where entries are appended before any answer leaves. Once their tiles are durable its segments go.
//!
//! ```text
//! journal/<index of the first entry, 16 hexadecimal digits>:
//! frames: u32 length (big-endian) ‖ first 4 bytes of SHA-256 of the entry ‖ the entry's bytes
//! ```
//! A crash may cut the last frames short; they were not durable, so they are cut off at the next start.

use std::fs::{File, Metadata, OpenOptions, create_dir_all};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::LogError;
use crate::crypto::digest;

/// The longest entry, in bytes: what a bundle can tell of.
pub(super) const ENTRY_MAX: usize = u16::MAX as usize;
const HEAD: usize = 8;

/// Entries as they are kept in memory.
pub(super) type Bytes = Arc<[u8]>;

/// The segment that is appended to.
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    /// Up to where it holds whole frames.
    len: u64,
    /// Whether something else may be behind that.
    torn: bool,
    /// Which file it is, wherever that is now.
    identity: (u64, u64),
}

impl Segment {
    /// Begins the first segment of a journal.
    pub(super) fn begin(dir: &Path) -> io::Result<Self> {
        create_dir_all(dir.join("journal"))?;
        Self::create(dir, 0)
    }

    /// Begins the segment that comes after this one.
    ///
    /// # Errors
    /// The system's, or that this one is not in its place: then the other would be the beginning of another journal.
    pub(super) fn next(&mut self, dir: &Path, first: u64) -> io::Result<Self> {
        let next = Self::create(dir, first)?;
        // Looked at last, for whatever comes after that meets `next`.
        if let Err(why) = self.mend() {
            let _ = std::fs::remove_file(&next.path);
            return Err(why);
        }
        Ok(next)
    }

    /// Begins a segment in the directory that there is; its name is made durable.
    fn create(dir: &Path, first: u64) -> io::Result<Self> {
        let journal = dir.join("journal");
        let path = journal.join(format!("{first:016x}"));
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path)?;
        let synced = File::open(&journal).and_then(|names| names.sync_all());
        let synced = synced.and_then(|()| File::open(dir)).and_then(|names| names.sync_all());
        if let Err(why) = synced {
            // The one before goes on, and this name would be in its way.
            let _ = std::fs::remove_file(&path);
            return Err(why);
        }
        Self::of(path, file, 0)
    }

    /// Goes on with one that holds whole frames up to `len`; what is behind is cut off.
    fn resume(path: PathBuf, len: u64) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).open(&path)?;
        file.set_len(len)?;
        file.sync_all()?;
        Self::of(path, file, len)
    }

    fn of(path: PathBuf, file: File, len: u64) -> io::Result<Self> {
        let identity = identity(&file.metadata()?);
        Ok(Self { path, file: Arc::new(file), len, torn: false, identity })
    }

    /// Appends frames with one write. What an error left behind is cut off again, now or before anything else is appended.
    ///
    /// # Errors
    /// The system's, or that the file is not where the next start looks for it.
    pub(super) fn append(&mut self, frames: &[u8]) -> io::Result<()> {
        self.mend()?;
        self.torn = true;
        if let Err(error) = (&*self.file).write_all(frames) {
            let _ = self.cut();
            return Err(error);
        }
        self.torn = false;
        self.len += frames.len() as u64;
        Ok(())
    }

    /// Sees that it holds whole frames alone, and is in its place.
    ///
    /// # Errors
    /// As for appending.
    pub(super) fn mend(&mut self) -> io::Result<()> {
        if !std::fs::metadata(&self.path).is_ok_and(|there| identity(&there) == self.identity) {
            return Err(io::Error::other("its journal was removed or put elsewhere: put it back"));
        }
        if self.torn { self.cut() } else { Ok(()) }
    }

    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.len)?;
        self.torn = false;
        Ok(())
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

/// Adds an entry's frame.
pub(super) fn frame(out: &mut Vec<u8>, entry: &[u8]) {
    out.extend_from_slice(&u32::try_from(entry.len()).expect("an entry is far smaller").to_be_bytes());
    out.extend_from_slice(&digest(entry)[..4]);
    out.extend_from_slice(entry);
}

/// What the segments hold, one behind the other.
pub(super) struct Replayed {
    /// Index of the first entry.
    pub(super) first: u64,
    pub(super) entries: Vec<Bytes>,
    pub(super) segments: Vec<PathBuf>,
    /// Where the last segment ends with a whole frame.
    len: u64,
    /// Whether something behind that is no frame.
    pub(super) torn: bool,
}

/// Reads the segments; none if there are none.
///
/// # Errors
/// [`LogError::Damaged`] if a frame before the last segment's end is no frame, or a segment is missing.
pub(super) fn replay(dir: &Path) -> Result<Option<Replayed>, LogError> {
    let unavailable = |why: io::Error| LogError::unavailable(dir, &why);
    let journal = dir.join("journal");
    let mut segments: Vec<(u64, PathBuf)> = Vec::new();
    match std::fs::read_dir(&journal) {
        Ok(names) => {
            for name in names {
                let path = name.map_err(unavailable)?.path();
                let first = path.file_name().and_then(|name| name.to_str());
                let first = first.filter(|name| name.len() == 16).and_then(|name| u64::from_str_radix(name, 16).ok());
                segments.extend(first.map(|first| (first, path)));
            }
        }
        Err(why) if why.kind() == io::ErrorKind::NotFound => {}
        Err(why) => return Err(unavailable(why)),
    }
    segments.sort();
    // Begun and not used: the one before went on, whether it is still there or not. Only the last one may be empty.
    let last = segments.pop();
    segments.retain(|(_, path)| std::fs::metadata(path).is_ok_and(|found| found.len() > 0));
    segments.extend(last);
    let Some(&(first, _)) = segments.first() else { return Ok(None) };
    let mut replayed = Replayed { first, entries: Vec::new(), segments: Vec::new(), len: 0, torn: false };
    for (begin, path) in segments {
        let next = first + replayed.entries.len() as u64;
        if begin != next && std::fs::metadata(&path).is_ok_and(|found| found.len() == 0) {
            continue;
        }
        if replayed.torn || begin != next {
            return Err(LogError::damaged(dir, next, "the journal breaks off there, and goes on behind"));
        }
        let bytes = std::fs::read(&path).map_err(unavailable)?;
        let whole = read_frames(&bytes, &mut replayed.entries);
        replayed.len = whole as u64;
        replayed.torn = whole < bytes.len();
        replayed.segments.push(path);
    }
    Ok(Some(replayed))
}

impl Replayed {
    pub(super) fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// The last segment, to be appended to.
    pub(super) fn resume(&self) -> io::Result<Segment> {
        Segment::resume(self.segments.last().cloned().unwrap_or_default(), self.len)
    }
}

/// Reads whole frames; answers where they end.
pub(super) fn read_frames(bytes: &[u8], entries: &mut Vec<Bytes>) -> usize {
    let mut at = 0;
    while let Some(head) = bytes.get(at..at + HEAD) {
        let length = u32::from_be_bytes(head[..4].try_into().expect("4 bytes")) as usize;
        let Some(entry) = bytes.get(at + HEAD..at + HEAD + length).filter(|_| (1..=ENTRY_MAX).contains(&length)) else {
            break;
        };
        if digest(entry)[..4] != head[4..] {
            break;
        }
        entries.push(entry.into());
        at += HEAD + length;
    }
    at
}

/// Reads a bundle of entries; none if it is not 256 of them and nothing else.
pub(super) fn read_bundle(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut entries = Vec::new();
    let mut rest = bytes;
    while let Some((length, tail)) = rest.split_first_chunk::<2>() {
        let (entry, tail) = tail.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        entries.push(entry);
        rest = tail;
    }
    (rest.is_empty()).then_some(entries)
}

/// The bytes of a bundle.
pub(super) fn write_bundle<'a>(entries: impl IntoIterator<Item = &'a Bytes>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        bytes.extend_from_slice(&u16::try_from(entry.len()).expect("checked when it was appended").to_be_bytes());
        bytes.extend_from_slice(entry);
    }
    bytes
}
