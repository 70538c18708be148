//! Numbers kept exactly, digit by digit: no value passes through a float.

use std::cmp::Ordering;
use std::fmt;

use zeroize::Zeroizing;

/// The most digits on either side of the point.
const DIGITS_MAX: usize = 40;
/// The longest spelling, in bytes.
const SPELLING_MAX: usize = 128;

/// A decimal number; wiped when dropped, and its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Decimal {
    negative: bool,
    /// Without leading zeros; empty for zero.
    whole: Zeroizing<String>,
    /// Without trailing zeros; empty for a whole number.
    fraction: Zeroizing<String>,
}

impl fmt::Debug for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Decimal(..)")
    }
}

impl Decimal {
    /// Reads what JSON calls a number; `None` for anything else, and for more digits than are kept.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() > SPELLING_MAX {
            return None;
        }
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (text, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
            None => (text, 0),
        };
        let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, rest)| (whole, Some(rest)));
        let leading_zero = whole.len() > 1 && whole.starts_with('0');
        if !is_digits(whole) || leading_zero || !fraction.is_none_or(is_digits) {
            return None;
        }
        let digits = Zeroizing::new([whole, fraction.unwrap_or_default()].concat());
        Self::shift(negative, &digits, i32::try_from(whole.len()).ok()? + exponent)
    }

    /// The number whose point stands before digit `point`, which may lie outside the digits.
    fn shift(negative: bool, digits: &str, point: i32) -> Option<Self> {
        let significant = digits.trim_start_matches('0');
        let point = point - i32::try_from(digits.len() - significant.len()).ok()?;
        let significant = significant.trim_end_matches('0');
        if significant.is_empty() {
            return Some(Self { negative: false, whole: Zeroizing::default(), fraction: Zeroizing::default() });
        }
        let before = usize::try_from(point).unwrap_or(0);
        let gap = usize::try_from(-point).unwrap_or(0);
        let behind = before.saturating_sub(significant.len());
        if gap > DIGITS_MAX || behind > DIGITS_MAX {
            return None;
        }
        let (whole, fraction) = significant.split_at_checked(before).unwrap_or((significant, ""));
        let whole = Zeroizing::new([whole, zeros(behind)].concat());
        let fraction = Zeroizing::new([zeros(gap), fraction].concat());
        let fits = whole.len() <= DIGITS_MAX && fraction.len() <= DIGITS_MAX;
        fits.then_some(Self { negative, whole, fraction })
    }

    /// Plain digits, without exponent, leading or trailing zeros.
    pub(super) fn to_text(&self) -> Zeroizing<String> {
        let sign = if self.negative { "-" } else { "" };
        let whole = if self.whole.is_empty() { "0" } else { self.whole.as_str() };
        let point = if self.fraction.is_empty() { "" } else { "." };
        Zeroizing::new([sign, whole, point, self.fraction.as_str()].concat())
    }

    /// Compares two numbers without their signs.
    fn cmp_size(&self, other: &Self) -> Ordering {
        let whole = self.whole.len().cmp(&other.whole.len()).then_with(|| self.whole.as_str().cmp(&other.whole));
        whole.then_with(|| self.fraction.as_str().cmp(&other.fraction))
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, false) => self.cmp_size(other),
            (true, true) => other.cmp_size(self),
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
        }
    }
}

fn zeros(count: usize) -> &'static str {
    const ZEROS: &str = "0000000000000000000000000000000000000000";
    &ZEROS[..count]
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

fn parse_exponent(text: &str) -> Option<i32> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let small = is_digits(digits) && digits.len() <= 4;
    small.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_one_number_are_one_text() {
        for (text, plain) in [
            ("0", "0"),
            ("-0", "0"),
            ("0.00e5", "0"),
            ("12.50", "12.5"),
            ("1e3", "1000"),
            ("1.25E+1", "12.5"),
            ("125e-1", "12.5"),
            ("5e-3", "0.005"),
            ("0.0050", "0.005"),
            ("-10", "-10"),
            ("9007199254740993", "9007199254740993"),
            ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
            ("1e40", ""),
            ("1e39", "1000000000000000000000000000000000000000"),
        ] {
            let number = Decimal::parse(text);
            assert_eq!(number.map(|n| n.to_text().to_string()).unwrap_or_default(), plain, "{text}");
        }
        for bad in [
            "", "-", "+1", ".5", "5.", "01", "1e", "1e+", "1e99999", "1e-41", "0x10", "1,5", "1_000", " 1", "NaN",
            "inf", "1.2.3", "--1", "١", "1e5e5", "9e9999",
        ] {
            assert_eq!(Decimal::parse(bad), None, "{bad}");
        }
        assert!(Decimal::parse(&"1".repeat(129)).is_none());
    }

    #[test]
    fn order_is_that_of_numbers() {
        let sorted = ["-100", "-20.5", "-20.05", "-0.001", "0", "0.001", "0.01", "0.1", "2", "10", "10.01", "100"];
        let numbers: Vec<_> = sorted.iter().map(|text| Decimal::parse(text).unwrap()).collect();
        assert!(numbers.is_sorted());
        assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]));
    }

    proptest! {
        #[test]
        fn plain_text_is_stable_and_agrees_with_floats(text in "-?(0|[1-9][0-9]{0,8})(\\.[0-9]{1,8})?([eE][+-]?[0-9]{1,2})?") {
            if let Some(number) = Decimal::parse(&text) {
                let plain = number.to_text();
                prop_assert!(Decimal::parse(&plain).unwrap() == number);
                prop_assert_eq!(plain.parse::<f64>().unwrap() + 0.0, text.parse::<f64>().unwrap() + 0.0);
            }
        }

        #[test]
        fn never_panics(text in ".{0,140}") {
            let _ = Decimal::parse(&text);
        }
    }
}
