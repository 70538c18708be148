//! Batches: each item has its own answer, in order, and a bad one harms nobody else.

use serde_json::json;

use crate::harness::Vault;

#[test]
fn each_item_is_answered_in_order() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    admin.set("b", &json!({ "name": "before" })).expect(201);
    admin.set("gone", &json!({ "name": "x" })).expect(201);
    admin.delete("/v1/subjects/gone").expect(200);
    let items = json!({ "items": [
        { "subject": "a", "fields": { "name": "A", "phone": "+971501238301" } },
        { "subject": "b", "fields": { "nickname": "B" } },
        { "subject": "c", "fields": { "phone": "secret-number" } },
        { "subject": "gone", "fields": { "name": "G" } },
        { "subject": "x\ny", "fields": { "name": "X" } },
        { "subject": "d", "fields": { "shoe_size": 42 } },
        { "subject": "e", "fields": { "name": "E" } },
    ] });
    let answer = admin.post("/v1/batch/write", &items).expect(200);
    assert!(!answer.body.contains("secret-number"), "{}", answer.body);
    let results = answer.json()["results"].clone();
    let statuses: Vec<_> =
        results.as_array().unwrap().iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 200, 422, 410, 400, 422, 201]);
    assert_eq!(results[0]["fields"]["phone"]["version"], 1);
    assert_eq!(
        (&results[2]["problem"]["code"], &results[2]["problem"]["field"]),
        (&json!("invalid_value"), &json!("phone"))
    );
    assert_eq!(results[3]["problem"]["code"], "shredded");
    assert_eq!(results[5]["problem"]["code"], "undeclared_field");
    admin.get("/v1/subjects/c").problem(404, "unknown_subject");
    admin.get("/v1/subjects/d").problem(404, "unknown_subject");

    let items = json!({ "items": [
        { "subject": "b", "view": "full" },
        { "subject": "a", "names": ["name"], "view": "full" },
        { "subject": "gone" },
        { "subject": "nobody" },
        { "subject": "a", "names": ["email"], "view": "full" },
        { "subject": "a", "names": ["shoe_size"] },
        { "subject": "a", "view": "half" },
        { "subject": "a" },
    ] });
    let results = admin.for_purpose("account").post("/v1/batch/read", &items).expect(200).json()["results"].clone();
    let statuses: Vec<_> =
        results.as_array().unwrap().iter().map(|result| result["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 200, 410, 404, 404, 422, 422, 200]);
    assert_eq!(results[0]["fields"], json!({ "name": "before", "nickname": "B" }));
    assert_eq!(results[1]["fields"], json!({ "name": "A" }));
    assert_eq!(results[3]["problem"]["code"], "unknown_subject");
    assert_ne!(results[7]["fields"]["phone"], "+971501238301", "masked unless asked otherwise");
    running.stop();
}

#[test]
fn the_same_subject_twice_in_a_batch() {
    let vault = Vault::configured();
    let running = vault.start();
    let items = json!({ "items": [
        { "subject": "a", "fields": { "name": "one", "phone": "+971501238301" } },
        { "subject": "a", "fields": { "name": "two", "nickname": "n" } },
        { "subject": "a", "fields": { "phone": "+971501238302" } },
    ] });
    let results = running.admin.post("/v1/batch/write", &items).expect(200).json()["results"].clone();
    for result in results.as_array().unwrap() {
        assert!([200, 201].contains(&result["status"].as_u64().unwrap()), "{results}");
    }
    let read = running.admin.for_purpose("account").get("/v1/subjects/a/fields?view=full").expect(200).json();
    assert_eq!(read["fields"], json!({ "name": "two", "nickname": "n", "phone": "+971501238302" }));
    assert_eq!(running.admin.find(&json!({ "field": "phone", "value": "+971501238301" })), Vec::<String>::new());
    running.stop();
    vault.verify().expect(0);
}

#[test]
fn a_batch_has_bounds() {
    let vault = Vault::configured();
    let running = vault.start();
    let items: Vec<_> = (0..1001).map(|n| json!({ "subject": format!("s{n}"), "fields": { "name": "n" } })).collect();
    for path in ["/v1/batch/write", "/v1/batch/read"] {
        running.admin.post(path, &json!({ "items": [] })).problem(422, "invalid_value");
        running.admin.post(path, &json!({ "items": [{ "who": "a" }] })).problem(400, "malformed");
    }
    running.admin.post("/v1/batch/write", &json!({ "items": items })).problem(422, "invalid_value");
    running.admin.get("/v1/subjects/s0").problem(404, "unknown_subject");
    let answer = running.admin.post("/v1/batch/write", &json!({ "items": items[..1000] })).expect(200).json();
    assert!(answer["results"].as_array().unwrap().iter().all(|result| result["status"] == 201));
    running.stop();
}
