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
use vault_core::vault::{self, DeksOf, KeyStatus, Layer, LayerStatus, Rotation, RotationState};
use zeroize::Zeroizing;

use super::shapes::Shown;
use crate::app::App;
use crate::auth::Who;
use crate::body::{JsonBody, OfId, Shape, answer, subject};
use crate::idempotency::{self, Once};
use crate::new_unlock::{self, Sent};
use crate::problem::Problem;

#[derive(Serialize, ToSchema)]
pub(crate) struct Keys {
    layers: Vec<KeyLayer>,
}

#[derive(Serialize, ToSchema)]
struct KeyLayer {
    /// `unlock`, `root`, `keks`, `deks` or `lookups`.
    layer: &'static str,
    /// What unlocks the vault.
    #[serde(skip_serializing_if = "Option::is_none")]
    methods: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    /// None of its keys is older.
    #[schema(value_type = String)]
    created_at: Shown<Timestamp>,
    /// What the last rotation did not bring to new keys, or not yet: pages or subjects.
    #[serde(skip_serializing_if = "Option::is_none")]
    older: Option<u64>,
    /// Pages, each under a key of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pages: Option<u64>,
    /// Shreds since the present key of lookups was drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    shreds: Option<u64>,
    /// With so many the policy has it replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    shreds_max: Option<u64>,
    /// The last one of all its keys that was done; null if there was none.
    last_rotation: Option<LastRotation>,
    /// When its keys get older than the configured policy allows; left out without a bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    due_at: Option<Shown<Timestamp>>,
    /// Whether they are.
    overdue: bool,
}

#[derive(Serialize, ToSchema)]
struct LastRotation {
    #[schema(value_type = String)]
    id: Shown<RotationId>,
    #[schema(value_type = String)]
    finished_at: Shown<Timestamp>,
}

impl LastRotation {
    fn of(last: vault::LastRotation) -> Self {
        Self { id: Shown(last.id), finished_at: Shown(last.finished_at) }
    }
}

impl Keys {
    fn of(status: &KeyStatus) -> Self {
        let now = Timestamp::now();
        let methods: Vec<_> = status.methods.iter().map(|method| method_word(*method)).collect();
        let layer = |of: &LayerStatus| KeyLayer {
            layer: of.layer.as_str(),
            methods: (of.layer == Layer::Unlock).then(|| methods.clone()),
            version: of.version,
            created_at: Shown(of.since),
            older: (of.layer != Layer::Unlock).then_some(of.older),
            pages: (of.layer == Layer::Keks).then_some(status.pages),
            shreds: (of.layer == Layer::Lookups).then_some(status.shreds),
            shreds_max: status.shreds_max.filter(|_| of.layer == Layer::Lookups),
            last_rotation: of.last.map(LastRotation::of),
            due_at: of.due.map(Shown),
            overdue: of.is_due(now),
        };
        Self { layers: status.layers.iter().map(layer).collect() }
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
    /// `unlock`, `root`, `keks`, `deks` or `lookups`.
    #[serde(borrow)]
    #[schema(value_type = String)]
    layer: Cow<'a, str>,
    /// Pages or subjects a second; without it, as fast as it goes.
    rate: Option<u32>,
    /// Of `unlock`: the new passphrase, if the vault is opened by one. A key file is drawn anew.
    passphrase: Option<String>,
    /// Of `unlock`: the text of a new key file, in place of one that is kept elsewhere than on the server.
    key_file: Option<String>,
    /// Of `unlock`: take away unlock keys that are not replaced as well, such as one that is lost, or that a rotation left which
    /// was cut short.
    #[serde(default)]
    replace_all: bool,
    /// Of `deks`: only keys that are older than so many seconds.
    older_than: Option<u64>,
    /// Of `deks`: only those of these subjects, at most 256.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Vec<String>>)]
    subjects: Option<Vec<Cow<'a, str>>>,
    /// Of `deks`: forget the old keys. Older backups of the data plane do not open any more for these subjects.
    #[serde(default)]
    forget: bool,
}

impl<'a> Shape<'a> for NewRotation<'a> {
    const SHAPE: &'static str = concat!(
        r#"{"layer": "unlock", "root", "keks", "deks" or "lookups", "rate"?: pages or subjects a second, "#,
        r#"of unlock also "passphrase"?: the new one, "key_file"?: the text of a new one, "replace_all"?: true, "#,
        r#"of deks also "older_than"?: seconds, or "subjects"?: [ids], and "forget"?: true}"#
    );
}

impl NewRotation<'_> {
    /// What it asks for.
    async fn asked(self, app: &App) -> Result<vault::NewRotation, Problem> {
        let layer = Layer::parse(&self.layer);
        let layer = layer.ok_or_else(|| Problem::invalid("layer", "one of unlock, root, keks, deks, lookups"))?;
        let sent = Sent {
            passphrase: self.passphrase.map(Zeroizing::new),
            key_file: self.key_file.map(Zeroizing::new),
            replace_all: self.replace_all,
        };
        if layer != Layer::Unlock {
            let of_unlock = [
                ("passphrase", sent.passphrase.is_some()),
                ("key_file", sent.key_file.is_some()),
                ("replace_all", sent.replace_all),
            ];
            if let Some((field, _)) = of_unlock.into_iter().find(|(_, given)| *given) {
                return Err(Problem::invalid(field, "only with the layer unlock"));
            }
        }
        if layer != Layer::Deks {
            let of_deks = [
                ("older_than", self.older_than.is_some()),
                ("subjects", self.subjects.is_some()),
                ("forget", self.forget),
            ];
            return match of_deks.into_iter().find(|(_, given)| *given) {
                Some((field, _)) => Err(Problem::invalid(field, "only with the layer deks")),
                None if layer == Layer::Unlock => {
                    let slots = app.vault.slot_unlocks().await;
                    new_unlock::rotation(&slots, app.unlock_source.as_ref(), sent)
                }
                None => Ok(layer.into()),
            };
        }
        let which = match (self.older_than, self.subjects) {
            (None, None) => DeksOf::All,
            (Some(seconds), None) => DeksOf::OlderThan(seconds),
            (None, Some(subjects)) => {
                DeksOf::Subjects(subjects.iter().map(|id| subject(id)).collect::<Result<_, _>>()?)
            }
            (Some(_), Some(_)) => return Err(Problem::invalid("subjects", "not together with older_than")),
        };
        Ok(vault::NewRotation::Deks { which, forget: self.forget })
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeRotation<'a> {
    /// `paused`, `running` or `cancelled`.
    #[serde(borrow)]
    #[schema(value_type = Option<String>)]
    state: Option<Cow<'a, str>>,
    /// Pages or subjects a second.
    rate: Option<u32>,
}

impl<'a> Shape<'a> for ChangeRotation<'a> {
    const SHAPE: &'static str =
        r#"{"state"?: "paused", "running" or "cancelled", "rate"?: pages or subjects a second}"#;
}

#[derive(Serialize, ToSchema)]
#[schema(as = Rotation)]
pub(crate) struct RotationAnswer<'a> {
    #[schema(value_type = String)]
    id: Shown<RotationId>,
    layer: &'static str,
    /// `queued`, `running`, `paused`, `done`, `failed` or `cancelled`.
    state: &'static str,
    /// Pages, or subjects: those of a rotation of lookups count three times, for it builds, takes out and tidies.
    done: u64,
    total: u64,
    /// At most so many a second, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<u32>,
    /// How many a second it was done with so far, while it is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    per_second: Option<u64>,
    #[schema(value_type = String)]
    started_at: Shown<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    finished_at: Option<Shown<Timestamp>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    /// When it ends if it stays as fast.
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
            per_second: rotation.per_second,
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
    let new = body.read::<NewRotation<'_>>()?;
    let rate = bounded(new.rate)?;
    let asked = new.asked(&app).await?;
    let once = once.request(&who, "/v1/keys/rotations", &body, StatusCode::ACCEPTED);
    let asked = app.vault.rotate(asked, rate, once.as_ref()).await?;
    let rotation = &asked.made;
    let mut response = answer(StatusCode::ACCEPTED, &RotationAnswer::of(rotation));
    if let Ok(at) = HeaderValue::from_str(&format!("/v1/keys/rotations/{}", rotation.id)) {
        response.headers_mut().insert(header::LOCATION, at);
    }
    Ok(idempotency::mark(response, asked.repeated))
}

fn bounded(rate: Option<u32>) -> Result<Option<u32>, Problem> {
    if rate == Some(0) { Err(Problem::invalid("rate", "at least 1 a second")) } else { Ok(rate) }
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
