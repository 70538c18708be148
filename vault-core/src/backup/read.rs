//! Reading an archive on a thread of its own, piece by piece: strict in order, names, digests and sums.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::age::Identities;
use super::{BackupError, FORMAT, INFO, Info, MANIFEST, Manifest};
use crate::crypto::digest;
use crate::store::{Row, VALUE_MAX};

/// The largest entry of an archive, in bytes.
const ENTRY_MAX: u64 = 64 * 1024 * 1024;
/// The longest key of a row, in bytes.
const KEY_MAX: usize = 1024;

/// A piece of an archive, in the order in which they come: what it is, its chunks, and at the end that it is whole.
pub(crate) enum Piece {
    /// What it says of itself; always first.
    Info(Info),
    /// Rows.
    Rows(Vec<Row>),
    /// Keys of rows that are there no more.
    Gone(Vec<Vec<u8>>),
    /// All of it was there; always last.
    Whole,
}

/// The pieces of one archive. Rows given out before [`Piece::Whole`] came are not yet known to be all.
pub(crate) struct Pieces(mpsc::Receiver<Result<Piece, BackupError>>);

impl Pieces {
    /// Begins to read.
    pub(crate) fn of(path: &Path, identities: &Arc<Identities>) -> Self {
        let (sender, receiver) = mpsc::channel(2);
        let (path, identities) = (path.to_owned(), identities.clone());
        // Ends by itself when nobody listens any more.
        drop(tokio::task::spawn_blocking(move || {
            let mut give = |piece| sender.blocking_send(Ok(piece)).is_ok();
            if let Err(error) = read(&path, &identities, &mut give) {
                let _ = sender.blocking_send(Err(error));
            }
        }));
        Self(receiver)
    }

    /// The next piece; none behind the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Piece>, BackupError> {
        self.0.recv().await.transpose()
    }
}

/// Reads on while `give` answers true.
fn read(path: &PathBuf, identities: &Identities, give: &mut dyn FnMut(Piece) -> bool) -> Result<(), BackupError> {
    let shown = path.display().to_string();
    let file = File::open(path).map_err(|why| BackupError::File { path: shown.clone(), why })?;
    let opened = identities.open(BufReader::with_capacity(1 << 20, file), &shown)?;
    entries(opened, give).map_err(|why| BackupError::Unsound { path: shown, why })
}

fn entries(opened: Box<dyn Read + '_>, give: &mut dyn FnMut(Piece) -> bool) -> Result<(), String> {
    let cut = |_: std::io::Error| "it is cut short or changed".to_owned();
    let mut archive = tar::Archive::new(opened);
    let mut seen = Seen::default();
    for entry in archive.entries().map_err(cut)? {
        let mut entry = entry.map_err(cut)?;
        let size = entry.header().size().map_err(cut)?;
        if size > ENTRY_MAX || !entry.header().entry_type().is_file() {
            return Err("it has an entry that does not belong into it".to_owned());
        }
        let name = String::from_utf8(entry.path_bytes().into_owned()).map_err(|_| "a name in it is none".to_owned())?;
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        entry.read_to_end(&mut bytes).map_err(cut)?;
        if bytes.len() as u64 != size {
            return Err("it is cut short".to_owned());
        }
        if !give(seen.piece(&name, &bytes)?) {
            return Ok(());
        }
    }
    if !seen.ended {
        return Err("it is cut short: its manifest is missing".to_owned());
    }
    // To the very end, for only that shows that nothing was cut off or added.
    let mut rest = Vec::new();
    archive.into_inner().take(1 << 20).read_to_end(&mut rest).map_err(cut)?;
    if rest.iter().any(|&byte| byte != 0) {
        return Err("something follows its end".to_owned());
    }
    Ok(())
}

/// What has come so far.
#[derive(Default)]
struct Seen {
    begun: bool,
    ended: bool,
    sums: Vec<(String, [u8; 32])>,
    digests: Vec<u8>,
    chunks: [u32; 2],
    rows: u64,
    gone: u64,
    bytes: u64,
}

impl Seen {
    fn piece(&mut self, name: &str, bytes: &[u8]) -> Result<Piece, String> {
        if self.ended || self.begun == (name == INFO) {
            return Err(format!("its entry {name} is out of order"));
        }
        match name {
            INFO => {
                self.begun = true;
                let info: Info = serde_json::from_slice(bytes).map_err(|_| "it does not say what it is".to_owned())?;
                if info.format != FORMAT {
                    return Err(format!("it has format {}; this program reads format {FORMAT}", info.format));
                }
                Ok(Piece::Info(info))
            }
            MANIFEST => {
                self.ended = true;
                let manifest: Manifest =
                    serde_json::from_slice(bytes).map_err(|_| "its manifest is none".to_owned())?;
                self.compare(&manifest).map(|()| Piece::Whole)
            }
            _ => self.chunk(name, bytes),
        }
    }

    fn chunk(&mut self, name: &str, bytes: &[u8]) -> Result<Piece, String> {
        let at = usize::from(name.starts_with("gone/"));
        self.chunks[at] += 1;
        if name != format!("{}/{:06}", ["rows", "gone"][at], self.chunks[at]) {
            return Err(format!("its entry {name} is out of order"));
        }
        let sum = digest(bytes);
        self.digests.extend_from_slice(&sum);
        self.sums.push((name.to_owned(), sum));
        self.bytes += bytes.len() as u64;
        let broken = || format!("its chunk {name} does not parse");
        if at == 0 {
            let rows = rows(bytes).ok_or_else(broken)?;
            self.rows += rows.len() as u64;
            Ok(Piece::Rows(rows))
        } else {
            let gone = keys(bytes).ok_or_else(broken)?;
            self.gone += gone.len() as u64;
            Ok(Piece::Gone(gone))
        }
    }

    fn compare(&self, manifest: &Manifest) -> Result<(), String> {
        let chunks = manifest.chunks.iter().map(|chunk| (&chunk.name, &chunk.sha256));
        let found = self.sums.iter().map(|(name, sum)| (name, hex::encode(sum)));
        let same = chunks.len() == found.len() && chunks.zip(found).all(|(a, b)| a.0 == b.0 && *a.1 == b.1);
        let counts = (manifest.rows, manifest.gone, manifest.bytes) == (self.rows, self.gone, self.bytes);
        let whole = manifest.sha256 == hex::encode(digest(&self.digests));
        if same && counts && whole && manifest.format == FORMAT {
            Ok(())
        } else {
            Err("what is in it is not what its manifest says".to_owned())
        }
    }
}

fn rows(mut bytes: &[u8]) -> Option<Vec<Row>> {
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        rows.push((take(&mut bytes, KEY_MAX)?, take(&mut bytes, VALUE_MAX)?));
    }
    Some(rows)
}

fn keys(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut keys = Vec::new();
    while !bytes.is_empty() {
        keys.push(take(&mut bytes, KEY_MAX)?);
    }
    Some(keys)
}

fn take(bytes: &mut &[u8], most: usize) -> Option<Vec<u8>> {
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let len = usize::try_from(u32::from_be_bytes(*len)).ok().filter(|len| *len <= most)?;
    let (taken, rest) = rest.split_at_checked(len)?;
    *bytes = rest;
    Some(taken.to_vec())
}
