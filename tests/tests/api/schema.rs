//! The schema over HTTP: seen, checked, put into force, and what is refused.

use serde_json::{Value, json};

use crate::harness::{Answer, Client, Vault};

const SHIPPED: &str = include_str!("../../../docs/schema/privacy-policy.toml");
const TOML: (&str, &str) = ("content-type", "application/toml");

fn put(client: &Client, toml: &str, headers: &[(&str, &str)]) -> Answer {
    client.send("PUT", "/v1/schema", &[&[TOML], headers].concat(), Some(toml))
}

#[test]
fn the_shipped_schema_comes_into_force_and_stays() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    let built_in = admin.get("/v1/schema").expect(200);
    assert_eq!(built_in.header("etag"), Some("\"v1\""));
    assert_eq!(built_in.json()["fields"].as_object().unwrap().len(), 9);
    admin.set("jane", &json!({ "phone": "+971501238301", "device": { "os": "x" } })).expect(201);
    admin.set("jane", &json!({ "interests": ["a"] })).problem(422, "undeclared_field");

    let checked = admin.send("PUT", "/v1/schema?check=true", &[TOML], Some(SHIPPED)).expect(200).json();
    let forgets = json!(["device", "ip_address", "location"]);
    assert_eq!(
        checked,
        json!({ "version": 1, "changed": false, "forgets": forgets }),
        "it says what it is about to forget"
    );
    put(admin, SHIPPED, &[("if-match", "\"v7\"")]).problem(412, "precondition_failed");
    let taken = put(admin, SHIPPED, &[("if-match", "\"v1\"")]).expect(200);
    assert_eq!(taken.json(), json!({ "version": 2, "changed": true, "forgets": forgets }));
    assert_eq!(taken.header("etag"), Some("\"v2\""));
    assert_eq!(put(admin, SHIPPED, &[]).expect(200).json(), json!({ "version": 2, "changed": false }));
    admin.set("jane", &json!({ "interests": ["a"] })).expect(200);
    assert_eq!(admin.field("jane", "phone").expect(200).json()["value"], "+971501238301");
    running.stop();

    let running = vault.start();
    let admin = &running.admin;
    let toml = admin.send("GET", "/v1/schema", &[("accept", "application/toml")], None).expect(200);
    assert_eq!((toml.header("etag"), toml.header("content-type")), (Some("\"v2\""), Some("application/toml")));
    // What is shown can be sent back, and is the same.
    assert_eq!(put(admin, &toml.body, &[]).expect(200).json()["changed"], false);
    let json = admin.get("/v1/schema").expect(200);
    let same = admin.send("PUT", "/v1/schema", &[], Some(&json.body)).expect(200).json();
    assert_eq!(same["changed"], false);
    assert_eq!(admin.get("/v1/schema?version=1").expect(200).body, built_in.body);
    admin.get("/v1/schema?version=9").problem(404, "not_found");
    running.stop();
}

#[test]
fn only_an_admin_changes_it_and_everybody_sees_it() {
    let vault = Vault::configured();
    let running = vault.start();
    for role in ["service", "security", "privacy", "auditor"] {
        let caller = running.caller(role, &[]);
        caller.get("/v1/schema").expect(200);
        assert_eq!(put(&caller, SHIPPED, &[]).problem(403, "forbidden")["rule"], "role", "{role}");
    }
    running.nobody().get("/v1/schema").problem(401, "unauthenticated");
    running.stop();
}

#[test]
fn what_is_no_schema_is_refused_with_its_line_and_a_way_out() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    for (toml, told) in [
        ("[fields.phone]\ntype = \"phone\"\ncolour = \"red\"\n", "line 3"),
        ("[fields.phone]\ntype = \"telephone\"\n", "line 2"),
        ("[fields.phone]\ntype = \"phone\"\npurposes = { delivery = \"full\" }\n", "delivery"),
        ("[fields.phone]\ntype = \"phone\"\ncompartment = \"cellar\"\n", "cellar"),
        ("[fields.phone]\n", "line 1"),
        ("title = \n", "line 1"),
        ("", "no field"),
    ] {
        let problem = put(admin, toml, &[]).problem(422, "invalid_schema");
        assert!(problem["detail"].as_str().unwrap().contains(told), "{toml}: {problem}");
    }
    put(admin, &"x".repeat(300 * 1024), &[]).problem(422, "invalid_schema");
    put(admin, &"x".repeat(2 * 1024 * 1024), &[]).problem(413, "too_large");
    admin
        .send("PUT", "/v1/schema", &[("content-type", "text/plain")], Some("x"))
        .problem(415, "unsupported_media_type");
    admin.send("PUT", "/v1/schema", &[TOML, ("if-match", "*")], Some(SHIPPED)).problem(400, "malformed");
    assert_eq!(admin.get("/v1/schema").expect(200).header("etag"), Some("\"v1\""), "nothing changed");
    running.stop();
}

#[test]
fn what_would_orphan_stored_values_is_refused() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    put(admin, SHIPPED, &[]).expect(200);
    admin.set("jane", &json!({ "nickname": "jj" })).expect(201);
    for (from, to, told) in [
        ("[fields.nickname]", "[fields.handle]", "nickname"),
        ("type = \"date\"", "type = \"text\"", "birth_date"),
        ("compartment = \"marketing\"", "compartment = \"activity\"", "interests"),
        ("[purposes.support]", "[purposes.helpdesk]", "support"),
    ] {
        let mut changed = SHIPPED.replacen(from, to, 1);
        if from.contains("support") {
            changed = changed.replace("support =", "helpdesk =");
        }
        let problem = put(admin, &changed, &[]).problem(409, "schema_change");
        assert!(problem["detail"].as_str().unwrap().contains(told), "{to}: {problem}");
    }
    // The way out of the first.
    put(admin, &SHIPPED.replacen("[fields.nickname]", "[fields.handle]\nid = \"nickname\"", 1), &[]).expect(200);
    assert_eq!(admin.field("jane", "handle").expect(200).json()["value"], "jj");
    running.stop();
}

#[test]
fn a_compartment_is_shredded_alone_and_finally() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    put(admin, SHIPPED, &[]).expect(200);
    admin.set("jane", &json!({ "phone": "+971501238301", "newsletter_segment": "weekly" })).expect(201);
    admin.delete("/v1/subjects/jane?compartment=cellar").problem(422, "invalid_value");
    admin.delete("/v1/subjects/jane?compartment=system").problem(422, "invalid_value");
    admin.delete("/v1/subjects/jane?compartment=activity").problem(404, "not_found");
    admin.delete("/v1/subjects/nobody?compartment=marketing").problem(404, "unknown_subject");
    let erased = admin.delete("/v1/subjects/jane?compartment=marketing").expect(200).json();
    assert_eq!((&erased["state"], &erased["compartment"]), (&json!("final"), &json!("marketing")));
    let held = admin.get("/v1/subjects/jane").expect(200).json();
    let names: Vec<&Value> = held["fields"].as_array().unwrap().iter().map(|field| &field["name"]).collect();
    assert_eq!(names, ["phone"]);
    admin.delete("/v1/subjects/jane?compartment=marketing").problem(404, "not_found");
    assert_eq!(admin.for_purpose("account").find(&json!({ "field": "phone", "value": "+971501238301" })), ["jane"]);

    admin.set("joe", &json!({ "newsletter_segment": "weekly" })).expect(201);
    let asked = json!({ "subjects": ["joe", "jane"], "reason": "r", "compartment": "marketing" });
    let many = admin.post("/v1/erasures", &asked).expect(201).json();
    assert_eq!((&many["counts"]["unknown"], &many["compartment"]), (&json!(1), &json!("marketing")));
    running.stop();
}
