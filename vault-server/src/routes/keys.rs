//! The layers of keys, their ages and their rotations.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vault_core::ids::RotationId;
use vault_core::root::Method;
use vault_core::time::Timestamp;
use vault_core::vault::{KeyStatus, Layer, Rotation, RotationState};

use super::shapes::Shown;
use crate::app::App;
use crate::auth::Who;
use crate::body::{JsonBody, OfId, Shape, answer};
use crate::idempotency::{self, Once};
use crate::problem::Problem;

#[derive(Serialize, ToSchema)]
pub(crate) struct Keys {
    layers: Vec<KeyLayer>,
}

#[derive(Default, Serialize, ToSchema)]
struct KeyLayer {
    layer: &'static str,
    /// What unlocks the vault.
    #[serde(skip_serializing_if = "Option::is_none")]
    methods: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    created_at: Option<Shown<Timestamp>>,
    /// What is still on older versions.
    #[serde(skip_serializing_if = "Option::is_none")]
    older: Option<u64>,
    /// Pages, each under a key of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pages: Option<u64>,
    /// Null if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_rotation: Option<Option<LastRotation>>,
}

#[derive(Serialize, ToSchema)]
struct LastRotation {
    #[schema(value_type = String)]
    id: Shown<RotationId>,
    #[schema(value_type = Option<String>)]
    finished_at: Option<Shown<Timestamp>>,
}

impl LastRotation {
    fn of(rotation: &Rotation) -> Self {
        Self { id: Shown(rotation.id), finished_at: rotation.finished_at.map(Shown) }
    }
}

impl Keys {
    fn of(status: &KeyStatus) -> Self {
        let last = |rotation: &Option<Rotation>| Some(rotation.as_ref().map(LastRotation::of));
        let unlock = KeyLayer {
            layer: "unlock",
            methods: Some(status.methods.iter().map(|method| method_word(*method)).collect()),
            ..KeyLayer::default()
        };
        let root = KeyLayer {
            layer: Layer::Root.as_str(),
            version: Some(status.epoch),
            created_at: Some(Shown(status.root_since)),
            older: Some(0),
            last_rotation: last(&status.last_root),
            ..KeyLayer::default()
        };
        let keks = KeyLayer {
            layer: Layer::Keks.as_str(),
            pages: Some(status.pages),
            last_rotation: last(&status.last_keks),
            ..KeyLayer::default()
        };
        let lookups = KeyLayer {
            layer: "lookups",
            version: Some(status.lookups_generation.into()),
            created_at: Some(Shown(status.lookups_since)),
            ..KeyLayer::default()
        };
        Self { layers: vec![unlock, root, keks, lookups] }
    }
}

/// A way to unlock, in the API.
pub(super) fn method_word(method: Method) -> &'static str {
    match method {
        Method::Passphrase => "passphrase",
        Method::KeyFile => "key-file",
        Method::Pkcs11 => "pkcs11",
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewRotation<'a> {
    /// `root` or `keks`.
    #[serde(borrow)]
    #[schema(value_type = String)]
    layer: Cow<'a, str>,
    /// Pages a second; without it, as fast as it goes.
    rate: Option<u32>,
}

impl<'a> Shape<'a> for NewRotation<'a> {
    const SHAPE: &'static str = r#"{"layer": "root" or "keks", "rate"?: pages a second}"#;
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeRotation<'a> {
    /// `paused`, `running` or `cancelled`.
    #[serde(borrow)]
    #[schema(value_type = Option<String>)]
    state: Option<Cow<'a, str>>,
    /// Pages a second.
    rate: Option<u32>,
}

impl<'a> Shape<'a> for ChangeRotation<'a> {
    const SHAPE: &'static str = r#"{"state"?: "paused", "running" or "cancelled", "rate"?: pages a second}"#;
}

#[derive(Serialize, ToSchema)]
#[schema(as = Rotation)]
pub(crate) struct RotationAnswer<'a> {
    #[schema(value_type = String)]
    id: Shown<RotationId>,
    layer: &'static str,
    /// `queued`, `running`, `paused`, `done`, `failed` or `cancelled`.
    state: &'static str,
    /// Pages.
    done: u64,
    total: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
    #[schema(value_type = String)]
    started_at: Shown<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    finished_at: Option<Shown<Timestamp>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    eta: Option<Shown<Timestamp>>,
    /// What it waits for, or why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
}

impl<'a> RotationAnswer<'a> {
    fn of(rotation: &'a Rotation) -> Self {
        Self {
            id: Shown(rotation.id),
            layer: rotation.layer.as_str(),
            state: rotation.state.as_str(),
            done: rotation.done,
            total: rotation.total,
            rate: rotation.rate,
            started_at: Shown(rotation.started_at),
            finished_at: rotation.finished_at.map(Shown),
            eta: rotation.eta.map(Shown),
            detail: rotation.detail.as_deref(),
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Rotations<'a> {
    data: Vec<RotationAnswer<'a>>,
    next: Option<String>,
}

/// The layers of keys and their ages.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", responses((status = 200, body = Keys)))]
pub(crate) async fn show(State(app): State<App>) -> Result<Response, Problem> {
    Ok(answer(StatusCode::OK, &Keys::of(&app.vault.keys().await?)))
}

/// Rotate a layer while the vault runs: durable once this answers, goes on by itself, also after a restart.
#[utoipa::path(
    post, path = "/v1/keys/rotations", tag = "keys", request_body = NewRotation,
    params(("Idempotency-Key" = Option<String>, Header, description = idempotency::TOLD)),
    responses((
        status = 202, body = RotationAnswer,
        headers(("Idempotency-Replayed" = bool, description = "True if the request had been done before"))
    ))
)]
pub(crate) async fn rotate(State(app): State<App>, who: Who, once: Once, body: JsonBody) -> Result<Response, Problem> {
    let NewRotation { layer, rate } = body.read::<NewRotation<'_>>()?;
    let layer = Layer::parse(&layer).ok_or_else(|| Problem::invalid("layer", "one of root, keks"))?;
    let once = once.request(&who, "/v1/keys/rotations", &body, StatusCode::ACCEPTED);
    let asked = app.vault.rotate(layer, bounded(rate)?, once.as_ref()).await?;
    let rotation = &asked.made;
    let mut response = answer(StatusCode::ACCEPTED, &RotationAnswer::of(rotation));
    if let Ok(at) = HeaderValue::from_str(&format!("/v1/keys/rotations/{}", rotation.id)) {
        response.headers_mut().insert(header::LOCATION, at);
    }
    Ok(idempotency::mark(response, asked.repeated))
}

fn bounded(rate: Option<u32>) -> Result<Option<u32>, Problem> {
    if rate == Some(0) { Err(Problem::invalid("rate", "at least 1 page a second")) } else { Ok(rate) }
}

/// The rotations of the last 30 days.
#[utoipa::path(get, path = "/v1/keys/rotations", tag = "keys", responses((status = 200, body = Rotations)))]
pub(crate) async fn rotations(State(app): State<App>) -> Result<Response, Problem> {
    let rotations = app.vault.rotations().await?;
    let data = rotations.iter().map(RotationAnswer::of).collect();
    Ok(answer(StatusCode::OK, &Rotations { data, next: None }))
}

/// One rotation and how far it is.
#[utoipa::path(
    get, path = "/v1/keys/rotations/{id}", tag = "keys", params(("id" = String, Path)),
    responses((status = 200, body = RotationAnswer))
)]
pub(crate) async fn rotation(State(app): State<App>, OfId(id): OfId<RotationId>) -> Result<Response, Problem> {
    let rotation = app.vault.rotation(id).await?;
    Ok(answer(StatusCode::OK, &RotationAnswer::of(&rotation)))
}

/// Pause, resume, cancel or throttle a rotation.
#[utoipa::path(
    patch, path = "/v1/keys/rotations/{id}", tag = "keys", params(("id" = String, Path)),
    request_body = ChangeRotation, responses((status = 200, body = RotationAnswer))
)]
pub(crate) async fn change_rotation(
    State(app): State<App>,
    OfId(id): OfId<RotationId>,
    body: JsonBody,
) -> Result<Response, Problem> {
    let ChangeRotation { state, rate } = body.read::<ChangeRotation<'_>>()?;
    let state = state.as_deref().map(wanted_state).transpose()?;
    let rotation = app.vault.change_rotation(id, state, bounded(rate)?).await?;
    Ok(answer(StatusCode::OK, &RotationAnswer::of(&rotation)))
}

fn wanted_state(word: &str) -> Result<RotationState, Problem> {
    use RotationState::{Cancelled, Paused, Running};
    let state = RotationState::parse(word).filter(|state| matches!(state, Paused | Running | Cancelled));
    state.ok_or_else(|| Problem::invalid("state", "one of paused, running, cancelled"))
}
