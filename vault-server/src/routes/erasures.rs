//! Erasure requests: shred one or many, and see how far each is.

use std::borrow::Cow;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vault_core::ids::{CallerId, Compartment, ErasureId, HoldName, SubjectId};
use vault_core::time::Timestamp;
use vault_core::vault::{Erasure, ErasureCounts, ErasureState, OpenItem};

use super::fields::FINAL_WAIT;
use super::page_size;
use super::shapes::Shown;
use crate::app::App;
use crate::auth::Who;
use crate::body::{JsonBody, OfId, Params, Shape, answer, subject};
use crate::idempotency::{self, Once};
use crate::problem::Problem;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewErasure<'a> {
    /// At most 100,000.
    #[serde(borrow)]
    #[schema(value_type = Vec<String>)]
    subjects: Vec<Cow<'a, str>>,
    /// Why; kept for as long as the erasure is. Nothing personal.
    #[schema(value_type = String)]
    reason: Cow<'a, str>,
    /// Your own name for the request, a ticket for example. Nothing personal.
    #[schema(value_type = Option<String>)]
    reference: Option<Cow<'a, str>>,
    /// Only count what would be shredded.
    dry_run: Option<bool>,
    /// Only this compartment of the subjects.
    #[schema(value_type = Option<String>)]
    compartment: Option<Cow<'a, str>>,
    /// Leave the subjects alone until then (RFC 3339); the erasure is `pending`, and can be cancelled.
    #[schema(value_type = Option<String>)]
    not_before: Option<Cow<'a, str>>,
    /// With `not_before`: reads are refused until then already.
    refuse_now: Option<bool>,
    /// By when it should be done; in 30 days, unless configured otherwise.
    #[schema(value_type = Option<String>)]
    deadline: Option<Cow<'a, str>>,
}

impl<'a> Shape<'a> for NewErasure<'a> {
    const SHAPE: &'static str = r#"{"subjects": [id, …], "reason": text, "reference"?: text, "compartment"?: name, "not_before"?: time, "refuse_now"?: true or false, "deadline"?: time, "dry_run"?: true or false}"#;
}

impl NewErasure<'_> {
    fn subjects(&self) -> Result<Vec<SubjectId>, Problem> {
        self.subjects.iter().map(|text| subject(text)).collect()
    }
}

#[derive(Serialize, ToSchema)]
#[schema(as = Erasure)]
pub(crate) struct ErasureAnswer<'a> {
    #[schema(value_type = String)]
    id: Shown<ErasureId>,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    /// Only this compartment of the subjects.
    #[serde(skip_serializing_if = "Option::is_none")]
    compartment: Option<&'a str>,
    #[schema(value_type = String)]
    created_at: Shown<Timestamp>,
    /// `awaiting_approval`, `pending`, `refused` (while some are not final yet), `held` (only held ones are left), `final` or
    /// `cancelled`.
    state: &'static str,
    counts: Counts,
    /// Its subjects are left alone until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    not_before: Option<Shown<Timestamp>>,
    /// By when it should be done.
    #[schema(value_type = String)]
    deadline: Shown<Timestamp>,
    /// Whether that has passed with something still open.
    late: bool,
    /// The caller who asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    requested_by: Option<Shown<CallerId>>,
    /// The second person who agreed, where one had to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    approved_by: Option<Shown<CallerId>>,
    /// Distinct subjects that were asked for.
    total: u64,
    /// When the first refusals were durable.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    f0_at: Option<Shown<Timestamp>>,
    /// When all were final: the old root key is gone from every slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    f1_at: Option<Shown<Timestamp>>,
    /// When the hardware keys of all slots were others; never, if a slot is a plain file.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    f2_at: Option<Shown<Timestamp>>,
    /// When no root was retained for a backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    f3_at: Option<Shown<Timestamp>>,
    /// What those that are not final wait for.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    waiting_for: &'a [String],
    /// Those that are not final yet; at most 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Vec<ErasureItem<'a>>>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Counts {
    /// Not due yet.
    pending: u64,
    r#final: u64,
    refused: u64,
    /// Never enrolled, or nothing held in the compartment.
    unknown: u64,
    /// Shredded before.
    shredded: u64,
    /// Due, and left alone for as long as a legal hold keeps them.
    held: u64,
    /// Taken back before they were due.
    cancelled: u64,
}

#[derive(Serialize, ToSchema)]
struct ErasureItem<'a> {
    subject: &'a str,
    /// `pending`, `held` or `refused`.
    state: &'static str,
    /// When it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    f0_at: Option<Shown<Timestamp>>,
    /// A hold that keeps it.
    #[serde(skip_serializing_if = "Option::is_none")]
    hold: Option<&'a str>,
}

impl<'a> ErasureAnswer<'a> {
    /// The erasure, with or without its items.
    pub(crate) fn of(erasure: &'a Erasure, with_items: bool) -> Self {
        let item = |item: &'a OpenItem| ErasureItem {
            subject: item.subject.as_str(),
            state: item.state.as_str(),
            f0_at: item.f0_at.map(Shown),
            hold: item.hold.as_ref().map(HoldName::as_str),
        };
        let items: Vec<_> = erasure.items.iter().map(item).collect();
        let items = (with_items && !items.is_empty()).then_some(items);
        let ErasureCounts { pending, r#final, refused, unknown, shredded, held, cancelled } = erasure.counts;
        Self {
            id: Shown(erasure.id),
            reason: &erasure.reason,
            reference: erasure.reference.as_deref(),
            compartment: erasure.compartment.as_ref().map(Compartment::as_str),
            created_at: Shown(erasure.created_at),
            state: erasure.state.as_str(),
            counts: Counts { pending, r#final, refused, unknown, shredded, held, cancelled },
            not_before: erasure.not_before.map(Shown),
            deadline: Shown(erasure.deadline),
            late: erasure.late,
            requested_by: erasure.requested_by.map(Shown),
            approved_by: erasure.approved_by.map(Shown),
            total: erasure.total,
            f0_at: erasure.f0_at.map(Shown),
            f1_at: erasure.f1_at.map(Shown),
            f2_at: erasure.f2_at.map(Shown),
            f3_at: erasure.f3_at.map(Shown),
            waiting_for: &erasure.waiting_for,
            items,
        }
    }
}

#[derive(Serialize, ToSchema)]
pub(crate) struct DryRun {
    dry_run: bool,
    counts: DryRunCounts,
    /// Distinct subjects that were asked for.
    total: u64,
}

#[derive(Serialize, ToSchema)]
struct DryRunCounts {
    /// Would be shredded.
    pending: u64,
    unknown: u64,
    shredded: u64,
    refused: u64,
    /// Would be left alone, for a legal hold keeps them.
    held: u64,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// 1 to 1000; 100 by default.
    pub(crate) limit: Option<usize>,
    /// The `next` of the page before.
    pub(crate) after: Option<String>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Erasures<'a> {
    data: Vec<ErasureAnswer<'a>>,
    next: Option<String>,
}

/// Shred subjects: once this answers, reads of them answer 410, durably; they become final by themselves. Those under a
/// legal hold are left alone until it is released; if there are no others, the answer is 409. With `not_before`, and for more
/// subjects than one may ask for alone, it waits.
#[utoipa::path(
    post, path = "/v1/erasures", tag = "erasures", request_body = NewErasure,
    params(("Idempotency-Key" = Option<String>, Header, description = idempotency::TOLD)),
    responses(
        (
            status = 201, body = ErasureAnswer,
            headers(("Idempotency-Replayed" = bool, description = "True if the request had been done before"))
        ),
        (status = 200, body = DryRun, description = "A dry run")
    )
)]
pub(crate) async fn create(State(app): State<App>, who: Who, once: Once, body: JsonBody) -> Result<Response, Problem> {
    let asked = body.read::<NewErasure<'_>>()?;
    let subjects = asked.subjects()?;
    let compartment = compartment(asked.compartment.as_deref())?;
    if asked.dry_run == Some(true) {
        let counts = app.vault.shred_dry_run(&subjects, compartment.as_ref()).await?;
        return Ok(answer(StatusCode::OK, &dry_run(counts)));
    }
    let once = once.request(&who, "/v1/erasures", &body, StatusCode::CREATED);
    let new = vault_core::vault::NewErasure {
        subjects,
        compartment,
        reason: asked.reason.into_owned(),
        reference: asked.reference.map(Cow::into_owned),
        by: Some(who.caller.id),
        not_before: time("not_before", asked.not_before.as_deref())?,
        refuse_now: asked.refuse_now == Some(true),
        deadline: time("deadline", asked.deadline.as_deref())?,
    };
    let asked = app.vault.shred(new, once.as_ref()).await?;
    let erasure = &asked.made;
    let mut response = answer(StatusCode::CREATED, &ErasureAnswer::of(erasure, true));
    if let Ok(at) = HeaderValue::from_str(&format!("/v1/erasures/{}", erasure.id)) {
        response.headers_mut().insert(header::LOCATION, at);
    }
    Ok(idempotency::mark(response, asked.repeated))
}

fn time(field: &'static str, text: Option<&str>) -> Result<Option<Timestamp>, Problem> {
    let parsed = text.map(|text| Timestamp::parse(text).ok_or_else(|| Problem::invalid(field, "an RFC 3339 time")));
    parsed.transpose()
}

/// A compartment's name; which of them are declared, the vault knows.
pub(crate) fn compartment(name: Option<&str>) -> Result<Option<Compartment>, Problem> {
    let parsed = name.map(Compartment::parse).transpose();
    parsed.map_err(|_| Problem::invalid("compartment", "a compartment that a field of the schema is in"))
}

fn dry_run(counts: ErasureCounts) -> DryRun {
    let ErasureCounts { pending, unknown, shredded, refused, held, .. } = counts;
    let total = pending + unknown + shredded + refused + held;
    DryRun { dry_run: true, counts: DryRunCounts { pending, unknown, shredded, refused, held }, total }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ErasuresQuery {
    /// 1 to 1000; 100 by default.
    limit: Option<usize>,
    /// The `next` of the page before.
    after: Option<String>,
    /// Only those in this state, or `late` ones.
    state: Option<String>,
}

/// Erasures in pages, without their items. With `state` a page may have fewer than `limit`, even none, before the last.
#[utoipa::path(
    get, path = "/v1/erasures", tag = "erasures", params(ErasuresQuery), responses((status = 200, body = Erasures))
)]
pub(crate) async fn list(State(app): State<App>, Params(query): Params<ErasuresQuery>) -> Result<Response, Problem> {
    let limit = page_size(query.limit)?;
    let known = |state: &str| state == "late" || ErasureState::parse(state).is_some();
    if query.state.as_deref().is_some_and(|state| !known(state)) {
        let expected = "late, awaiting_approval, pending, held, refused, final or cancelled";
        return Err(Problem::invalid("state", expected));
    }
    let (erasures, next) = app.vault.erasures(query.after.as_deref(), limit).await?;
    let wanted = |erasure: &&Erasure| match query.state.as_deref() {
        None => true,
        Some("late") => erasure.late,
        Some(state) => erasure.state.as_str() == state,
    };
    let data = erasures.iter().filter(wanted).map(|erasure| ErasureAnswer::of(erasure, false)).collect();
    Ok(answer(StatusCode::OK, &Erasures { data, next }))
}

/// Take back what of an erasure is not due yet, or held. Subjects that were refused for it can be read again.
#[utoipa::path(
    delete, path = "/v1/erasures/{id}", tag = "erasures", params(("id" = String, Path)),
    responses((status = 200, body = ErasureAnswer))
)]
pub(crate) async fn cancel(State(app): State<App>, OfId(id): OfId<ErasureId>) -> Result<Response, Problem> {
    let erasure = app.vault.cancel_erasure(id).await?;
    Ok(answer(StatusCode::OK, &ErasureAnswer::of(&erasure, true)))
}

/// Agree to an erasure that waits for a second person: somebody else than who asked.
#[utoipa::path(
    post, path = "/v1/erasures/{id}/approve", tag = "erasures", params(("id" = String, Path)),
    responses((status = 200, body = ErasureAnswer))
)]
pub(crate) async fn approve(State(app): State<App>, who: Who, OfId(id): OfId<ErasureId>) -> Result<Response, Problem> {
    let erasure = app.vault.approve_erasure(id, who.caller.id).await?;
    Ok(answer(StatusCode::OK, &ErasureAnswer::of(&erasure, true)))
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ShowQuery {
    /// Seconds to wait for subjects that are refused to be final before this answers: 0 (the default) to 10.
    #[param(maximum = 10)]
    wait: Option<u64>,
}

/// One erasure and how far it is. With `wait` it answers once it is not, or no longer, `refused`, which takes fewer requests than
/// asking again and again; at once if it is `pending`, `held` or ended, and, with `Retry-After`, if very many requests wait already.
#[utoipa::path(
    get, path = "/v1/erasures/{id}", tag = "erasures", params(("id" = String, Path), ShowQuery),
    responses((status = 200, body = ErasureAnswer))
)]
pub(crate) async fn show(
    State(app): State<App>,
    OfId(id): OfId<ErasureId>,
    Params(query): Params<ShowQuery>,
) -> Result<Response, Problem> {
    let wait = Duration::from_secs(query.wait.unwrap_or(0));
    if wait > FINAL_WAIT {
        return Err(Problem::invalid("wait", &format!("0 to {} seconds", FINAL_WAIT.as_secs())));
    }
    let place = if wait.is_zero() { None } else { app.place() };
    let erasure = match &place {
        Some(_) => app.final_within(id, wait).await?,
        None => app.vault.erasure(id).await?,
    };
    let mut response = answer(StatusCode::OK, &ErasureAnswer::of(&erasure, true));
    if erasure.state == ErasureState::Refused && !wait.is_zero() && place.is_none() {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    Ok(response)
}
