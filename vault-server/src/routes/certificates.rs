//! Erasure certificates: of a request, and of subjects in it.

use std::borrow::Cow;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vault_core::ids::{ErasureId, SubjectId};
use vault_core::vault::SubjectCertificate;

use crate::app::App;
use crate::body::{JsonBody, OfId, Shape, answer, subject};
use crate::problem::Problem;

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CertificatesOf<'a> {
    /// At most 1,000.
    #[serde(borrow)]
    #[schema(value_type = Vec<String>)]
    subjects: Vec<Cow<'a, str>>,
}

impl<'a> Shape<'a> for CertificatesOf<'a> {
    const SHAPE: &'static str = r#"{"subjects": [id, …]}"#;
}

#[derive(Serialize, ToSchema)]
pub(crate) struct Certificates<'a> {
    /// Those that there are, in the order of the log.
    data: Vec<OneCertificate<'a>>,
}

#[derive(Serialize, ToSchema)]
struct OneCertificate<'a> {
    subject: &'a str,
    /// Place of its entry in the log.
    index: u64,
    /// The certificate: JSON as a text, to be kept as it is to the byte.
    certificate: String,
}

impl<'a> OneCertificate<'a> {
    fn of(made: &'a SubjectCertificate) -> Self {
        Self { subject: made.subject.as_str(), index: made.index, certificate: text(made.certificate.encode()) }
    }
}

/// The certificate of an erasure as a whole, once it is final; to be kept as it is to the byte.
#[utoipa::path(
    get, path = "/v1/erasures/{id}/certificate", tag = "erasures", params(("id" = String, Path)),
    responses((status = 200, body = serde_json::Value))
)]
pub(crate) async fn of_erasure(State(app): State<App>, OfId(id): OfId<ErasureId>) -> Result<Response, Problem> {
    let certificate = app.vault.certificate(id).await?;
    let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((json, certificate.encode()).into_response())
}

/// The certificates of subjects that an erasure shredded; of others there are none.
#[utoipa::path(
    post, path = "/v1/erasures/{id}/certificates", tag = "erasures", params(("id" = String, Path)),
    request_body = CertificatesOf, responses((status = 200, body = Certificates))
)]
pub(crate) async fn of_subjects(
    State(app): State<App>,
    OfId(id): OfId<ErasureId>,
    body: JsonBody,
) -> Result<Response, Problem> {
    let asked: CertificatesOf<'_> = body.read()?;
    let subjects = asked.subjects.iter().map(|text| subject(text)).collect::<Result<Vec<SubjectId>, _>>()?;
    let made = app.vault.certificates(id, &subjects).await?;
    Ok(answer(StatusCode::OK, &Certificates { data: made.iter().map(OneCertificate::of).collect() }))
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("JSON is UTF-8")
}
