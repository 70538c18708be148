//! Erasure requests: shred one or many, and see how far each is.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vault_core::ids::{Compartment, ErasureId, HoldName, SubjectId};
use vault_core::time::Timestamp;
use vault_core::vault::{Erasure, ErasureCounts};

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
    /// Not taken yet.
    #[schema(value_type = Option<String>)]
    not_before: Option<IgnoredAny>,
}

impl<'a> Shape<'a> for NewErasure<'a> {
    const SHAPE: &'static str =
        r#"{"subjects": [id, …], "reason": text, "reference"?: text, "compartment"?: name, "dry_run"?: true or false}"#;
}

impl NewErasure<'_> {
    /// Refuses what is not taken yet; the vault checks the rest.
    fn check(&self) -> Result<(), Problem> {
        if self.not_before.is_some() {
            return Err(Problem::invalid("not_before", "nothing: subjects are shredded at once for now"));
        }
        Ok(())
    }

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
    /// `final`, or `refused` while some are not final yet.
    state: &'static str,
    counts: Counts,
    /// Distinct subjects that were asked for.
    total: u64,
    /// When the refusal was durable.
    #[schema(value_type = String)]
    f0_at: Shown<Timestamp>,
    /// When all were final.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    f1_at: Option<Shown<Timestamp>>,
    /// What those that are not final wait for.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    waiting_for: &'a [String],
    /// Those that are not final yet, and in the answer to the request itself those that are held; at most 1,000 of each.
    #[serde(skip_serializing_if = "Option::is_none")]
    items: Option<Vec<ErasureItem<'a>>>,
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Counts {
    r#final: u64,
    refused: u64,
    /// Never enrolled, or nothing held in the compartment.
    unknown: u64,
    /// Shredded before.
    shredded: u64,
    /// Left alone, for a legal hold keeps them.
    held: u64,
}

#[derive(Serialize, ToSchema)]
struct ErasureItem<'a> {
    subject: &'a str,
    /// `refused` or `held`.
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
        let refused = |(subject, at): &'a (SubjectId, Timestamp)| ErasureItem {
            subject: subject.as_str(),
            state: "refused",
            f0_at: Some(Shown(*at)),
            hold: None,
        };
        let held = |(subject, hold): &'a (SubjectId, HoldName)| ErasureItem {
            subject: subject.as_str(),
            state: "held",
            f0_at: None,
            hold: Some(hold.as_str()),
        };
        let items: Vec<_> = erasure.items.iter().map(refused).chain(erasure.held.iter().map(held)).collect();
        let items = (with_items && !items.is_empty()).then_some(items);
        let ErasureCounts { r#final, refused, unknown, shredded, held, .. } = erasure.counts;
        Self {
            id: Shown(erasure.id),
            reason: &erasure.reason,
            reference: erasure.reference.as_deref(),
            compartment: erasure.compartment.as_ref().map(Compartment::as_str),
            created_at: Shown(erasure.created_at),
            state: if erasure.f1_at.is_some() { "final" } else { "refused" },
            counts: Counts { r#final, refused, unknown, shredded, held },
            total: erasure.total,
            f0_at: Shown(erasure.f0_at),
            f1_at: erasure.f1_at.map(Shown),
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
/// legal hold are left alone and counted; if there are no others, the answer is 409.
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
    asked.check()?;
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
    };
    let asked = app.vault.shred(new, once.as_ref()).await?;
    let erasure = &asked.made;
    let mut response = answer(StatusCode::CREATED, &ErasureAnswer::of(erasure, true));
    if let Ok(at) = HeaderValue::from_str(&format!("/v1/erasures/{}", erasure.id)) {
        response.headers_mut().insert(header::LOCATION, at);
    }
    Ok(idempotency::mark(response, asked.repeated))
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

/// Erasures in pages, without their items.
#[utoipa::path(
    get, path = "/v1/erasures", tag = "erasures", params(PageQuery), responses((status = 200, body = Erasures))
)]
pub(crate) async fn list(State(app): State<App>, Params(query): Params<PageQuery>) -> Result<Response, Problem> {
    let limit = page_size(query.limit)?;
    let (erasures, next) = app.vault.erasures(query.after.as_deref(), limit).await?;
    let data = erasures.iter().map(|erasure| ErasureAnswer::of(erasure, false)).collect();
    Ok(answer(StatusCode::OK, &Erasures { data, next }))
}

/// One erasure and how far it is.
#[utoipa::path(
    get, path = "/v1/erasures/{id}", tag = "erasures", params(("id" = String, Path)),
    responses((status = 200, body = ErasureAnswer))
)]
pub(crate) async fn show(State(app): State<App>, OfId(id): OfId<ErasureId>) -> Result<Response, Problem> {
    let erasure = app.vault.erasure(id).await?;
    Ok(answer(StatusCode::OK, &ErasureAnswer::of(&erasure, true)))
}
