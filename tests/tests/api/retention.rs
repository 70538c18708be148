//! Values whose time is over: unreadable at once, then forgotten by the sweep, which the status tells of.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vault_core::time::Timestamp;

use crate::harness::{Client, Vault};

const EVERY_SECOND: &str = "[unlock]\nkey_file = \"unlock.key\"\n[retention]\nsweep_seconds = 1\n";

/// Asks until it is so; half a minute at most.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn names(client: &Client, subject: &str) -> Vec<String> {
    let held = client.get(&format!("/v1/subjects/{subject}")).expect(200).json();
    held["fields"].as_array().unwrap().iter().map(|field| field["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_sweep_forgets_what_has_had_its_time() {
    let vault = Vault::unmade(EVERY_SECOND);
    let key = vault.data().join("unlock.key");
    vault.init(&["--no-passphrase", "--key-file", key.to_str().unwrap()]).expect(0);
    let running = vault.start();
    let admin = &running.admin;
    admin
        .set("jane", &json!({ "name": "Jane", "location": { "lat": 1, "lon": 2 }, "email": "jane@example.org" }))
        .expect(201);
    admin.set("joe", &json!({ "name": "Joe", "location": { "lat": 1, "lon": 2 } })).expect(201);
    // By its own expiry, which nothing in the schema asks for.
    let soon = Timestamp(Timestamp::now().0 + 500);
    let body = json!({ "expires_at": soon.to_string() });
    admin.patch("/v1/subjects/jane/fields/email/metadata", &body).expect(200);
    until("jane's address is forgotten", || names(admin, "jane") == ["location", "name"]);
    assert_eq!(admin.find(&json!({ "field": "email", "value": "jane@example.org" })), [""; 0]);
    admin.get("/v1/subjects/jane/fields/email/metadata").problem(404, "unknown_field_value");

    // By the schema.
    let mut schema = admin.get("/v1/schema").expect(200).json();
    schema["fields"]["location"]["retention"] = "1 seconds".into();
    admin.put("/v1/schema", &schema).expect(200);
    until("joe's location is unreadable", || {
        let answer = admin.field("joe", "location");
        answer.status == 404 || answer.status == 403 && answer.json()["rule"] == "value_expired"
    });
    for subject in ["jane", "joe"] {
        until("locations are forgotten", || names(admin, subject) == ["name"]);
    }
    let status = admin.get("/v1/status").expect(200).json();
    assert!(status["retention"]["finished_at"].is_string(), "{status}");
    assert_eq!((&status["retention"]["held"], &status["retention"]["failed"]), (&json!(0), &json!(0)));
    let metrics = running.nobody().get("/metrics").expect(200).body;
    assert!(metrics.contains("udv_retention_forgotten_total 3"), "{metrics}");
    assert!(metrics.contains("udv_retention_finished_seconds"));
    assert!(running.cli(&["status"]).expect(0).out.contains("retention"));
    running.stop();
    vault.verify().expect(0);
}

#[test]
fn without_an_end_nothing_is_forgotten() {
    let vault = Vault::configured();
    let running = vault.start();
    running.admin.set("jane", &json!({ "name": "Jane" })).expect(201);
    let status = running.admin.get("/v1/status").expect(200).json();
    assert_eq!((&status["retention"]["forgotten"], &status["retention"]["started_at"]), (&json!(0), &Value::Null));
    running.stop();
}
