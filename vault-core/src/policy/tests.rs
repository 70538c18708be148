//! Every combination of what a decision depends on, held to the rules told another way, and to the table for people.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::ids::FieldName;
use crate::schema::{Document, Schema};

const VIEWS: [View; 4] = [View::None, View::Masked, View::Last4, View::Full];
const STANDINGS: [SubjectStanding; 6] = [
    SubjectStanding::Active,
    SubjectStanding::Restricted,
    SubjectStanding::Held,
    SubjectStanding::HeldAndRestricted,
    SubjectStanding::Refused,
    SubjectStanding::Shredded,
];
/// A field whose kind has a view of its last four digits, and one whose kind has not.
const FIELDS: [&str; 2] = ["phone", "name"];

/// A purpose of each sort: on consent or not, exempt from a restriction or not, automated or not, and each with each
/// ceiling.
fn schema() -> Schema {
    let mut toml = "[fields.phone]\ntype = \"phone\"\n[fields.name]\ntype = \"name\"\n".to_owned();
    for basis in ["consent", "contract"] {
        for (exempt, automated) in [(false, false), (false, true), (true, false), (true, true)] {
            for view in VIEWS {
                toml += &format!("[purposes.{basis}_{exempt}_{automated}_{view}]\nbasis = \"{basis}\"\n");
                toml += &format!("under_restriction = {exempt}\nautomated = {automated}\ndefault_view = \"{view}\"\n");
            }
        }
    }
    Schema::compile(Document::from_toml(&toml).unwrap(), 2).unwrap()
}

fn facts() -> impl Iterator<Item = ValueFacts> {
    let bit = |n: u8, at: u8| n & (1 << at) != 0;
    (0..16).map(move |n| ValueFacts {
        expired: bit(n, 0),
        objection: bit(n, 1),
        other_purposes: bit(n, 2),
        no_automated: bit(n, 3),
    })
}

/// Roles, expired or not, purposes, standings, consent or not, views, purpose required or not, fields, facts of a value.
const COMBINATIONS: u32 = 5 * 2 * 35 * 6 * 2 * 4 * 2 * 2 * 16;

/// When each rule applies, each on its own.
fn applies(rule: Rule, asked: &Question<'_>, ceiling: View, value: ValueFacts) -> bool {
    let purpose = match asked.purpose {
        Named::Purpose(purpose) => Some(purpose),
        _ => None,
    };
    match rule {
        Rule::TokenExpired => asked.expired,
        Rule::Role => matches!(asked.role, Role::Security | Role::Auditor),
        Rule::PurposeUndeclared => matches!(asked.purpose, Named::Undeclared),
        Rule::PurposeNotAllowed => matches!(asked.purpose, Named::NotAllowed),
        // Of reads by a value token only, which have a test of their own.
        Rule::TokenPurpose => false,
        Rule::Shredded => matches!(asked.subject, SubjectStanding::Refused | SubjectStanding::Shredded),
        Rule::Restricted => {
            let restricted = matches!(asked.subject, SubjectStanding::Restricted | SubjectStanding::HeldAndRestricted);
            restricted && !purpose.is_some_and(|p| p.under_restriction)
        }
        Rule::PurposeRequired => {
            purpose.is_none() && (asked.view == View::Full || asked.purpose_required && asked.view != View::None)
        }
        Rule::ConsentMissing => purpose.is_some_and(PurposeSpec::needs_consent) && !asked.consent,
        Rule::FieldNotForPurpose => ceiling == View::None && asked.view != View::None,
        Rule::ValueExpired => value.expired,
        Rule::Objection => value.objection,
        Rule::ValueNotForPurpose => value.other_purposes,
        Rule::NoAutomatedDecisions => value.no_automated && purpose.is_some_and(|p| p.automated),
    }
}

#[test]
fn every_combination_is_decided_by_the_first_rule_that_applies() {
    let schema = schema();
    let declared = schema.purposes().map(Named::Purpose);
    let named: Vec<_> = [Named::Nothing, Named::Undeclared, Named::NotAllowed].into_iter().chain(declared).collect();
    let fields = FIELDS.map(|name| schema.field(&FieldName::parse(name).unwrap()).unwrap());
    let mut combinations = 0_u32;
    let mut refused = std::collections::BTreeMap::new();
    for &role in Role::ALL {
        for expired in [false, true] {
            for &purpose in &named {
                for subject in STANDINGS {
                    for consent in [false, true] {
                        for view in VIEWS {
                            for purpose_required in [false, true] {
                                let asked =
                                    Question { role, expired, purpose, purpose_required, subject, consent, view };
                                for (field, value) in fields.iter().flat_map(|field| facts().map(move |v| (field, v))) {
                                    combinations += 1;
                                    if let Decision::Refuse(rule) = check(&asked, field, value) {
                                        *refused.entry(rule.as_str()).or_insert(0) += 1;
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    assert_eq!(combinations, COMBINATIONS);
    assert_eq!(refused.len(), Rule::ALL.len() - 1, "every other rule was the first to apply somewhere: {refused:?}");
}

fn check(asked: &Question<'_>, field: &FieldSpec, value: ValueFacts) -> Decision {
    let ceiling = match asked.purpose {
        Named::Purpose(purpose) => field.ceiling(purpose),
        _ => View::Last4,
    };
    let first = Rule::ALL.iter().copied().find(|&rule| applies(rule, asked, ceiling, value));
    let decision = decide(asked, field, value);
    match (decision, first) {
        (Decision::Refuse(rule), first) => assert_eq!(Some(rule), first, "{asked:?} {value:?}"),
        (Decision::Allow(view), None) => {
            assert!(view <= asked.view && view <= ceiling, "{asked:?}: {view}");
            // Nothing is lowered without need: what is shown is the lesser of both, or the mask of a kind that has no
            // last four digits.
            let lesser = asked.view.min(ceiling);
            let masked = lesser == View::Last4 && !field.has_last4();
            assert_eq!(view, if masked { View::Masked } else { lesser }, "{asked:?}");
        }
        (Decision::Allow(_), Some(rule)) => panic!("{asked:?} {value:?} is against {}", rule.as_str()),
    }
    // What refuses the whole read refuses every field of it, and the other way round.
    assert_eq!(admit(asked).err(), first.filter(|rule| !rule.is_of_field()), "{asked:?}");
    decision
}

fn decision(field: &str, view: View, purpose: Option<&str>) -> Decision {
    let schema = Schema::builtin();
    let field = schema.field(&FieldName::parse(field).unwrap()).unwrap();
    let purpose = match purpose {
        None => Named::Nothing,
        Some(name) => schema.purpose(name).map_or(Named::Undeclared, Named::Purpose),
    };
    let asked = Question {
        role: Role::Service,
        expired: false,
        purpose,
        purpose_required: false,
        subject: SubjectStanding::Active,
        consent: true,
        view,
    };
    decide(&asked, field, ValueFacts::default())
}

#[test]
fn a_bound_token_is_for_its_purpose_only() {
    let schema = Schema::builtin();
    let purpose = |name: &str| schema.purpose(name).unwrap();
    let bound = Purpose::parse("delivery").unwrap();
    let named = [
        (Named::Nothing, Err(Rule::TokenPurpose)),
        (Named::Undeclared, Err(Rule::PurposeUndeclared)),
        (Named::NotAllowed, Err(Rule::PurposeNotAllowed)),
        (Named::Purpose(purpose("delivery")), Ok(())),
        (Named::Purpose(purpose("support")), Err(Rule::TokenPurpose)),
    ];
    for &role in Role::ALL {
        for expired in [false, true] {
            for (purpose, of_bound) in named {
                for subject in STANDINGS {
                    for view in VIEWS {
                        let asked =
                            Question { role, expired, purpose, purpose_required: false, subject, consent: true, view };
                        assert_eq!(admit_token(&asked, None), admit(&asked), "unbound it is a read like any other");
                        let expected = match (expired, role.sees_values()) {
                            (true, _) => Err(Rule::TokenExpired),
                            (_, false) => Err(Rule::Role),
                            _ => of_bound.and_then(|()| admit(&asked)),
                        };
                        assert_eq!(admit_token(&asked, Some(&bound)), expected, "{asked:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn the_built_in_rules() {
    use View::{Full, Last4, Masked, None as Nothing};
    for (field, requested, purpose, shown) in [
        ("phone", Masked, None, Masked),
        ("phone", Last4, None, Last4),
        ("email", Last4, None, Masked),
        ("phone", Nothing, None, Nothing),
        ("birth_date", Full, Some("account"), Full),
        ("birth_date", Masked, Some("account"), Masked),
        ("home_address", Full, Some("delivery"), Full),
        ("email", Full, Some("delivery"), Masked),
        ("phone", Full, Some("support"), Last4),
        ("name", Full, Some("support"), Masked),
        ("email", Full, Some("marketing"), Full),
        ("location", Nothing, Some("marketing"), Nothing),
        ("device", Full, Some("security"), Full),
        ("phone", Full, Some("security"), Masked),
        ("phone", Last4, Some("security"), Masked),
    ] {
        let told = format!("{field} {requested} {purpose:?}");
        assert_eq!(decision(field, requested, purpose), Decision::Allow(shown), "{told}");
    }
    for (field, requested, purpose, rule) in [
        ("phone", Full, None, Rule::PurposeRequired),
        ("phone", Full, Some("curiosity"), Rule::PurposeUndeclared),
        ("phone", Masked, Some("curiosity"), Rule::PurposeUndeclared),
        ("birth_date", Full, Some("marketing"), Rule::FieldNotForPurpose),
        ("location", Masked, Some("marketing"), Rule::FieldNotForPurpose),
    ] {
        let told = format!("{field} {requested} {purpose:?}");
        assert_eq!(decision(field, requested, purpose), Decision::Refuse(rule), "{told}");
    }
}

/// The tables of the document, drawn from the code.
mod told {
    use super::*;

    /// Reads of a field that the purpose shows in full, asked for in full: who stands how, by what sort of purpose.
    fn standings() -> String {
        let schema = schema();
        let purpose = |name: &str| Named::Purpose(schema.purpose(name).unwrap());
        let columns = [
            ("no purpose", Named::Nothing, false),
            ("a purpose", purpose("contract_false_false_full"), false),
            ("exempt from restrictions", purpose("contract_true_false_full"), false),
            ("on consent, given", purpose("consent_false_false_full"), true),
            ("on consent, not given", purpose("consent_false_false_full"), false),
        ];
        let field = schema.field(&FieldName::parse("phone").unwrap()).unwrap();
        let mut table = format!("| subject | {} |\n", columns.map(|(title, ..)| title).join(" | "));
        table += &format!("|---|{}\n", "---|".repeat(columns.len()));
        for subject in STANDINGS {
            table += &format!("| {} |", word(subject));
            for (_, purpose, consent) in columns {
                let asked = Question {
                    role: Role::Service,
                    expired: false,
                    purpose,
                    purpose_required: false,
                    subject,
                    consent,
                    view: View::Full,
                };
                table += &format!(" {} |", cell(decide(&asked, field, ValueFacts::default())));
            }
            table.push('\n');
        }
        table
    }

    /// The view that is shown, by the one asked for and the most that the purpose shows.
    fn views() -> String {
        let schema = schema();
        let mut table =
            "| asked for | most is `none` | `masked` | `last4` | `full` |\n|---|---|---|---|---|\n".to_owned();
        for name in FIELDS {
            let field = schema.field(&FieldName::parse(name).unwrap()).unwrap();
            for view in VIEWS {
                table += &format!("| `{view}` of a {name} |");
                for most in VIEWS {
                    let purpose = Named::Purpose(schema.purpose(&format!("contract_false_false_{most}")).unwrap());
                    let (role, subject) = (Role::Service, SubjectStanding::Active);
                    let asked = Question {
                        role,
                        expired: false,
                        purpose,
                        purpose_required: false,
                        subject,
                        consent: false,
                        view,
                    };
                    table += &format!(" {} |", cell(decide(&asked, field, ValueFacts::default())));
                }
                table.push('\n');
            }
        }
        table
    }

    fn word(subject: SubjectStanding) -> &'static str {
        match subject {
            SubjectStanding::Active => "active",
            SubjectStanding::Restricted => "restricted",
            SubjectStanding::Held => "held",
            SubjectStanding::HeldAndRestricted => "held and restricted",
            SubjectStanding::Refused => "refused (F0)",
            SubjectStanding::Shredded => "shredded",
        }
    }

    fn cell(decision: Decision) -> String {
        match decision {
            Decision::Allow(view) => view.to_string(),
            Decision::Refuse(rule) => format!("`{}`", rule.as_str()),
        }
    }

    #[test]
    fn the_document_tells_what_the_code_decides() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policy.md");
        let Ok(text) = std::fs::read_to_string(path) else { panic!("docs/policy.md is missing") };
        let (thousands, rest) = (COMBINATIONS / 1000, COMBINATIONS % 1000);
        let told = format!("all {},{:03},{rest:03} combinations", thousands / 1000, thousands % 1000);
        assert!(text.contains(&told), "docs/policy.md needs: {told}");
        for table in [standings(), views()] {
            assert!(text.contains(&table), "docs/policy.md needs this table:\n{table}");
        }
        let rules: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let known = Rule::ALL.iter().map(|rule| rule.as_str()).collect::<Vec<_>>();
        let listed: Vec<_> = rules.into_iter().filter(|rule| known.contains(rule)).collect();
        assert_eq!(listed, known, "the rules in their order");
    }
}
