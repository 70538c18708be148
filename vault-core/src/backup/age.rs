//! The only file that names the age crate: archives are encrypted to recipients and opened with identities.

use std::io::{BufRead, Read, Write};
use std::path::Path;

use age::stream::StreamWriter;
use age::x25519;
use age::{DecryptError, Decryptor, Encryptor};
use zeroize::Zeroizing;

use super::BackupError;

/// Whom an archive is encrypted to.
#[derive(Clone)]
pub struct Recipients(Vec<x25519::Recipient>);

/// Secret keys that open archives.
pub struct Identities(Vec<x25519::Identity>);

/// Encrypts what is written to it; the last bytes come with [`Sealing::finish`].
pub(super) struct Sealing<W: Write>(StreamWriter<W>);

impl Recipients {
    /// Reads recipients (`age1…`).
    ///
    /// # Errors
    /// [`BackupError::Recipient`] names one that is none; [`BackupError::NoRecipient`] if there is none.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, BackupError> {
        if texts.is_empty() {
            return Err(BackupError::NoRecipient);
        }
        let parse = |text: &T| {
            let text = text.as_ref().trim();
            text.parse().map_err(|_| BackupError::Recipient(text.chars().take(80).collect()))
        };
        Ok(Self(texts.iter().map(parse).collect::<Result<_, _>>()?))
    }

    pub(super) fn seal<W: Write>(&self, output: W) -> Result<Sealing<W>, BackupError> {
        let encryptor = Encryptor::with_recipients(self.0.iter().map(|recipient| recipient as &dyn age::Recipient));
        let encryptor = encryptor.map_err(|_| BackupError::NoRecipient)?;
        encryptor.wrap_output(output).map(Sealing).map_err(BackupError::Sink)
    }
}

impl Identities {
    /// Reads a file of age identities, as `age-keygen` writes it.
    ///
    /// # Errors
    /// [`BackupError::File`], [`BackupError::Identity`].
    pub fn read(path: &Path) -> Result<Self, BackupError> {
        let shown = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|why| BackupError::File { path: shown.clone(), why })?;
        Self::parse(&Zeroizing::new(text)).ok_or(BackupError::Identity(shown))
    }

    /// Reads identities, one to a line; `None` if there is none, or a line is neither one nor a comment.
    pub fn parse(text: &str) -> Option<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let identities: Vec<x25519::Identity> = lines.map(|line| line.parse().ok()).collect::<Option<_>>()?;
        (!identities.is_empty()).then_some(Self(identities))
    }

    /// A fresh identity, and the recipient to it.
    #[cfg(test)]
    pub(crate) fn draw() -> (Self, Recipients) {
        let identity = x25519::Identity::generate();
        let recipient = identity.to_public();
        (Self(vec![identity]), Recipients(vec![recipient]))
    }

    /// Decrypts; reading on tells a changed byte or a cut as an error.
    pub(super) fn open<'r>(&self, input: impl BufRead + 'r, path: &str) -> Result<Box<dyn Read + 'r>, BackupError> {
        let unsound = |error: DecryptError| match error {
            DecryptError::NoMatchingKeys => BackupError::NotForUs { path: path.to_owned() },
            _ => BackupError::Unsound {
                path: path.to_owned(),
                why: "it is cut short, changed, or no age file".to_owned(),
            },
        };
        let decryptor = Decryptor::new_buffered(input).map_err(unsound)?;
        let identities = self.0.iter().map(|identity| identity as &dyn age::Identity);
        Ok(Box::new(decryptor.decrypt(identities).map_err(unsound)?))
    }
}

impl<W: Write> Sealing<W> {
    /// Writes the end; without it the archive does not open.
    pub(super) fn finish(self) -> std::io::Result<W> {
        self.0.finish()
    }
}

impl<W: Write> Write for Sealing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Shows how many there are.
impl std::fmt::Debug for Recipients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recipients({})", self.0.len())
    }
}

/// Shows how many there are.
impl std::fmt::Debug for Identities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identities({})", self.0.len())
    }
}
