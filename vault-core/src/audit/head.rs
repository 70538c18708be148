//! The signed head: a C2SP checkpoint, signed with Ed25519 as a C2SP signed note, and the history of the keys that sign.
//!
//! ```text
//! checkpoint          the last one
//! keys/<size>.note    one for each change of the key: the head at that size with one more line, `next <verifier key>`,
//!                     signed by the old and by the new key
//! ```
//! The log's origin, and the name of its keys, is `udv/` and the vault's id.

use std::io;
use std::path::Path;

use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::Checkpoint;
use tlog_tiles::tlog::Hash;

use super::error::LogError;
use super::files;
use super::log::{Inner, Log};
use super::tree::{Tree, TreeHead};
use crate::crypto::LogKey;
use crate::ids::VaultId;

/// The longest note that is read, in bytes.
pub(super) const NOTE_MAX: u64 = 64 * 1024;
/// Begins the line that names the next key.
const NEXT: &str = "next ";

/// What is signed, and by whom.
pub(super) struct Head {
    signer: Option<Signer>,
    /// The last note, and what it speaks of.
    last: Option<Signed>,
}

/// A note that was read or made.
#[derive(Clone)]
struct Signed {
    note: Vec<u8>,
    size: u64,
    root: [u8; 32],
}

/// A key with its name.
struct Signer {
    name: String,
    key: LogKey,
}

impl Head {
    /// Reads the last note; whether its signature holds is a question for whoever has its key from elsewhere.
    pub(super) fn open(dir: &Path) -> Result<Self, LogError> {
        let last = match files::read(&dir.join("checkpoint"), NOTE_MAX) {
            Ok(note) => Some(read_note(note).ok_or_else(|| LogError::damaged(dir, 0, "its checkpoint is malformed"))?),
            Err(why) if why.kind() == io::ErrorKind::NotFound => None,
            Err(why) => return Err(LogError::unavailable(dir, &why)),
        };
        Ok(Self { signer: None, last })
    }

    /// How many entries were signed.
    pub(super) fn signed_size(&self) -> u64 {
        self.last.as_ref().map_or(0, |signed| signed.size)
    }

    /// Refuses a tree that is not the one that was signed, or its continuation.
    pub(super) fn fits(&self, dir: &Path, tree: &Tree) -> Result<(), LogError> {
        let Some(signed) = &self.last else { return Ok(()) };
        if signed.size > tree.size() {
            return Err(LogError::damaged(dir, tree.size(), "entries that were signed are missing"));
        }
        match tree.root(signed.size) {
            Ok(root) if root == signed.root => Ok(()),
            _ => Err(LogError::damaged(dir, signed.size, "its entries are not those that were signed")),
        }
    }
}

impl Signer {
    fn vkey(&self) -> String {
        vkey(&self.name, &self.key.public())
    }
}

impl signed_note::Signer for Signer {
    fn name(&self) -> &str {
        &self.name
    }

    fn key_id(&self) -> u32 {
        signed_note::key_id(&self.name, &[&[1], &self.key.public()[..]].concat())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, ed25519_dalek::SignatureError> {
        Ok(self.key.sign(message).to_vec())
    }
}

impl Log {
    /// From here on the log's head is signed with this key.
    ///
    /// # Errors
    /// [`LogError::Damaged`] if it was signed for another vault before; the system's.
    pub fn unlock(&self, vault: VaultId, key: LogKey) -> Result<(), LogError> {
        let inner = self.inner();
        let name = origin(vault);
        let mut head = inner.head();
        if let Some(last) = &head.last
            && !last.note.starts_with(format!("{name}\n").as_bytes())
        {
            return Err(LogError::damaged(&inner.dir, 0, "it is the log of another vault"));
        }
        head.signer = Some(Signer { name, key });
        let first = head.last.is_none();
        drop(head);
        // A log that was never signed looks like one whose head was taken away.
        if first { inner.sign() } else { Ok(()) }
    }

    /// Drops the key.
    pub fn lock(&self) {
        self.inner().head().signer = None;
    }

    /// The signed head over all that is durable: a C2SP checkpoint. While the vault is locked the last one.
    ///
    /// # Errors
    /// [`LogError::Locked`] if there is none yet.
    pub fn checkpoint(&self) -> Result<Vec<u8>, LogError> {
        self.inner().sign()?;
        let head = self.inner().head();
        head.last.as_ref().map(|signed| signed.note.clone()).ok_or(LogError::Locked)
    }

    /// The key that signs, as a C2SP verifier key.
    ///
    /// # Errors
    /// [`LogError::Locked`].
    pub fn vkey(&self) -> Result<String, LogError> {
        self.inner().head().signer.as_ref().map(Signer::vkey).ok_or(LogError::Locked)
    }

    /// The verifier key of a key of this vault's log.
    pub fn vkey_of(vault: VaultId, key: &LogKey) -> String {
        vkey(&origin(vault), &key.public())
    }

    /// Whether the key was changed to this one.
    ///
    /// # Errors
    /// The system's.
    pub fn changed_to(&self, key: &str) -> Result<bool, LogError> {
        Ok(self.key_changes()?.iter().any(|note| next_in(note.as_bytes()).is_some_and(|next| next == key)))
    }

    /// The notes of all changes of the key, oldest first.
    ///
    /// # Errors
    /// The system's.
    pub fn key_changes(&self) -> Result<Vec<String>, LogError> {
        let dir = &self.inner().dir;
        let notes = key_notes(dir).map_err(|why| LogError::unavailable(dir, &why))?;
        let text = |(_, note)| String::from_utf8(note).unwrap_or_default();
        Ok(notes.into_iter().map(text).collect())
    }

    /// Signs the present head with the present key and with the next one, and keeps that note for ever; from here on the
    /// next one signs. Everything must be durable, the entry that tells of the change among it.
    ///
    /// # Errors
    /// [`LogError::Locked`], the system's.
    pub fn change_key(&self, next: LogKey) -> Result<(), LogError> {
        let inner = self.inner();
        let TreeHead { size, root } = inner.present()?;
        let mut head = inner.head();
        let present = head.signer.as_ref().ok_or(LogError::Locked)?;
        let next = Signer { name: present.name.clone(), key: next };
        let told = format!("{NEXT}{}\n", next.vkey());
        let both = note_of(&present.name, size, root, &told, &[present, &next]);
        let path = inner.dir.join("keys").join(format!("{size:016x}.note"));
        files::write_durably(&path, &both, &inner.dir).map_err(|why| LogError::unavailable(&inner.dir, &why))?;
        head.signer = Some(next);
        // The next head is signed by the new key, even if the log has not grown.
        head.last = None;
        drop(head);
        inner.sign()
    }
}

impl Inner {
    fn present(&self) -> Result<TreeHead, LogError> {
        let tree = self.tree();
        tree.head().map_err(|why| LogError::damaged(&self.dir, tree.size(), why))
    }

    /// Signs what is durable and not signed yet, if there is a key.
    pub(super) fn sign(&self) -> Result<(), LogError> {
        let TreeHead { size, root } = self.present()?;
        let mut head = self.head();
        let Some(signer) = &head.signer else { return Ok(()) };
        if head.last.as_ref().is_some_and(|signed| signed.size >= size) {
            return Ok(());
        }
        let note = note_of(&signer.name, size, root, "", &[signer]);
        let path = self.dir.join("checkpoint");
        files::write_durably(&path, &note, &self.dir).map_err(|why| LogError::unavailable(&self.dir, &why))?;
        head.last = Some(Signed { note, size, root });
        Ok(())
    }
}

/// The origin of a vault's log.
pub(super) fn origin(vault: VaultId) -> String {
    format!("udv/{vault}")
}

fn note_of(name: &str, size: u64, root: [u8; 32], more: &str, signers: &[&Signer]) -> Vec<u8> {
    let head = Checkpoint::new(name, size, Hash(root), more).expect("the origin is not empty, nor a line");
    let mut note = Note::new(&head.to_bytes(), &[]).expect("a checkpoint is a note's text");
    let signers: Vec<&dyn signed_note::Signer> = signers.iter().map(|signer| *signer as _).collect();
    note.add_sigs(&signers).expect("the name of a log is one of a key");
    note.to_bytes()
}

fn read_note(note: Vec<u8>) -> Option<Signed> {
    let (size, root) = told_by(&note)?;
    Some(Signed { note, size, root })
}

/// What a note says of the log, whoever signed it.
pub(super) fn told_by(note: &[u8]) -> Option<(u64, [u8; 32])> {
    let parsed = Note::from_bytes(note).ok()?;
    let head = Checkpoint::from_bytes(parsed.text()).ok()?;
    Some((head.size(), head.hash().0))
}

/// The key that signs from a change of it on, as the note of that says.
pub(super) fn next_in(note: &[u8]) -> Option<String> {
    let parsed = Note::from_bytes(note).ok()?;
    let head = Checkpoint::from_bytes(parsed.text()).ok()?;
    let next = head.extension().strip_prefix(NEXT)?.strip_suffix('\n')?;
    Some(next.to_owned())
}

/// Whether these keys signed a note, each of them, as keys of the very log that it speaks of.
pub(super) fn signed_by(note: &[u8], keys: &[&str]) -> bool {
    let Ok(note) = Note::from_bytes(note) else { return false };
    let of_log = |key: &str| {
        let named = key.split_once('+').map(|(name, _)| format!("{name}\n"));
        named.is_some_and(|named| note.text().starts_with(named.as_bytes()))
    };
    keys.iter().all(|key| {
        if !of_log(key) {
            return false;
        }
        let verifier = StandardVerifier::new(key).map(|verifier| VerifierList::new(vec![Box::new(verifier)]));
        verifier.is_ok_and(|known| note.verify(&known).is_ok())
    })
}

/// The notes of all changes of the key, by the size that they were made at.
pub(super) fn key_notes(dir: &Path) -> io::Result<Vec<(u64, Vec<u8>)>> {
    let mut notes = Vec::new();
    let names = match std::fs::read_dir(dir.join("keys")) {
        Ok(names) => names,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(notes),
        Err(why) => return Err(why),
    };
    for name in names {
        let path = name?.path();
        let size = path.file_stem().and_then(|name| name.to_str()).and_then(|name| u64::from_str_radix(name, 16).ok());
        if let Some(size) = size.filter(|_| path.extension().is_some_and(|extension| extension == "note")) {
            notes.push((size, files::read(&path, NOTE_MAX)?));
        }
    }
    notes.sort();
    Ok(notes)
}

/// The text of a verifier key.
pub(super) fn vkey(name: &str, public: &[u8; 32]) -> String {
    let key = ed25519_dalek::VerifyingKey::from_bytes(public).expect("a public key of our own");
    signed_note::new_ed25519_verifier_key(name, &key)
}
