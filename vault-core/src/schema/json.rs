//! JSON text as text: read into memory that wipes itself, checked and made compact without changing a spelling.

use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use zeroize::Zeroizing;

/// The content of a JSON string; `None` for anything else.
pub(super) fn text(raw: &str) -> Option<Zeroizing<String>> {
    serde_json::from_str::<String>(raw).ok().map(Zeroizing::new)
}

/// A JSON string of this content.
pub(super) fn quote(text: &str) -> Zeroizing<String> {
    // Room for every character to be escaped in two, so that no grown buffer leaves a copy behind.
    let mut out = Zeroizing::new(Vec::with_capacity(2 * text.len() + 2));
    serde_json::to_writer(&mut *out, text).expect("writing text to memory cannot fail");
    let bytes = std::mem::take(&mut *out);
    Zeroizing::new(String::from_utf8(bytes).expect("JSON text is UTF-8"))
}

/// What a lookup tag is computed over: a string's content, or the JSON text of anything else.
pub(super) fn lookup_bytes(normal: &str) -> Zeroizing<Vec<u8>> {
    match text(normal) {
        Some(content) => Zeroizing::new(content.as_bytes().to_vec()),
        None => Zeroizing::new(normal.as_bytes().to_vec()),
    }
}

/// Whether JSON text can only be an object.
pub(super) fn is_object(raw: &str) -> bool {
    raw.starts_with('{')
}

/// The compact form of JSON that nests no deeper than `depth` and repeats no key; `None` for anything else.
pub(super) fn sound(raw: &str, depth: usize) -> Option<Zeroizing<String>> {
    let mut input = serde_json::Deserializer::from_str(raw);
    let sound = Sound { depth }.deserialize(&mut input).is_ok() && input.end().is_ok();
    sound.then(|| compact(raw))
}

/// Drops white space between tokens; numbers, strings and the order of keys stay as they are spelled.
fn compact(raw: &str) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(raw.len()));
    let (mut inside, mut escaped) = (false, false);
    for c in raw.chars() {
        if inside || !c.is_ascii_whitespace() {
            out.push(c);
        }
        if c == '"' && !escaped {
            inside = !inside;
        }
        escaped = inside && c == '\\' && !escaped;
    }
    out
}

/// Walks a value without keeping it: fails for one that nests too deep or repeats a key.
struct Sound {
    depth: usize,
}

impl Sound {
    fn below<E: de::Error>(&self) -> Result<Self, E> {
        let depth = self.depth.checked_sub(1);
        depth.map(|depth| Self { depth }).ok_or_else(|| E::custom("nests too deep"))
    }
}

impl<'de> DeserializeSeed<'de> for Sound {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Sound {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        loop {
            if items.next_element_seed(self.below()?)?.is_none() {
                return Ok(());
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let below: Self = self.below()?;
        let mut keys: Vec<Zeroizing<String>> = Vec::new();
        while let Some(key) = entries.next_key::<String>()? {
            keys.push(Zeroizing::new(key));
            entries.next_value_seed(Self { depth: below.depth })?;
        }
        keys.sort_unstable_by(|a, b| a.as_str().cmp(b));
        if keys.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(de::Error::custom("repeats a key"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn compact_keeps_spellings() {
        let raw = "{ \"b\" : 1.50 ,\n\t\"a\\\" \" : [ 1e2 , \"x  y\\\\\" , null ] , \"u\":\"\\u0041\" }";
        let expected = "{\"b\":1.50,\"a\\\" \":[1e2,\"x  y\\\\\",null],\"u\":\"\\u0041\"}";
        assert_eq!(*sound(raw, 8).unwrap(), expected);
    }

    #[test]
    fn refuses_what_is_not_sound() {
        for bad in [
            "",
            "{",
            "[1",
            "[1,]",
            "\"a",
            "tru",
            "{}x",
            "{} {}",
            "{\"a\":1,\"a\":2}",
            "{\"a\":1,\"\\u0061\":2}",
            "{\"x\":{\"a\":1,\"a\":2}}",
            "{\"x\":[{\"a\":1,\"a\":2}]}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":1e999}",
            "{'a':1}",
            "{\"a\":NaN}",
            "{\"a\":\"\u{1}\"}",
            "{\"a\":01}",
            "{\"a\":1,}",
        ] {
            assert!(sound(bad, 8).is_none(), "{bad}");
        }
    }

    #[test]
    fn counts_levels() {
        assert!(sound("{\"a\":[1]}", 2).is_some());
        assert!(sound("{\"a\":[[1]]}", 2).is_none());
        assert!(sound("{\"a\":[[]]}", 2).is_none());
        let deep = |n: usize| format!("{{\"a\":{}1{}}}", "[".repeat(n), "]".repeat(n));
        assert!(sound(&deep(7), 8).is_some());
        assert!(sound(&deep(8), 8).is_none());
        assert!(sound(&deep(10_000), 8).is_none());
    }

    proptest! {
        #[test]
        fn quote_and_text_are_inverse(content in any::<String>()) {
            prop_assert_eq!(&*text(&quote(&content)).unwrap(), &content);
        }

        #[test]
        fn sound_never_panics_and_is_idempotent(raw in "\\{[ \"a:,1\\\\\\[\\]{}]{0,12}\\}") {
            if let Some(once) = sound(&raw, 8) {
                prop_assert_eq!(sound(&once, 8).unwrap(), once);
            }
        }
    }
}
