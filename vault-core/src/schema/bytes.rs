//! Bytes as base64 (RFC 4648 §4 and §5).

use zeroize::Zeroizing;

use super::json;
use super::kind::Expected;

/// The most bytes of a field: their base64 fits the largest value.
pub(super) const BYTES_MAX: usize = 24_000;

/// Either alphabet, with or without padding; the normal form is the standard alphabet with padding.
///
/// Nothing is decoded: the text alone tells whether it is sound, and how many bytes it stands for.
pub(super) fn normalise(raw: &str, max_bytes: usize) -> Result<Zeroizing<String>, Expected> {
    let text = json::text(raw);
    let digits = text.as_ref().and_then(|text| digits(text));
    let normal = digits.filter(|digits| digits.len() * 3 / 4 <= max_bytes && is_exact(digits));
    let padded = normal.map(|mut digits| {
        let missing = digits.len().next_multiple_of(4) - digits.len();
        digits.extend(std::iter::repeat_n('=', missing));
        json::quote(&digits)
    });
    padded.ok_or_else(|| format!("bytes as base64 text, at most {max_bytes} of them").into())
}

/// The text in the standard alphabet, without padding.
fn digits(text: &str) -> Option<Zeroizing<String>> {
    let bare = text.trim_end_matches('=');
    let padding = text.len() - bare.len();
    if padding > 0 && !(padding <= 2 && text.len().is_multiple_of(4)) {
        return None;
    }
    let mut digits = Zeroizing::new(String::with_capacity(text.len() + 4));
    for c in bare.chars() {
        digits.push(match c {
            '-' => '+',
            '_' => '/',
            _ if c.is_ascii_alphanumeric() || c == '+' || c == '/' => c,
            _ => return None,
        });
    }
    Some(digits)
}

/// Whether the bits beyond the last byte are zero, so that bytes have one text only.
fn is_exact(digits: &str) -> bool {
    let last = digits.bytes().last().map_or(0, value);
    match digits.len() % 4 {
        0 => true,
        2 => last.is_multiple_of(16),
        3 => last.is_multiple_of(4),
        _ => false,
    }
}

fn value(digit: u8) -> u8 {
    match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        _ => 63,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn bytes_have_one_text() {
        for (raw, normal) in [
            ("\"\"", "\"\""),
            ("\"Zg==\"", "\"Zg==\""),
            ("\"Zg\"", "\"Zg==\""),
            ("\"Zm8\"", "\"Zm8=\""),
            ("\"Zm9v\"", "\"Zm9v\""),
            ("\"-_-_\"", "\"+/+/\""),
            ("\"+\\/+\\/\"", "\"+/+/\""),
        ] {
            assert_eq!(*normalise(raw, 16).unwrap(), normal);
        }
        for bad in [
            "\"Z\"",
            "\"Zh==\"",
            "\"Zm9=\"",
            "\"Zg=\"",
            "\"Zg===\"",
            "\"=\"",
            "\"====\"",
            "\"Zg==Zg==\"",
            "\"Z g=\"",
            "\"Zm9v\\n\"",
            "\"Zm9v\\u0000\"",
            "\"é\"",
            "\"\\ud800\"",
            "Zm9v",
            "1",
            "null",
            "[]",
            "{}",
            "",
        ] {
            assert!(normalise(bad, 16).is_err(), "{bad}");
        }
    }

    #[test]
    fn bytes_are_counted_decoded() {
        for (length, digits) in [(15, 20), (16, 22)] {
            let raw = format!("\"{}\"", "A".repeat(digits));
            assert!(normalise(&raw, length).is_ok(), "{length}");
            assert!(normalise(&raw, length - 1).is_err(), "{length}");
        }
    }
}
