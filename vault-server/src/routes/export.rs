//! Everything that is held of a subject, as one document that explains itself.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use utoipa::ToSchema;
use vault_core::time::Timestamp;
use vault_core::vault::{Export, ExportedField, NewestAccesses};

use super::accesses::AccessAnswer;
use super::metadata::MetadataAnswer;
use super::notes::{ConsentAnswer, RestrictionAnswer};
use super::shapes::{Shown, Value};
use super::subjects::state;
use crate::app::App;
use crate::body::{OfSubject, answer};
use crate::problem::Problem;

const FORMAT: &str = "udv-export-1";

/// Everything that is held of a subject.
#[derive(Serialize, ToSchema)]
#[schema(as = Export)]
pub(crate) struct ExportAnswer<'a> {
    /// `udv-export-1`.
    format: &'static str,
    subject: &'a str,
    #[schema(value_type = String)]
    exported_at: Shown<Timestamp>,
    /// `active`, `restricted` or `held`.
    state: &'static str,
    #[schema(value_type = String)]
    enrolled_at: Shown<Timestamp>,
    fields: Vec<FieldAnswer<'a>>,
    /// In force and over, oldest first.
    consents: Vec<ConsentAnswer<'a>>,
    /// Null while its processing is not restricted.
    restriction: Option<RestrictionAnswer<'a>>,
    /// What keeps it from being shredded, without the reason, which is the holder's.
    holds: Vec<ExportedHold<'a>>,
    accesses: ExportedAccesses<'a>,
}

#[derive(Serialize, ToSchema)]
struct ExportedHold<'a> {
    name: &'a str,
    #[schema(value_type = String)]
    since: Shown<Timestamp>,
}

/// A value with all that is known of it.
#[derive(Serialize, ToSchema)]
#[schema(as = ExportedField)]
struct FieldAnswer<'a> {
    name: &'a str,
    r#type: &'static str,
    compartment: &'a str,
    /// As it was given; left out if its time is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    value: Option<Value<'a>>,
    /// In normal form.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = serde_json::Value, required = false)]
    normal: Option<Value<'a>>,
    /// Its time is over: it is not read any more and will be forgotten.
    expired: bool,
    version: u32,
    #[schema(value_type = String)]
    updated_at: Shown<Timestamp>,
    /// `personal` or `sensitive`.
    sensitivity: &'static str,
    metadata: MetadataAnswer<'a>,
    /// What the schema lets it be used for.
    purposes: Vec<UseAnswer<'a>>,
    /// For how many seconds after its writing it is kept; left out, as long as the subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    retention_seconds: Option<u64>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = ExportedUse)]
struct UseAnswer<'a> {
    purpose: &'a str,
    /// The most that it sees.
    #[schema(value_type = String)]
    view: Shown<vault_core::schema::View>,
    /// Why it may (GDPR 6).
    basis: &'static str,
}

#[derive(Serialize, ToSchema)]
struct ExportedAccesses<'a> {
    /// The newest last; at most 1,000.
    data: Vec<AccessAnswer<'a>>,
    /// How many more there are, older than these; `GET /v1/subjects/{id}/accesses` has them all.
    left_off: u64,
}

impl<'a> ExportAnswer<'a> {
    fn of(subject: &'a str, export: &'a Export, accesses: &'a NewestAccesses) -> Self {
        let data = accesses.accesses.iter().map(AccessAnswer::of).collect();
        let holds = export.holds.iter();
        Self {
            format: FORMAT,
            subject,
            exported_at: Shown(export.exported_at),
            state: state(export.standing),
            enrolled_at: Shown(export.enrolled_at),
            fields: export.fields.iter().map(FieldAnswer::of).collect(),
            consents: export.consents.iter().map(ConsentAnswer::of).collect(),
            restriction: export.restriction.as_ref().map(RestrictionAnswer::of),
            holds: holds.map(|hold| ExportedHold { name: hold.name.as_str(), since: Shown(hold.since) }).collect(),
            accesses: ExportedAccesses { data, left_off: accesses.left_off },
        }
    }
}

impl<'a> FieldAnswer<'a> {
    fn of(field: &'a ExportedField) -> Self {
        let used = |used: &'a vault_core::vault::Use| UseAnswer {
            purpose: used.purpose.as_str(),
            view: Shown(used.view),
            basis: used.basis.as_str(),
        };
        Self {
            name: field.stamp.name.as_str(),
            r#type: field.spec.kind.name().as_str(),
            compartment: field.spec.compartment.as_str(),
            value: field.value.as_ref().map(|value| Value(value.given())),
            normal: field.value.as_ref().map(|value| Value(value.normal())),
            expired: field.value.is_none(),
            version: field.stamp.version,
            updated_at: Shown(field.stamp.updated_at),
            sensitivity: field.spec.sensitivity.as_str(),
            metadata: MetadataAnswer::of(&field.metadata),
            purposes: field.uses.iter().map(used).collect(),
            retention_seconds: field.spec.retention,
        }
    }
}

/// Everything that is held of a subject: values, what is known of them, what they may be used for. For the subject
/// itself, so a restriction of processing does not stop it.
#[utoipa::path(
    get, path = "/v1/subjects/{id}/export", tag = "subjects", params(("id" = String, Path)),
    responses((status = 200, body = ExportAnswer))
)]
pub(crate) async fn export(State(app): State<App>, OfSubject(id): OfSubject) -> Result<Response, Problem> {
    let export = app.vault.export(&id).await?;
    let accesses = app.vault.newest_accesses(&id).await?;
    Ok(answer(StatusCode::OK, &ExportAnswer::of(id.as_str(), &export, &accesses)))
}
