//! What is logged: every request, and nobody's data even when requests are wrong in every way.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use rustix::fs::OFlags;
use serde_json::{Value, json};

use crate::harness::{Running, Traces, Vault};

/// As a caller could put a person into every part of a request.
const PERSONAL: &[&str] =
    &["jane-4711", "Jane Roe", "jane.roe@example.org", "+971501238301", "0501238301", "Elm Street 12"];

fn wrong_in_every_way(running: &Running) {
    let admin = &running.admin;
    admin.set("jane-4711", &json!({ "name": "Jane Roe", "email": "jane.roe@example.org" })).expect(201);
    admin.get("/v1/subjects/jane-4711/fields?view=full&purpose=jane.roe@example.org").problem(400, "malformed");
    admin.get("/v1/subjects/jane-4711/fields/jane.roe@example.org").problem(422, "undeclared_field");
    admin.get("/v1/lookups/jane.roe@example.org").problem(404, "not_found");
    admin.set("jane-4711", &json!({ "phone": "+971501238301x" })).problem(422, "invalid_value");
    admin.set("jane-4711", &json!({ "jane.roe@example.org": 1 })).problem(422, "undeclared_field");
    admin.set("jane-4711", &json!({ "home_address": ["Elm Street 12"] })).problem(422, "invalid_value");
    let broken = "{\"fields\": {\"name\": \"Jane Roe\" \"phone\": \"+971501238301\"}}";
    admin.send("PATCH", "/v1/subjects/jane-4711/fields", &[], Some(broken)).problem(400, "malformed");
    admin.with_token(Some("udv_jane-4711")).get("/v1/status").problem(401, "unauthenticated");
    admin.send("GET", "/v1/status", &[("udv-purpose", "Elm Street 12")], None).problem(403, "forbidden");
    admin.post("/v1/lookups", &json!({ "field": "email", "value": "jane.roe@example.org" })).expect(200);
    admin.post("/v1/lookups", &json!({ "field": "email", "value": "Jane Roe" })).problem(422, "invalid_value");
    admin.post("/v1/erasures", &json!({ "subjects": ["jane-4711"], "reason": "on request" })).expect(201);
}

#[test]
fn lines_are_structured_and_hold_nobodys_data() {
    let vault = Vault::configured();
    let mut command = vault.command();
    command.env("UDV_LOG", "trace").args(["--log-format", "json"]);
    let running = vault.start_with(command).unwrap_or_else(|refusal| panic!("{}", refusal.text));
    wrong_in_every_way(&running);
    running.admin.send("GET", "/v1/status", &[("x-request-id", "ours-1")], None).expect(200);
    let metrics = running.nobody().get("/metrics").expect(200).body;
    let log = running.stop();

    let traces = Traces::new(PERSONAL.iter().map(|text| (*text).to_owned()));
    assert_eq!(traces.find(log.as_bytes()), Vec::<String>::new());
    assert_eq!(traces.find(metrics.as_bytes()), Vec::<String>::new());
    assert_eq!(traces.find(format!("{log} jane-4711").as_bytes()), ["jane-4711"], "the control");

    let mut lines = log.lines().filter(|line| !line.starts_with("listening on"));
    let lines: Vec<Value> = lines.by_ref().map(|line| serde_json::from_str(line).unwrap()).collect();
    let requests: Vec<_> = lines.iter().filter(|line| line["route"] == "/v1/subjects/{id}/fields").collect();
    assert!(requests.iter().any(|line| line["method"] == "PATCH" && line["status"] == 201), "{log}");
    assert!(requests.iter().any(|line| line["method"] == "PATCH" && line["status"] == 422), "{log}");
    let refused = lines.iter().filter(|line| line["rule"] == "purpose_undeclared" && line["status"] == 403);
    assert_eq!(refused.count(), 1, "{log}");
    assert!(lines.iter().any(|line| line["request_id"] == "ours-1" && line["status"] == 200), "{log}");
}

#[test]
fn a_reader_of_lines_that_does_not_read_holds_up_neither_requests_nor_a_stop() {
    let vault = Vault::configured();
    let pipe = vault.root().join("standard-error");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let server = vault.command();
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$@\" 2<>\"$0\""]).arg(&pipe).arg(server.get_program()).args(server.get_args());
    let running = vault.start_with(command).unwrap_or_else(|refusal| panic!("{}", refusal.text));
    for number in 0..1500 {
        running.admin.set("a", &json!({ "name": number.to_string() })).expect(if number == 0 { 201 } else { 200 });
    }
    // The control: there is no room in it.
    let room = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(&pipe);
    let full = room.unwrap().write(&[b' '; 8192]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::WouldBlock);
    running.stop();
}

#[test]
fn metrics_count_requests_by_template() {
    let vault = Vault::configured();
    let running = vault.start();
    running.admin.set("a", &json!({ "name": "A" })).expect(201);
    running.admin.set("a", &json!({ "name": "B" })).expect(200);
    let answer = running.nobody().get("/metrics").expect(200);
    let line = |parts: &[&str]| answer.body.lines().any(|line| parts.iter().all(|part| line.contains(part)));
    assert!(line(&["/v1/subjects/{id}/fields", "PATCH", "201", " 1"]), "{}", answer.body);
    assert!(line(&["/v1/subjects/{id}/fields", "PATCH", "200", " 1"]), "{}", answer.body);
    assert!(line(&["subjects", " 1"]), "{}", answer.body);
    running.stop();
}
