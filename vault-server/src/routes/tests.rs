//! The router over a vault in memory: what callers send, what they get.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;
use vault_core::audit::Log;
use vault_core::crypto::passphrase::{Cost, new_key_file};
use vault_core::root::NewUnlock;
use vault_core::store::MemoryStore;
use vault_core::vault::{NewCaller, Role, Vault, VaultOptions};

use super::fields;
use crate::app::App;
use crate::backups::Backups;
use crate::config::Limits;
use crate::files::write_secret;
use crate::problem::Kind;
use crate::unlock::Source;

mod callers;
mod fuzz;
mod idempotency;
mod trail;

/// A service over a new, unlocked vault.
struct Site {
    app: App,
    router: Router,
    vault: Vault,
    token: String,
    store: Arc<MemoryStore>,
    dir: tempfile::TempDir,
    log: Log,
}

fn logged(log: &Log) -> VaultOptions {
    VaultOptions { log: Some(log.clone()), ..VaultOptions::default() }
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or(Value::Null)
    }

    /// Status and code of a problem.
    fn problem(&self) -> (u16, String) {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.text);
        assert_eq!(self.json()["status"], self.status);
        (self.status, self.json()["code"].as_str().unwrap().to_owned())
    }
}

impl Site {
    async fn new() -> Self {
        Self::limited(Limits::default()).await
    }

    async fn limited(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (key, text) = new_key_file();
        let key_path = dir.path().join("unlock.key");
        write_secret(&key_path, &text).unwrap();
        let unlocks =
            vec![NewUnlock::KeyFile(key), NewUnlock::Passphrase("correct horse".to_owned().into(), Cost::FLOOR)];
        let store = Arc::new(MemoryStore::new());
        let slots = [dir.path().join("root.slot").into()];
        let log = Log::open(&dir.path().join("audit")).unwrap();
        let vault = Vault::create(store.clone(), &slots, unlocks, logged(&log)).await.unwrap();
        let admin = NewCaller {
            name: "admin".to_owned(),
            role: Role::Admin,
            purposes: [].into(),
            expires_at: None,
            lookups_per_minute: None,
        };
        let token = vault.create_caller(admin, None).await.unwrap().1.to_string();
        let backups = Backups::new(Vec::new(), dir.path().join("backups"));
        let app = App::new(vault.clone(), Some(Source::KeyFile(key_path)), &limits, backups);
        Self { router: app.clone().router(), app, vault, token, store, dir, log }
    }

    /// Closes the vault and serves it anew, as a restart does.
    async fn restart(&mut self) {
        self.vault.close().await.unwrap();
        let (slots, key_path) = ([self.dir.path().join("root.slot").into()], self.dir.path().join("unlock.key"));
        self.vault = Vault::open(self.store.clone(), &slots, logged(&self.log)).await.unwrap();
        let source = Source::KeyFile(key_path);
        self.vault.unlock(source.read().unwrap()).await.unwrap();
        self.app = App::new(self.vault.clone(), Some(source), &Limits::default(), Backups::default());
        self.router = self.app.clone().router();
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 16 << 20).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    async fn with(&self, token: &str, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request =
            Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    async fn call(&self, method: Method, path: &str, body: &str) -> Answer {
        self.with(&self.token, method, path, &[], body).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.with(&self.token, Method::GET, path, &[("udv-purpose", "account")], "").await
    }

    async fn caller(&self, role: &str, purposes: Value) -> String {
        let body = json!({"name": role, "role": role, "purposes": purposes}).to_string();
        let made = self.call(Method::POST, "/v1/callers", &body).await;
        assert_eq!(made.status, 201, "{}", made.text);
        made.json()["token"].as_str().unwrap().to_owned()
    }
}

const JANE: &str = r#"{"fields": {"name": "Jane D\u006fe", "phone": "+971501238301", "home_address": {"line1":  "1 Elm St", "city": "Abu Dhabi"}}}"#;

#[tokio::test]
async fn fields_are_put_read_found_and_shredded() {
    let site = Site::new().await;
    let made = site.call(Method::PATCH, "/v1/subjects/cust%2F1/fields", JANE).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(made.json()["subject"], "cust/1");
    assert_eq!(made.json()["fields"]["phone"]["version"], 1);

    let read = site.get("/v1/subjects/cust%2F1/fields?view=full").await;
    assert_eq!(read.status, 200);
    assert!(read.text.contains(r#""name":"Jane D\u006fe""#), "byte for byte: {}", read.text);
    assert!(read.text.contains(r#"{"line1":  "1 Elm St", "city": "Abu Dhabi"}"#), "{}", read.text);
    assert!(read.json().get("views").is_none());

    let masked = site.get("/v1/subjects/cust%2F1/fields?names=phone").await;
    assert!(!masked.text.contains("971501238301") && masked.json()["fields"].as_object().unwrap().len() == 1);

    let query = r#"{"field": "phone", "value": "050 123 8301", "region": "AE"}"#;
    let found = site.call(Method::POST, "/v1/lookups", query).await;
    assert_eq!(found.json(), json!({"subjects": ["cust/1"]}));

    let held = site.get("/v1/subjects/cust%2F1").await;
    assert_eq!(held.json()["state"], "active");
    assert_eq!(held.json()["compartments"][0]["name"], "profile");
    assert!(!held.text.contains("Jane"));

    let merged = site.call(Method::PATCH, "/v1/subjects/cust%2F1/fields", r#"{"fields": {"name": null}}"#).await;
    assert_eq!((merged.status, merged.json()["fields"].clone()), (200, json!({})));

    let shredded = site.call(Method::DELETE, "/v1/subjects/cust%2F1", "").await;
    assert_eq!(shredded.status, 200, "{}", shredded.text);
    assert_eq!(shredded.json()["state"], "final");
    assert_eq!(
        shredded.json()["counts"],
        json!({"pending": 0, "final": 1, "refused": 0, "unknown": 0, "shredded": 0, "held": 0, "cancelled": 0})
    );
    for path in ["/v1/subjects/cust%2F1", "/v1/subjects/cust%2F1/fields", "/v1/subjects/cust%2F1/fields/phone"] {
        assert_eq!(site.get(path).await.problem(), (410, "shredded".to_owned()), "{path}");
    }
    assert_eq!(site.call(Method::DELETE, "/v1/subjects/cust%2F1", "").await.status, 410);
    assert_eq!(site.call(Method::PATCH, "/v1/subjects/cust%2F1/fields", JANE).await.status, 410);
    assert_eq!(site.call(Method::POST, "/v1/lookups", query).await.json()["subjects"], json!([]));
    assert_eq!(site.call(Method::PATCH, "/v1/subjects/cust%2F1/fields?enrol=again", JANE).await.status, 201);
    assert_eq!(
        site.call(Method::DELETE, "/v1/subjects/nobody", "").await.problem(),
        (404, "unknown_subject".to_owned())
    );
}

#[tokio::test]
async fn one_field_with_its_version() {
    let site = Site::new().await;
    let path = "/v1/subjects/jane/fields/email";
    let absent = [("if-none-match", "*")];
    let put = site.with(&site.token, Method::PUT, path, &absent, r#"{"value": "jane@example.org"}"#).await;
    assert_eq!((put.status, &put.headers["etag"]), (201, &"\"v1\"".parse().unwrap()));
    let again = site.with(&site.token, Method::PUT, path, &absent, r#"{"value": "jane@example.org"}"#).await;
    assert_eq!(again.problem(), (412, "precondition_failed".to_owned()));
    let next = [("if-match", "\"v1\"")];
    let put = site.with(&site.token, Method::PUT, path, &next, r#"{"value": "jane@example.net"}"#).await;
    assert_eq!((put.status, &put.headers["etag"]), (200, &"\"v2\"".parse().unwrap()));
    assert_eq!(site.with(&site.token, Method::PUT, path, &next, r#"{"value": "x@example.net"}"#).await.status, 412);

    let read = site.get(&format!("{path}?view=full")).await;
    assert_eq!(
        (read.json(), &read.headers["etag"]),
        (json!({"value": "jane@example.net"}), &"\"v2\"".parse().unwrap())
    );
    let head = site.call(Method::HEAD, path, "").await;
    assert_eq!((head.status, head.text.as_str(), &head.headers["etag"]), (200, "", &"\"v2\"".parse().unwrap()));

    assert_eq!(site.call(Method::DELETE, path, "").await.status, 204);
    assert_eq!(site.get(path).await.problem(), (404, "unknown_field_value".to_owned()));
}

#[tokio::test]
async fn bad_input_is_refused_and_not_repeated() {
    let site = Site::new().await;
    let path = "/v1/subjects/jane/fields";
    let long = format!("/v1/subjects/{}/fields", "x".repeat(300));
    let large = format!(r#"{{"fields": {{"name": "{}"}}}}"#, "x".repeat(1 << 20));
    for (method, path, body, status, code) in [
        (Method::PATCH, path, "{\"fields\": {\"name\": Secretive}}", 400, "malformed"),
        (Method::PATCH, path, "{\"fields\": \"Secretive\"}", 400, "malformed"),
        (Method::PATCH, path, "{\"fields\": {}, \"Secretive\": 1}", 400, "malformed"),
        (Method::PATCH, path, "{\"fields\": {\"name\": \"Secretive\", \"name\": \"b\"}}", 400, "malformed"),
        (Method::PATCH, path, "{\"fields\": {\"phone\": \"Secretive\"}}", 422, "invalid_value"),
        (
            Method::PATCH,
            path,
            "{\"fields\": {\"phone\": {\"national\": \"1\", \"region\": \"AE\"}}}",
            422,
            "invalid_value",
        ),
        (Method::PATCH, path, "{\"fields\": {\"shoe_size\": \"Secretive\"}}", 422, "undeclared_field"),
        (Method::PATCH, path, "{\"fields\": {\"Secretive\": 1}}", 422, "undeclared_field"),
        (Method::PATCH, path, &large, 413, "too_large"),
        (Method::PATCH, "/v1/subjects/a%0Ab/fields", JANE, 400, "malformed"),
        (Method::PATCH, "/v1/subjects/%FF/fields", JANE, 400, "malformed"),
        (Method::PATCH, &long, JANE, 400, "malformed"),
        (Method::PATCH, "/v1/subjects/jane/fields?Secretive=1", JANE, 400, "malformed"),
        (Method::DELETE, "/v1/subjects/jane/fields/name?Secretive=1", "", 400, "malformed"),
        (Method::DELETE, "/v1/backups/retained?Secretive", "", 400, "malformed"),
        (Method::POST, "/v1/lock?Secretive=1", "", 400, "malformed"),
        (Method::POST, "/v1/unlock?Secretive=1", "", 400, "malformed"),
        (Method::GET, "/v1/subjects/jane/fields?view=Secretive", "", 422, "invalid_value"),
        (Method::GET, "/v1/subjects/jane/fields", "", 404, "unknown_subject"),
        (Method::GET, "/v1/nowhere", "", 404, "not_found"),
        (Method::PUT, "/v1/lookups", "", 405, "method_not_allowed"),
        (Method::POST, "/v1/lookups", "{\"field\": \"nickname\", \"value\": \"Secretive\"}", 422, "invalid_value"),
        (Method::POST, "/v1/erasures", "{\"subjects\": [], \"reason\": \"r\"}", 422, "invalid_value"),
        (
            Method::POST,
            "/v1/erasures",
            "{\"subjects\": [\"a\"], \"reason\": \"r\", \"compartment\": \"x\"}",
            422,
            "invalid_value",
        ),
        (Method::POST, "/v1/keys/rotations", "{\"layer\": \"unlock\"}", 422, "invalid_value"),
        (Method::GET, "/v1/erasures/xyz", "", 404, "not_found"),
        (Method::GET, "/v1/erasures?after=Secretive", "", 422, "invalid_value"),
    ] {
        let answer = site.call(method, path, body).await;
        assert_eq!(answer.problem(), (status, code.to_owned()), "{path} {}", &body[..body.len().min(80)]);
        assert!(!answer.text.contains("Secretive"), "{}", answer.text);
    }
    let field = site.call(Method::PATCH, path, "{\"fields\": {\"phone\": \"x\"}}").await;
    assert_eq!(field.json()["field"], "phone");
    let request = Request::patch(path).header("authorization", format!("Bearer {}", site.token));
    let text = request.header("content-type", "text/plain").body(Body::from(JANE)).unwrap();
    assert_eq!(site.send(text).await.problem(), (415, "unsupported_media_type".to_owned()));
    assert_eq!(site.call(Method::PUT, "/v1/lookups", "").await.headers["allow"], "POST");
}

#[tokio::test]
async fn tokens_roles_and_purposes() {
    let site = Site::new().await;
    site.call(Method::PATCH, "/v1/subjects/jane/fields", JANE).await;
    let path = "/v1/subjects/jane/fields?names=phone&view=full";
    assert_eq!(site.send(Request::get(path).body(Body::empty()).unwrap()).await.problem().0, 401);
    let wrong = site.with("udv_wrong", Method::GET, path, &[], "").await;
    assert_eq!(wrong.problem(), (401, "unauthenticated".to_owned()));
    assert_eq!(wrong.headers["www-authenticate"], "Bearer");

    let courier = site.caller("service", json!(["delivery"])).await;
    let read = async |purpose: &[(&str, &str)]| site.with(&courier, Method::GET, path, purpose, "").await;
    assert_eq!(read(&[("udv-purpose", "delivery")]).await.status, 200);
    for (purpose, rule) in [
        (&[][..], "purpose_required"),
        (&[("udv-purpose", "marketing")][..], "purpose_not_allowed"),
        (&[("udv-purpose", "curiosity")][..], "purpose_undeclared"),
    ] {
        let refused = read(purpose).await;
        assert_eq!((refused.status, refused.json()["rule"].clone()), (403, json!(rule)));
        assert!(!refused.text.contains("971"));
    }
    let keys = site.with(&courier, Method::GET, "/v1/keys", &[], "").await;
    assert_eq!((keys.problem().0, keys.json()["rule"].clone()), (403, json!("role")));

    let security = site.caller("security", json!([])).await;
    assert_eq!(site.with(&security, Method::GET, path, &[], "").await.status, 403);
    assert_eq!(site.with(&security, Method::GET, "/v1/keys", &[], "").await.status, 200);
    let admin = r#"{"name": "mallory", "role": "admin", "purposes": []}"#;
    assert_eq!(site.with(&security, Method::POST, "/v1/callers", &[], admin).await.status, 403);

    let callers = site.call(Method::GET, "/v1/callers", "").await.json();
    let id = callers["data"].as_array().unwrap().iter().find(|c| c["role"] == "service").unwrap()["id"].clone();
    assert_eq!(site.call(Method::DELETE, &format!("/v1/callers/{}", id.as_str().unwrap()), "").await.status, 204);
    assert_eq!(read(&[("udv-purpose", "delivery")]).await.status, 401);
}

#[tokio::test]
async fn batches_answer_item_by_item() {
    let site = Site::new().await;
    let items = json!({"items": [
        {"subject": "a", "fields": {"name": "A", "phone": "+971501238301"}},
        {"subject": "b\n", "fields": {"name": "B"}},
        {"subject": "c", "fields": {"phone": "Secretive"}},
        {"subject": "d", "fields": {"name": "D"}},
    ]});
    let written = site.call(Method::POST, "/v1/batch/write", &items.to_string()).await;
    assert_eq!(written.status, 200, "{}", written.text);
    let results = written.json()["results"].clone();
    let statuses: Vec<_> = (0..4).map(|at| results[at]["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [201, 400, 422, 201]);
    assert_eq!(
        (&results[2]["problem"]["field"], &results[3]["fields"]["name"]["version"]),
        (&json!("phone"), &json!(1))
    );
    assert!(!written.text.contains("Secretive"));

    let items =
        json!({"items": [{"subject": "d", "names": ["name"], "view": "full"}, {"subject": "nobody"}]}).to_string();
    let read = site.with(&site.token, Method::POST, "/v1/batch/read", &[("udv-purpose", "account")], &items).await;
    assert_eq!(read.json()["results"][0], json!({"status": 200, "subject": "d", "fields": {"name": "D"}}));
    assert_eq!(read.json()["results"][1]["problem"]["code"], "unknown_subject");
}

#[tokio::test]
async fn erasures_and_rotations_are_resources() {
    let site = Site::new().await;
    for id in ["a", "b", "c"] {
        site.call(Method::PATCH, &format!("/v1/subjects/{id}/fields"), JANE).await;
    }
    let ask =
        |dry_run: bool| json!({"subjects": ["a", "b", "b", "x"], "reason": "asked", "dry_run": dry_run}).to_string();
    let dry = site.call(Method::POST, "/v1/erasures", &ask(true)).await;
    assert_eq!(
        (dry.status, dry.json()["counts"]["pending"].clone(), dry.json()["total"].clone()),
        (200, json!(2), json!(3))
    );
    assert_eq!(site.get("/v1/subjects/a").await.status, 200);

    let made = site.call(Method::POST, "/v1/erasures", &ask(false)).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert_eq!(site.get("/v1/subjects/a").await.status, 410);
    let at = made.headers["location"].to_str().unwrap().to_owned();
    let id = vault_core::ids::ErasureId::parse(made.json()["id"].as_str().unwrap()).unwrap();
    site.vault.wait_final(id, std::time::Duration::from_secs(30)).await.unwrap();
    let shown = site.get(&at).await.json();
    assert_eq!(
        shown["counts"],
        json!({"pending": 0, "final": 2, "refused": 0, "unknown": 1, "shredded": 0, "held": 0, "cancelled": 0})
    );
    assert_eq!((&shown["state"], &shown["total"]), (&json!("final"), &json!(3)));
    assert_eq!(site.get("/v1/erasures").await.json()["data"].as_array().unwrap().len(), 1);

    let epoch = site.get("/v1/status").await.json()["epoch"].as_u64().unwrap();
    let rotating = site.call(Method::POST, "/v1/keys/rotations", r#"{"layer": "keks"}"#).await;
    assert_eq!(rotating.status, 202, "{}", rotating.text);
    let at = rotating.headers["location"].to_str().unwrap().to_owned();
    for _ in 0..200 {
        if site.get(&at).await.json()["state"] == "done" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(25)).await;
    }
    assert_eq!(site.get(&at).await.json()["state"], "done");
    assert!(site.get("/v1/status").await.json()["epoch"].as_u64().unwrap() > epoch);
    assert_eq!(site.get("/v1/subjects/c").await.status, 200);
    let layers = site.get("/v1/keys").await.json()["layers"].clone();
    let names: Vec<_> = layers.as_array().unwrap().iter().map(|layer| layer["layer"].clone()).collect();
    assert_eq!(names, ["unlock", "root", "keks", "deks", "lookups"]);
    assert_eq!(layers[2]["last_rotation"]["id"], rotating.json()["id"]);
    assert_eq!(site.get("/v1/keys/rotations").await.json()["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn locked_and_unlocked_again() {
    let site = Site::new().await;
    site.call(Method::PATCH, "/v1/subjects/jane/fields", JANE).await;
    assert_eq!(site.call(Method::POST, "/v1/lock", "").await.json(), json!({"state": "locked"}));
    assert_eq!(site.get("/v1/subjects/jane").await.problem(), (423, "locked".to_owned()));
    for (path, items) in [("write", r#"{"subject": "jane", "fields": {}}"#), ("read", r#"{"subject": "jane"}"#)] {
        let batch = site.call(Method::POST, &format!("/v1/batch/{path}"), &format!(r#"{{"items": [{items}]}}"#)).await;
        assert_eq!(batch.problem(), (423, "locked".to_owned()), "as a whole");
    }
    assert_eq!(site.get("/v1/status").await.json()["state"], "locked");
    let ready = site.get("/readyz").await;
    assert_eq!((ready.status, ready.json()), (503, json!({"status": "locked"})));

    let unlock = async |token: &str, body: &str| site.with(token, Method::POST, "/v1/unlock", &[], body).await;
    assert_eq!(unlock("", r#"{"passphrase": "wrong"}"#).await.problem(), (403, "wrong_unlock_key".to_owned()));
    assert_eq!(unlock("", "{}").await.problem().0, 401, "the configured key takes an API token");
    assert_eq!(unlock(&site.token, "{}").await.json(), json!({"state": "unlocked"}));
    assert_eq!(site.get("/v1/subjects/jane").await.status, 200);

    site.call(Method::POST, "/v1/lock", "").await;
    assert_eq!(unlock("", r#"{"passphrase": "correct horse"}"#).await.status, 200);
    assert_eq!(site.get("/readyz").await.status, 200);
    for _ in 0..4 {
        assert_eq!(unlock("", r#"{"passphrase": "wrong"}"#).await.status, 403);
    }
    let limited = unlock("", r#"{"passphrase": "correct horse"}"#).await;
    assert_eq!(limited.problem(), (429, "rate_limited".to_owned()));
    assert!(limited.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn a_configured_key_that_is_replaced_meanwhile_is_read_again() {
    let site = Site::new().await;
    site.call(Method::POST, "/v1/lock", "").await;
    let (key, aside) = (site.dir.path().join("unlock.key"), site.dir.path().join("aside.key"));
    std::fs::rename(&key, &aside).unwrap();
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &key, mode).unwrap();
    let other = new_key_file().1;
    let replacing = std::thread::spawn(move || {
        // Once it is being read, and gives another key than the one that lies there by then.
        let mut read = std::fs::OpenOptions::new().write(true).open(&key).unwrap();
        std::fs::rename(aside, key).unwrap();
        std::io::Write::write_all(&mut read, other.as_bytes()).unwrap();
    });
    let unlocked = site.call(Method::POST, "/v1/unlock", "{}").await;
    replacing.join().unwrap();
    assert_eq!((unlocked.status, unlocked.json()), (200, json!({"state": "unlocked"})));
}

#[tokio::test]
async fn a_shred_that_the_vault_is_locked_under_is_told_of_as_refused() {
    let site = Site::new().await;
    site.call(Method::PATCH, "/v1/subjects/jane/fields", JANE).await;
    std::fs::rename(site.dir.path().join("root.slot"), site.dir.path().join("away")).unwrap();
    let shredding = site.call(Method::DELETE, "/v1/subjects/jane", "");
    let locking = async {
        while site.get("/v1/subjects/jane").await.status != 410 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        site.call(Method::POST, "/v1/lock", "").await
    };
    let (shredded, locked) = tokio::join!(shredding, locking);
    assert_eq!((shredded.status, locked.status), (202, 200), "{}", shredded.text);
    assert_eq!(shredded.json()["state"], "refused");
}

#[tokio::test]
async fn what_surrounds_every_request() {
    let site = Site::new().await;
    let named = site.with(&site.token, Method::GET, "/healthz", &[("x-request-id", "mine-1")], "").await;
    assert_eq!((named.status, &named.headers["x-request-id"]), (200, &"mine-1".parse().unwrap()));
    let unnamed = site.with(&site.token, Method::GET, "/v1/nowhere", &[("x-request-id", "not mine")], "").await;
    assert_ne!(unnamed.headers["x-request-id"], "not mine");

    site.call(Method::PATCH, "/v1/subjects/jane-doe/fields", JANE).await;
    let metrics = site.get("/metrics").await.text;
    for line in [
        r#"udv_http_requests_total{method="PATCH",route="/v1/subjects/{id}/fields",status="201"} 1"#,
        "udv_subjects 1",
        "udv_locked 0",
        "udv_slots 1",
        "udv_slots_not_ok 0",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    assert!(!metrics.contains("jane") && !metrics.contains("971501238301"));
    assert_eq!(site.get("/openapi.json").await.json()["openapi"].as_str().map(|v| &v[..2]), Some("3."));
}

#[tokio::test]
async fn waiting_takes_one_place_in_eight_and_no_more() {
    let site = Site::limited(Limits { max_in_flight: 8, ..Limits::default() }).await;
    assert_eq!(site.call(Method::PATCH, "/v1/subjects/jane/fields", JANE).await.status, 201);
    let slot = site.dir.path().join("root.slot");
    std::fs::rename(&slot, site.dir.path().join("away")).unwrap();
    let asked = r#"{"subjects": ["jane"], "reason": "asked"}"#;
    let erasure = site.call(Method::POST, "/v1/erasures", asked).await.json();
    let path = format!("/v1/erasures/{}?wait=10", erasure["id"].as_str().unwrap());
    // Two at once, of which one finds no place: it is the first that is answered.
    let answer = tokio::select! {
        one = site.get(&path) => one,
        other = site.get(&path) => other,
    };
    assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("refused")), "{}", answer.text);
    assert_eq!(answer.headers["retry-after"], "1");
    // The other one hung up: the place is free again, and who waits to its end is not told to retry.
    let answer = site.get(&path.replace("=10", "=1")).await;
    assert_eq!((answer.status, answer.headers.get("retry-after")), (200, None));
}

#[tokio::test]
async fn who_shreds_while_very_many_wait_is_answered_before_them() {
    let site = Site::limited(Limits { max_in_flight: 8, ..Limits::default() }).await;
    for id in ["jane", "bob", "carl"] {
        assert_eq!(site.call(Method::PATCH, &format!("/v1/subjects/{id}/fields"), JANE).await.status, 201);
    }
    std::fs::rename(site.dir.path().join("root.slot"), site.dir.path().join("away")).unwrap();
    let asked = r#"{"subjects": ["jane"], "reason": "asked"}"#;
    let erasure = site.call(Method::POST, "/v1/erasures", asked).await.json();
    let path = format!("/v1/erasures/{}?wait=10", erasure["id"].as_str().unwrap());
    let mut waiting = std::pin::pin!(site.get(&path));
    let (carl, joan) = ("/v1/subjects/carl/fields", r#"{"fields": {"name": "Joan"}}"#);
    for (method, path, body, status) in [
        (Method::DELETE, "/v1/subjects/bob", "", 202),
        (Method::DELETE, &format!("{carl}/phone"), "", 503),
        (Method::PATCH, &format!("{carl}?final=true"), joan, 503),
        (Method::PUT, &format!("{carl}/name?final=true"), r#"{"value": "Joan"}"#, 503),
    ] {
        tokio::select! {
            biased;
            _ = &mut waiting => panic!("{path} took a place as well"),
            answer = site.call(method, path, body) => assert_eq!(answer.status, status, "{}", answer.text),
        }
    }
}

#[tokio::test]
async fn a_final_change_that_does_not_end_is_answered_when_the_server_stops() {
    let site = Site::new().await;
    let crashed = fields::finally::<()>(&site.app, async { panic!("as it should") }).await;
    assert_eq!(crashed.unwrap_err().kind, Kind::Internal);
    site.app.stop();
    let stopped = fields::finally::<()>(&site.app, std::future::pending()).await.unwrap_err();
    assert_eq!((stopped.kind, stopped.retry_after), (Kind::SlotUnavailable, Some(15)));
    assert_eq!(fields::finally(&site.app, async { Ok(7) }).await, Ok(7));
}

#[tokio::test]
async fn too_many_at_once_are_told_to_retry() {
    let site = Site::limited(Limits { max_in_flight: 0, ..Limits::default() }).await;
    let busy = site.get("/v1/status").await;
    assert_eq!(busy.problem(), (503, "overloaded".to_owned()));
    assert_eq!(busy.headers["retry-after"], "1");
    assert_eq!(site.get("/healthz").await.status, StatusCode::OK.as_u16());
}
