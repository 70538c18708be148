//! Everything held of a subject, as one document, over HTTP and with the command line.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::harness::Vault;

#[test]
fn an_export_explains_itself() {
    let vault = Vault::configured();
    let running = vault.start();
    let admin = &running.admin;
    let body = r#"{"fields": {"location": {"lat": 1.50, "lon": -2}, "phone": "+971 50 123-8301"}}"#;
    admin.send("PATCH", "/v1/subjects/jane/fields", &[], Some(body)).expect(201);
    let metadata = json!({ "source": "shop", "recipients": ["courier"] });
    admin.patch("/v1/subjects/jane/fields/phone/metadata", &metadata).expect(200);
    let consent = json!({ "version": "2026-05", "source": "form" });
    admin.put("/v1/subjects/jane/consents/marketing", &consent);
    admin.put("/v1/subjects/jane/restriction", &json!({ "reason": "a dispute" }));
    admin.put("/v1/subjects/jane/holds/case_1", &json!({ "reason": "a secret of the court" }));
    let answer = running.caller("privacy", &[]).get("/v1/subjects/jane/export").expect(200);
    assert!(answer.body.contains("1.50"), "byte for byte");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let export = answer.json();
    assert_eq!(
        (&export["format"], &export["subject"], &export["state"]),
        (&json!("udv-export-1"), &json!("jane"), &json!("held"))
    );
    for key in ["exported_at", "enrolled_at"] {
        assert!(export[key].is_string(), "{key}");
    }
    assert_eq!(
        (&export["consents"][0]["purpose"], &export["consents"][0]["version"]),
        (&json!("marketing"), &json!("2026-05"))
    );
    assert_eq!(
        (&export["restriction"]["reason"], &export["holds"][0]["name"]),
        (&json!("a dispute"), &json!("case_1"))
    );
    assert!(!answer.body.contains("a secret of the court"), "the reason of a hold is the holder's");
    let accesses = export["accesses"]["data"].as_array().unwrap();
    assert_eq!((&accesses[0]["what"], &export["accesses"]["left_off"]), (&json!("write"), &json!(0)));
    let fields = export["fields"].as_array().unwrap();
    assert_eq!(fields.len(), 2);
    let phone = fields.iter().find(|field| field["name"] == "phone").unwrap();
    assert_eq!((&phone["type"], &phone["compartment"]), (&json!("phone"), &json!("profile")));
    assert_eq!((&phone["value"], &phone["normal"]), (&json!("+971 50 123-8301"), &json!("+971501238301")));
    assert_eq!(
        (&phone["version"], &phone["sensitivity"], &phone["expired"]),
        (&json!(1), &json!("personal"), &json!(false))
    );
    assert_eq!(phone["metadata"]["source"], "shop");
    let purposes = phone["purposes"].as_array().unwrap();
    assert!(
        purposes
            .iter()
            .any(|used| used["purpose"] == "delivery" && used["view"] == "full" && used["basis"].is_string())
    );

    running.caller("service", &["account"]).get("/v1/subjects/jane/export").problem(403, "forbidden");
    admin.get("/v1/subjects/nobody/export").problem(404, "unknown_subject");
    admin.delete("/v1/subjects/jane/holds/case_1");
    admin.delete("/v1/subjects/jane").expect(200);
    admin.get("/v1/subjects/jane/export").problem(410, "shredded");
    running.stop();
}

#[test]
fn the_command_line_writes_a_file_of_its_owners() {
    let vault = Vault::configured();
    let running = vault.start();
    running
        .admin
        .send("PATCH", "/v1/subjects/cust%2F1/fields", &[], Some(r#"{"fields": {"name": "Ada"}}"#))
        .expect(201);
    let out = vault.root().join("ada.json");
    let path = out.to_str().unwrap();
    running.cli(&["subject", "export", "cust/1", "--out", path]).expect(0);
    assert_eq!(fs::metadata(&out).unwrap().permissions().mode() & 0o777, 0o600);
    let written: Value = serde_json::from_str(&fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!((&written["subject"], &written["fields"][0]["value"]), (&json!("cust/1"), &json!("Ada")));
    running.cli(&["subject", "export", "cust/1", "--out", path]).expect(1);
    let shown = running.cli(&["subject", "export", "cust/1"]).expect(0);
    assert_eq!(serde_json::from_str::<Value>(&shown.out).unwrap()["fields"], written["fields"]);
    running.cli(&["erase", "cust/1", "--yes"]).expect(0);
    running.cli(&["subject", "export", "cust/1"]).expect(7);
    running.cli(&["subject", "export", "nobody"]).expect(3);
    running.stop();
}
