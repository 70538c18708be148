//! The ciphers held to published vectors: Wycheproof (AES-GCM, HKDF, HMAC), RFC 9106 (Argon2id), and our own of UV1.

#![allow(clippy::unwrap_used)]

use argon2::{Algorithm, Argon2, AssociatedData, ParamsBuilder, Version};
use serde_json::Value;

use super::field::{Place, SealedField, seal};
use super::{Dek, Random, aead, tag};
use crate::ids::SubjectUuid;

fn vectors(file: &str) -> Value {
    let path = format!("{}/tests/vectors/{file}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn bytes(test: &Value, name: &str) -> Vec<u8> {
    hex::decode(test[name].as_str().unwrap()).unwrap()
}

/// Runs `check(group, test) -> accepted output matches` over the groups that `wanted` picks; answers how many ran.
fn run(file: &str, wanted: impl Fn(&Value) -> bool, check: impl Fn(&Value, &Value) -> bool) -> usize {
    let file = vectors(file);
    let groups = file["testGroups"].as_array().unwrap().iter().filter(|g| wanted(g));
    let mut count = 0;
    for group in groups {
        for test in group["tests"].as_array().unwrap() {
            let valid = test["result"] != "invalid";
            assert_eq!(check(group, test), valid, "test {}: {}", test["tcId"], test["comment"]);
            count += 1;
        }
    }
    count
}

#[test]
fn wycheproof_aes_256_gcm() {
    let ours = |g: &Value| g["keySize"] == 256 && g["ivSize"] == 96 && g["tagSize"] == 128;
    let count = run("wycheproof_aes_gcm_test.json", ours, |_, test| {
        let key: [u8; 32] = bytes(test, "key").try_into().unwrap();
        let nonce: [u8; 12] = bytes(test, "iv").try_into().unwrap();
        let (aad, msg) = (bytes(test, "aad"), bytes(test, "msg"));
        let expected = [bytes(test, "ct"), bytes(test, "tag")].concat();
        let mut sealed = Vec::new();
        aead::encrypt(&key, &nonce, &aad, &msg, &mut sealed);
        let opened = aead::decrypt(&key, &nonce, &aad, &expected);
        // Both directions must agree with the vector.
        assert_eq!(sealed == expected, opened.is_ok());
        opened.is_ok_and(|plaintext| **plaintext == *msg)
    });
    assert!(count > 50, "{count} tests ran");
}

#[test]
fn wycheproof_hkdf_sha256() {
    let count = run(
        "wycheproof_hkdf_sha256_test.json",
        |_| true,
        |_, test| {
            let mut okm = vec![0; usize::try_from(test["size"].as_u64().unwrap()).unwrap()];
            let kdf = hkdf::Hkdf::<sha2::Sha256>::new(Some(&bytes(test, "salt")), &bytes(test, "ikm"));
            kdf.expand(&bytes(test, "info"), &mut okm).is_ok() && okm == bytes(test, "okm")
        },
    );
    assert!(count > 50, "{count} tests ran");
}

#[test]
fn wycheproof_hmac_sha256() {
    let count = run(
        "wycheproof_hmac_sha256_test.json",
        |_| true,
        |group, test| {
            let len = usize::try_from(group["tagSize"].as_u64().unwrap()).unwrap() / 8;
            tag::hmac(&bytes(test, "key"), &bytes(test, "msg"))[..len] == bytes(test, "tag")
        },
    );
    assert!(count > 100, "{count} tests ran");
}

#[test]
fn rfc_9106_argon2id() {
    let path = format!("{}/tests/vectors/argon2id_rfc9106.txt", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let tag_line = text.lines().find_map(|l| l.strip_prefix("Tag: ")).unwrap();
    let expected = hex::decode(tag_line.replace(' ', "")).unwrap();
    let mut builder = ParamsBuilder::new();
    builder.m_cost(32).t_cost(3).p_cost(4).data(AssociatedData::new(&[4; 12]).unwrap());
    let params = builder.build().unwrap();
    let argon2 = Argon2::new_with_secret(&[3; 8], Algorithm::Argon2id, Version::V0x13, params).unwrap();
    let mut out = [0u8; 32];
    argon2.hash_password_into(&[1; 32], &[2; 16], &mut out).unwrap();
    assert_eq!(out[..], expected);
}

/// The vectors that another implementation of UV1 could be held to.
#[test]
fn our_own_uv1() {
    let file = vectors("field-uv1.json");
    let tests = file["tests"].as_array().unwrap();
    assert!(tests.len() >= 8);
    for test in tests {
        let dek = Dek::from_slice(&bytes(test, "dek")).unwrap();
        let text = |name: &str| test[name].as_str().unwrap().to_owned();
        let (compartment, field) = (text("compartment"), text("field"));
        let subject = SubjectUuid::parse(&text("subject_uuid")).unwrap();
        let place = Place { subject, compartment: &compartment, field: &field };
        let sealed = bytes(test, "sealed");
        let opened = SealedField::parse(&sealed).and_then(|f| f.open(&dek, &place));
        let expected = (test["result"] == "valid").then(|| bytes(test, "plaintext"));
        assert_eq!(opened.ok().map(|p| p.to_vec()), expected, "{}", test["comment"]);
    }
}

/// Writes `field-uv1.json` anew: `UDV_WRITE_VECTORS=1 cargo test -p vault-core our_own_uv1_written`.
#[test]
fn our_own_uv1_written() {
    let dek = Dek::from_slice(&[0x42; 32]).unwrap();
    let uuid = SubjectUuid(*b"\x01\x9a\0\0\0\0\x70\0\x80\0\0\0\0\0\0\x01");
    let place = Place { subject: uuid, compartment: "profile", field: "phone" };
    let sealed = seal(&dek, 1, 1, &place, b"+971501238301", &mut Random::new(24));
    let mut tests = Vec::new();
    let mut add = |comment: &str, place: &Place<'_>, dek: &Dek, plaintext: &[u8], sealed: &[u8], valid: bool| {
        tests.push(serde_json::json!({
            "comment": comment, "tenant": "default", "subject_uuid": place.subject.to_string(),
            "compartment": place.compartment, "field": place.field, "dek": hex::encode(dek.expose()),
            "plaintext": hex::encode(plaintext), "sealed": hex::encode(sealed),
            "result": if valid { "valid" } else { "invalid" },
        }));
    };
    add("a phone number", &place, &dek, b"+971501238301", &sealed, true);
    let empty = seal(&dek, u32::MAX, u16::MAX, &place, b"", &mut Random::new(24));
    add("empty, highest versions", &place, &dek, b"", &empty, true);
    let long = seal(&dek, 1, 1, &place, &[0x80; 1024], &mut Random::new(24));
    add("1024 bytes: padded to 2 KiB", &place, &dek, &[0x80; 1024], &long, true);
    add("another field", &Place { field: "email", ..place }, &dek, b"", &sealed, false);
    add("another compartment", &Place { compartment: "billing", ..place }, &dek, b"", &sealed, false);
    add("another subject", &Place { subject: SubjectUuid([9; 16]), ..place }, &dek, b"", &sealed, false);
    add("another key", &place, &Dek::from_slice(&[0x43; 32]).unwrap(), b"", &sealed, false);
    for (name, at) in [
        ("format", 0),
        ("suite", 1),
        ("schema version", 3),
        ("DEK version", 7),
        ("N", 8),
        ("C", 32),
        ("ciphertext", 64),
    ] {
        let mut changed = sealed.clone();
        changed[at] ^= 1;
        add(&format!("a bit of the {name} changed"), &place, &dek, b"", &changed, false);
    }
    add("cut short", &place, &dek, b"", &sealed[..sealed.len() - 1], false);
    if std::env::var_os("UDV_WRITE_VECTORS").is_some() {
        let file = serde_json::json!({"format": "UV1", "described_in": "docs/format.md", "tests": tests});
        let path = format!("{}/tests/vectors/field-uv1.json", env!("CARGO_MANIFEST_DIR"));
        std::fs::write(path, serde_json::to_string_pretty(&file).unwrap() + "\n").unwrap();
    }
    assert_eq!(tests.len(), 15);
}
