//! Who sees what: the one place where a read is decided.
//!
//! Pure: no store, no clock, no keys. A reading gathers the facts ([`Question`], [`ValueFacts`]) and asks; what it gets is
//! a view to show, or the name of the first rule that refuses. `docs/policy.md` has the rules as a table.

mod role;

pub use role::Role;

use crate::ids::Purpose;
use crate::schema::{FieldSpec, PurposeSpec, Schema, View};
use crate::words::word_enum;

word_enum! {
    /// Why something is refused. The first rule that applies decides, in this order.
    Rule {
        /// The API token has expired.
        TokenExpired = "token_expired",
        /// The role of the caller sees no values.
        Role = "role",
        /// The purpose is not one that the schema declares.
        PurposeUndeclared = "purpose_undeclared",
        /// The purpose is not among those of the caller.
        PurposeNotAllowed = "purpose_not_allowed",
        /// The value token is bound to another purpose.
        TokenPurpose = "token_purpose",
        /// The subject is refused or shredded: nothing can be read any more.
        Shredded = "shredded",
        /// Processing is restricted, and the purpose is not exempt.
        Restricted = "restricted",
        /// A full view needs a purpose.
        PurposeRequired = "purpose_required",
        /// The purpose rests on consent, and the subject's is not given.
        ConsentMissing = "consent_missing",
        /// The purpose shows nothing of this field.
        FieldNotForPurpose = "field_not_for_purpose",
        /// The time for which the value may be kept is over.
        ValueExpired = "value_expired",
        /// The subject objects to this use of the value.
        Objection = "objection",
        /// The value was given for other purposes.
        ValueNotForPurpose = "value_not_for_purpose",
        /// The value may not serve automated decisions, and the purpose makes them.
        NoAutomatedDecisions = "no_automated_decisions",
    }
}

impl Rule {
    /// Whether it refuses this one field only, so that a read that names no field goes on without it.
    pub fn is_of_field(self) -> bool {
        matches!(
            self,
            Self::FieldNotForPurpose
                | Self::ValueExpired
                | Self::Objection
                | Self::ValueNotForPurpose
                | Self::NoAutomatedDecisions
        )
    }
}

/// The purpose that a request names, as it stands towards schema and caller.
#[derive(Clone, Copy, Debug)]
pub enum Named<'a> {
    /// None.
    Nothing,
    /// One that the schema does not declare.
    Undeclared,
    /// A declared one that the caller may not name.
    NotAllowed,
    /// A declared one that the caller may name.
    Purpose(&'a PurposeSpec),
}

impl<'a> Named<'a> {
    /// The purpose of this name, for a caller of this role and these purposes; an admin may name any that is declared.
    pub fn of(schema: &'a Schema, role: Role, allowed: &[Purpose], name: Option<&str>) -> Self {
        let Some(name) = name else { return Self::Nothing };
        match schema.purpose(name) {
            None => Self::Undeclared,
            Some(purpose) if role == Role::Admin || allowed.contains(&purpose.name) => Self::Purpose(purpose),
            Some(_) => Self::NotAllowed,
        }
    }

    /// The purpose, if one is named.
    ///
    /// # Errors
    /// The rule that forbids to name it.
    pub fn check(self) -> Result<Option<&'a PurposeSpec>, Rule> {
        match self {
            Self::Undeclared => Err(Rule::PurposeUndeclared),
            Self::NotAllowed => Err(Rule::PurposeNotAllowed),
            Self::Nothing => Ok(None),
            Self::Purpose(purpose) => Ok(Some(purpose)),
        }
    }
}

/// How a subject stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SubjectStanding {
    /// In use.
    Active,
    /// Its processing is restricted.
    Restricted,
    /// Under a legal hold: it may be read, and not be shredded.
    Held,
    /// Under a hold, and restricted.
    HeldAndRestricted,
    /// Its shred is durable, and not final yet.
    Refused,
    /// Shredded.
    Shredded,
}

/// Who asks, why, and for whom: what is the same for every field of one read.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The caller's role.
    pub role: Role,
    /// Whether its API token has expired.
    pub expired: bool,
    /// The purpose it names.
    pub purpose: Named<'a>,
    /// Whether the schema wants a purpose for every view, and not only the full one.
    pub purpose_required: bool,
    /// How the subject stands.
    pub subject: SubjectStanding,
    /// Whether the subject's consent to the purpose is given.
    pub consent: bool,
    /// How much is asked for.
    pub view: View,
}

impl<'a> Question<'a> {
    /// The same question about a certain subject, which consents to these purposes.
    #[must_use]
    pub fn about(self, subject: SubjectStanding, consents: &[Purpose]) -> Self {
        let consent = self.purpose_name().is_some_and(|purpose| consents.contains(purpose));
        Self { subject, consent, ..self }
    }

    /// The purpose that is named, if it may be.
    pub fn purpose_name(&self) -> Option<&'a Purpose> {
        match self.purpose {
            Named::Purpose(purpose) => Some(&purpose.name),
            _ => None,
        }
    }
}

/// What is known of one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ValueFacts {
    /// Its time is over.
    pub expired: bool,
    /// The subject objects to the purpose for it.
    pub objection: bool,
    /// It was given for certain purposes, and this is none of them.
    pub other_purposes: bool,
    /// It may not serve automated decisions.
    pub no_automated: bool,
}

/// What a reader gets of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Show it so; a view lower than the requested one is told to the reader.
    Allow(View),
    /// Show nothing, and name the rule.
    Refuse(Rule),
}

/// The rules that do not depend on the field.
///
/// # Errors
/// The first rule that refuses the whole read.
pub fn admit(asked: &Question<'_>) -> Result<(), Rule> {
    use SubjectStanding::{HeldAndRestricted, Refused, Restricted, Shredded};
    let purpose = admit_caller(asked)?;
    let exempt = purpose.is_some_and(|p| p.under_restriction);
    match asked.subject {
        Refused | Shredded => return Err(Rule::Shredded),
        Restricted | HeldAndRestricted if !exempt => return Err(Rule::Restricted),
        _ => {}
    }
    match purpose {
        None if asked.view == View::Full || (asked.purpose_required && asked.view != View::None) => {
            Err(Rule::PurposeRequired)
        }
        Some(purpose) if purpose.needs_consent() && !asked.consent => Err(Rule::ConsentMissing),
        _ => Ok(()),
    }
}

/// The same for a read by a value token, which may be bound to a purpose: it then resolves for no other, and for none
/// without one.
///
/// # Errors
/// The first rule that refuses the whole read.
pub fn admit_token(asked: &Question<'_>, bound: Option<&Purpose>) -> Result<(), Rule> {
    let purpose = admit_caller(asked)?;
    if bound.is_some_and(|bound| purpose.is_none_or(|purpose| purpose.name != *bound)) {
        return Err(Rule::TokenPurpose);
    }
    admit(asked)
}

/// The rules that depend on the caller and the purpose alone; answers the purpose.
fn admit_caller<'a>(asked: &Question<'a>) -> Result<Option<&'a PurposeSpec>, Rule> {
    if asked.expired {
        return Err(Rule::TokenExpired);
    }
    if !asked.role.sees_values() {
        return Err(Rule::Role);
    }
    asked.purpose.check()
}

/// Decides what a reader gets of a field: the requested view, lowered to what the purpose allows and the kind has.
///
/// Without a purpose a mask is the most there is; a full view is then refused rather than lowered, for the reader forgot
/// something that he can add.
pub fn decide(asked: &Question<'_>, field: &FieldSpec, value: ValueFacts) -> Decision {
    match admit(asked) {
        Ok(()) => decide_field(asked, field, value),
        Err(rule) => Decision::Refuse(rule),
    }
}

/// The rules of one field, for a read that is admitted.
pub fn decide_field(asked: &Question<'_>, field: &FieldSpec, value: ValueFacts) -> Decision {
    let purpose = match asked.purpose {
        Named::Purpose(purpose) => Some(purpose),
        _ => None,
    };
    let ceiling = purpose.map_or(View::Last4, |purpose| field.ceiling(purpose));
    let automated = purpose.is_some_and(|p| p.automated);
    let rule = if asked.view != View::None && ceiling == View::None {
        Some(Rule::FieldNotForPurpose)
    } else if value.expired {
        Some(Rule::ValueExpired)
    } else if value.objection {
        Some(Rule::Objection)
    } else if value.other_purposes {
        Some(Rule::ValueNotForPurpose)
    } else if value.no_automated && automated {
        Some(Rule::NoAutomatedDecisions)
    } else {
        None
    };
    match (rule, asked.view.min(ceiling)) {
        (Some(rule), _) => Decision::Refuse(rule),
        (None, View::Last4) if !field.has_last4() => Decision::Allow(View::Masked),
        (None, view) => Decision::Allow(view),
    }
}

#[cfg(test)]
mod tests;
