//! The kinds of fields with their parameters: each has a check with a normal form, and a mask.

use std::borrow::Cow;

use zeroize::Zeroizing;

use super::decimal::Decimal;
use super::document::Type;
use super::{bytes, card, email, json, national_id, number, phone, plain, text, url};

pub use super::national_id::Pattern;

/// The largest object, in bytes of JSON text.
const OBJECT_MAX: usize = 16 * 1024;
/// How deep an object may nest, itself counted.
const OBJECT_DEPTH: usize = 8;
/// How deep any JSON may nest.
const JSON_DEPTH: usize = 32;

/// What a field takes, to follow the word "expected".
pub(super) type Expected = Cow<'static, str>;

/// What a field accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FieldKind {
    /// A phone number: E.164 text, or `{"national", "region"}`.
    Phone,
    /// An e-mail address.
    Email,
    /// A person's name: one line of text.
    Name,
    /// A postal address: text of any number of lines, or an object.
    Address,
    /// A calendar date, `YYYY-MM-DD`.
    Date,
    /// An IPv4 or IPv6 address.
    Ip,
    /// A JSON object.
    Object,
    /// A position: `{"lat", "lon"}` in degrees.
    Location {
        /// The decimals of a degree that the mask keeps.
        precision: u8,
    },
    /// A web address of `http` or `https`.
    Url,
    /// A number or code that a state gave.
    NationalId {
        /// What it looks like as a whole.
        pattern: Pattern,
    },
    /// A number of 12 to 19 digits whose last is a check digit (Luhn).
    Card,
    /// A whole number of 64 bits.
    Integer {
        /// The least.
        min: i64,
        /// The greatest.
        max: i64,
    },
    /// A number kept exactly, of at most 40 digits on either side of its point.
    Decimal(DecimalRange),
    /// Text.
    Text {
        /// The longest, in characters of the normal form.
        max_length: usize,
        /// Whether it may have several lines.
        multiline: bool,
    },
    /// One of these words.
    Enum {
        /// The words, spelled exactly so.
        values: Vec<String>,
    },
    /// Any JSON but `null`.
    Json {
        /// The largest, in bytes of JSON text.
        max_bytes: usize,
    },
    /// Bytes as base64.
    Bytes {
        /// The most bytes, decoded.
        max_bytes: usize,
    },
}

/// The limits of a decimal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecimalRange {
    pub(super) min: Option<Decimal>,
    pub(super) max: Option<Decimal>,
}

impl FieldKind {
    /// Whether there is a view of the last four digits.
    pub fn has_last4(&self) -> bool {
        matches!(self, Self::Phone | Self::Card)
    }

    /// How a document names it.
    pub fn name(&self) -> Type {
        match self {
            Self::Phone => Type::Phone,
            Self::Email => Type::Email,
            Self::Name => Type::Name,
            Self::Address => Type::Address,
            Self::Date => Type::Date,
            Self::Ip => Type::Ip,
            Self::Object => Type::Object,
            Self::Location { .. } => Type::Location,
            Self::Url => Type::Url,
            Self::NationalId { .. } => Type::NationalId,
            Self::Card => Type::Card,
            Self::Integer { .. } => Type::Integer,
            Self::Decimal(_) => Type::Decimal,
            Self::Text { .. } => Type::Text,
            Self::Enum { .. } => Type::Enum,
            Self::Json { .. } => Type::Json,
            Self::Bytes { .. } => Type::Bytes,
        }
    }

    /// Whether values that mean the same have the same normal form, and are many enough to find a person by.
    pub(super) fn is_findable(&self) -> bool {
        match self {
            Self::Address | Self::Object | Self::Location { .. } | Self::Enum { .. } => false,
            Self::Json { .. } | Self::Bytes { .. } | Self::Text { multiline: true, .. } => false,
            Self::Phone | Self::Email | Self::Name | Self::Date | Self::Ip | Self::Url => true,
            Self::NationalId { .. } | Self::Card | Self::Integer { .. } | Self::Decimal(_) | Self::Text { .. } => true,
        }
    }

    /// The normal form of a value, both as JSON text; or else what was expected.
    pub(super) fn normalise(&self, raw: &str) -> Result<Zeroizing<String>, Expected> {
        match self {
            Self::Phone => phone::normalise(raw).map_err(Expected::from),
            Self::Email => email::normalise(raw).map_err(Expected::from),
            Self::Name => text::line(raw).map_err(Expected::from),
            Self::Address if json::is_object(raw) => object(raw).map_err(Expected::from),
            Self::Address => text::lines(raw).map_err(|()| Expected::from(text::ADDRESS)),
            Self::Date => plain::date(raw).map_err(Expected::from),
            Self::Ip => plain::ip(raw).map_err(Expected::from),
            Self::Object => object(raw).map_err(Expected::from),
            Self::Location { .. } => plain::location(raw).map_err(Expected::from),
            Self::Url => url::normalise(raw).map_err(Expected::from),
            Self::NationalId { pattern } => national_id::normalise(raw, pattern),
            Self::Card => card::normalise(raw).map_err(Expected::from),
            Self::Integer { min, max } => number::integer(raw, *min, *max),
            Self::Decimal(range) => number::decimal(raw, range),
            Self::Text { max_length, multiline } => text::bounded(raw, *max_length, *multiline),
            Self::Enum { values } => one_of(raw, values),
            Self::Json { max_bytes } => any_json(raw, *max_bytes),
            Self::Bytes { max_bytes } => bytes::normalise(raw, *max_bytes),
        }
    }
}

impl FieldKind {
    /// The normal form of a searched value.
    ///
    /// A search is not held to limits that the schema may have narrowed since the value was stored.
    pub(super) fn normalise_search(&self, raw: &str) -> Result<Zeroizing<String>, Expected> {
        match self {
            Self::NationalId { .. } => national_id::normalise_any(raw),
            Self::Integer { .. } => number::integer(raw, i64::MIN, i64::MAX),
            Self::Decimal(_) => number::decimal(raw, &DecimalRange::default()),
            Self::Text { multiline: false, .. } => text::line(raw).map_err(Expected::from),
            _ => self.normalise(raw),
        }
    }
}

fn object(raw: &str) -> Result<Zeroizing<String>, &'static str> {
    let fits = raw.len() <= OBJECT_MAX && json::is_object(raw);
    fits.then(|| json::sound(raw, OBJECT_DEPTH))
        .flatten()
        .ok_or("a JSON object of at most 16 KiB and 8 levels, without repeated keys")
}

fn any_json(raw: &str, max_bytes: usize) -> Result<Zeroizing<String>, Expected> {
    let fits = raw.len() <= max_bytes && raw != "null";
    fits.then(|| json::sound(raw, JSON_DEPTH)).flatten().ok_or_else(|| {
        format!("JSON other than null of at most {max_bytes} bytes and {JSON_DEPTH} levels, without repeated keys")
            .into()
    })
}

fn one_of(raw: &str, values: &[String]) -> Result<Zeroizing<String>, Expected> {
    let text = json::text(raw).filter(|text| values.iter().any(|value| value == text.as_str()));
    text.map(|text| json::quote(&text)).ok_or_else(|| format!("one of `{}`", values.join("`, `")).into())
}
