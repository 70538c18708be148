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

/// The archive behind the encryption, and a chunk of one.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn decode_again(bytes: &[u8]) -> bool {
    let mut whole = false;
    let outcome = entries(Box::new(bytes), &mut |piece| {
        whole = matches!(piece, Piece::Whole);
        true
    });
    assert!(outcome.is_err() || whole, "it is taken, and its end did not come");
    let put = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.extend_from_slice(&u32::try_from(bytes.len()).expect("checked").to_be_bytes());
        out.extend_from_slice(bytes);
    };
    let mut again = Vec::new();
    let mut decodes = outcome.is_ok();
    if let Some(rows) = rows(bytes) {
        decodes = true;
        rows.iter().for_each(|(key, value)| {
            put(&mut again, key);
            put(&mut again, value);
        });
        assert_eq!(again, bytes);
    }
    again.clear();
    if let Some(keys) = keys(bytes) {
        decodes = true;
        keys.iter().for_each(|key| put(&mut again, key));
        assert_eq!(again, bytes);
    }
    decodes
}

/// An archive as it is before it is encrypted, the same encrypted, and a chunk.
#[cfg(test)]
pub(crate) fn archives() -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    use super::age::Recipients;
    use super::write::Archive;
    use super::{Info, Plane};
    use crate::time::Timestamp;

    let recipients = Recipients::parse(&["age1jw3f2f3gu0ctl2dmj9a3y30vuzes0zg8ytf5xl4rjhx8ejq5yykq8t8ltn"]);
    let info = Info {
        format: FORMAT,
        id: [1; 16],
        vault: [7; 16],
        plane: Plane::Data,
        epoch: 3,
        sequence: None,
        schema_version: None,
        created_at: Timestamp(1_700_000_000_000),
        base: Some([2; 16]),
    };
    let mut archive = Archive::new(&recipients.expect("a recipient"), &info).expect("memory");
    archive.row(b"d1", b"value").expect("memory");
    archive.gone(b"d2").expect("memory");
    let sealed = archive.finish().expect("memory").0;
    let identities =
        super::Identities::parse("AGE-SECRET-KEY-1CFUMK54QNFP5NE03LCA42M7FW4CKHKV3RHXJ3L2UHGU25V6D3QQQ4UD367");
    let mut plain = Vec::new();
    let opened =
        identities.expect("an identity").open(&sealed[..], "it").map(|mut opened| opened.read_to_end(&mut plain));
    assert!(matches!(opened, Ok(Ok(_))));
    let chunk = [&4_u32.to_be_bytes()[..], b"key1", &3_u32.to_be_bytes(), b"val"].concat();
    (vec![plain, chunk], vec![sealed])
}
