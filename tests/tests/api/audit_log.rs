//! The audit log for whoever checks it: over HTTP, with the command line, and from its files; and when it was tampered with.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vault_core::crypto::digest;

use crate::harness::{Finished, Running, Vault, copy_dir, files_under, program, run, wait_for};

fn node(left: &[u8], right: &[u8]) -> [u8; 32] {
    digest(&[&[1], left, right].concat())
}

/// RFC 6962, section 2.1.
fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [one] => *one,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node(&root(left), &root(right))
        }
    }
}

/// RFC 9162, section 2.1.3.2: the root that a proof leads to.
fn led_to(leaf: [u8; 32], index: u64, size: u64, proof: &[[u8; 32]]) -> [u8; 32] {
    let (mut at, mut last, mut hash) = (index, size - 1, leaf);
    for sibling in proof {
        if at % 2 == 1 || at == last {
            hash = node(sibling, &hash);
            while at % 2 == 0 && at != 0 {
                (at, last) = (at / 2, last / 2);
            }
        } else {
            hash = node(&hash, sibling);
        }
        (at, last) = (at / 2, last / 2);
    }
    hash
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |three: &[u8]| {
        let bits = three.iter().chain([&0, &0]).take(3).fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        let digit = |at: usize| match at <= three.len() {
            true => char::from(DIGITS[(bits >> (18 - 6 * at) & 63) as usize]),
            false => '=',
        };
        (0..4).map(digit).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

fn hashes(list: &Value) -> Vec<[u8; 32]> {
    let hash = |text: &Value| {
        let digits = text.as_str().unwrap();
        let byte = |at: usize| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap();
        std::array::from_fn(byte)
    };
    list.as_array().unwrap().iter().map(hash).collect()
}

/// Reads that each leave an entry.
fn read(running: &Running, count: usize) {
    running.admin.set("a", &json!({ "nickname": "x" }));
    (0..count).for_each(|_| drop(running.admin.get("/v1/subjects/a").expect(200)));
}

fn head(running: &Running) -> (u64, String) {
    let note = running.admin.get("/v1/audit/checkpoint").expect(200).body;
    (note.lines().nth(1).unwrap().parse().unwrap(), note)
}

fn audit_dir(vault: &Vault) -> PathBuf {
    vault.data().join("audit")
}

/// `audit verify`, with what it remembers in a directory of the test's.
fn watch(running: &Running, state: &Path, more: &[&str]) -> Finished {
    let mut command = running.cli_command(&[&["audit", "verify"][..], more].concat());
    command.env("XDG_STATE_HOME", state);
    run(command)
}

fn key_of(running: &Running) -> String {
    running.admin.get("/v1/audit/keys").expect(200).json()["current"].as_str().unwrap().to_owned()
}

/// `audit verify --dir`, on a stopped vault or a copy.
fn check(dir: &Path, key: &str, more: &[&str]) -> Finished {
    let mut command = std::process::Command::new(program("vault-cli"));
    command.args(["audit", "verify", "--log-key", key, "--dir"]).arg(dir).args(more);
    run(command)
}

#[test]
fn what_is_signed_follows_from_the_entries() {
    let vault = Vault::dev();
    let running = vault.start();
    read(&running, 280);
    // What is waited for makes everything before it durable, and the head speaks of that.
    let auditor = running.caller("auditor", &[]);
    let (size, note) = head(&running);
    assert!(size > 256, "{note}");

    // Bytes of the entries, out of bundles; their hashes, out of a tile; and the root over them.
    let rest = size - 256;
    let agent = ureq::agent();
    let tile = |path: &str| {
        let bearer = format!("Bearer {}", auditor.token().unwrap());
        let url = format!("{}/v1/audit/tile/{path}", running.server.url);
        agent.get(url).header("Authorization", bearer).call().unwrap().body_mut().read_to_vec().unwrap()
    };
    let mut leaves = Vec::new();
    let mut entries: Vec<Value> = Vec::new();
    for path in ["entries/000".to_owned(), format!("entries/001.p/{rest}")] {
        let bytes = tile(&path);
        let mut left = &bytes[..];
        while !left.is_empty() {
            let (length, tail) = left.split_at(2);
            let (entry, tail) = tail.split_at(usize::from(u16::from_be_bytes([length[0], length[1]])));
            leaves.push(digest(&[&[0], entry].concat()));
            entries.push(serde_json::from_slice(entry).unwrap());
            left = tail;
        }
    }
    assert_eq!(leaves.len() as u64, size);
    assert_eq!(tile("0/000"), leaves[..256].concat());
    assert_eq!(tile(&format!("0/001.p/{rest}")), leaves[256..].concat());
    assert_eq!(tile("1/000.p/1"), root(&leaves[..256]));
    assert_eq!(note.lines().nth(2).unwrap(), base64(&root(&leaves)));
    for index in [0, 77, 255, 256, size - 1] {
        let proof = auditor.get(&format!("/v1/audit/proof/{index}?size={size}")).expect(200).json();
        let leaf = leaves[usize::try_from(index).unwrap()];
        assert_eq!(led_to(leaf, index, size, &hashes(&proof["proof"])), root(&leaves), "{index}");
    }
    let proof = auditor.get("/v1/audit/proof/0").expect(200).json();
    assert_eq!((&proof["size"], &proof["index"]), (&json!(size), &json!(0)), "towards the head");
    auditor.get(&format!("/v1/audit/consistency?from=100&to={size}")).expect(200);
    auditor.get("/v1/audit/keys").expect(200);

    // Nothing of that made the log grow; looking at entries does, by one.
    assert_eq!(head(&running).0, size);
    let page = auditor.get("/v1/audit/entries?from=250&limit=10").expect(200).json();
    let told: Vec<&Value> = page["data"].as_array().unwrap().iter().map(|item| &item["entry"]).collect();
    assert_eq!(told, entries[250..260].iter().collect::<Vec<_>>());
    assert_eq!((&page["data"][0]["index"], &page["next"]), (&json!(250), &json!(260)));
    wait_for("the entry of that", || (head(&running).0 > size).then_some(()));
    assert_eq!(head(&running).0, size + 1);

    for path in ["tile/0/999", "tile/0/0", "tile/../checkpoint", "tile/9/000", "proof/999999999"] {
        auditor.get(&format!("/v1/audit/{path}")).problem(404, "not_found");
    }
    auditor.get("/v1/audit/consistency?from=5&to=4").problem(404, "not_found");
    auditor.get("/v1/audit/entries?limit=1001").problem(422, "invalid_value");
    assert!(auditor.get("/v1/audit/entries?from=99999999").expect(200).json()["next"].is_null());
    let shop = running.caller("service", &["account"]);
    for path in ["checkpoint", "entries", "tile/0/000", "proof/0", "consistency?from=1", "keys"] {
        shop.get(&format!("/v1/audit/{path}")).problem(403, "forbidden");
    }
    auditor.post("/v1/audit/keys/rotate", &json!({})).problem(403, "forbidden");
    running.stop();
}

#[test]
fn who_watches_the_log_sees_it_grow_and_sees_it_rewritten() {
    let vault = Vault::dev();
    let running = vault.start();
    let state = vault.root().join("state");
    let key = key_of(&running);
    let first = watch(&running, &state, &[]).expect(0);
    assert!(first.out.contains(&key) && first.err.contains("not pinned"), "{}{}", first.out, first.err);
    read(&running, 3);
    let second = watch(&running, &state, &["--log-key", &key]).expect(0);
    assert!(second.err.contains("goes on from the") && !second.err.contains("not pinned"), "{}", second.err);

    // The key is replaced, twice: who trusts the first one follows.
    let rotated = running.admin.send("POST", "/v1/audit/keys/rotate", &[], None).expect(200).json();
    assert_eq!(rotated["changes"].as_array().unwrap().len(), 1);
    running.admin.send("POST", "/v1/audit/keys/rotate", &[], None).expect(200);
    let present = key_of(&running);
    assert_ne!(present, key);
    let third = watch(&running, &state, &["--log-key", &key]).expect(0);
    assert!(third.out.contains(&present), "{}", third.out);
    let other = key.replacen("udv/", "udv/0", 1);
    watch(&running, &state, &["--log-key", &other]).expect(8);
    let told = running.admin.get("/v1/audit/entries?limit=1000").expect(200).json();
    let changes = told["data"].as_array().unwrap().iter().filter(|item| item["entry"]["log_key"].is_object());
    let changes: Vec<&Value> = changes.map(|item| &item["entry"]).collect();
    assert_eq!((changes.len(), &changes[0]["log_key"]["old"]), (2, &json!(key)));
    assert!(changes.iter().all(|entry| entry["what"] == "log_key" && entry["by"].is_string()), "{changes:?}");
    running.stop();
    check(&audit_dir(&vault), &key, &[]).expect(0);

    // Two of one: each goes on in its own way, and only one of them is what was seen.
    let twin = Vault::dev();
    copy_dir(&vault.data(), &twin.data());
    let running = vault.start();
    read(&running, 5);
    watch(&running, &state, &[]).expect(0);
    let kept = vault.root().join("kept");
    fs::write(&kept, head(&running).1).unwrap();
    running.stop();
    let forked = twin.start();
    read(&forked, 40);
    forked.caller("auditor", &[]);
    let refused = watch(&forked, &state, &[]).expect(8);
    assert!(refused.err.contains("rewritten"), "{}", refused.err);
    forked.stop();
    // The head from then tells the same without a server, and which of the two it is of.
    let kept = ["--checkpoint", kept.to_str().unwrap()];
    check(&audit_dir(&vault), &key, &kept).expect(0);
    let refused = check(&audit_dir(&twin), &key, &kept).expect(8);
    assert!(refused.out.contains("is not of this log"), "{}", refused.out);
}

#[test]
fn a_changed_byte_of_a_stopped_vault_is_found_and_named() {
    let vault = Vault::dev();
    let running = vault.start();
    let key = key_of(&running);
    read(&running, 300);
    running.stop();
    assert!(vault.verify().expect(0).out.contains("the audit log is whole"));
    let bundle = audit_dir(&vault).join("tile/entries/000");
    let whole = fs::read(&bundle).unwrap();
    // Where entry 100 begins.
    let begin = (0..100).fold(0, |at, _| at + 2 + usize::from(u16::from_be_bytes([whole[at], whole[at + 1]])));
    let mut changed = whole.clone();
    changed[begin + 20] ^= 1;
    fs::write(&bundle, &changed).unwrap();
    for checked in [vault.verify(), check(&audit_dir(&vault), &key, &[])] {
        assert!(checked.expect(8).out.contains("entry 100 ("));
    }

    assert_eq!(fs::read(&bundle).unwrap(), changed, "it is left as evidence");

    // Without it nothing is lost: the journal still has these entries, and it is made again.
    fs::remove_file(&bundle).unwrap();
    check(&audit_dir(&vault), &key, &[]).expect(0);
    vault.verify().expect(0);
    let running = vault.start();
    running.admin.get("/v1/audit/entries?from=0").expect(200);
    // One that is open is not looked at: it changes meanwhile.
    assert!(check(&audit_dir(&vault), &key, &[]).expect(1).err.contains("in use"));
    running.stop();
    assert_eq!(fs::read(&bundle).unwrap(), whole);
    vault.verify().expect(0);
}

#[test]
fn a_vault_whose_log_lost_what_was_signed_does_not_start() {
    let vault = Vault::dev();
    let running = vault.start();
    read(&running, 20);
    running.stop();
    let journal = files_under(&audit_dir(&vault).join("journal")).pop().unwrap();
    let whole = fs::read(&journal).unwrap();
    for cut in [whole.len() - 1, whole.len() / 2, 0] {
        fs::write(&journal, &whole[..cut]).unwrap();
        let refusal = vault.refusal();
        assert!(refusal.text.contains("audit log") && refusal.text.contains("damaged at entry"), "{}", refusal.text);
        vault.verify().expect(8);
    }
    fs::write(&journal, whole).unwrap();
    fs::rename(audit_dir(&vault), vault.root().join("elsewhere")).unwrap();
    assert!(vault.verify().expect(8).err.contains("is missing"));
    fs::rename(vault.root().join("elsewhere"), audit_dir(&vault)).unwrap();
    vault.start().stop();
    vault.verify().expect(0);
}

#[test]
fn the_command_line_shows_and_exports_entries() {
    let vault = Vault::dev();
    let running = vault.start();
    read(&running, 30);
    let tail = running.cli(&["audit", "tail", "-n", "5"]).expect(0);
    assert!(tail.out.lines().count() == 6 && tail.out.contains("describe"), "{}", tail.out);
    let exported = running.cli(&["audit", "export", "--from", "3", "--to", "13"]).expect(0);
    let lines: Vec<Value> = exported.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.len() == 10 && lines.iter().all(|entry| entry["at"].is_string()), "{}", exported.out);
    let all = running.cli(&["audit", "export"]).expect(0);
    assert!(all.out.lines().count() > 33 && all.out.contains(r#""what":"start""#));
    running.stop();
}
