//! The kinds of fields: each has a check with a normal form, and a mask.

use zeroize::Zeroizing;

use super::{email, json, phone, plain, text};

/// The largest object, in bytes of JSON text.
const OBJECT_MAX: usize = 16 * 1024;
/// How deep an object may nest, itself counted.
const OBJECT_DEPTH: usize = 8;

/// What a field accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FieldKind {
    /// One line of text.
    Text,
    /// A person's name: one line of text.
    Name,
    /// A phone number: E.164 text, or `{"national", "region"}`.
    Phone,
    /// An e-mail address.
    Email,
    /// A postal address: text of any number of lines, or an object.
    Address,
    /// A calendar date, `YYYY-MM-DD`.
    Date,
    /// An IPv4 or IPv6 address.
    Ip,
    /// A JSON object.
    Object,
    /// A position: `{"lat", "lon"}` in degrees.
    Location,
}

impl FieldKind {
    /// Whether there is a view of the last four digits.
    pub fn has_last4(self) -> bool {
        self == Self::Phone
    }

    /// The normal form of a value, both as JSON text; or else what was expected.
    pub(super) fn normalise(self, raw: &str) -> Result<Zeroizing<String>, &'static str> {
        match self {
            Self::Text | Self::Name => text::line(raw),
            Self::Phone => phone::normalise(raw),
            Self::Email => email::normalise(raw),
            Self::Address if json::is_object(raw) => object(raw),
            Self::Address => text::lines(raw),
            Self::Date => plain::date(raw),
            Self::Ip => plain::ip(raw),
            Self::Object => object(raw),
            Self::Location => plain::location(raw),
        }
    }
}

fn object(raw: &str) -> Result<Zeroizing<String>, &'static str> {
    let fits = raw.len() <= OBJECT_MAX;
    fits.then(|| json::object(raw, OBJECT_DEPTH))
        .flatten()
        .ok_or("a JSON object of at most 16 KiB and 8 levels, without repeated keys")
}
