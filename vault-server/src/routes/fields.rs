//! A subject's fields: put, read, one by one or together, and forgotten for good.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::SemaphorePermit;
use utoipa::{IntoParams, ToSchema};
use vault_core::Error;
use vault_core::audit::trail;
use vault_core::ids::{FieldName, SubjectId};
use vault_core::schema::Form;
use vault_core::vault::{Change, Changes, PutOptions, PutOutcome, ReadRequest};

use super::shapes::{FieldMap, Lowered, Shown, Stamps, Value, Values, change, view};
use crate::app::{App, panicked};
use crate::auth::Who;
use crate::body::{JsonBody, OfField, OfSubject, Params, Shape, answer, field_name};
use crate::problem::{Kind, Problem};

/// How long a request waits at most for something to become final before it says that it is not yet.
pub(crate) const FINAL_WAIT: Duration = Duration::from_secs(10);
/// The same of a request that changes something, when very many wait already: most shreds are final long before.
const CROWDED_WAIT: Duration = Duration::from_secs(1);
/// How much longer one waits that has nothing durable to answer with when the server stops.
const STOP_WAIT: Duration = Duration::from_secs(1);
const NOT_FINAL_YET: &str = "it is not known whether the change is final, for a root slot does not answer or many are waiting \
                             for it: see to the slots in the status, and ask again until it is";
const STOPPING: &str =
    "the server is stopping, and it is not known whether the change is final: ask again when it is back";

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutFields<'a> {
    /// By name; null removes a field.
    #[serde(borrow)]
    #[schema(value_type = Object, example = json!({"name": "Jane Doe", "phone": "+971501238301", "nickname": null}))]
    fields: FieldMap<'a>,
}

impl<'a> Shape<'a> for PutFields<'a> {
    const SHAPE: &'static str = r#"{"fields": {name: value or null}}"#;
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PutField<'a> {
    #[serde(borrow)]
    #[schema(value_type = serde_json::Value)]
    value: &'a RawValue,
}

impl<'a> Shape<'a> for PutField<'a> {
    const SHAPE: &'static str = r#"{"value": value}"#;
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PutQuery {
    /// `again`: enrol a shredded id as a new subject, with new keys.
    enrol: Option<String>,
    /// `true`: every removal and overwriting in this request is final.
    r#final: Option<bool>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReadQuery {
    /// Names, separated by commas; without it all that the caller may see.
    names: Option<String>,
    /// `masked` (default), `full`, `last4` or `none`.
    view: Option<String>,
    /// `given` (default) or `normal`.
    form: Option<String>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReadOneQuery {
    /// `masked` (default), `full`, `last4` or `none`.
    view: Option<String>,
    /// `given` (default) or `normal`.
    form: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Put<'a> {
    subject: &'a str,
    /// Version and time of each field that was set.
    #[schema(value_type = Object)]
    fields: Stamps<'a>,
    /// Only false, and only if a final change is not final yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    r#final: Option<bool>,
    /// What it waits for then.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_for: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Fields<'a> {
    subject: &'a str,
    #[schema(value_type = Object)]
    fields: Values<'a>,
    /// The view of each field that is shown in a lower one than was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    views: Option<Lowered<'a>>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Field<'a> {
    #[schema(value_type = serde_json::Value)]
    value: Value<'a>,
    /// The view, if it is lower than was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    view: Option<Shown<vault_core::schema::View>>,
}

/// Create the subject, or merge fields into it.
#[utoipa::path(
    patch, path = "/v1/subjects/{id}/fields", tag = "subjects",
    params(("id" = String, Path), PutQuery), request_body = PutFields,
    responses(
        (status = 200, body = Put, description = "Merged"), (status = 201, body = Put, description = "Created"),
        (status = 202, body = Put, description = "Merged; a final change that waits for a backup"),
        (status = 503, description = "A root slot does not answer")
    )
)]
pub(crate) async fn patch(
    State(app): State<App>,
    OfSubject(id): OfSubject,
    Params(query): Params<PutQuery>,
    body: JsonBody,
) -> Result<Response, Problem> {
    let changes = body.read::<PutFields<'_>>()?.fields.changes()?;
    let options = PutOptions {
        enrol_again: enrol_again(query.enrol.as_deref())?,
        final_: query.r#final.unwrap_or(false),
        ..PutOptions::default()
    };
    let outcome = put(&app, id.clone(), changes, options).await?;
    Ok(put_answer(&id, &outcome))
}

/// Whether a shredded id may be enrolled again.
pub(crate) fn enrol_again(word: Option<&str>) -> Result<bool, Problem> {
    match word {
        None => Ok(false),
        Some("again") => Ok(true),
        Some(_) => Err(Problem::invalid("enrol", "`again`, or nothing")),
    }
}

/// Read several fields, or all that the caller may see.
#[utoipa::path(
    get, path = "/v1/subjects/{id}/fields", tag = "subjects",
    params(("id" = String, Path), ReadQuery, ("Udv-Purpose" = Option<String>, Header, description = "Why")),
    responses((status = 200, body = Fields))
)]
pub(crate) async fn read(
    State(app): State<App>,
    who: Who,
    OfSubject(id): OfSubject,
    Params(query): Params<ReadQuery>,
) -> Result<Response, Problem> {
    let names = query.names.as_deref().map(|names| names.split(',').map(field_name).collect::<Result<Vec<_>, _>>());
    let names = names.transpose()?;
    let request = request(query.view.as_deref(), query.form.as_deref(), who)?;
    let outcome = app.vault.read_fields(&id, names.as_deref(), &request).await?;
    let fields = &outcome.fields;
    let body = Fields { subject: id.as_str(), fields: Values(fields), views: Lowered::of(fields) };
    Ok(answer(StatusCode::OK, &body))
}

fn request(view_name: Option<&str>, form: Option<&str>, who: Who) -> Result<ReadRequest, Problem> {
    let form = form.map_or(Ok(Form::Given), str::parse);
    let form = form.map_err(|_| Problem::invalid("form", "one of given, normal"))?;
    Ok(ReadRequest { reader: who.reader, view: view(view_name)?, form })
}

/// Read one field; its `ETag` is its version.
#[utoipa::path(
    get, path = "/v1/subjects/{id}/fields/{name}", tag = "subjects",
    params(("id" = String, Path), ("name" = String, Path), ReadOneQuery,
        ("Udv-Purpose" = Option<String>, Header, description = "Why")),
    responses((status = 200, body = Field))
)]
pub(crate) async fn read_one(
    State(app): State<App>,
    who: Who,
    OfField(id, name): OfField,
    Params(query): Params<ReadOneQuery>,
) -> Result<Response, Problem> {
    let request = request(query.view.as_deref(), query.form.as_deref(), who)?;
    let outcome = app.vault.read_fields(&id, Some(&[name]), &request).await?;
    let field = outcome.fields.first().ok_or(Error::NoSuchField)?;
    let body = Field { value: Value(&field.value), view: field.lowered.map(Shown) };
    Ok(tagged(answer(StatusCode::OK, &body), field.stamp.version))
}

/// Put one field; with `If-Match`, only over the version that it names.
#[utoipa::path(
    put, path = "/v1/subjects/{id}/fields/{name}", tag = "subjects",
    params(("id" = String, Path), ("name" = String, Path), PutQuery,
        ("If-Match" = Option<String>, Header, description = "The version that is replaced"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only if the field is absent")),
    request_body = PutField,
    responses(
        (status = 200, body = Put), (status = 201, body = Put, description = "The subject is new"),
        (status = 202, body = Put, description = "Put; a final change that waits for a backup"),
        (status = 503, description = "A root slot does not answer")
    )
)]
pub(crate) async fn put_one(
    State(app): State<App>,
    OfField(id, name): OfField,
    Params(query): Params<PutQuery>,
    headers: HeaderMap,
    body: JsonBody,
) -> Result<Response, Problem> {
    let change = change(body.read::<PutField<'_>>()?.value);
    if matches!(change, Change::Remove) {
        return Err(Problem::invalid("value", "a value; DELETE forgets the field"));
    }
    let options = PutOptions {
        enrol_again: enrol_again(query.enrol.as_deref())?,
        final_: query.r#final.unwrap_or(false),
        if_match: precondition(&headers)?,
        ..PutOptions::default()
    };
    let outcome = put(&app, id.clone(), vec![(name, change)], options).await?;
    let version = outcome.fields.first().map_or(0, |stamp| stamp.version);
    Ok(tagged(put_answer(&id, &outcome), version))
}

/// Forget one field for good.
#[utoipa::path(
    delete, path = "/v1/subjects/{id}/fields/{name}", tag = "subjects",
    params(("id" = String, Path), ("name" = String, Path),
        ("If-Match" = Option<String>, Header, description = "The version that is forgotten")),
    responses((status = 204, description = "Final"), (status = 202, body = ForgottenLater), (status = 503, description = "A root slot does not answer"))
)]
pub(crate) async fn forget_one(
    State(app): State<App>,
    OfField(id, name): OfField,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let if_match = precondition(&headers)?;
    let vault = app.vault.clone();
    let waiting_for = finally(&app, async move { vault.forget_field(&id, &name, if_match).await }).await?;
    Ok(match waiting_for {
        Some(waiting_for) => answer(StatusCode::ACCEPTED, &ForgottenLater { r#final: false, waiting_for }),
        None => StatusCode::NO_CONTENT.into_response(),
    })
}

async fn put(app: &App, id: SubjectId, changes: Changes, options: PutOptions) -> Result<PutOutcome, Problem> {
    if !options.final_ {
        return Ok(app.vault.put_fields(&id, changes, &options).await?);
    }
    let vault = app.vault.clone();
    finally(app, async move { vault.put_fields(&id, changes, &options).await }).await
}

/// Makes a change that is final once it is answered, and waits for that as long as may be.
pub(super) async fn finally<T: Send + 'static>(
    app: &App,
    change: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Problem> {
    let place = app.place();
    within(app, patience(place.as_ref()), change).await
}

/// Makes a change that a slot may hold up, and waits for it so long at most, whoever else waits.
pub(super) async fn within<T: Send + 'static>(
    app: &App,
    limit: Duration,
    change: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Problem> {
    // In a task of its own, so that a slow slot does not stop it half way.
    let changing = tokio::time::timeout(limit, tokio::spawn(trail::carried(change)));
    match app.served(STOP_WAIT, changing).await {
        Some(Ok(Ok(changed))) => Ok(changed?),
        Some(Ok(Err(_))) => Err(panicked()),
        // Not one that clients repeat by themselves: it may be done, and something else after it.
        None => Err(Problem::retry(Kind::SlotUnavailable, 15, STOPPING)),
        // Nothing of it is known to be durable, so nothing may be promised yet.
        Some(Err(_)) => Err(Problem::retry(Kind::SlotUnavailable, 15, NOT_FINAL_YET)),
    }
}

/// Removed, and not final yet: a retained root still leads to it, together with the backup that it is retained for.
#[derive(Serialize, ToSchema)]
struct ForgottenLater {
    /// Always false.
    r#final: bool,
    waiting_for: String,
}

/// How long a request waits for what it changed to become final, with a place among those that wait or without.
pub(crate) fn patience(place: Option<&SemaphorePermit<'_>>) -> Duration {
    if place.is_some() { FINAL_WAIT } else { CROWDED_WAIT }
}

fn put_answer(id: &SubjectId, outcome: &PutOutcome) -> Response {
    let waiting_for = outcome.waits_for.clone();
    let status = if waiting_for.is_some() { StatusCode::ACCEPTED } else { put_status(outcome) };
    let r#final = waiting_for.is_some().then_some(false);
    answer(status, &Put { subject: id.as_str(), fields: Stamps(&outcome.fields), r#final, waiting_for })
}

/// 201 for a new subject, else 200.
pub(crate) fn put_status(outcome: &PutOutcome) -> StatusCode {
    if outcome.created { StatusCode::CREATED } else { StatusCode::OK }
}

/// Gives an answer the ETag of a version.
pub(crate) fn tagged(mut response: Response, version: u32) -> Response {
    if let Ok(tag) = HeaderValue::from_str(&format!("\"v{version}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// The version that a write expects: 0 if the field must be absent.
fn precondition(headers: &HeaderMap) -> Result<Option<u32>, Problem> {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default().trim());
    match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
        (None, None) => Ok(None),
        (None, Some("*")) => Ok(Some(0)),
        (Some(tag), None) => version(tag)
            .map(Some)
            .ok_or_else(|| Problem::malformed("If-Match takes one ETag as a field's answer gave it, such as \"v3\"")),
        _ => Err(Problem::malformed("send either If-Match with an ETag, or `If-None-Match: *`")),
    }
}

/// The version that an ETag names.
pub(crate) fn version(tag: &str) -> Option<u32> {
    tag.strip_prefix("\"v")?.strip_suffix('"')?.parse().ok().filter(|&version| version > 0)
}

/// Names from a list; a name that is none is refused.
pub(crate) fn names(list: &[std::borrow::Cow<'_, str>]) -> Result<Vec<FieldName>, Problem> {
    list.iter().map(|name| field_name(name)).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn preconditions() {
        let of = |name, value: &str| precondition(&HeaderMap::from_iter([(name, value.parse().unwrap())]));
        assert_eq!(precondition(&HeaderMap::new()), Ok(None));
        assert_eq!(of(header::IF_MATCH, "\"v3\""), Ok(Some(3)));
        assert_eq!(of(header::IF_NONE_MATCH, "*"), Ok(Some(0)));
        for bad in ["*", "v3", "\"v0\"", "W/\"v3\"", "\"v1\", \"v2\"", "\"3\""] {
            assert_eq!(of(header::IF_MATCH, bad).unwrap_err().kind, Kind::Malformed, "{bad}");
        }
        assert!(of(header::IF_NONE_MATCH, "\"v3\"").is_err());
    }
}
