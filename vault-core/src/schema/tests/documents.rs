//! Documents: their shape, what does not fit together, and whatever else is thrown at the parser.

use super::*;

/// A small document that compiles, and into which the tests put what is wrong.
const SMALL: &str = r#"title = "Small"

[purposes.support]
basis = "contract"

[compartments.extra]

[fields.phone]
type = "phone"
lookup = ["exact", "last4"]
purposes = { support = "last4" }

[fields.note]
type = "text"
compartment = "extra"
"#;

fn compile(toml: &str) -> Result<Schema, DocumentError> {
    Schema::compile(Document::from_toml(toml)?, 7)
}

fn field(toml: &str) -> Result<FieldSpec, DocumentError> {
    let schema =
        compile(&format!("[purposes.support]\nbasis = \"contract\"\n[compartments.extra]\n[fields.f]\n{toml}"))?;
    Ok(schema.fields().next().unwrap().clone())
}

#[test]
fn both_spellings_are_one_document() {
    let document = Document::from_toml(SMALL).unwrap();
    let json = document.to_json();
    assert_eq!(
        json,
        "{\"title\":\"Small\",\"purposes\":{\"support\":{\"basis\":\"contract\"}},\"compartments\":{\"extra\":{}},\
         \"fields\":{\"phone\":{\"type\":\"phone\",\"lookup\":[\"exact\",\"last4\"],\"purposes\":{\"support\":\"last4\"}},\
         \"note\":{\"type\":\"text\",\"compartment\":\"extra\"}}}"
    );
    assert_eq!(Document::from_json(&json).unwrap(), document);
    assert_eq!(Document::from_toml(&document.to_toml()).unwrap(), document);
    let schema = Schema::compile(document.clone(), 7).unwrap();
    assert_eq!((schema.version, schema.document()), (7, &document));
}

#[test]
fn a_document_keeps_its_order() {
    let toml = "[fields.z]\ntype = \"text\"\npurposes = { y = \"full\", x = \"none\" }\n[purposes.y]\nbasis = \"consent\"\n\
                [fields.a]\ntype = \"text\"\n[purposes.x]\nbasis = \"consent\"\n";
    let document = Document::from_toml(toml).unwrap();
    let names: Vec<_> = document.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["z", "a"]);
    let purposes: Vec<_> = document.purposes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(purposes, ["y", "x"]);
    let (_, z) = document.fields.iter().next().unwrap();
    let views: Vec<_> = z.purposes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(views, ["y", "x"]);
    assert_eq!(Document::from_json(&document.to_json()).unwrap(), document);
    assert_eq!(Document::from_toml(&document.to_toml()).unwrap(), document);
}

#[test]
fn the_document_of_the_guide_compiles() {
    let guide = include_str!("../../../../docs/schema/README.md");
    let example = guide.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let schema = compile(example).unwrap();
    let mobile = schema.field(&FieldName::parse("mobile").unwrap()).unwrap();
    assert_eq!((mobile.id.as_str(), mobile.retention), ("phone", Some(400 * 86_400)));
    assert_eq!(mobile.ceiling(schema.purpose("delivery").unwrap()), View::Full);
}

#[test]
fn a_renamed_field_keeps_its_id() {
    let schema = compile("[fields.mobile]\nid = \"phone\"\ntype = \"phone\"\n[fields.a]\ntype = \"date\"").unwrap();
    let (mobile, phone) = (FieldName::parse("mobile").unwrap(), FieldName::parse("phone").unwrap());
    assert_eq!(schema.field(&mobile).unwrap().id, phone);
    assert_eq!(schema.field_by_id(&phone).unwrap().name, mobile);
    assert!(schema.field(&phone).is_err() && schema.field_by_id(&mobile).is_none());
    let a = FieldName::parse("a").unwrap();
    assert_eq!((&schema.field(&a).unwrap().name, &schema.field_by_id(&a).unwrap().name), (&a, &a));
}

#[test]
fn what_is_left_out_has_a_default() {
    let field = field("type = \"text\"").unwrap();
    assert_eq!(field.id, field.name);
    assert_eq!(field.compartment, Compartment::profile());
    assert_eq!(field.sensitivity, Sensitivity::Personal);
    assert_eq!(field.kind, FieldKind::Text { max_length: 8192, multiline: false });
    assert!(!field.lookup && !field.last4 && !field.retired && field.retention.is_none());
    let schema = compile(SMALL).unwrap();
    let support = schema.purpose("support").unwrap();
    assert!(!support.under_restriction && !support.automated);
    assert_eq!(schema.field(&FieldName::parse("note").unwrap()).unwrap().ceiling(support), View::None);
    assert_eq!(schema.field(&FieldName::parse("phone").unwrap()).unwrap().ceiling(support), View::Last4);
}

#[test]
fn parameters_reach_their_type() {
    for (toml, kind) in [
        ("type = \"location\"", FieldKind::Location { precision: 1 }),
        ("type = \"location\"\nprecision = 0", FieldKind::Location { precision: 0 }),
        ("type = \"integer\"", FieldKind::Integer { min: i64::MIN, max: i64::MAX }),
        ("type = \"integer\"\nmin = -1\nmax = \"5\"", FieldKind::Integer { min: -1, max: 5 }),
        ("type = \"text\"\nmax_length = 5\nmultiline = true", FieldKind::Text { max_length: 5, multiline: true }),
        ("type = \"enum\"\nvalues = [\"a\", \"ä b\"]", FieldKind::Enum { values: vec!["a".into(), "ä b".into()] }),
        ("type = \"json\"", FieldKind::Json { max_bytes: 16_384 }),
        ("type = \"bytes\"\nmax_bytes = 24000", FieldKind::Bytes { max_bytes: 24_000 }),
        ("type = \"card\"", FieldKind::Card),
        ("type = \"url\"", FieldKind::Url),
    ] {
        assert_eq!(field(toml).unwrap().kind, kind, "{toml}");
    }
    let decimal = field("type = \"decimal\"\nmin = 0.5\nmax = \"1e3\"").unwrap();
    assert!(decimal.parse("1000.0").is_ok() && decimal.parse("0.49").is_err());
    let pattern = field("type = \"national_id\"\npattern = '\\d{4}'").unwrap();
    assert!(pattern.parse("\"1234\"").is_ok() && pattern.parse("\"12345\"").is_err());
    let hidden = field("type = \"phone\"\nmask = \"hidden\"").unwrap();
    let value = hidden.parse("\"+971501238301\"").unwrap();
    for view in [View::Masked, View::Last4] {
        assert_eq!(*hidden.show(&value, view, Form::Given).unwrap(), "\"•••\"");
    }
    assert!(!hidden.has_last4() && field("type = \"phone\"").unwrap().has_last4());
}

#[test]
fn a_shape_that_is_not_understood_is_refused_with_its_line() {
    for (wrong, line, told) in [
        ("[fields.x]\ntype = \"text\"\nlook_up = []", 3, "unknown field `look_up`"),
        ("colour = \"red\"", 1, "unknown field `colour`"),
        ("[fields.x]\ntype = \"telephone\"", 2, "unknown variant `telephone`, expected one of `phone`"),
        ("[fields.x]\nretention = \"1 day\"", 1, "missing field `type`"),
        ("[purposes.x]\n\ndescription = \"no basis\"", 1, "missing field `basis`"),
        ("[purposes.x]\nbasis = \"curiosity\"", 2, "unknown variant `curiosity`"),
        ("[fields.Phone]\ntype = \"phone\"", 1, "a name is 1 to 64 characters"),
        ("[fields.x]\ntype = \"text\"\nretention = \"soon\"", 3, "such as `400 days`"),
        ("[fields.x]\ntype = \"text\"\nretired = \"yes\"", 3, "expected a boolean"),
        ("[fields.x]\ntype = \"text\"\n[fields.x]\ntype = \"text\"", 3, "duplicate key"),
        ("[fields.x]\ntype = \"text\"\npurposes = { p = \"some\" }", 3, "unknown variant `some`"),
        ("[fields.x\n", 1, ""),
        ("\n\n= 1", 3, ""),
        ("fields = 1", 1, "expected a table"),
        ("[fields.x]\ntype = \"decimal\"\nmin = nan", 3, "a number"),
        ("[fields.x]\ntype = \"text\"\nmax_length = -1", 3, "-1"),
    ] {
        let error = Document::from_toml(wrong).unwrap_err();
        assert_eq!(error.line, Some(line), "{wrong}: {error}");
        assert!(error.column.is_some() && error.to_string().starts_with(&format!("line {line}, column ")), "{error}");
        assert!(error.reason.contains(told) && !error.reason.contains('\n'), "{error}");
    }
    for (wrong, line, told) in [
        ("{\"fields\":\n{\"x\":{\"type\":\"text\",\"colour\":1}}}", 2, "unknown field `colour`"),
        ("{\"fields\":{\"x\":{\"type\":\"text\"},\n\"x\":{\"type\":\"text\"}}}", 2, "`x` is declared twice"),
        ("{\"fields\":{},\"fields\":{}}", 1, "duplicate field"),
        ("{} {}", 1, "trailing"),
        ("[]", 1, "expected a table"),
        ("{\"purposes\":{\"p\":[null,\"contract\"]}}", 1, "expected a table"),
        ("{\"compartments\":{\"c\":[]}}", 1, "expected a table"),
        ("null", 1, ""),
        ("", 1, ""),
        ("{\"title\":\"\\ud800\"}", 1, ""),
    ] {
        let error = Document::from_json(wrong).unwrap_err();
        assert_eq!(error.line, Some(line), "{wrong}: {error}");
        assert!(error.reason.contains(told) && !error.reason.contains("at line"), "{error}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(Document::from_json(&deep).is_err());
    assert!(Document::from_toml(&format!("title = {deep}")).is_err());
    let long_key = format!("{} = 1", "k".repeat(200_000));
    assert!(Document::from_toml(&long_key).unwrap_err().reason.chars().count() <= 401);
    let large = format!("title = \"{}\"", "t".repeat(DOCUMENT_MAX));
    assert!(Document::from_toml(&large).unwrap_err().to_string().contains("of at most 262144"));
}

#[test]
fn parts_that_do_not_fit_together_are_refused_with_line_and_path() {
    // Lines are counted in the whole document: the table `[fields.f]` is its fourth line.
    for (toml, line, path, told) in [
        ("type = \"text\"\npurposes = { sales = \"full\" }", 6, "purposes.sales", "add `[purposes.sales]`"),
        ("type = \"text\"\n[fields.f.purposes]\nsales = \"full\"", 7, "purposes.sales", "is not declared"),
        ("type = \"text\"\npurposes = { support = \"last4\" }", 6, "purposes.support", "say `masked`"),
        ("type = \"text\"\ncompartment = \"other\"", 6, "compartment", "add `[compartments.other]`"),
        ("type = \"text\"\ncompartment = \"system\"", 6, "compartment", "the vault's own"),
        ("type = \"email\"\nlookup = [\"last4\"]", 6, "lookup", "only `phone` and `card`"),
        ("type = \"json\"\nlookup = [\"exact\"]", 6, "lookup", "leave `exact` out"),
        ("type = \"text\"\nmultiline = true\nlookup = [\"exact\"]", 7, "lookup", "leave `exact` out"),
        ("type = \"phone\"\nlookup = [\"exact\", \"exact\"]", 6, "lookup", "leave one out"),
        ("type = \"phone\"\npattern = \"x\"", 6, "pattern", "is a parameter of `national_id`, not of `phone`"),
        ("type = \"text\"\nmin = 1", 6, "min", "`integer` and `decimal`"),
        ("type = \"national_id\"", 4, "pattern", "is missing"),
        ("type = \"national_id\"\npattern = \"(\"", 6, "pattern", "not a regular expression"),
        ("type = \"national_id\"\npattern = \"a)|(?:b\"", 6, "pattern", "not a regular expression"),
        ("type = \"national_id\"\npattern = \"(a{99}){99}\"", 6, "pattern", "repeat less"),
        ("type = \"integer\"\nmin = 0.5", 6, "min", "whole number"),
        ("type = \"integer\"\nmax = \"9223372036854775808\"", 6, "max", "64 bits"),
        ("type = \"integer\"\nmin = 2\nmax = 1", 6, "min", "above `max`"),
        ("type = \"decimal\"\nmin = 2\nmax = 1.5", 6, "min", "above `max`"),
        ("type = \"enum\"", 4, "values", "lists 1 to 256"),
        ("type = \"enum\"\nvalues = []", 6, "values", "lists 1 to 256"),
        ("type = \"enum\"\nvalues = [\"a\\n\"]", 6, "values", "in one line"),
        ("type = \"enum\"\nvalues = [\"a\", \"a\"]", 6, "values", "`a` twice"),
        ("type = \"location\"\nprecision = 4", 6, "precision", "from 0 to 3"),
        ("type = \"text\"\nmax_length = 0", 6, "max_length", "from 1 to 8192"),
        ("type = \"bytes\"\nmax_bytes = 24001", 6, "max_bytes", "from 1 to 24000"),
        ("type = \"json\"\nmax_bytes = 32769", 6, "max_bytes", "from 1 to 32768"),
    ] {
        let error = field(toml).unwrap_err();
        assert_eq!(error.path.as_deref(), Some(format!("fields.f.{path}").as_str()), "{error}");
        assert_eq!(error.line, Some(line), "{error}");
        assert!(error.reason.contains(told), "{error}");
        assert!(error.to_string().starts_with(&format!("line {line}: `fields.f.{path}`: ")), "{error}");
    }
    let json = "{\"fields\":{\"f\":{\"type\":\"text\",\"compartment\":\"other\"}}}";
    let error = Schema::compile(Document::from_json(json).unwrap(), 1).unwrap_err();
    assert!(error.to_string().starts_with("`fields.f.compartment`: `other` is not declared"), "{error}");
}

#[test]
fn a_document_is_bounded_as_a_whole() {
    let many = |count: usize, of: fn(usize) -> String| (0..count).map(of).collect::<String>();
    let text = "[fields.f]\ntype = \"text\"\n";
    let field = |i| format!("[fields.f{i}]\ntype = \"text\"\n");
    let purpose = |i| format!("[purposes.p{i}]\nbasis = \"contract\"\n");
    let compartment = |i| format!("[compartments.c{i}]\n");
    assert!(compile(&many(256, field)).is_ok());
    assert!(compile(&(many(64, purpose) + &many(32, compartment) + text)).is_ok());
    for (toml, told) in [
        (many(257, field), "`fields`: 257 of them, of at most 256"),
        (many(65, purpose) + text, "`purposes`: 65 of them, of at most 64"),
        (many(33, compartment) + text, "`compartments`: 33 of them, of at most 32"),
        (String::new(), "no field is declared"),
        ("[compartments.system]\n".to_owned() + text, "line 1: `compartments.system`: "),
        (
            text.to_owned() + "[fields.g]\nid = \"f\"\ntype = \"text\"",
            "line 3: `fields.g`: has the id `f`, which `f` has",
        ),
    ] {
        let error = compile(&toml).unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
    }
}

/// Documents, near documents and things that are nothing like one.
fn texts() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        "\\[(fields|purposes|compartments|x)\\.[a-c](\\.purposes)?\\]",
        "(type|basis|id|compartment|sensitivity|mask|pattern|description|retention|default_view) = \"[ -~]{0,8}\"",
        "type = \"(phone|text|national_id|card|integer|decimal|enum|json|bytes|location|url)\"",
        "basis = \"(consent|contract)\"",
        "(min|max|precision|max_length|max_bytes) = (-?[0-9]{1,3}(\\.[0-9]{1,3})?|[0-9]e[0-9]{1,2}|inf|nan|\"[0-9.e-]{1,4}\")",
        "(multiline|retired|automated|under_restriction) = (true|false)",
        "lookup = \\[(\"exact\"|\"last4\")?\\]",
        "values = \\[\"[a-c\u{e4}]{1,2}\", \"[a-c]{0,2}\"\\]",
        "purposes = \\{ [a-c] = \"(full|masked|last4|none)\" \\}",
        "[a-c] = \"(full|masked|last4|none)\"",
        ".{0,12}",
    ];
    let soup = proptest::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"));
    let shipped = include_str!("../../../../docs/schema/privacy-policy.toml");
    let lines: Vec<&str> = shipped.lines().filter(|line| !line.starts_with('#')).collect();
    let count = lines.len();
    let torn = (0..count, 0..count, ".{0,6}").prop_map(move |(cut, swap, junk)| {
        let mut lines: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        lines[cut].push_str(&junk);
        lines.swap(cut, swap);
        lines.remove(swap);
        lines.join("\n")
    });
    prop_oneof![2 => soup, 2 => torn, 1 => any::<String>()]
}

/// Documents that are one, with whatever text people may write.
fn documents() -> impl Strategy<Value = Document> {
    let names = proptest::collection::btree_set("[a-z][a-z0-9_]{0,5}", 1..5);
    (names, any::<Option<String>>(), any::<Vec<String>>(), any::<f64>(), any::<i64>(), 1..1_000_000_u64).prop_map(
        |(names, title, values, min, max, seconds)| {
            let fields: serde_json::Map<_, _> = names
                .into_iter()
                .rev()
                .map(|name| {
                    let min = serde_json::json!(if min.abs() < 1e30 && min.abs() > 1e-15 { min } else { 0.0 });
                    let field = serde_json::json!({
                        "type": "enum", "values": values, "description": title, "pattern": title,
                        "min": min, "max": max, "retention": format!("{seconds} seconds"), "purposes": {"z": "full", "a": "none"},
                    });
                    (name, field)
                })
                .collect();
            let document = serde_json::json!({"title": title, "compartments": {"z": {}, "a": {}}, "fields": fields});
            Document::from_json(&document.to_string()).unwrap()
        },
    )
}

fn survives(document: &Document) -> Result<(), TestCaseError> {
    let json = document.to_json();
    prop_assert_eq!(&Document::from_json(&json).unwrap(), document);
    prop_assert_eq!(Document::from_json(&json).unwrap().to_json(), json);
    prop_assert_eq!(&Document::from_toml(&document.to_toml()).unwrap(), document);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn any_text_is_refused_or_survives_both_spellings(text in texts()) {
        if let Ok(document) = Document::from_json(&text) {
            survives(&document)?;
        }
        if let Ok(document) = Document::from_toml(&text) {
            survives(&document)?;
            let _ = change::check(&Schema::builtin(), &document, true);
            if let Ok(schema) = Schema::compile(document, 2) {
                prop_assert_eq!(change::check(&schema, schema.document(), true), Ok(()));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_document_survives_both_spellings(document in documents()) {
        survives(&document)?;
    }
}
