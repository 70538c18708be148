//! `Idempotency-Key`: a request that makes something is done once, however often it is sent.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use vault_core::ids::IdempotencyKey;
use vault_core::vault::Idempotency;

use crate::auth::Who;
use crate::body::JsonBody;
use crate::problem::Problem;

const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// What the header does, for the document.
pub(crate) const TOLD: &str = "Sent again with the same key and body within 24 hours, the request is not done again: \
    the answer has what it made, as it is now. The same key with another body is refused (422, \
    `idempotency_mismatch`). 1 to 128 visible ASCII characters, best a random UUID; each caller has keys of its own.";
/// The same where the answer can not be given again.
pub(crate) const TOLD_OF_API_TOKENS: &str = "Sent again with the same key and body within 24 hours, the request is not \
    done again but refused (409), for the API token is shown once. The same key with another body is refused (422, \
    `idempotency_mismatch`). 1 to 128 visible ASCII characters, best a random UUID; each caller has keys of its own.";
/// What it does where nothing is changed.
pub(crate) const NO_EFFECT_ON_READS: &str = "Accepted and without effect: the request changes nothing.";
/// What it does where a repetition makes another one.
pub(crate) const NO_EFFECT_ON_TOKENS: &str =
    "Accepted and without effect: a value token is shown once, so that the same request makes another one.";
/// What it does where repeating does no harm.
pub(crate) const NO_EFFECT_ON_WRITES: &str =
    "Accepted and without effect: the same fields written again are the same, in a new version.";

/// The key that a request brings, if it brings one.
pub(crate) struct Once(Option<IdempotencyKey>);

impl Once {
    /// The request as the vault knows it again. `status`: what it is answered with.
    pub(crate) fn request<'a>(
        self,
        who: &Who,
        path: &'static str,
        body: &'a JsonBody,
        status: StatusCode,
    ) -> Option<Idempotency<'a>> {
        let (caller, body, status) = (who.caller.id, body.bytes(), status.as_u16());
        self.0.map(|key| Idempotency { caller, key, path, body, status })
    }
}

impl<S: Sync> FromRequestParts<S> for Once {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parse(&parts.headers).map(Self)
    }
}

fn parse(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, Problem> {
    let mut named = headers.get_all(KEY).iter();
    let Some(key) = named.next() else { return Ok(None) };
    if named.next().is_some() {
        return Err(Problem::malformed("the request has several idempotency keys: send one"));
    }
    // What is not ASCII is refused like any other character that a key does not take.
    let key = IdempotencyKey::parse(key.to_str().unwrap_or_default());
    key.map(Some).map_err(|error| Problem::malformed(error.to_string()))
}

/// Marks the answer to a request that had been done before, with the status that it had then.
pub(crate) fn mark(mut response: Response, repeated: Option<u16>) -> Response {
    if let Some(status) = repeated {
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or(response.status());
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_key_at_most_and_a_fit_one() {
        let parsed = |keys: &[&[u8]]| {
            let named = keys.iter().map(|key| (KEY, HeaderValue::from_bytes(key).unwrap()));
            parse(&named.collect::<HeaderMap>())
        };
        assert_eq!(parsed(&[]).unwrap(), None);
        assert_eq!(parsed(&[b"k-1"]).unwrap().unwrap().as_str(), "k-1");
        for bad in [&[&b""[..]][..], &[b"a b"], &[&[b'x'; 129]], &["\u{e9}".as_bytes()]] {
            assert!(parsed(bad).unwrap_err().detail.contains("visible ASCII"));
        }
        let mut twice = HeaderMap::new();
        twice.append(KEY, HeaderValue::from_static("a"));
        twice.append(KEY, HeaderValue::from_static("b"));
        assert!(parse(&twice).unwrap_err().detail.contains("several"));
    }
}
