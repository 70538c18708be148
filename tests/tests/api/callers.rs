//! Callers: made, listed without their API tokens, given new ones, revoked at once, expired in time.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::harness::{Client, Running, Vault, wait_for};

#[test]
fn callers_are_made_listed_and_revoked() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    let asked = json!({ "name": "shop", "role": "service", "purposes": ["delivery", "support"] });
    let made = admin.post("/v1/callers", &asked).expect(201).json();
    let (id, token) = (made["id"].as_str().unwrap(), made["token"].as_str().unwrap());
    assert!(token.starts_with("udv_") && token.len() >= 40, "an API token is long enough not to be guessed");
    assert_eq!((&made["name"], &made["role"]), (&json!("shop"), &json!("service")));

    let listed = admin.get("/v1/callers").expect(200);
    assert!(!listed.body.contains("udv_"), "API tokens are shown once");
    let data = listed.json()["data"].clone();
    let shop = data.as_array().unwrap().iter().find(|caller| caller["id"] == id).unwrap().clone();
    assert_eq!(shop["purposes"], json!(["delivery", "support"]));
    assert!(shop["created_at"].is_string() && shop.get("token").is_none());
    assert_eq!(data.as_array().unwrap().len(), 2, "with the first admin");

    let service = admin.with_token(Some(token));
    service.set("jane", &json!({ "name": "Jane" })).expect(201);
    admin.delete(&format!("/v1/callers/{id}")).expect(204);
    service.get("/v1/subjects/jane").problem(401, "unauthenticated");
    admin.delete(&format!("/v1/callers/{id}")).problem(404, "not_found");
    admin.delete("/v1/callers/nonsense").problem(404, "not_found");
    running.stop();

    let running = vault.start();
    running.admin.with_token(Some(token)).get("/v1/subjects/jane").problem(401, "unauthenticated");
    running.admin.get("/v1/subjects/jane").expect(200);
    running.stop();
}

#[test]
fn a_caller_expires() {
    let vault = Vault::configured();
    let running = vault.start();
    let make = |expires_at: &str| {
        running.admin.post("/v1/callers", &json!({ "name": "guest", "role": "auditor", "expires_at": expires_at }))
    };
    assert_eq!(make("2001-01-01T00:00:00Z").problem(422, "invalid_value")["field"], "expires_at");
    assert_eq!(make("tomorrow").problem(422, "invalid_value")["field"], "expires_at");
    let soon = std::time::SystemTime::now() + std::time::Duration::from_secs(3);
    let made = make(&rfc3339(soon)).expect(201).json();
    let guest = running.admin.with_token(made["token"].as_str());
    wait_for("the API token to expire", || (guest.get("/v1/status").status == 401).then_some(()));
    running.admin.get("/v1/status").expect(200);
    running.stop();
}

#[test]
fn what_is_no_caller_is_refused_by_its_field() {
    let vault = Vault::configured();
    let running = vault.start();
    for (body, field) in [
        (json!({ "name": "", "role": "service" }), "name"),
        (json!({ "name": "a\nb", "role": "service" }), "name"),
        (json!({ "name": "n".repeat(2000), "role": "service" }), "name"),
        (json!({ "name": "x", "role": "king" }), "role"),
        (json!({ "name": "x", "role": "service", "purposes": ["curiosity"] }), "purposes"),
    ] {
        assert_eq!(running.admin.post("/v1/callers", &body).problem(422, "invalid_value")["field"], field);
    }
    running.admin.post("/v1/callers", &json!({ "name": "x" })).problem(400, "malformed");
    running.stop();
}

#[test]
fn security_makes_no_admin() {
    let vault = Vault::configured();
    let running = vault.start();
    let security = running.caller("security", &[]);
    security.post("/v1/callers", &json!({ "name": "x", "role": "auditor" })).expect(201);
    let refused = security.post("/v1/callers", &json!({ "name": "x", "role": "admin" }));
    assert_eq!(refused.problem(403, "forbidden")["rule"], "role");
    running.stop();
}

#[test]
fn an_api_token_is_replaced_without_a_gap() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = running.admin.clone();
    let asked = json!({ "name": "shop", "role": "service", "purposes": ["delivery"] });
    let made = admin.post("/v1/callers", &asked).expect(201).json();
    let path = format!("/v1/callers/{}/rotate", made["id"].as_str().unwrap());
    let anybody = admin.clone();
    let client = |answer: &Value| anybody.with_token(answer["token"].as_str());
    let first = client(&made);
    let rotated = admin.post(&path, &json!({})).expect(200).json();
    assert_eq!((&rotated["id"], rotated.as_object().unwrap().len()), (&made["id"], 3), "{rotated}");
    assert!(rotated["previous_valid_until"].as_str() > Some(&*rfc3339(std::time::SystemTime::now())));
    let second = client(&rotated);
    first.get("/v1/status").expect(200);
    second.get("/v1/status").expect(200);
    running.stop();

    let running = vault.start();
    let at = |client: &Client| running.admin.with_token(client.token()).get("/v1/status").status;
    assert_eq!((at(&first), at(&second)), (200, 200), "both outlive a restart");
    let soon = running.admin.post(&path, &json!({ "overlap": 2 })).expect(200).json();
    let third = client(&soon);
    assert_eq!((at(&first), at(&third)), (401, 200), "a second rotation drops the one from before");
    wait_for("the overlap to end", || (at(&second) == 401).then_some(()));
    assert_eq!(at(&third), 200);
    running.admin.post(&path, &json!({ "overlap": 3600 })).expect(200);
    running.admin.delete(path.strip_suffix("/rotate").unwrap()).expect(204);
    assert_eq!(at(&third), 401, "a revocation stops what overlaps too");
    running.admin.post(&path, &json!({})).problem(404, "not_found");
    running.stop();
}

#[test]
fn security_takes_no_admins_api_token() {
    let vault = Vault::configured();
    let running = vault.start();
    let listed = running.admin.get("/v1/callers").expect(200).json();
    let path = format!("/v1/callers/{}/rotate", listed["data"][0]["id"].as_str().unwrap());
    assert_eq!(running.caller("security", &[]).post(&path, &json!({})).problem(403, "forbidden")["rule"], "role");
    running.admin.post(&path, &json!({ "overlap": 60 })).expect(200);
    running.stop();
}

#[test]
fn last_use_is_told_and_outlives_a_restart() {
    let vault = Vault::configured();
    let running = vault.start();
    let shop = running.caller("service", &[]);
    let of_shop = |running: &Running| {
        let listed = running.admin.get("/v1/callers").expect(200).json();
        listed["data"].as_array().unwrap().iter().find(|c| c["role"] == "service").unwrap().clone()
    };
    assert!(of_shop(&running).get("last_used_at").is_none(), "never used");
    shop.get("/v1/status").expect(200);
    let seen = of_shop(&running)["last_used_at"].clone();
    assert!(seen.is_string());
    running.stop();
    let running = vault.start();
    assert_eq!(of_shop(&running)["last_used_at"], seen);
    let listed = running.cli(&["caller", "list"]).expect(0);
    assert!(listed.out.contains("LAST USED") && listed.out.contains(seen.as_str().unwrap()), "{}", listed.out);
    running.stop();
}

#[test]
fn the_command_line_replaces_an_api_token() {
    let vault = Vault::configured();
    let running = vault.start();
    let made = running.admin.post("/v1/callers", &json!({ "name": "x", "role": "auditor" })).expect(201).json();
    let id = made["id"].as_str().unwrap();
    let file = vault.root().join("x.token");
    let name = file.to_str().unwrap();
    running.cli(&["caller", "rotate", id, "--overlap", "0", "--token-out", name]).expect(0);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    running.cli(&["--token-file", name, "status"]).expect(0);
    running.admin.with_token(made["token"].as_str()).get("/v1/status").problem(401, "unauthenticated");
    running.cli(&["caller", "rotate", id, "--token-out", name]).refused(1, name);
    let shown = running.cli(&["caller", "rotate", id, "--overlap", "30m"]).expect(0);
    running.admin.with_token(Some(shown.out.trim())).get("/v1/status").expect(200);
    running.cli(&["--token-file", name, "status"]).expect(0);
    running.cli(&["caller", "rotate", id, "--overlap", "31d"]).refused(1, "overlap");
    running.cli(&["caller", "rotate", "nobody"]).expect(3);
    running.stop();
}

#[test]
fn failures_of_an_address_are_slowed_down_and_nobody_else_is() {
    let vault = Vault::configured();
    let running = vault.start();
    let guessing = running.admin.with_token(Some("udv_0000"));
    let statuses: Vec<u16> = (0..60).map(|_| guessing.get("/v1/status").status).take_while(|s| *s == 401).collect();
    assert!((20..60).contains(&statuses.len()), "{} were answered at once", statuses.len());
    let limited = wait_for("another that is too many", || {
        let answer = guessing.get("/v1/status");
        (answer.status != 401).then_some(answer)
    });
    limited.problem(429, "rate_limited");
    assert_eq!(limited.header("retry-after"), Some("1"));
    running.admin.get("/v1/status").expect(200);
    running.nobody().get("/v1/status").problem(401, "unauthenticated");
    running.stop();
}

/// A time as the API takes it, to the second.
fn rfc3339(at: std::time::SystemTime) -> String {
    let since = at.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let (days, second) = (since / 86_400, since % 86_400);
    // The civil date of a day count since 1970, in the proleptic Gregorian calendar of 400-year eras from March on.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}Z")
}
