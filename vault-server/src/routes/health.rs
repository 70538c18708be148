//! For those who watch the server: alive, ready, measured. No API token.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;
use vault_core::vault::State as VaultState;

use crate::app::App;
use crate::body::answer;

#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    status: &'static str,
}

/// Whether the process answers.
#[utoipa::path(get, path = "/healthz", tag = "status", responses((status = 200, body = Health)))]
pub(crate) async fn alive() -> Response {
    answer(StatusCode::OK, &Health { status: "ok" })
}

/// Whether the vault serves: 503 while it is locked or has failed.
#[utoipa::path(
    get, path = "/readyz", tag = "status",
    responses((status = 200, body = Health), (status = 503, body = Health, description = "Locked or failed, or the audit log takes no entries"))
)]
pub(crate) async fn ready(State(app): State<App>) -> Response {
    match app.vault.state() {
        VaultState::Unlocked if !app.vault.log_takes_entries() => {
            answer(StatusCode::SERVICE_UNAVAILABLE, &Health { status: "audit_unavailable" })
        }
        VaultState::Unlocked => answer(StatusCode::OK, &Health { status: "ready" }),
        VaultState::Locked => answer(StatusCode::SERVICE_UNAVAILABLE, &Health { status: "locked" }),
        VaultState::Failed => answer(StatusCode::SERVICE_UNAVAILABLE, &Health { status: "failed" }),
    }
}

/// Counts, sizes and times as OpenMetrics text; no ids, no values.
#[utoipa::path(
    get, path = "/metrics", tag = "status",
    responses((status = 200, body = String, content_type = "application/openmetrics-text"))
)]
pub(crate) async fn metrics(State(app): State<App>) -> Response {
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], app.metrics.text()).into_response()
}
