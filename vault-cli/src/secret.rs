//! Secrets on their way in and out: API token files and passphrases, zeroized after use and never printed.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::exit::Failure;
use crate::output::Ui;

/// No passphrase or API token is longer than this, in bytes; a larger file is surely the wrong one.
const MAX_SECRET: u64 = 4096;
const CREDENTIAL: &str = "udv-passphrase";

/// Reads an API token from its file, warning when other users of the machine could read it too.
pub(crate) fn read_token(path: &Path, ui: &Ui) -> Result<Zeroizing<String>, Failure> {
    let token = read_file(path)?;
    if fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o077 != 0) {
        ui.warn(&format!("{} can be read by others; close it with: chmod 600 {0}", path.display()));
    }
    let token = Zeroizing::new(token.trim().to_owned());
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Failure::failed(format!("{} holds no API token", path.display())));
    }
    Ok(token)
}

/// The passphrase: from the named file (`-` is standard input), the service's credential, or a hidden prompt.
pub(crate) fn read_passphrase(file: Option<&Path>) -> Result<Zeroizing<String>, Failure> {
    let text = match file {
        Some(path) if path == Path::new("-") => read_all(io::stdin().lock(), "standard input")?,
        Some(path) => read_file(path)?,
        None => match credential() {
            Some(path) => read_file(&path)?,
            None if io::stdin().is_terminal() => Zeroizing::new(rpassword::prompt_password("Passphrase: ")?),
            None => {
                return Err(Failure::usage("there is no terminal to ask for the passphrase")
                    .hint("give --passphrase-file FILE (- for standard input), or --configured-key"));
            }
        },
    };
    let passphrase = without_line_end(&text);
    if passphrase.is_empty() {
        return Err(Failure::usage("the passphrase is empty"));
    }
    Ok(Zeroizing::new(passphrase.to_owned()))
}

/// A passphrase that is made up now, typed twice.
pub(crate) fn new_passphrase() -> Result<Zeroizing<String>, Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage("there is no terminal to ask for the new passphrase")
            .hint("give --passphrase-file FILE (- for standard input)"));
    }
    let first = Zeroizing::new(rpassword::prompt_password("New passphrase of the vault: ")?);
    let second = Zeroizing::new(rpassword::prompt_password("The same again: ")?);
    if *first != *second {
        return Err(Failure::failed("the two passphrases differ: nothing was changed, start again"));
    }
    Ok(first)
}

/// Opens a new file that only its owner can read; an existing one is never overwritten.
pub(crate) fn create_private(path: &Path) -> Result<File, Failure> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| Failure::failed(format!("cannot create {}: {error}", path.display())))
}

/// Writes a secret and a line end, and makes sure it is on disk.
pub(crate) fn write_private(file: &mut File, secret: &str) -> io::Result<()> {
    file.write_all(secret.as_bytes())?;
    file.write_all(b"\n")?;
    file.sync_all()
}

/// Makes sure that the name of a file is on disk as well.
pub(crate) fn sync_name(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

/// A secret of one line from standard input.
pub(crate) fn read_line() -> Result<Zeroizing<String>, Failure> {
    let text = read_all(io::stdin().lock(), "standard input")?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

fn credential() -> Option<PathBuf> {
    let path = Path::new(&env::var_os("CREDENTIALS_DIRECTORY")?).join(CREDENTIAL);
    path.exists().then_some(path)
}

fn read_file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let file = File::open(path).map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))?;
    read_all(file, &path.display().to_string())
}

fn read_all(source: impl Read, name: &str) -> Result<Zeroizing<String>, Failure> {
    // Reserved at once, so that growing leaves no copies behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_SECRET as usize + 1));
    source
        .take(MAX_SECRET + 1)
        .read_to_string(&mut text)
        .map_err(|error| Failure::failed(format!("cannot read {name}: {error}")))?;
    if text.len() as u64 > MAX_SECRET {
        return Err(Failure::failed(format!("{name} is too long for a secret (over {MAX_SECRET} bytes)")));
    }
    Ok(text)
}

/// Editors and `echo` end a file with one line end that is not part of the secret.
fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_one_line_end_is_dropped_from_a_passphrase() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("passphrase");
        for (text, passphrase) in [
            ("horse staple \n", "horse staple "),
            ("horse staple\r\n", "horse staple"),
            ("two\n\n", "two\n"),
            ("plain", "plain"),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(*read_passphrase(Some(&path)).unwrap(), passphrase);
        }
        fs::write(&path, "\n").unwrap();
        assert_eq!(read_passphrase(Some(&path)).unwrap_err().exit as u8, 2);
    }

    #[test]
    fn a_file_that_cannot_be_a_secret_is_refused_without_showing_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        fs::write(&path, "x".repeat(5000)).unwrap();
        let failure = read_passphrase(Some(&path)).unwrap_err();
        assert!(!failure.message.contains("xxxx"), "{failure}");
    }

    #[test]
    fn a_private_file_is_for_its_owner_and_never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.token");
        let mut file = create_private(&path).unwrap();
        write_private(&mut file, "udv_example").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&path).unwrap(), "udv_example\n");
        assert!(create_private(&path).is_err());
    }
}
