//! How much of a field a reader gets: one pure decision.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{FieldSpec, Schema};
use crate::ids::Purpose;

/// Rule: a full view needs a purpose.
pub const RULE_PURPOSE_REQUIRED: &str = "purpose_required";
/// Rule: the purpose is not one that the schema declares.
pub const RULE_PURPOSE_UNDECLARED: &str = "purpose_undeclared";
/// Rule: the purpose shows nothing of this field.
pub const RULE_FIELD_NOT_FOR_PURPOSE: &str = "field_not_for_purpose";

/// How much of a value is shown; ordered from nothing to everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum View {
    /// Nothing: that the field is held, at most.
    None,
    /// Enough to recognise a value one knows, not enough to learn it.
    Masked,
    /// The last four digits of a phone number.
    Last4,
    /// The whole value.
    Full,
}

/// Which form of a value a full view shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// As the caller sent it, byte for byte.
    #[default]
    Given,
    /// The normal form.
    Normal,
}

/// The text names no view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a view is one of none, masked, last4, full")]
pub struct ParseViewError;

/// The text names no form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a form is one of given, normal")]
pub struct ParseFormError;

impl FromStr for View {
    type Err = ParseViewError;

    fn from_str(text: &str) -> Result<Self, ParseViewError> {
        [Self::None, Self::Masked, Self::Last4, Self::Full]
            .into_iter()
            .find(|view| view.name() == text)
            .ok_or(ParseViewError)
    }
}

impl View {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Masked => "masked",
            Self::Last4 => "last4",
            Self::Full => "full",
        }
    }
}

impl std::fmt::Display for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Form {
    type Err = ParseFormError;

    fn from_str(text: &str) -> Result<Self, ParseFormError> {
        match text {
            "given" => Ok(Self::Given),
            "normal" => Ok(Self::Normal),
            _ => Err(ParseFormError),
        }
    }
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Given => "given",
            Self::Normal => "normal",
        })
    }
}

/// What a reader gets of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Show it so; a view lower than the requested one is told to the reader.
    Allow(View),
    /// Show nothing, and name the rule when the field was asked for by name.
    Refuse {
        /// One of the `RULE_…` names.
        rule: &'static str,
    },
}

/// Decides what a reader gets of a field: the requested view, lowered to what the purpose allows and the kind has.
///
/// Without a purpose a mask is the most there is; a full view is then refused rather than lowered, for the reader forgot
/// something that he can add.
pub fn decide(schema: &Schema, field: &FieldSpec, requested: View, purpose: Option<&Purpose>) -> Decision {
    let ceiling = match purpose.map(|name| schema.purpose(name.as_str())) {
        None if requested == View::Full => return refuse(RULE_PURPOSE_REQUIRED),
        None => View::Last4,
        Some(None) => return refuse(RULE_PURPOSE_UNDECLARED),
        Some(Some(purpose)) => purpose.ceiling(&field.name),
    };
    if ceiling == View::None && requested != View::None {
        return refuse(RULE_FIELD_NOT_FOR_PURPOSE);
    }
    match requested.min(ceiling) {
        View::Last4 if !field.kind.has_last4() => Decision::Allow(View::Masked),
        view => Decision::Allow(view),
    }
}

fn refuse(rule: &'static str) -> Decision {
    Decision::Refuse { rule }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ids::FieldName;

    fn decision(field: &str, requested: View, purpose: Option<&str>) -> Decision {
        let schema = Schema::builtin();
        let field = schema.field(&FieldName::parse(field).unwrap()).unwrap();
        let purpose = purpose.map(|name| Purpose::parse(name).unwrap());
        decide(&schema, field, requested, purpose.as_ref())
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
            ("phone", Full, None, RULE_PURPOSE_REQUIRED),
            ("phone", Full, Some("curiosity"), RULE_PURPOSE_UNDECLARED),
            ("phone", Masked, Some("curiosity"), RULE_PURPOSE_UNDECLARED),
            ("birth_date", Full, Some("marketing"), RULE_FIELD_NOT_FOR_PURPOSE),
            ("location", Masked, Some("marketing"), RULE_FIELD_NOT_FOR_PURPOSE),
        ] {
            let told = format!("{field} {requested} {purpose:?}");
            assert_eq!(decision(field, requested, purpose), Decision::Refuse { rule }, "{told}");
        }
    }

    #[test]
    fn no_decision_shows_more_than_was_asked_for() {
        let schema = Schema::builtin();
        for purpose in schema.purposes() {
            for field in schema.fields() {
                for requested in [View::None, View::Masked, View::Last4, View::Full] {
                    let decision = decide(&schema, field, requested, Some(&purpose.name));
                    if let Decision::Allow(view) = decision {
                        assert!(view <= requested && view <= purpose.ceiling(&field.name));
                    }
                }
            }
        }
    }

    #[test]
    fn names_round_trip() {
        for view in [View::None, View::Masked, View::Last4, View::Full] {
            assert_eq!(view.to_string().parse(), Ok(view));
            assert_eq!(serde_json::to_string(&view).unwrap(), format!("\"{view}\""));
        }
        for form in [Form::Given, Form::Normal] {
            assert_eq!(form.to_string().parse(), Ok(form));
            assert_eq!(serde_json::to_string(&form).unwrap(), format!("\"{form}\""));
        }
        assert_eq!("FULL".parse::<View>(), Err(ParseViewError));
        assert_eq!("raw".parse::<Form>(), Err(ParseFormError));
    }
}
