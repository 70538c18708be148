//! Numbers and codes that a state gave: what they look like is the schema's to say.

use std::fmt;

use regex::bytes::{Regex, RegexBuilder};
use zeroize::Zeroizing;

use super::json;
use super::kind::Expected;

/// The longest value, in bytes.
const VALUE_MAX: usize = 128;
/// The longest pattern, in bytes.
const PATTERN_MAX: usize = 512;
/// What a compiled pattern may take, in bytes.
const COMPILED_MAX: usize = 64 * 1024;
/// How deep a pattern may nest.
const NEST_MAX: u32 = 32;

/// A regular expression for whole values, in ASCII and without regard to case.
#[derive(Clone)]
pub struct Pattern {
    source: String,
    whole: Regex,
}

impl Pattern {
    /// Or else why not, with a way out.
    pub(super) fn compile(source: &str) -> Result<Self, String> {
        if source.is_empty() || source.len() > PATTERN_MAX {
            return Err(format!("a pattern has 1 to {PATTERN_MAX} bytes: give one such as `[0-9]{{8}}[A-Z]`"));
        }
        // On its own first, so that it cannot close the group that anchors it.
        build(source)?;
        let whole = build(&format!(r"\A(?:{source})\z"))?;
        Ok(Self { source: source.to_owned(), whole })
    }

    fn is_match(&self, text: &str) -> bool {
        self.whole.is_match(text.as_bytes())
    }
}

fn build(pattern: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(pattern);
    builder.unicode(false).case_insensitive(true).nest_limit(NEST_MAX);
    builder.size_limit(COMPILED_MAX).dfa_size_limit(COMPILED_MAX);
    builder.build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "the pattern becomes too large: repeat less".to_owned(),
        // The last line of a syntax error says what; those above draw where.
        other => {
            let told = other.to_string();
            let last = told.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            format!("not a regular expression ({last}): correct it; there are no look-arounds and no back-references")
        }
    })
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({:?})", self.source)
    }
}

/// A value in normal form that matches as a whole.
pub(super) fn normalise(raw: &str, pattern: &Pattern) -> Result<Zeroizing<String>, Expected> {
    let normal = normal(raw).filter(|normal| pattern.is_match(normal));
    let expected = || format!("an identifier that matches `{}` as a whole", pattern.source).into();
    normal.map(|normal| json::quote(&normal)).ok_or_else(expected)
}

/// The normal form whatever the pattern, for a search.
pub(super) fn normalise_any(raw: &str) -> Result<Zeroizing<String>, Expected> {
    normal(raw).map(|normal| json::quote(&normal)).ok_or_else(|| "an identifier of 1 to 128 ASCII characters".into())
}

/// In capitals, with single spaces between parts and none around them.
///
/// Hyphens and dots stay: whether they belong is the pattern's to say.
fn normal(raw: &str) -> Option<Zeroizing<String>> {
    let text = json::text(raw).filter(|text| text.len() <= VALUE_MAX)?;
    let mut normal = Zeroizing::new(String::with_capacity(VALUE_MAX));
    for part in text.split(' ').filter(|part| !part.is_empty()) {
        if !normal.is_empty() {
            normal.push(' ');
        }
        normal.push_str(part);
    }
    normal.make_ascii_uppercase();
    let printable = !normal.is_empty() && normal.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    printable.then_some(normal)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn identifiers_match_as_a_whole() {
        for (pattern, raw, normal) in [
            (r"[0-9]{8}[A-Z]", "\"12345678z\"", "\"12345678Z\""),
            (r"\d{3}-\d{2}-\d{4}", "\"123-45-6789\"", "\"123-45-6789\""),
            (r"[a-z]{2} \d+|x", "\"  Ab   12 \"", "\"AB 12\""),
            (r"[a-z]{2} \d+|x", "\"X\"", "\"X\""),
            (r".+", "\"a\\\"b\"", "\"A\\\"B\""),
        ] {
            assert_eq!(*normalise(raw, &Pattern::compile(pattern).unwrap()).unwrap(), normal);
        }
        let pattern = Pattern::compile(r"\d{4}|.*x").unwrap();
        let long = format!("\"{}x\"", "1".repeat(128));
        for bad in [
            "\"12345\"",
            "\"a1234\"",
            "\"１２３４\"",
            "\"١٢٣٤\"",
            "\"éx\"",
            "\"1\\nx\"",
            "\"x\\n\"",
            "\"\\u0000x\"",
            "\"\"",
            "\" \"",
            "1234",
            "null",
            "{}",
            "\"1\\tx\"",
            "\"\\u202ex\"",
            "\"\\ud800\"",
            &long,
        ] {
            let told = normalise(bad, &pattern).unwrap_err();
            assert!(told.contains(r"\d{4}|.*x"), "{bad}");
        }
    }

    #[test]
    fn hostile_patterns_are_refused() {
        let deep = format!("{}a{}", "(".repeat(100), ")".repeat(100));
        for bad in [
            "",
            "(",
            "a)|(?:b",
            "(?x)a #",
            "[z-a]",
            r"(?=a)",
            r"(a)\1",
            "a{1000}{1000}",
            "(a{50}){50}{50}",
            "*",
            &deep,
            &"a".repeat(513),
        ] {
            let told = Pattern::compile(bad).unwrap_err();
            assert!(!told.contains('\n') && told.contains(':'), "{told}");
        }
        // What makes other engines hang takes no time here.
        let pattern = Pattern::compile("(a+)+b").unwrap();
        assert!(normalise(&format!("\"{}\"", "a".repeat(128)), &pattern).is_err());
    }
}
