//! The schema: which fields there are, and who sees them for what.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vault_core::Error;
use vault_core::ids::FieldName;
use vault_core::schema::{Document, Schema, change};

use super::fields::{tagged, version};
use crate::app::App;
use crate::body::{DocumentBody, Params, answer};
use crate::problem::Problem;

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ShowQuery {
    /// An earlier version; without it the one in force.
    version: Option<u16>,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PutQuery {
    /// `true`: only say whether it would be taken.
    check: Option<bool>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct SchemaAnswer {
    /// The version in force now.
    version: u16,
    /// Whether the document became a new version; not if it was in force already, or only checked.
    changed: bool,
    /// Fields whose values are kept for less long than before: older ones will be forgotten for good.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    forgets: Vec<FieldName>,
}

/// The schema document, as JSON, or as TOML to who accepts `application/toml`; its `ETag` is its version.
#[utoipa::path(
    get, path = "/v1/schema", tag = "schema",
    params(ShowQuery, ("Accept" = Option<String>, Header, description = "`application/toml`, or JSON")),
    responses((status = 200, body = Object))
)]
pub(crate) async fn show(
    State(app): State<App>,
    Params(query): Params<ShowQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    match query.version {
        None => Ok(shown(&*app.vault.schema()?, &headers)),
        Some(version) => Ok(shown(&app.vault.schema_version(version).await?, &headers)),
    }
}

fn shown(schema: &Schema, headers: &HeaderMap) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let (kind, text) = match accepts.contains("application/toml") {
        true => ("application/toml", schema.document().to_toml()),
        false => ("application/json", schema.document().to_json()),
    };
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static(kind));
    tagged((StatusCode::OK, [kind], Body::from(text)).into_response(), schema.version.into())
}

/// Put a schema into force; with `If-Match`, only over the version that it names.
///
/// It takes effect with the next read and write. A change that would orphan or reinterpret stored values is refused, with
/// a way out.
#[utoipa::path(
    put, path = "/v1/schema", tag = "schema",
    params(PutQuery, ("If-Match" = Option<String>, Header, description = "The version that is replaced")),
    request_body(content((Object = "application/json"), (String = "application/toml"))),
    responses((status = 200, body = SchemaAnswer))
)]
pub(crate) async fn put(
    State(app): State<App>,
    Params(query): Params<PutQuery>,
    headers: HeaderMap,
    body: DocumentBody,
) -> Result<Response, Problem> {
    let over = precondition(&headers)?;
    let document = match body {
        DocumentBody::Json(text) => Document::from_json(&text),
        DocumentBody::Toml(text) => Document::from_toml(&text),
    };
    let document = document.map_err(Error::from)?;
    let present = app.vault.schema()?;
    let (before, forgets) = (present.version, change::forgets(&present, &document).into_iter().cloned().collect());
    if query.check == Some(true) {
        app.vault.check_schema(&document)?;
        return Ok(tagged(
            answer(StatusCode::OK, &SchemaAnswer { version: before, changed: false, forgets }),
            before.into(),
        ));
    }
    let version = app.vault.put_schema(document, over).await?.version;
    Ok(tagged(answer(StatusCode::OK, &SchemaAnswer { version, changed: version != before, forgets }), version.into()))
}

fn precondition(headers: &HeaderMap) -> Result<Option<u16>, Problem> {
    let Some(tag) = headers.get(header::IF_MATCH) else { return Ok(None) };
    let named = tag.to_str().ok().and_then(|tag| version(tag.trim())).and_then(|version| version.try_into().ok());
    named.map(Some).ok_or_else(|| Problem::malformed("If-Match takes the ETag of the schema as its answer gave it"))
}
