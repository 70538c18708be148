//! Whole numbers and decimals within limits.

use zeroize::Zeroizing;

use super::decimal::Decimal;
use super::json;
use super::kind::{DecimalRange, Expected};

/// The normal form is the number in plain digits.
pub(super) fn integer(raw: &str, min: i64, max: i64) -> Result<Zeroizing<String>, Expected> {
    let digits = raw.strip_prefix('-').unwrap_or(raw);
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !(digits.len() > 1 && digits.starts_with('0'));
    let number = plain.then(|| raw.parse().ok()).flatten().filter(|number| (min..=max).contains(number));
    number
        .map(|number: i64| Zeroizing::new(number.to_string()))
        .ok_or_else(|| format!("a whole number from {min} to {max}, without point, exponent or quotes").into())
}

/// A JSON number or its text; the normal form is text in plain digits, which no reader rounds.
pub(super) fn decimal(raw: &str, range: &DecimalRange) -> Result<Zeroizing<String>, Expected> {
    let number =
        if raw.starts_with('"') { json::text(raw).and_then(|text| Decimal::parse(&text)) } else { Decimal::parse(raw) };
    let above = |number: &Decimal| range.min.as_ref().is_none_or(|min| number >= min);
    let below = |number: &Decimal| range.max.as_ref().is_none_or(|max| number <= max);
    let number = number.filter(|number| above(number) && below(number));
    number.map(|number| json::quote(&number.to_text())).ok_or_else(|| expected(range))
}

fn expected(range: &DecimalRange) -> Expected {
    let limit = |word: &str, bound: &Option<Decimal>| match bound {
        Some(bound) => format!(" {word} {}", bound.to_text().as_str()),
        None => String::new(),
    };
    let (min, max) = (limit("from", &range.min), limit("to", &range.max));
    format!("a number{min}{max}, or its text, of at most 40 digits on either side of the point").into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn integers() {
        for (raw, normal) in [
            ("0", "0"),
            ("-0", "0"),
            ("42", "42"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("9223372036854775807", "9223372036854775807"),
        ] {
            assert_eq!(*integer(raw, i64::MIN, i64::MAX).unwrap(), normal);
        }
        let long = "9".repeat(32 * 1024);
        for bad in [
            "9223372036854775808",
            "-9223372036854775809",
            &long,
            "1.0",
            "1e3",
            "01",
            "-01",
            "+1",
            "--1",
            "-",
            "",
            "\"1\"",
            "null",
            "true",
            "[1]",
            "{}",
            "NaN",
            "٣",
            "１",
            "0x10",
            "1 ",
            "1_000",
        ] {
            assert!(integer(bad, i64::MIN, i64::MAX).is_err(), "{bad}");
        }
        assert!(integer("120", 0, 120).is_ok());
        for bad in ["121", "-1"] {
            let told = integer(bad, 0, 120).unwrap_err();
            assert!(told.contains("from 0 to 120"), "{told}");
        }
    }

    #[test]
    fn decimals_are_exact() {
        let any = DecimalRange::default();
        for (raw, normal) in [
            ("12.50", "\"12.5\""),
            ("\"12.50\"", "\"12.5\""),
            ("1.25e1", "\"12.5\""),
            ("-0.0", "\"0\""),
            ("0.1000000000000000055", "\"0.1000000000000000055\""),
            ("123456789012345678901234567890.5", "\"123456789012345678901234567890.5\""),
        ] {
            assert_eq!(*decimal(raw, &any).unwrap(), normal);
        }
        let long = format!("0.{}", "9".repeat(32 * 1024));
        for bad in [
            "1e400",
            "1e-400",
            &long,
            "\"\"",
            "\" 1\"",
            "\"1,5\"",
            "\"٣\"",
            "\"1\\u0000\"",
            "null",
            "[]",
            "{}",
            "",
            "\"1",
            "true",
            "Infinity",
            "\"NaN\"",
        ] {
            assert!(decimal(bad, &any).is_err(), "{bad}");
        }
        let range = DecimalRange { min: Decimal::parse("-0.5"), max: Decimal::parse("100") };
        for good in ["-0.5", "-0.50", "1e2", "100.00"] {
            assert!(decimal(good, &range).is_ok(), "{good}");
        }
        for bad in ["-0.51", "100.0000000000000000000001"] {
            let told = decimal(bad, &range).unwrap_err();
            assert!(told.contains("from -0.5 to 100"), "{told}");
        }
    }
}
