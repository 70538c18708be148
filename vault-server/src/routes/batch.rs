//! Many subjects in one request; each item has its own answer.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vault_core::Error;
use vault_core::audit::trail;
use vault_core::ids::{FieldName, SubjectId};
use vault_core::schema::{Form, View};
use vault_core::vault::{Changes, PutOptions, PutOutcome, ReadOutcome, ReadRequest, State as VaultState};

use super::fields::{enrol_again, names, put_status};
use super::shapes::{FieldMap, Lowered, Stamps, Values, view};
use crate::app::App;
use crate::auth::Who;
use crate::body::{JsonBody, Shape, answer, subject};
use crate::idempotency;
use crate::openapi::ProblemDocument;
use crate::problem::Problem;

/// The most items of a batch.
const ITEMS_MAX: usize = 1000;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WriteBatch<'a> {
    /// At most 1,000.
    #[serde(borrow)]
    items: Vec<WriteItem<'a>>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct WriteItem<'a> {
    #[serde(borrow)]
    #[schema(value_type = String)]
    subject: Cow<'a, str>,
    /// By name; null removes a field.
    #[serde(borrow)]
    #[schema(value_type = Object)]
    fields: FieldMap<'a>,
    /// `again`: enrol a shredded id as a new subject.
    #[schema(value_type = Option<String>)]
    enrol: Option<Cow<'a, str>>,
}

impl<'a> Shape<'a> for WriteBatch<'a> {
    const SHAPE: &'static str =
        r#"{"items": [{"subject": id, "fields": {name: value or null}, "enrol"?: "again"}, …]}"#;
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ReadBatch<'a> {
    /// At most 1,000.
    #[serde(borrow)]
    items: Vec<ReadItem<'a>>,
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReadItem<'a> {
    #[serde(borrow)]
    #[schema(value_type = String)]
    subject: Cow<'a, str>,
    /// Without it, all that the caller may see.
    #[schema(value_type = Option<Vec<String>>)]
    names: Option<Vec<Cow<'a, str>>>,
    /// `masked` (default), `full`, `last4` or `none`.
    #[schema(value_type = Option<String>)]
    view: Option<Cow<'a, str>>,
}

impl<'a> Shape<'a> for ReadBatch<'a> {
    const SHAPE: &'static str = r#"{"items": [{"subject": id, "names"?: [name, …], "view"?: text}, …]}"#;
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Results<T> {
    /// In the order of the items.
    pub(super) results: Vec<T>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct WriteResult<'a> {
    status: u16,
    subject: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    fields: Option<Stamps<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ProblemDocument>)]
    problem: Option<&'a Problem>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct ReadResult<'a> {
    status: u16,
    subject: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    fields: Option<Values<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    views: Option<Lowered<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<ProblemDocument>)]
    problem: Option<&'a Problem>,
}

/// Put fields of many subjects, in one durable commit but for those that change meanwhile. After a lost connection some of
/// them may be written: send the batch again.
#[utoipa::path(
    post, path = "/v1/batch/write", tag = "batch", request_body = WriteBatch,
    params(("Idempotency-Key" = Option<String>, Header, description = idempotency::NO_EFFECT_ON_WRITES)),
    responses((status = 200, body = Results<WriteResult>))
)]
pub(crate) async fn write(State(app): State<App>, body: JsonBody) -> Result<Response, Problem> {
    let batch = body.read::<WriteBatch<'_>>()?;
    bounded(batch.items.len())?;
    unlocked(&app)?;
    let (parsed, mut outcomes) = parse_all(&batch.items, WriteItem::parse);
    let written = app.vault.write_batch(parsed).await;
    fill(&mut outcomes, written.into_iter().map(|outcome| outcome.map_err(Problem::from)));
    let pairs = batch.items.iter().zip(outcomes.iter().flatten());
    let results: Vec<_> = pairs.map(|(item, outcome)| WriteResult::of(&item.subject, outcome)).collect();
    Ok(answer(StatusCode::OK, &Results { results }))
}

impl WriteItem<'_> {
    fn parse(&self) -> Result<(SubjectId, Changes, PutOptions), Problem> {
        let options = PutOptions { enrol_again: enrol_again(self.enrol.as_deref())?, ..PutOptions::default() };
        Ok((subject(&self.subject)?, self.fields.changes()?, options))
    }
}

impl<'a> WriteResult<'a> {
    fn of(subject: &'a str, outcome: &'a Result<PutOutcome, Problem>) -> Self {
        match outcome {
            Ok(put) => {
                let status = put_status(put).as_u16();
                Self { status, subject, fields: Some(Stamps(&put.fields)), problem: None }
            }
            Err(problem) => Self { status: problem.status().as_u16(), subject, fields: None, problem: Some(problem) },
        }
    }
}

/// Read fields of many subjects.
#[utoipa::path(
    post, path = "/v1/batch/read", tag = "batch", request_body = ReadBatch,
    params(
        ("Udv-Purpose" = Option<String>, Header, description = "Why"),
        ("Idempotency-Key" = Option<String>, Header, description = idempotency::NO_EFFECT_ON_READS)
    ),
    responses((status = 200, body = Results<ReadResult>))
)]
pub(crate) async fn read(State(app): State<App>, who: Who, body: JsonBody) -> Result<Response, Problem> {
    let batch = body.read::<ReadBatch<'_>>()?;
    bounded(batch.items.len())?;
    unlocked(&app)?;
    let mut request = ReadRequest { reader: who.reader, view: View::Masked, form: Form::Given };
    let mut outcomes = Vec::with_capacity(batch.items.len());
    for (at, item) in batch.items.iter().enumerate() {
        outcomes.push(item.read(&app, &mut request).await);
        if at % 16 == 15 {
            // Reads from the cache never wait; others get their turn here.
            tokio::task::yield_now().await;
        }
    }
    let pairs = batch.items.iter().zip(&outcomes);
    let results: Vec<_> = pairs.map(|(item, outcome)| ReadResult::of(&item.subject, outcome)).collect();
    Ok(answer(StatusCode::OK, &Results { results }))
}

impl ReadItem<'_> {
    fn parse(&self) -> Result<(SubjectId, Option<Vec<FieldName>>, View), Problem> {
        let names = self.names.as_deref().map(names).transpose()?;
        Ok((subject(&self.subject)?, names, view(self.view.as_deref())?))
    }

    async fn read(&self, app: &App, request: &mut ReadRequest) -> Result<ReadOutcome, Problem> {
        let (id, names, view) = self.parse().inspect_err(|_| trail::unread())?;
        request.view = view;
        Ok(app.vault.read_fields(&id, names.as_deref(), request).await?)
    }
}

impl<'a> ReadResult<'a> {
    fn of(subject: &'a str, outcome: &'a Result<ReadOutcome, Problem>) -> Self {
        match outcome {
            Ok(read) => {
                let (fields, views) = (Some(Values(&read.fields)), Lowered::of(&read.fields));
                Self { status: 200, subject, fields, views, problem: None }
            }
            Err(problem) => {
                let status = problem.status().as_u16();
                Self { status, subject, fields: None, views: None, problem: Some(problem) }
            }
        }
    }
}

/// A locked vault refuses a batch as a whole, as it does every other request.
pub(super) fn unlocked(app: &App) -> Result<(), Problem> {
    if app.vault.state() == VaultState::Locked { Err(Error::Locked.into()) } else { Ok(()) }
}

pub(super) fn bounded(items: usize) -> Result<(), Problem> {
    if (1..=ITEMS_MAX).contains(&items) { Ok(()) } else { Err(Problem::invalid("items", "1 to 1,000 items")) }
}

/// What of the items can be asked of the vault; what does not parse has its answer already, and the vault's fill the gaps.
pub(super) fn parse_all<'i, T, P, O>(
    items: &'i [T],
    parse: impl Fn(&'i T) -> Result<P, Problem>,
) -> (Vec<P>, Vec<Option<Result<O, Problem>>>) {
    let mut parsed = Vec::with_capacity(items.len());
    let outcomes = items.iter().map(|item| match parse(item) {
        Ok(item) => {
            parsed.push(item);
            None
        }
        Err(problem) => {
            trail::unread();
            Some(Err(problem))
        }
    });
    let outcomes = outcomes.collect();
    (parsed, outcomes)
}

pub(super) fn fill<O>(
    outcomes: &mut [Option<Result<O, Problem>>],
    mut answers: impl Iterator<Item = Result<O, Problem>>,
) {
    for gap in outcomes.iter_mut().filter(|outcome| outcome.is_none()) {
        *gap = answers.next();
    }
}
