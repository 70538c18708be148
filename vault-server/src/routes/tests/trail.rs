//! What requests leave in the audit log.

use vault_core::audit::{Action, Entry, Outcome};

use super::*;
use crate::auth::{Access, ROUTES};

impl Site {
    /// The entries since there were `before`.
    fn entries(&self, before: u64) -> Vec<Entry> {
        let lines = self.log.read(before, 10_000).unwrap();
        lines.iter().map(|line| Entry::decode(line).unwrap()).collect()
    }

    async fn admin(&self) -> vault_core::ids::CallerId {
        self.vault.callers().unwrap().into_iter().find(|caller| caller.name == "admin").unwrap().id
    }
}

fn concrete(template: &str) -> String {
    let parts = [("{id}", "jane"), ("{name}", "phone"), ("{purpose}", "marketing"), ("{token}", "tok_1")];
    parts.iter().fold(template.to_owned(), |path, (part, given)| path.replace(part, given))
}

fn outcome(status: u16) -> Outcome {
    match status {
        200..300 => Outcome::Done,
        401 | 403 | 423 | 429 => Outcome::Refused,
        _ => Outcome::Failed,
    }
}

/// Whatever comes of it (most of these requests have no body that the route takes), a request leaves one entry with what
/// was asked for, by whom, and how it ended.
#[tokio::test]
async fn every_route_leaves_its_entry() {
    let site = Site::new().await;
    let admin = site.admin().await;
    assert_eq!(site.call(Method::PATCH, "/v1/subjects/jane/fields", JANE).await.status, 201);
    // Last what takes away what others need.
    let mut routes: Vec<_> = ROUTES.to_vec();
    routes.sort_by_key(|(method, path, ..)| (*path == "/v1/lock", *path == "/v1/subjects/{id}" && *method == "DELETE"));
    for (method, path, access, action) in routes {
        let (before, known) = (site.log.size(), access != Access::Open || path == "/v1/unlock");
        let answer = site.call(method.parse().unwrap(), &concrete(path), "").await;
        let entries = site.entries(before);
        // A shred leaves the entries of its evidence as well.
        let own: Vec<&Entry> = entries.iter().filter(|entry| Some(entry.what) == action).collect();
        let told = format!("{method} {path}: {} {entries:?}", answer.status);
        if action.is_none() {
            assert!(entries.is_empty(), "{told}");
            continue;
        }
        assert_eq!((own.len(), own[0].outcome), (1, outcome(answer.status)), "{told}");
        assert_eq!(own[0].by, known.then_some(admin), "{told}");
        assert_eq!(own[0].status, Some(answer.status).filter(|status| !(200..300).contains(status)), "{told}");
    }
}

#[tokio::test]
async fn items_that_can_not_be_read_are_told() {
    let site = Site::new().await;
    assert_eq!(site.call(Method::PATCH, "/v1/subjects/jane/fields", JANE).await.status, 201);
    for (path, item) in [
        ("/v1/batch/write", r#"{"subject": "jane", "fields": {}, "enrol": "perhaps"}"#),
        ("/v1/batch/read", r#"{"subject": "jane", "view": "sideways"}"#),
        ("/v1/tokens", r#"{"subject": "jane", "field": "phone", "shape": "round"}"#),
    ] {
        let before = site.log.size();
        let answer = site.call(Method::POST, path, &format!(r#"{{"items": [{item}, {item}]}}"#)).await;
        assert_eq!((answer.status, &answer.json()["results"][1]["status"]), (200, &json!(422)), "{}", answer.text);
        let [entry] = &site.entries(before)[..] else { panic!("one entry of {path}") };
        assert_eq!((entry.outcome, entry.count, &entry.subjects[..]), (Outcome::Failed, Some(2), &[][..]), "{path}");
    }
}

#[tokio::test]
async fn who_has_no_api_token_leaves_an_entry_that_names_nobody() {
    let site = Site::new().await;
    for (method, path, access, action) in ROUTES {
        let before = site.log.size();
        let request = Request::builder().method(*method).uri(concrete(path)).body(Body::empty()).unwrap();
        let answer = site.send(request).await;
        let entries = site.entries(before);
        if *access == Access::Open && action.is_none() {
            assert!(entries.is_empty(), "{method} {path}");
            continue;
        }
        let [entry] = &entries[..] else { panic!("{method} {path}: {entries:?}") };
        assert_eq!((answer.status, entry.outcome, entry.by), (401, Outcome::Refused, None), "{method} {path}");
        assert_eq!(entry.what, action.unwrap_or(Action::Other));
    }
}

#[tokio::test]
async fn unknown_paths_and_wrong_roles_are_told() {
    let site = Site::new().await;
    let before = site.log.size();
    assert_eq!(site.get("/v1/nothing").await.status, 404);
    let auditor = site.caller("auditor", json!([])).await;
    let made = site.log.size();
    assert_eq!(site.with(&auditor, Method::GET, "/v1/subjects/jane/fields", &[], "").await.status, 403);
    assert_eq!(site.entries(before)[0].what, Action::Other);
    let [refused] = &site.entries(made)[..] else { panic!("one entry") };
    assert_eq!((refused.what, refused.outcome, refused.status), (Action::Read, Outcome::Refused, Some(403)));
    assert!(refused.by.is_some() && refused.rule.is_some());
}

#[tokio::test]
async fn reads_tell_the_fields_that_were_shown_and_the_purpose() {
    let site = Site::new().await;
    site.call(Method::PATCH, "/v1/subjects/jane/fields", JANE).await;
    let before = site.log.size();
    assert_eq!(site.get("/v1/subjects/jane/fields/phone").await.status, 200);
    let body = json!({"items": [{"subject": "jane", "names": ["phone"]}, {"subject": "jane", "names": ["name"]},
        {"subject": "nobody"}]});
    assert_eq!(site.call(Method::POST, "/v1/batch/read", &body.to_string()).await.status, 200);
    let entries = site.entries(before);
    let told: Vec<_> = entries
        .iter()
        .map(|e| (e.outcome, e.subjects.len(), e.fields.first().map_or("", |field| field.as_str())))
        .collect();
    let done = Outcome::Done;
    assert_eq!(told, [(done, 1, "phone"), (Outcome::Failed, 0, ""), (done, 1, "name"), (done, 1, "phone")]);
    assert_eq!(entries[0].purpose.as_ref().unwrap().as_str(), "account");
    assert_eq!(entries[0].subjects, entries[3].subjects);
}

#[tokio::test]
async fn a_field_that_is_forgotten_is_told_with_its_subject_in_its_commit() {
    let site = Site::new().await;
    assert_eq!(site.call(Method::PATCH, "/v1/subjects/jane/fields", JANE).await.status, 201);
    let before = site.log.size();
    assert_eq!(site.call(Method::DELETE, "/v1/subjects/jane/fields/phone", "").await.status, 204);
    let entries = site.entries(before);
    let [entry] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((entry.what, entry.outcome, entry.subjects.len()), (Action::Write, Outcome::Done, 1));
    assert_eq!(entry.fields.iter().map(|field| field.as_str()).collect::<Vec<_>>(), ["phone"]);
    assert!(entry.commit.is_some());
}

#[tokio::test]
async fn status_and_metrics_show_the_log() {
    let site = Site::new().await;
    let size = site.log.size();
    assert_eq!(site.get("/v1/status").await.json()["audit"]["size"], size);
    let metrics = site.get("/metrics").await.text;
    assert!(metrics.contains(&format!("udv_audit_entries_total {size}\n")), "{metrics}");
    assert!(metrics.contains("udv_audit_unsynced 0") && metrics.contains("udv_audit_errors_total 0"));
}
