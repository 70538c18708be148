//! A subject as a whole: what is held of it, and its end.

use std::time::Instant;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use vault_core::Error;
use vault_core::ids::{HoldName, Purpose};
use vault_core::policy::SubjectStanding;
use vault_core::time::Timestamp;
use vault_core::vault::{Description, ErasureState, NewErasure};

use super::erasures::{ErasureAnswer, compartment};
use super::fields::{FINAL_WAIT, patience, within};
use super::notes::RestrictionAnswer;
use super::shapes::Shown;
use crate::app::App;
use crate::auth::Who;
use crate::body::{OfSubject, Params, answer};
use crate::problem::Problem;

/// What the erasure that a DELETE makes gives as its reason.
const REASON: &str = "the subject was deleted by request";

#[derive(Serialize, ToSchema)]
pub(crate) struct Subject<'a> {
    subject: &'a str,
    /// `active`, `restricted` or `held`; a refused or shredded subject answers 410.
    state: &'static str,
    /// Whether its processing is restricted, whatever the state says.
    restricted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    restriction: Option<RestrictionAnswer<'a>>,
    /// Purposes that it consents to at present.
    consents: Vec<&'a str>,
    /// Its legal holds.
    holds: Vec<&'a str>,
    #[schema(value_type = String)]
    enrolled_at: Shown<Timestamp>,
    compartments: Vec<CompartmentAnswer<'a>>,
    fields: Vec<HeldField<'a>>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Compartment)]
struct CompartmentAnswer<'a> {
    name: &'a str,
    dek_version: u32,
}

#[derive(Serialize, ToSchema)]
struct HeldField<'a> {
    name: &'a str,
    compartment: &'a str,
    version: u32,
    #[schema(value_type = String)]
    updated_at: Shown<Timestamp>,
}

impl<'a> Subject<'a> {
    fn of(subject: &'a str, described: &'a Description) -> Self {
        let compartments = described.compartments.iter();
        let fields = described.fields.iter();
        Self {
            subject,
            state: state(described.standing),
            restricted: described.restriction.is_some(),
            restriction: described.restriction.as_ref().map(RestrictionAnswer::of),
            consents: described.consents.iter().map(Purpose::as_str).collect(),
            holds: described.holds.iter().map(HoldName::as_str).collect(),
            enrolled_at: Shown(described.enrolled_at),
            compartments: compartments
                .map(|(name, dek_version)| CompartmentAnswer { name: name.as_str(), dek_version: *dek_version })
                .collect(),
            fields: fields
                .map(|(stamp, compartment)| HeldField {
                    name: stamp.name.as_str(),
                    compartment: compartment.as_str(),
                    version: stamp.version,
                    updated_at: Shown(stamp.updated_at),
                })
                .collect(),
        }
    }
}

pub(crate) fn state(standing: SubjectStanding) -> &'static str {
    match standing {
        SubjectStanding::Active => "active",
        SubjectStanding::Restricted => "restricted",
        SubjectStanding::Held | SubjectStanding::HeldAndRestricted => "held",
        SubjectStanding::Refused => "refused",
        SubjectStanding::Shredded => "shredded",
    }
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ShredQuery {
    /// Shred only this compartment; the others keep their keys.
    compartment: Option<String>,
}

/// What is held of a subject, without values.
#[utoipa::path(
    get, path = "/v1/subjects/{id}", tag = "subjects", params(("id" = String, Path)),
    responses((status = 200, body = Subject))
)]
pub(crate) async fn describe(State(app): State<App>, OfSubject(id): OfSubject) -> Result<Response, Problem> {
    let described = app.vault.describe(&id).await?;
    Ok(answer(StatusCode::OK, &Subject::of(id.as_str(), &described)))
}

/// Shred a subject, or one compartment of it, now: 200 once it is final, 202 if it is refused (reads answer 410, durably)
/// and not final within 10 seconds (of one if very many requests wait already), 409 if a legal hold keeps it.
#[utoipa::path(
    delete, path = "/v1/subjects/{id}", tag = "subjects", params(("id" = String, Path), ShredQuery),
    responses(
        (status = 200, body = ErasureAnswer), (status = 202, body = ErasureAnswer),
        (status = 503, description = "No root slot answers, and the refusal must be noted beside one while a root is retained")
    )
)]
pub(crate) async fn shred(
    State(app): State<App>,
    who: Who,
    OfSubject(id): OfSubject,
    Params(query): Params<ShredQuery>,
) -> Result<Response, Problem> {
    let (subjects, compartment) = (vec![id], compartment(query.compartment.as_deref())?);
    let counts = app.vault.shred_dry_run(&subjects, compartment.as_ref()).await?;
    if counts.unknown > 0 {
        app.vault.describe(&subjects[0]).await?;
        return Err(Error::NotFound("compartment of this subject").into());
    }
    if counts.pending + counts.held == 0 {
        return Err(Error::Shredded.into());
    }
    let by = Some(who.caller.id);
    let asked = NewErasure {
        subjects,
        compartment,
        reason: REASON.to_owned(),
        reference: None,
        by,
        not_before: None,
        refuse_now: false,
        deadline: None,
    };
    // Long only if a slot does not answer, beside which the refusal is to be noted while a root is retained.
    let begun = Instant::now();
    let vault = app.vault.clone();
    let asked = within(&app, FINAL_WAIT, async move { vault.shred(asked, None).await }).await?.made;
    let place = app.place();
    let erasure = match app.final_within(asked.id, patience(place.as_ref()).saturating_sub(begun.elapsed())).await {
        // The refusal is durable, and it goes on after the next unlock.
        Err(Error::Locked | Error::LockedMeanwhile) => asked,
        told => told?,
    };
    let done = erasure.state == ErasureState::Final;
    let status = if done { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(answer(status, &ErasureAnswer::of(&erasure, true)))
}
