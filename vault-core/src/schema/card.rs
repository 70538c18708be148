//! Numbers like those on payment cards: 12 to 19 digits, the last of which checks the others (ISO/IEC 7812-1, Luhn).

use zeroize::Zeroizing;

use super::json;

/// The longest spelling, in bytes, punctuation included.
const SPELLING_MAX: usize = 64;
const EXPECTED: &str = "text of 12 to 19 digits with a valid check digit; spaces and hyphens may stand between them";

/// The normal form is digits only.
pub(super) fn normalise(raw: &str) -> Result<Zeroizing<String>, &'static str> {
    let text = json::text(raw).filter(|text| text.len() <= SPELLING_MAX).ok_or(EXPECTED)?;
    let mut digits = Zeroizing::new(String::with_capacity(SPELLING_MAX));
    digits.extend(text.chars().filter(|c| !matches!(c, ' ' | '-')));
    let sound = (12..=19).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) && checks(&digits);
    if sound { Ok(json::quote(&digits)) } else { Err(EXPECTED) }
}

/// Whether the last of these digits fits the others.
pub(crate) fn checks(digits: &str) -> bool {
    let weigh = |(i, byte): (usize, u8)| {
        let digit = u32::from(byte - b'0');
        match (i % 2, digit) {
            (0, _) => digit,
            (_, 0..5) => 2 * digit,
            _ => 2 * digit - 9,
        }
    };
    digits.bytes().rev().enumerate().map(weigh).sum::<u32>().is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn card_numbers_are_digits_that_check() {
        for (raw, normal) in [
            ("\"4111 1111 1111 1111\"", "\"4111111111111111\""),
            ("\"5500-0000-0000-0004\"", "\"5500000000000004\""),
            ("\"378282246310005\"", "\"378282246310005\""),
            ("\"6304000000000000\"", "\"6304000000000000\""),
            ("\"501800000009\"", "\"501800000009\""),
        ] {
            assert_eq!(*normalise(raw).unwrap(), normal);
        }
        let long = format!("\"4111111111111111{}\"", " ".repeat(32 * 1024));
        for bad in [
            "\"4111111111111112\"",
            "\"41111111111\"",
            "\"41111111111111111111\"",
            "\"４１１１１１１１１１１１１１１１\"",
            "\"٤١١١١١١١١١١١١١١١\"",
            "\"4l11111111111111\"",
            "\"4111\u{a0}1111 1111 1111\"",
            "\"4111111111111111\\n\"",
            "\"4111111111111111\\u0000\"",
            "\"\\ud800\"",
            "4111111111111111",
            "\"\"",
            "\"----\"",
            "null",
            "{}",
            "",
            &long,
        ] {
            assert_eq!(normalise(bad), Err(EXPECTED), "{bad}");
        }
    }

    #[test]
    fn one_wrong_digit_is_noticed() {
        let good = "4111111111111111";
        for at in 0..good.len() {
            for wrong in '0'..='9' {
                let digits: String = good.chars().enumerate().map(|(i, c)| if i == at { wrong } else { c }).collect();
                assert_eq!(checks(&digits), digits == good, "{digits}");
            }
        }
    }
}
