//! Value tokens: made, resolved, revoked, one by one and in batches; and none is left after the shred.

use std::time::Instant;

use serde_json::{Value, json};

use crate::harness::{Answer, Client, Vault};

const PHONE: &str = "+971501238301";

fn made(client: &Client, body: &Value) -> String {
    client.post("/v1/tokens", body).expect(201).json()["token"].as_str().unwrap().to_owned()
}

/// In full, for the purpose `account`.
fn resolve(client: &Client, token: &str) -> Answer {
    client.for_purpose("account").post("/v1/tokens/resolve", &json!({ "token": token }))
}

#[test]
fn a_token_stands_for_a_field() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    admin.set("jane", &json!({ "phone": PHONE, "birth_date": "1985-04-12", "email": "jane@example.org" })).expect(201);
    let token = made(admin, &json!({ "subject": "jane", "field": "phone" }));
    assert!(token.starts_with("udt_") && token.len() == 36, "{token}");
    assert_eq!(resolve(admin, &token).expect(200).json(), json!({ "value": PHONE }));
    let masked = admin.post("/v1/tokens/resolve", &json!({ "token": token, "view": "masked" })).expect(200);
    assert!(!masked.body.contains("501238301"), "{}", masked.body);
    let lowered =
        admin.for_purpose("support").post("/v1/tokens/resolve", &json!({ "token": token })).expect(200).json();
    assert_eq!(lowered["view"], "last4");

    for (shape, field, looks) in [("phone", "phone", "+999"), ("email", "email", "@token.invalid")] {
        let body = json!({ "subject": "jane", "field": field, "shape": shape, "ttl": 3600 });
        let answer = admin.post("/v1/tokens", &body).expect(201).json();
        assert!(answer["expires_at"].is_string());
        let token = answer["token"].as_str().unwrap();
        assert!(token.contains(looks), "{token}");
        resolve(admin, token).expect(200);
        admin.delete(&format!("/v1/tokens/{}", token.replace('+', "%2B"))).expect(204);
        resolve(admin, token).problem(404, "not_found");
        admin.delete(&format!("/v1/tokens/{token}")).problem(404, "not_found");
    }
    running.stop();
    vault.verify().expect(0);
}

#[test]
fn what_is_refused_names_its_reason_and_no_value() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    admin.set("jane", &json!({ "phone": PHONE, "birth_date": "1985-04-12" })).expect(201);
    admin.set("gone", &json!({ "phone": PHONE })).expect(201);
    admin.delete("/v1/subjects/gone").expect(200);
    for (body, status, code) in [
        (json!({ "subject": "jane", "field": "email" }), 404, "unknown_field_value"),
        (json!({ "subject": "jane", "field": "shoe_size" }), 422, "undeclared_field"),
        (json!({ "subject": "nobody", "field": "phone" }), 404, "unknown_subject"),
        (json!({ "subject": "gone", "field": "phone" }), 410, "shredded"),
        (json!({ "subject": "jane", "field": "phone", "shape": "email" }), 422, "invalid_value"),
        (json!({ "subject": "jane", "field": "phone", "shape": "round" }), 422, "invalid_value"),
        (json!({ "subject": "jane", "field": "phone", "ttl": 0 }), 422, "invalid_value"),
        (json!({ "subject": "jane", "field": "phone", "ttl": 400_000_000 }), 422, "invalid_value"),
        (json!({ "subject": "jane", "field": "phone", "purpose": "curiosity" }), 422, "invalid_value"),
        (json!({ "subject": "jane", "field": "phone", "until": "noon" }), 400, "malformed"),
        (json!({ "subject": "jane", "field": "phone", "items": [] }), 400, "malformed"),
        (json!({ "items": [] }), 422, "invalid_value"),
        (json!([]), 400, "malformed"),
    ] {
        admin.post("/v1/tokens", &body).problem(status, code);
    }
    let token = made(admin, &json!({ "subject": "jane", "field": "birth_date" }));
    let read = |client: &Client, token: &str| client.post("/v1/tokens/resolve", &json!({ "token": token }));
    for token in [&token[..], "udt_00000000000000000000000000000000"] {
        assert_eq!(read(admin, token).problem(403, "forbidden")["rule"], "purpose_required");
        assert_eq!(
            read(&admin.for_purpose("curiosity"), token).problem(403, "forbidden")["rule"],
            "purpose_undeclared"
        );
    }
    assert_eq!(
        read(&admin.for_purpose("marketing"), &token).problem(403, "forbidden")["rule"],
        "field_not_for_purpose"
    );
    let none = json!({ "token": token, "view": "none" });
    admin.for_purpose("account").post("/v1/tokens/resolve", &none).problem(422, "invalid_value");

    // Bound to a purpose, to a caller.
    let bound = made(admin, &json!({ "subject": "jane", "field": "phone", "purpose": "delivery" }));
    let refused = resolve(admin, &bound).problem(403, "forbidden");
    assert_eq!(refused["rule"], "token_purpose");
    assert_eq!(read(admin, &bound).problem(403, "forbidden")["rule"], "token_purpose");
    read(&admin.for_purpose("delivery"), &bound).expect(200);
    let courier = running.caller("service", &["account"]);
    let own = made(&courier, &json!({ "subject": "jane", "field": "phone", "bind_caller": true }));
    resolve(admin, &own).problem(404, "not_found");
    resolve(&courier, &own).expect(200);
    for role in ["security", "privacy", "auditor"] {
        let caller = running.caller(role, &[]);
        assert_eq!(read(&caller, &own).problem(403, "forbidden")["rule"], "role");
        caller.delete(&format!("/v1/tokens/{own}")).problem(403, "forbidden");
    }
    let log = running.stop();
    for token in [&token, &bound, &own] {
        assert!(!log.contains(&token[4..]), "a value token is in the log");
    }
}

#[test]
fn one_use_is_one_use() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    admin.set("jane", &json!({ "phone": PHONE })).expect(201);
    let body = json!({ "subject": "jane", "field": "phone", "single_use": true });
    let token = made(admin, &body);
    admin.post("/v1/tokens/resolve", &json!({ "token": token })).problem(403, "forbidden");
    resolve(admin, &token).expect(200);
    resolve(admin, &token).problem(404, "not_found");
    let token = made(admin, &body);
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let racing: Vec<_> = (0..8).map(|_| scope.spawn(|| resolve(admin, &token).status)).collect();
        racing.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(answers.iter().filter(|status| **status == 200).count(), 1, "{answers:?}");
    assert_eq!(answers.iter().filter(|status| **status == 404).count(), 7, "{answers:?}");
    running.stop();
}

#[test]
fn many_in_batches_and_none_after_the_shred() {
    let vault = Vault::configured();
    let mut running = vault.start();
    let subjects = 20;
    let people: Vec<_> =
        (0..subjects).map(|n| json!({ "subject": format!("s{n}"), "fields": { "phone": PHONE } })).collect();
    running.admin.post("/v1/batch/write", &json!({ "items": people })).expect(200);
    let tokens = if std::env::var_os("UDV_TEST_LONG").is_some() { 100_000 } else { 3_000 };
    let begun = Instant::now();
    let mut made: Vec<String> = Vec::new();
    for batch in 0..tokens / 1000 {
        // The first subject has more than one root batch takes.
        let subject = |n: usize| if n.is_multiple_of(2) { 0 } else { (batch + n) % subjects };
        let items: Vec<_> =
            (0..1000).map(|n| json!({ "subject": format!("s{}", subject(n)), "field": "phone" })).collect();
        let results = running.admin.post("/v1/tokens", &json!({ "items": items })).expect(200).json();
        for result in results["results"].as_array().unwrap() {
            assert_eq!(result["status"], 201, "{result}");
            made.push(result["token"].as_str().unwrap().to_owned());
        }
    }
    let created = begun.elapsed();
    let statuses = |client: &Client| {
        let client = client.for_purpose("account");
        let (mut good, mut unknown) = (0, 0);
        for batch in made.chunks(1000) {
            let items: Vec<_> = batch.iter().map(|token| json!({ "token": token })).collect();
            let results = client.post("/v1/tokens/resolve", &json!({ "items": items })).expect(200).json();
            for result in results["results"].as_array().unwrap() {
                match result["status"].as_u64() {
                    Some(200) => good += usize::from(result["value"] == PHONE),
                    Some(404) => unknown += usize::from(result["problem"]["code"] == "not_found"),
                    _ => panic!("{result}"),
                }
            }
        }
        (good, unknown)
    };
    let begun = Instant::now();
    assert_eq!(statuses(&running.admin), (made.len(), 0));
    let (resolved, count) = (begun.elapsed().as_secs_f64(), made.len() as f64);
    println!("{:.0} created, {:.0} resolved a second", count / created.as_secs_f64(), count / resolved);

    let all: Vec<String> = (0..subjects).map(|n| format!("s{n}")).collect();
    let erasure = json!({ "subjects": all, "reason": "test" });
    let erasure = running.admin.post("/v1/erasures", &erasure).expect(201).json();
    assert_eq!(statuses(&running.admin), (0, made.len()), "gone for readers at once");
    let path = format!("/v1/erasures/{}", erasure["id"].as_str().unwrap());
    while running.admin.get(&path).expect(200).json()["counts"]["final"] != subjects {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(statuses(&running.admin), (0, made.len()));
    running.stop();
    vault.verify().expect(0);
    running = vault.start();
    assert_eq!(statuses(&running.admin), (0, made.len()), "and after a restart");
    running.stop();
}

#[test]
fn guesses_are_counted_against_the_budget_of_lookups() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    admin.set("jane", &json!({ "phone": PHONE })).expect(201);
    let body = json!({ "name": "shop", "role": "service", "purposes": ["account"], "lookups_per_minute": 3 });
    let shop = admin.post("/v1/callers", &body).expect(201).json();
    let shop = admin.with_token(shop["token"].as_str());
    let shaped = made(&shop, &json!({ "subject": "jane", "field": "phone", "shape": "phone" }));
    let plain = made(&shop, &json!({ "subject": "jane", "field": "phone" }));
    for _ in 0..10 {
        resolve(&shop, &shaped).expect(200);
    }
    for _ in 0..10 {
        resolve(&shop, "udt_00000000000000000000000000000000").problem(404, "not_found");
    }
    for guess in 0..3 {
        resolve(&shop, &format!("+99900000000000{guess}")).problem(404, "not_found");
    }
    resolve(&shop, &shaped).problem(429, "rate_limited");
    resolve(&shop, &plain).expect(200);
    running.stop();
}

#[test]
fn each_item_is_answered_in_order() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    admin.set("jane", &json!({ "phone": PHONE })).expect(201);
    let items = json!([
        { "subject": "jane", "field": "phone" },
        { "subject": "nobody", "field": "phone" },
        { "subject": "jane", "field": "phone", "shape": "square" },
        { "subject": "x\ny", "field": "phone" },
        { "subject": "jane", "field": "phone", "single_use": true, "ttl": 60 },
        { "subject": "jane", "field": "name" },
    ]);
    let results = admin.post("/v1/tokens", &json!({ "items": items })).expect(200).json()["results"].clone();
    let statuses = |results: &Value| -> Vec<u64> {
        results.as_array().unwrap().iter().map(|result| result["status"].as_u64().unwrap()).collect()
    };
    assert_eq!(statuses(&results), [201, 404, 422, 400, 201, 404]);
    assert!(results[4]["expires_at"].is_string() && results[0].get("expires_at").is_none());
    let (first, once) = (&results[0]["token"], &results[4]["token"]);
    let items = json!([
        { "token": once }, { "token": first, "view": "masked" }, { "token": once }, { "token": first, "view": "half" },
        { "token": "udt_0" }, { "token": first },
    ]);
    let answer = admin.for_purpose("account").post("/v1/tokens/resolve", &json!({ "items": items })).expect(200).json();
    assert_eq!(statuses(&answer["results"]), [200, 200, 404, 422, 404, 200]);
    assert_eq!((&answer["results"][0]["value"], &answer["results"][5]["value"]), (&json!(PHONE), &json!(PHONE)));
    assert_ne!(answer["results"][1]["value"], PHONE);
    running.stop();
}

#[test]
fn the_command_line_does_all_of_it() {
    let vault = Vault::configured();
    let running = vault.start();
    running.admin.set("jane", &json!({ "phone": PHONE })).expect(201);
    let created = running.cli(&["token", "create", "jane", "phone", "--ttl", "30d", "--shape", "phone"]).expect(0);
    let token = created.out.trim().to_owned();
    assert!(token.starts_with("+999"), "{token}");
    let resolved = running.cli(&["token", "resolve", &token, "--purpose", "account"]).expect(0);
    assert_eq!(resolved.out.trim(), PHONE);
    running.cli(&["token", "resolve", &token]).expect(4);
    running.cli(&["token", "revoke", &token]).expect(0);
    running.cli(&["token", "resolve", &token, "--purpose", "account"]).expect(3);
    running.cli(&["token", "revoke", &token]).expect(3);
    let created = running.cli(&["token", "create", "jane", "phone"]).expect(0);
    running.cli(&["erase", "jane", "--reason", "test", "--yes"]).expect(0);
    running.cli(&["token", "resolve", created.out.trim(), "--purpose", "account"]).expect(3);
    running.cli(&["token", "create", "jane", "phone"]).expect(7);
    running.stop();
}
