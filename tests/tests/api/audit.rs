//! What requests leave in the audit log: who did what with whose data, and never the data.

use serde_json::{Value, json};

use crate::harness::{Traces, Vault, files_under};

const SUBJECTS: [&str; 3] = ["customer-4711", "customer-4712", "customer-4713"];
const PHONE: &str = "+971501238301";
const EMAIL: &str = "jane.unmistakable@example.org";

/// Everything in the log's files, as text.
fn log_text(vault: &Vault) -> String {
    let files = files_under(&vault.data().join("audit"));
    files.iter().map(|file| String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned()).collect()
}

fn what(accesses: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let data = accesses["data"].as_array().unwrap();
    data.iter().map(|access| (text(&access["what"]), text(&access["caller_name"]))).collect()
}

#[test]
fn the_log_tells_who_saw_what_and_no_value_and_no_subject_id() {
    let vault = Vault::dev();
    let running = vault.start();
    let admin = running.admin.for_purpose("account");
    for subject in SUBJECTS {
        admin.set(subject, &json!({ "phone": PHONE, "email": EMAIL })).expect(201);
    }
    let shop = running.caller("service", &["account"]).for_purpose("account");
    shop.field(SUBJECTS[0], "phone").expect(200);
    let items = json!({ "items": SUBJECTS.map(|subject| json!({ "subject": subject, "view": "full" })) });
    shop.post("/v1/batch/read", &items).expect(200);
    shop.find(&json!({ "field": "phone", "value": PHONE }));
    let token = shop.post("/v1/tokens", &json!({ "subject": SUBJECTS[1], "field": "email" })).expect(201).json();
    let token = token["token"].as_str().unwrap().to_owned();
    shop.post("/v1/tokens/resolve", &json!({ "token": token })).expect(200);
    admin.get(&format!("/v1/subjects/{}/export", SUBJECTS[2])).expect(200);
    shop.delete(&format!("/v1/tokens/{token}")).expect(204);

    let told = what(&admin.get("/v1/subjects/customer-4712/accesses").expect(200).json());
    let kinds: Vec<&str> = told.iter().map(|(what, _)| what.as_str()).collect();
    assert_eq!(kinds, ["write", "read", "lookup", "token_create", "token_resolve", "token_revoke"]);
    assert!(told[0].1 == "admin" && told[1].1 == "a service", "{told:?}");
    running.stop();

    let text = log_text(&vault);
    let traces = [PHONE, "971501238301", EMAIL, &token].map(str::to_owned).into_iter();
    let traces = Traces::new(traces.chain(SUBJECTS.map(str::to_owned)));
    assert_eq!(traces.find(text.as_bytes()), Vec::<String>::new());
    // The same look finds what is there: the words of entries, and a pseudonym where a subject was concerned.
    assert!(text.contains(r#""what":"token_resolve""#) && text.contains(r#""subjects":[""#), "{text}");
    assert!(text.contains(r#""what":"start""#) && text.contains(r#""what":"stop""#));
    assert!(!Traces::new(["token_resolve".to_owned()]).find(text.as_bytes()).is_empty());
}

#[test]
fn accesses_are_gone_with_the_subject_and_others_stay() {
    let vault = Vault::dev();
    let running = vault.start();
    let admin = running.admin.for_purpose("account");
    for subject in SUBJECTS {
        admin.set(subject, &json!({ "phone": PHONE })).expect(201);
    }
    let shop = running.caller("service", &["account"]).for_purpose("account");
    for subject in &SUBJECTS[..2] {
        shop.field(subject, "phone").expect(200);
        shop.field(subject, "phone").expect(200);
    }
    let reach = |caller: &str| {
        let asked = json!({ "caller": caller, "from": "2020-01-01T00:00:00Z", "to": "2999-01-01T00:00:00Z" });
        admin.post("/v1/audit/accesses", &asked)
    };
    let seen = reach("a service").expect(200).json();
    assert_eq!((seen["subjects"].as_array().unwrap().len(), &seen["unlinkable"]), (2, &json!(0)));
    let one = seen["subjects"].as_array().unwrap().iter().find(|one| one["subject"] == SUBJECTS[0]).unwrap();
    assert_eq!((&one["fields"], &one["count"]), (&json!(["phone"]), &json!(2)));
    reach("nobody of this name").problem(404, "not_found");

    admin.delete("/v1/subjects/customer-4711").expect(200);
    admin.get("/v1/subjects/customer-4711/accesses").problem(410, "shredded");
    let seen = reach("a service").expect(200).json();
    assert_eq!((&seen["subjects"][0]["subject"], &seen["unlinkable"]), (&json!(SUBJECTS[1]), &json!(2)));
    admin.get("/v1/subjects/nobody/accesses").problem(404, "unknown_subject");
    admin.get("/v1/subjects/customer-4712/accesses?from=yesterday").problem(422, "invalid_value");
    let first = admin.get("/v1/subjects/customer-4712/accesses?limit=1").expect(200).json();
    let next = first["next"].as_str().unwrap();
    let rest = admin.get(&format!("/v1/subjects/customer-4712/accesses?after={next}")).expect(200).json();
    assert_eq!(
        (first["data"].as_array().unwrap().len(), rest["data"].as_array().unwrap().len()),
        (1, 5),
        "looking is told as well"
    );
    shop.get("/v1/subjects/customer-4712/accesses").problem(403, "forbidden");

    let table = running.cli(&["subject", "accesses", SUBJECTS[1]]);
    assert!(table.code == Some(0) && table.out.contains("read") && table.out.contains("phone"), "{}", table.out);
    let line = [
        "audit",
        "accesses",
        "--caller",
        "a service",
        "--from",
        "2020-01-01T00:00:00Z",
        "--to",
        "2999-01-01T00:00:00Z",
    ];
    let table = running.cli(&line);
    assert!(table.code == Some(0) && table.out.contains(SUBJECTS[1]), "{}", table.out);
    running.stop();
}

/// What was committed is in the log after any crash, once.
#[test]
fn a_kill_leaves_each_write_in_the_log_once() {
    let vault = Vault::dev();
    let mut running = vault.start();
    for round in 0..3 {
        for n in 0..20 {
            running.admin.set(&format!("s{round}-{n}"), &json!({ "phone": PHONE })).expect(201);
        }
        running.server.kill();
        running = vault.start();
    }
    running.stop();
    assert_eq!(log_text(&vault).matches(r#""what":"write""#).count(), 60);
}
