//! The edges of HTTP: paths, methods, types and sizes that nothing takes, and what needs no API token.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use crate::harness::{Running, Vault};

#[test]
fn what_no_path_takes_is_a_problem_document() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    for path in
        ["/", "/v1", "/v2/status", "/v1/nothing", "/v1/subjects", "/v1/subjects/a/b/c/d", "/v1/audit", "/docs/x"]
    {
        admin.get(path).problem(404, "not_found");
        running.nobody().get(path).problem(404, "not_found");
    }
    for (method, path) in [
        ("POST", "/v1/status"),
        ("PUT", "/v1/subjects/a/fields"),
        ("POST", "/v1/subjects/a"),
        ("GET", "/v1/lookups"),
        ("DELETE", "/v1/erasures"),
        ("PUT", "/v1/keys"),
        ("DELETE", "/healthz"),
        ("POST", "/openapi.json"),
        ("OPTIONS", "/v1/status"),
    ] {
        let answer = admin.send(method, path, &[], None);
        answer.problem(405, "method_not_allowed");
        assert!(answer.header("allow").is_some_and(|allow| !allow.contains(method)), "{method} {path}");
    }
    let body = json!({ "fields": { "name": "x" } }).to_string();
    for kind in ["text/plain", "application/xml", "application/x-www-form-urlencoded", "multipart/form-data"] {
        let answer = admin.send("PATCH", "/v1/subjects/a/fields", &[("content-type", kind)], Some(&body));
        answer.problem(415, "unsupported_media_type");
    }
    for kind in ["application/json; charset=utf-8", "Application/JSON"] {
        let answer = admin.send("PATCH", "/v1/subjects/a/fields", &[("content-type", kind)], Some(&body));
        assert!([200, 201].contains(&answer.status), "{}", answer.body);
    }
    running.stop();
}

#[test]
fn request_ids_are_echoed_within_reason() {
    let vault = Vault::configured();
    let running = vault.start();
    let echoed = |id: &str| {
        let answer = running.admin.send("GET", "/v1/status", &[("x-request-id", id)], None).expect(200);
        answer.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(echoed("abc-123"), "abc-123");
    assert_ne!(echoed(&"x".repeat(129)), "x".repeat(129));
    assert_ne!(echoed("two words"), "two words");
    let fresh = || running.admin.get("/v1/status").header("x-request-id").unwrap().to_owned();
    assert_ne!(fresh(), fresh());
    let refused = running.nobody().send("GET", "/v1/status", &[("x-request-id", "r-1")], None);
    assert_eq!(refused.header("x-request-id"), Some("r-1"));
    running.stop();
}

#[test]
fn head_is_a_get_without_its_body() {
    let vault = Vault::configured();
    let running = vault.start();
    running.admin.set("a", &json!({ "name": "A" })).expect(201);
    for path in ["/v1/status", "/v1/subjects/a", "/v1/subjects/a/fields", "/healthz", "/readyz", "/openapi.json"] {
        let answer = running.admin.send("HEAD", path, &[], None).expect(200);
        assert_eq!(answer.body, "");
    }
    let one = running.admin.send("HEAD", "/v1/subjects/a/fields/name", &[], None).expect(200);
    assert_eq!(one.header("etag"), Some("\"v1\""));
    running.admin.send("HEAD", "/v1/subjects/nobody", &[], None).expect(404);
    running.nobody().send("HEAD", "/v1/status", &[], None).expect(401);
    running.stop();
}

#[test]
fn health_needs_no_api_token_and_data_is_not_cached() {
    let vault = Vault::configured();
    let running = vault.start();
    let nobody = running.nobody();
    assert_eq!(nobody.get("/healthz").expect(200).json(), json!({ "status": "ok" }));
    assert_eq!(nobody.get("/readyz").expect(200).json(), json!({ "status": "ready" }));
    assert!(nobody.get("/metrics").expect(200).body.contains("# TYPE"));
    running.admin.set("a", &json!({ "name": "A" })).expect(201);
    let read = running.admin.get("/v1/subjects/a/fields").expect(200);
    assert_eq!(read.header("cache-control"), Some("no-store"));

    let status = running.admin.get("/v1/status").expect(200).json();
    assert_eq!(status["state"], "unlocked");
    assert_eq!((&status["counts"]["subjects"], &status["counts"]["callers"]), (&json!(1), &json!(1)));
    assert_eq!((&status["store"]["engine"], &status["store"]["state"]), (&json!("sled"), &json!("ok")));
    assert!(status["epoch"].as_u64() >= Some(1) && status["started_at"].is_string());
    assert!(status["slots"][0]["name"].as_str().unwrap().ends_with("root.slot"));
    assert_eq!(status["slots"][0]["state"], "ok");
    assert!(status["cache"]["limit_bytes"].as_u64() > Some(0));
    let shown = running.cli(&["status"]).expect(0);
    assert!(shown.out.contains("unlocked"), "{}", shown.out);
    running.stop();
}

/// Sends bytes as they are and answers what comes back.
fn raw(running: &Running, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(running.server.url.strip_prefix("http://").unwrap()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut part) {
        answer.extend_from_slice(&part[..read]);
        if String::from_utf8_lossy(&answer).contains("\"detail\"") {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn bodies_have_a_limit() {
    let vault = Vault::configured();
    let running = vault.start();
    let token = std::fs::read_to_string(vault.token_file()).unwrap();
    let head = |path: &str, more: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: v\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n{more}\r\n",
            token.trim()
        )
    };
    // Announced, and the server asked first: refused before a byte of it is sent.
    let expect = "expect: 100-continue\r\ncontent-length: 1048577\r\n";
    let answer = raw(&running, head("/v1/lookups", expect).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("\"too_large\""), "{answer}");
    let answer =
        raw(&running, head("/v1/batch/write", "expect: 100-continue\r\ncontent-length: 8388609\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("\"too_large\""), "{answer}");
    // Not announced: refused once it is too long.
    let mut request = head("/v1/lookups", "transfer-encoding: chunked\r\n").into_bytes();
    for _ in 0..17 {
        request.extend_from_slice(b"10000\r\n");
        request.extend_from_slice(&[b' '; 0x10000]);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    let answer = raw(&running, &request);
    assert!(answer.starts_with("HTTP/1.1 413") && answer.contains("\"too_large\""), "{answer}");

    // Sent whole, as most clients do.
    let body = json!({ "fields": { "name": "n".repeat(1 << 20) } });
    running.admin.set("a", &body["fields"]).problem(413, "too_large");
    let padded = format!("{{\"fields\": {{\"name\": \"A\"}}{}}}", " ".repeat((1 << 20) - 60));
    running.admin.send("PATCH", "/v1/subjects/a/fields", &[], Some(&padded)).expect(201);
    running.stop();
}

#[test]
fn nonsense_on_the_wire_harms_nobody() {
    let vault = Vault::configured();
    let running = vault.start();
    for request in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03nonsense\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET /v1/status HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"GET /%zz%/v1 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"\x00\x00\x00\x00\r\n\r\n",
    ] {
        let answer = raw(&running, request);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    let long = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(200_000));
    // The server may hang up on this before it has it all.
    let mut stream = TcpStream::connect(running.server.url.strip_prefix("http://").unwrap()).unwrap();
    let _ = stream.write_all(long.as_bytes());
    running.admin.get("/v1/status").expect(200);
    let log = running.stop();
    assert!(!log.contains("a panic was caught"), "{log}");
}

/// The paths of the contract that exist so far.
const CONTRACT: &[(&str, &[&str])] = &[
    ("/v1/status", &["get"]),
    ("/v1/subjects/{id}", &["get", "delete"]),
    ("/v1/subjects/{id}/fields", &["get", "patch"]),
    ("/v1/subjects/{id}/fields/{name}", &["get", "put", "delete"]),
    ("/v1/lookups", &["post"]),
    ("/v1/batch/write", &["post"]),
    ("/v1/batch/read", &["post"]),
    ("/v1/erasures", &["get", "post"]),
    ("/v1/erasures/{id}", &["get"]),
    ("/v1/keys", &["get"]),
    ("/v1/keys/rotations", &["get", "post"]),
    ("/v1/keys/rotations/{id}", &["get", "patch"]),
    ("/v1/lock", &["post"]),
    ("/v1/unlock", &["post"]),
    ("/v1/callers", &["get", "post"]),
    ("/v1/callers/{id}", &["delete"]),
    ("/healthz", &["get"]),
    ("/readyz", &["get"]),
    ("/metrics", &["get"]),
];

#[test]
fn the_openapi_document_lists_the_contract() {
    let vault = Vault::configured();
    let running = vault.start();
    let document = running.nobody().get("/openapi.json").expect(200).json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."), "{}", document["openapi"]);
    let paths = document["paths"].as_object().unwrap();
    let listed: BTreeMap<&str, Vec<&str>> = paths
        .iter()
        .map(|(path, methods)| (path.as_str(), methods.as_object().unwrap().keys().map(String::as_str).collect()))
        .collect();
    for (path, methods) in CONTRACT {
        for method in *methods {
            assert!(listed.get(path).is_some_and(|listed| listed.contains(method)), "{method} {path} is not listed");
        }
    }
    // What is listed exists, and is authorised, too.
    for (path, methods) in listed {
        for method in methods {
            let answer = running.nobody().send(&method.to_uppercase(), &path.replace(['{', '}'], ""), &[], None);
            assert!(![404, 405, 500].contains(&answer.status), "{method} {path}: {}", answer.body);
        }
    }
    running.stop();
}
