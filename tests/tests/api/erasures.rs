//! Erasure requests: what they count, when they are final, and that a dry run changes nothing.

use serde_json::{Value, json};

use crate::harness::{Vault, wait_for};

#[test]
fn an_erasure_counts_each_subject_once() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    for id in ["a", "b", "c", "d"] {
        admin.set(id, &json!({ "name": id })).expect(201);
    }
    admin.delete("/v1/subjects/d").expect(200);

    let asked = json!({ "subjects": ["a", "b", "a", "d", "nobody"], "reason": "moved away", "dry_run": true });
    let dry = admin.post("/v1/erasures", &asked).expect(200).json();
    let counts = json!({ "pending": 2, "unknown": 1, "shredded": 1, "refused": 0, "held": 0 });
    assert_eq!(dry, json!({ "dry_run": true, "counts": counts, "total": 4 }));
    admin.get("/v1/subjects/a").expect(200);

    let asked = json!({ "subjects": ["a", "b", "a", "d", "nobody"], "reason": "moved away", "reference": "T-1" });
    let made = admin.post("/v1/erasures", &asked).expect(201);
    let erasure = made.json();
    let path = format!("/v1/erasures/{}", erasure["id"].as_str().unwrap());
    assert_eq!(made.header("location"), Some(path.as_str()));
    // Refused from the very answer on.
    admin.get("/v1/subjects/a").problem(410, "shredded");
    let erasure = admin.get(&format!("{path}?wait=10")).expect(200).json();
    assert_eq!(erasure["state"], "final", "it answers once it is");
    admin.get(&format!("{path}?wait=11")).problem(422, "invalid_value");
    admin.get(&format!("{path}?wait=-1")).problem(400, "malformed");
    let counts = json!({
        "pending": 0, "final": 2, "refused": 0, "unknown": 1, "shredded": 1, "held": 0, "cancelled": 0
    });
    assert_eq!(erasure["counts"], counts);
    assert_eq!((&erasure["total"], &erasure["reason"]), (&json!(4), &json!("moved away")));
    assert_eq!(erasure["reference"], "T-1");
    for time in ["created_at", "f0_at", "f1_at"] {
        assert!(erasure[time].as_str().is_some_and(|text| text.ends_with('Z')), "{erasure}");
    }
    assert!(erasure.get("items").is_none(), "who is forgotten is not named: {erasure}");
    admin.get("/v1/subjects/c").expect(200);
    running.stop();

    let running = vault.start();
    assert_eq!(running.admin.get(&path).expect(200).json()["counts"], erasure["counts"]);
    running.stop();
}

#[test]
fn erasures_are_listed_in_pages() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    let mut made = Vec::new();
    for number in 0..5 {
        let id = format!("s{number}");
        admin.set(&id, &json!({ "name": "x" })).expect(201);
        let erasure =
            admin.post("/v1/erasures", &json!({ "subjects": [id], "reason": "on request" })).expect(201).json();
        made.push(erasure["id"].as_str().unwrap().to_owned());
    }
    let mut listed = Vec::new();
    let mut path = "/v1/erasures?limit=2".to_owned();
    loop {
        let page = admin.get(&path).expect(200).json();
        let data = page["data"].as_array().unwrap();
        assert!(data.len() <= 2 && listed.len() < 10, "{page}");
        listed.extend(data.iter().map(|erasure| erasure["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/erasures?limit=2&after={next}");
    }
    made.sort();
    listed.sort();
    assert_eq!(listed, made);
    admin.get("/v1/erasures?limit=0").problem(422, "invalid_value");
    admin.get("/v1/erasures?after=nonsense!").problem(422, "invalid_value");
    admin.get("/v1/erasures/00000000000000000000000000000000").problem(404, "not_found");
    admin.get("/v1/erasures/nonsense").problem(404, "not_found");
    running.stop();
}

#[test]
fn what_is_no_erasure_is_refused_and_shreds_nobody() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    admin.set("jane", &json!({ "name": "Jane" })).expect(201);
    for (body, field) in [
        (json!({ "subjects": [], "reason": "x" }), "subjects"),
        (json!({ "subjects": ["jane"], "reason": "" }), "reason"),
        (json!({ "subjects": ["jane"], "reason": "r".repeat(2000) }), "reason"),
        (json!({ "subjects": ["jane"], "reason": "x", "reference": "a\nb" }), "reference"),
        (json!({ "subjects": ["jane"], "reason": "x", "compartment": "nowhere" }), "compartment"),
        (json!({ "subjects": ["jane"], "reason": "x", "not_before": "tomorrow" }), "not_before"),
        (json!({ "subjects": ["jane"], "reason": "x", "deadline": "soon" }), "deadline"),
    ] {
        assert_eq!(admin.post("/v1/erasures", &body).problem(422, "invalid_value")["field"], field);
    }
    admin.post("/v1/erasures", &json!({ "subjects": ["jane"] })).problem(400, "malformed");
    admin.post("/v1/erasures", &json!({ "subjects": "jane", "reason": "x" })).problem(400, "malformed");
    let mixed = json!({ "subjects": ["jane", "a\u{0}b"], "reason": "x" });
    admin.post("/v1/erasures", &mixed).problem(400, "malformed");
    admin.delete("/v1/subjects/jane?compartment=nowhere").problem(422, "invalid_value");
    admin.get("/v1/subjects/jane").expect(200);
    running.stop();
}

#[test]
fn the_command_line_erases_shows_and_lists() {
    let vault = Vault::configured();
    let running = vault.start();
    for id in ["a", "list", "c/d é"] {
        let path = format!("/v1/subjects/{}/fields", if id == "c/d é" { "c%2Fd%20%C3%A9" } else { id });
        running.admin.patch(&path, &json!({ "fields": { "name": id } })).expect(201);
    }
    running.cli(&["--yes", "erase", "a"]).expect(0);
    running.cli(&["subject", "show", "a"]).expect(7);
    running.cli(&["--yes", "erase", "a"]).expect(7);
    running.cli(&["--yes", "erase", "nobody"]).expect(3);
    running.cli(&["--yes", "erase", "--", "list"]).expect(0);
    running.cli(&["--yes", "erase", "c/d é", "nobody"]).expect(9);
    running.cli(&["subject", "show", "c/d é"]).expect(7);
    let listed = running.cli(&["--output", "json", "erase", "list"]).expect(0);
    let listed: Value = serde_json::from_str(&listed.out).unwrap();
    let erasures = listed.get("data").unwrap_or(&listed).as_array().unwrap();
    assert!(erasures.len() >= 3, "{listed}");
    running.cli(&["erase", "show", erasures[0]["id"].as_str().unwrap()]).expect(0);
    running.stop();
}

#[test]
fn an_erasure_waits_for_its_time_and_for_a_second_person() {
    let vault = Vault::unmade("[unlock]\nkey_file = \"unlock.key\"\n[erasure]\napprove_above = 1\ndeadline_days = 7\n");
    let key = vault.data().join("unlock.key");
    vault.init(&["--no-passphrase", "--key-file", key.to_str().unwrap()]).expect(0);
    let running = vault.start();
    let admin = &running.admin;
    for id in ["a", "b", "c"] {
        admin.set(id, &json!({ "name": id })).expect(201);
    }
    let ask = |more: &Value| {
        let mut body = json!({ "subjects": ["a", "b"], "reason": "moved away" });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        admin.post("/v1/erasures", &body).expect(201).json()
    };
    let large = ask(&json!({}));
    assert_eq!(large["state"], "awaiting_approval");
    let path = format!("/v1/erasures/{}", large["id"].as_str().unwrap());
    admin.post(&format!("{path}/approve"), &json!({})).problem(403, "second_person");
    admin.get("/v1/subjects/a").expect(200);
    let status = admin.get("/v1/status").expect(200).json();
    assert_eq!((&status["erasures"]["awaiting_approval"], &status["erasures"]["late"]), (&json!(1), &json!(0)));
    let privacy = running.caller("privacy", &[]);
    let approved = privacy.post(&format!("{path}/approve"), &json!({})).expect(200).json();
    assert_ne!(approved["approved_by"], approved["requested_by"]);
    wait_for("the approved erasure", || (admin.get(&path).expect(200).json()["state"] == "final").then_some(()));
    admin.get("/v1/subjects/a").problem(410, "shredded");

    let later =
        json!({ "subjects": ["c"], "reason": "later", "not_before": "2099-01-01T00:00:00Z", "refuse_now": true });
    let later = admin.post("/v1/erasures", &later).expect(201).json();
    admin.get("/v1/subjects/c").problem(410, "shredded");
    let shown = admin.get(&format!("/v1/erasures/{}?wait=10", later["id"].as_str().unwrap())).expect(200).json();
    assert_eq!(shown["state"], "pending", "what may take years is not waited for");
    let pending = admin.get("/v1/erasures?state=pending").expect(200).json();
    assert_eq!(pending["data"].as_array().unwrap().len(), 1);
    admin.get("/v1/erasures?state=nonsense").problem(422, "invalid_value");
    running.stop();
    let running = vault.start();
    let id = later["id"].as_str().unwrap();
    let listed = running.cli(&["erase", "list", "--state", "pending"]).expect(0);
    assert!(listed.out.contains(id), "{}", listed.out);
    running.cli(&["erase", "cancel", id]).expect(0);
    running.cli(&["erase", "cancel", id]).expect(5);
    assert_eq!(running.admin.get(&format!("/v1/erasures/{id}")).expect(200).json()["state"], "cancelled");
    running.admin.get("/v1/subjects/c").expect(200);
    running.stop();
    vault.verify().expect(0);
}
