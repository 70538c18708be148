//! What takes the place of the present unlock keys while the vault serves: each way to unlock gets another key.
//!
//! Only what the server itself has a place for can be replaced this way: the key file or passphrase file that it is configured
//! with, its HSM token, a passphrase that a person sends. For anything else there is `vault-server unlock-key`.

use std::path::PathBuf;

use vault_core::crypto::passphrase::{Cost, new_key_file};
use vault_core::root::{Hsm, Method, NewUnlock};
use vault_core::vault::NewRotation;
use zeroize::Zeroizing;

use crate::files;
use crate::problem::{Kind, Problem};
use crate::unlock::{PASSPHRASE_MIN, Source};

/// The longest passphrase, in bytes: whatever reads it again takes so much.
const PASSPHRASE_MAX: usize = 1024;

/// New unlock keys in place of those that open `slots`. `cut_short`: an earlier rotation may have left keys of its own there.
///
/// # Errors
/// A conflict, if one of them cannot be replaced from here; an invalid value, if the passphrase is missing, not wanted, or none
/// that can be kept in a file.
pub(crate) fn rotation(
    slots: &[Vec<Method>],
    cut_short: bool,
    source: Option<&Source>,
    passphrase: Option<Zeroizing<String>>,
) -> Result<NewRotation, Problem> {
    let has = |method: Method| slots.iter().flatten().any(|of| *of == method);
    let mut unlocks = Vec::new();
    let mut placed: Option<(PathBuf, Zeroizing<String>)> = None;
    for method in [Method::KeyFile, Method::Pkcs11, Method::Passphrase].into_iter().filter(|method| has(*method)) {
        let several = |slot: &Vec<Method>| slot.iter().filter(|of| **of == method).count() > 1;
        if slots.iter().any(several) && !cut_short {
            let told = format!(
                "more than one {} opens the vault, and the server would take away those that it does not know: stop it and \
                 use `vault-server unlock-key`",
                method.as_str()
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
    let place = move || placed.map_or(Ok(()), |(path, text)| files::replace_secret(&path, &text));
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
        let passphrase = passphrase.map(|text| Zeroizing::new(text.to_owned()));
        let outcome = rotation(&[methods.to_vec()], false, source, passphrase);
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
        for (methods, source, passphrase) in [
            (&[Method::KeyFile][..], None, None),
            (&[Method::KeyFile, Method::Passphrase], None, Some("correct horse")),
            (&[Method::Pkcs11], None, None),
            (&[Method::Passphrase], Some(&credential), Some("correct horse")),
        ] {
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
        // One in a safe, perhaps; or left by a rotation that was cut short.
        let two = vec![Method::KeyFile, Method::KeyFile];
        let refused = asked(&two, Some(&file), None).unwrap_err();
        assert!(refused.contains("more than one key file"), "{refused}");
        assert!(rotation(&[two], true, Some(&file), None).is_ok());
    }
}
