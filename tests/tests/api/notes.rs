//! Consent, restriction and legal holds: what they change for reads and shreds, from the next request on.

use serde_json::{Value, json};

use crate::harness::{Answer, Client, Running, Vault, wait_for};

/// Puts the shipped schema into force: marketing rests on consent, and `security` goes on under a restriction.
fn shipped_schema(running: &Running) {
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/schema/privacy-policy.toml");
    running.cli(&["--yes", "schema", "apply", schema]).expect(0);
}

fn email_for(client: &Client, purpose: &'static str) -> Answer {
    client.for_purpose(purpose).get("/v1/subjects/jane/fields/email")
}

fn subject(client: &Client, id: &str) -> Value {
    client.get(&format!("/v1/subjects/{id}")).expect(200).json()
}

#[test]
fn consent_is_asked_for_at_the_next_read() {
    let vault = Vault::configured();
    let running = vault.start();
    shipped_schema(&running);
    let admin = &running.admin;
    let shop = running.caller("service", &["marketing"]);
    admin.set("jane", &json!({ "email": "jane@example.org" })).expect(201);
    let missing = email_for(&shop, "marketing");
    assert_eq!(missing.problem(403, "forbidden")["rule"], "consent_missing");

    let consent = "/v1/subjects/jane/consents/marketing";
    let given = shop.put(consent, &json!({ "version": "v1", "source": "sign-up form" })).expect(200).json();
    assert_eq!(
        (&given["purpose"], &given["version"], &given["source"]),
        (&json!("marketing"), &json!("v1"), &json!("sign-up form"))
    );
    let again = shop.put(consent, &json!({ "version": "v1", "source": "another form" })).expect(200).json();
    assert_eq!(again, given, "the same version changes nothing");
    email_for(&shop, "marketing").expect(200);
    assert_eq!(subject(admin, "jane")["consents"], json!(["marketing"]));
    shop.put(consent, &json!({ "version": "v2", "source": "call" })).expect(200);
    running.stop();

    let running = vault.start();
    let (admin, shop) = (&running.admin, running.caller("service", &["marketing"]));
    email_for(&shop, "marketing").expect(200);
    shop.delete(consent).expect(204);
    assert_eq!(email_for(&shop, "marketing").problem(403, "forbidden")["rule"], "consent_missing");
    shop.delete(consent).expect(204);
    shop.delete("/v1/subjects/jane/consents/support").expect(204);
    assert_eq!(subject(admin, "jane")["consents"], json!([]));
    let listed = running.caller("privacy", &[]).get("/v1/subjects/jane/consents").expect(200).json();
    assert_eq!(listed["next"], Value::Null);
    let data = listed["data"].as_array().unwrap();
    assert_eq!(data.len(), 2, "{listed}");
    assert!(data[0]["replaced_at"].is_string() && data[1]["withdrawn_at"].is_string(), "{listed}");

    for (path, body, field) in [
        ("/v1/subjects/jane/consents/curiosity", json!({ "version": "v1", "source": "x" }), "purpose"),
        ("/v1/subjects/jane/consents/No-Name", json!({ "version": "v1", "source": "x" }), "purpose"),
        (consent, json!({ "version": "", "source": "x" }), "version"),
        (consent, json!({ "version": "v1", "source": "x".repeat(257) }), "source"),
    ] {
        assert_eq!(admin.put(path, &body).problem(422, "invalid_value")["field"], field);
    }
    admin.put(consent, &json!({ "version": "v1" })).problem(400, "malformed");
    admin.get("/v1/subjects/nobody/consents").problem(404, "unknown_subject");
    admin.delete("/v1/subjects/jane").expect(200);
    admin.get("/v1/subjects/jane/consents").problem(410, "shredded");
    admin.put(consent, &json!({ "version": "v1", "source": "x" })).problem(410, "shredded");
    running.stop();
}

#[test]
fn a_restriction_stops_all_but_exempt_purposes() {
    let vault = Vault::configured();
    let running = vault.start();
    shipped_schema(&running);
    let admin = &running.admin;
    admin.set("jane", &json!({ "email": "jane@example.org" })).expect(201);
    let restriction = "/v1/subjects/jane/restriction";
    let first = admin.put(restriction, &json!({})).expect(200).json();
    let second = admin.send("PUT", restriction, &[], None).expect(200).json();
    assert_eq!(first, second);
    let told = admin.put(restriction, &json!({ "reason": "accuracy is disputed" })).expect(200).json();
    assert_eq!((&told["since"], &told["reason"]), (&first["since"], &json!("accuracy is disputed")));

    assert_eq!(email_for(admin, "account").problem(403, "forbidden")["rule"], "restricted");
    email_for(admin, "legal_claims").expect(200);
    let shown = subject(admin, "jane");
    assert_eq!((&shown["state"], &shown["restricted"]), (&json!("restricted"), &json!(true)));
    assert_eq!(shown["restriction"]["reason"], "accuracy is disputed");
    let lookup = json!({ "field": "email", "value": "jane@example.org" });
    assert!(admin.for_purpose("account").find(&lookup).is_empty());
    assert_eq!(admin.for_purpose("legal_claims").find(&lookup), ["jane"]);
    let batch = json!({ "items": [{ "subject": "jane", "names": ["email"], "view": "full" }] });
    let read = admin.for_purpose("account").post("/v1/batch/read", &batch).expect(200).json();
    assert_eq!(read["results"][0]["status"], 403, "{read}");

    admin.put("/v1/subjects/jane/holds/case_1", &json!({ "reason": "claim" })).expect(200);
    let shown = subject(admin, "jane");
    assert_eq!((&shown["state"], &shown["restricted"]), (&json!("held"), &json!(true)));
    admin.delete(restriction).expect(204);
    admin.delete(restriction).expect(204);
    assert_eq!(subject(admin, "jane")["restricted"], false);
    email_for(admin, "account").expect(200);
    assert_eq!(admin.for_purpose("account").find(&lookup), ["jane"]);
    running.stop();
}

#[test]
fn a_hold_keeps_a_subject_until_it_is_released() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    for id in ["jane", "john", "jill"] {
        admin.set(id, &json!({ "name": id })).expect(201);
    }
    let hold = "/v1/subjects/jane/holds/case_2026_17";
    let made = admin.put(hold, &json!({ "reason": "district court" })).expect(200).json();
    assert_eq!((&made["name"], &made["reason"]), (&json!("case_2026_17"), &json!("district court")));
    let names_it = |answer: Answer| {
        let told = answer.problem(409, "held");
        assert!(told["detail"].as_str().unwrap().contains("case_2026_17"), "{told}");
    };
    names_it(admin.delete("/v1/subjects/jane"));
    names_it(admin.delete("/v1/subjects/jane?compartment=profile"));
    names_it(admin.delete("/v1/subjects/jane/fields/name"));
    names_it(admin.patch("/v1/subjects/jane/fields?final=true", &json!({ "fields": { "name": "J" } })));
    names_it(admin.post("/v1/erasures", &json!({ "subjects": ["jane"], "reason": "on request" })));
    assert_eq!(admin.get("/v1/erasures").expect(200).json()["data"], json!([]));
    assert_eq!(admin.field("jane", "name").expect(200).json()["value"], "jane");

    let dry = json!({ "subjects": ["jane", "john"], "reason": "on request", "dry_run": true });
    assert_eq!(admin.post("/v1/erasures", &dry).expect(200).json()["counts"]["held"], 1);
    let asked = json!({ "subjects": ["jane", "john"], "reason": "on request" });
    let erasure = admin.post("/v1/erasures", &asked).expect(201).json();
    assert_eq!(erasure["counts"]["held"], 1);
    let item = erasure["items"].as_array().unwrap().iter().find(|item| item["state"] == "held").unwrap();
    assert_eq!((&item["subject"], &item["hold"]), (&json!("jane"), &json!("case_2026_17")));
    admin.get("/v1/subjects/john").problem(410, "shredded");
    admin.put("/v1/subjects/john/holds/late", &json!({ "reason": "x" })).problem(410, "shredded");

    let privacy = running.caller("privacy", &[]);
    privacy.put("/v1/subjects/jill/holds/audit", &json!({ "reason": "tax" })).expect(200);
    let mut listed = Vec::new();
    let mut path = "/v1/holds?limit=1".to_owned();
    loop {
        let page = privacy.get(&path).expect(200).json();
        listed.extend(page["data"].as_array().unwrap().iter().map(|held| held["subject"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/holds?limit=1&after={next}");
    }
    listed.sort();
    assert_eq!(listed, ["jane", "jill"]);
    privacy.get("/v1/holds?after=nonsense").problem(422, "invalid_value");
    admin.put(hold, &json!({ "reason": "" })).problem(422, "invalid_value");
    admin.put("/v1/subjects/jane/holds/No%20Name", &json!({ "reason": "x" })).problem(422, "invalid_value");
    running.stop();

    let running = vault.start();
    let admin = &running.admin;
    names_it(admin.delete("/v1/subjects/jane"));
    // Taken back, the erasure that waits for the release shreds her no more.
    let id = erasure["id"].as_str().unwrap();
    let cancelled = admin.delete(&format!("/v1/erasures/{id}")).expect(200).json();
    assert_eq!((&cancelled["counts"]["cancelled"], &cancelled["counts"]["final"]), (&json!(1), &json!(1)));
    admin.delete(hold).expect(204);
    admin.delete(hold).problem(404, "not_found");
    assert_eq!(admin.get("/v1/holds").expect(200).json()["data"].as_array().unwrap().len(), 1);
    admin.delete("/v1/subjects/jane").expect(200);
    admin.get("/v1/subjects/jane").problem(410, "shredded");
    running.stop();
    vault.verify().expect(0);
}

#[test]
fn the_command_line_notes_and_tells_what_is_held() {
    let vault = Vault::configured();
    let running = vault.start();
    for id in ["jane", "john"] {
        running.admin.set(id, &json!({ "name": id })).expect(201);
    }
    let give = ["consent", "give", "jane", "marketing", "--version", "v1", "--source", "sign-up form"];
    running.cli(&give).expect(0);
    running.cli(&["consent", "give", "jane", "curiosity", "--version", "v1", "--source", "x"]).refused(1, "purpose");
    let listed = running.cli(&["consent", "list", "jane"]).expect(0);
    assert!(listed.out.contains("in force") && listed.out.contains("sign-up form"), "{}", listed.out);
    running.cli(&["consent", "withdraw", "jane", "marketing", "--source", "letter"]).expect(0);
    let listed = running.cli(&["--output", "json", "consent", "list", "jane", "marketing"]).expect(0);
    let listed: Value = serde_json::from_str(&listed.out).unwrap();
    assert_eq!(listed[0]["withdrawn_source"], "letter", "{listed}");
    running.cli(&["consent", "list", "nobody"]).expect(3);

    running.cli(&["restrict", "jane", "--reason", "disputed"]).expect(0);
    running.cli(&["subject", "show", "jane"]).refused(4, "restricted");
    running.cli(&["unrestrict", "jane"]).expect(0);
    running.cli(&["subject", "show", "jane"]).expect(0);

    running.cli(&["hold", "add", "jane", "case_1", "--reason", "claim"]).expect(0);
    let listed = running.cli(&["hold", "list"]).expect(0);
    assert!(listed.out.contains("jane") && listed.out.contains("case_1"), "{}", listed.out);
    running.cli(&["--yes", "erase", "jane"]).refused(5, "case_1");
    let part = running.cli(&["--yes", "erase", "jane", "john"]).expect(9);
    assert!(part.err.contains("jane") && part.err.contains("case_1"), "{}", part.err);
    running.cli(&["subject", "show", "john"]).expect(7);
    running.cli(&["--yes", "subject", "forget", "jane", "name"]).refused(5, "case_1");
    running.cli(&["hold", "release", "jane", "case_1"]).expect(0);
    // The erasure that it kept her from goes on by itself.
    wait_for("the shred of who is held no more", || {
        (running.admin.get("/v1/subjects/jane").status == 410).then_some(())
    });
    running.cli(&["hold", "release", "jane", "case_1"]).expect(7);
    running.stop();
}
