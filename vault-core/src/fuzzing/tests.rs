#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::mutate::{Dice, cases, corpora, corpus, fire};
use super::*;

/// Mutants for each decoder, short.
const CASES: u64 = 4000;

#[test]
fn every_decoder_withstands_mutants_of_its_corpus() {
    let mut dice = Dice::of_run();
    let cases = cases(CASES);
    let targets = targets();
    let names: HashSet<&str> = targets.iter().map(|target| target.name).collect();
    assert_eq!(names.len(), targets.len());
    for target in &targets {
        let corpus = corpus(target.name);
        let sealed = SEALED.contains(&target.name);
        let taken = fire(target.name, &corpus, cases, &mut dice, |bytes| {
            let taken = (target.run)(bytes);
            assert!(!(sealed && taken) || corpus.iter().any(|known| known == bytes), "a forgery is taken");
            taken
        });
        eprintln!("{}: {taken} of {cases} mutants decode", target.name);
        // Or the mutants never come past the first check.
        assert!(taken > 0 || sealed, "{} takes no mutant", target.name);
    }
    for entry in std::fs::read_dir(corpora()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(names.contains(&*name), "{name}");
    }
}

#[test]
fn every_decoder_has_its_program_in_fuzz() {
    let manifest = include_str!("../../../fuzz/Cargo.toml");
    for target in targets() {
        assert!(manifest.contains(&format!("name = \"{}\"\n", target.name)), "{}", target.name);
    }
    assert_eq!(manifest.matches("[[bin]]").count(), targets().len());
}

/// What is sealed or signed: whatever is taken is of the corpus.
const SEALED: [&str; 5] = ["uv1", "data_row", "meta", "certificate", "age_file"];

/// Decodes `u8 length ‖ bytes`, and trusts the length.
fn planted(bytes: &[u8]) -> bool {
    let Some((&length, rest)) = bytes.split_first() else { return false };
    rest.len() > 3 && !rest[..usize::from(length)].is_empty()
}

#[test]
fn a_planted_slip_is_found_by_the_same_loop() {
    let corpus = [b"\x04four".to_vec(), b"\x06longer".to_vec()];
    let found = catch_unwind(AssertUnwindSafe(|| fire("planted", &corpus, CASES, &mut Dice(1), planted)));
    assert!(found.is_err(), "the loop cannot find anything");
}

/// Writes what corpora can be made of by code; run it when a format changes, and keep what was there:
/// `cargo test -p vault-core write_the_corpora -- --ignored`.
#[test]
#[ignore = "writes into the tree"]
fn write_the_corpora() {
    let put = |decoder: &str, seeds: Vec<Vec<u8>>| {
        let dir = corpora().join(decoder);
        std::fs::create_dir_all(&dir).unwrap();
        for bytes in seeds {
            let name = hex::encode(&crate::crypto::digest(&bytes)[..8]);
            std::fs::write(dir.join(name), bytes).unwrap();
        }
    };
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
    put("ids", texts(&["cust-1", "phone", "00000000000000000000000000000007", "a/b c", "Ä", "case_2026_17"]));
    put("time", texts(&["2026-11-28T17:42:59.123Z", "1970-01-01T00:00:00Z", "2024-02-29T23:59:59Z"]));
    let shipped = include_str!("../../../docs/schema/privacy-policy.toml");
    let document = Document::from_toml(shipped).unwrap();
    put("schema_toml", vec![shipped.as_bytes().to_vec(), Schema::builtin().document().to_toml().into_bytes()]);
    put("schema_json", vec![document.to_json().into_bytes(), Schema::builtin().document().to_json().into_bytes()]);
    let given = [
        "phone\n{\"national\": \"050 123 8301\", \"region\": \"AE\"}",
        "phone\n\"+971501238301\"",
        "email\n\"Ada@Example.ORG\"",
        "name\n\"Ada Lovelace\"",
        "birth_date\n\"1990-02-03\"",
        "home_address\n\"88 Avinguda Meritxell\\nAndorra\"",
        "ip_address\n\"90c1:92cf:d3ac:94af:f21:ddb7:6cad:4a26\"",
        "device\n{\"model\": \"Pixel 9\", \"n\": [1, 2.50, -0, 1e3]}",
        "location\n{\"lat\": -47.76309, \"lon\": 29.80368}",
        "nickname\n\"\\u0041da\"",
    ];
    put("given_value", texts(&given));
    let schema = Schema::builtin();
    let stored = given.iter().map(|text| {
        let (name, json) = text.split_once('\n').unwrap();
        schema.field(&FieldName::parse(name).unwrap()).unwrap().parse(json).unwrap().encode().to_vec()
    });
    put("stored_value", stored.collect());
    put("key_file", texts(&[&crate::crypto::passphrase::new_key_file().1]));
    put("page", crate::trie::fuzz::pages());
    put("header", crate::trie::fuzz::encoded());
    put("slot", crate::root::fuzz::blocks());
    put("refusals", crate::root::fuzz::files());
    let (plain, sealed) = crate::backup::fuzz::archives();
    put("archive", plain);
    put("age_file", sealed);
    put(
        "age_keys",
        texts(&[
            "# a comment\nAGE-SECRET-KEY-1CFUMK54QNFP5NE03LCA42M7FW4CKHKV3RHXJ3L2UHGU25V6D3QQQ4UD367\n",
            "age1jw3f2f3gu0ctl2dmj9a3y30vuzes0zg8ytf5xl4rjhx8ejq5yykq8t8ltn",
        ]),
    );
    let mut index = crate::backup::Index::new(crate::ids::BackupId([1; 16]));
    index.note(b"d1", b"value", None);
    index.note(b"d22", b"", None);
    put("archive_index", vec![index.encode()]);
    put("tile_number", texts(&["x001/x234/067", "000", "255.p/17"]));
    put("cursor", texts(&["00112233445566778899aabbccddeeff", "000100000bb800112233445566778899aabbccddeeff", "17"]));
    let sealed = [
        ("uv1", crate::vault::fuzz::sealed::uv1()),
        ("data_row", crate::vault::fuzz::sealed::data_row()),
        ("meta", crate::vault::fuzz::sealed::meta()),
    ];
    let mut known = String::new();
    for (decoder, seeds) in sealed {
        put(decoder, seeds);
        known.extend(corpus(decoder).iter().map(|bytes| hex::encode(crate::crypto::digest(bytes)) + "\n"));
    }
    std::fs::write(corpora().join("../../src/vault/fuzz/known.txt"), known).unwrap();
}
