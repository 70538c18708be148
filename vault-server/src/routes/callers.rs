//! API clients: their roles, their purposes, their API tokens.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vault_core::ids::{CallerId, Purpose};
use vault_core::policy::Rule;
use vault_core::time::Timestamp;
use vault_core::vault::{Caller, Idempotency, NewCaller, Role};

use super::shapes::Shown;
use crate::app::App;
use crate::auth::Who;
use crate::body::{JsonBody, OfId, Shape, answer};
use crate::idempotency::{self, Once};
use crate::problem::Problem;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateCaller<'a> {
    /// For people.
    #[serde(borrow)]
    #[schema(value_type = String)]
    name: Cow<'a, str>,
    /// `admin`, `service`, `security`, `privacy` or `auditor`.
    #[schema(value_type = String)]
    role: Cow<'a, str>,
    /// What it may read for; declared by the schema.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    purposes: Vec<Cow<'a, str>>,
    /// When its API token stops working.
    #[schema(value_type = Option<String>)]
    expires_at: Option<Cow<'a, str>>,
    /// How many lookups it may make a minute, in place of what the server allows; 0 for any number.
    lookups_per_minute: Option<u32>,
}

impl<'a> Shape<'a> for CreateCaller<'a> {
    const SHAPE: &'static str =
        r#"{"name": text, "role": text, "purposes"?: [text, …], "expires_at"?: time, "lookups_per_minute"?: number}"#;
}

#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotateCaller {
    /// For how many seconds the API token before goes on working: 0 to 2592000 (30 days), 3600 by default.
    overlap: Option<u64>,
}

impl Shape<'_> for RotateCaller {
    const SHAPE: &'static str = r#"{"overlap"?: seconds}"#;
}

#[derive(Serialize, ToSchema)]
#[schema(as = NewToken)]
pub(crate) struct NewTokenAnswer<'a> {
    #[schema(value_type = String)]
    id: Shown<CallerId>,
    /// Shown this once.
    token: &'a str,
    /// When the API token before stops working.
    #[schema(value_type = String)]
    previous_valid_until: Shown<Timestamp>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Caller)]
pub(crate) struct CallerAnswer<'a> {
    #[schema(value_type = String)]
    id: Shown<CallerId>,
    name: &'a str,
    role: &'static str,
    purposes: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    expires_at: Option<Shown<Timestamp>>,
    #[schema(value_type = String)]
    created_at: Shown<Timestamp>,
    /// When one of its API tokens was last sent; after a crash of the server up to some minutes too early.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    last_used_at: Option<Shown<Timestamp>>,
    /// Until when the API token before its present one works too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    previous_valid_until: Option<Shown<Timestamp>>,
    /// Its own budget of lookups; 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    lookups_per_minute: Option<u32>,
    /// Shown this once, when the caller is created.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
}

impl<'a> CallerAnswer<'a> {
    fn of(caller: &'a Caller, token: Option<&'a str>) -> Self {
        Self {
            id: Shown(caller.id),
            name: &caller.name,
            role: caller.role.as_str(),
            purposes: caller.purposes.iter().map(Purpose::as_str).collect(),
            expires_at: caller.expires_at.map(Shown),
            created_at: Shown(caller.created_at),
            last_used_at: caller.last_used_at.map(Shown),
            previous_valid_until: caller.previous_valid_until.map(Shown),
            lookups_per_minute: caller.lookups_per_minute,
            token,
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Callers<'a> {
    data: Vec<CallerAnswer<'a>>,
    next: Option<String>,
}

/// Create a caller; its API token is in this answer and nowhere else.
#[utoipa::path(
    post, path = "/v1/callers", tag = "callers", request_body = CreateCaller,
    params(("Idempotency-Key" = Option<String>, Header, description = idempotency::TOLD_OF_API_TOKENS)),
    responses((status = 201, body = CallerAnswer))
)]
pub(crate) async fn create(State(app): State<App>, who: Who, once: Once, body: JsonBody) -> Result<Response, Problem> {
    let new = parse(&app, &body.read::<CreateCaller<'_>>()?)?;
    // Whoever could make an admin would be one: security sees no values, by whatever way.
    if new.role == Role::Admin && who.caller.role != Role::Admin {
        return Err(Problem::refused(Rule::Role, "only an admin creates an admin"));
    }
    let once = once.request(&who, "/v1/callers", &body, StatusCode::CREATED);
    let (caller, token) = app.vault.create_caller(new, once.as_ref()).await?;
    Ok(answer(StatusCode::CREATED, &CallerAnswer::of(&caller, Some(&token))))
}

fn parse(app: &App, asked: &CreateCaller<'_>) -> Result<NewCaller, Problem> {
    let role = Role::parse(&asked.role)
        .ok_or_else(|| Problem::invalid("role", "one of admin, service, security, privacy, auditor"))?;
    let schema = app.vault.schema()?;
    let declared = |name: &Cow<'_, str>| schema.purpose(name).map(|purpose| purpose.name.clone());
    let purposes: Option<Vec<_>> = asked.purposes.iter().map(declared).collect();
    let purposes = purposes.ok_or_else(|| Problem::invalid("purposes", "purposes that the schema declares"))?;
    let time = |text: &Cow<'_, str>| {
        Timestamp::parse(text).ok_or_else(|| Problem::invalid("expires_at", "an RFC 3339 time in the future"))
    };
    let expires_at = asked.expires_at.as_ref().map(time).transpose()?;
    let (name, purposes) = (asked.name.trim().to_owned(), purposes.into());
    Ok(NewCaller { name, role, purposes, expires_at, lookups_per_minute: asked.lookups_per_minute })
}

/// Every caller that was not revoked.
#[utoipa::path(get, path = "/v1/callers", tag = "callers", responses((status = 200, body = Callers)))]
pub(crate) async fn list(State(app): State<App>) -> Result<Response, Problem> {
    let callers = app.vault.callers()?;
    let data = callers.iter().map(|caller| CallerAnswer::of(caller, None)).collect();
    Ok(answer(StatusCode::OK, &Callers { data, next: None }))
}

/// For how long a replaced API token goes on working, in seconds, when nothing is said.
const OVERLAP: u64 = 3600;

/// Replace a caller's API token; the one before goes on working for a while, one from before that stops at once.
#[utoipa::path(
    post, path = "/v1/callers/{id}/rotate", tag = "callers", request_body = RotateCaller,
    params(
        ("id" = String, Path),
        ("Idempotency-Key" = Option<String>, Header, description = idempotency::TOLD_OF_API_TOKENS)
    ),
    responses((status = 200, body = NewTokenAnswer))
)]
pub(crate) async fn rotate(
    State(app): State<App>,
    OfId(id): OfId<CallerId>,
    who: Who,
    once: Once,
    body: JsonBody,
) -> Result<Response, Problem> {
    let asked = if body.is_empty() { RotateCaller::default() } else { body.read::<RotateCaller>()? };
    // Whoever got an admin's API token would be one.
    let of_admin = app.vault.callers()?.iter().any(|caller| caller.id == id && caller.role == Role::Admin);
    if of_admin && who.caller.role != Role::Admin {
        return Err(Problem::refused(Rule::Role, "only an admin replaces the API token of an admin"));
    }
    // The same key and body for another caller is another request.
    let named = [&id.0, body.bytes()].concat();
    let once = once.request(&who, "/v1/callers/rotate", &body, StatusCode::OK);
    let once = once.map(|once| Idempotency { body: &named, ..once });
    let new = app.vault.rotate_caller(id, asked.overlap.unwrap_or(OVERLAP), once.as_ref()).await?;
    let previous_valid_until = Shown(new.previous_valid_until);
    Ok(answer(StatusCode::OK, &NewTokenAnswer { id: Shown(id), token: &new.token, previous_valid_until }))
}

/// Revoke a caller: its API tokens stop working at once.
#[utoipa::path(
    delete, path = "/v1/callers/{id}", tag = "callers", params(("id" = String, Path)),
    responses((status = 204, description = "Revoked"))
)]
pub(crate) async fn revoke(State(app): State<App>, OfId(id): OfId<CallerId>) -> Result<Response, Problem> {
    app.vault.revoke_caller(id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
