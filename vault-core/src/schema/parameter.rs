//! Parameters that a document spells in more than one way: limits of numbers, and spans of time.

use std::fmt;

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::decimal::Decimal;

/// A limit of a number, exact: a number, or text for what a float cannot hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound(pub(super) Decimal);

impl Serialize for Bound {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let text = self.0.to_text();
        match text.parse::<i64>() {
            Ok(whole) => out.serialize_i64(whole),
            Err(_) => out.serialize_str(&text),
        }
    }
}

impl<'de> Deserialize<'de> for Bound {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        input.deserialize_any(BoundText)
    }
}

struct BoundText;

impl Visitor<'_> for BoundText {
    type Value = Bound;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of at most 40 digits on either side of its point, or its text")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Bound, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Bound, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Bound, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Bound, E> {
        Decimal::parse(text).map(Bound).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// How long a value may be kept, in seconds: `400 days`, `12 hours`, `30 minutes`, `90 seconds`, `2 years` of 365 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention(pub(super) u64);

const DAY: u64 = 24 * 60 * 60;
/// A thousand years: within what any clock can add to.
const RETENTION_MAX: u64 = 1000 * 365 * DAY;
const UNITS: [(&str, u64); 5] =
    [("years", 365 * DAY), ("days", DAY), ("hours", 60 * 60), ("minutes", 60), ("seconds", 1)];

impl Retention {
    /// The time in seconds.
    pub fn seconds(self) -> u64 {
        self.0
    }

    fn parse(text: &str) -> Option<Self> {
        let (count, unit) = text.split_once(' ')?;
        let digits = count.bytes().all(|b| b.is_ascii_digit());
        let count: u64 = digits.then(|| count.parse().ok()).flatten()?;
        let named = |name: &str| unit == name || name.strip_suffix('s') == Some(unit);
        let seconds = UNITS.iter().find(|(name, _)| named(name)).and_then(|(_, unit)| count.checked_mul(*unit))?;
        (1..=RETENTION_MAX).contains(&seconds).then_some(Self(seconds))
    }
}

/// In the largest unit of days, hours, minutes and seconds that tells it exactly.
impl fmt::Display for Retention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, unit) =
            UNITS[1..].iter().find(|(_, unit)| self.0.is_multiple_of(*unit)).expect("a second divides every time");
        write!(f, "{} {name}", self.0 / unit)
    }
}

impl Serialize for Retention {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Retention {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let text = String::deserialize(input)?;
        let way_out = "a time from 1 second to 1000 years, such as `400 days`, `12 hours` or `2 years`";
        Self::parse(&text).ok_or_else(|| de::Error::invalid_value(Unexpected::Str(&text), &way_out))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_are_told_in_their_largest_unit() {
        for (text, seconds, told) in [
            ("400 days", 400 * DAY, "400 days"),
            ("1 day", DAY, "1 days"),
            ("48 hours", 2 * DAY, "2 days"),
            ("90 minutes", 5400, "90 minutes"),
            ("7 seconds", 7, "7 seconds"),
            ("2 years", 730 * DAY, "730 days"),
        ] {
            let time = Retention::parse(text).unwrap();
            assert_eq!((time.seconds(), time.to_string().as_str()), (seconds, told));
            assert_eq!(Retention::parse(told), Some(time));
        }
        for bad in [
            "",
            "400",
            "days",
            "0 days",
            "-1 days",
            "+1 days",
            "1.5 days",
            "400 days ",
            "400  days",
            "1 month",
            "1001 years",
            "99999999999999999999 days",
            "18446744073709551615 days",
            "1 s",
        ] {
            assert_eq!(Retention::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn bounds_are_exact() {
        for (json, told) in [
            ("1", "1"),
            ("-5", "-5"),
            ("0.5", "\"0.5\""),
            ("\"0.10\"", "\"0.1\""),
            ("\"1e3\"", "1000"),
            ("18446744073709551615", "\"18446744073709551615\""),
        ] {
            let bound: Bound = serde_json::from_str(json).unwrap();
            assert_eq!(serde_json::to_string(&bound).unwrap(), told);
            assert_eq!(serde_json::from_str::<Bound>(told).unwrap(), bound);
        }
        for bad in ["\"\"", "\"one\"", "null", "true", "1e300", "\"inf\""] {
            assert!(serde_json::from_str::<Bound>(bad).is_err(), "{bad}");
        }
    }
}
