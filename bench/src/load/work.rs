//! What a connection asks over and over, about subjects that are the same in every run.

use std::fmt::Write;

use vault_bench::seeded::Seeded;
use vault_bench::wide;

use super::client::Request;

/// Fields of a subject.
pub(super) const FIELDS: u64 = 6;

/// One kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// The nearly empty route.
    Health,
    /// New subjects with 6 fields, 2 of them for lookups.
    Enrol {
        /// Subjects in a request.
        batch: u64,
    },
    /// Another value for one field.
    Update,
    /// One field in full; in a batch all 6 of each subject.
    Read {
        /// Subjects in a request.
        batch: u64,
    },
    /// Some of the ten fields of a subject, in full.
    ReadWide {
        /// How many of them: 1 or 10.
        fields: usize,
    },
    /// The subjects of a phone number.
    Lookup,
    /// Shreds, each waited for until it is final.
    Shred {
        /// Subjects in an erasure.
        batch: u64,
    },
}

impl Work {
    /// What it is called in the report.
    pub(super) fn name(self) -> &'static str {
        match self {
            Work::Health => "GET /healthz",
            Work::Enrol { batch: 1 } => "new subjects, one a request",
            Work::Enrol { .. } => "new subjects, 100 a request",
            Work::Update => "single-field updates",
            Work::Read { batch: 1 } => "reads of one field",
            Work::Read { .. } => "reads of 6 fields, 100 subjects a request",
            Work::ReadWide { fields: 1 } => "reads of 1 of 10 fields",
            Work::ReadWide { .. } => "reads of 10 of 10 fields",
            Work::Lookup => "lookups by phone",
            Work::Shred { batch: 1 } => "shreds until final, one a request",
            Work::Shred { .. } => "shreds until final, 100 a request",
        }
    }

    /// What its rate counts, and how many of them are in a request.
    pub(super) fn unit(self) -> (&'static str, u64) {
        match self {
            Work::Health | Work::ReadWide { .. } | Work::Lookup => ("requests", 1),
            Work::Update | Work::Read { batch: 1 } => ("fields", 1),
            Work::Read { batch } => ("fields", FIELDS * batch),
            Work::Enrol { batch } | Work::Shred { batch } => ("subjects", batch),
        }
    }

    /// The request about the subjects from `first` on, and the status that is its success.
    pub(super) fn request(self, first: u64) -> (Request, u16) {
        let subject = |rest: &str| format!("/v1/subjects/{}{rest}", id(first));
        let (method, path, body, status) = match self {
            Work::Health => ("GET", "/healthz".to_owned(), String::new(), 200),
            Work::Enrol { batch: 1 } => ("PATCH", subject("/fields"), format!("{{{}}}", fields(first)), 201),
            Work::Enrol { batch } => {
                let items = list(first, batch, |n| format!(r#"{{"subject":"{}",{}}}"#, id(n), fields(n)));
                ("POST", "/v1/batch/write".to_owned(), format!(r#"{{"items":[{items}]}}"#), 200)
            }
            Work::Update => ("PATCH", subject("/fields"), r#"{"fields":{"nickname":"Nightingale"}}"#.to_owned(), 200),
            Work::Read { batch: 1 } => ("GET", subject("/fields/home_address?view=full"), String::new(), 200),
            Work::Read { batch } => {
                let items = list(first, batch, |n| format!(r#"{{"subject":"{}","view":"full"}}"#, id(n)));
                ("POST", "/v1/batch/read".to_owned(), format!(r#"{{"items":[{items}]}}"#), 200)
            }
            Work::ReadWide { fields } => {
                let names: Vec<_> = wide::FIELDS.iter().take(fields).map(|(name, _)| *name).collect();
                let path = format!("/v1/subjects/{}/fields?view=full&names={}", wide_id(first), names.join(","));
                ("GET", path, String::new(), 200)
            }
            Work::Lookup => {
                ("POST", "/v1/lookups".to_owned(), format!(r#"{{"field":"phone","value":"{}"}}"#, phone(first)), 200)
            }
            Work::Shred { batch: 1 } => ("DELETE", subject(""), String::new(), 200),
            Work::Shred { batch } => {
                let subjects = list(first, batch, |n| format!(r#""{}""#, id(n)));
                let body = format!(r#"{{"subjects":[{subjects}],"reason":"measuring"}}"#);
                ("POST", "/v1/erasures".to_owned(), body, 201)
            }
        };
        (Request { method, path, body }, status)
    }

    /// Whether the answer's body says that all of the request was done.
    pub(super) fn succeeded(self, body: &[u8]) -> bool {
        let holds = |text: &str| body.windows(text.len()).any(|window| window == text.as_bytes());
        match self {
            Work::Enrol { batch: 2.. } | Work::Read { batch: 2.. } => !holds(r#""problem""#),
            Work::Lookup => holds(r#"{"subjects":["person-"#),
            _ => true,
        }
    }
}

/// Subjects with ten fields.
pub(super) const WIDE_SUBJECTS: u64 = 100;

fn wide_id(number: u64) -> String {
    format!("wide-{}", number % WIDE_SUBJECTS)
}

/// Enrols a subject with ten fields.
pub(super) fn widen(number: u64) -> Request {
    let fields: Vec<_> = wide::FIELDS.iter().map(|(name, value)| format!(r#""{name}":{value}"#)).collect();
    let body = format!(r#"{{"fields":{{{}}}}}"#, fields.join(","));
    Request { method: "PATCH", path: format!("/v1/subjects/{}/fields", wide_id(number)), body }
}

fn list(first: u64, count: u64, item: impl Fn(u64) -> String) -> String {
    (first..first + count).map(item).collect::<Vec<_>>().join(",")
}

fn id(number: u64) -> String {
    format!("person-{number:08}")
}

fn phone(number: u64) -> String {
    format!("+97150{:07}", number % 10_000_000)
}

/// `"fields": {…}` of a new subject: lengths as in real registrations.
fn fields(number: u64) -> String {
    let mut seeded = Seeded::new(number);
    let mut word = |len: u64| (0..len).map(|_| char::from(b'a' + seeded.below(26) as u8)).collect::<String>();
    let (given, family, street, town) = (word(6), word(9), word(14), word(8));
    let mut text = String::with_capacity(400);
    let phone = phone(number);
    write!(
        text,
        r#""fields":{{"nickname":"{given}","name":"{given} {family}","phone":"{phone}","#,
    )
    .and_then(|()| {
        write!(
            text,
            r#""email":"{given}.{family}{number}@example.org","home_address":"Flat {number}, 17 {street} Street, {town}","birth_date":"1984-05-17"}}"#
        )
    })
    .expect("a string takes all that is written to it");
    text
}
