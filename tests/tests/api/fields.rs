//! Fields of one subject: put, merged, read, removed, guarded by versions.

use serde_json::{Value, json};

use crate::harness::Vault;

#[test]
fn a_subject_is_created_merged_and_described() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;

    admin.get("/v1/subjects/jane").problem(404, "unknown_subject");
    admin.get("/v1/subjects/jane/fields").problem(404, "unknown_subject");
    let made = admin.set("jane", &json!({ "name": "Jane Roe", "nickname": "jr" })).expect(201).json();
    assert_eq!(made["subject"], "jane");
    assert_eq!(made["fields"]["name"]["version"], 1);
    assert!(made["fields"]["nickname"]["updated_at"].as_str().unwrap().ends_with('Z'), "{made}");

    let merged = admin.set("jane", &json!({ "name": "Jane Doe", "nickname": null })).expect(200).json();
    assert_eq!(merged["fields"]["name"]["version"], 2);
    assert!(merged["fields"].get("nickname").is_none(), "{merged}");
    let reader = admin.for_purpose("account");
    let read = reader.get("/v1/subjects/jane/fields?view=full").expect(200).json();
    assert_eq!(read, json!({ "subject": "jane", "fields": { "name": "Jane Doe" } }));

    let described = admin.get("/v1/subjects/jane").expect(200).json();
    assert_eq!(described["state"], "active");
    let fields: Vec<_> = described["fields"].as_array().unwrap().iter().collect();
    assert_eq!(fields.len(), 1);
    assert_eq!((&fields[0]["name"], &fields[0]["compartment"]), (&json!("name"), &json!("profile")));
    let compartments = described["compartments"].as_array().unwrap();
    assert!(compartments.iter().any(|compartment| compartment["name"] == "profile"), "{described}");
    running.stop();
}

#[test]
fn one_field_has_a_version_that_writes_can_insist_on() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    let path = "/v1/subjects/jane/fields/name";

    let made = admin.put(path, &json!({ "value": "one" })).expect(201);
    assert_eq!(made.header("etag"), Some("\"v1\""));
    let put = |condition: (&str, &str), value: &str| {
        admin.send("PUT", path, &[condition], Some(&json!({ "value": value }).to_string()))
    };
    assert_eq!(put(("if-match", "\"v1\""), "two").expect(200).header("etag"), Some("\"v2\""));
    put(("if-match", "\"v1\""), "three").problem(412, "precondition_failed");
    put(("if-match", "nonsense"), "three").problem(400, "malformed");
    put(("if-none-match", "*"), "three").problem(412, "precondition_failed");
    let read = admin.field("jane", "name").expect(200);
    assert_eq!((read.header("etag"), read.json()), (Some("\"v2\""), json!({ "value": "two" })));

    admin.delete(path).expect(204);
    admin.field("jane", "name").problem(404, "unknown_field_value");
    // What is not held is forgotten already.
    admin.delete(path).expect(204);
    admin.delete("/v1/subjects/nobody/fields/name").problem(404, "unknown_subject");
    put(("if-none-match", "*"), "four").expect(200);
    assert_eq!(admin.field("jane", "name").expect(200).json()["value"], "four");
    admin.field("jane", "email").problem(404, "unknown_field_value");
    admin.field("jane", "shoe_size").problem(422, "undeclared_field");
    running.stop();
}

#[test]
fn final_writes_change_the_root() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    let epoch = || admin.get("/v1/status").expect(200).json()["epoch"].as_u64().unwrap();
    let fields = |body: Value| json!({ "fields": body });

    admin.set("jane", &json!({ "name": "Jane", "nickname": "j" })).expect(201);
    let before = epoch();
    admin.set("jane", &json!({ "nickname": "k" })).expect(200);
    assert_eq!(epoch(), before, "an ordinary write leaves the root alone");
    admin
        .patch("/v1/subjects/jane/fields?final=true", &fields(json!({ "nickname": null, "name": "Joan" })))
        .expect(200);
    assert!(epoch() > before);
    let read = admin.for_purpose("account").get("/v1/subjects/jane/fields?view=full").expect(200).json();
    assert_eq!(read["fields"], json!({ "name": "Joan" }));

    let before = epoch();
    admin.delete("/v1/subjects/jane/fields/name").expect(204);
    assert!(epoch() > before);
    running.stop();
}

#[test]
fn lookups_follow_the_present_value() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    let by = |phone: &str| json!({ "field": "phone", "value": phone });

    admin.set("jane", &json!({ "phone": { "national": "050 123 8301", "region": "AE" } })).expect(201);
    assert_eq!(admin.find(&by("+971501238301")), ["jane"]);
    let national = json!({ "field": "phone", "value": "050 123 8301", "region": "AE" });
    assert_eq!(admin.find(&national), ["jane"]);
    let object = json!({ "field": "phone", "value": { "national": "0501238301", "region": "AE" } });
    assert_eq!(admin.find(&object), ["jane"]);

    admin.set("jane", &json!({ "phone": "+971501238302" })).expect(200);
    assert_eq!(admin.find(&by("+971501238301")), Vec::<String>::new());
    assert_eq!(admin.find(&by("+971501238302")), ["jane"]);
    admin.set("jane", &json!({ "phone": "+971501238301" })).expect(200);
    assert_eq!(admin.find(&by("+971501238301")), ["jane"], "a number that comes back is found again");
    admin.set("jane", &json!({ "phone": null })).expect(200);
    assert_eq!(admin.find(&by("+971501238301")), Vec::<String>::new());

    admin.post("/v1/lookups", &json!({ "field": "name", "value": "Jane" })).problem(422, "invalid_value");
    let wrong = admin.post("/v1/lookups", &by("+9715012383019999")).problem(422, "invalid_value");
    assert_eq!(wrong["field"], "phone");
    running.stop();
}

#[test]
fn many_may_share_a_value_and_are_found_in_pages() {
    let vault = Vault::configured();
    let running = vault.start();
    let mut expected: Vec<_> = (0..7).map(|number| format!("sharer-{number}")).collect();
    for id in &expected {
        running.admin.set(id, &json!({ "email": "Family@Example.org" })).expect(201);
    }
    let mut found = Vec::new();
    let mut after = Value::Null;
    loop {
        let mut lookup = json!({ "field": "email", "value": "family@example.org", "limit": 3 });
        if !after.is_null() {
            lookup["after"] = after;
        }
        let page = running.admin.post("/v1/lookups", &lookup).expect(200).json();
        let ids = page["subjects"].as_array().unwrap();
        assert!(ids.len() <= 3 && found.len() < 20, "{page}");
        found.extend(ids.iter().map(|id| id.as_str().unwrap().to_owned()));
        after = page.get("next").cloned().unwrap_or_default();
        if after.is_null() {
            break;
        }
    }
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    running.stop();
}
