//! Finding subjects by an exact value, or by last four digits beside one.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use vault_core::vault::{Last4Lookup, LookupPage};

use super::page_size;
use crate::app::App;
use crate::auth::Who;
use crate::body::{JsonBody, Shape, answer, field_name};
use crate::idempotency;
use crate::metrics::LookedUp;
use crate::problem::Problem;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lookup<'a> {
    /// A field that is declared for lookups.
    #[serde(borrow)]
    #[schema(value_type = String, example = "phone")]
    field: Cow<'a, str>,
    /// Its exact value; without it `last4` and `and` are needed.
    #[serde(default, deserialize_with = "as_sent")]
    #[schema(value_type = serde_json::Value, required = false, example = "050 123 8301")]
    value: Option<&'a RawValue>,
    /// Of a phone number in national form.
    #[schema(value_type = Option<String>, example = "AE")]
    region: Option<Cow<'a, str>>,
    /// The last four digits, of a field that is declared for such lookups.
    #[schema(value_type = Option<String>)]
    last4: Option<Cow<'a, str>>,
    /// What else is known, beside `last4`.
    and: Option<And<'a>>,
    /// 1 to 1000; 100 by default.
    limit: Option<usize>,
    /// The `next` of the page before.
    #[schema(value_type = Option<String>)]
    after: Option<Cow<'a, str>>,
}

/// Another field and its exact value.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct And<'a> {
    /// A field that is declared for lookups.
    #[serde(borrow)]
    #[schema(value_type = String, example = "email")]
    field: Cow<'a, str>,
    #[schema(value_type = serde_json::Value, example = "jane@example.org")]
    value: &'a RawValue,
    /// Of a phone number in national form.
    #[schema(value_type = Option<String>)]
    region: Option<Cow<'a, str>>,
}

impl<'a> Shape<'a> for Lookup<'a> {
    const SHAPE: &'static str = SHAPE;
}

const SHAPE: &str = r#"{"field": name, "value": value, "region"?: text, "limit"?: number, "after"?: text} or {"field": name, "last4": text, "and": {"field": name, "value": value, "region"?: text}}"#;

/// A value that is null is one that no field takes; it is not left out.
fn as_sent<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Found<'a> {
    subjects: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'a str>,
}

/// What a lookup by last four digits costs: it opens values.
const LAST4_UNITS: u32 = 2;

/// The subjects whose field has exactly this value, compared in normal form; or those that have these last four digits in
/// one field and exactly this value in another. Those whose processing is restricted are found only for a purpose that
/// the schema exempts. Each page is counted against the caller's budget (429).
#[utoipa::path(
    post, path = "/v1/lookups", tag = "lookups", request_body = Lookup,
    params(("Idempotency-Key" = Option<String>, Header, description = idempotency::NO_EFFECT_ON_READS),
        ("Udv-Purpose" = Option<String>, Header, description = "Why")),
    responses((status = 200, body = Found))
)]
pub(crate) async fn look_up(State(app): State<App>, who: Who, body: JsonBody) -> Result<Response, Problem> {
    let lookup = body.read::<Lookup<'_>>()?;
    let found = lookup.find(&app, &who).await;
    app.metrics.looked_up(match &found {
        Ok(page) if page.subjects.is_empty() => LookedUp::Nothing,
        Ok(_) => LookedUp::Found,
        Err(_) => LookedUp::Refused,
    });
    let page = found?;
    let subjects = page.subjects.iter().map(|subject| subject.as_str()).collect();
    Ok(answer(StatusCode::OK, &Found { subjects, next: page.next.as_deref() }))
}

impl Lookup<'_> {
    async fn find(&self, app: &App, who: &Who) -> Result<LookupPage, Problem> {
        match (self.value, self.last4.as_deref(), &self.and) {
            (Some(value), None, None) => self.by_value(value, app, who).await,
            (None, Some(last4), Some(and)) => self.by_last4(last4, and, app, who).await,
            (None, Some(_), None) => {
                Err(Problem::invalid("and", "another field and its exact value: `last4` alone finds nobody"))
            }
            (None, None, _) => Err(Problem::malformed(format!("the body has no `value`; its shape is {SHAPE}"))),
            (Some(_), ..) => Err(Problem::invalid("last4", "`last4` with `and`, or `value` without them")),
        }
    }

    async fn by_value(&self, value: &RawValue, app: &App, who: &Who) -> Result<LookupPage, Problem> {
        let (field, limit) = (field_name(&self.field)?, page_size(self.limit)?);
        app.budget.spend(&who.caller, 1)?;
        let (region, after) = (self.region.as_deref(), self.after.as_deref());
        Ok(app.vault.look_up(&who.reader, &field, value.get(), region, after, limit).await?)
    }

    async fn by_last4(&self, last4: &str, and: &And<'_>, app: &App, who: &Who) -> Result<LookupPage, Problem> {
        if self.region.is_some() {
            return Err(Problem::invalid("region", "none beside `last4`: a region belongs into `and`"));
        }
        if self.limit.is_some() || self.after.is_some() {
            return Err(Problem::invalid("limit", "none beside `last4`: its answer is one page"));
        }
        let (field, other) = (field_name(&self.field)?, field_name(&and.field)?);
        app.budget.spend(&who.caller, LAST4_UNITS)?;
        let (value, region) = (and.value.get(), and.region.as_deref());
        let asked = Last4Lookup { field: &field, last4, and: &other, value, region };
        Ok(LookupPage { subjects: app.vault.look_up_last4(&who.reader, &asked).await?, next: None })
    }
}
