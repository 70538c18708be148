//! Lookups: each is counted, and last four digits find somebody only beside another value.

use serde_json::json;

use crate::harness::{Running, Vault};

const SHIPPED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schema/privacy-policy.toml");

#[test]
fn each_caller_has_a_budget_of_lookups() {
    let vault = Vault::configured();
    let mut command = vault.command();
    command.env("UDV_LIMITS__LOOKUPS_PER_MINUTE", "3");
    let running = vault.start_with(command).unwrap_or_else(|refusal| panic!("{}", refusal.text));
    let made = |limit: u32| {
        let asked = json!({ "name": "shop", "role": "service", "lookups_per_minute": limit });
        running.admin.with_token(running.admin.post("/v1/callers", &asked).expect(201).json()["token"].as_str())
    };
    let (few, any) = (made(1), made(0));
    running.admin.set("jane", &json!({ "phone": "+971501238301" })).expect(201);
    let phone = json!({ "field": "phone", "value": "+971501238301" });
    let until_refused = |client: &crate::harness::Client| {
        let answers = std::iter::repeat_with(|| client.post("/v1/lookups", &phone));
        let mut answers = answers.take(50).skip_while(|answer| answer.status == 200);
        answers.next()
    };
    for client in [&running.admin, &few] {
        let refused = until_refused(client).expect("its budget is spent some time");
        refused.problem(429, "rate_limited");
        let after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=60).contains(&after), "{after}");
    }
    assert!(until_refused(&any).is_none(), "a budget of 0 is none");
    running.admin.field("jane", "phone").expect(200);

    let metrics = running.nobody().get("/metrics").expect(200).body;
    let count = |name: &str| -> u64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in {metrics}")).trim().parse().unwrap()
    };
    assert!(count(r#"udv_lookups_total{outcome="found"}"#) >= 54);
    assert_eq!(count("udv_lookup_budget_exhausted_total"), 2);
    assert_eq!(count(r#"udv_lookups_total{outcome="refused"}"#), count("udv_lookup_budget_exhausted_total"));
    running.stop();
}

fn shipped(running: &Running) {
    running.cli(&["--yes", "schema", "apply", SHIPPED]).expect(0);
    for (subject, phone, email) in [
        ("jane", "+971501238301", "jane@example.org"),
        ("joe", "+971501238302", "jane@example.org"),
        ("ann", "+971509998301", "ann@example.org"),
    ] {
        running.admin.set(subject, &json!({ "phone": phone, "email": email })).expect(201);
    }
}

#[test]
fn last_four_digits_find_beside_another_value_only() {
    let vault = Vault::configured();
    let running = vault.start();
    let jane = json!({ "field": "email", "value": "jane@example.org" });
    let digits = json!({ "field": "phone", "last4": "8301", "and": jane });
    let undeclared = running.admin.post("/v1/lookups", &digits).problem(422, "invalid_value");
    assert_eq!(undeclared["field"], "field", "the built-in schema declares no such lookup");

    shipped(&running);
    let anonymous = running.admin.post("/v1/lookups", &digits).problem(403, "forbidden");
    assert_eq!(anonymous["rule"], "purpose_required", "the shipped schema wants a purpose");
    let admin = running.admin.for_purpose("account");
    assert_eq!(admin.find(&digits), ["jane"]);
    assert_eq!(admin.find(&json!({ "field": "phone", "last4": "8302", "and": jane })), ["joe"]);
    assert!(admin.find(&json!({ "field": "phone", "last4": "8303", "and": jane })).is_empty());
    for (body, field) in [
        (json!({ "field": "phone", "last4": "8301" }), "and"),
        (json!({ "field": "phone", "last4": "301", "and": jane }), "last4"),
        (json!({ "field": "phone", "last4": "83a1", "and": jane }), "last4"),
        (json!({ "field": "email", "last4": "8301", "and": jane }), "field"),
        (json!({ "field": "phone", "last4": "8301", "value": "x", "and": jane }), "last4"),
        (json!({ "field": "phone", "last4": "8301", "and": { "field": "phone", "value": "+971501238301" } }), "and"),
        (json!({ "field": "phone", "last4": "8301", "and": { "field": "name", "value": "Jane" } }), "name"),
    ] {
        assert_eq!(admin.post("/v1/lookups", &body).problem(422, "invalid_value")["field"], field, "{body}");
    }

    let found = running.cli(&[
        "subject",
        "lookup",
        "phone",
        "--last4",
        "8301",
        "--and",
        "email=Jane@example.org",
        "--purpose",
        "account",
    ]);
    assert_eq!(found.expect(0).out.trim(), "jane");
    running.cli(&["subject", "lookup", "phone", "--last4", "8301"]).expect(2);
    running.admin.delete("/v1/subjects/jane").expect(200);
    assert!(admin.find(&digits).is_empty());
    running.stop();
}
