//! The OpenAPI document, held against the server by schemathesis: requests that it allows, and some that it does not, get
//! answers that it describes, and never one that blames the server.
//!
//! `UDV_TEST_SEED=7` makes other requests, `UDV_TEST_EXAMPLES=200` more of them for each operation.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Client, Finished, Running, Vault, number_from, run_within, skip, target};

/// The program, in the virtual environment that `.ci/run` makes, or wherever it is.
fn schemathesis() -> Option<PathBuf> {
    let places = [target().join("schemathesis/bin/schemathesis"), PathBuf::from("schemathesis")];
    places.into_iter().find(|place| Command::new(place).arg("--version").output().is_ok_and(|o| o.status.success()))
}

/// What is there to be asked for.
struct There {
    caller: String,
    erasure: String,
    rotation: String,
}

fn populate(admin: &Client) -> There {
    let fields = json!({ "name": "Jane", "phone": "+971501238301", "email": "jane@example.org", "nickname": "j" });
    admin.set("jane", &fields).expect(201);
    admin.set("john", &fields).expect(201);
    admin.put("/v1/subjects/jane/consents/marketing", &json!({ "version": "1", "source": "form" })).expect(200);
    admin.put("/v1/subjects/jane/holds/case_1", &json!({ "reason": "a claim" })).expect(200);
    let id = |answer: Value| answer["id"].as_str().unwrap().to_owned();
    let caller = json!({ "name": "shop", "role": "service", "purposes": ["account"] });
    let erasure = json!({ "subjects": ["john"], "reason": "on request" });
    There {
        caller: id(admin.post("/v1/callers", &caller).expect(201).json()),
        erasure: id(admin.post("/v1/erasures", &erasure).expect(201).json()),
        rotation: id(admin.post("/v1/keys/rotations", &json!({ "layer": "keks" })).expect(202).json()),
    }
}

/// How it runs. Requests take the ids, names and words that mean something most of the time: of random ones none would.
///
/// Left out: `lock` and `unlock`, since a locked vault answers 423 to all that follows. Ids that answers hold are not used
/// again, or it would revoke the admin's own API token.
fn configuration(running: &Running, there: &There, examples: u64, seed: u64) -> String {
    let (url, token) = (&running.server.url, running.admin.token().unwrap());
    let There { caller, erasure, rotation } = there;
    format!(
        r#"
base-url = "{url}"
seed = {seed}
continue-on-failure = true
max-redirects = 0
headers = {{ Authorization = "Bearer {token}" }}
generation = {{ max-examples = {examples}, with-security-parameters = false, database = "none", no-shrink = true }}
operations = [
    {{ include-path = ["/v1/lock", "/v1/unlock"], enabled = false }},
    {{ include-path-regex = "^/v1/erasures/", parameters = {{ "path.id" = "{erasure}" }} }},
    {{ include-path-regex = "^/v1/keys/rotations/", parameters = {{ "path.id" = "{rotation}" }} }},
    {{ include-path-regex = "^/v1/callers/", parameters = {{ "path.id" = "{caller}" }} }},
]

[phases]
stateful.enabled = false
coverage = {{ unexpected-methods = [], extra-data-sources.responses = false }}
fuzzing.extra-data-sources.responses = false

[checks]
enabled = false
not_a_server_error.enabled = true
status_code_conformance.enabled = true
content_type_conformance.enabled = true
response_headers_conformance.enabled = true
response_schema_conformance.enabled = true

[dictionaries]
# Held, so that it is not shredded half way; and somebody who was shredded.
subjects.values = ["jane", "jane", "john"]
names.values = ["name", "phone", "nickname", "case_1"]
purposes.values = ["account", "marketing"]
views.values = ["full", "masked", "last4", "none"]
forms.values = ["given", "normal"]

[parameters]
"path.id" = {{ dictionary = "subjects", probability = 0.9 }}
"path.name" = {{ dictionary = "names", probability = 0.9 }}
"path.purpose" = {{ dictionary = "purposes", probability = 0.9 }}
"query.view" = {{ dictionary = "views", probability = 0.9 }}
"query.form" = {{ dictionary = "forms", probability = 0.9 }}
"header.Udv-Purpose" = {{ dictionary = "purposes", probability = 0.9 }}
"#
    )
}

/// Holds a document against the server.
fn hold(program: &Path, scratch: &Path, document: &Path, arguments: &[&str]) -> Finished {
    let mut command = Command::new(program);
    command.current_dir(scratch).arg("--config-file").arg(scratch.join("schemathesis.toml")).arg("--no-color");
    command.arg("run").arg(document).args(arguments);
    run_within(command, Duration::from_secs(3600))
}

#[test]
fn answers_are_as_the_openapi_document_says() {
    let Some(program) = schemathesis() else {
        return skip("there is no schemathesis: `.ci/run` installs it into target/schemathesis");
    };
    let (seed, examples) = (number_from("UDV_TEST_SEED").unwrap_or(1), number_from("UDV_TEST_EXAMPLES").unwrap_or(10));
    println!("UDV_TEST_SEED={seed} UDV_TEST_EXAMPLES={examples}");
    let vault = Vault::configured();
    let mut command = vault.command();
    command.env("UDV_LIMITS__LOOKUPS_PER_MINUTE", "0");
    let running = vault.start_with(command).unwrap_or_else(|refusal| panic!("{}", refusal.text));
    let there = populate(&running.admin);
    let scratch = vault.root();
    fs::write(scratch.join("schemathesis.toml"), configuration(&running, &there, examples, seed)).unwrap();
    let mut document = running.nobody().get("/openapi.json").expect(200).json();
    let path = scratch.join("openapi.json");
    fs::write(&path, document.to_string()).unwrap();
    let held = hold(&program, scratch, &path, &[]);
    assert_eq!(held.code, Some(0), "{}{}", held.out, held.err);
    println!("{}", held.out.lines().rev().take(14).collect::<Vec<_>>().join("\n"));

    // The control: a document that is wrong is found to be.
    let state = &mut document["components"]["schemas"]["Status"]["properties"]["state"];
    assert_eq!(state["type"], "string");
    state["type"] = json!("integer");
    fs::write(&path, document.to_string()).unwrap();
    let held = hold(&program, scratch, &path, &["--include-path", "/v1/status"]);
    assert_eq!(held.code, Some(1), "{}{}", held.out, held.err);
    assert!(held.out.contains("Response violates schema"), "{}", held.out);

    // Nothing that it sent ended the server, or made it give up on its store.
    running.admin.get("/v1/status").expect(200);
    running.stop();
    vault.verify().expect(0);
}
