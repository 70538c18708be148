//! Changes of a schema over a vault that holds subjects.

use super::*;
use change::{Refusal, check, forgets};

const OLD: &str = r#"
[purposes.support]
basis = "contract"
[purposes.marketing]
basis = "consent"
[compartments.extra]
[compartments.profile]
[fields.phone]
type = "phone"
lookup = ["exact"]
purposes = { support = "masked" }
[fields.note]
type = "text"
compartment = "extra"
[fields.age]
type = "integer"
lookup = ["exact"]
max = 120
"#;

fn old() -> Schema {
    Schema::compile(Document::from_toml(OLD).unwrap(), 1).unwrap()
}

/// The old document with one part of it replaced.
fn changed(from: &str, to: &str) -> Document {
    assert!(OLD.contains(from), "{from}");
    let document = Document::from_toml(&OLD.replacen(from, to, 1)).unwrap();
    Schema::compile(document.clone(), 2).unwrap();
    document
}

#[test]
fn what_stays_readable_is_allowed() {
    for (from, to) in [
        ("", ""),
        ("basis = \"consent\"", "basis = \"legitimate_interest\"\nautomated = true"),
        ("basis = \"contract\"", "basis = \"contract\"\ndefault_view = \"full\""),
        ("[fields.phone]", "[fields.mobile]\nid = \"phone\""),
        ("lookup = [\"exact\"]", ""),
        ("lookup = [\"exact\"]", "lookup = [\"exact\", \"last4\"]"),
        (
            "purposes = { support = \"masked\" }",
            "retired = true\nretention = \"1 day\"\nsensitivity = \"sensitive\"\nmask = \"hidden\"",
        ),
        ("type = \"text\"", "type = \"text\"\nmax_length = 10\nmultiline = true"),
        ("max = 120", "max = 99"),
        ("[compartments.profile]", ""),
        ("[fields.note]", "[fields.new]\ntype = \"email\"\nlookup = [\"exact\"]\n[fields.note]"),
        ("[compartments.extra]", "[compartments.more]\n[purposes.more]\nbasis = \"consent\"\n[compartments.extra]"),
    ] {
        assert_eq!(check(&old(), &changed(from, to), true), Ok(()), "{from} -> {to}");
    }
}

#[test]
fn a_shorter_time_to_keep_values_is_told() {
    let kept = |time: &str| changed("[fields.note]\n", &format!("[fields.note]\n{time}"));
    let old = Schema::compile(kept("retention = \"2 days\"\n"), 1).unwrap();
    let told = |time: &str| forgets(&old, &kept(time)).len();
    assert_eq!(told("retention = \"1 days\"\n"), 1);
    assert_eq!(told("retention = \"48 hours\"\n"), 0);
    assert_eq!(told(""), 0);
    let anew = kept("retention = \"99 years\"\n");
    assert_eq!(forgets(&self::old(), &anew).iter().map(|name| name.as_str()).collect::<Vec<_>>(), ["note"]);
}

#[test]
fn what_would_orphan_or_reinterpret_is_refused_with_a_way_out() {
    let field = |name: &str| FieldName::parse(name).unwrap();
    let note = "[fields.note]\ntype = \"text\"\ncompartment = \"extra\"\n";
    for (from, to, line, refusal, told) in [
        (note, "", None, Refusal::FieldGone(field("note")), "keep it with `retired = true`"),
        ("[fields.note]", "[fields.remark]", None, Refusal::FieldGone(field("note")), "keeps its old name as `id`"),
        (
            "type = \"text\"",
            "type = \"json\"",
            Some(13),
            Refusal::TypeChanged { field: field("note"), was: Type::Text, becomes: Type::Json },
            "`note` was `text` and would be `json`",
        ),
        (
            "[fields.note]\ntype = \"text\"",
            "[fields.note]\nid = \"note2\"\ntype = \"text\"\n[fields.remark]\nid = \"note\"\ntype = \"date\"",
            Some(17),
            Refusal::TypeChanged { field: field("remark"), was: Type::Text, becomes: Type::Date },
            "declare a new field",
        ),
        (
            "[fields.note]\ntype = \"text\"",
            "[fields.note]\nid = \"note2\"\ntype = \"text\"\n[fields.remark]\nid = \"note\"\ntype = \"text\"\ncompartment = \"extra\"\n[fields.third]\ntype = \"text\"",
            Some(12),
            Refusal::NameMoved(field("note")),
            "a name that is not in use",
        ),
        (
            "compartment = \"extra\"",
            "",
            Some(12),
            Refusal::CompartmentChanged {
                field: field("note"),
                was: Compartment::parse("extra").unwrap(),
                becomes: Compartment::profile(),
            },
            "`note` is sealed in the compartment `extra`",
        ),
        (
            "compartment = \"extra\"",
            "compartment = \"extra\"\nlookup = [\"exact\"]",
            Some(15),
            Refusal::LookupAdded(field("note")),
            "declare a new field with the lookup",
        ),
        (
            "[purposes.marketing]\nbasis = \"consent\"\n",
            "",
            None,
            Refusal::PurposeGone(Purpose::parse("marketing").unwrap()),
            "`marketing` is gone",
        ),
    ] {
        let new = changed(from, to);
        let error = check(&old(), &new, true).unwrap_err();
        assert_eq!((error.line, &error.refusal), (line, &refusal), "{error}");
        let text = error.to_string();
        assert!(text.contains(told), "{text}");
        assert_eq!(text.starts_with("line "), line.is_some(), "{text}");
        assert_eq!(check(&old(), &new, false), Ok(()), "an empty vault takes it");
    }
}

#[test]
fn a_compartment_stays_when_its_last_field_has_gone_elsewhere() {
    let old = "[compartments.extra]\n[fields.a]\ntype = \"text\"\n";
    let schema = Schema::compile(Document::from_toml(old).unwrap(), 1).unwrap();
    let new = Document::from_toml("[fields.a]\ntype = \"text\"\n").unwrap();
    let error = check(&schema, &new, true).unwrap_err();
    assert_eq!(error.refusal, Refusal::CompartmentGone(Compartment::parse("extra").unwrap()));
    assert!(error.to_string().contains("keep it, without fields if need be"));
    assert_eq!(check(&schema, &new, false), Ok(()));
}

#[test]
fn values_stay_readable_and_findable_under_narrower_limits() {
    let name = FieldName::parse("age").unwrap();
    let old = old();
    let value = old.field(&name).unwrap().parse("110").unwrap();
    let tag = old.field(&name).unwrap().lookup_form(&value).unwrap();
    let new = Schema::compile(changed("max = 120", "max = 99"), 2).unwrap();
    let age = new.field(&name).unwrap();
    assert!(age.parse("110").is_err(), "control: the new schema takes no such value");
    let stored = FieldValue::decode(&value.encode()).unwrap();
    assert_eq!(*age.show(&stored, View::Full, Form::Given).unwrap(), "110");
    assert_eq!(age.lookup_query("110", None).unwrap(), tag);
    assert!(age.lookup_query("\"110\"", None).is_err());
}
