//! What may be done with a subject, and not: its consents, the restriction of its processing, legal holds.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vault_core::ids::CallerId;
use vault_core::time::Timestamp;
use vault_core::vault::{Consent, HeldSubject, Hold, Restriction};

use super::erasures::PageQuery;
use super::page_size;
use super::shapes::Shown;
use crate::app::App;
use crate::auth::Who;
use crate::body::{JsonBody, OfHold, OfPurpose, OfSubject, Params, Shape, answer};
use crate::problem::Problem;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GiveConsent<'a> {
    /// Which version of the text was agreed to: 1 to 256 bytes.
    #[serde(borrow)]
    #[schema(value_type = String, example = "2026-05")]
    version: Cow<'a, str>,
    /// Where or how: 1 to 256 bytes.
    #[schema(value_type = String, example = "sign-up form")]
    source: Cow<'a, str>,
}

impl<'a> Shape<'a> for GiveConsent<'a> {
    const SHAPE: &'static str = r#"{"version": text, "source": text}"#;
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WithdrawConsent<'a> {
    /// Where or how it was withdrawn: 1 to 256 bytes.
    #[serde(borrow)]
    #[schema(value_type = Option<String>)]
    source: Option<Cow<'a, str>>,
}

impl<'a> Shape<'a> for WithdrawConsent<'a> {
    const SHAPE: &'static str = r#"{"source"?: text}, or none"#;
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Restrict<'a> {
    /// Why: 1 to 1,024 bytes.
    #[serde(borrow)]
    #[schema(value_type = Option<String>)]
    reason: Option<Cow<'a, str>>,
}

impl<'a> Shape<'a> for Restrict<'a> {
    const SHAPE: &'static str = r#"{"reason"?: text}, or none"#;
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddHold<'a> {
    /// Why: 1 to 1,024 bytes.
    #[serde(borrow)]
    #[schema(value_type = String)]
    reason: Cow<'a, str>,
}

impl<'a> Shape<'a> for AddHold<'a> {
    const SHAPE: &'static str = r#"{"reason": text}"#;
}

#[derive(Serialize, ToSchema)]
#[schema(as = Consent)]
pub(crate) struct ConsentAnswer<'a> {
    purpose: &'a str,
    version: &'a str,
    source: &'a str,
    /// The caller who noted it.
    #[schema(value_type = String)]
    by: Shown<CallerId>,
    #[schema(value_type = String)]
    given_at: Shown<Timestamp>,
    /// When consent to another version took its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    replaced_at: Option<Shown<Timestamp>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    withdrawn_at: Option<Shown<Timestamp>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    withdrawn_source: Option<&'a str>,
}

impl<'a> ConsentAnswer<'a> {
    pub(crate) fn of(consent: &'a Consent) -> Self {
        Self {
            purpose: consent.purpose.as_str(),
            version: &consent.version,
            source: &consent.source,
            by: Shown(consent.by),
            given_at: Shown(consent.given_at),
            replaced_at: consent.replaced_at.map(Shown),
            withdrawn_at: consent.withdrawn_at.map(Shown),
            withdrawn_source: consent.withdrawn_source.as_deref(),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Consents<'a> {
    data: Vec<ConsentAnswer<'a>>,
    next: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Restriction)]
pub(crate) struct RestrictionAnswer<'a> {
    #[schema(value_type = String)]
    since: Shown<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

impl<'a> RestrictionAnswer<'a> {
    pub(crate) fn of(restriction: &'a Restriction) -> Self {
        Self { since: Shown(restriction.since), reason: restriction.reason.as_deref() }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Hold)]
pub(crate) struct HoldAnswer<'a> {
    name: &'a str,
    reason: &'a str,
    #[schema(value_type = String)]
    since: Shown<Timestamp>,
    /// The caller who gave the reason.
    #[schema(value_type = String)]
    by: Shown<CallerId>,
}

impl<'a> HoldAnswer<'a> {
    pub(crate) fn of(hold: &'a Hold) -> Self {
        Self { name: hold.name.as_str(), reason: &hold.reason, since: Shown(hold.since), by: Shown(hold.by) }
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = HeldSubject)]
struct HeldAnswer<'a> {
    subject: &'a str,
    holds: Vec<HoldAnswer<'a>>,
}

impl<'a> HeldAnswer<'a> {
    fn of(held: &'a HeldSubject) -> Self {
        Self { subject: held.subject.as_str(), holds: held.holds.iter().map(HoldAnswer::of).collect() }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Held<'a> {
    data: Vec<HeldAnswer<'a>>,
    next: Option<String>,
}

/// A subject's consents, in force and over, oldest first.
#[utoipa::path(
    get, path = "/v1/subjects/{id}/consents", tag = "consents", params(("id" = String, Path)),
    responses((status = 200, body = Consents))
)]
pub(crate) async fn consents(State(app): State<App>, OfSubject(id): OfSubject) -> Result<Response, Problem> {
    let consents = app.vault.consents(&id).await?;
    let data = consents.iter().map(ConsentAnswer::of).collect();
    Ok(answer(StatusCode::OK, &Consents { data, next: None }))
}

/// Note that the subject consents to a purpose; the same version again changes nothing.
#[utoipa::path(
    put, path = "/v1/subjects/{id}/consents/{purpose}", tag = "consents",
    params(("id" = String, Path), ("purpose" = String, Path)), request_body = GiveConsent,
    responses((status = 200, body = ConsentAnswer, description = "In force"))
)]
pub(crate) async fn give_consent(
    State(app): State<App>,
    who: Who,
    OfPurpose(id, purpose): OfPurpose,
    body: JsonBody,
) -> Result<Response, Problem> {
    let GiveConsent { version, source } = body.read()?;
    let consent = app.vault.give_consent(&id, &purpose, &version, &source, who.caller.id).await?;
    Ok(answer(StatusCode::OK, &ConsentAnswer::of(&consent)))
}

/// Note that the subject withdraws its consent: it bites at the next read.
#[utoipa::path(
    delete, path = "/v1/subjects/{id}/consents/{purpose}", tag = "consents",
    params(("id" = String, Path), ("purpose" = String, Path)), request_body = Option<WithdrawConsent>,
    responses((status = 204, description = "Not given, or not any more"))
)]
pub(crate) async fn withdraw_consent(
    State(app): State<App>,
    OfPurpose(id, purpose): OfPurpose,
    body: JsonBody,
) -> Result<Response, Problem> {
    let source = if body.is_empty() { None } else { body.read::<WithdrawConsent<'_>>()?.source };
    app.vault.withdraw_consent(&id, &purpose, source.as_deref()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Restrict the processing of a subject: only purposes that the schema exempts go on.
#[utoipa::path(
    put, path = "/v1/subjects/{id}/restriction", tag = "restriction", params(("id" = String, Path)),
    request_body = Option<Restrict>, responses((status = 200, body = RestrictionAnswer))
)]
pub(crate) async fn restrict(
    State(app): State<App>,
    OfSubject(id): OfSubject,
    body: JsonBody,
) -> Result<Response, Problem> {
    let reason = if body.is_empty() { None } else { body.read::<Restrict<'_>>()?.reason };
    let restriction = app.vault.restrict(&id, reason.as_deref()).await?;
    Ok(answer(StatusCode::OK, &RestrictionAnswer::of(&restriction)))
}

/// Lift the restriction of a subject.
#[utoipa::path(
    delete, path = "/v1/subjects/{id}/restriction", tag = "restriction", params(("id" = String, Path)),
    responses((status = 204, description = "Not restricted, or not any more"))
)]
pub(crate) async fn unrestrict(State(app): State<App>, OfSubject(id): OfSubject) -> Result<Response, Problem> {
    app.vault.unrestrict(&id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Put a subject under a legal hold: until it is released, a shred of it, and a removal of one of its fields, answers 409.
#[utoipa::path(
    put, path = "/v1/subjects/{id}/holds/{name}", tag = "holds",
    params(("id" = String, Path), ("name" = String, Path)), request_body = AddHold,
    responses((status = 200, body = HoldAnswer))
)]
pub(crate) async fn add_hold(
    State(app): State<App>,
    who: Who,
    OfHold(id, name): OfHold,
    body: JsonBody,
) -> Result<Response, Problem> {
    let AddHold { reason } = body.read()?;
    let hold = app.vault.add_hold(&id, &name, &reason, who.caller.id).await?;
    Ok(answer(StatusCode::OK, &HoldAnswer::of(&hold)))
}

/// Release a subject from a legal hold.
#[utoipa::path(
    delete, path = "/v1/subjects/{id}/holds/{name}", tag = "holds",
    params(("id" = String, Path), ("name" = String, Path)),
    responses((status = 204, description = "Released"), (status = 404, description = "There is no such hold"))
)]
pub(crate) async fn release_hold(State(app): State<App>, OfHold(id, name): OfHold) -> Result<Response, Problem> {
    app.vault.release_hold(&id, &name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Subjects under a legal hold, in pages, in no order that means anything. A page before the last may be short.
#[utoipa::path(
    get, path = "/v1/holds", tag = "holds", params(PageQuery), responses((status = 200, body = Held))
)]
pub(crate) async fn held(State(app): State<App>, Params(query): Params<PageQuery>) -> Result<Response, Problem> {
    let limit = page_size(query.limit)?;
    let (held, next) = app.vault.held(query.after.as_deref(), limit).await?;
    let data = held.iter().map(HeldAnswer::of).collect();
    Ok(answer(StatusCode::OK, &Held { data, next }))
}
