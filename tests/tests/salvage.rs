//! `verify --salvage`: what still opens of a damaged vault is written out, and another vault takes it back.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use vault_core::store::EngineName;

use crate::harness::{Finished, Rows, Running, Vault, plain_words, run, server_command};

const SUBJECTS: usize = 30;
const SCHEMA: &str = include_str!("../../docs/schema/privacy-policy.toml");

fn made(engine: EngineName) -> Vault {
    Vault::configured_in(tempfile::tempdir().unwrap(), engine)
}

/// All but `s0`, which is shredded.
fn filled(engine: EngineName) -> Vault {
    let vault = made(engine);
    let running = vault.start();
    let admin = &running.admin;
    admin.send("PUT", "/v1/schema", &[("content-type", "application/toml")], Some(SCHEMA)).expect(200);
    let items: Vec<_> = (0..SUBJECTS).map(|n| json!({ "subject": format!("s{n}"), "fields": fields(n) })).collect();
    let answer = admin.post("/v1/batch/write", &json!({ "items": items })).expect(200).json();
    assert!(answer["results"].as_array().unwrap().iter().all(|result| result["status"] == 201), "{answer}");
    admin.put("/v1/subjects/s1/restriction", &json!({ "reason": "a dispute" })).expect(200);
    admin.delete("/v1/subjects/s0").expect(200);
    running.stop();
    vault
}

/// One of them is declared by the schema alone.
fn fields(n: usize) -> Value {
    let phone = json!({ "national": format!("050 12 {n:05}"), "region": "AE" });
    json!({ "name": format!("n{n}"), "phone": phone, "software": { "n": n } })
}

fn salvage(vault: &Vault, to: &Path) -> Finished {
    let mut command = server_command();
    command.args(["verify", "--no-progress", "--config"]).arg(vault.config()).arg("--salvage").arg(to);
    let finished = run(command);
    plain_words(&format!("{}{}", finished.out, finished.err));
    finished
}

fn lines(dir: &Path) -> Vec<Value> {
    let text = fs::read_to_string(dir.join("subjects.ndjson")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn report(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join("report.json")).unwrap()).unwrap()
}

fn mode(path: PathBuf) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The number of accesses of a subject that are an export.
fn exports(running: &Running, subject: &str) -> usize {
    let seen = running.admin.get(&format!("/v1/subjects/{subject}/accesses")).expect(200).json();
    seen["data"].as_array().unwrap().iter().filter(|access| access["what"] == "export").count()
}

fn comes_back(engine: EngineName) {
    let vault = filled(engine);
    let whole = vault.root().join("whole");
    let told = salvage(&vault, &whole).expect(0);
    assert!(told.err.contains("plain text"), "{}", told.err);
    assert!(told.out.contains("the restrictions of 1 subjects"), "{}", told.out);
    assert_eq!(lines(&whole).len(), SUBJECTS - 1, "the control: undamaged, everybody who was not shredded");
    assert_eq!(report(&whole)["whole"], SUBJECTS - 1);
    assert_eq!((mode(whole.clone()), mode(whole.join("subjects.ndjson"))), (0o700, 0o600));
    assert_eq!((mode(whole.join("report.json")), mode(whole.join("schema.toml"))), (0o600, 0o600));
    salvage(&vault, &whole).refused(1, "is not empty");
    let running = vault.start();
    assert_eq!(exports(&running, "s1"), 1, "it is told in the audit log");
    running.stop();
    vault.verify().expect(0);

    let rows = Rows::open_with(&vault, engine);
    let data = rows.of(b'd');
    let (key, mut value) = data[3].clone();
    *value.last_mut().unwrap() ^= 1;
    rows.put(vec![(key, value)]);
    rows.delete(vec![data[5].0.clone(), b"m".to_vec()]);
    rows.close();
    vault.refusal().says("META");
    let partly = vault.root().join("partly");
    let told = salvage(&vault, &partly).expect(8);
    assert!(told.out.contains("META record is missing"), "{}", told.out);
    let found = report(&partly);
    assert_eq!((&found["whole"], &found["partly"]), (&json!(SUBJECTS - 3), &json!(2)), "{found}");
    assert!(!found.to_string().contains("050 12"), "no values: {found}");
    let salvaged = lines(&partly);
    let damaged: Vec<_> = salvaged.iter().filter(|line| line.get("lost").is_some()).collect();
    assert_eq!(damaged.len(), 2, "{damaged:?}");
    assert!(salvaged.iter().all(|line| line["subject"] != "s0"), "who was shredded stays so");

    let other = made(engine);
    let running = other.start();
    running.cli(&["schema", "apply", "--yes", partly.join("schema.toml").to_str().unwrap()]).expect(0);
    let imported = running.cli(&["subject", "import", partly.join("subjects.ndjson").to_str().unwrap()]);
    assert!(imported.out.contains("created") || imported.err.contains("created"), "{imported:?}");
    for line in &salvaged {
        let subject = line["subject"].as_str().unwrap();
        let given: usize = subject[1..].parse().unwrap();
        for field in line["fields"].as_array().unwrap() {
            let name = field["name"].as_str().unwrap();
            let purpose = if name == "software" { "security" } else { "account" };
            let read =
                running.admin.for_purpose(purpose).get(&format!("/v1/subjects/{subject}/fields/{name}?view=full"));
            assert_eq!(read.expect(200).json()["value"], field["value"], "{subject} {name}");
            assert_eq!(field["value"], fields(given)[name], "{subject} {name}");
        }
    }
    running.stop();
    other.verify().expect(0);
}

#[test]
fn a_damaged_vault_on_sled_comes_back_as_far_as_it_opens() {
    comes_back(EngineName::Sled);
}

#[test]
fn a_damaged_vault_on_fjall_comes_back_as_far_as_it_opens() {
    comes_back(EngineName::Fjall);
}

#[test]
fn without_the_key_or_the_header_nothing_is_salvaged() {
    let vault = filled(EngineName::Sled);
    let to = vault.root().join("out");
    let rows = Rows::open_with(&vault, EngineName::Sled);
    let pages = rows.of(b'p');
    rows.delete(pages.iter().map(|(key, _)| key.clone()).collect());
    rows.close();
    salvage(&vault, &to).refused(8, "nothing can be salvaged without the vault header");
    assert!(!to.exists(), "nothing was written");
    let rows = Rows::open_with(&vault, EngineName::Sled);
    rows.put(pages);
    rows.close();
    let other = made(EngineName::Sled);
    fs::copy(other.data().join("unlock.key"), vault.data().join("unlock.key")).unwrap();
    salvage(&vault, &to).refused(1, "does not open the root slot");
    let running = other.start();
    let mut command = server_command();
    command.args(["verify", "--config"]).arg(other.config()).arg("--salvage").arg(&to);
    run(command).refused(1, "in use by another process");
    running.stop();
}
