//! Requests sent again under the same key, as a client does that missed the answer.

use super::*;

const KEY: [(&str, &str); 1] = [("idempotency-key", "b7c0a1de")];
const ERASE: &str = r#"{"subjects": ["jane", "nobody"], "reason": "asked"}"#;

impl Site {
    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.with(&self.token, Method::POST, path, headers, body).await
    }

    async fn listed(&self, path: &str) -> usize {
        self.get(path).await.json()["data"].as_array().unwrap().len()
    }
}

#[tokio::test]
async fn an_erasure_sent_again_is_the_same_erasure() {
    let mut site = Site::new().await;
    site.call(Method::PATCH, "/v1/subjects/jane/fields", JANE).await;
    let made = site.post("/v1/erasures", &KEY, ERASE).await;
    assert_eq!(made.status, 201, "{}", made.text);
    assert!(!made.headers.contains_key("idempotency-replayed"));
    assert_eq!(made.json()["counts"]["unknown"], 1);

    for restart in [false, true] {
        if restart {
            site.restart().await;
        }
        let again = site.post("/v1/erasures", &KEY, ERASE).await;
        assert_eq!((again.status, &again.json()["id"]), (201, &made.json()["id"]), "{}", again.text);
        assert_eq!(again.headers["idempotency-replayed"], "true");
        assert_eq!(again.headers["location"], made.headers["location"]);
        let other = site.post("/v1/erasures", &KEY, r#"{"subjects": ["joe"], "reason": "asked"}"#).await;
        assert_eq!(other.problem(), (422, "idempotency_mismatch".to_owned()));
        let elsewhere = site.post("/v1/keys/rotations", &KEY, r#"{"layer": "root"}"#).await;
        assert_eq!(elsewhere.problem(), (422, "idempotency_mismatch".to_owned()));
        assert_eq!(site.listed("/v1/erasures").await, 1);
    }

    // Without a key, with another one, or from another caller it is another request.
    let ids = [
        site.post("/v1/erasures", &[], ERASE).await,
        site.post("/v1/erasures", &[("idempotency-key", "another")], ERASE).await,
        site.with(&site.caller("privacy", json!([])).await, Method::POST, "/v1/erasures", &KEY, ERASE).await,
    ]
    .map(|answer| {
        assert!(answer.status == 201 && !answer.headers.contains_key("idempotency-replayed"), "{}", answer.text);
        answer.json()["id"].clone()
    });
    assert!(!ids.contains(&made.json()["id"]) && ids[0] != ids[1] && ids[1] != ids[2]);
    assert_eq!(site.listed("/v1/erasures").await, 4);
}

#[tokio::test]
async fn a_rotation_sent_again_is_the_same_and_a_caller_is_not_made_twice() {
    let site = Site::new().await;
    let made = site.post("/v1/keys/rotations", &KEY, r#"{"layer": "root"}"#).await;
    assert_eq!(made.status, 202, "{}", made.text);
    let again = site.post("/v1/keys/rotations", &KEY, r#"{"layer": "root"}"#).await;
    assert_eq!((again.status, &again.json()["id"]), (202, &made.json()["id"]));
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(site.listed("/v1/keys/rotations").await, 1);

    let key = [("idempotency-key", "caller-1")];
    let body = r#"{"name": "shop", "role": "service"}"#;
    assert_eq!(site.post("/v1/callers", &key, body).await.status, 201);
    let again = site.post("/v1/callers", &key, body).await;
    assert_eq!(again.problem(), (409, "conflict".to_owned()));
    assert!(again.text.contains("shown once") && !again.text.contains("udv_"), "{}", again.text);
    assert_eq!(site.listed("/v1/callers").await, 2);
}

#[tokio::test]
async fn a_key_that_is_none_is_refused_and_one_that_is_not_needed_does_no_harm() {
    let site = Site::new().await;
    let refused = site.post("/v1/erasures", &[("idempotency-key", "Secretive key")], ERASE).await;
    assert_eq!(refused.problem(), (400, "malformed".to_owned()));
    assert!(!refused.text.contains("Secretive"));
    assert_eq!(site.listed("/v1/erasures").await, 0);

    // A dry run makes nothing, so its key stays free; a request that was refused did nothing either.
    let dry = r#"{"subjects": ["jane"], "reason": "asked", "dry_run": true}"#;
    assert_eq!(site.post("/v1/erasures", &KEY, dry).await.status, 200);
    assert_eq!(site.post("/v1/erasures", &KEY, r#"{"subjects": [], "reason": "asked"}"#).await.status, 422);
    assert_eq!(site.post("/v1/erasures", &KEY, ERASE).await.status, 201);

    let write = |name: &str| json!({"items": [{"subject": "joe", "fields": {"name": name}}]}).to_string();
    for (name, status) in [("Joe", 201), ("Joseph", 200)] {
        let written = site.post("/v1/batch/write", &KEY, &write(name)).await;
        assert_eq!(written.json()["results"][0]["status"], status, "{}", written.text);
    }
    let find = r#"{"field": "phone", "value": "+971501238301"}"#;
    assert_eq!(site.post("/v1/lookups", &KEY, find).await.status, 200);
}
