//! Who may call what: one table of every route, and the guard that applies it before a body is read.

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use vault_core::audit::{Action, trail};
use vault_core::ids::CallerId;
use vault_core::policy::Rule;
use vault_core::vault::{Caller, Reader, Role};

use crate::app::App;
use crate::problem::{Kind, Problem};

/// Who may call a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anybody, without an API token.
    Open,
    /// Callers of these roles.
    Roles(&'static [Role]),
}

use Role::{Admin, Auditor, Privacy, Security, Service};

const ANYONE: Access = Access::Roles(&[Admin, Service, Security, Privacy, Auditor]);
/// Reads and writes values of one or many subjects.
const VALUES: Access = Access::Roles(&[Admin, Service]);
/// Sees or forgets what is held of one subject.
const ONE_SUBJECT: Access = Access::Roles(&[Admin, Service, Privacy]);
/// Notes what a subject agreed to: services collect that.
const CONSENTS: Access = ONE_SUBJECT;
/// What concerns the rights of subjects: erasures, holds, exports, what is known of values.
const RIGHTS: Access = Access::Roles(&[Admin, Privacy]);
/// Checks the audit log.
const AUDIT: Access = Access::Roles(&[Admin, Auditor]);
const KEYS: Access = Access::Roles(&[Admin, Security]);

/// Tells nothing of anybody: an answer leaves no entry in the audit log, only a refusal does.
const UNLOGGED: Option<Action> = None;

/// Every route: method, path template, who may call it, and what the audit log is told of it. What is not here may be
/// called by nobody.
pub(crate) const ROUTES: &[(&str, &str, Access, Option<Action>)] = &[
    ("GET", "/v1/status", ANYONE, UNLOGGED),
    ("GET", "/v1/schema", ANYONE, UNLOGGED),
    ("PUT", "/v1/schema", Access::Roles(&[Admin]), Some(Action::Schema)),
    ("PATCH", "/v1/subjects/{id}/fields", VALUES, Some(Action::Write)),
    ("GET", "/v1/subjects/{id}/fields", ONE_SUBJECT, Some(Action::Read)),
    ("GET", "/v1/subjects/{id}/fields/{name}", ONE_SUBJECT, Some(Action::Read)),
    ("PUT", "/v1/subjects/{id}/fields/{name}", VALUES, Some(Action::Write)),
    ("DELETE", "/v1/subjects/{id}/fields/{name}", ONE_SUBJECT, Some(Action::Write)),
    ("GET", "/v1/subjects/{id}/fields/{name}/metadata", ONE_SUBJECT, Some(Action::Metadata)),
    ("PATCH", "/v1/subjects/{id}/fields/{name}/metadata", ONE_SUBJECT, Some(Action::Metadata)),
    ("POST", "/v1/metadata/search", RIGHTS, Some(Action::Metadata)),
    ("POST", "/v1/metadata/apply", RIGHTS, Some(Action::Metadata)),
    ("GET", "/v1/subjects/{id}/export", RIGHTS, Some(Action::Export)),
    ("GET", "/v1/subjects/{id}/accesses", RIGHTS, Some(Action::Accesses)),
    ("GET", "/v1/audit/entries", AUDIT, Some(Action::Audit)),
    // Who checks the log does not make it grow.
    ("GET", "/v1/audit/checkpoint", AUDIT, UNLOGGED),
    ("GET", "/v1/audit/tile/{*path}", AUDIT, UNLOGGED),
    ("GET", "/v1/audit/proof/{index}", AUDIT, UNLOGGED),
    ("GET", "/v1/audit/consistency", AUDIT, UNLOGGED),
    ("GET", "/v1/audit/keys", AUDIT, UNLOGGED),
    ("POST", "/v1/audit/keys/rotate", KEYS, Some(Action::LogKey)),
    // It answers subject ids: an auditor sees pseudonyms only.
    ("POST", "/v1/audit/accesses", RIGHTS, Some(Action::Accesses)),
    ("GET", "/v1/subjects/{id}", ONE_SUBJECT, Some(Action::Describe)),
    ("DELETE", "/v1/subjects/{id}", RIGHTS, Some(Action::Erasure)),
    ("GET", "/v1/subjects/{id}/consents", CONSENTS, Some(Action::Consent)),
    ("PUT", "/v1/subjects/{id}/consents/{purpose}", CONSENTS, Some(Action::Consent)),
    ("DELETE", "/v1/subjects/{id}/consents/{purpose}", CONSENTS, Some(Action::Consent)),
    ("PUT", "/v1/subjects/{id}/restriction", RIGHTS, Some(Action::Restriction)),
    ("DELETE", "/v1/subjects/{id}/restriction", RIGHTS, Some(Action::Restriction)),
    ("PUT", "/v1/subjects/{id}/holds/{name}", RIGHTS, Some(Action::Hold)),
    ("DELETE", "/v1/subjects/{id}/holds/{name}", RIGHTS, Some(Action::Hold)),
    ("GET", "/v1/holds", RIGHTS, Some(Action::Hold)),
    ("POST", "/v1/lookups", VALUES, Some(Action::Lookup)),
    ("POST", "/v1/tokens", VALUES, Some(Action::TokenCreate)),
    ("POST", "/v1/tokens/resolve", VALUES, Some(Action::TokenResolve)),
    ("DELETE", "/v1/tokens/{token}", VALUES, Some(Action::TokenRevoke)),
    ("POST", "/v1/batch/write", VALUES, Some(Action::Write)),
    ("POST", "/v1/batch/read", VALUES, Some(Action::Read)),
    ("POST", "/v1/erasures", RIGHTS, Some(Action::Erasure)),
    ("GET", "/v1/erasures", RIGHTS, Some(Action::ErasureRead)),
    ("GET", "/v1/erasures/{id}", RIGHTS, Some(Action::ErasureRead)),
    ("DELETE", "/v1/erasures/{id}", RIGHTS, Some(Action::Erasure)),
    ("POST", "/v1/erasures/{id}/approve", RIGHTS, Some(Action::Erasure)),
    ("GET", "/v1/erasures/{id}/certificate", RIGHTS, Some(Action::ErasureRead)),
    ("POST", "/v1/erasures/{id}/certificates", RIGHTS, Some(Action::ErasureRead)),
    ("GET", "/v1/keys", KEYS, Some(Action::Keys)),
    ("POST", "/v1/keys/rotations", KEYS, Some(Action::Keys)),
    ("GET", "/v1/keys/rotations", KEYS, Some(Action::Keys)),
    ("GET", "/v1/keys/rotations/{id}", KEYS, Some(Action::Keys)),
    ("PATCH", "/v1/keys/rotations/{id}", KEYS, Some(Action::Keys)),
    ("GET", "/v1/slots", KEYS, Some(Action::Keys)),
    ("POST", "/v1/slots/rotate", KEYS, Some(Action::Slots)),
    ("POST", "/v1/backups", KEYS, Some(Action::Backup)),
    ("GET", "/v1/backups", KEYS, Some(Action::Keys)),
    ("POST", "/v1/backups/{id}/keep", KEYS, Some(Action::Backup)),
    ("DELETE", "/v1/backups/{id}", KEYS, Some(Action::Backup)),
    ("DELETE", "/v1/backups/retained", KEYS, Some(Action::Backup)),
    ("POST", "/v1/lock", KEYS, Some(Action::Lock)),
    // A passphrase is the proof itself; without one the handler asks for a caller of `KEYS`.
    ("POST", "/v1/unlock", Access::Open, Some(Action::Unlock)),
    ("POST", "/v1/callers", KEYS, Some(Action::Caller)),
    ("GET", "/v1/callers", KEYS, Some(Action::Caller)),
    ("DELETE", "/v1/callers/{id}", KEYS, Some(Action::Caller)),
    ("POST", "/v1/callers/{id}/rotate", KEYS, Some(Action::Caller)),
    ("GET", "/healthz", Access::Open, UNLOGGED),
    ("GET", "/readyz", Access::Open, UNLOGGED),
    ("GET", "/metrics", Access::Open, UNLOGGED),
    ("GET", "/openapi.json", Access::Open, UNLOGGED),
];

/// The requests that change something and take parameters. Any other is refused with one: whoever adds `dry_run` where
/// there is no such thing does not want it done.
pub(crate) const TAKE_PARAMETERS: &[(&str, &str)] = &[
    ("PUT", "/v1/schema"),
    ("PATCH", "/v1/subjects/{id}/fields"),
    ("PUT", "/v1/subjects/{id}/fields/{name}"),
    ("DELETE", "/v1/subjects/{id}"),
];

/// An authenticated caller, and how it reads: with the purpose it named.
#[derive(Debug)]
pub(crate) struct Who {
    pub(crate) caller: Caller,
    pub(crate) reader: Reader,
}

/// Left on an answer for the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AnsweredFor(pub(crate) CallerId);

/// Lets a request through to its handler if its caller may make it.
pub(crate) async fn guard(State(app): State<App>, mut request: Request, next: Next) -> Response {
    match admit(&app, &request) {
        Ok(None) => next.run(request).await,
        Ok(Some(who)) => {
            let id = who.caller.id;
            request.extensions_mut().insert(Admitted(Some(who).into()));
            let mut response = next.run(request).await;
            response.extensions_mut().insert(AnsweredFor(id));
            response
        }
        Err(problem) => problem.into_response(),
    }
}

/// The methods that a path takes, for an answer to one that it does not.
pub(crate) fn methods(template: &str) -> impl Iterator<Item = &'static str> {
    ROUTES.iter().filter(move |(_, t, ..)| *t == template).map(|(method, ..)| *method)
}

/// Extensions must be cloneable and a caller need not be: the handler takes it out.
#[derive(Clone)]
struct Admitted(std::sync::Arc<Option<Who>>);

fn admit(app: &App, request: &Request) -> Result<Option<Who>, Problem> {
    let template = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    match access(request.method(), template) {
        Some(Access::Open) => without_parameters(request, template).map(|()| None),
        Some(allowed) => {
            let who = authorise(app, request.headers(), allowed)?;
            without_parameters(request, template)?;
            Ok(Some(who))
        }
        None => Err(Problem::new(Kind::MethodNotAllowed, "this path does not take this method")),
    }
}

/// Refuses parameters that nobody would look at.
fn without_parameters(request: &Request, template: &str) -> Result<(), Problem> {
    let given = request.uri().query().is_some_and(|query| !query.is_empty()) && !request.method().is_safe();
    if given && !TAKE_PARAMETERS.contains(&(request.method().as_str(), template)) {
        return Err(Problem::malformed("this request takes no parameters in its query string: leave them out"));
    }
    Ok(())
}

/// Who may call a method of a path; HEAD is a GET without its body.
pub(crate) fn access(method: &Method, template: &str) -> Option<Access> {
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    ROUTES.iter().find(|(m, t, ..)| *m == method && *t == template).map(|&(_, _, access, _)| access)
}

/// What the audit log is told of a method of a path; none for what tells nothing of anybody.
pub(crate) fn action(method: &Method, template: &str) -> Option<Action> {
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    let route = ROUTES.iter().find(|(m, t, ..)| *m == method && *t == template);
    route.map_or(Some(Action::Other), |&(.., action)| action)
}

/// Authenticates the caller of a request without a body to it, for a route whose need of one shows in the body only.
pub(crate) fn authorise_keys(app: &App, headers: &HeaderMap) -> Result<Who, Problem> {
    authorise(app, headers, KEYS)
}

fn authorise(app: &App, headers: &HeaderMap, allowed: Access) -> Result<Who, Problem> {
    once(headers)?;
    let caller = app.vault.authenticate(bearer(headers)?)?;
    trail::caller(caller.id);
    if !admits(allowed, caller.role) {
        return Err(Problem::refused(Rule::Role, "the role of this API token may not do this: use one whose role may"));
    }
    let reader = reader(headers, &caller);
    app.vault.check_purpose(&reader)?;
    // One that is not declared, or while that is not known, is but a text.
    let declared = app.vault.schema().ok().zip(reader.purpose.as_deref());
    trail::purpose(declared.and_then(|(schema, named)| schema.purpose(named).map(|purpose| purpose.name.clone())));
    Ok(Who { caller, reader })
}

fn admits(access: Access, role: Role) -> bool {
    match access {
        Access::Open => true,
        Access::Roles(roles) => roles.contains(&role),
    }
}

/// Whoever stands between caller and vault may look at another one of two headers than we do.
fn once(headers: &HeaderMap) -> Result<(), Problem> {
    for name in ["authorization", "udv-purpose"] {
        if headers.get_all(name).iter().nth(1).is_some() {
            return Err(Problem::malformed("Authorization and Udv-Purpose are sent once each: leave the others out"));
        }
    }
    Ok(())
}

fn bearer(headers: &HeaderMap) -> Result<&str, Problem> {
    let refused = || Problem::new(Kind::Unauthenticated, "send `Authorization: Bearer` with an API token");
    let text = headers.get(header::AUTHORIZATION).ok_or_else(refused)?.to_str().map_err(|_| refused())?;
    let (scheme, token) = text.split_once(' ').ok_or_else(refused)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(refused()) }
}

/// The caller as the policy sees it; a purpose that is no text is one that is not declared.
fn reader(headers: &HeaderMap, caller: &Caller) -> Reader {
    let purpose = headers.get("udv-purpose").map(|named| named.to_str().unwrap_or_default().into());
    Reader { role: caller.role, purposes: caller.purposes.clone(), expires_at: caller.expires_at, purpose }
}

impl<S: Sync> FromRequestParts<S> for Who {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let admitted =
            parts.extensions.remove::<Admitted>().and_then(|admitted| std::sync::Arc::into_inner(admitted.0));
        admitted.flatten().ok_or_else(|| Problem::new(Kind::Unauthenticated, "this needs an API token"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// One letter a role that may: admin, service, security (k for keys), privacy, auditor.
    const EXPECTED: &[(&str, &str, &str)] = &[
        ("GET", "/v1/status", "askpu"),
        ("GET", "/v1/schema", "askpu"),
        ("PUT", "/v1/schema", "a"),
        ("PATCH", "/v1/subjects/{id}/fields", "as"),
        ("GET", "/v1/subjects/{id}/fields", "asp"),
        ("GET", "/v1/subjects/{id}/fields/{name}", "asp"),
        ("PUT", "/v1/subjects/{id}/fields/{name}", "as"),
        ("DELETE", "/v1/subjects/{id}/fields/{name}", "asp"),
        ("GET", "/v1/subjects/{id}/fields/{name}/metadata", "asp"),
        ("PATCH", "/v1/subjects/{id}/fields/{name}/metadata", "asp"),
        ("POST", "/v1/metadata/search", "ap"),
        ("POST", "/v1/metadata/apply", "ap"),
        ("GET", "/v1/subjects/{id}/export", "ap"),
        ("GET", "/v1/subjects/{id}/accesses", "ap"),
        ("GET", "/v1/audit/entries", "au"),
        ("GET", "/v1/audit/checkpoint", "au"),
        ("GET", "/v1/audit/tile/{*path}", "au"),
        ("GET", "/v1/audit/proof/{index}", "au"),
        ("GET", "/v1/audit/consistency", "au"),
        ("GET", "/v1/audit/keys", "au"),
        ("POST", "/v1/audit/keys/rotate", "ak"),
        ("POST", "/v1/audit/accesses", "ap"),
        ("GET", "/v1/subjects/{id}", "asp"),
        ("DELETE", "/v1/subjects/{id}", "ap"),
        ("GET", "/v1/subjects/{id}/consents", "asp"),
        ("PUT", "/v1/subjects/{id}/consents/{purpose}", "asp"),
        ("DELETE", "/v1/subjects/{id}/consents/{purpose}", "asp"),
        ("PUT", "/v1/subjects/{id}/restriction", "ap"),
        ("DELETE", "/v1/subjects/{id}/restriction", "ap"),
        ("PUT", "/v1/subjects/{id}/holds/{name}", "ap"),
        ("DELETE", "/v1/subjects/{id}/holds/{name}", "ap"),
        ("GET", "/v1/holds", "ap"),
        ("POST", "/v1/lookups", "as"),
        ("POST", "/v1/tokens", "as"),
        ("POST", "/v1/tokens/resolve", "as"),
        ("DELETE", "/v1/tokens/{token}", "as"),
        ("POST", "/v1/batch/write", "as"),
        ("POST", "/v1/batch/read", "as"),
        ("POST", "/v1/erasures", "ap"),
        ("GET", "/v1/erasures", "ap"),
        ("GET", "/v1/erasures/{id}", "ap"),
        ("DELETE", "/v1/erasures/{id}", "ap"),
        ("POST", "/v1/erasures/{id}/approve", "ap"),
        ("GET", "/v1/erasures/{id}/certificate", "ap"),
        ("POST", "/v1/erasures/{id}/certificates", "ap"),
        ("GET", "/v1/keys", "ak"),
        ("POST", "/v1/keys/rotations", "ak"),
        ("GET", "/v1/keys/rotations", "ak"),
        ("GET", "/v1/keys/rotations/{id}", "ak"),
        ("PATCH", "/v1/keys/rotations/{id}", "ak"),
        ("GET", "/v1/slots", "ak"),
        ("POST", "/v1/slots/rotate", "ak"),
        ("POST", "/v1/backups", "ak"),
        ("GET", "/v1/backups", "ak"),
        ("POST", "/v1/backups/{id}/keep", "ak"),
        ("DELETE", "/v1/backups/{id}", "ak"),
        ("DELETE", "/v1/backups/retained", "ak"),
        ("POST", "/v1/lock", "ak"),
        ("POST", "/v1/unlock", "open"),
        ("POST", "/v1/callers", "ak"),
        ("GET", "/v1/callers", "ak"),
        ("DELETE", "/v1/callers/{id}", "ak"),
        ("POST", "/v1/callers/{id}/rotate", "ak"),
        ("GET", "/healthz", "open"),
        ("GET", "/readyz", "open"),
        ("GET", "/metrics", "open"),
        ("GET", "/openapi.json", "open"),
    ];

    #[test]
    fn every_role_on_every_route() {
        assert_eq!(EXPECTED.len(), ROUTES.len());
        let roles = [(Admin, 'a'), (Service, 's'), (Security, 'k'), (Privacy, 'p'), (Auditor, 'u')];
        for (method, template, letters) in EXPECTED {
            let access = access(&method.parse().unwrap(), template).unwrap();
            assert_eq!(access == Access::Open, *letters == "open", "{method} {template}");
            for (role, letter) in roles {
                let expected = access == Access::Open || letters.contains(letter);
                assert_eq!(admits(access, role), expected, "{method} {template} {}", role.as_str());
            }
        }
    }

    #[test]
    fn what_is_not_in_the_table_is_nobodys() {
        assert_eq!(access(&Method::POST, "/v1/status"), None);
        assert_eq!(access(&Method::GET, ""), None);
        assert_eq!(access(&Method::HEAD, "/v1/keys"), Some(KEYS));
    }

    #[test]
    fn bearer_tokens() {
        let with = |text: &str| HeaderMap::from_iter([(header::AUTHORIZATION, text.parse().unwrap())]);
        assert_eq!(bearer(&with("Bearer udv_1")).unwrap(), "udv_1");
        assert_eq!(bearer(&with("bearer  udv_1")).unwrap(), "udv_1");
        for bad in ["udv_1", "Basic udv_1", ""] {
            assert_eq!(bearer(&with(bad)).unwrap_err().kind, Kind::Unauthenticated);
        }
        assert!(bearer(&HeaderMap::new()).is_err());
    }
}
