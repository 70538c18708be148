//! What comes in and goes out: bodies, paths and queries parsed at the edge, answers written once.
//!
//! What is refused here is told by its place (line and column), never by its content.

use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{FromRequest, FromRequestParts, MatchedPath, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use vault_core::ids::{FieldName, HoldName, Purpose, SubjectId};
use zeroize::Zeroizing;

use crate::problem::{Kind, Problem};

/// The largest body, in bytes.
pub(crate) const BODY_MAX: usize = 1024 * 1024;
/// The largest body of a batch or an erasure, in bytes.
pub(crate) const BATCH_BODY_MAX: usize = 8 * 1024 * 1024;
/// How long a body may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(60);
/// How much of a body that is too large is read all the same, in bytes: who is still sending it may not see the answer.
const DISCARD_MAX: usize = 16 * 1024 * 1024;
/// How long that may take.
const DISCARD: Duration = Duration::from_secs(5);

/// A JSON body, whole, and wiped when it is dropped.
pub(crate) struct JsonBody(Zeroizing<Vec<u8>>);

/// A body that one request takes.
pub(crate) trait Shape<'a>: Deserialize<'a> {
    /// What it looks like, for who sent something else.
    const SHAPE: &'static str;
}

impl JsonBody {
    /// Reads the body as what the request takes.
    pub(crate) fn read<'a, T: Shape<'a>>(&'a self) -> Result<T, Problem> {
        // A list would be taken for an object, its items by their places.
        if self.0.trim_ascii_start().starts_with(b"[") {
            return Err(Problem::malformed(format!("the body is a list, and not of the shape {}", T::SHAPE)));
        }
        serde_json::from_slice(&self.0).map_err(|error| malformed(&error, T::SHAPE))
    }

    /// The body as it was sent.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether there is no body at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// serde_json's own message may quote what was sent, so only the place is taken from it.
fn malformed(error: &serde_json::Error, shape: &'static str) -> Problem {
    let (line, column) = (error.line(), error.column());
    Problem::malformed(match error.classify() {
        serde_json::error::Category::Data => {
            format!(
                "line {line}, column {column}: the body is JSON, but not of the shape {shape}, each key at most once"
            )
        }
        _ => format!("line {line}, column {column}: the body is not JSON"),
    })
}

impl<S: Sync> FromRequest<S> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (headers, bytes) = whole(request).await?;
        if !bytes.is_empty() && !is(&headers, "application/json") {
            let told = "send the body with `Content-Type: application/json`";
            return Err(Problem::new(Kind::UnsupportedMediaType, told));
        }
        Ok(Self(bytes))
    }
}

/// A document that people write, as JSON or as TOML.
pub(crate) enum DocumentBody {
    Json(String),
    Toml(String),
}

impl<S: Sync> FromRequest<S> for DocumentBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (headers, mut bytes) = whole(request).await?;
        let text = String::from_utf8(std::mem::take(&mut *bytes));
        let text = text.map_err(|_| Problem::malformed("the document is not UTF-8 text"))?;
        if is(&headers, "application/json") {
            Ok(Self::Json(text))
        } else if is(&headers, "application/toml") {
            Ok(Self::Toml(text))
        } else {
            let told = "send the document with `Content-Type: application/toml` or `application/json`";
            Err(Problem::new(Kind::UnsupportedMediaType, told))
        }
    }
}

/// The whole body of a request, within its limits, and the headers.
async fn whole(request: Request) -> Result<(HeaderMap, Zeroizing<Vec<u8>>), Problem> {
    let (parts, mut body) = request.into_parts();
    let limit = limit(&parts);
    let announced = content_length(&parts.headers);
    if announced.is_some_and(|length| length > limit) {
        return Err(refuse(body, &parts.headers).await);
    }
    let collecting = collect(&mut body, announced.unwrap_or(4096), limit);
    let late = |_| Problem::new(Kind::Timeout, "the body did not arrive within a minute: send it again");
    let Some(bytes) = tokio::time::timeout(ARRIVAL, collecting).await.map_err(late)?? else {
        return Err(refuse(body, &parts.headers).await);
    };
    Ok((parts.headers, bytes))
}

fn limit(parts: &Parts) -> usize {
    match parts.extensions.get::<MatchedPath>().map(MatchedPath::as_str) {
        Some("/v1/batch/write" | "/v1/batch/read" | "/v1/tokens" | "/v1/tokens/resolve" | "/v1/erasures") => {
            BATCH_BODY_MAX
        }
        _ => BODY_MAX,
    }
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn is(headers: &HeaderMap, kind: &str) -> bool {
    let Some(Ok(text)) = headers.get(header::CONTENT_TYPE).map(HeaderValue::to_str) else { return false };
    text.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(kind)
}

fn too_large() -> Problem {
    Problem::new(
        Kind::TooLarge,
        "a body is at most 1 MiB, that of a batch or an erasure at most 8 MiB: send it in parts",
    )
}

/// Refuses a body that is too large, once its sender will see the answer: at once, if it waits to be asked for the body.
async fn refuse(body: Body, headers: &HeaderMap) -> Problem {
    if !headers.contains_key(header::EXPECT) {
        // Whether it is all read or not, the answer is the same.
        let _ = tokio::time::timeout(DISCARD, discard(body)).await;
    }
    too_large()
}

async fn discard(mut body: Body) {
    let mut left = DISCARD_MAX;
    while let Some(Ok(data)) = next(&mut body).await {
        left = left.saturating_sub(data.len());
        if left == 0 {
            return;
        }
    }
}

/// Gathers a body in one buffer of the announced size, for a buffer that grows leaves copies behind; none if it is longer
/// than `limit`.
async fn collect(body: &mut Body, announced: usize, limit: usize) -> Result<Option<Zeroizing<Vec<u8>>>, Problem> {
    let mut whole = Zeroizing::new(Vec::with_capacity(announced));
    while let Some(data) = next(body).await {
        let data = data.map_err(|_| Problem::malformed("the body ended before it was complete"))?;
        if whole.len() + data.len() > limit {
            return Ok(None);
        }
        whole.extend_from_slice(&data);
    }
    Ok(Some(whole))
}

/// The next part of a body; trailers are none of it.
async fn next(body: &mut Body) -> Option<Result<Bytes, axum::Error>> {
    let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
    Some(frame.map(|frame| frame.into_data().unwrap_or_default()))
}

/// The subject that a path names.
pub(crate) struct OfSubject(pub(crate) SubjectId);

/// The subject and the field that a path names.
pub(crate) struct OfField(pub(crate) SubjectId, pub(crate) FieldName);

/// The subject and the purpose that a path names.
pub(crate) struct OfPurpose(pub(crate) SubjectId, pub(crate) Purpose);

/// The subject and the legal hold that a path names.
pub(crate) struct OfHold(pub(crate) SubjectId, pub(crate) HoldName);

impl<S: Send + Sync> FromRequestParts<S> for OfSubject {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(id) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| not_utf8())?;
        Ok(Self(subject(&id)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OfField {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let (id, name) = two(parts, state).await?;
        Ok(Self(subject(&id)?, field_name(&name)?))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OfPurpose {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let (id, name) = two(parts, state).await?;
        let purpose = Purpose::parse(&name).map_err(|_| Problem::invalid("purpose", NAME))?;
        Ok(Self(subject(&id)?, purpose))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for OfHold {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let (id, name) = two(parts, state).await?;
        let hold = HoldName::parse(&name).map_err(|_| Problem::invalid("name", NAME))?;
        Ok(Self(subject(&id)?, hold))
    }
}

const NAME: &str = "a name of a-z, 0-9 and _, at most 64, that starts with a letter";

/// The two parts of a path that change.
async fn two<S: Send + Sync>(parts: &mut Parts, state: &S) -> Result<(String, String), Problem> {
    let path = Path::<(String, String)>::from_request_parts(parts, state).await;
    path.map(|Path(two)| two).map_err(|_| not_utf8())
}

fn not_utf8() -> Problem {
    Problem::malformed("the path is not percent-encoded UTF-8: encode a subject id as such, `/` as %2F")
}

/// A subject id.
pub(crate) fn subject(text: &str) -> Result<SubjectId, Problem> {
    SubjectId::parse(text).map_err(|error| Problem::malformed(error.to_string()))
}

/// A field's name. One that cannot be a name is not repeated, for it may be a value in the wrong place.
pub(crate) fn field_name(text: &str) -> Result<FieldName, Problem> {
    let told = "a field that is not declared: a name is of a-z, 0-9 and _";
    FieldName::parse(text).map_err(|_| Problem::new(Kind::UndeclaredField, told))
}

/// An id of 32 hexadecimal digits in a path; what cannot be one is not there.
pub(crate) struct OfId<T>(pub(crate) T);

macro_rules! of_id {
    ($($id:ident),+) => { $(
        impl<S: Send + Sync> FromRequestParts<S> for OfId<vault_core::ids::$id> {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
                let absent = || Problem::new(Kind::NotFound, "there is nothing of this id");
                let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| absent())?;
                vault_core::ids::$id::parse(&text).map(Self).map_err(|_| absent())
            }
        }
    )+ };
}

of_id!(ErasureId, RotationId, CallerId, BackupId);

/// Parameters of a query string; unknown ones are refused.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let told = "the query string has a parameter that this request does not take, that is not of its type, twice, or not \
                    percent-encoded";
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(params)| Self(params)).map_err(|_| Problem::malformed(told))
    }
}

/// A JSON answer, whose bytes are wiped once they are sent.
pub(crate) fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    let mut bytes = Zeroizing::new(Vec::with_capacity(512));
    if let Err(error) = serde_json::to_writer(&mut *bytes, body) {
        tracing::error!(line = error.line(), "an answer could not be written");
        return Problem::new(Kind::Internal, "the answer could not be written: report this").into_response();
    }
    let json = (header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let private = (header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    (status, [json, private], Body::from(Bytes::from_owner(bytes))).into_response()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::Router;
    use axum::routing::{get, post};
    use std::collections::BTreeMap;
    use tower::ServiceExt;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        #[serde(rename = "fields")]
        _fields: BTreeMap<String, u32>,
    }

    impl Shape<'_> for Sample {
        const SHAPE: &'static str = "{\"fields\": {name: number}}";
    }

    fn read(text: &str) -> Result<Sample, Problem> {
        JsonBody(Zeroizing::new(text.as_bytes().to_vec())).read::<Sample>()
    }

    #[test]
    fn malformed_json_is_told_by_its_place_only() {
        assert!(read("{\"fields\": {\"a\": 1}}").is_ok());
        for (text, place) in [
            ("{\"fields\": \"Jane Doe\"}", "line 1, column 21"),
            ("{\"fields\": {\"a\": Jane}}", "line 1, column 18"),
            ("{\n\"fields\": {},\n\"Jane\": 1}", "line 3, column 6"),
            ("{\"fields\": {}, \"fields\": {}}", "line 1, column 23"),
            ("{\"fields\": {\"Jane", "line 1, column 17"),
            ("{}", "line 1, column 2"),
            ("", "line 1, column 0"),
        ] {
            let problem = read(text).err().unwrap();
            assert_eq!(problem.kind, Kind::Malformed);
            assert!(problem.detail.starts_with(place), "{text}: {}", problem.detail);
            assert!(!problem.detail.contains("Jane"));
        }
    }

    async fn status(path: &str) -> (u16, String) {
        let app =
            Router::new().route("/s/{id}/f", get(|OfSubject(id): OfSubject| async move { id.as_str().to_owned() }));
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let response = app.oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn subject_ids_are_percent_decoded() {
        assert_eq!(status("/s/cust-1/f").await, (200, "cust-1".to_owned()));
        assert_eq!(status("/s/a%2Fb%20c/f").await, (200, "a/b c".to_owned()));
        assert_eq!(status("/s/%E5%90%8D/f").await, (200, "名".to_owned()));
        assert_eq!(status("/s/100%25/f").await, (200, "100%".to_owned()));
        let long = "%E5".to_owned() + "%90%8D" + &"x".repeat(253);
        assert_eq!(status(&format!("/s/{long}/f")).await.0, 200);
        for bad in ["/s/a%0Ab/f", "/s/%7F/f", "/s/%FF/f", &format!("/s/{}/f", "x".repeat(257))] {
            let (status, body) = status(bad).await;
            assert_eq!(status, 400, "{bad}");
            assert!(body.contains("malformed"));
        }
    }

    async fn post_sample(kind: Option<&str>, length: usize) -> u16 {
        let app = Router::new().route("/v1/x", post(|body: JsonBody| async move { body.read::<Sample>().map(|_| "") }));
        let text = "{\"fields\":{}}";
        let text = text.to_owned() + &" ".repeat(length.saturating_sub(text.len()));
        let mut request = Request::builder().method("POST").uri("/v1/x");
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let request = request.body(Body::from(text)).unwrap();
        app.oneshot(request).await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn bodies_are_json_and_bounded() {
        assert_eq!(post_sample(Some("application/json"), 0).await, 200);
        assert_eq!(post_sample(Some("Application/JSON; charset=utf-8"), 0).await, 200);
        assert_eq!(post_sample(Some("text/plain"), 0).await, 415);
        assert_eq!(post_sample(None, 0).await, 415);
        assert_eq!(post_sample(Some("application/json"), BODY_MAX).await, 200);
        assert_eq!(post_sample(Some("application/json"), BODY_MAX + 1).await, 413);
    }
}
