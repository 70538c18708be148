//! After a shred: 410 on every path under the id, and a fresh start only when it is asked for.

use serde_json::json;

use crate::harness::Vault;

#[test]
fn every_path_under_a_shredded_id_answers_410() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = running.admin.for_purpose("account");
    let phone = json!({ "field": "phone", "value": "+971501238301" });
    admin.set("jane", &json!({ "name": "Jane", "phone": "+971501238301" })).expect(201);
    admin.set("john", &json!({ "name": "John", "phone": "+971501238301" })).expect(201);
    let erasure = admin.delete("/v1/subjects/jane").expect(200).json();
    assert_eq!((&erasure["state"], &erasure["counts"]["final"]), (&json!("final"), &json!(1)));
    assert!(erasure["f1_at"].is_string(), "{erasure}");

    let field = json!({ "value": "back" }).to_string();
    let fields = json!({ "fields": { "name": "back" } }).to_string();
    for (method, path, body) in [
        ("GET", "/v1/subjects/jane", None),
        ("DELETE", "/v1/subjects/jane", None),
        ("GET", "/v1/subjects/jane/fields", None),
        ("GET", "/v1/subjects/jane/fields?names=name", None),
        ("GET", "/v1/subjects/jane/fields?view=full", None),
        ("PATCH", "/v1/subjects/jane/fields", Some(&fields)),
        ("PATCH", "/v1/subjects/jane/fields?final=true", Some(&fields)),
        ("GET", "/v1/subjects/jane/fields/name", None),
        ("GET", "/v1/subjects/jane/fields/email", None),
        ("PUT", "/v1/subjects/jane/fields/name", Some(&field)),
        ("DELETE", "/v1/subjects/jane/fields/name", None),
    ] {
        admin.send(method, path, &[], body.map(String::as_str)).problem(410, "shredded");
    }
    let read = admin.post("/v1/batch/read", &json!({ "items": [{ "subject": "jane" }, { "subject": "john" }] }));
    let results = read.expect(200).json()["results"].clone();
    assert_eq!((&results[0]["status"], &results[1]["status"]), (&json!(410), &json!(200)));
    assert_eq!(results[0]["problem"]["code"], "shredded");
    let write = json!({ "items": [{ "subject": "jane", "fields": { "name": "back" } }] });
    assert_eq!(admin.post("/v1/batch/write", &write).expect(200).json()["results"][0]["status"], 410);
    assert_eq!(admin.find(&phone), ["john"]);
    running.stop();
}

#[test]
fn a_shredded_id_is_enrolled_again_only_on_request_and_starts_empty() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    admin.set("jane", &json!({ "name": "Jane", "phone": "+971501238301" })).expect(201);
    admin.delete("/v1/subjects/jane").expect(200);

    let body = json!({ "fields": { "nickname": "again" } });
    admin.patch("/v1/subjects/jane/fields?enrol=once", &body).problem(422, "invalid_value");
    admin.patch("/v1/subjects/jane/fields", &body).problem(410, "shredded");
    let again = admin.patch("/v1/subjects/jane/fields?enrol=again", &body).expect(201).json();
    assert_eq!(again["fields"]["nickname"]["version"], 1);
    admin.patch("/v1/subjects/jane/fields?enrol=again", &body).expect(200);

    let check = |running: &crate::harness::Running| {
        let read = running.admin.for_purpose("account").get("/v1/subjects/jane/fields?view=full").expect(200).json();
        assert_eq!(read["fields"], json!({ "nickname": "again" }));
        let phone = json!({ "field": "phone", "value": "+971501238301" });
        assert_eq!(running.admin.find(&phone), Vec::<String>::new());
    };
    check(&running);
    running.stop();
    let running = vault.start();
    check(&running);

    // Shredded a second time, it stays so.
    running.admin.delete("/v1/subjects/jane").expect(200);
    let items = json!({ "items": [{ "subject": "jane", "fields": { "name": "third" }, "enrol": "again" }] });
    running.admin.get("/v1/subjects/jane").problem(410, "shredded");
    assert_eq!(running.admin.post("/v1/batch/write", &items).expect(200).json()["results"][0]["status"], 201);
    running.stop();
    vault.verify().expect(0);
}

#[test]
fn an_unknown_id_is_not_shredded() {
    let vault = Vault::configured();
    let running = vault.start();
    running.admin.delete("/v1/subjects/nobody").problem(404, "unknown_subject");
    running.admin.get("/v1/subjects/nobody").problem(404, "unknown_subject");
    running.stop();
}
