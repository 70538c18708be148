//! Finding subjects by an exact value.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::page_size;
use crate::app::App;
use crate::auth::Who;
use crate::body::{JsonBody, Shape, answer, field_name};
use crate::idempotency;
use crate::problem::Problem;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lookup<'a> {
    /// A field that is declared for lookups.
    #[serde(borrow)]
    #[schema(value_type = String, example = "phone")]
    field: Cow<'a, str>,
    #[schema(value_type = Object, example = "050 123 8301")]
    value: &'a RawValue,
    /// Of a phone number in national form.
    #[schema(value_type = Option<String>, example = "AE")]
    region: Option<Cow<'a, str>>,
    /// 1 to 1000; 100 by default.
    limit: Option<usize>,
    /// The `next` of the page before.
    #[schema(value_type = Option<String>)]
    after: Option<Cow<'a, str>>,
}

impl<'a> Shape<'a> for Lookup<'a> {
    const SHAPE: &'static str = r#"{"field": name, "value": value, "region"?: text, "limit"?: number, "after"?: text}"#;
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Found<'a> {
    subjects: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'a str>,
}

/// The subjects whose field has exactly this value, compared in normal form. Those whose processing is restricted are
/// found only for a purpose that the schema exempts.
#[utoipa::path(
    post, path = "/v1/lookups", tag = "lookups", request_body = Lookup,
    params(("Idempotency-Key" = Option<String>, Header, description = idempotency::NO_EFFECT_ON_READS),
        ("Udv-Purpose" = Option<String>, Header, description = "Why")),
    responses((status = 200, body = Found))
)]
pub(crate) async fn look_up(State(app): State<App>, who: Who, body: JsonBody) -> Result<Response, Problem> {
    let Lookup { field, value, region, limit, after } = body.read::<Lookup<'_>>()?;
    let (field, limit) = (field_name(&field)?, page_size(limit)?);
    let (region, after) = (region.as_deref(), after.as_deref());
    let page = app.vault.look_up(&who.reader, &field, value.get(), region, after, limit).await?;
    let subjects = page.subjects.iter().map(|subject| subject.as_str()).collect();
    Ok(answer(StatusCode::OK, &Found { subjects, next: page.next.as_deref() }))
}
