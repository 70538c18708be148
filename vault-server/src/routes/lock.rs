//! Dropping and loading the root key.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vault_core::Error;
use vault_core::root::Unlock;
use zeroize::Zeroizing;

use crate::app::App;
use crate::auth::authorise_keys;
use crate::body::{JsonBody, Shape, answer};
use crate::problem::{Kind, Problem};

#[derive(Serialize, ToSchema)]
pub(crate) struct LockState {
    /// `locked` or `unlocked`.
    state: &'static str,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnlockWith {
    /// Without it the key that the server is configured with is used.
    passphrase: Option<String>,
}

impl Shape<'_> for UnlockWith {
    const SHAPE: &'static str = r#"{"passphrase"?: text}"#;
}

/// Drop the root key and every key under it; nothing can be read until the next unlock.
#[utoipa::path(post, path = "/v1/lock", tag = "keys", responses((status = 200, body = LockState)))]
pub(crate) async fn lock(State(app): State<App>) -> Result<Response, Problem> {
    app.vault.lock().await?;
    tracing::info!("the vault is locked");
    Ok(answer(StatusCode::OK, &LockState { state: "locked" }))
}

/// Load the root key: with a passphrase, which is its own proof, or with the configured key, which takes an API token.
#[utoipa::path(
    post, path = "/v1/unlock", tag = "keys", request_body = UnlockWith, responses((status = 200, body = LockState))
)]
pub(crate) async fn unlock(State(app): State<App>, headers: HeaderMap, body: JsonBody) -> Result<Response, Problem> {
    let passphrase = match body.is_empty() {
        true => None,
        false => body.read::<UnlockWith>()?.passphrase.map(Zeroizing::new),
    };
    let from_configuration = passphrase.is_none();
    let unlock = match passphrase {
        Some(passphrase) => Unlock::Passphrase(passphrase),
        None => configured(&app, &headers)?,
    };
    let told = "one attempt to unlock runs at a time, and after five wrong ones all wait for a minute: retry later";
    let _turn = app.unlock_gate.enter().map_err(|seconds| Problem::retry(Kind::RateLimited, seconds, told))?;
    let mut unlocked = app.vault.unlock(unlock).await;
    if from_configuration && matches!(unlocked, Err(Error::WrongUnlockKey)) {
        // A rotation of `unlock` may have replaced it while this waited for it to end.
        unlocked = app.vault.unlock(configured(&app, &headers)?).await;
    }
    match unlocked {
        Ok(()) => {
            tracing::info!("the vault is unlocked");
            Ok(answer(StatusCode::OK, &LockState { state: "unlocked" }))
        }
        Err(error) => {
            if matches!(error, Error::WrongUnlockKey) {
                tracing::warn!("an attempt to unlock with a wrong key");
                app.unlock_gate.wrong();
            }
            Err(error.into())
        }
    }
}

fn configured(app: &App, headers: &HeaderMap) -> Result<Unlock, Problem> {
    authorise_keys(app, headers)?;
    let told = "the server is configured with no unlock key: send {\"passphrase\": …}";
    let source = app.unlock_source.as_ref().ok_or_else(|| Problem::new(Kind::Conflict, told))?;
    source.read().map_err(|error| {
        tracing::error!("{error}");
        Problem::new(Kind::Internal, "the configured unlock key cannot be read: the log of the server says why")
    })
}
