//! What a connection asks over and over: one kind of request each.

use vault_bench::wide;
use vault_core::schema::View;

use crate::customers::{self, FIELDS, fields, id, wide_id};
use crate::http::Request;

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// New subjects with 6 fields, 2 of them for lookups.
    New {
        /// Subjects in a request.
        batch: u64,
    },
    /// Another value for one field.
    Update,
    /// One field of 6, or ten of ten.
    Read {
        /// How many: 1 or 10.
        fields: u64,
        /// In full or masked.
        view: View,
    },
    /// All 6 fields of many subjects, in full.
    ReadBatch {
        /// Subjects in a request.
        batch: u64,
    },
    /// The subjects of a phone number.
    Lookup,
    /// The value that a token stands for.
    Resolve,
    /// Shreds, each waited for until it is final.
    Shred {
        /// Subjects in an erasure.
        batch: u64,
    },
    /// Of 100 requests 80 reads of a field, 15 updates, 4 lookups and a shred.
    Mixed,
}

impl Work {
    /// What it is called in the report.
    pub(crate) fn name(self) -> String {
        let view = |view: View| if view == View::Full { "in full" } else { "masked" };
        match self {
            Work::New { batch: 1 } => "new subjects".to_owned(),
            Work::New { batch } => format!("new subjects, {batch} a request"),
            Work::Update => "updates of a field".to_owned(),
            Work::Read { fields: 1, view: shown } => format!("reads of a field, {}", view(shown)),
            Work::Read { fields, view: shown } => format!("reads of {fields} fields, {}", view(shown)),
            Work::ReadBatch { batch } => format!("reads of 6 fields, {batch} subjects a request"),
            Work::Lookup => "lookups by phone".to_owned(),
            Work::Resolve => "tokens resolved".to_owned(),
            Work::Shred { batch: 1 } => "shreds until final".to_owned(),
            Work::Shred { batch } => format!("shreds until final, {batch} a request"),
            Work::Mixed => "80 reads, 15 updates, 4 lookups, 1 shred".to_owned(),
        }
    }

    /// What its rate counts, and how many of them are in a request.
    pub(crate) fn unit(self) -> (&'static str, u64) {
        match self {
            Work::Read { .. } | Work::Lookup | Work::Resolve | Work::Mixed => ("requests", 1),
            Work::Update => ("fields", 1),
            Work::ReadBatch { batch } => ("fields", FIELDS * batch),
            Work::New { batch } | Work::Shred { batch } => ("subjects", batch),
        }
    }

    /// The request about the subjects from `first` on, and the status that is its success.
    ///
    /// # Panics
    /// For work that is not one request by itself: whoever mixes or holds tokens makes those.
    pub(crate) fn request(self, first: u64) -> (Request, u16) {
        let subject = |rest: &str| format!("/v1/subjects/{}{rest}", id(first));
        match self {
            Work::New { batch: 1 } => (patch(subject("/fields"), format!("{{{}}}", fields(first))), 201),
            Work::New { batch } => {
                let items = list(first, batch, |n| format!(r#"{{"subject":"{}",{}}}"#, id(n), fields(n)));
                (Request::post("/v1/batch/write", format!(r#"{{"items":[{items}]}}"#)), 200)
            }
            Work::Update => (patch(subject("/fields"), r#"{"fields":{"nickname":"Nightingale"}}"#.to_owned()), 200),
            Work::Read { fields: 1, view } => {
                (Request::get(subject(&format!("/fields/home_address?view={}", view_word(view)))), 200)
            }
            Work::Read { view, .. } => {
                let names: Vec<_> = wide::FIELDS.iter().map(|(name, _)| *name).collect();
                let (id, view, names) = (wide_id(first), view_word(view), names.join(","));
                (Request::get(format!("/v1/subjects/{id}/fields?view={view}&names={names}")), 200)
            }
            Work::ReadBatch { batch } => {
                let items = list(first, batch, |n| format!(r#"{{"subject":"{}","view":"full"}}"#, id(n)));
                (Request::post("/v1/batch/read", format!(r#"{{"items":[{items}]}}"#)), 200)
            }
            Work::Lookup => {
                let phone = customers::phone(first);
                let body = format!(r#"{{"field":"phone","value":"{phone}","region":"AE"}}"#);
                (Request::post("/v1/lookups", body), 200)
            }
            Work::Shred { batch: 1 } => (Request::new("DELETE", subject(""), ""), 200),
            Work::Shred { batch } => {
                let subjects = list(first, batch, |n| format!(r#""{}""#, id(n)));
                (Request::post("/v1/erasures", format!(r#"{{"subjects":[{subjects}],"reason":"measuring"}}"#)), 201)
            }
            Work::Resolve | Work::Mixed => unreachable!("these requests are made by the population"),
        }
    }

    /// Whether the answer's body says that all of the request was done.
    pub(crate) fn succeeded(self, body: &[u8]) -> bool {
        let holds = |text: &str| body.windows(text.len()).any(|window| window == text.as_bytes());
        match self {
            Work::New { batch: 2.. } | Work::ReadBatch { .. } => !holds(r#""problem""#),
            Work::Lookup => holds(r#"{"subjects":["cust-"#),
            _ => true,
        }
    }
}

fn patch(path: String, body: String) -> Request {
    Request::new("PATCH", path, body)
}

fn view_word(view: View) -> &'static str {
    if view == View::Full { "full" } else { "masked" }
}

fn list(first: u64, count: u64, item: impl Fn(u64) -> String) -> String {
    (first..first + count).map(item).collect::<Vec<_>>().join(",")
}
