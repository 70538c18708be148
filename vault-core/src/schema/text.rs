//! Text of any script: one line (names) or several (addresses).

use zeroize::Zeroizing;

use super::json;
use super::kind::Expected;

/// The longest text, in bytes of UTF-8.
pub(super) const TEXT_MAX: usize = 8 * 1024;

const LINE: &str = "text of 1 to 8192 bytes, without line breaks or other control characters";
/// What an address is.
pub(super) const ADDRESS: &str =
    "an object, or text of 1 to 8192 bytes whose only control characters are line breaks and tabs";

/// Text of at most so many characters in its normal form.
pub(super) fn bounded(raw: &str, max_length: usize, multiline: bool) -> Result<Zeroizing<String>, Expected> {
    let normal = if multiline { lines(raw).ok() } else { line(raw).ok() };
    // Quotes and escapes do not count.
    let fits = |normal: &str| json::text(normal).is_some_and(|text| text.chars().count() <= max_length);
    normal.filter(|normal| fits(normal)).ok_or_else(|| {
        let (lines, may) = if multiline { ("text", ", tabs and line breaks apart") } else { ("one line of text", "") };
        format!("{lines} of 1 to {max_length} characters and at most {TEXT_MAX} bytes, without control characters{may}")
            .into()
    })
}

/// One line; its normal form has single spaces between words and none around them.
pub(super) fn line(raw: &str) -> Result<Zeroizing<String>, &'static str> {
    let text = json::text(raw).ok_or(LINE)?;
    if text.len() > TEXT_MAX || text.chars().any(char::is_control) {
        return Err(LINE);
    }
    let mut normal = Zeroizing::new(String::with_capacity(text.len()));
    for word in text.split_whitespace() {
        if !normal.is_empty() {
            normal.push(' ');
        }
        normal.push_str(word);
    }
    if normal.is_empty() {
        return Err(LINE);
    }
    Ok(json::quote(&normal))
}

/// Any number of lines; the normal form ends them with `\n` and has no white space at their ends or around the whole.
///
/// `\r\n` is accepted, for that is what web forms send.
pub(super) fn lines(raw: &str) -> Result<Zeroizing<String>, ()> {
    let text = json::text(raw).ok_or(())?;
    let mut unix = Zeroizing::new(String::with_capacity(text.len() + 1));
    for line in text.split("\r\n").flat_map(|part| part.split('\n')) {
        unix.push_str(line.trim_end());
        unix.push('\n');
    }
    let odd = |c: char| c.is_control() && c != '\n' && c != '\t';
    // Checked before trimming too: a lone `\r` or a form feed is white space, and would vanish at a line's end.
    let given_odd = text.split("\r\n").any(|part| part.contains(odd));
    let normal = unix.trim();
    if text.len() > TEXT_MAX || given_odd || normal.is_empty() {
        return Err(());
    }
    Ok(json::quote(normal))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_of_any_script_pass() {
        for (raw, normal) in [
            ("\"Jane\"", "\"Jane\""),
            ("\" Jane \\u00a0  Doe \"", "\"Jane Doe\""),
            ("\"أبو ظبي\"", "\"أبو ظبي\""),
            ("\"\\u0627\"", "\"ا\""),
            ("\"🦀\"", "\"🦀\""),
            ("\"a\\\"b\\\\\"", "\"a\\\"b\\\\\""),
        ] {
            assert_eq!(*line(raw).unwrap(), normal);
        }
        assert!(line(&json::quote(&"x".repeat(TEXT_MAX))).is_ok());
    }

    #[test]
    fn refuses_what_is_not_a_line() {
        let long = json::quote(&"x".repeat(TEXT_MAX + 1));
        for bad in [
            "",
            "\"\"",
            "\" \"",
            "\"\\u3000\"",
            "1",
            "null",
            "true",
            "[]",
            "{}",
            "\"a",
            "a",
            "\"a\\nb\"",
            "\"a\\u0000\"",
            "\"\\t\"",
            "\"a\\u0085\"",
            "\"a\\u007f\"",
            "\"\\ud800\"",
            "\"a\" \"b\"",
            long.as_str(),
        ] {
            assert_eq!(line(bad), Err(LINE), "{bad}");
        }
    }

    #[test]
    fn addresses_keep_their_lines() {
        for (raw, normal) in [
            ("\"1 Road\\nTown\"", "\"1 Road\\nTown\""),
            ("\"1 Road \\r\\nTown\\r\\n\"", "\"1 Road\\nTown\""),
            ("\"\\n\\na\\n\\nb\\tc\"", "\"a\\n\\nb\\tc\""),
            ("\"مدينة عيسى\\u200e 814\\nالبحرين\"", "\"مدينة عيسى\u{200e} 814\\nالبحرين\""),
        ] {
            assert_eq!(*lines(raw).unwrap(), normal);
        }
        for bad in ["\"\"", "\"\\n\\n\"", "\"a\\rb\"", "\"a\\r\"", "\"a\\u000c\"", "\"a\\u001b[0m\"", "7", "[\"a\"]"] {
            assert_eq!(lines(bad), Err(()), "{bad}");
        }
    }
}
