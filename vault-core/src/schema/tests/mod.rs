//! What the built-in schema promises as a whole.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

mod changes;
mod documents;
mod types;

const FIELDS: [&str; 9] =
    ["nickname", "name", "phone", "email", "home_address", "birth_date", "ip_address", "device", "location"];

fn field(name: &str) -> FieldSpec {
    let schema = Schema::builtin();
    schema.field(&FieldName::parse(name).unwrap()).unwrap().clone()
}

fn customers() -> Vec<serde_json::Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/customers.ndjson");
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn shipped() -> Document {
    Document::from_toml(include_str!("../../../../docs/schema/privacy-policy.toml")).unwrap()
}

#[test]
fn the_shipped_schema_takes_the_place_of_the_built_in_one() {
    let builtin = Schema::builtin();
    assert_eq!(change::check(&builtin, &shipped(), true), Ok(()));
    let schema = Schema::compile(shipped(), 2).unwrap();
    for old in builtin.fields() {
        let new = schema.field(&old.name).unwrap();
        assert_eq!((&new.id, &new.kind, &new.compartment), (&old.id, &old.kind, &old.compartment));
        assert!(new.lookup == old.lookup);
    }
    for purpose in builtin.purposes() {
        assert!(schema.purpose(purpose.name.as_str()).is_some());
    }
    let shown = |field: &str, purpose: &str| {
        let field = schema.field(&FieldName::parse(field).unwrap()).unwrap();
        field.ceiling(schema.purpose(purpose).unwrap())
    };
    for (field, purpose, view) in [
        ("phone", "delivery", View::Full),
        ("home_address", "delivery", View::Full),
        ("name", "delivery", View::Full),
        ("birth_date", "delivery", View::None),
        ("birth_date", "account", View::Full),
        ("phone", "support", View::Masked),
        ("birth_date", "support", View::None),
        ("phone", "marketing", View::Full),
        ("email", "marketing", View::Full),
        ("home_address", "marketing", View::None),
        ("interests", "marketing", View::Full),
        ("interests", "account", View::None),
    ] {
        assert_eq!(shown(field, purpose), view, "{field} for {purpose}");
    }
    let consented: Vec<_> = schema.purposes().filter(|p| p.needs_consent()).map(|p| p.name.as_str()).collect();
    assert_eq!(consented, ["marketing", "recommendation"]);
    let marketing = schema.fields().filter(|field| field.compartment.as_str() == "marketing");
    assert!(marketing.count() >= 2);
    for logged in ["ip_address", "location", "service_logs", "communication_logs"] {
        assert!(schema.field(&FieldName::parse(logged).unwrap()).unwrap().retention.is_some(), "{logged}");
    }
}

#[test]
fn undeclared_fields_are_refused() {
    let name = FieldName::parse("shoe_size").unwrap();
    let error = Schema::builtin().field(&name).unwrap_err();
    assert_eq!(error, SchemaError::UnknownField(name));
    assert!(error.to_string().contains("`shoe_size`"));
}

#[test]
fn every_customer_is_accepted_and_kept_as_given() {
    let customers = customers();
    assert_eq!(customers.len(), 225);
    for customer in &customers {
        for name in FIELDS.into_iter().filter(|name| *name != "phone") {
            let raw = customer[name].to_string();
            let value = field(name).parse(&raw).unwrap();
            assert_eq!(value.given(), raw);
            let stored = FieldValue::decode(&value.encode()).unwrap();
            assert!(stored == value);
            let full = field(name).show(&stored, View::Full, Form::Given);
            assert_eq!(*full.unwrap(), raw);
        }
        let parts = &customer["home_address_parts"];
        assert!(field("home_address").parse(&parts.to_string()).is_ok());
    }
}

#[test]
fn every_customer_is_found_by_either_form_of_the_number() {
    let phone = field("phone");
    for customer in customers() {
        let (national, region) = (&customer["phone_national"], &customer["region"]);
        let e164 = customer["phone_e164"].as_str().unwrap();
        let raw = format!("{{\"national\": {national}, \"region\": {region}}}");
        let value = phone.parse(&raw).unwrap();
        assert_eq!(value.given(), raw);
        assert_eq!(value.normal(), format!("\"{e164}\""));
        let tag = phone.lookup_form(&value).unwrap();
        assert_eq!(*tag, e164.as_bytes());
        let region = region.as_str();
        for query in [
            phone.lookup_query(&national.to_string(), region),
            phone.lookup_query(value.given(), None),
            phone.lookup_query(value.normal(), None),
            phone.lookup_query(value.normal(), region),
        ] {
            assert_eq!(query.unwrap(), tag);
        }
    }
}

#[test]
fn only_declared_fields_have_lookups() {
    let value = field("name").parse("\"Jane Doe\"").unwrap();
    assert!(field("name").lookup_form(&value).is_none());
    assert_eq!(
        field("name").lookup_query("\"Jane Doe\"", None),
        Err(SchemaError::NotLookup { field: field("name").name })
    );
    let email = field("email");
    assert_eq!(*email.lookup_query("\"JANE@Example.org\"", None).unwrap(), *b"jane@example.org");
    assert!(email.lookup_query("\"a@b.org\"", Some("AE")).is_err());
    assert!(email.lookup_query("\"jane\"", None).is_err());
}

#[test]
fn a_value_is_kept_with_its_spelling() {
    let raw = "{\"lon\": 1.50 , \"lat\":-0.0}";
    let value = field("location").parse(&format!(" {raw}\n")).unwrap();
    assert_eq!(value.given(), raw);
    assert_eq!(value.normal(), "{\"lat\":0,\"lon\":1.5}");
    let raw = "\"\\u0645\\/ x\"";
    assert_eq!(field("name").parse(raw).unwrap().given(), raw);
}

#[test]
fn errors_name_the_field_and_never_the_value() {
    for name in FIELDS {
        for bad in
            ["null", "true", "17421", "[\"17421\"]", "{\"17421\":1,\"17421\":2}", "\"17421", "\"17421\\u0007\"", ""]
        {
            let error = field(name).parse(bad).unwrap_err();
            let told = format!("{error} {error:?}");
            assert!(told.contains(name), "{told}");
            assert!(!told.contains("17421"), "{told}");
        }
        let long = format!("\"{}\"", "7".repeat(VALUE_MAX));
        assert!(field(name).parse(&long).is_err());
    }
}

#[test]
fn objects_are_bounded() {
    let device = field("device");
    let of = |length: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8));
    assert!(device.parse(&of(16 * 1024)).is_ok());
    assert!(device.parse(&of(16 * 1024 + 1)).is_err());
    assert!(device.parse("\"Pixel 9\"").is_err());
    assert!(device.parse("{}").is_ok());
    assert!(field("home_address").parse("{\"road\":\"a\",\"road\":\"b\"}").is_err());
}

#[test]
fn views() {
    let phone = field("phone");
    let value = phone.parse("{\"region\":\"AE\",\"national\":\"050 123 8301\"}").unwrap();
    let show = |view, form| phone.show(&value, view, form).map(|text| text.to_string());
    assert_eq!(show(View::None, Form::Given), None);
    assert_eq!(show(View::Masked, Form::Given).unwrap(), "\"+971•••••01\"");
    assert_eq!(show(View::Last4, Form::Given).unwrap(), "\"•••••8301\"");
    assert_eq!(show(View::Full, Form::Given).unwrap(), "{\"region\":\"AE\",\"national\":\"050 123 8301\"}");
    assert_eq!(show(View::Full, Form::Normal).unwrap(), "\"+971501238301\"");
}

/// JSON texts that come close to values, and some that are nowhere near.
fn raw_values() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        any::<String>().prop_map(|text| json::quote(&text).to_string()),
        "\"[+＋]?[0-9٠-٩۰-۹०-९ ().x;#,*-]{0,30}\"",
        "\"[0-9]{1,4}-[0-9]{1,2}-[0-9]{1,2}\"",
        "\"[a-zA-ZİẞΣ0-9.\"+-]{1,6}@[a-zA-ZİẞΣ.-]{1,8}\"",
        "\"[0-9a-f:.]{2,20}\"",
        "\"[ a-z\\\\nrt\u{a0}\u{85}]{0,12}\"",
        "\\{\"lat\":-?[0-9.e-]{1,6},\"lon\":-?[0-9.e-]{1,6}\\}",
        "\\{\"national\":\"[0-9+ ]{0,16}\",\"region\":\"[A-Z]{0,3}\"\\}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_text_is_refused_or_has_a_stable_normal_form(raw in raw_values(), name in 0..FIELDS.len()) {
        let field = field(FIELDS[name]);
        if let Ok(value) = field.parse(&raw) {
            let again = field.parse(value.normal()).unwrap();
            prop_assert_eq!(again.normal(), value.normal());
            prop_assert!(FieldValue::decode(&value.encode()).unwrap() == value);
            for view in [View::Masked, View::Last4, View::Full] {
                let shown = field.show(&value, view, Form::Normal).unwrap();
                prop_assert!(serde_json::from_str::<serde_json::Value>(&shown).is_ok());
            }
        }
    }
}
