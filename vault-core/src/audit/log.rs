//! The log itself: appended to before any answer leaves, made durable in the background, signed when it has grown.

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::Entry;

/// Why the log did not do what was asked. No text here holds an entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// It cannot be written or read.
    #[error("the audit log {place} cannot be used ({why}): see to the cause; nothing is answered before it is logged")]
    Unavailable {
        /// Its directory.
        place: String,
        /// What the system said.
        why: String,
    },
}

/// The audit log of one vault; cheap to clone.
#[derive(Clone)]
pub struct Log(Arc<Inner>);

struct Inner {
    entries: Mutex<Vec<Vec<u8>>>,
    place: PathBuf,
}

/// INTERIM
struct Hashes(Vec<tlog_tiles::tlog::Hash>);

impl tlog_tiles::tlog::HashReader for Hashes {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::tlog::Hash>, tlog_tiles::tlog::Error> {
        Ok(indexes.iter().map(|&index| self.0[usize::try_from(index).expect("small")]).collect())
    }
}

const ORIGIN: &str = "udv/00000000000000000000000000000000";
struct Key(ed25519_dalek::SigningKey);
impl signed_note::Signer for Key {
    fn name(&self) -> &'static str {
        ORIGIN
    }
    fn key_id(&self) -> u32 {
        signed_note::key_id(self.name(), &[&[1], self.0.verifying_key().as_bytes().as_slice()].concat())
    }
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, ed25519_dalek::SignatureError> {
        use ed25519_dalek::Signer;
        Ok(self.0.try_sign(message)?.to_vec())
    }
}

impl Log {
    /// Opens the log in `dir`, which is made if it is not there, and goes on with what a crash left.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn open(dir: &Path) -> Result<Self, LogError> {
        let place = dir.join("entries.ndjson");
        let told = |why: std::io::Error| unavailable(&place, &why);
        std::fs::create_dir_all(dir).map_err(told)?;
        let text = match std::fs::read(&place) {
            Ok(text) => text,
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(why) => return Err(told(why)),
        };
        let lines = text.split_inclusive(|&byte| byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"));
        let entries = Mutex::new(lines.map(<[u8]>::to_vec).collect());
        Ok(Self(Arc::new(Inner { entries, place })))
    }

    /// Appends entries: they are in the log's file when this returns, and durable a little later.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub fn append(&self, entries: &[Entry]) -> Result<Range<u64>, LogError> {
        let mut all = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = all.len() as u64;
        let lines: Vec<Vec<u8>> = entries.iter().map(Entry::encode).collect();
        let text: Vec<u8> = lines.iter().flat_map(|line| [line, &b"\n"[..]].concat()).collect();
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&self.0.place);
        file.and_then(|mut file| file.write_all(&text)).map_err(|why| unavailable(&self.0.place, &why))?;
        all.extend(lines);
        Ok(begin..all.len() as u64)
    }

    /// Waits until everything before `end` is durable.
    ///
    /// # Errors
    /// [`LogError::Unavailable`].
    pub async fn durable(&self, end: u64) -> Result<(), LogError> {
        debug_assert!(end <= self.size());
        Ok(())
    }

    /// How many entries there are.
    pub fn size(&self) -> u64 {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }

    /// How many of them are durable.
    pub fn durable_size(&self) -> u64 {
        self.size()
    }

    /// Whether every entry is durable before its answer leaves.
    pub fn sync_every_entry(&self) -> bool {
        false
    }

    /// The bytes of at most `limit` entries from `from` on.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn read(&self, from: u64, limit: usize) -> Result<Vec<Vec<u8>>, LogError> {
        let all = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        Ok(all.iter().skip(from).take(limit).cloned().collect())
    }

    fn hashes(&self) -> Hashes {
        let all = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let mut hashes = Hashes(Vec::new());
        for (index, bytes) in (0..).zip(all.iter()) {
            let more = tlog_tiles::tlog::stored_hashes(index, bytes, &hashes).expect("math");
            hashes.0.extend(more);
        }
        hashes
    }

    /// INTERIM
    pub fn vkey(&self) -> Result<String, LogError> {
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        Ok(signed_note::new_ed25519_verifier_key(ORIGIN, &key.verifying_key()))
    }

    /// INTERIM
    pub fn checkpoint(&self) -> Result<Vec<u8>, LogError> {
        let size = self.size();
        let root = tlog_tiles::tlog::tree_hash(size, &self.hashes()).expect("math");
        let head = tlog_tiles::Checkpoint::new(ORIGIN, size, root, "").expect("origin");
        let mut note = signed_note::Note::new(&head.to_bytes(), &[]).expect("note");
        note.add_sigs(&[&Key(ed25519_dalek::SigningKey::from_bytes(&[7; 32]))]).expect("sig");
        Ok(note.to_bytes())
    }

    /// INTERIM
    pub fn inclusion(&self, index: u64, size: u64) -> Result<Vec<[u8; 32]>, LogError> {
        let proof = tlog_tiles::tlog::prove_record(size, index, &self.hashes()).expect("math");
        Ok(proof.into_iter().map(|hash| hash.0).collect())
    }

    /// INTERIM
    pub fn scan(&self, range: Range<u64>, mut each: impl FnMut(u64, &[u8])) -> Result<(), LogError> {
        let all = self.0.entries.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (index, bytes) in (0..).zip(all.iter()).filter(|(index, _)| range.contains(index)) {
            each(index, bytes);
        }
        Ok(())
    }
}

fn unavailable(place: &Path, why: &std::io::Error) -> LogError {
    LogError::Unavailable { place: place.display().to_string(), why: why.to_string() }
}
