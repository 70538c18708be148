//! Every role on every path: allowed, or refused by the rule `role` before anything else is looked at.

use serde_json::{Value, json};

use crate::harness::Vault;

/// Method, path, body, and the roles that may: admin, service, security (k for keys), privacy, auditor.
const TABLE: &[(&str, &str, &str, &str)] = &[
    ("GET", "/v1/status", "", "askpu"),
    ("PATCH", "/v1/subjects/jane/fields", r#"{"fields":{}}"#, "as"),
    ("GET", "/v1/subjects/jane/fields", "", "asp"),
    ("GET", "/v1/subjects/jane/fields/name", "", "asp"),
    ("PUT", "/v1/subjects/jane/fields/name", "{}", "as"),
    ("DELETE", "/v1/subjects/jane/fields/email", "", "asp"),
    ("GET", "/v1/subjects/jane/fields/name/metadata", "", "asp"),
    ("PATCH", "/v1/subjects/jane/fields/name/metadata", "{}", "asp"),
    ("POST", "/v1/metadata/search", "{}", "ap"),
    ("POST", "/v1/metadata/apply", "{}", "ap"),
    ("GET", "/v1/subjects/jane/export", "", "ap"),
    ("GET", "/v1/subjects/jane", "", "asp"),
    ("DELETE", "/v1/subjects/nobody", "", "ap"),
    ("GET", "/v1/subjects/jane/consents", "", "asp"),
    ("PUT", "/v1/subjects/jane/consents/marketing", "{}", "asp"),
    ("DELETE", "/v1/subjects/jane/consents/marketing", "", "asp"),
    ("PUT", "/v1/subjects/jane/restriction", "", "ap"),
    ("DELETE", "/v1/subjects/jane/restriction", "", "ap"),
    ("PUT", "/v1/subjects/jane/holds/none", "{}", "ap"),
    ("DELETE", "/v1/subjects/jane/holds/none", "", "ap"),
    ("GET", "/v1/holds", "", "ap"),
    ("POST", "/v1/lookups", "{}", "as"),
    ("POST", "/v1/batch/write", "{}", "as"),
    ("POST", "/v1/batch/read", "{}", "as"),
    ("POST", "/v1/erasures", "{}", "ap"),
    ("GET", "/v1/erasures", "", "ap"),
    ("GET", "/v1/erasures/none", "", "ap"),
    ("GET", "/v1/keys", "", "ak"),
    ("POST", "/v1/keys/rotations", "{}", "ak"),
    ("GET", "/v1/keys/rotations", "", "ak"),
    ("GET", "/v1/keys/rotations/none", "", "ak"),
    ("PATCH", "/v1/keys/rotations/none", "{}", "ak"),
    ("POST", "/v1/callers", "{}", "ak"),
    ("GET", "/v1/callers", "", "ak"),
    ("DELETE", "/v1/callers/none", "", "ak"),
    ("POST", "/v1/callers/none/rotate", "", "ak"),
    ("POST", "/v1/unlock", "{}", "ak"),
    // Last, for it locks.
    ("POST", "/v1/lock", "", "ak"),
];

#[test]
fn roles_may_what_the_contract_says_and_nothing_else() {
    let vault = Vault::configured();
    let running = vault.start();
    running.admin.set("jane", &json!({ "name": "Jane" })).expect(201);
    let callers = [
        ('s', running.caller("service", &[])),
        ('p', running.caller("privacy", &[])),
        ('u', running.caller("auditor", &[])),
        ('k', running.caller("security", &[])),
        ('a', running.admin.clone()),
    ];
    for (method, path, body, allowed) in TABLE {
        let body = (!body.is_empty()).then_some(*body);
        running.nobody().send(method, path, &[], body).problem(401, "unauthenticated");
        for (letter, client) in &callers {
            let answer = client.send(method, path, &[], body);
            if allowed.contains(*letter) {
                assert!(![401, 403].contains(&answer.status), "{letter} {method} {path}: {}", answer.body);
            } else {
                assert_eq!(answer.problem(403, "forbidden")["rule"], "role", "{letter} {method} {path}");
            }
        }
    }
    running.stop();
}

#[test]
fn api_tokens_are_asked_for_and_checked() {
    let vault = Vault::configured();
    let running = vault.start();
    let made = running.admin.post("/v1/callers", &json!({ "name": "x", "role": "admin" })).expect(201).json();
    let token = made["token"].as_str().unwrap();
    let status = |headers: &[(&str, &str)]| running.nobody().send("GET", "/v1/status", headers, None);
    let refused = status(&[]);
    refused.problem(401, "unauthenticated");
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
    let mut wrong = token.to_owned();
    let last = if wrong.pop() == Some('A') { 'B' } else { 'A' };
    wrong.push(last);
    let shorter = &token[..token.len() - 1];
    for text in [
        format!("Bearer {wrong}"),
        format!("Bearer {shorter}"),
        format!("Bearer {token}x"),
        format!("Basic {token}"),
        format!("Bearer{token}"),
        token.to_owned(),
        "Bearer ".to_owned(),
        "Bearer udv_".to_owned(),
        format!("Bearer {}", "x".repeat(5000)),
    ] {
        let answer = status(&[("authorization", &text)]);
        answer.problem(401, "unauthenticated");
        assert!(!answer.body.contains(&token[..12]), "{}", answer.body);
    }
    status(&[("authorization", &format!("Bearer {token}"))]).expect(200);
    // An API token in the query is none.
    running.nobody().get(&format!("/v1/status?token={token}")).problem(401, "unauthenticated");
    assert_eq!(made["role"], Value::from("admin"));
    running.stop();
}
