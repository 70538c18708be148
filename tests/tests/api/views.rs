//! Purposes and views: who sees how much, and what is told when it is less than was asked for.

use serde_json::json;

use crate::harness::{Client, Vault};

fn enrol(admin: &Client) {
    let fields = json!({
        "name": "Jane Roe", "phone": "+971501238301", "email": "jane.roe@example.org", "ip_address": "214.3.10.24",
        "home_address": "12 Elm Street\nSpringfield"
    });
    admin.set("jane", &fields).expect(201);
}

#[test]
fn the_default_view_is_a_mask() {
    let vault = Vault::configured();
    let running = vault.start();
    enrol(&running.admin);
    for path in ["/v1/subjects/jane/fields", "/v1/subjects/jane/fields?view=masked"] {
        let answer = running.admin.get(path).expect(200);
        assert_eq!(answer.json()["fields"].as_object().unwrap().len(), 5);
        for secret in ["Jane Roe", "501238301", "jane.roe", "214.3.10.24", "Elm Street"] {
            assert!(!answer.body.contains(secret), "{} shows {secret}", answer.body);
        }
    }
    let last4 = running.admin.get("/v1/subjects/jane/fields/phone?view=last4").expect(200);
    assert!(last4.body.contains("8301") && !last4.body.contains("23830"), "{}", last4.body);
    let none = running.admin.for_purpose("account").get("/v1/subjects/jane/fields?view=none").expect(200);
    assert!(!none.body.contains("8301") && !none.body.contains("J"), "{}", none.body);
    running.admin.get("/v1/subjects/jane/fields?view=half").problem(422, "invalid_value");
    running.admin.get("/v1/subjects/jane/fields?form=odd").problem(422, "invalid_value");
    running.admin.get("/v1/subjects/jane/fields?shape=odd").problem(400, "malformed");
    running.stop();
}

#[test]
fn a_full_view_takes_a_purpose_that_allows_it() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    enrol(admin);
    let refused = |client: &Client, path: &str, rule: &str| {
        let answer = client.get(path);
        assert_eq!(answer.problem(403, "forbidden")["rule"], rule);
        assert!(!answer.body.contains("Jane") && !answer.body.contains("8301"), "{}", answer.body);
    };
    refused(admin, "/v1/subjects/jane/fields?names=name&view=full", "purpose_required");
    refused(admin, "/v1/subjects/jane/fields/name?view=full", "purpose_required");
    refused(&admin.for_purpose("curiosity"), "/v1/subjects/jane/fields/name?view=full", "purpose_undeclared");
    refused(&admin.for_purpose("marketing"), "/v1/subjects/jane/fields?names=ip_address", "field_not_for_purpose");

    let delivery = admin.for_purpose("delivery");
    let read = delivery.get("/v1/subjects/jane/fields?view=full").expect(200).json();
    assert_eq!(read["fields"]["name"], "Jane Roe");
    assert_eq!(read["fields"]["phone"], "+971501238301");
    assert_ne!(read["fields"]["email"], "jane.roe@example.org");
    assert_eq!((&read["views"]["email"], read["views"].get("name")), (&json!("masked"), None));
    let one = delivery.get("/v1/subjects/jane/fields/email?view=full").expect(200).json();
    assert_eq!(one["view"], "masked");

    let marketing = admin.for_purpose("marketing").get("/v1/subjects/jane/fields?view=full").expect(200).json();
    let mut names: Vec<_> = marketing["fields"].as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(names, ["email", "name", "phone"], "the others are not shown, not even that they are held");
    running.stop();
}

#[test]
fn a_service_names_only_purposes_of_its_own() {
    let vault = Vault::configured();
    let running = vault.start();
    enrol(&running.admin);
    let service = running.caller("service", &["delivery"]);
    let path = "/v1/subjects/jane/fields/name?view=full";
    assert_eq!(service.for_purpose("delivery").get(path).expect(200).json()["value"], "Jane Roe");
    let refused = service.for_purpose("account").get(path);
    assert_eq!(refused.problem(403, "forbidden")["rule"], "purpose_not_allowed");
    assert_eq!(service.get(path).problem(403, "forbidden")["rule"], "purpose_required");
    service.set("john", &json!({ "name": "John" })).expect(201);
    assert_eq!(service.find(&json!({ "field": "email", "value": "jane.roe@example.org" })), ["jane"]);

    let items = json!({ "items": [{ "subject": "jane", "names": ["name"], "view": "full" }] });
    let results = service.for_purpose("delivery").post("/v1/batch/read", &items).expect(200).json()["results"].clone();
    assert_eq!(results[0]["fields"]["name"], "Jane Roe");
    let results = service.post("/v1/batch/read", &items).expect(200).json()["results"].clone();
    assert_eq!((&results[0]["status"], &results[0]["problem"]["rule"]), (&json!(403), &json!("purpose_required")));
    running.stop();
}
