//! What values are taken, and what is said of those that are not.

use serde_json::json;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use crate::harness::Vault;

/// Field, refused JSON, and the part of it that must not be told.
const REFUSED: &[(&str, &str, &str)] = &[
    ("phone", r#""12345abc""#, "12345abc"),
    ("phone", r#"{"national": "050 123", "region": "AE"}"#, "050 123"),
    ("phone", r#"{"national": "0501238301", "region": "DE"}"#, "0501238301"),
    ("phone", r#"{"national": "0501238301", "region": "QQ"}"#, "0501238301"),
    ("phone", r#"{"national": "0501238301"}"#, "0501238301"),
    ("phone", r#""0501238301""#, "0501238301"),
    ("phone", "971501238301", "971501238301"),
    ("email", r#""jane.roe-at-example.org""#, "jane.roe"),
    ("email", r#"["jane.roe@example.org"]"#, "jane.roe"),
    ("birth_date", r#""1990-02-30""#, "1990-02-30"),
    ("birth_date", "19900203", "19900203"),
    ("ip_address", r#""256.13.77.1""#, "256.13.77.1"),
    ("location", r#"{"lat": 91.7731, "lon": 0}"#, "91.7731"),
    ("location", r#"{"lat": "44.7731", "lon": 0}"#, "44.7731"),
    ("location", r#""44.7731, 8.1""#, "44.7731"),
    ("home_address", "[\"Elm Street 12\"]", "Elm Street"),
    ("home_address", "771234", "771234"),
    ("device", r#""Pixel 9""#, "Pixel"),
    ("name", "{\"first\": \"Janine\"}", "Janine"),
    ("nickname", "true", "true"),
];

#[test]
fn a_refused_value_is_named_by_its_field_only() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    admin.set("jane", &json!({ "name": "before" })).expect(201);
    for (field, value, secret) in REFUSED {
        let body = format!("{{\"fields\": {{\"nickname\": \"changed\", \"{field}\": {value}}}}}");
        let body = if *field == "nickname" { format!("{{\"fields\": {{\"nickname\": {value}}}}}") } else { body };
        let answer = admin.send("PATCH", "/v1/subjects/jane/fields", &[], Some(&body));
        assert_eq!(answer.problem(422, "invalid_value")["field"], *field, "{body}");
        assert!(!answer.body.contains(secret), "{} tells {secret}", answer.body);

        let one = format!("{{\"value\": {value}}}");
        let answer = admin.send("PUT", &format!("/v1/subjects/jane/fields/{field}"), &[], Some(&one));
        assert_eq!(answer.problem(422, "invalid_value")["field"], *field, "{one}");
        assert!(!answer.body.contains(secret), "{} tells {secret}", answer.body);
    }
    let undeclared = admin.set("jane", &json!({ "shoe_size": 42 }));
    assert_eq!(undeclared.problem(422, "undeclared_field")["field"], "shoe_size");
    let read = admin.for_purpose("account").get("/v1/subjects/jane/fields?view=full").expect(200).json();
    assert_eq!(read["fields"], json!({ "name": "before" }), "nothing of a refused request is stored");
    running.stop();
}

#[test]
fn what_is_not_the_right_json_is_told_by_its_place() {
    let vault = Vault::configured();
    let running = vault.start();
    for body in [
        "",
        "Elm Street",
        "{\"fields\": {\"name\": \"Elm Street\"",
        "{\"fields\": {\"name\": \"Elm Street\",}}",
        "{\"fields\": {\"name\": \"Elm Street\", \"name\": \"Elm Street\"}}",
        "{\"fields\": {\"name\": \"Elm Street\"}, \"more\": \"Elm Street\"}",
        "{\"fields\": [\"Elm Street\"]}",
        "{\"fields\": \"Elm Street\"}",
        "[\"Elm Street\"]",
        "{}",
        "{\"fields\": {\"name\": \"Elm Street\"}} {}",
        "{\"fields\": {\"name\": \"Elm Street\u{1}\"}}",
        "{\"fields\": {\"name\": Infinity}}",
    ] {
        let answer = running.admin.send("PATCH", "/v1/subjects/jane/fields", &[], Some(body));
        answer.problem(400, "malformed");
        assert!(!answer.body.contains("Elm"), "{}", answer.body);
    }
    let not_utf8 = b"{\"fields\": {\"name\": \"\xff\xfe\"}}";
    let answer = running.admin.attempt("PATCH", "/v1/subjects/jane/fields", &[], Some(not_utf8)).unwrap();
    answer.problem(400, "malformed");
    let deep = format!("{{\"fields\": {{\"device\": {}1{}}}}}", "[".repeat(5000), "]".repeat(5000));
    let answer = running.admin.send("PATCH", "/v1/subjects/jane/fields", &[], Some(&deep));
    assert!([400, 422].contains(&answer.status), "{}", answer.body);
    running.admin.get("/v1/subjects/jane").problem(404, "unknown_subject");
    running.stop();
}

#[test]
fn values_come_back_byte_for_byte() {
    let vault = Vault::configured();
    let running = vault.start();
    let values = [
        ("name", r#""J\u00e9r\u00f4me \ud83d\ude00 \"the\/one\"""#),
        ("nickname", "\"ж 名 \u{202e}x\""),
        ("location", r#"{ "lon":2.50e1 ,"lat" : -47.763090 }"#),
        ("device", r#"{"b":1,  "a":[ 1.0, 1e2, 12345678901234567890123, null ], "deep":{"x":{}}}"#),
        ("home_address", "\"Line 1\\nLine 2\""),
        ("email", "\"Jane.ROE@Example.ORG\""),
        ("phone", "\"+971 50 123-8301\""),
    ];
    let fields: Vec<_> = values.iter().map(|(name, value)| format!("\"{name}\" :{value}")).collect();
    let body = format!("{{\"fields\": {{{}}}}}", fields.join(", "));
    running.admin.send("PATCH", "/v1/subjects/jane/fields", &[], Some(&body)).expect(201);
    let read = running.admin.for_purpose("account").get("/v1/subjects/jane/fields?view=full").expect(200);
    let outer: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&read.body).unwrap();
    let stored: BTreeMap<String, Box<RawValue>> = serde_json::from_str(outer["fields"].get()).unwrap();
    for (name, value) in values {
        assert_eq!(stored[name].get(), value, "{name}");
    }
    let normal = |name: &str| {
        let reader = running.admin.for_purpose("account");
        reader.get(&format!("/v1/subjects/jane/fields/{name}?view=full&form=normal")).expect(200).json()["value"]
            .clone()
    };
    assert_eq!(normal("phone"), "+971501238301");
    let found = running.admin.find(&json!({ "field": "email", "value": normal("email") }));
    assert_eq!(found, ["jane"]);
    running.stop();
}

#[test]
fn large_values_are_kept_and_larger_ones_refused() {
    let vault = Vault::configured();
    let running = vault.start();
    let notes = "n".repeat(15_000);
    running.admin.set("jane", &json!({ "device": { "notes": notes } })).expect(201);
    let read = running.admin.field("jane", "device").expect(200).json();
    assert_eq!(read["value"]["notes"].as_str().unwrap().len(), notes.len());
    running.admin.set("jane", &json!({ "device": { "notes": "small" } })).expect(200);
    assert_eq!(running.admin.field("jane", "device").expect(200).json()["value"], json!({ "notes": "small" }));

    let huge = "n".repeat(900_000);
    let refused = running.admin.set("jane", &json!({ "device": { "notes": huge } }));
    assert!([413, 422].contains(&refused.status), "{}", refused.body);
    refused.problem(refused.status, if refused.status == 413 { "too_large" } else { "invalid_value" });
    assert_eq!(running.admin.field("jane", "device").expect(200).json()["value"], json!({ "notes": "small" }));
    running.stop();
}
