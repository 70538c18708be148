//! Callers: their API tokens replaced, their lookups counted, their failures slowed down.

use std::net::SocketAddr;

use axum::extract::ConnectInfo;
use vault_core::schema::Document;

use super::*;

const SHIPPED: &str = include_str!("../../../../docs/schema/privacy-policy.toml");
const BY_EMAIL: &str = r#"{"field": "email", "value": "jane@example.org"}"#;

impl Site {
    async fn id_of(&self, role: &str) -> String {
        let listed = self.call(Method::GET, "/v1/callers", "").await.json();
        let caller = listed["data"].as_array().unwrap().iter().find(|c| c["role"] == role).unwrap().clone();
        caller["id"].as_str().unwrap().to_owned()
    }

    async fn look_up(&self, token: &str, body: &str) -> Answer {
        self.with(token, Method::POST, "/v1/lookups", &[("udv-purpose", "account")], body).await
    }

    async fn metric(&self, line: &str) -> bool {
        self.get("/metrics").await.text.lines().any(|metric| metric == line)
    }
}

#[tokio::test]
async fn an_api_token_is_replaced_with_an_overlap() {
    let site = Site::new().await;
    let first = site.caller("service", json!([])).await;
    let path = format!("/v1/callers/{}/rotate", site.id_of("service").await);
    let status = async |token: &str| site.with(token, Method::GET, "/v1/status", &[], "").await.status;
    let rotated = site.call(Method::POST, &path, "").await;
    assert_eq!(rotated.status, 200, "{}", rotated.text);
    assert!(
        rotated.json()["previous_valid_until"].is_string() && path.contains(rotated.json()["id"].as_str().unwrap())
    );
    let second = rotated.json()["token"].as_str().unwrap().to_owned();
    assert_eq!((status(&first).await, status(&second).await), (200, 200));
    let rotated = site.call(Method::POST, &path, r#"{"overlap": 0}"#).await;
    let third = rotated.json()["token"].as_str().unwrap().to_owned();
    assert_eq!((status(&first).await, status(&second).await, status(&third).await), (401, 401, 200));

    for (body, refused) in [
        (r#"{"overlap": 2592001}"#, (422, "invalid_value")),
        (r#"{"overlap": -1}"#, (400, "malformed")),
        (r#"{"for": 1}"#, (400, "malformed")),
    ] {
        assert_eq!(site.call(Method::POST, &path, body).await.problem(), (refused.0, refused.1.to_owned()), "{body}");
    }
    let nobody = site.call(Method::POST, "/v1/callers/nonsense/rotate", "").await;
    assert_eq!(nobody.problem(), (404, "not_found".to_owned()));
}

#[tokio::test]
async fn an_admins_api_token_is_replaced_by_an_admin() {
    let site = Site::new().await;
    let security = site.caller("security", json!([])).await;
    let of_admin = format!("/v1/callers/{}/rotate", site.id_of("admin").await);
    let own = format!("/v1/callers/{}/rotate", site.id_of("security").await);
    let refused = site.with(&security, Method::POST, &of_admin, &[], "").await;
    assert_eq!((refused.problem().0, refused.json()["rule"].clone()), (403, json!("role")));
    assert!(site.metric(r#"udv_refusals_total{rule="role"} 1"#).await);
    assert_eq!(site.with(&security, Method::POST, &own, &[], "").await.status, 200);
    assert_eq!(site.call(Method::POST, &of_admin, "").await.status, 200);
}

#[tokio::test]
async fn a_rotation_sent_again_is_refused() {
    let site = Site::new().await;
    for role in ["service", "auditor"] {
        site.caller(role, json!([])).await;
    }
    let rotate = async |role: &str, body: &str| {
        let path = format!("/v1/callers/{}/rotate", site.id_of(role).await);
        site.with(&site.token, Method::POST, &path, &[("idempotency-key", "k")], body).await
    };
    assert_eq!(rotate("service", "{}").await.status, 200);
    assert_eq!(rotate("service", "{}").await.problem(), (409, "conflict".to_owned()));
    assert_eq!(rotate("service", r#"{"overlap": 1}"#).await.problem(), (422, "idempotency_mismatch".to_owned()));
    assert_eq!(rotate("auditor", "{}").await.problem(), (422, "idempotency_mismatch".to_owned()), "another caller");
}

#[tokio::test]
async fn callers_tell_when_they_were_last_used_and_what_they_may() {
    let site = Site::new().await;
    let body = r#"{"name": "shop", "role": "service", "lookups_per_minute": 7}"#;
    let made = site.call(Method::POST, "/v1/callers", body).await.json();
    assert!(made.get("last_used_at").is_none() && made["lookups_per_minute"] == 7, "{made}");
    let shown = async || {
        let listed = site.call(Method::GET, "/v1/callers", "").await.json();
        listed["data"].as_array().unwrap().iter().find(|c| c["name"] == "shop").unwrap().clone()
    };
    assert!(shown().await.get("last_used_at").is_none());
    site.look_up(made["token"].as_str().unwrap(), BY_EMAIL).await;
    assert!(shown().await["last_used_at"].is_string());
}

#[tokio::test]
async fn lookups_have_a_budget() {
    let site = Site::limited(Limits { lookups_per_minute: 3, ..Limits::default() }).await;
    let body = r#"{"name": "shop", "role": "service", "purposes": ["account"], "lookups_per_minute": 1}"#;
    let made = site.call(Method::POST, "/v1/callers", body).await.json();
    let shop = made["token"].as_str().unwrap();
    for _ in 0..3 {
        assert_eq!(site.look_up(&site.token, BY_EMAIL).await.status, 200);
    }
    let spent = site.look_up(&site.token, BY_EMAIL).await;
    assert_eq!(spent.problem(), (429, "rate_limited".to_owned()));
    assert!(spent.headers.contains_key("retry-after"));
    assert_eq!(site.look_up(shop, BY_EMAIL).await.status, 200, "each caller has its own");
    assert_eq!(site.look_up(shop, BY_EMAIL).await.status, 429);
    assert_eq!(site.get("/v1/subjects/jane").await.status, 404, "and nothing else is counted");
    for line in [
        r#"udv_lookups_total{outcome="none"} 4"#,
        r#"udv_lookups_total{outcome="refused"} 2"#,
        "udv_lookup_budget_exhausted_total 2",
    ] {
        assert!(site.metric(line).await, "{line}");
    }
}

#[tokio::test]
async fn last_four_digits_find_beside_an_exact_value() {
    let site = Site::limited(Limits { lookups_per_minute: 100, ..Limits::default() }).await;
    site.vault.put_schema(Document::from_toml(SHIPPED).unwrap(), None).await.unwrap();
    let jane = r#"{"fields": {"phone": "+971501238301", "email": "jane@example.org"}}"#;
    site.call(Method::PATCH, "/v1/subjects/jane/fields", jane).await;
    let ask =
        |last4: &str, and: &str, more: &str| format!(r#"{{"field": "phone", "last4": "{last4}", "and": {and}{more}}}"#);
    let found = site.look_up(&site.token, &ask("8301", BY_EMAIL, "")).await;
    assert_eq!(found.json(), json!({"subjects": ["jane"]}), "{}", found.text);
    assert_eq!(site.look_up(&site.token, &ask("8302", BY_EMAIL, "")).await.json(), json!({"subjects": []}));

    let itself = r#"{"field": "phone", "value": "050 123 8301", "region": "AE"}"#;
    for (body, field) in [
        (ask("830", BY_EMAIL, ""), "last4"),
        (ask("83o1", BY_EMAIL, ""), "last4"),
        (ask("8301", itself, ""), "and"),
        (ask("8301", BY_EMAIL, r#", "region": "AE""#), "region"),
        (ask("8301", BY_EMAIL, r#", "limit": 5"#), "limit"),
        (ask("8301", BY_EMAIL, r#", "after": "00""#), "limit"),
        (ask("8301", BY_EMAIL, r#", "value": "+971501238301""#), "last4"),
        (r#"{"field": "phone", "last4": "8301"}"#.to_owned(), "and"),
        (r#"{"field": "email", "value": null}"#.to_owned(), "email"),
    ] {
        let refused = site.look_up(&site.token, &body).await;
        assert_eq!(refused.problem(), (422, "invalid_value".to_owned()), "{body}");
        assert_eq!(refused.json()["field"], field, "{body}");
        assert!(!refused.text.contains("8301") && !refused.text.contains("83o1"));
    }
    for body in [r#"{"field": "phone"}"#, r#"{"field": "phone", "last4": 8301, "and": {}}"#] {
        assert_eq!(site.look_up(&site.token, body).await.problem(), (400, "malformed".to_owned()), "{body}");
    }

    let body = r#"{"name": "shop", "role": "service", "purposes": ["account"], "lookups_per_minute": 3}"#;
    let made = site.call(Method::POST, "/v1/callers", body).await.json();
    let shop = made["token"].as_str().unwrap();
    assert_eq!(site.look_up(shop, &ask("8301", BY_EMAIL, "")).await.status, 200);
    assert_eq!(site.look_up(shop, &ask("8301", BY_EMAIL, "")).await.status, 429, "it costs two");
    assert_eq!(site.look_up(shop, BY_EMAIL).await.status, 200, "and one is left");
}

#[tokio::test]
async fn failures_of_one_address_are_slowed_down() {
    let site = Site::new().await;
    let from = async |host: &str, token: Option<&str>| {
        let mut request = Request::get("/v1/status").body(Body::empty()).unwrap();
        let remote: SocketAddr = format!("{host}:40000").parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(remote));
        if let Some(token) = token {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        site.send(request).await
    };
    let mut limited = None;
    for _ in 0..60 {
        let failed = from("192.0.2.1", Some("udv_guess")).await;
        if failed.status != 401 {
            limited = Some(failed);
            break;
        }
    }
    let limited = limited.unwrap();
    assert_eq!(limited.problem(), (429, "rate_limited".to_owned()));
    assert_eq!(limited.headers["retry-after"], "1");
    assert_eq!(from("192.0.2.1", Some(&site.token)).await.status, 200, "who has an API token is let be");
    assert_eq!(from("192.0.2.1", None).await.status, 401, "and so is who shows none");
    assert_eq!(from("192.0.2.2", Some("udv_guess")).await.status, 401);
}
