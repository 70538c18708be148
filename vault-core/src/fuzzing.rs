//! Every decoder of the vault in one table, for whoever throws bytes at them: the bounded run in this crate's tests, and
//! `cargo fuzz` in `fuzz/`.
//!
//! A target takes any bytes and panics if the decoder does, or if it breaks its promise: what decodes is written again as
//! the same bytes where there is one way to write it, and as something that decodes to the same where there are several;
//! what is sealed opens unchanged or not at all.

#[cfg(test)]
pub(crate) mod mutate;

use crate::ids::{
    BackupId, CallerId, Compartment, ErasureId, FieldName, HoldName, Purpose, RotationId, SubjectId, VaultId,
};
use crate::schema::{Document, FieldValue, Form, Schema, View};
use crate::time::Timestamp;

/// A decoder.
pub struct Target {
    /// The directory of its corpus.
    pub name: &'static str,
    /// Tries it; whether the bytes decode.
    pub run: fn(&[u8]) -> bool,
}

impl Target {
    pub(crate) const fn new(name: &'static str, run: fn(&[u8]) -> bool) -> Self {
        Self { name, run }
    }
}

/// All of them.
pub fn targets() -> Vec<Target> {
    let mut all = vec![
        Target::new("ids", ids),
        Target::new("time", time),
        Target::new("schema_toml", schema_toml),
        Target::new("schema_json", schema_json),
        Target::new("stored_value", stored_value),
        Target::new("given_value", given_value),
        Target::new("key_file", key_file),
        Target::new("certificate", certificate),
    ];
    all.extend(crate::trie::fuzz::TARGETS);
    all.extend(crate::root::fuzz::TARGETS);
    all.extend(crate::audit::fuzz::TARGETS);
    all.extend(crate::backup::fuzz::TARGETS);
    all.extend(crate::vault::fuzz::TARGETS);
    all
}

/// Tries the decoder of that name; whether the bytes decode.
///
/// # Panics
/// If there is none, or it breaks its promise.
pub fn run(name: &str, bytes: &[u8]) -> bool {
    let target = targets().into_iter().find(|target| target.name == name);
    (target.expect("a decoder of the table").run)(bytes)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

fn ids(bytes: &[u8]) -> bool {
    let text = text(bytes);
    let mut decodes = false;
    if let Ok(id) = SubjectId::parse(text) {
        assert_eq!(id.as_str(), text);
        decodes = true;
    }
    macro_rules! written_again {
        ($text:expr, $($id:ty),*) => {$(
            if let Ok(id) = <$id>::parse(text) {
                assert_eq!(id.to_string(), $text);
                decodes = true;
            }
        )*};
    }
    written_again!(text, FieldName, Compartment, Purpose, HoldName);
    // Their digits may be large.
    written_again!(text.to_ascii_lowercase(), VaultId, ErasureId, RotationId, BackupId, CallerId);
    decodes
}

fn time(bytes: &[u8]) -> bool {
    let Some(time) = Timestamp::parse(text(bytes)) else { return false };
    assert_eq!(Timestamp::parse(&time.to_string()), Some(time));
    true
}

fn schema_toml(bytes: &[u8]) -> bool {
    Document::from_toml(text(bytes)).is_ok_and(schema)
}

fn schema_json(bytes: &[u8]) -> bool {
    Document::from_json(text(bytes)).is_ok_and(schema)
}

fn schema(document: Document) -> bool {
    let (toml, json) = (document.to_toml(), document.to_json());
    let again = Document::from_toml(&toml).expect("what is written as TOML reads as a schema");
    assert_eq!(again.to_json(), json);
    let again = Document::from_json(&json).expect("what is written as JSON reads as a schema");
    assert_eq!(again.to_toml(), toml);
    Schema::compile(document, 2).is_ok()
}

fn stored_value(bytes: &[u8]) -> bool {
    let Ok(value) = FieldValue::decode(bytes) else { return false };
    assert_eq!(**value.encode(), *bytes);
    true
}

/// A value of a field: the field's name, a line feed, its JSON.
fn given_value(bytes: &[u8]) -> bool {
    let Some((name, json)) = text(bytes).split_once('\n') else { return false };
    let schema = Schema::builtin();
    let Some(spec) = FieldName::parse(name).ok().and_then(|name| schema.field(&name).ok()) else { return false };
    // Refused or not: it must end.
    drop(spec.lookup_query(json, Some("AE")));
    let Ok(value) = spec.parse(json) else { return false };
    let stored = value.encode();
    let again = FieldValue::decode(&stored).expect("what is stored is read");
    assert_eq!((again.given(), again.normal()), (value.given(), value.normal()));
    for view in [View::Full, View::Masked, View::Last4, View::None] {
        for form in [Form::Given, Form::Normal] {
            drop(spec.show(&value, view, form));
        }
    }
    true
}

fn key_file(bytes: &[u8]) -> bool {
    crate::crypto::passphrase::parse_key_file(text(bytes)).is_ok()
}

fn certificate(bytes: &[u8]) -> bool {
    crate::certificate::check(bytes, None).is_ok()
}

#[cfg(test)]
mod tests;
