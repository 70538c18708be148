//! Real use: `init`, `run`, `check-config`, `admin-token` and `verify`, and configurations that are refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use vault_core::store::EngineName;

use crate::harness::{Finished, Vault, files_under, overwrite, run, server_command};

fn server(arguments: &[&str]) -> Finished {
    let mut command = server_command();
    command.args(arguments);
    run(command)
}

fn check_config(vault: &Vault) -> Finished {
    server(&["check-config", "--config", vault.config().to_str().unwrap()])
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn init_makes_a_vault_once() {
    let vault = Vault::configured();
    for name in ["unlock.key", "admin.token", "root.slot"] {
        assert_eq!(mode(&vault.data().join(name)), 0o600, "{name}");
    }
    let before: Vec<_> = ["unlock.key", "admin.token", "root.slot"]
        .iter()
        .map(|name| fs::read(vault.data().join(name)).unwrap())
        .collect();
    let key = vault.root().join("other.key");
    let key = key.to_str().unwrap();
    vault.init(&["--no-passphrase", "--key-file", key]).refused(1, "exists already");
    fs::remove_file(vault.token_file()).unwrap();
    vault.init(&["--no-passphrase", "--key-file", key]).refused(1, "root.slot");
    fs::write(vault.token_file(), &before[1]).unwrap();
    // A lost slot does not make the store free to be taken.
    let slot = vault.data().join("root.slot");
    fs::rename(&slot, vault.root().join("kept.slot")).unwrap();
    fs::rename(vault.token_file(), vault.root().join("kept.token")).unwrap();
    vault.init(&["--no-passphrase", "--key-file", key]).refused(1, "exists already");
    assert!(!slot.exists(), "a refused init leaves no slot behind");
    assert!(!Path::new(key).exists(), "a refused init leaves no key behind");
    fs::rename(vault.root().join("kept.slot"), &slot).unwrap();
    fs::rename(vault.root().join("kept.token"), vault.token_file()).unwrap();
    for (name, bytes) in ["unlock.key", "admin.token", "root.slot"].iter().zip(&before) {
        assert_eq!(&fs::read(vault.data().join(name)).unwrap(), bytes, "{name}");
    }
    vault.start().stop();
}

#[test]
fn init_prints_the_api_token_once_and_takes_no_weak_passphrase() {
    let vault = Vault::unmade("");
    let config = vault.config();
    let config = config.to_str().unwrap();
    let file = vault.root().join("passphrase");
    let file_name = file.to_str().unwrap();
    for weak in ["", "\n", "short"] {
        fs::write(&file, weak).unwrap();
        assert_eq!(server(&["init", "--config", config, "--passphrase-file", file_name]).code, Some(1));
    }
    let absent = vault.root().join("absent");
    let absent = absent.to_str().unwrap();
    server(&["init", "--config", config, "--passphrase-file", absent]).refused(1, "absent");
    server(&["init", "--config", config]).refused(1, "--passphrase-file");
    fs::write(&file, "correct horse battery\n").unwrap();
    let made = server(&["init", "--config", config, "--passphrase-file", file_name]).expect(0);
    assert!(made.out.trim().starts_with("udv_") && made.out.lines().count() == 1, "{}", made.out);
    assert!(!made.err.contains("udv_") && !made.err.contains("horse"), "{}", made.err);

    fs::write(vault.token_file(), &made.out).unwrap();
    let running = vault.start();
    running.cli(&["unlock", "--passphrase-file", file_name]).expect(0);
    running.admin.get("/v1/callers").expect(200);
    running.stop();
}

#[test]
fn both_a_passphrase_and_a_key_file_open_one_vault() {
    let vault = Vault::unmade("[unlock]\npassphrase_file = \"../passphrase\"\n");
    fs::write(vault.root().join("passphrase"), "correct horse battery\n").unwrap();
    let [file, key] = [vault.root().join("passphrase"), vault.data().join("unlock.key")];
    vault.init(&["--passphrase-file", file.to_str().unwrap(), "--key-file", key.to_str().unwrap()]).expect(0);
    let running = vault.start();
    running.admin.set("jane", &json!({ "name": "Jane" })).expect(201);
    let keys = running.admin.get("/v1/keys").expect(200).json();
    let methods = keys["layers"].as_array().unwrap().iter().find(|layer| layer["layer"] == "unlock").unwrap();
    let mut methods: Vec<_> = methods["methods"].as_array().unwrap().iter().map(|m| m.as_str().unwrap()).collect();
    methods.sort_unstable();
    assert_eq!(methods, ["key-file", "passphrase"]);
    running.stop();
    // `verify --data` takes the key file, `verify --config` the passphrase.
    vault.verify().expect(0);
    let config = vault.config();
    server(&["verify", "--no-progress", "--config", config.to_str().unwrap()]).expect(0);
    fs::write(vault.root().join("passphrase"), "incorrect horse battery\n").unwrap();
    server(&["verify", "--no-progress", "--config", config.to_str().unwrap()])
        .refused(1, "does not open the root slot");
    vault.refusal().says("does not open the root slot");
}

#[test]
fn a_passphrase_that_is_typed_and_a_key_file_in_a_safe_are_replaced_while_the_vault_serves() {
    let vault = Vault::unmade("");
    let [typed, next, safe, new] = ["typed", "next", "safe.key", "new.key"].map(|name| vault.root().join(name));
    let [typed, next, safe, new] = [&typed, &next, &safe, &new].map(|path| path.to_str().unwrap());
    fs::write(typed, "correct horse battery\n").unwrap();
    fs::write(next, "staple by the window\n").unwrap();
    vault.init(&["--passphrase-file", typed, "--key-file", safe]).expect(0);
    let running = vault.start();
    running.cli(&["unlock", "--passphrase-file", typed]).expect(0);
    running.admin.set("jane", &json!({ "name": "Jane" })).expect(201);

    let rotate = |more: &[&str]| running.cli(&[&["key", "rotate", "unlock", "--passphrase-file", next], more].concat());
    rotate(&[]).refused(5, "--key-file FILE");
    rotate(&["--key-file", safe]).refused(1, "safe.key");
    running.cli(&["key", "rotate", "keks", "--key-file", new]).refused(2, "--key-file is for unlock");
    fs::write(typed, "short").unwrap();
    let refused = running.cli(&["key", "rotate", "unlock", "--passphrase-file", typed, "--key-file", new]);
    refused.refused(1, "8 characters");
    assert!(!Path::new(new).exists(), "what opens nothing is not left");
    let done = rotate(&["--key-file", new]).expect(0);
    assert!(done.out.contains("done"), "{}", done.out);
    assert_eq!(mode(Path::new(new)), 0o600);

    running.cli(&["lock"]).expect(0);
    fs::write(typed, "correct horse battery\n").unwrap();
    running.cli(&["unlock", "--passphrase-file", typed]).refused(4, "");
    running.cli(&["unlock", "--passphrase-file", next]).expect(0);
    assert_eq!(running.admin.field("jane", "name").expect(200).json()["value"], "Jane");
    running.stop();
    // The new key file opens it as well; the one from before does not.
    fs::copy(safe, vault.data().join("unlock.key")).unwrap();
    assert_ne!(vault.verify().code, Some(0));
    fs::copy(new, vault.data().join("unlock.key")).unwrap();
    vault.verify().expect(0);
}

#[test]
fn a_configuration_is_checked_whole() {
    let vault = Vault::configured();
    check_config(&vault).expect(0);
    let good = fs::read_to_string(vault.config()).unwrap();
    let lines = good.lines().count();
    for (added, words) in [
        ("colour = \"red\"\n", format!("line {}", lines + 1)),
        ("[colours]\nred = 1\n", format!("line {}", lines + 1)),
        ("[log]\nformat = \"loud\"\n", format!("line {}", lines + 2)),
        ("[limits]\nmax_in_flight = -1\n", format!("line {}", lines + 2)),
        ("[limits\n", format!("line {}", lines + 1)),
        ("[tls]\ncert = \"cert.pem\"\n", "both".to_owned()),
    ] {
        fs::write(vault.config(), format!("{good}{added}")).unwrap();
        check_config(&vault).refused(1, &words);
        vault.refusal().says(&words);
    }
    fs::write(vault.config(), &good).unwrap();

    let mut command = server_command();
    command.arg("check-config").arg("--config").arg(vault.config()).env("UDV_SERVER__LISTEN", "0.0.0.0:0");
    run(command).refused(1, "TLS");
    let mut command = server_command();
    command.arg("check-config").arg("--config").arg(vault.config()).env("UDV_SERVER__LISTENER", "127.0.0.1:0");
    run(command).refused(1, "UDV_SERVER__LISTENER");
    let mut command = server_command();
    command.arg("check-config").arg("--config").arg(vault.config()).env("UDV_SERVER__LISTEN", "127.0.0.1:1234");
    assert!(run(command).expect(0).out.contains("127.0.0.1:1234"));
    server(&["check-config", "--config", "/nonexistent/vault.toml"]).refused(1, "/nonexistent/vault.toml");
}

#[test]
fn others_are_not_served_without_tls() {
    let vault = Vault::configured();
    let good = fs::read_to_string(vault.config()).unwrap();
    fs::write(vault.config(), good.replace("127.0.0.1:0", "0.0.0.0:0")).unwrap();
    vault.refusal().says("TLS");
    let data = vault.data();
    server(&["dev", "--listen", "0.0.0.0:0", "--data", data.to_str().unwrap()]).refused(2, "loopback");
    server(&["dev", "--listen", "[::]:0", "--data", data.to_str().unwrap()]).refused(2, "loopback");
}

#[test]
fn other_unlock_keys_take_the_place_of_those_before() {
    let vault = Vault::configured();
    let (config, key) = (vault.config(), vault.data().join("unlock.key"));
    let config = config.to_str().unwrap();
    let [old_key, passphrase] = [vault.root().join("old.key"), vault.root().join("passphrase")];
    let change = |arguments: &[&str]| server(&[&["unlock-key", "--config", config], arguments].concat());
    let running = vault.start();
    running.admin.set("a", &json!({ "email": "a@example.org" })).expect(201);
    fs::write(&passphrase, "correct horse battery\n").unwrap();
    let passphrase = passphrase.to_str().unwrap();
    change(&["--new-passphrase-file", passphrase]).refused(1, "Stop the server");
    running.stop();

    change(&["--new-key-file", key.to_str().unwrap()]).refused(1, "exists already");
    fs::rename(&key, &old_key).unwrap();
    let old = old_key.to_str().unwrap();
    change(&["--passphrase-file", passphrase, "--keep-key-file", old]).refused(1, "");
    fs::copy(&old_key, &key).unwrap();
    change(&["--new-passphrase-file", passphrase, "--keep-key-file", old]).expect(0);
    let running = vault.start();
    let keys = running.admin.get("/v1/keys").expect(200).json();
    let unlock = keys["layers"].as_array().unwrap().iter().find(|layer| layer["layer"] == "unlock").unwrap();
    assert_eq!(unlock["methods"], json!(["key-file", "passphrase"]));
    running.stop();

    let new_key = vault.root().join("new.key");
    change(&["--passphrase-file", passphrase, "--new-key-file", new_key.to_str().unwrap()]).expect(0);
    assert_eq!(mode(&new_key), 0o600);
    let refusal = vault.refusal();
    assert!(refusal.text.contains("does not open the root slot"), "the old key file: {}", refusal.text);
    change(&["--passphrase-file", passphrase, "--keep-key-file", old]).refused(1, "");
    fs::copy(&new_key, &key).unwrap();
    let running = vault.start();
    assert_eq!(running.admin.field("a", "email").expect(200).json()["value"], "a@example.org");
    running.stop();
    vault.verify().expect(0);
}

/// A terminal that is gone, or a full disk that its lines go to.
#[test]
fn a_command_whose_lines_nobody_takes_does_what_it_was_asked_for() {
    let vault = Vault::configured();
    let passphrase = vault.root().join("passphrase");
    fs::write(&passphrase, "correct horse battery\n").unwrap();
    let unheard = |arguments: &[&str]| {
        let mut command = Command::new("sh");
        command.args(["-c", r#""$@" >/dev/full 2>&1"#, "sh"]).arg(server_command().get_program()).args(arguments);
        command.status().unwrap().code()
    };
    let (config, key) = (vault.config(), vault.data().join("unlock.key"));
    let config = config.to_str().unwrap();
    assert_eq!(unheard(&["check-config", "--config", config]), Some(0));
    let new = passphrase.to_str().unwrap();
    assert_eq!(unheard(&["unlock-key", "--config", config, "--new-passphrase-file", new]), Some(0));
    vault.refusal().says("unlock");
    let (other, passphrase) = (vault.root().join("other.key"), passphrase.to_str().unwrap());
    let other = other.to_str().unwrap();
    fs::remove_file(key).unwrap();
    let back = ["unlock-key", "--config", config, "--passphrase-file", passphrase, "--new-key-file", other];
    assert_eq!(unheard(&back), Some(0), "the passphrase opens it");
}

#[test]
fn a_lost_api_token_is_replaced_by_who_can_unlock() {
    let vault = Vault::dev();
    let running = vault.start();
    running.admin.set("jane", &json!({ "name": "Jane" })).expect(201);
    let data = vault.data();
    let data = data.to_str().unwrap();
    server(&["admin-token", "--data", data]).refused(1, "vault-cli caller create");
    running.stop();

    let made = server(&["admin-token", "--data", data]).expect(0);
    let out = vault.root().join("new.token");
    server(&["admin-token", "--data", data, "--out", out.to_str().unwrap()]).expect(0);
    assert_eq!(mode(&out), 0o600);
    server(&["admin-token", "--data", data, "--out", out.to_str().unwrap()]).refused(1, "exists already");
    let running = vault.start();
    for token in [made.out.trim(), fs::read_to_string(out).unwrap().trim()] {
        running.admin.with_token(Some(token)).get("/v1/callers").expect(200);
    }
    assert_eq!(running.admin.get("/v1/callers").expect(200).json()["data"].as_array().unwrap().len(), 3);
    running.stop();
}

#[test]
fn dev_makes_its_directory_for_its_owner_only() {
    let vault = Vault::dev();
    let running = vault.start();
    assert_eq!(mode(&vault.data()), 0o700);
    for name in ["unlock.key", "admin.token", "root.slot"] {
        assert_eq!(mode(&vault.data().join(name)), 0o600, "{name}");
    }
    let log = running.stop();
    assert!(log.contains("admin.token") && log.contains("vault-cli") && log.contains("curl"), "{log}");
    let token = fs::read_to_string(vault.token_file()).unwrap();
    assert!(!log.contains(token.trim()), "the API token itself is not printed");

    let taken = Vault::dev();
    fs::create_dir(taken.data()).unwrap();
    fs::write(taken.data().join("thesis.txt"), "mine").unwrap();
    taken.refusal().says("neither empty nor a vault");
    assert_eq!(files_under(&taken.data()).len(), 1);
}

#[test]
fn a_moved_and_copied_vault_starts_from_any_path() {
    let vault = Vault::dev();
    let running = vault.start();
    running.admin.set("jane", &json!({ "name": "Jane" })).expect(201);
    running.stop();
    let other = Vault::dev();
    crate::harness::copy_dir(&vault.data(), &other.data());
    let running = other.start();
    assert_eq!(running.admin.field("jane", "name").expect(200).json()["value"], "Jane");
    running.stop();
}

#[test]
fn damage_is_found_and_listed_or_told() {
    let vault = Vault::configured_in(tempfile::tempdir().unwrap(), EngineName::Sled);
    let running = vault.start();
    for number in 0..50 {
        let fields = json!({ "name": "n".repeat(200), "email": format!("s{number}@example.org") });
        running.admin.set(&format!("s{number}"), &fields).expect(201);
    }
    running.stop();
    let sound = vault.verify().expect(0);
    assert!(sound.out.contains("50 subjects") && sound.out.contains("100 fields"), "{}", sound.out);

    let db = vault.data().join("store/db");
    let whole = fs::read(&db).unwrap();
    let written: Vec<_> = whole.iter().enumerate().filter(|(_, byte)| **byte != 0).map(|(at, _)| at).collect();
    let mut listed = 0;
    for part in 1..10 {
        fs::write(&db, &whole).unwrap();
        let at = written[written.len() * part / 10];
        overwrite(&db, at as u64, &[!whole[at], !whole[at + 1], !whole[at + 2]]);
        let checked = vault.verify();
        match checked.code {
            // It hit what the engine no longer needs.
            Some(0) => {}
            Some(8) if !checked.out.trim().is_empty() => listed += 1,
            // The store as a whole does not open.
            Some(1 | 8) => assert!(checked.err.contains("damaged"), "{}", checked.err),
            other => panic!("{other:?}: {} {}", checked.out, checked.err),
        }
        crate::harness::plain_words(&format!("{}{}", checked.out, checked.err));
        assert!(!checked.out.contains("example.org") && !checked.err.contains("example.org"));
    }
    eprintln!("of 9 places damaged, {listed} were listed by verify");
    fs::write(&db, &whole).unwrap();
}
