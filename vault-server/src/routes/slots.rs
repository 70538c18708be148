//! The root slots: how each is, what it can make final, and the rotation of those in hardware.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use vault_core::root::{SlotState, SlotStatus};
use vault_core::time::Timestamp;
use vault_core::vault::Status;

use super::keys::method_word;
use super::shapes::Shown;
use crate::app::App;
use crate::body::answer;
use crate::problem::Problem;

#[derive(Serialize, ToSchema)]
pub(crate) struct Slots<'a> {
    data: Vec<Slot<'a>>,
    /// The level that shreds reach by themselves: `F2` if every slot is in hardware, else `F1`.
    #[serde(rename = "final")]
    finality: &'static str,
    /// What opens them: `passphrase`, `key-file`, `pkcs11`.
    methods: Vec<&'static str>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Slot<'a> {
    name: &'a str,
    /// `ok`, `behind` or `unreachable`.
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    /// `F2` for a slot in hardware, which images of its own disk do not open after a slot rotation; else `F1`.
    #[serde(rename = "final")]
    finality: &'static str,
    /// When the key of a slot in hardware was made: its last rotation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    rotated_at: Option<Shown<Timestamp>>,
    /// Why its last rotation was not completed; it is tried again by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    rotation_waits_for: Option<&'a str>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct SlotsRotated<'a> {
    /// Shreds that were final by then are final on the slots' own disks as well, if every slot is in hardware.
    #[schema(value_type = String)]
    begun_at: Shown<Timestamp>,
    #[serde(flatten)]
    slots: Slots<'a>,
}

impl<'a> Slot<'a> {
    pub(crate) fn of(slot: &'a SlotStatus) -> Self {
        let state = match slot.state {
            SlotState::Ok => "ok",
            SlotState::Behind => "behind",
            SlotState::Unreachable => "unreachable",
        };
        let hardware = slot.hardware.as_ref();
        Self {
            name: &slot.name,
            state,
            detail: slot.detail.as_deref(),
            finality: level(hardware.is_some()),
            rotated_at: hardware.map(|hardware| Shown(hardware.keys_since)),
            rotation_waits_for: hardware.and_then(|hardware| hardware.waits_for.as_deref()),
        }
    }
}

impl<'a> Slots<'a> {
    fn of(app: &App, status: &'a Status) -> Self {
        Self {
            data: status.slots.iter().map(Slot::of).collect(),
            finality: level(status.all_in_hardware),
            methods: app.vault.unlock_methods().into_iter().map(method_word).collect(),
        }
    }
}

fn level(in_hardware: bool) -> &'static str {
    if in_hardware { "F2" } else { "F1" }
}

/// The root slots and how each is.
#[utoipa::path(get, path = "/v1/slots", tag = "keys", responses((status = 200, body = Slots)))]
pub(crate) async fn list(State(app): State<App>) -> Response {
    answer(StatusCode::OK, &Slots::of(&app, &app.vault.status()))
}

/// Give every root slot in hardware a fresh key now, and destroy the ones from before.
#[utoipa::path(post, path = "/v1/slots/rotate", tag = "keys", responses((status = 200, body = SlotsRotated)))]
pub(crate) async fn rotate(State(app): State<App>) -> Result<Response, Problem> {
    let begun_at = Shown(app.vault.rotate_slots().await?);
    let status = app.vault.status();
    Ok(answer(StatusCode::OK, &SlotsRotated { begun_at, slots: Slots::of(&app, &status) }))
}
