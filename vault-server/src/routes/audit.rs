//! The audit log for whoever checks it: its signed head, entries, tiles, proofs, and the keys that sign.

use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use vault_core::Error;
use vault_core::audit::{self, Log};
use vault_core::memory;
use vault_core::time::Timestamp;

use super::page_size;
use super::shapes::Shown;
use crate::app::App;
use crate::body::{Params, answer};
use crate::problem::Problem;

/// The signed head of the log: a C2SP checkpoint over all entries that are durable.
#[utoipa::path(
    get, path = "/v1/audit/checkpoint", tag = "audit",
    responses((status = 200, body = String, content_type = "text/plain"))
)]
pub(crate) async fn checkpoint(State(app): State<App>) -> Result<Response, Problem> {
    let log = app.vault.audit_log()?;
    let note = blocking(move || Ok(log.checkpoint()?)).await?;
    let text = [(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))];
    Ok((text, note).into_response())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EntriesQuery {
    /// The first entry; 0 by default.
    from: Option<u64>,
    /// 1 to 1000; 100 by default.
    limit: Option<usize>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Entries {
    data: Vec<OneEntry>,
    /// The `from` of the next page; null if there is none yet.
    next: Option<u64>,
    /// Entries in all.
    size: u64,
}

#[derive(Serialize, ToSchema)]
struct OneEntry {
    index: u64,
    #[schema(value_type = Object)]
    entry: Box<RawValue>,
}

/// Entries of the log, as they were logged. Subjects are pseudonyms.
#[utoipa::path(
    get, path = "/v1/audit/entries", tag = "audit", params(EntriesQuery), responses((status = 200, body = Entries))
)]
pub(crate) async fn entries(State(app): State<App>, Params(query): Params<EntriesQuery>) -> Result<Response, Problem> {
    let limit = page_size(query.limit)?;
    let log = app.vault.audit_log()?;
    let from = query.from.unwrap_or(0);
    let (size, read) = blocking(move || Ok((log.size(), log.read(from, limit)?))).await?;
    let next = from + read.len() as u64;
    let entry = |(index, bytes): (u64, Vec<u8>)| {
        let text = String::from_utf8(bytes).ok().and_then(|text| RawValue::from_string(text).ok());
        Ok(OneEntry { index, entry: text.ok_or(Error::Damaged("an entry of the audit log"))? })
    };
    let data = (from..).zip(read).map(entry).collect::<Result<Vec<_>, Error>>()?;
    Ok(answer(StatusCode::OK, &Entries { data, next: (next < size).then_some(next), size }))
}

/// A tile, as C2SP `tlog-tiles` has it: `tile/0/x001/234`, `tile/entries/000.p/17`.
#[utoipa::path(
    get, path = "/v1/audit/tile/{*path}", tag = "audit", params(("path" = String, Path)),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream"))
)]
pub(crate) async fn tile(State(app): State<App>, Path(path): Path<String>) -> Result<Response, Problem> {
    let log = app.vault.audit_log()?;
    let tile = blocking(move || Ok(log.tile(&path)?)).await?.ok_or(Error::NotFound("tile of the audit log"))?;
    Ok(([(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))], tile).into_response())
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ProofQuery {
    /// The size of the log that the proof leads to; that of the present head by default.
    size: Option<u64>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Proof {
    index: u64,
    size: u64,
    /// Hashes of 64 hexadecimal digits, from the leaf upwards.
    proof: Vec<String>,
}

/// RFC 6962: the proof that an entry is in the log.
#[utoipa::path(
    get, path = "/v1/audit/proof/{index}", tag = "audit", params(("index" = u64, Path), ProofQuery),
    responses((status = 200, body = Proof))
)]
pub(crate) async fn proof(
    State(app): State<App>,
    Path(index): Path<String>,
    Params(query): Params<ProofQuery>,
) -> Result<Response, Problem> {
    let index = index.parse().map_err(|_| Problem::malformed("the index of an entry is a number"))?;
    let log = app.vault.audit_log()?;
    let (size, proof) = blocking(move || {
        let size = query.size.map_or_else(|| signed(&log), Ok)?;
        Ok((size, log.inclusion(index, size)?))
    })
    .await?;
    Ok(answer(StatusCode::OK, &Proof { index, size, proof: hexadecimal(&proof) }))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ConsistencyQuery {
    /// The smaller size.
    from: u64,
    /// The larger one; that of the present head by default.
    to: Option<u64>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Consistency {
    from: u64,
    to: u64,
    /// Hashes of 64 hexadecimal digits.
    proof: Vec<String>,
}

/// RFC 6962: the proof that the log at one size is the beginning of the log at another.
#[utoipa::path(
    get, path = "/v1/audit/consistency", tag = "audit", params(ConsistencyQuery),
    responses((status = 200, body = Consistency))
)]
pub(crate) async fn consistency(
    State(app): State<App>,
    Params(query): Params<ConsistencyQuery>,
) -> Result<Response, Problem> {
    let log = app.vault.audit_log()?;
    let from = query.from;
    let (to, proof) = blocking(move || {
        let to = query.to.map_or_else(|| signed(&log), Ok)?;
        Ok((to, log.consistency(from, to)?))
    })
    .await?;
    Ok(answer(StatusCode::OK, &Consistency { from, to, proof: hexadecimal(&proof) }))
}

#[derive(Serialize, ToSchema)]
#[schema(as = LogKeys)]
pub(crate) struct Keys {
    /// The key that signs, as a C2SP verifier key.
    current: String,
    #[schema(value_type = String)]
    since: Shown<Timestamp>,
    /// For each change, oldest first: the head then, with a line that names the next key, signed by the key before and by the
    /// next one.
    changes: Vec<String>,
}

/// The keys that sign the log.
#[utoipa::path(get, path = "/v1/audit/keys", tag = "audit", responses((status = 200, body = Keys)))]
pub(crate) async fn keys(State(app): State<App>) -> Result<Response, Problem> {
    let keys = app.vault.log_keys().await?;
    Ok(answer(StatusCode::OK, &Keys { current: keys.current, since: Shown(keys.since), changes: keys.changes }))
}

/// Replace the key that signs the log. The change is signed by both.
#[utoipa::path(post, path = "/v1/audit/keys/rotate", tag = "audit", responses((status = 200, body = Keys)))]
pub(crate) async fn rotate(State(app): State<App>) -> Result<Response, Problem> {
    let keys = app.vault.rotate_log_key().await?;
    Ok(answer(StatusCode::OK, &Keys { current: keys.current, since: Shown(keys.since), changes: keys.changes }))
}

/// The size that the present head speaks of: a proof towards it can be held against something that is signed.
fn signed(log: &Log) -> Result<u64, Error> {
    audit::size_of(&log.checkpoint()?).ok_or(Error::Damaged("the head of the audit log"))
}

fn hexadecimal(hashes: &[[u8; 32]]) -> Vec<String> {
    hashes.iter().map(hex::encode).collect()
}

/// Reads files away from what answers everybody else.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Problem> {
    let done = memory::blocking(work).await;
    Ok(done.map_err(|_| Error::Failed)??)
}
