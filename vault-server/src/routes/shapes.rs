//! JSON shapes that several resources share.

use std::borrow::Cow;
use std::fmt::Display;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::{Error as _, SerializeMap};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use vault_core::schema::View;
use vault_core::vault::{Change, Changes, FieldStamp, ReadField};
use zeroize::Zeroizing;

use crate::body;
use crate::problem::Problem;

/// The most fields that one object of fields may name.
const FIELDS_MAX: usize = 256;

/// An object of fields as it was sent: values byte for byte, no name twice.
pub(crate) struct FieldMap<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

#[derive(Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for FieldMap<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = FieldMap<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of fields")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries: Vec<(Cow<'de, str>, &'de RawValue)> = Vec::with_capacity(8);
                while let Some((Name(name), value)) = map.next_entry()? {
                    if entries.len() == FIELDS_MAX || entries.iter().any(|(known, _)| *known == name) {
                        return Err(A::Error::custom("a field twice, or too many"));
                    }
                    entries.push((name, value));
                }
                Ok(FieldMap(entries))
            }
        }

        from.deserialize_map(Entries)
    }
}

impl FieldMap<'_> {
    /// What shall happen to each field; null removes.
    ///
    /// # Errors
    /// A name that is none.
    pub(crate) fn changes(&self) -> Result<Changes, Problem> {
        self.0.iter().map(|(name, value)| Ok((body::field_name(name)?, change(value)))).collect()
    }
}

/// What a value that was sent does to its field.
pub(crate) fn change(value: &RawValue) -> Change {
    match value.get() {
        "null" => Change::Remove,
        json => Change::Set(Zeroizing::new(json.to_owned())),
    }
}

/// Written as its text: an id, a time, a word.
pub(crate) struct Shown<T>(pub(crate) T);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

/// An object of versions and times, by field.
pub(crate) struct Stamps<'a>(pub(crate) &'a [FieldStamp]);

impl Serialize for Stamps<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct One {
            version: u32,
            updated_at: Shown<vault_core::time::Timestamp>,
        }
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for stamp in self.0 {
            let one = One { version: stamp.version, updated_at: Shown(stamp.updated_at) };
            map.serialize_entry(stamp.name.as_str(), &one)?;
        }
        map.end()
    }
}

/// An object of values, by field, each as it is kept.
pub(crate) struct Values<'a>(pub(crate) &'a [ReadField]);

impl Serialize for Values<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(self.0.len()))?;
        for field in self.0 {
            map.serialize_entry(field.stamp.name.as_str(), raw::<S>(&field.value)?)?;
        }
        map.end()
    }
}

/// JSON text as a value, unchanged.
fn raw<S: Serializer>(json: &str) -> Result<&RawValue, S::Error> {
    serde_json::from_str(json).map_err(|_| S::Error::custom("a stored value is not JSON"))
}

/// One value, unchanged.
pub(crate) struct Value<'a>(pub(crate) &'a str);

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        raw::<S>(self.0)?.serialize(to)
    }
}

/// An object of views that the policy lowered, by field.
pub(crate) struct Lowered<'a>(&'a [ReadField]);

impl<'a> Lowered<'a> {
    /// None if no view was lowered.
    pub(crate) fn of(fields: &'a [ReadField]) -> Option<Self> {
        fields.iter().any(|field| field.lowered.is_some()).then_some(Self(fields))
    }
}

impl Serialize for Lowered<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let lowered = self.0.iter().filter_map(|field| Some((field.stamp.name.as_str(), Shown(field.lowered?))));
        to.collect_map(lowered)
    }
}

/// Reads a view's name.
///
/// # Errors
/// A name of none.
pub(crate) fn view(name: Option<&str>) -> Result<View, Problem> {
    let Some(name) = name else { return Ok(View::Masked) };
    name.parse().map_err(|_| Problem::invalid("view", "one of masked, full, last4, none"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn fields(text: &str) -> Result<FieldMap<'_>, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn values_stay_as_they_were_sent() {
        let map = fields(r#"{"name": "J\u00e9",  "location": {"lat": 1.50, "lon":2e1}, "nickname": null}"#).unwrap();
        let changes = map.changes().unwrap();
        let set: Vec<_> = changes
            .iter()
            .map(|(name, change)| match change {
                Change::Set(json) => (name.as_str(), json.as_str()),
                Change::Remove => (name.as_str(), "removed"),
            })
            .collect();
        assert_eq!(
            set,
            [("name", r#""J\u00e9""#), ("location", r#"{"lat": 1.50, "lon":2e1}"#), ("nickname", "removed")]
        );
    }

    #[test]
    fn a_name_twice_is_refused_even_if_escaped() {
        assert!(fields(r#"{"name": 1, "name": 2}"#).is_err());
        assert!(fields(r#"{"name": 1, "n\u0061me": 2}"#).is_err());
        assert!(fields(r#"{"name": 1, "phone": 2}"#).is_ok());
    }

    #[test]
    fn what_is_no_name_is_undeclared_and_not_repeated() {
        let problem = fields(r#"{"Jane Doe": 1}"#).unwrap().changes().err().unwrap();
        assert_eq!(problem.status(), 422);
        assert!(!problem.detail.contains("Jane"));
    }
}
