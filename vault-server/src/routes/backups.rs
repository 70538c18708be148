//! Backups of a vault that runs, streamed to who asks for them.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_core::Stream;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use utoipa::ToSchema;
use vault_core::Error;
use vault_core::backup::Plane;
use vault_core::ids::BackupId;
use vault_core::time::Timestamp;
use vault_core::vault::{BackedUp, BackupAsk, BackupSink, RetainedRoot};

use super::shapes::Shown;
use crate::app::App;
use crate::body::{JsonBody, OfId, Shape, answer};
use crate::problem::Problem;

/// Names the archive, on the answer that brings it.
pub(crate) const BACKUP_ID: &str = "udv-backup";

/// Pieces, each a few MiB, that wait for a slow reader.
const WAITING: usize = 2;
/// How long a reader may take for one of them: shreds wait while a key plane is read.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewBackup<'a> {
    /// `data` or `keys`.
    #[serde(borrow)]
    #[schema(value_type = String)]
    plane: Cow<'a, str>,
    /// Whom it is encrypted to (`age1…`); without them, those that the server is configured with.
    #[serde(default)]
    recipients: Vec<String>,
    /// Of a data plane: only what changed since this one.
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    since: Option<Cow<'a, str>>,
    /// Of a key plane: retain the root that opens it, once `POST /v1/backups/{id}/keep` confirms it.
    #[serde(default)]
    retain: bool,
}

impl<'a> Shape<'a> for NewBackup<'a> {
    const SHAPE: &'static str =
        r#"{"plane": "data" or "keys", "recipients"?: ["age1…"], "since"?: id, "retain"?: boolean}"#;
}

#[derive(Serialize, ToSchema)]
pub(crate) struct BackupsAnswer {
    /// Null if no root is retained.
    retained: Option<Retained>,
    /// Data planes that an increment can be made of, oldest first.
    #[schema(value_type = Vec<String>)]
    data: Vec<Shown<BackupId>>,
}

/// A root that is retained for a key plane: shreds since then wait to be final.
#[derive(Serialize, ToSchema)]
struct Retained {
    #[schema(value_type = String)]
    backup: Shown<BackupId>,
    epoch: u64,
    #[schema(value_type = String)]
    since: Shown<Timestamp>,
}

impl BackupsAnswer {
    fn of(app: &App) -> Self {
        let retained =
            |root: RetainedRoot| Retained { backup: Shown(root.backup), epoch: root.epoch, since: Shown(root.since) };
        Self {
            retained: app.vault.retained().map(retained),
            data: app.backups.known().into_iter().map(Shown).collect(),
        }
    }
}

/// The root that is retained, and the data planes that increments can be made of.
#[utoipa::path(get, path = "/v1/backups", tag = "backups", responses((status = 200, body = BackupsAnswer)))]
pub(crate) async fn list(State(app): State<App>) -> Response {
    answer(StatusCode::OK, &BackupsAnswer::of(&app))
}

/// Back up one plane, as an age file (age-encryption.org/v1) that comes while it is made. One that breaks off is no backup.
#[utoipa::path(
    post, path = "/v1/backups", tag = "backups", request_body = NewBackup,
    responses((
        status = 200, content_type = "application/octet-stream",
        headers(("Udv-Backup" = String, description = "Names the archive"))
    ))
)]
pub(crate) async fn make(State(app): State<App>, body: JsonBody) -> Result<Response, Problem> {
    let ask = ask(&app, &body)?;
    let turn = app.backing_up.clone().try_acquire_owned();
    let turn = turn.map_err(|_| Error::Conflict("another backup is being made: wait for its end"))?;
    let id = ask.id;
    let (sender, mut pieces) = mpsc::channel(WAITING);
    let making = tokio::spawn(write(app, ask, sender, turn));
    let Some(Ok(first)) = pieces.recv().await else { return Err(unmade(making).await.into()) };
    let mut response = Body::from_stream(Pieces { first: Some(first), rest: pieces }).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(BACKUP_ID, HeaderValue::from_str(&id.to_string()).map_err(|_| Error::Failed)?);
    Ok(response)
}

fn ask(app: &App, body: &JsonBody) -> Result<BackupAsk, Problem> {
    let NewBackup { plane, recipients, since, retain } = body.read::<NewBackup<'_>>()?;
    let plane = Plane::parse(&plane).ok_or_else(|| Problem::invalid("plane", "one of data, keys"))?;
    let recipients = app.backups.recipients(&recipients).map_err(Error::from)?;
    let base = match since {
        Some(_) if plane == Plane::Keys => {
            return Err(Problem::invalid("since", "left out of a key plane: it is whole"));
        }
        Some(id) => {
            let id = BackupId::parse(&id).map_err(|_| Problem::invalid("since", "the id of a data plane"))?;
            Some(app.backups.index(id)?)
        }
        None => None,
    };
    if retain && plane == Plane::Data {
        return Err(Problem::invalid("retain", "left out of a data plane: no root opens it"));
    }
    Ok(BackupAsk { base, retain, ..BackupAsk::new(plane, recipients) })
}

/// Makes the archive; its end only comes once it is known what the next increment is made of.
async fn write(app: App, ask: BackupAsk, to: Sender, turn: OwnedSemaphorePermit) -> Result<(), Error> {
    let mut channel = Channel(to);
    let made = app.vault.back_up(&ask, &mut channel, &|_, _| {}).await;
    let outcome = match made {
        Ok(BackedUp { index: Some(index), .. }) => keep(&app, index).await,
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::warn!(%error, backup = %ask.id, "a backup was not made");
            // Whoever reads it sees it break off; if nothing was sent, the answer says why.
            let _ = channel.0.try_send(Err(io::Error::other("the backup was not made")));
            Err(error)
        }
    };
    drop(turn);
    outcome
}

async fn keep(app: &App, index: vault_core::backup::Index) -> Result<(), Error> {
    let backups = Arc::clone(&app.backups);
    let kept = tokio::task::spawn_blocking(move || backups.keep(&index)).await;
    if let Err(error) = kept.unwrap_or_else(|_| Err(io::Error::other("a panic"))) {
        tracing::warn!(%error, "the index of a backup could not be kept: no increment can be made of it");
    }
    Ok(())
}

async fn unmade(making: JoinHandle<Result<(), Error>>) -> Error {
    match making.await {
        Ok(Err(error)) => error,
        Ok(Ok(())) | Err(_) => Error::Failed,
    }
}

/// A key plane has been received whole: from here on the root that opens it is retained, and the one before is let go.
#[utoipa::path(
    post, path = "/v1/backups/{id}/keep", tag = "backups", params(("id" = String, Path)),
    responses((status = 200, body = BackupsAnswer))
)]
pub(crate) async fn confirm(State(app): State<App>, OfId(id): OfId<BackupId>) -> Result<Response, Problem> {
    app.vault.keep_backup(id).await?;
    Ok(answer(StatusCode::OK, &BackupsAnswer::of(&app)))
}

/// A key plane whose root was to be retained did not arrive: shreds do not wait for it.
#[utoipa::path(
    delete, path = "/v1/backups/{id}", tag = "backups", params(("id" = String, Path)),
    responses((status = 200, body = BackupsAnswer))
)]
pub(crate) async fn abandon(State(app): State<App>, OfId(id): OfId<BackupId>) -> Result<Response, Problem> {
    app.vault.drop_backup(id).await?;
    Ok(answer(StatusCode::OK, &BackupsAnswer::of(&app)))
}

/// Retain no root any more: shreds that waited become final, and no key plane from before opens.
#[utoipa::path(delete, path = "/v1/backups/retained", tag = "backups", responses((status = 200, body = BackupsAnswer)))]
pub(crate) async fn release(State(app): State<App>) -> Result<Response, Problem> {
    app.vault.forget_retained().await?;
    Ok(answer(StatusCode::OK, &BackupsAnswer::of(&app)))
}

type Piece = Result<Vec<u8>, io::Error>;
type Sender = mpsc::Sender<Piece>;

/// Hands pieces on as fast as they are read.
struct Channel(Sender);

#[async_trait::async_trait]
impl BackupSink for Channel {
    async fn take(&mut self, bytes: Vec<u8>) -> io::Result<()> {
        match self.0.send_timeout(Ok(bytes), PATIENCE).await {
            Ok(()) => Ok(()),
            Err(_) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "whoever asked for it reads no more")),
        }
    }
}

struct Pieces {
    first: Option<Vec<u8>>,
    rest: mpsc::Receiver<Piece>,
}

impl Stream for Pieces {
    type Item = Piece;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Piece>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => self.rest.poll_recv(context),
        }
    }
}
