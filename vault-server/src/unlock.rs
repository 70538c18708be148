//! Where unlock keys come from, and the gate that bounds guessing at them.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use vault_core::crypto::passphrase::parse_key_file;
use vault_core::root::{Hsm, HsmPlace, Unlock};
use zeroize::Zeroizing;

use crate::files;

/// What unlocks the vault without anybody at the keyboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A key file.
    KeyFile(PathBuf),
    /// A file with a passphrase.
    PassphraseFile(PathBuf),
    /// Either, as a credential that the service manager hands over.
    Credential(PathBuf),
    /// An HSM token, with its PIN in a file.
    Pkcs11(HsmPlace),
    /// Nothing more: every root slot is in hardware and has its own token.
    Hardware,
}

/// The fewest characters of a passphrase that is made up.
pub(crate) const PASSPHRASE_MIN: usize = 8;
/// The name of the credential, in the directory that systemd names.
const CREDENTIAL: &str = "udv-unlock";

/// Why a source gives no unlock key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("{path} cannot be read ({why}): it is what unlocks the vault; put it back, or correct its path")]
    Unreadable { path: String, why: std::io::Error },
    #[error("{path} is not a key file: its one line starts with `udv-unlock-key-1:`")]
    NotAKey { path: String },
    #[error("{path} is empty: write the passphrase into it, on one line")]
    Empty { path: String },
}

impl Source {
    /// The credential of the service manager, if there is one.
    pub(crate) fn credential() -> Option<Self> {
        let path = PathBuf::from(std::env::var_os("CREDENTIALS_DIRECTORY")?).join(CREDENTIAL);
        path.exists().then_some(Self::Credential(path))
    }

    /// Reads the unlock key.
    ///
    /// # Errors
    /// [`SourceError`], which names the file.
    pub(crate) fn read(&self) -> Result<Unlock, SourceError> {
        match self {
            Self::KeyFile(path) => key(&secret(path)?, path),
            Self::PassphraseFile(path) => passphrase(secret(path)?, path),
            Self::Credential(path) => {
                let text = secret(path)?;
                key(&text, path).or_else(|_| passphrase(text, path))
            }
            Self::Pkcs11(place) => Ok(Unlock::Pkcs11(Hsm::new(place.clone()))),
            Self::Hardware => Ok(Unlock::Hardware),
        }
    }
}

fn secret(path: &Path) -> Result<Zeroizing<String>, SourceError> {
    files::read_secret(path).map_err(|why| SourceError::Unreadable { path: path.display().to_string(), why })
}

fn key(text: &str, path: &Path) -> Result<Unlock, SourceError> {
    parse_key_file(text).map(Unlock::KeyFile).map_err(|_| SourceError::NotAKey { path: path.display().to_string() })
}

fn passphrase(text: Zeroizing<String>, path: &Path) -> Result<Unlock, SourceError> {
    let line = text.trim_end_matches(['\r', '\n']);
    if line.is_empty() {
        return Err(SourceError::Empty { path: path.display().to_string() });
    }
    Ok(Unlock::Passphrase(Zeroizing::new(line.to_owned())))
}

/// Wrong passphrases that are let through in one [`WINDOW`].
const WRONG_MAX: usize = 5;
const WINDOW: Duration = Duration::from_secs(60);

/// Bounds guessing: one attempt runs at a time, for each takes much memory, and after some wrong ones all wait.
#[derive(Default)]
pub(crate) struct Gate {
    turn: tokio::sync::Mutex<()>,
    wrong: Mutex<Vec<Instant>>,
}

impl Gate {
    /// A turn to try; otherwise the seconds after which to come again.
    pub(crate) fn enter(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, u64> {
        let turn = self.turn.try_lock().map_err(|_| 1u64)?;
        match self.wait(Instant::now()) {
            Some(wait) => Err(wait.as_secs() + 1),
            None => Ok(turn),
        }
    }

    /// Remembers a wrong attempt.
    pub(crate) fn wrong(&self) {
        self.wrong_at(Instant::now());
    }

    fn wrong_at(&self, now: Instant) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(now);
    }

    fn wait(&self, now: Instant) -> Option<Duration> {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        wrong.retain(|&at| now.duration_since(at) < WINDOW);
        let oldest = wrong.first().filter(|_| wrong.len() >= WRONG_MAX)?;
        Some(WINDOW.saturating_sub(now.duration_since(*oldest)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn some_wrong_attempts_close_the_gate_for_a_while() {
        let gate = Gate::default();
        let now = Instant::now();
        for _ in 0..WRONG_MAX {
            assert_eq!(gate.wait(now), None);
            gate.wrong_at(now);
        }
        assert_eq!(gate.wait(now), Some(WINDOW));
        assert_eq!(gate.wait(now + WINDOW), None);
    }

    #[test]
    fn one_attempt_at_a_time() {
        let gate = Gate::default();
        let turn = gate.enter().unwrap();
        assert_eq!(gate.enter().err(), Some(1));
        drop(turn);
        assert!(gate.enter().is_ok());
    }

    #[test]
    fn sources_say_what_is_wrong_with_their_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        assert!(matches!(Source::KeyFile(path.clone()).read(), Err(SourceError::Unreadable { .. })));
        std::fs::write(&path, "correct horse\n").unwrap();
        assert!(matches!(Source::KeyFile(path.clone()).read(), Err(SourceError::NotAKey { .. })));
        let Ok(Unlock::Passphrase(text)) = Source::Credential(path.clone()).read() else { panic!("a passphrase") };
        assert_eq!(*text, "correct horse");
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(Source::PassphraseFile(path.clone()).read(), Err(SourceError::Empty { .. })));
        std::fs::write(&path, &*vault_core::crypto::passphrase::new_key_file().1).unwrap();
        assert!(matches!(Source::Credential(path).read(), Ok(Unlock::KeyFile(_))));
    }
}
