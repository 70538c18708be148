//! What takes the place of the present unlock keys while the vault serves: each way to unlock gets another key.
//!
//! What the server itself has a place for, it replaces by itself: the key file or passphrase file that it is configured with,
//! its HSM token. A passphrase that is typed and a key file that is kept elsewhere, a person sends. For anything else there is
//! `vault-server unlock-key`.

use std::io;
use std::path::PathBuf;

use vault_core::crypto::passphrase::{Cost, new_key_file, parse_key_file};
use vault_core::root::{Hsm, Method, NewUnlock};
use vault_core::vault::NewRotation;
use zeroize::Zeroizing;

use crate::files;
use crate::problem::{Kind, Problem};
use crate::unlock::{PASSPHRASE_MIN, Source};

/// The longest passphrase, in bytes: whatever reads it again takes so much.
const PASSPHRASE_MAX: usize = 1024;

/// What a person sends, for the server has no place for it.
#[derive(Default)]
pub(crate) struct Sent {
    pub(crate) passphrase: Option<Zeroizing<String>>,
    /// The text of a new key file, in place of one that is kept elsewhere.
    pub(crate) key_file: Option<Zeroizing<String>>,
    /// Take away what is not replaced as well: a key file that is lost, or keys that an attempt left that was cut short.
    pub(crate) replace_all: bool,
}

/// New unlock keys in place of those that open `slots`.
///
/// # Errors
/// A conflict, if one of them cannot be replaced from here; an invalid value, if what is sent is not wanted, is not whole, or is
/// no passphrase that can be kept in a file.
pub(crate) fn rotation(slots: &[Vec<Method>], source: Option<&Source>, sent: Sent) -> Result<NewRotation, Problem> {
    let Sent { passphrase, key_file, replace_all } = sent;
    let has = |method: Method| slots.iter().flatten().any(|of| *of == method);
    let mut unlocks = Vec::new();
    let mut placed: Option<(PathBuf, Zeroizing<String>)> = None;
    let configured = matches!(source, Some(Source::KeyFile(_)));
    if key_file.is_some() && !has(Method::KeyFile) {
        return Err(Problem::invalid("key_file", "none, for the vault is not opened by one"));
    }
    for method in [Method::KeyFile, Method::Pkcs11, Method::Passphrase].into_iter().filter(|method| has(*method)) {
        let known = match method {
            Method::KeyFile => usize::from(configured) + usize::from(key_file.is_some()),
            Method::Pkcs11 | Method::Passphrase => 1,
        };
        let count = slots.iter().map(|slot| slot.iter().filter(|of| **of == method).count()).max().unwrap_or_default();
        if method == Method::KeyFile && count < known {
            return Err(Problem::invalid("key_file", "none, for no key file but the server's own opens the vault"));
        }
        if count > known && !replace_all {
            let elsewhere = method == Method::KeyFile && key_file.is_none();
            let replaced = match known {
                0 => "this server has the place of none".to_owned(),
                _ => format!("{known} would be replaced"),
            };
            let told = format!(
                "{} {}s open the vault, and {replaced}{}. `--replace-all` takes the others away: one that is \
                 lost, or that a rotation left which was cut short",
                count,
                method.as_str(),
                if elsewhere { ": `--key-file FILE` draws another one for one that is kept elsewhere" } else { "" }
            );
            return Err(Problem::new(Kind::Conflict, told));
        }
        match (method, source) {
            (Method::KeyFile, Some(Source::KeyFile(path))) => {
                let (key, text) = new_key_file();
                unlocks.push(NewUnlock::KeyFile(key));
                placed = Some((path.clone(), text));
            }
            (Method::Pkcs11, Some(Source::Pkcs11(place))) => {
                unlocks.push(NewUnlock::Pkcs11(Hsm::new(place.clone())));
            }
            // What is sent comes below.
            (Method::KeyFile, _) if key_file.is_some() => {}
            (Method::KeyFile | Method::Pkcs11, None | Some(Source::PassphraseFile(_))) if replace_all => {}
            (Method::Passphrase, Some(Source::Credential(_))) | (Method::KeyFile | Method::Pkcs11, _) => {
                let told = format!(
                    "the vault is opened by a {} as well, which this server has no place for: stop it and use \
                     `vault-server unlock-key`",
                    method.as_str()
                );
                return Err(Problem::new(Kind::Conflict, told));
            }
            (Method::Passphrase, _) => {}
        }
    }
    if let Some(text) = key_file {
        let whole = "the text of a key file: udv-unlock-key-1: and 64 hexadecimal digits";
        let key = parse_key_file(&text).map_err(|_| Problem::invalid("key_file", whole))?;
        unlocks.push(NewUnlock::KeyFile(key));
    }
    match (passphrase, has(Method::Passphrase)) {
        (None, false) => {}
        (None, true) => {
            return Err(Problem::invalid("passphrase", "the new passphrase, for the vault is opened by one"));
        }
        (Some(_), false) => {
            return Err(Problem::invalid("passphrase", "none, for the vault is not opened by one"));
        }
        (Some(passphrase), true) => {
            check(&passphrase)?;
            if let Some(Source::PassphraseFile(path)) = source {
                placed = Some((path.clone(), Zeroizing::new(format!("{}\n", *passphrase))));
            }
            unlocks.push(NewUnlock::Passphrase(passphrase, Cost::DEFAULT));
        }
    }
    let place = move || {
        let Some((path, text)) = placed else { return Ok(()) };
        files::replace_secret(&path, &text)
            .map_err(|why| io::Error::new(why.kind(), format!("{}: {why}", path.display())))
    };
    Ok(NewRotation::Unlock { unlocks, place: Box::new(place) })
}

/// It must be the same again when it is read from a file or typed.
fn check(passphrase: &str) -> Result<(), Problem> {
    if passphrase.chars().count() < PASSPHRASE_MIN || passphrase.len() > PASSPHRASE_MAX {
        return Err(Problem::invalid("passphrase", "8 characters to 1 KiB; several words are better"));
    }
    if passphrase.chars().any(char::is_control) {
        return Err(Problem::invalid("passphrase", "one line without control characters"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn asked(
        methods: &[Method],
        source: Option<&Source>,
        passphrase: Option<&str>,
    ) -> Result<Vec<&'static str>, String> {
        asked_with(methods, source, passphrase, None)
    }

    fn asked_with(
        methods: &[Method],
        source: Option<&Source>,
        passphrase: Option<&str>,
        key_file: Option<&str>,
    ) -> Result<Vec<&'static str>, String> {
        let secret = |text: &str| Zeroizing::new(text.to_owned());
        let sent = Sent { passphrase: passphrase.map(secret), key_file: key_file.map(secret), replace_all: false };
        told(rotation(&[methods.to_vec()], source, sent))
    }

    /// What takes the place of which, put there.
    fn told(outcome: Result<NewRotation, Problem>) -> Result<Vec<&'static str>, String> {
        let NewRotation::Unlock { unlocks, place } = outcome.map_err(|problem| format!("{problem:?}"))? else {
            panic!("another rotation")
        };
        place().map_err(|why| why.to_string())?;
        let kind = |unlock: &NewUnlock| match unlock {
            NewUnlock::Passphrase(..) => "passphrase",
            NewUnlock::KeyFile(_) => "key file",
            NewUnlock::Pkcs11(_) => "HSM",
        };
        Ok(unlocks.iter().map(kind).collect())
    }

    #[test]
    fn every_way_to_unlock_gets_another_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unlock.key");
        std::fs::write(&path, "the old one").unwrap();
        let (file, typed) = (Source::KeyFile(path.clone()), Source::PassphraseFile(path.clone()));
        let read = || std::fs::read_to_string(&path).unwrap();

        assert_eq!(asked(&[Method::KeyFile], Some(&file), None).unwrap(), ["key file"]);
        let first = read();
        assert!(first.starts_with("udv-unlock-key-1:"), "it is in its place");
        let both = [Method::KeyFile, Method::Passphrase];
        assert_eq!(asked(&both, Some(&file), Some("correct horse")).unwrap(), ["key file", "passphrase"]);
        assert_ne!(read(), first);
        assert_eq!(asked(&[Method::Passphrase], None, Some("correct horse")).unwrap(), ["passphrase"]);
        assert_eq!(asked(&[Method::Passphrase], Some(&typed), Some("correct horse")).unwrap(), ["passphrase"]);
        assert_eq!(read(), "correct horse\n");
    }

    #[test]
    fn what_the_server_has_no_place_for_is_not_taken_away() {
        let credential = Source::Credential("udv-unlock".into());
        for (methods, source, passphrase) in
            [(&[Method::Pkcs11][..], None, None), (&[Method::Passphrase], Some(&credential), Some("correct horse"))]
        {
            let refused = asked(methods, source, passphrase).unwrap_err();
            assert!(refused.contains("vault-server unlock-key"), "{refused}");
        }
        for (passphrase, told) in [
            (None, "the new passphrase"),
            (Some("short"), "8 characters"),
            (Some("correct horse\n"), "one line"),
            (Some(&*"horse ".repeat(200)), "1 KiB"),
        ] {
            let refused = asked(&[Method::Passphrase], None, passphrase).unwrap_err();
            assert!(refused.contains(told), "{refused}");
            assert!(!refused.contains("short") && !refused.contains("horse"), "{refused}");
        }
        let file = Source::KeyFile("unlock.key".into());
        let unwanted = asked(&[Method::KeyFile], Some(&file), Some("correct horse")).unwrap_err();
        assert!(unwanted.contains("not opened by one"), "{unwanted}");
    }

    #[test]
    fn what_is_not_replaced_is_taken_away_only_if_that_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unlock.key");
        std::fs::write(&path, "the old one").unwrap();
        let file = Source::KeyFile(path);
        // One in a safe, perhaps; or left by a rotation that was cut short.
        let two = [Method::KeyFile; 2];
        let refused = asked(&two, Some(&file), None).unwrap_err();
        assert!(refused.contains("--key-file FILE") && refused.contains("--replace-all"), "{refused}");
        let refused = asked(&[Method::Passphrase; 2], None, Some("correct horse")).unwrap_err();
        assert!(!refused.contains("--key-file") && refused.contains("--replace-all"), "{refused}");

        let all = |passphrase: Option<&str>| Sent {
            passphrase: passphrase.map(|text| Zeroizing::new(text.to_owned())),
            replace_all: true,
            ..Sent::default()
        };
        assert_eq!(told(rotation(&[two.to_vec()], Some(&file), all(None))).unwrap(), ["key file"]);
        let both = vec![Method::KeyFile, Method::Passphrase];
        assert_eq!(told(rotation(&[both], None, all(Some("correct horse")))).unwrap(), ["passphrase"]);
        // Never what the server itself unlocks with.
        let credential = Source::Credential("udv-unlock".into());
        let refused = told(rotation(&[vec![Method::Passphrase]], Some(&credential), all(Some("correct horse"))));
        assert!(refused.unwrap_err().contains("vault-server unlock-key"));
    }

    #[test]
    fn a_key_file_that_is_kept_elsewhere_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("unlock.key");
        std::fs::write(&path, "the old one").unwrap();
        let file = Source::KeyFile(path.clone());
        let (_, text) = new_key_file();
        let with = |methods: &[Method], source, passphrase| asked_with(methods, source, passphrase, Some(&text));

        let both = [Method::KeyFile, Method::Passphrase];
        assert_eq!(with(&both, None, Some("correct horse")).unwrap(), ["key file", "passphrase"]);
        assert_eq!(with(&[Method::KeyFile], None, None).unwrap(), ["key file"]);
        // One of them is the server's.
        assert_eq!(with(&[Method::KeyFile; 2], Some(&file), None).unwrap(), ["key file", "key file"]);
        assert!(std::fs::read_to_string(&path).unwrap().starts_with("udv-unlock-key-1:"));

        for (methods, source, text, told) in [
            (&[Method::KeyFile][..], Some(&file), &**text, "but the server's own"),
            (&[Method::Pkcs11], None, &**text, "not opened by one"),
            (&[Method::KeyFile; 3], Some(&file), &**text, "--replace-all"),
            (&[Method::KeyFile], None, "udv-unlock-key-1:00", "64 hexadecimal digits"),
        ] {
            let refused = asked_with(methods, source, None, Some(text)).unwrap_err();
            assert!(refused.contains(told), "{refused}");
        }
    }
}
