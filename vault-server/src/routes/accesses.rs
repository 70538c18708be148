//! Who saw what of a subject, and whose data a caller saw.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vault_core::ids::CallerId;
use vault_core::time::Timestamp;
use vault_core::vault::{Access, AccessPage, Reach, Reached, Span};

use super::page_size;
use super::shapes::Shown;
use crate::app::App;
use crate::body::{JsonBody, OfSubject, Params, Shape, answer};
use crate::idempotency;
use crate::problem::Problem;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct AccessQuery {
    /// From this time on (RFC 3339); since the subject was enrolled by default.
    from: Option<String>,
    /// Until before this time.
    to: Option<String>,
    /// The `next` of the page before.
    after: Option<String>,
    /// 1 to 1000; 100 by default.
    limit: Option<usize>,
}

/// A page of accesses.
#[derive(Serialize, ToSchema)]
pub(crate) struct Accesses<'a> {
    /// The newest last.
    data: Vec<AccessAnswer<'a>>,
    /// Where the next page starts; a page may be short, or empty, and have one.
    next: Option<&'a str>,
}

/// One thing that was done with a subject's data, or refused.
#[derive(Serialize, ToSchema)]
#[schema(as = Access)]
pub(crate) struct AccessAnswer<'a> {
    #[schema(value_type = String)]
    at: Shown<Timestamp>,
    /// Such as `read`, `lookup`, `write`, `export`, `token_resolve`.
    what: &'static str,
    /// The caller's id; left out for what the vault did by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    by: Option<Shown<CallerId>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purpose: Option<&'a str>,
    fields: Vec<&'a str>,
    /// `done`, `refused` or `failed`.
    outcome: &'static str,
    /// The rule that refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'static str>,
}

impl<'a> AccessAnswer<'a> {
    pub(super) fn of(access: &'a Access) -> Self {
        Self {
            at: Shown(access.at),
            what: access.what.as_str(),
            by: access.by.map(Shown),
            caller_name: access.caller_name.as_deref(),
            purpose: access.purpose.as_ref().map(|purpose| purpose.as_str()),
            fields: access.fields.iter().map(|field| field.as_str()).collect(),
            outcome: access.outcome.as_str(),
            rule: access.rule.map(|rule| rule.as_str()),
        }
    }
}

/// Who did what with a subject's data, when and what for. 410 after a shred: no entry can be told to be of it any more.
#[utoipa::path(
    get, path = "/v1/subjects/{id}/accesses", tag = "subjects", params(("id" = String, Path), AccessQuery),
    responses((status = 200, body = Accesses))
)]
pub(crate) async fn of_subject(
    State(app): State<App>,
    OfSubject(id): OfSubject,
    Params(query): Params<AccessQuery>,
) -> Result<Response, Problem> {
    let span = Span { from: time("from", query.from.as_deref())?, to: time("to", query.to.as_deref())? };
    let limit = page_size(query.limit)?;
    let AccessPage { accesses, next } = app.vault.accesses(&id, span, query.after.as_deref(), limit).await?;
    let data = accesses.iter().map(AccessAnswer::of).collect();
    Ok(answer(StatusCode::OK, &Accesses { data, next: next.as_deref() }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReachOf<'a> {
    /// Id or name of a caller; it may be revoked.
    #[serde(borrow)]
    #[schema(value_type = String)]
    caller: Cow<'a, str>,
    /// From this time on (RFC 3339).
    #[schema(value_type = String)]
    from: Cow<'a, str>,
    /// Until before this time.
    #[schema(value_type = String)]
    to: Cow<'a, str>,
    /// The `next` of the page before.
    #[schema(value_type = Option<String>)]
    after: Option<Cow<'a, str>>,
}

impl<'a> Shape<'a> for ReachOf<'a> {
    const SHAPE: &'static str = r#"{"caller": id or name, "from": time, "to": time, "after"?: text}"#;
}

/// Whose data a caller saw.
#[derive(Serialize, ToSchema)]
#[schema(as = Reach)]
pub(crate) struct ReachAnswer<'a> {
    /// In no order that means anything. Who was seen often may be on several pages: add them up.
    subjects: Vec<ReachedAnswer<'a>>,
    /// How often data was seen of subjects that are shredded or refused since: nobody can tell any more who they were.
    unlinkable: u64,
    /// Where the next page starts.
    next: Option<&'a str>,
}

/// A subject whose data the caller saw.
#[derive(Serialize, ToSchema)]
#[schema(as = Reached)]
struct ReachedAnswer<'a> {
    subject: &'a str,
    fields: Vec<&'a str>,
    #[schema(value_type = String)]
    first: Shown<Timestamp>,
    #[schema(value_type = String)]
    last: Shown<Timestamp>,
    /// How often.
    count: u64,
}

impl<'a> ReachAnswer<'a> {
    fn of(reach: &'a Reach) -> Self {
        let of = |one: &'a Reached| ReachedAnswer {
            subject: one.subject.as_str(),
            fields: one.fields.iter().map(|field| field.as_str()).collect(),
            first: Shown(one.first),
            last: Shown(one.last),
            count: one.count,
        };
        let subjects = reach.subjects.iter().map(of).collect();
        Self { subjects, unlinkable: reach.unlinkable, next: reach.next.as_deref() }
    }
}

/// Whose data a caller saw in a stretch of time, and which fields: what to tell whom, should its API token have been in
/// wrong hands.
#[utoipa::path(
    post, path = "/v1/audit/accesses", tag = "audit", request_body = ReachOf,
    params(("Idempotency-Key" = Option<String>, Header, description = idempotency::NO_EFFECT_ON_READS)),
    responses((status = 200, body = ReachAnswer))
)]
pub(crate) async fn of_caller(State(app): State<App>, body: JsonBody) -> Result<Response, Problem> {
    let asked = body.read::<ReachOf<'_>>()?;
    let span = Span { from: time("from", Some(&*asked.from))?, to: time("to", Some(&*asked.to))? };
    let callers = app.vault.callers_called(&asked.caller);
    if callers.is_empty() {
        return Err(vault_core::Error::NotFound("caller").into());
    }
    let reach = app.vault.reach(callers, span, asked.after.as_deref()).await?;
    Ok(answer(StatusCode::OK, &ReachAnswer::of(&reach)))
}

fn time(field: &'static str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let parse = |text| Timestamp::parse(text).ok_or_else(|| Problem::invalid(field, "an RFC 3339 time"));
    text.map(parse).transpose()
}
