//! Good, wrong and hostile phone numbers.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn national(number: &str, region: &str) -> Result<Zeroizing<String>, &'static str> {
    normalise(&format!("{{\"national\":{},\"region\":{}}}", *json::quote(number), *json::quote(region)))
}

#[test]
fn every_plan_compiles_and_accepts_its_own_examples() {
    let mut examples = 0;
    for region in PLANS.values().flatten() {
        let id = region.plan.id();
        assert!(region.valid().is_some(), "{id}");
        let trunk = region.plan.national_prefix_for_parsing().is_some();
        assert!(!trunk || region.trunk().is_some(), "{id}");
        let exit = region.plan.international_prefix().is_some();
        assert!(!exit || region.exit().is_some(), "{id}");
        let types = region.plan.descriptors();
        for kind in [types.fixed_line(), types.mobile(), types.toll_free(), types.voip()] {
            let Some(example) = kind.and_then(|kind| kind.example()) else {
                continue;
            };
            examples += 1;
            let expected = format!("\"+{}{example}\"", region.code());
            assert_eq!(*normalise(&expected).unwrap(), expected, "{id}");
            if id != "001" {
                assert_eq!(*national(example, id).unwrap(), expected, "{id}");
            }
        }
    }
    assert!(PLANS.len() > 200 && examples > 500);
}

#[test]
fn rewriting_rules_name_groups_that_exist() {
    for region in PLANS.values().flatten() {
        if let (Some(rule), Some(trunk)) = (region.plan.national_prefix_transform_rule(), region.trunk()) {
            let groups = rule.match_indices('$').map(|(at, _)| {
                let name: String =
                    rule[at + 1..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                name.parse::<usize>().unwrap()
            });
            for group in groups {
                assert!(group < trunk.captures_len(), "{} {rule}", region.plan.id());
            }
        }
    }
}

#[test]
fn national_forms() {
    for (number, region, e164) in [
        ("050 123 8301", "AE", "+971501238301"),
        ("050-123-8301", "ae", "+971501238301"),
        ("٠٥٠ ١٢٣ ٨٣٠١", "AE", "+971501238301"),
        ("\u{202a}050 123 8301\u{202c}", "AE", "+971501238301"),
        ("501238301", "AE", "+971501238301"),
        ("+971 50 123 8301", "AE", "+971501238301"),
        ("00971 50 123 8301", "AE", "+971501238301"),
        ("971501238301", "AE", "+971501238301"),
        ("02 3661 8300", "IT", "+390236618300"),
        ("(202) 456-1111", "US", "+12024561111"),
        ("1 (202) 456-1111", "US", "+12024561111"),
        ("011 15-2345-6789", "AR", "+5491123456789"),
        ("8 (912) 345-67-89", "RU", "+79123456789"),
        ("012 31 2128-6979", "BR", "+553121286979"),
        ("04 1234 567", "FI", "+35841234567"),
    ] {
        let found = national(number, region);
        assert_eq!(found.as_deref().map(String::as_str), Ok(format!("\"{e164}\"").as_str()), "{number} {region}");
    }
}

#[test]
fn international_forms() {
    for (number, e164) in [
        ("+971501238301", "+971501238301"),
        ("+971 (0) 50 123-8301", "+971501238301"),
        ("＋９７１５０１２３８３０１", "+971501238301"),
        ("+39 02 3661 8300", "+390236618300"),
        ("+1.202.456.1111", "+12024561111"),
        ("+800 1234 5678", "+80012345678"),
    ] {
        let found = normalise(&json::quote(number));
        assert_eq!(found.as_deref().map(String::as_str), Ok(format!("\"{e164}\"").as_str()), "{number}");
    }
}

#[test]
fn refuses_numbers_that_are_not_valid_for_their_region() {
    for (number, region) in [
        ("050 123 8301", "US"),
        ("050 123 830", "AE"),
        ("050 123 83011", "AE"),
        ("+12024561111", "AE"),
        ("(202) 456-1111", "CA"),
        ("112", "DE"),
        ("050 123 8301", "XX"),
        ("050 123 8301", "001"),
        ("050 123 8301", ""),
        ("050 123 8301", "ARE"),
        ("", "AE"),
        ("+", "AE"),
    ] {
        assert_eq!(national(number, region), Err(VALID), "{number} {region}");
    }
    for number in ["+971501238", "+97150123830111", "+999123456789", "+0501238301", "+1202456111", "+44 791234567"] {
        assert_eq!(normalise(&json::quote(number)), Err(VALID), "{number}");
    }
}

#[test]
fn refuses_what_has_not_the_shape() {
    let long = format!("\"+971501238301{}\"", " ".repeat(60));
    for raw in [
        "",
        "null",
        "1",
        "971501238301",
        "\"\"",
        "\"+\"",
        "\"971501238301\"",
        "\"050 123 8301\"",
        "\"++971501238301\"",
        "\"+971501238301 ext. 5\"",
        "\"+971501238301;ext=5\"",
        "\"tel:+971501238301\"",
        "\"+1-800-FLOWERS\"",
        "\"+97150123\\n8301\"",
        "\"+97150123\\u00008301\"",
        "\".;phone-context=\"",
        "\"+dwPAA;phone-context=AA\"",
        "\"+97150+1238301\"",
        "[]",
        "{}",
        "{\"national\":\"050 123 8301\"}",
        "{\"region\":\"AE\"}",
        "{\"national\":501238301,\"region\":\"AE\"}",
        "{\"national\":\"050 123 8301\",\"region\":\"AE\",\"x\":1}",
        "{\"national\":\"050 123 8301\",\"region\":null}",
        "{\"national\":\"050 123 8301\",\"national\":\"050 123 8302\",\"region\":\"AE\"}",
        &long,
    ] {
        assert_eq!(normalise(raw), Err(SHAPE), "{raw}");
    }
}

#[test]
fn splits_at_the_country_code() {
    assert_eq!(split("+971501238301"), Some(("971", "501238301")));
    assert_eq!(split("+12024561111"), Some(("1", "2024561111")));
    for bad in ["", "+", "971501238301", "+0", "+٩"] {
        assert_eq!(split(bad), None, "{bad}");
    }
}

/// Every region the plans know, and some they do not.
fn regions() -> impl Strategy<Value = String> {
    let mut known: Vec<String> = DATABASE.iter().map(|plan| plan.id().to_owned()).collect();
    known.sort();
    prop_oneof![20 => proptest::sample::select(known), 1 => ".{0,3}"]
}

#[test]
fn a_short_number_of_one_region_is_not_completed_by_another() {
    let found = national("3100000", "CA").unwrap();
    assert_eq!(&*found, "\"+13100000\"");
    assert_eq!(normalise(&found).unwrap(), found);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn digits_are_refused_or_become_stable_e164(number in "\\+?[0-9]{0,26}", region in regions()) {
        if let Ok(found) = national(&number, &region) {
            prop_assert_eq!(normalise(&found).unwrap(), found.clone());
            prop_assert_eq!(national(&json::text(&found).unwrap(), &region).unwrap(), found);
        }
    }

    #[test]
    fn hostile_text_never_panics(
        number in prop_oneof![any::<String>(), "[+＋]{0,2}[0-9٠-٩０-９a-z;=:,.#*()/x \u{202e}-]{0,80}", "(tel:)?[+0-9]{1,12}(;ext=|;phone-context=\\+?|x)[0-9a-z]{0,4}"],
        region in regions(),
    ) {
        let _ = national(&number, &region);
        if let Ok(found) = normalise(&json::quote(&number)) {
            prop_assert_eq!(normalise(&found).unwrap(), found);
        }
    }

    #[test]
    fn examples_with_a_digit_changed_keep_their_country(region in regions(), at in 0usize..12, digit in 0u8..10) {
        let Some(plan) = DATABASE.by_id(region.as_str()) else { return Ok(()) };
        let Some(example) = plan.descriptors().mobile().and_then(|kind| kind.example()) else { return Ok(()) };
        let mut number = example.to_owned();
        if at < number.len() {
            number.replace_range(at..=at, &digit.to_string());
        }
        if let Ok(found) = national(&number, &region) {
            let prefix = format!("\"+{}", plan.country_code());
            prop_assert!(found.starts_with(&prefix));
        }
    }
}
