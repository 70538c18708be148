//! Subject ids: any text that has no control characters, however it is spelled in a path.

use serde_json::json;

use crate::harness::{Client, Vault};

fn round_trip(admin: &Client, encoded: &str, id: &str) {
    let path = format!("/v1/subjects/{encoded}");
    let made = admin.patch(&format!("{path}/fields"), &json!({ "fields": { "name": id } }));
    assert_eq!(made.expect(201).json()["subject"], id);
    let read = admin.for_purpose("account").get(&format!("{path}/fields?view=full")).expect(200).json();
    assert_eq!(read, json!({ "subject": id, "fields": { "name": id } }));
    assert_eq!(admin.get(&path).expect(200).json()["subject"], id);
    let batch = json!({ "items": [{ "subject": id, "view": "masked" }] });
    assert_eq!(admin.post("/v1/batch/read", &batch).expect(200).json()["results"][0]["status"], 200, "{id}");
    assert_eq!(admin.delete(&path).expect(200).json()["state"], "final");
    admin.get(&path).problem(410, "shredded");
}

#[test]
fn ids_are_any_text() {
    let vault = Vault::configured();
    let running = vault.start();
    let long = "l".repeat(256);
    for (encoded, id) in [
        ("a%2Fb", "a/b"),
        ("%2Fetc%2Fpasswd", "/etc/passwd"),
        ("..%2F..", "../.."),
        ("%2E%2E", ".."),
        ("fields", "fields"),
        ("a%252Fb", "a%2Fb"),
        ("%25", "%"),
        ("a+b", "a+b"),
        ("a%20b", "a b"),
        ("a%3Fb%23c", "a?b#c"),
        ("J%C3%A9r%C3%B4me", "Jérôme"),
        ("%F0%9F%98%80", "😀"),
        ("jane@example.org", "jane@example.org"),
        ("Jane", "Jane"),
        ("jane", "jane"),
        (&long, &long),
    ] {
        round_trip(&running.admin, encoded, id);
    }
    running.stop();
}

#[test]
fn ids_with_control_characters_or_too_long_are_refused() {
    let vault = Vault::configured();
    let running = vault.start();
    let long = "l".repeat(257);
    for encoded in ["%00", "a%0Ab", "a%0D%0AX-Evil:%201", "%7F", "a%1Bb", "%C2%85", "%FF", "%C3", &long] {
        let path = format!("/v1/subjects/{encoded}");
        let answer = running.admin.get(&path);
        answer.problem(400, "malformed");
        assert!(!answer.body.contains("Evil"), "{}", answer.body);
        running.admin.patch(&format!("{path}/fields"), &json!({ "fields": { "name": "x" } })).problem(400, "malformed");
        running.admin.delete(&path).problem(400, "malformed");
    }
    running.admin.get("/v1/subjects/").problem(404, "not_found");
    running.admin.get("/v1/subjects//fields").problem(400, "malformed");
    for id in ["", "a\nb", &long] {
        let results = running.admin.post("/v1/batch/read", &json!({ "items": [{ "subject": id }] })).expect(200).json();
        assert_eq!(results["results"][0]["status"], 400, "{results}");
        let erasure = json!({ "subjects": [id], "reason": "test" });
        running.admin.post("/v1/erasures", &erasure).problem(400, "malformed");
    }
    running.stop();
}
