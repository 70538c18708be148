//! What a caller is told when something is refused: the only place where an error becomes a status and a sentence.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::ser::SerializeMap;
use vault_core::Error;
use vault_core::audit::LogError;
use vault_core::backup::BackupError;
use vault_core::policy::Rule;
use vault_core::root::SlotError;
use vault_core::schema::SchemaError;

/// The kinds of problem; each has one status, one code and one title.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Malformed,
    Unauthenticated,
    Forbidden,
    WrongUnlockKey,
    UnknownSubject,
    UnknownFieldValue,
    NotFound,
    MethodNotAllowed,
    Timeout,
    Conflict,
    Held,
    SecondPerson,
    SchemaChange,
    Shredded,
    PreconditionFailed,
    TooLarge,
    UnsupportedMediaType,
    InvalidSchema,
    InvalidValue,
    UndeclaredField,
    IdempotencyMismatch,
    Locked,
    RateLimited,
    Internal,
    Damaged,
    Overloaded,
    SlotUnavailable,
    AuditUnavailable,
    EngineFailed,
    DiskFull,
}

impl Kind {
    #[cfg(test)]
    pub(crate) const ALL: &'static [Self] = &[
        Self::Malformed,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::WrongUnlockKey,
        Self::UnknownSubject,
        Self::UnknownFieldValue,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::Timeout,
        Self::Conflict,
        Self::Held,
        Self::SecondPerson,
        Self::Shredded,
        Self::PreconditionFailed,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::InvalidSchema,
        Self::SchemaChange,
        Self::InvalidValue,
        Self::UndeclaredField,
        Self::IdempotencyMismatch,
        Self::Locked,
        Self::RateLimited,
        Self::Internal,
        Self::Damaged,
        Self::Overloaded,
        Self::SlotUnavailable,
        Self::AuditUnavailable,
        Self::EngineFailed,
        Self::DiskFull,
    ];

    /// Status, code and title.
    fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::Malformed => (400, "malformed", "The request is malformed"),
            Self::Unauthenticated => (401, "unauthenticated", "Not authenticated"),
            Self::Forbidden => (403, "forbidden", "Refused by policy"),
            Self::WrongUnlockKey => (403, "wrong_unlock_key", "The unlock key is wrong"),
            Self::UnknownSubject => (404, "unknown_subject", "No such subject"),
            Self::UnknownFieldValue => (404, "unknown_field_value", "The subject holds no such field"),
            Self::NotFound => (404, "not_found", "Not found"),
            Self::MethodNotAllowed => (405, "method_not_allowed", "This path does not take this method"),
            Self::Timeout => (408, "timeout", "The request took too long to arrive"),
            Self::Conflict => (409, "conflict", "The state of things does not allow it"),
            Self::Held => (409, "held", "The subject is under a legal hold"),
            Self::SecondPerson => (403, "second_person", "A second person has to agree"),
            Self::Shredded => (410, "shredded", "The subject was shredded"),
            Self::PreconditionFailed => (412, "precondition_failed", "The field has changed"),
            Self::TooLarge => (413, "too_large", "Too large"),
            Self::UnsupportedMediaType => (415, "unsupported_media_type", "The body is not JSON"),
            Self::SchemaChange => (409, "schema_change", "The schema does not fit what is stored"),
            Self::InvalidSchema => (422, "invalid_schema", "The document is no schema"),
            Self::InvalidValue => (422, "invalid_value", "A value is not what its field takes"),
            Self::UndeclaredField => (422, "undeclared_field", "The schema declares no such field"),
            Self::IdempotencyMismatch => {
                (422, "idempotency_mismatch", "The idempotency key belongs to another request")
            }
            Self::Locked => (423, "locked", "The vault is locked"),
            Self::RateLimited => (429, "rate_limited", "Too many requests"),
            Self::Internal => (500, "internal", "The server failed"),
            Self::Damaged => (500, "damaged", "Stored data is damaged"),
            Self::Overloaded => (503, "overloaded", "The server is busy"),
            Self::SlotUnavailable => (503, "slot_unavailable", "A root slot does not answer"),
            Self::AuditUnavailable => (503, "audit_unavailable", "The audit log takes no entries"),
            Self::EngineFailed => (503, "engine_failed", "The storage engine failed"),
            Self::DiskFull => (507, "disk_full", "The disk is full"),
        }
    }
}

/// Left on an answer for the log and the metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RefusedBy(pub(crate) Rule);

/// A problem document (RFC 9457). No text in it holds a value or a subject id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: Kind,
    pub(crate) detail: Cow<'static, str>,
    pub(crate) field: Option<Cow<'static, str>>,
    pub(crate) rule: Option<Rule>,
    /// Seconds after which a retry makes sense.
    pub(crate) retry_after: Option<u64>,
}

impl Problem {
    /// A problem with a sentence that says what to do next.
    pub(crate) fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, detail: detail.into(), field: None, rule: None, retry_after: None }
    }

    /// The body, the path or the query is not what the request takes.
    pub(crate) fn malformed(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Malformed, detail)
    }

    /// A parameter has a value it does not take; `expected` follows the word "expected".
    pub(crate) fn invalid(field: &'static str, expected: &str) -> Self {
        Self { field: Some(field.into()), ..Self::new(Kind::InvalidValue, format!("`{field}`: expected {expected}")) }
    }

    /// The policy says no.
    pub(crate) fn refused(rule: Rule, detail: &'static str) -> Self {
        Self { rule: Some(rule), ..Self::new(Kind::Forbidden, detail) }
    }

    /// Retry after some seconds.
    pub(crate) fn retry(kind: Kind, seconds: u64, detail: &'static str) -> Self {
        Self { retry_after: Some(seconds), ..Self::new(kind, detail) }
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.kind.row().0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn with_field(kind: Kind, field: &vault_core::ids::FieldName, detail: String) -> Self {
        Self { field: Some(field.as_str().to_owned().into()), ..Self::new(kind, detail) }
    }
}

impl Serialize for Problem {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (status, code, title) = self.kind.row();
        let mut map = to.serialize_map(None)?;
        map.serialize_entry("type", &format_args!("urn:udv:problem:{code}"))?;
        map.serialize_entry("title", title)?;
        map.serialize_entry("status", &status)?;
        map.serialize_entry("code", code)?;
        map.serialize_entry("detail", &self.detail)?;
        if let Some(field) = &self.field {
            map.serialize_entry("field", field)?;
        }
        if let Some(rule) = self.rule {
            map.serialize_entry("rule", rule.as_str())?;
        }
        map.end()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (self.status(), body).into_response();
        if let Some(rule) = self.rule {
            response.extensions_mut().insert(RefusedBy(rule));
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == Kind::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let told = error.to_string();
        match error {
            Error::Schema(error) => error.into(),
            Error::Id(_) => Self::malformed(told),
            Error::Invalid { field, expected } => Self::invalid(field, expected),
            Error::UnknownSubject => Self::new(Kind::UnknownSubject, told),
            Error::NoSuchField => Self::new(Kind::UnknownFieldValue, told),
            Error::NotFound(_) => Self::new(Kind::NotFound, told),
            Error::Shredded => Self::new(Kind::Shredded, told),
            Error::Conflict(_) | Error::Exists(_) => Self::new(Kind::Conflict, told),
            Error::IdempotencyMismatch => Self::new(Kind::IdempotencyMismatch, told),
            Error::Refused { rule, field } => Self {
                rule: Some(rule),
                field: field.map(|name| String::from(name).into()),
                ..Self::new(Kind::Forbidden, refusal(rule))
            },
            Error::Document(_) => Self::new(Kind::InvalidSchema, told),
            Error::SchemaChange(_) => Self::new(Kind::SchemaChange, told),
            Error::SecondPerson => Self::new(Kind::SecondPerson, told),
            Error::Held { .. } => Self::new(Kind::Held, told),
            Error::PreconditionFailed => Self::new(Kind::PreconditionFailed, told),
            Error::Locked | Error::LockedMeanwhile => Self::new(Kind::Locked, told),
            Error::Unauthenticated => Self::new(Kind::Unauthenticated, told),
            Error::WrongUnlockKey => Self::new(Kind::WrongUnlockKey, told),
            Error::TooLarge => Self::new(Kind::TooLarge, told),
            Error::DiskFull => Self::new(Kind::DiskFull, told),
            Error::Overloaded => Self::retry(Kind::Overloaded, 1, "too many requests are waiting: retry shortly"),
            Error::Failed => logged(Kind::EngineFailed, told),
            Error::Slot(SlotError::NoSuchMethod { .. }) => Self::new(
                Kind::Conflict,
                "a root slot of this vault is not unlocked in this way: use its key file, its passphrase or its HSM",
            ),
            Error::Slot(_) => logged(Kind::SlotUnavailable, told),
            Error::Log(LogError::None(_)) => Self::new(Kind::NotFound, told),
            Error::Log(LogError::Locked) => Self::new(Kind::Locked, told),
            Error::Log(LogError::MovedAway { .. }) => Self::new(Kind::Conflict, told),
            Error::Log(LogError::Full { .. }) => {
                logged_now_and_then(Kind::DiskFull, &told);
                let told =
                    "the disk of the audit log is full, and nothing is answered before it is logged: free some space";
                Self::new(Kind::DiskFull, told)
            }
            Error::Log(_) => {
                // Its place is the operator's business.
                logged_now_and_then(Kind::AuditUnavailable, &told);
                let told = "nothing is answered before the audit log has it, and that takes no entries now: retry later; \
                            the log of the server says why";
                Self::new(Kind::AuditUnavailable, told)
            }
            Error::Damaged(_) => logged(Kind::Damaged, told),
            Error::OlderThanLog { .. } | Error::OtherLog { .. } => logged(Kind::Conflict, told),
            Error::Backup(BackupError::NoRecipient | BackupError::Recipient(_)) => {
                Self::invalid("recipients", "age recipients (age1…): name them, or configure them under [backup]")
            }
            Error::Backup(_) => logged(Kind::Internal, told),
            Error::Root(_) | Error::Store(_) => logged(Kind::Internal, told),
        }
    }
}

/// What a rule refuses, and what to do about it.
fn refusal(rule: Rule) -> &'static str {
    match rule {
        Rule::TokenExpired => "the API token has expired: ask for a new one",
        Rule::Role => "the role of this API token may not do this: use one whose role may",
        Rule::PurposeUndeclared => "the schema declares no such purpose: correct Udv-Purpose",
        Rule::PurposeNotAllowed => "this API token was not created for that purpose: name one of its own",
        Rule::TokenPurpose => "this value token is bound to another purpose: name that one in Udv-Purpose",
        Rule::Shredded => "the subject was shredded: nothing of it can be read any more",
        Rule::Restricted => {
            "the processing of this subject is restricted: only purposes that the schema exempts go on, \
             until the restriction is lifted"
        }
        Rule::PurposeRequired => {
            "this needs a purpose: name one in Udv-Purpose (a full view always does, and everything where the schema says so)"
        }
        Rule::ConsentMissing => {
            "the subject has not consented to this purpose, or has withdrawn: do not use its data for it"
        }
        Rule::FieldNotForPurpose => "this purpose shows nothing of the field: leave it out, or name another purpose",
        Rule::ValueExpired => "the value has been kept for its time: it is not read any more, and will be forgotten",
        Rule::Objection => "the subject objects to the use of this value for the purpose: leave the field out",
        Rule::ValueNotForPurpose => "the value was given for other purposes: leave the field out, or name one of them",
        Rule::NoAutomatedDecisions => "the value may not serve automated decisions, which this purpose makes",
    }
}

/// The operator needs this too, so that it goes to the log as well.
fn logged(kind: Kind, told: String) -> Problem {
    tracing::error!(code = kind.row().1, "{told}");
    Problem::new(kind, told)
}

/// How often it is told at most that the audit log takes nothing.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// The same for what every request meets while the audit log takes nothing; each has a line of its own besides.
fn logged_now_and_then(kind: Kind, told: &str) {
    static TOLD: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_none_or(|at| at.elapsed() >= TOLD_EVERY) {
        *last = Some(Instant::now());
        drop(last);
        tracing::error!(code = kind.row().1, "{told}");
    }
}

impl From<SchemaError> for Problem {
    fn from(error: SchemaError) -> Self {
        let told = error.to_string();
        match error {
            SchemaError::UnknownField(field) => Self::with_field(Kind::UndeclaredField, &field, told),
            SchemaError::Invalid { field, .. } | SchemaError::NotLookup { field } | SchemaError::Retired { field } => {
                Self::with_field(Kind::InvalidValue, &field, told)
            }
            SchemaError::Stored => logged(Kind::Damaged, told),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use vault_core::ids::{FieldName, HoldName, IdError};

    fn log_error() -> LogError {
        LogError::Unavailable { place: "audit".into(), why: "a test".into() }
    }

    #[test]
    fn every_error_has_its_status_and_code() {
        let phone = || FieldName::parse("phone").unwrap();
        let cases: Vec<(Error, u16, &str)> = vec![
            (SchemaError::UnknownField(phone()).into(), 422, "undeclared_field"),
            (SchemaError::Invalid { field: phone(), expected: "a phone".into() }.into(), 422, "invalid_value"),
            (SchemaError::NotLookup { field: phone() }.into(), 422, "invalid_value"),
            (IdError::Subject.into(), 400, "malformed"),
            (Error::Invalid { field: "limit", expected: "1 to 1000" }, 422, "invalid_value"),
            (Error::UnknownSubject, 404, "unknown_subject"),
            (Error::NoSuchField, 404, "unknown_field_value"),
            (Error::NotFound("erasure"), 404, "not_found"),
            (Error::Shredded, 410, "shredded"),
            (Error::Conflict("busy"), 409, "conflict"),
            (Error::Exists("a vault"), 409, "conflict"),
            (Error::IdempotencyMismatch, 422, "idempotency_mismatch"),
            (Error::Refused { rule: Rule::PurposeRequired, field: None }, 403, "forbidden"),
            (Error::Held { hold: HoldName::parse("lawsuit").unwrap() }, 409, "held"),
            (Error::PreconditionFailed, 412, "precondition_failed"),
            (Error::Locked, 423, "locked"),
            (Error::LockedMeanwhile, 423, "locked"),
            (Error::Unauthenticated, 401, "unauthenticated"),
            (Error::WrongUnlockKey, 403, "wrong_unlock_key"),
            (Error::TooLarge, 413, "too_large"),
            (Error::DiskFull, 507, "disk_full"),
            (Error::Damaged("a page"), 500, "damaged"),
            (Error::Failed, 503, "engine_failed"),
            (Error::Overloaded, 503, "overloaded"),
            (log_error().into(), 503, "audit_unavailable"),
            (LogError::Full { place: "audit".into() }.into(), 507, "disk_full"),
            (LogError::MovedAway { index: 3 }.into(), 409, "conflict"),
        ];
        for (error, status, code) in cases {
            let problem = Problem::from(error);
            let json: serde_json::Value = serde_json::to_value(&problem).unwrap();
            assert_eq!((problem.status().as_u16(), json["code"].as_str().unwrap()), (status, code));
            assert_eq!(json["type"], format!("urn:udv:problem:{code}"));
            assert_eq!(json["status"], status);
            assert!(!json["detail"].as_str().unwrap().is_empty());
        }
    }

    #[test]
    fn names_the_field_and_the_rule() {
        let invalid = SchemaError::Invalid { field: FieldName::parse("phone").unwrap(), expected: "a phone".into() };
        assert_eq!(Problem::from(invalid).field.as_deref(), Some("phone"));
        let refused = Error::Refused { rule: Rule::FieldNotForPurpose, field: FieldName::parse("phone").ok() };
        let refused = Problem::from(refused);
        assert_eq!((refused.rule, refused.field.as_deref()), (Some(Rule::FieldNotForPurpose), Some("phone")));
        let retry = Problem::from(Error::Overloaded).into_response();
        assert_eq!(retry.headers()[header::RETRY_AFTER], "1");
        assert_eq!(retry.headers()[header::CONTENT_TYPE], "application/problem+json");
    }

    #[test]
    fn codes_are_unique_and_statuses_valid() {
        let codes: std::collections::HashSet<_> = Kind::ALL.iter().map(|kind| kind.row().1).collect();
        assert_eq!(codes.len(), Kind::ALL.len());
        assert!(Kind::ALL.iter().all(|&kind| Problem::new(kind, "").status().as_u16() == kind.row().0));
    }
}
