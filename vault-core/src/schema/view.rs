//! How much of a value a reader may see, and in which form.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

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
