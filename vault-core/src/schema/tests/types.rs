//! Every type against the same good and hostile values, and the laws of normal forms.

use std::sync::LazyLock;

use super::*;

/// One field of each type that a document can declare.
const ALL: &str = r#"
[fields.phone]
type = "phone"
lookup = ["exact", "last4"]
[fields.email]
type = "email"
lookup = ["exact"]
[fields.name]
type = "name"
lookup = ["exact"]
[fields.address]
type = "address"
[fields.date]
type = "date"
lookup = ["exact"]
[fields.ip]
type = "ip"
lookup = ["exact"]
[fields.object]
type = "object"
[fields.location]
type = "location"
[fields.url]
type = "url"
lookup = ["exact"]
[fields.national_id]
type = "national_id"
pattern = '\d{3}-?\d{2}-?[a-z0-9]{1,4}'
lookup = ["exact"]
[fields.card]
type = "card"
lookup = ["exact", "last4"]
[fields.integer]
type = "integer"
lookup = ["exact"]
[fields.decimal]
type = "decimal"
lookup = ["exact"]
[fields.text]
type = "text"
max_length = 40
lookup = ["exact"]
[fields.note]
type = "text"
multiline = true
[fields.choice]
type = "enum"
values = ["yes", "no", "نعم", "line one"]
[fields.json]
type = "json"
max_bytes = 32768
[fields.bytes]
type = "bytes"
"#;

fn all() -> &'static Schema {
    static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::compile(Document::from_toml(ALL).unwrap(), 1).unwrap());
    &SCHEMA
}

#[test]
fn the_table_has_every_type() {
    let schema = all();
    for kind in Type::ALL {
        assert!(schema.fields().any(|field| field.kind.name() == *kind), "{}", kind.as_str());
    }
}

#[test]
fn the_guide_has_a_row_for_every_type() {
    let guide = include_str!("../../../../docs/schema/README.md");
    for kind in Type::ALL {
        let row = format!("\n| `{}` | ", kind.as_str());
        assert_eq!(guide.matches(&row).count(), 1, "{}", kind.as_str());
    }
}

/// A value, and the fields that take it; all others refuse it.
#[test]
fn good_and_hostile_values() {
    let quoted = |text: &str| json::quote(text).to_string();
    let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let full = quoted(&"x".repeat(VALUE_MAX - 2));
    let over = quoted(&"x".repeat(VALUE_MAX - 1));
    let (nested, too_deep, abyss) = (deep(32), deep(33), deep(16_000));
    let text: &[&str] = &["name", "address", "text", "note", "json"];
    let free: &[&str] = &["address", "note", "json"];
    for (raw, takers) in [
        // Right-to-left, with and without the marks that turn it.
        ("\"محمد بن راشد\"", text),
        ("\"\\u200fשָׁלוֹם\\u200e 12\"", text),
        ("\"\\u202egpj.exe\"", text),
        ("\"李小龍\"", text),
        ("\"José 🦀 O'Neill-Łuczak\"", text),
        ("\"<script>alert(1)</script>\"", text),
        ("\"'; DROP TABLE subjects; --\"", text),
        // Addresses of several lines.
        ("\"1 Road\\nTown\\r\\nCountry\"", free),
        ("\"\\tindented\"", free),
        // Control characters and broken Unicode.
        ("\"a\\u0000b\"", &["json"]),
        ("\"a\\u001b[31mb\"", &["json"]),
        ("\"a\\u0085b\"", &["json"]),
        ("\"\\ud800\"", &[]),
        ("\"\\udc00\\ud800\"", &[]),
        ("\"\\u12\"", &[]),
        ("\"a\nb\"", &[]),
        // Empty and blank.
        ("", &[]),
        ("   ", &[]),
        ("null", &[]),
        ("\"\"", &["json", "bytes"]),
        ("\"  \"", &["json"]),
        ("\"\\u3000\\u00a0\"", &["json"]),
        // Digits that only look like digits.
        ("\"４１１１１１１１１１１１１１１１\"", text),
        ("\"٠٥٠١٢٣٨٣٠١\"", text),
        ("\"+٩٧١٥٠١٢٣٨٣٠١\"", &["phone", "name", "address", "text", "note", "json"]),
        ("\"4111 1111 1111 1111\"", &["name", "address", "text", "note", "json", "card"]),
        ("\"4111111111111111\"", &["name", "address", "text", "note", "json", "card", "bytes", "decimal"]),
        // Numbers: large, odd, not JSON.
        ("0", &["integer", "decimal", "json"]),
        ("-0", &["integer", "decimal", "json"]),
        ("1.50", &["decimal", "json"]),
        ("1e3", &["decimal", "json"]),
        ("9223372036854775808", &["decimal", "json"]),
        ("123456789012345678901234567890123456789", &["decimal", "json"]),
        ("1e999", &[]),
        ("1e-999", &["json"]),
        ("NaN", &[]),
        ("-Infinity", &[]),
        ("0x10", &[]),
        ("01", &[]),
        ("+1", &[]),
        // Words, lists and objects.
        ("true", &["json"]),
        ("[]", &["json"]),
        ("{}", &["address", "object", "json"]),
        ("{\"a\":1,\"a\":2}", &[]),
        ("{\"a\":{\"b\":1,\"\\u0062\":2}}", &[]),
        ("{\"lat\":1.5,\"lon\":-0.0}", &["address", "object", "json", "location"]),
        ("{\"lat\":91,\"lon\":0}", &["address", "object", "json"]),
        ("{\"a\":1} x", &[]),
        ("[1,]", &[]),
        (&nested, &["json"]),
        (&too_deep, &[]),
        (&abyss, &[]),
        // Sizes: 32 KiB of JSON is the most there is.
        (&full, &["json"]),
        (&over, &[]),
        // What other types are made of.
        ("\"yes\"", &["name", "address", "text", "note", "json", "choice", "bytes"]),
        ("\"YES!\"", text),
        ("\"yes \"", text),
        ("\"نعم\"", &["name", "address", "text", "note", "json", "choice"]),
        ("\"123-45-6789\"", &["name", "address", "text", "note", "json", "national_id"]),
        ("\"12345ab\"", &["name", "address", "text", "note", "json", "national_id"]),
        ("\"https://example.org/a?b#c\"", &["name", "address", "text", "note", "json", "url"]),
        ("\"javascript:alert(1)\"", text),
        ("\"jane@example.org\"", &["name", "address", "text", "note", "json", "email"]),
        ("\"2001:db8::1\"", &["name", "address", "text", "note", "json", "ip"]),
        ("\"1999-12-31\"", &["name", "address", "text", "note", "json", "date"]),
        ("\"1999-02-29\"", text),
        ("\"Zm9vYg==\"", &["name", "address", "text", "note", "json", "bytes"]),
        ("\"-_-_\"", &["name", "address", "text", "note", "json", "bytes"]),
        ("\"abcdefghijabcdefghijabcdefghijabcdefghij!\"", &["name", "address", "note", "json"]),
        ("\"+971501238301\"", &["name", "address", "text", "note", "json", "phone"]),
        ("{\"national\":\"050 123 8301\",\"region\":\"AE\"}", &["address", "object", "json", "phone"]),
    ] {
        for field in all().fields() {
            let taken = takers.contains(&field.name.as_str());
            let shown: String = raw.chars().take(60).collect();
            assert_eq!(field.parse(raw).is_ok(), taken, "{} {shown}", field.name);
        }
    }
}

#[test]
fn customers_fit_the_types_that_their_fields_could_have() {
    let schema = all();
    let of = |name: &str| schema.field(&FieldName::parse(name).unwrap()).unwrap();
    for customer in customers() {
        for (key, fields) in [
            ("name", &["name", "text", "note", "json"] as &[&str]),
            ("home_address", &["address", "note", "json"]),
            ("home_address_parts", &["address", "object", "json"]),
            ("device", &["object", "json"]),
            ("location", &["location", "json"]),
            ("birth_date", &["date"]),
            ("ip_address", &["ip"]),
            ("email", &["email"]),
            ("phone_e164", &["phone"]),
        ] {
            for field in fields {
                let value = of(field).parse(&customer[key].to_string()).unwrap();
                assert_eq!(value.given(), customer[key].to_string());
            }
        }
    }
}

#[test]
fn equal_values_have_equal_forms() {
    let schema = all();
    for (name, spellings) in [
        (
            "phone",
            &["\"+971501238301\"", "\"+971 50-123-8301\"", "{\"region\":\"ae\",\"national\":\"0501238301\"}"]
                as &[&str],
        ),
        ("email", &["\"jane@example.org\"", "\"JANE@Example.ORG\"", "\"\\u006aane@example.org\""]),
        ("name", &["\"Jane Doe\"", "\" Jane  Doe \"", "\"Jane\\u00a0Doe\""]),
        ("address", &["\"1 Road\\nTown\"", "\"1 Road \\r\\nTown\\n\""]),
        ("ip", &["\"1.2.3.4\"", "\"::ffff:1.2.3.4\"", "\"::FFFF:102:304\""]),
        ("location", &["{\"lat\":1,\"lon\":-0.0}", "{ \"lon\": 0e5, \"lat\": 1.00 }"]),
        ("object", &["{\"a\":[1,2]}", "{ \"a\" : [ 1,\n2 ] }"]),
        ("url", &["\"https://example.org\"", "\"HTTPS://EXAMPLE.org:443/\""]),
        ("national_id", &["\"12345ab\"", "\" 12345AB \""]),
        ("card", &["\"4111111111111111\"", "\"4111-1111 1111-1111\""]),
        ("integer", &["0", "-0"]),
        ("decimal", &["12.5", "\"12.50\"", "1.25e1", "125E-1"]),
        ("note", &["\"a\\nb\"", "\"a \\r\\nb\\n\""]),
        ("choice", &["\"yes\"", "\"\\u0079es\""]),
        ("json", &["[1,\"a b\"]", " [ 1 , \"a b\" ] "]),
        ("bytes", &["\"+/8=\"", "\"-_8\"", "\"+\\/8\""]),
    ] {
        let field = schema.field(&FieldName::parse(name).unwrap()).unwrap();
        let normal: Vec<_> = spellings.iter().map(|raw| field.parse(raw).unwrap().normal().to_owned()).collect();
        assert!(normal.windows(2).all(|pair| pair[0] == pair[1]), "{name}: {normal:?}");
    }
}

#[test]
fn errors_tell_what_is_expected_and_never_the_value() {
    for field in all().fields() {
        for bad in ["\"17421\\ud800\"", "{\"17421\":1,\"17421\":2}", "17421x", "[17421,]"] {
            let error = field.parse(bad).unwrap_err();
            let told = format!("{error} {error:?}");
            assert!(told.contains(field.name.as_str()) && told.contains("expected"), "{told}");
            assert!(!told.contains("17421"), "{told}");
        }
    }
}

#[test]
fn last_four_digits_of_what_has_them() {
    let schema = all();
    let last4 = |name: &str, raw: &str| {
        let field = schema.field(&FieldName::parse(name).unwrap()).unwrap();
        field.last4_of(&field.parse(raw).unwrap()).map(|four| four.to_string())
    };
    assert_eq!(last4("phone", "{\"national\":\"050 123 8301\",\"region\":\"AE\"}").as_deref(), Some("8301"));
    assert_eq!(last4("phone", "\"+6834012\""), None, "so short that four digits are the number");
    assert_eq!(last4("card", "\"4111 1111 1111 1111\"").as_deref(), Some("1111"));
    assert_eq!(last4("integer", "123456789"), None);
}

/// Texts that come close to values of one type or another.
fn near_values() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        any::<String>().prop_map(|text| json::quote(&text).to_string()),
        "\"[0-9 -]{10,24}\"",
        "-?[0-9]{1,22}(\\.[0-9]{1,22})?([eE][+-]?[0-9]{1,3})?",
        "\"-?[0-9]{1,22}(\\.[0-9]{1,22})?([eE][+-]?[0-9]{1,3})?\"",
        "\"[hH][tT]{2}[pP][sS]?://[a-zA-ZäİΣ0-9.\\[\\]:@_-]{1,12}(:[0-9]{0,5})?[/?#]?[a-z/%0-9A-F?#@:é]{0,8}\"",
        "\"[A-Za-z0-9+/_-]{0,12}={0,2}\"",
        "\" ?[0-9]{3}-?[0-9]{2}-?[a-zA-Z0-9]{1,4} ?\"",
        "\"(yes|no|نعم|line one)\"",
        "[\\[\\]{}\",:a1 \\\\n]{0,14}",
        "\"[ a-c\\\\nrt\u{a0}\u{85}\u{200f}]{0,14}\"",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn normal_forms_are_stable_and_found_by_either_form(raw in near_values()) {
        for field in all().fields() {
            let Ok(value) = field.parse(&raw) else { continue };
            let again = field.parse(value.normal()).unwrap();
            prop_assert_eq!(again.normal(), value.normal(), "{}", &field.name);
            prop_assert!(FieldValue::decode(&value.encode()).unwrap() == value);
            if field.lookup {
                let tag = field.lookup_form(&value).unwrap();
                prop_assert_eq!(&field.lookup_query(&raw, None).unwrap(), &tag);
                prop_assert_eq!(&field.lookup_query(value.normal(), None).unwrap(), &tag);
            }
            for view in [View::Masked, View::Last4, View::Full] {
                let shown = field.show(&value, view, Form::Normal).unwrap();
                prop_assert!(serde_json::from_str::<serde_json::Value>(&shown).is_ok(), "{} {}", &field.name, *shown);
            }
        }
    }

    #[test]
    fn masks_of_what_is_stored_never_panic(normal in near_values()) {
        for field in all().fields() {
            for care in [Sensitivity::Personal, Sensitivity::Sensitive] {
                let shown = mask::last4(&field.kind, care, &normal);
                prop_assert!(serde_json::from_str::<serde_json::Value>(&shown).is_ok());
            }
        }
    }
}
