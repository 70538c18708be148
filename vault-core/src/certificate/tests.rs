//! Certificates over a log made for the purpose: what holds, and that nothing changed does.

#![allow(clippy::unwrap_used)]

use ed25519_dalek::{Signer as _, SigningKey};
use signed_note::{Note, new_ed25519_verifier_key};
use tlog_tiles::Checkpoint;
use tlog_tiles::tlog::{Error, Hash, HashReader, prove_record, stored_hashes, tree_hash};

use super::*;
use crate::audit::{Action, Concluded, Entry, Level, Outcome, Shred};
use crate::ids::{CallerId, ErasureId};
use crate::time::Timestamp;

const VAULT: &str = "0123456789abcdef0123456789abcdef";
const ERASURE: [u8; 16] = [0xe5; 16];
const SALT: [u8; 16] = [0x5a; 16];

struct Hashes(Vec<Hash>);

impl HashReader for Hashes {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, Error> {
        Ok(indexes.iter().map(|&index| self.0[usize::try_from(index).unwrap()]).collect())
    }
}

struct Key(SigningKey);

impl signed_note::Signer for Key {
    fn name(&self) -> &'static str {
        "udv/0123456789abcdef0123456789abcdef"
    }

    fn key_id(&self) -> u32 {
        signed_note::key_id(self.name(), &[&[1], self.0.verifying_key().as_bytes().as_slice()].concat())
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, ed25519_dalek::SignatureError> {
        Ok(self.0.try_sign(message)?.to_vec())
    }
}

impl Key {
    fn verifier(&self) -> String {
        new_ed25519_verifier_key(signed_note::Signer::name(self), &self.0.verifying_key())
    }
}

fn entry(what: Action) -> Entry {
    Entry { at: Timestamp(1_764_028_800_250), ..Entry::new(what, Outcome::Done) }
}

fn shredded(id: &str) -> Entry {
    let shred = Shred {
        commitment: subject_commitment(&SALT, &ERASURE, id),
        compartment: None,
        f0_at: Timestamp(1_764_028_800_000),
        f1_at: Timestamp(1_764_028_800_250),
        epochs: [6, 7],
        headers: [Digest([1; 32]), Digest([2; 32])],
        lookups: 1,
        slots: vec!["/media/usb/root.slot".into()],
    };
    Entry { erasure: Some(ErasureId(ERASURE)), shred: Some(shred), ..entry(Action::Shredded) }
}

fn concluded() -> Entry {
    let request = Concluded {
        commitment: request_commitment(&SALT, &ERASURE, "asked for by the subject", Some("ticket 7 – ü")),
        asked_at: Timestamp(1_764_028_000_000),
        asked_by: Some(CallerId([3; 16])),
        approved_by: None,
        total: 3,
        r#final: 1,
        shredded: 1,
        unknown: 1,
        cancelled: 0,
        held: 0,
    };
    Entry {
        erasure: Some(ErasureId(ERASURE)),
        level: Some(Level::F1),
        request: Some(request),
        ..entry(Action::ErasureLevel)
    }
}

fn level(level: Level) -> Entry {
    Entry { erasure: Some(ErasureId(ERASURE)), level: Some(level), ..entry(Action::ErasureLevel) }
}

/// A log with these entries among others, and evidence of each.
fn log_of(entries: &[Entry], key: &Key) -> (Vec<Evidence>, String) {
    let mut hashes = Hashes(Vec::new());
    let mut logged = Vec::new();
    for index in 0..21_u64 {
        let own = entries.get(usize::try_from(index.wrapping_sub(8)).unwrap());
        logged.push(own.cloned().unwrap_or_else(|| entry(Action::Read)).encode());
        let more = stored_hashes(index, logged.last().unwrap(), &hashes).unwrap();
        hashes.0.extend(more);
    }
    let evidence = (8..8 + entries.len()).map(|at| Evidence {
        index: at as u64,
        entry: String::from_utf8(logged[at].clone()).unwrap(),
        proof: prove_record(21, at as u64, &hashes).unwrap().into_iter().map(|hash| Digest(hash.0)).collect(),
    });
    let root = tree_hash(21, &hashes).unwrap();
    let head = Checkpoint::new(signed_note::Signer::name(key), 21, root, "").unwrap();
    let mut note = Note::new(&head.to_bytes(), &[]).unwrap();
    note.add_sigs(&[key]).unwrap();
    (evidence.collect(), String::from_utf8(note.to_bytes()).unwrap())
}

/// A certificate with everything in it.
pub(super) fn full() -> (Certificate, String) {
    let key = Key(SigningKey::from_bytes(&[7; 32]));
    let (mut evidence, checkpoint) =
        log_of(&[shredded("kunde ü/1"), concluded(), level(Level::F2), level(Level::F3)], &key);
    let levels = evidence.split_off(2);
    let (request, subject) = (evidence.pop().unwrap(), evidence.pop().unwrap());
    let certificate = Certificate {
        certificate: FORMAT.into(),
        statement: STATEMENT.into(),
        vault: VAULT.into(),
        erasure: hex::encode(ERASURE),
        subject: Some(Subject { id: "kunde ü/1".into(), salt: hex::encode(SALT), evidence: subject }),
        request: Some(Request {
            reason: "asked for by the subject".into(),
            reference: Some("ticket 7 – ü".into()),
            salt: hex::encode(SALT),
            evidence: request,
        }),
        levels,
        checkpoint,
        log_key: key.verifier(),
    };
    (certificate, key.verifier())
}

#[test]
fn a_certificate_holds_and_tells() {
    let (certificate, key) = full();
    let bytes = certificate.encode();
    let checked = check(&bytes, Some(&key)).unwrap();
    assert_eq!(check(&bytes, None), Ok(checked.clone()));
    assert_eq!(checked.shred.unwrap().epochs, [6, 7]);
    assert_eq!(checked.request.unwrap().r#final, 1);
    let levels: Vec<Level> = checked.levels.iter().map(|(level, _)| *level).collect();
    assert_eq!(levels, [Level::F1, Level::F2, Level::F3]);
}

#[test]
fn the_example_of_the_docs_is_one() {
    let (certificate, key) = full();
    let example = include_str!("../../../docs/certificate.example.json");
    assert_eq!(String::from_utf8(certificate.encode()).unwrap(), example);
    assert!(check(example.as_bytes(), Some(&key)).is_ok());
}

#[test]
fn no_byte_can_change() {
    let bytes = full().0.encode();
    for at in 0..bytes.len() {
        for other in [bytes[at] ^ 1, bytes[at] ^ 0x20, bytes[at] ^ 0x80, b' ', b'0', b'"'] {
            let mut changed = bytes.clone();
            changed[at] = other;
            let outcome = check(&changed, None);
            let around = String::from_utf8_lossy(&bytes[at.saturating_sub(20)..=at]);
            assert!(outcome.is_err() || changed == bytes, "byte {at} may be {other}: …{around}");
        }
        let mut shorter = bytes.clone();
        shorter.remove(at);
        assert!(check(&shorter, None).is_err(), "byte {at} may be missing");
    }
    assert!(check(&[&bytes[..], b"\n"].concat(), None).is_err());
}

#[test]
fn parts_of_other_certificates_do_not_fit() {
    let (certificate, key) = full();
    let other_key = Key(SigningKey::from_bytes(&[8; 32]));
    assert_eq!(check(&certificate.encode(), Some(&other_key.verifier())), Err(CheckError::OtherKey));
    // A log of somebody else's that says the same, under the key that is pinned: the checkpoint is not its.
    let (_, checkpoint) = log_of(&[shredded("kunde ü/1"), concluded()], &other_key);
    let forged = Certificate { checkpoint, ..certificate.clone() };
    assert!(matches!(check(&forged.encode(), Some(&key)), Err(CheckError::Forged(_))));
    // Another subject, the erasure of somebody else, a shred in the place of a level.
    let mut other = certificate.clone();
    other.subject.as_mut().unwrap().id = "kunde 2".into();
    assert!(matches!(check(&other.encode(), None), Err(CheckError::Forged(_))));
    let other = Certificate { erasure: hex::encode([1; 16]), ..certificate.clone() };
    assert!(matches!(check(&other.encode(), None), Err(CheckError::Forged(_))));
    let mut other = certificate.clone();
    other.levels.insert(0, other.subject.as_ref().unwrap().evidence.clone());
    assert!(matches!(check(&other.encode(), None), Err(CheckError::Forged(_))));
    // A level twice.
    let mut other = certificate.clone();
    other.levels.push(other.levels[0].clone());
    assert!(matches!(check(&other.encode(), None), Err(CheckError::Form(_))));
    // Without subject and request it says nothing.
    let nothing = Certificate { subject: None, request: None, ..certificate.clone() };
    assert!(matches!(check(&nothing.encode(), None), Err(CheckError::Form(_))));
    // Control: less than everything still holds.
    let without = Certificate { request: None, levels: Vec::new(), ..certificate };
    assert!(check(&without.encode(), Some(&key)).is_ok());
}
