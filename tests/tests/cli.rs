//! The command line against a real server: what it prints where, and the exit codes that scripts rely on.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Vault, run};

#[test]
fn a_subject_is_put_shown_found_and_a_field_forgotten() {
    let vault = Vault::configured();
    let running = vault.start();
    running.cli(&["subject", "put", "jane", "name=Jane Roe", "phone=+971501238301"]).expect(0);
    let address = r#"home_address={"street": "Elm Street 12", "city": "Springfield"}"#;
    running.cli(&["subject", "put", "jane", address, "--null", "nickname"]).expect(0);
    let masked = running.cli(&["subject", "show", "jane"]).expect(0);
    assert!(masked.out.contains("phone") && !masked.out.contains("501238301"), "{}", masked.out);
    let full = ["--output", "json", "subject", "show", "jane", "--view", "full", "--purpose", "account"];
    let shown: Value = serde_json::from_str(&running.cli(&full).expect(0).out).unwrap();
    assert_eq!(shown["fields"]["name"], "Jane Roe");
    assert_eq!(shown["fields"]["home_address"]["city"], "Springfield");
    let found = running.cli(&["subject", "lookup", "phone", "050 123 8301", "--region", "AE"]).expect(0);
    assert_eq!(found.out, "jane\n");
    let none = running.cli(&["subject", "lookup", "phone", "+971501238302"]);
    assert!(none.out.is_empty() && [Some(0), Some(3)].contains(&none.code), "{none:?}");

    running.cli(&["subject", "forget", "jane", "phone"]).refused(2, "--yes");
    running.cli(&["--yes", "subject", "forget", "jane", "phone"]).expect(0);
    running.admin.field("jane", "phone").problem(404, "unknown_field_value");
    running.stop();
}

#[test]
fn a_bad_line_of_an_import_harms_no_other() {
    let vault = Vault::configured();
    let running = vault.start();
    let file = vault.root().join("some.ndjson");
    let lines = [
        r#"{"subject": "a", "name": "A"}"#,
        r#"{"subject": "b", "name": "B", "email": "nobody-at-example"}"#,
        "",
        r#"{"subject": "c", "name": "C""#,
        r#"{"name": "no subject here"}"#,
        r#"{"subject": "d", "phone_national": "050 999", "region": "AE"}"#,
        r#"{"subject": "e", "name": "E", "phone_national": "050 123 8301", "region": "AE", "shoe_size": 9}"#,
    ];
    fs::write(&file, lines.join("\n")).unwrap();
    let import = running.cli(&["subject", "import", file.to_str().unwrap()]).expect(9);
    for number in ["2", "4", "5", "6"] {
        let told = import.err.lines().any(|line| line.contains(&format!("line {number}")));
        assert!(told, "line {number} is not in: {}", import.err);
    }
    for value in ["nobody-at-example", "no subject here", "050 999"] {
        assert!(!import.err.contains(value) && !import.out.contains(value), "{}", import.err);
    }
    for (id, status) in [("a", 200), ("b", 404), ("c", 404), ("d", 404), ("e", 200)] {
        assert_eq!(running.admin.get(&format!("/v1/subjects/{id}")).status, status, "{id}");
    }
    let again = running.cli(&["subject", "import", file.to_str().unwrap()]).expect(9);
    assert!(again.out.contains("0 created, 2 merged, 4 failed"), "{}", again.out);
    running.cli(&["subject", "import", "/nonexistent.ndjson"]).refused(1, "/nonexistent.ndjson");
    running.stop();
}

#[test]
fn exit_codes_tell_what_happened() {
    let vault = Vault::configured();
    let running = vault.start();
    running.admin.set("jane", &json!({ "name": "Jane" })).expect(201);
    let token = vault.root().join("token");
    let name = token.to_str().unwrap();
    running.cli(&["caller", "create", "watcher", "--role", "auditor", "--token-out", name]).expect(0);
    running.cli(&["--token-file", name, "status"]).expect(0);
    running.cli(&["--token-file", name, "subject", "show", "jane"]).refused(4, "role");
    running.cli(&["subject", "show", "jane", "--view", "full", "--names", "name"]).refused(4, "purpose_required");
    running.cli(&["subject", "show", "nobody"]).expect(3);
    running.cli(&["subject", "put", "jane", "email=nowhere"]).refused(1, "email");
    running.cli(&["subject", "put", "jane"]).expect(2);
    running.cli(&["key", "rotate", "everything"]).expect(2);
    fs::write(&token, "udv_nonsense\n").unwrap();
    running.cli(&["--token-file", name, "status"]).expect(4);
    running.cli(&["--token-file", "/nonexistent", "status"]).refused(running_code(&running), "/nonexistent");
    running.cli(&["caller", "create", "king", "--role", "king"]).refused(1, "role");

    let listed = running.cli(&["--output", "json", "caller", "list"]).expect(0);
    let listed: Value = serde_json::from_str(&listed.out).unwrap();
    let callers = listed.get("data").unwrap_or(&listed).as_array().unwrap().clone();
    let watcher = callers.iter().find(|caller| caller["name"] == "watcher").unwrap()["id"].as_str().unwrap();
    running.cli(&["caller", "revoke", watcher]).refused(2, "--yes");
    running.cli(&["--yes", "caller", "revoke", watcher]).expect(0);
    running.cli(&["--yes", "caller", "revoke", watcher]).expect(3);
    running.cli(&["lock"]).expect(0);
    running.cli(&["subject", "show", "jane"]).expect(6);

    let command = running.cli_command(&["status"]);
    running.stop();
    // Nobody listens there any more.
    run(command).refused(6, "127.0.0.1");
}

/// A token file that cannot be read: the machine's own failure, or nobody authenticated.
fn running_code(running: &crate::harness::Running) -> i32 {
    let code = running.cli(&["--token-file", "/nonexistent", "status"]).code.unwrap();
    assert!([1, 2, 4].contains(&code), "{code}");
    code
}
