//! Locking and unlocking: what a locked vault answers, and what opens it.

use std::io::Write;
use std::net::TcpStream;

use serde_json::json;

use crate::harness::{Client, Vault, plain_words, wait_for};

const PASSPHRASE: &str = "correct horse battery staple";

fn everything_is_locked(admin: &Client, nobody: &Client) {
    let fields = json!({ "fields": { "name": "x" } }).to_string();
    let lookup = json!({ "field": "phone", "value": "+971501238301" }).to_string();
    let erasure = json!({ "subjects": ["jane"], "reason": "x" }).to_string();
    let batch = json!({ "items": [{ "subject": "jane" }] }).to_string();
    for (method, path, body) in [
        ("GET", "/v1/subjects/jane", None),
        ("GET", "/v1/subjects/jane/fields", None),
        ("PATCH", "/v1/subjects/jane/fields", Some(&fields)),
        ("DELETE", "/v1/subjects/jane", None),
        ("POST", "/v1/lookups", Some(&lookup)),
        ("POST", "/v1/erasures", Some(&erasure)),
        ("GET", "/v1/erasures", None),
        ("GET", "/v1/keys", None),
        ("GET", "/v1/callers", None),
    ] {
        admin.send(method, path, &[], body.map(String::as_str)).problem(423, "locked");
    }
    let results = admin.send("POST", "/v1/batch/read", &[], Some(&batch));
    assert!(results.status == 423 || results.json()["results"][0]["status"] == 423, "{}", results.body);
    assert_eq!(nobody.get("/readyz").expect(503).json()["status"], "locked");
    nobody.get("/healthz").expect(200);
    let metrics = nobody.get("/metrics").expect(200);
    assert!(metrics.body.contains("locked"), "{}", metrics.body);
}

#[test]
fn a_vault_with_a_configured_key_is_locked_and_unlocked() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    admin.set("jane", &json!({ "name": "Jane" })).expect(201);
    let auditor = running.caller("auditor", &[]);
    assert_eq!(admin.send("POST", "/v1/lock", &[], None).expect(200).json(), json!({ "state": "locked" }));
    everything_is_locked(admin, &running.nobody());
    let status = admin.get("/v1/status").expect(200).json();
    assert_eq!((&status["state"], &status["epoch"]), (&json!("locked"), &json!(null)));
    assert_eq!(running.cli(&["subject", "show", "jane"]).code, Some(6));

    running.nobody().post("/v1/unlock", &json!({})).problem(401, "unauthenticated");
    assert_eq!(auditor.post("/v1/unlock", &json!({})).problem(403, "forbidden")["rule"], "role");
    admin.post("/v1/unlock", &json!({ "passphrase": "there is none" })).problem(409, "conflict");
    assert_eq!(admin.post("/v1/unlock", &json!({})).expect(200).json(), json!({ "state": "unlocked" }));
    assert_eq!(admin.field("jane", "name").expect(200).json()["value"], "Jane");
    running.nobody().get("/readyz").expect(200);

    running.cli(&["lock"]).expect(0);
    running.cli(&["unlock", "--configured-key"]).expect(0);
    admin.get("/v1/subjects/jane").expect(200);
    running.stop();
}

#[test]
fn a_vault_with_a_passphrase_starts_locked() {
    let vault = Vault::unmade("");
    let file = vault.root().join("passphrase");
    std::fs::write(&file, format!("{PASSPHRASE}\n")).unwrap();
    let file = file.to_str().unwrap();
    vault.init(&["--passphrase-file", file]).expect(0);
    let running = vault.start();
    let nobody = running.nobody();
    // Before its first unlock it knows nobody.
    let status = running.admin.get("/v1/status");
    assert!([200, 423].contains(&status.status), "{}", status.body);
    assert_eq!(nobody.get("/readyz").expect(503).json()["status"], "locked");
    running.admin.get("/v1/subjects/jane").problem(423, "locked");

    let wrong = nobody.post("/v1/unlock", &json!({ "passphrase": "incorrect horse" }));
    wrong.problem(403, "wrong_unlock_key");
    assert!(!wrong.body.contains("horse"), "{}", wrong.body);
    let malformed = nobody.send("POST", "/v1/unlock", &[], Some("{\"passphrase\": correct horse}"));
    malformed.problem(400, "malformed");
    assert!(!malformed.body.contains("horse"), "{}", malformed.body);
    running.admin.post("/v1/unlock", &json!({ "passphrase": "" })).problem(403, "wrong_unlock_key");

    nobody.post("/v1/unlock", &json!({ "passphrase": PASSPHRASE })).expect(200);
    running.admin.set("jane", &json!({ "name": "Jane" })).expect(201);
    running.admin.post("/v1/lock", &json!({})).expect(200);
    running.admin.post("/v1/unlock", &json!({})).problem(409, "conflict");
    everything_is_locked(&running.admin, &nobody);
    running.cli(&["unlock", "--passphrase-file", file]).expect(0);
    assert_eq!(running.admin.field("jane", "name").expect(200).json()["value"], "Jane");
    let log = running.stop();
    assert!(!log.contains("horse"), "{log}");
    plain_words(&log);
}

#[test]
fn guessing_at_a_passphrase_is_slowed_down() {
    let vault = Vault::unmade("");
    let file = vault.root().join("passphrase");
    std::fs::write(&file, PASSPHRASE).unwrap();
    vault.init(&["--passphrase-file", file.to_str().unwrap()]).expect(0);
    let running = vault.start();
    let guess = || running.nobody().post("/v1/unlock", &json!({ "passphrase": "a guess" }));
    let refused = (0..20).map(|_| guess()).find(|answer| answer.status != 403).unwrap();
    refused.problem(429, "rate_limited");
    assert!(refused.header("retry-after").is_some_and(|after| after.parse::<u64>().is_ok_and(|after| after > 0)));
    // It binds who knows the passphrase as well.
    let right = running.nobody().post("/v1/unlock", &json!({ "passphrase": PASSPHRASE }));
    right.problem(429, "rate_limited");
    running.stop();
}

#[test]
fn strangers_who_unlock_slowly_keep_out_nobody_else() {
    let vault = Vault::dev();
    let running = vault.start();
    let address = running.server.url.strip_prefix("http://").unwrap();
    let head =
        "POST /v1/unlock HTTP/1.1\r\nHost: vault\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    let slow: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(head.as_bytes()).unwrap();
            stream.set_nonblocking(true).unwrap();
            stream
        })
        .collect();
    // Some wait for the rest of their body; who comes when enough of them do is turned away.
    let refused = |stream: &&TcpStream| {
        let mut first = [0; 12];
        stream.peek(&mut first).is_ok_and(|read| read == 12) && &first == b"HTTP/1.1 503"
    };
    wait_for("as many refusals as do not fit", || (slow.iter().filter(refused).count() >= 24).then_some(()));
    running.admin.get("/v1/status").expect(200);
    drop(slow);
    running.stop();
}
