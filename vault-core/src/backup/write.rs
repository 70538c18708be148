//! Writing an archive: rows go in one by one, encrypted bytes come out to be taken away.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use super::age::{Recipients, Sealing};
use super::{BackupError, CHUNK_BYTES, ChunkSum, FORMAT, INFO, Info, MANIFEST, Manifest};
use crate::crypto::digest;

/// An archive in the making. Dropped before [`Archive::finish`] it is one that no reader takes.
pub(crate) struct Archive {
    tar: tar::Builder<Sealing<Spool>>,
    spool: Spool,
    rows: Chunk,
    gone: Chunk,
    digests: Vec<u8>,
    manifest: Manifest,
    modified: u64,
}

/// A chunk that is not full yet.
struct Chunk {
    of: &'static str,
    written: u32,
    bytes: Vec<u8>,
}

impl Archive {
    /// Begins an archive with what it says of itself.
    ///
    /// # Errors
    /// None that depends on a disk: everything is written to memory.
    pub(crate) fn new(recipients: &Recipients, info: &Info) -> Result<Self, BackupError> {
        let spool = Spool::default();
        let tar = tar::Builder::new(recipients.seal(spool.clone())?);
        let chunk = |of| Chunk { of, written: 0, bytes: Vec::new() };
        let mut archive = Self {
            tar,
            spool,
            rows: chunk("rows"),
            gone: chunk("gone"),
            digests: Vec::new(),
            manifest: Manifest { format: FORMAT, ..Manifest::default() },
            modified: info.created_at.0 / 1000,
        };
        let info = serde_json::to_vec_pretty(info).map_err(|error| BackupError::Sink(error.into()))?;
        archive.entry(INFO, &info)?;
        Ok(archive)
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), BackupError> {
        put(&mut self.rows.bytes, key);
        put(&mut self.rows.bytes, value);
        self.manifest.rows += 1;
        self.close_full(false)
    }

    /// Adds the key of a row that is there no more.
    pub(crate) fn gone(&mut self, key: &[u8]) -> Result<(), BackupError> {
        put(&mut self.gone.bytes, key);
        self.manifest.gone += 1;
        self.close_full(false)
    }

    /// The encrypted bytes so far, to be taken away.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.spool.take()
    }

    /// Ends the archive; the last bytes, and what it holds.
    pub(crate) fn finish(mut self) -> Result<(Vec<u8>, Manifest), BackupError> {
        self.close_full(true)?;
        self.manifest.sha256 = hex::encode(digest(&self.digests));
        let manifest = serde_json::to_vec_pretty(&self.manifest).map_err(|error| BackupError::Sink(error.into()))?;
        self.entry(MANIFEST, &manifest)?;
        let ended = self.tar.into_inner().and_then(Sealing::finish);
        ended.map_err(BackupError::Sink)?;
        Ok((self.spool.take(), self.manifest))
    }

    fn close_full(&mut self, last: bool) -> Result<(), BackupError> {
        for chunk in [&mut self.rows, &mut self.gone] {
            if chunk.bytes.len() >= if last { 1 } else { CHUNK_BYTES } {
                chunk.written += 1;
                let name = format!("{}/{:06}", chunk.of, chunk.written);
                let bytes = std::mem::take(&mut chunk.bytes);
                let sum = digest(&bytes);
                self.digests.extend_from_slice(&sum);
                self.manifest.bytes += bytes.len() as u64;
                self.manifest.chunks.push(ChunkSum { name: name.clone(), sha256: hex::encode(sum) });
                append(&mut self.tar, self.modified, &name, &bytes)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, name: &str, bytes: &[u8]) -> Result<(), BackupError> {
        append(&mut self.tar, self.modified, name, bytes)
    }
}

fn append(tar: &mut tar::Builder<Sealing<Spool>>, modified: u64, name: &str, bytes: &[u8]) -> Result<(), BackupError> {
    let mut header = tar::Header::new_ustar();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o600);
    header.set_mtime(modified);
    tar.append_data(&mut header, name, bytes).map_err(BackupError::Sink)
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("keys and values of rows are at most 64 KiB");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Where the encrypted bytes lie until they are taken.
#[derive(Clone, Default)]
struct Spool(Arc<Mutex<Vec<u8>>>);

impl Spool {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
