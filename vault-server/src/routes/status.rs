//! How the vault is, for operators.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use vault_core::ids::VaultId;
use vault_core::store::HealthState;
use vault_core::time::Timestamp;
use vault_core::vault::{OpenErasures, RetentionStatus, Status};

use super::shapes::Shown;
use super::slots::Slot;
use crate::app::App;
use crate::body::answer;

#[derive(Serialize, ToSchema)]
#[schema(as = Status)]
pub(crate) struct StatusAnswer<'a> {
    version: &'static str,
    #[schema(value_type = String)]
    vault_id: Shown<VaultId>,
    /// `unlocked`, `locked` or `failed`.
    state: &'static str,
    /// Counts root keys; null while locked.
    epoch: Option<u64>,
    #[schema(value_type = String)]
    started_at: Shown<Timestamp>,
    /// Null while locked.
    counts: Option<StatusCounts>,
    slots: Vec<Slot<'a>>,
    store: StoreAnswer,
    cache: CacheAnswer,
    retention: RetentionAnswer,
    /// The open ones; null while locked.
    erasures: Option<OpenAnswer>,
    /// Null if there is no audit log.
    audit: Option<AuditAnswer>,
    /// The key plane backup whose root is retained: shreds since then are refused and wait for the next to be final.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for_backup: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = AuditLog)]
struct AuditAnswer {
    /// Its entries.
    size: u64,
    /// How many of them are durable.
    durable: u64,
    /// Entries of what is committed that it does not take; nothing is answered meanwhile.
    waiting: u64,
}

/// The sweep of values whose time is over: what the last pass did, or the present one did so far.
#[derive(Serialize, ToSchema)]
#[schema(as = Retention)]
struct RetentionAnswer {
    /// When the last pass was begun; null since the server started.
    #[schema(value_type = Option<String>)]
    started_at: Option<Shown<Timestamp>>,
    /// When a pass was last completed.
    #[schema(value_type = Option<String>)]
    finished_at: Option<Shown<Timestamp>>,
    /// Subjects it looked at.
    subjects: u64,
    /// Values it forgot for good.
    forgotten: u64,
    /// Expired values it left, for their subject is under a legal hold.
    held: u64,
    /// Subjects it could not deal with; the log says why.
    failed: u64,
}

#[derive(Serialize, ToSchema)]
struct StatusCounts {
    subjects: u64,
    tombstones: u64,
    callers: u64,
    /// Refused and not final yet.
    refused: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Store)]
struct StoreAnswer {
    engine: &'static str,
    /// `ok`, `full` or `poisoned`.
    state: &'static str,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Cache)]
struct CacheAnswer {
    pages: usize,
    bytes: usize,
    limit_bytes: usize,
}

/// How the vault is.
#[utoipa::path(get, path = "/v1/status", tag = "status", responses((status = 200, body = StatusAnswer)))]
pub(crate) async fn show(State(app): State<App>) -> Response {
    let status = app.vault.status();
    let waits_for_backup = app.vault.waits_for_backup();
    answer(StatusCode::OK, &StatusAnswer { waits_for_backup, ..StatusAnswer::of(&status, app.started_at) })
}

impl<'a> StatusAnswer<'a> {
    fn of(status: &'a Status, started_at: Timestamp) -> Self {
        let counts = |counts: vault_core::vault::Counts| StatusCounts {
            subjects: counts.subjects,
            tombstones: counts.tombstones,
            callers: counts.callers,
            refused: counts.refused,
        };
        let cache = &status.cache;
        Self {
            version: env!("CARGO_PKG_VERSION"),
            vault_id: Shown(status.vault),
            state: status.state.as_str(),
            epoch: status.epoch,
            started_at: Shown(started_at),
            counts: status.counts.map(counts),
            slots: status.slots.iter().map(Slot::of).collect(),
            store: StoreAnswer { engine: status.store.engine, state: store_state(status.store.state) },
            cache: CacheAnswer { pages: cache.pages, bytes: cache.bytes, limit_bytes: cache.limit_bytes },
            retention: RetentionAnswer::of(&status.retention),
            erasures: status.erasures.map(OpenAnswer::of),
            audit: status.log.map(|log| AuditAnswer { size: log.size, durable: log.durable, waiting: log.waiting }),
            waits_for_backup: None,
        }
    }
}

/// Erasures by their state, a request counting once.
#[derive(Serialize, ToSchema)]
struct OpenAnswer {
    awaiting_approval: u64,
    pending: u64,
    refused: u64,
    held: u64,
    /// Past their deadline.
    late: u64,
    /// The next deadline of the others.
    #[schema(value_type = Option<String>)]
    next_deadline: Option<Shown<Timestamp>>,
}

impl OpenAnswer {
    fn of(open: OpenErasures) -> Self {
        let OpenErasures { awaiting_approval, pending, refused, held, late, next_deadline } = open;
        Self { awaiting_approval, pending, refused, held, late, next_deadline: next_deadline.map(Shown) }
    }
}

impl RetentionAnswer {
    fn of(status: &RetentionStatus) -> Self {
        Self {
            started_at: status.started_at.map(Shown),
            finished_at: status.finished_at.map(Shown),
            subjects: status.subjects,
            forgotten: status.forgotten,
            held: status.held,
            failed: status.failed,
        }
    }
}

fn store_state(state: HealthState) -> &'static str {
    match state {
        HealthState::Ok => "ok",
        HealthState::Full => "full",
        HealthState::Poisoned => "poisoned",
    }
}
