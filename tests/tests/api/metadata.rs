//! What is known of values besides themselves: changed, obeyed, found the other way round, changed for many.

use serde_json::{Value, json};

use crate::harness::{Client, Vault};

fn path(subject: &str, field: &str) -> String {
    format!("/v1/subjects/{subject}/fields/{field}/metadata")
}

/// All pages of a search, `subject/field` each, sorted.
#[track_caller]
fn found(client: &Client, criterion: &Value, limit: usize) -> Vec<String> {
    let (mut all, mut after) = (Vec::new(), Value::Null);
    loop {
        let mut body = criterion.clone();
        body["limit"] = limit.into();
        body["after"] = after;
        let page = client.post("/v1/metadata/search", &body).expect(200).json();
        for value in page["data"].as_array().unwrap() {
            all.push(format!("{}/{}", value["subject"].as_str().unwrap(), value["field"].as_str().unwrap()));
        }
        after = page["next"].clone();
        if after.is_null() {
            all.sort();
            return all;
        }
    }
}

#[test]
fn is_shown_changed_and_obeyed_by_the_next_read() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    admin.set("jane", &json!({ "email": "jane@example.org", "name": "Jane" })).expect(201);
    let nothing = json!({ "source": null, "purposes": null, "objections": [], "recipients": [], "automated": null,
                          "expires_at": null });
    assert_eq!(admin.get(&path("jane", "email")).expect(200).json(), nothing);
    let privacy = running.caller("privacy", &[]);
    let all = json!({ "source": "campaign-7", "purposes": ["marketing", "support"], "objections": ["support"],
                      "recipients": ["courier"], "automated": false, "expires_at": "2099-01-02T03:04:05.000Z" });
    let changed = privacy.patch(&path("jane", "email"), &all).expect(200).json();
    assert_eq!(changed, all);
    assert_eq!(admin.get(&path("jane", "email")).expect(200).json(), all);
    assert_eq!(admin.get(&path("jane", "name")).expect(200).json(), nothing);

    let read = |purpose| admin.for_purpose(purpose).get("/v1/subjects/jane/fields?names=email");
    read("marketing").expect(200);
    assert_eq!(read("support").problem(403, "forbidden")["rule"], "objection");
    assert_eq!(read("delivery").problem(403, "forbidden")["rule"], "value_not_for_purpose");
    let cleared = json!({ "purposes": null, "objections": null, "expires_at": null });
    let changed = admin.patch(&path("jane", "email"), &cleared).expect(200).json();
    assert_eq!((&changed["source"], &changed["purposes"]), (&json!("campaign-7"), &Value::Null));
    for purpose in ["support", "delivery", "marketing"] {
        read(purpose).expect(200);
    }
    running.stop();
}

#[test]
fn what_is_wrong_is_told_by_its_key() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    admin.set("jane", &json!({ "email": "jane@example.org" })).expect(201);
    for (body, field) in [
        (json!({ "source": "" }), "source"),
        (json!({ "source": "x".repeat(129) }), "source"),
        (json!({ "purposes": ["curiosity"] }), "purposes"),
        (json!({ "objections": ["Jane Doe"] }), "objections"),
        (json!({ "recipients": (0..33).map(|n| format!("r{n}")).collect::<Vec<_>>() }), "recipients"),
        (json!({ "expires_at": "2001-01-01T00:00:00Z" }), "expires_at"),
        (json!({ "expires_at": "soon" }), "expires_at"),
    ] {
        let problem = admin.patch(&path("jane", "email"), &body).problem(422, "invalid_value");
        assert_eq!(problem["field"], field, "{problem}");
    }
    admin.patch(&path("jane", "email"), &json!({ "origin": "x" })).problem(400, "malformed");
    admin.patch(&path("jane", "name"), &json!({ "source": "x" })).problem(404, "unknown_field_value");
    admin.patch(&path("joe", "email"), &json!({ "source": "x" })).problem(404, "unknown_subject");
    admin.get(&path("jane", "shoe_size")).problem(422, "undeclared_field");
    for body in [json!({}), json!({ "source": "x", "recipient": "y" }), json!({ "source": "x", "more": 1 })] {
        admin.post("/v1/metadata/search", &body).problem(400, "malformed");
    }
    for body in [
        json!({ "usable_for": "curiosity" }),
        json!({ "expires_before": "2199-01-01T00:00:00Z" }),
        json!({ "source": "x", "after": "xyz" }),
        json!({ "source": "x", "limit": 0 }),
    ] {
        admin.post("/v1/metadata/search", &body).problem(422, "invalid_value");
    }
    admin.post("/v1/metadata/apply", &json!({ "where": { "source": "x" } })).problem(400, "malformed");
    admin.post("/v1/metadata/apply", &json!({ "set": { "source": "x" } })).problem(400, "malformed");
    assert_eq!(admin.get(&path("jane", "email")).expect(200).json()["source"], Value::Null);
    running.stop();
}

#[test]
fn marketing_is_withdrawn_in_one_request_for_all_of_a_campaign() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    let items: Vec<Value> = (0..1000)
        .map(|n| json!({ "subject": format!("s{n:04}"), "fields": { "email": format!("s{n}@example.org"), "name": "S" } }))
        .collect();
    admin.post("/v1/batch/write", &json!({ "items": items })).expect(200);
    // The vault has one request for it: everybody at first, then one who came by another way.
    let everybody = json!({ "where": { "usable_for": "marketing" }, "set": { "source": "campaign-7" } });
    let applied = admin.post("/v1/metadata/apply", &everybody).expect(200).json();
    assert_eq!(applied, json!({ "matched": 2000, "changed": 2000, "refused": 0 }));
    admin.patch(&path("s0007", "email"), &json!({ "source": "shop" })).expect(200);

    let withdraw = json!({ "where": { "source": "campaign-7" }, "add": { "objections": ["marketing"] } });
    let applied = running.caller("privacy", &[]).post("/v1/metadata/apply", &withdraw).expect(200).json();
    assert_eq!(applied, json!({ "matched": 1999, "changed": 1999, "refused": 0 }));
    let again = admin.post("/v1/metadata/apply", &withdraw).expect(200).json();
    assert_eq!(again["changed"], 0, "the same request once more");
    let read = |subject: &str| {
        admin.for_purpose("marketing").get(&format!("/v1/subjects/{subject}/fields?names=email&view=full"))
    };
    assert_eq!(read("s0999").problem(403, "forbidden")["rule"], "objection");
    read("s0007").expect(200);
    assert_eq!(found(admin, &json!({ "usable_for": "marketing" }), 1000), ["s0007/email"]);
    assert_eq!(found(admin, &json!({ "objection": "marketing" }), 300).len(), 1999);
    assert_eq!(found(admin, &json!({ "source": "shop" }), 1), ["s0007/email"]);

    admin.delete("/v1/subjects/s0007").expect(200);
    assert_eq!(found(admin, &json!({ "source": "shop" }), 1), [""; 0]);
    admin.get(&path("s0007", "email")).problem(410, "shredded");
    running.stop();
    vault.verify().expect(0);
}

#[test]
fn is_found_by_expiry_and_recipient_and_survives_a_restart() {
    let vault = Vault::configured();
    let running = vault.start();
    for (n, subject) in ["a", "b", "c"].into_iter().enumerate() {
        running.admin.set(subject, &json!({ "name": "N" })).expect(201);
        let body = json!({ "expires_at": format!("203{n}-06-01T12:00:00Z"), "recipients": ["courier"] });
        running.admin.patch(&path(subject, "name"), &body).expect(200);
    }
    running.stop();
    let running = vault.start();
    let before = |time: &str| found(&running.admin, &json!({ "expires_before": time }), 2);
    assert_eq!(before("2031-06-01T12:00:00Z"), ["a/name"], "to the millisecond");
    assert_eq!(before("2031-06-01T12:00:01Z"), ["a/name", "b/name"]);
    assert_eq!(found(&running.admin, &json!({ "recipient": "courier" }), 1), ["a/name", "b/name", "c/name"]);
    running.stop();
}
