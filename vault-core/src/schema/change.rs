//! Which changes of a schema a vault that holds subjects takes: none that orphans or reinterprets what is stored.
//!
//! Stored values are never checked again, so a type may take less or more than it did; what has to stay is what their
//! rows, tags and lookup entries name.

use std::fmt;

use super::document::{Document, FieldDoc, Lookup};
use super::{Retention, Schema, document::Type};
use crate::ids::{Compartment, FieldName, Purpose};

/// A change that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeError {
    /// The line of the new document, where it is known.
    pub line: Option<usize>,
    /// What it would break.
    pub refusal: Refusal,
}

/// What a change would break.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Values of the field would be held and unreachable.
    #[error(
        "no field has the id `{0}` any more, and subjects may hold values of it: keep it with `retired = true`; \
         a renamed field keeps its old name as `id`"
    )]
    FieldGone(FieldName),
    /// Stored values would be read as something that they are not.
    #[error(
        "`{field}` was `{}` and would be `{}`, and stored values cannot be read so: keep the type, \
         and declare a new field with an `id` of its own", was.as_str(), becomes.as_str()
    )]
    TypeChanged {
        /// The field, by its new name.
        field: FieldName,
        /// Its type.
        was: Type,
        /// The type it would have.
        becomes: Type,
    },
    /// Stored values are sealed under the key of the old compartment.
    #[error(
        "`{field}` is sealed in the compartment `{was}` and would be looked for in `{becomes}`: keep the compartment, \
         and declare a new field with an `id` of its own"
    )]
    CompartmentChanged {
        /// The field, by its new name.
        field: FieldName,
        /// Its compartment.
        was: Compartment,
        /// The compartment it would have.
        becomes: Compartment,
    },
    /// Subjects that hold a value already would not be found by it.
    #[error(
        "`{0}` had no lookup, and values that are stored have no entries: leave `exact` out, \
         or declare a new field with the lookup and write the values to it"
    )]
    LookupAdded(FieldName),
    /// Who reads the name would get the values of another field.
    #[error(
        "`{0}` was the name of another field, and who reads it would get values that he did not ask for: give the field \
         a name that is not in use"
    )]
    NameMoved(FieldName),
    /// Consents, callers and metadata name the purpose.
    #[error(
        "the purpose `{0}` is gone, and consents, callers and metadata may name it: keep it; \
         without views of fields and with `default_view = \"none\"` it reads nothing"
    )]
    PurposeGone(Purpose),
    /// Keys of subjects are of the compartment.
    #[error("the compartment `{0}` is gone, and subjects may have keys of it: keep it, without fields if need be")]
    CompartmentGone(Compartment),
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        self.refusal.fmt(f)
    }
}

impl std::error::Error for ChangeError {}

/// Whether the vault takes `new` in place of `old`; one that holds no subjects takes anything.
///
/// # Errors
/// The first change that would break something, with a way out.
pub fn check(old: &Schema, new: &Document, holds_subjects: bool) -> Result<(), ChangeError> {
    if !holds_subjects {
        return Ok(());
    }
    let old = old.document();
    for (name, field) in old.fields.iter() {
        let id = field.id(name);
        let kept = new.fields.iter().find(|(name, field)| field.id(name) == id);
        let (new_name, kept) = kept.ok_or_else(|| refuse(new, "fields", Refusal::FieldGone(id.clone())))?;
        check_field(field, new_name, kept)
            .map_err(|(key, refusal)| refuse(new, &format!("fields.{new_name}.{key}"), refusal))?;
    }
    let moved = new
        .fields
        .iter()
        .find(|(name, field)| old.fields.find(name).is_some_and(|before| before.id(name) != field.id(name)));
    if let Some((name, _)) = moved {
        return Err(refuse(new, &format!("fields.{name}"), Refusal::NameMoved(name.clone())));
    }
    if let Some((gone, _)) = old.purposes.iter().find(|(name, _)| new.purposes.find(name).is_none()) {
        return Err(refuse(new, "purposes", Refusal::PurposeGone(gone.clone())));
    }
    let profile = Compartment::profile();
    let gone = old.compartments.iter().find(|(name, _)| **name != profile && new.compartments.find(name).is_none());
    match gone {
        Some((gone, _)) => Err(refuse(new, "compartments", Refusal::CompartmentGone(gone.clone()))),
        None => Ok(()),
    }
}

/// The fields of `new` whose stored values are kept for less long than under `old`: older ones will be forgotten for good.
pub fn forgets<'n>(old: &Schema, new: &'n Document) -> Vec<&'n FieldName> {
    let seconds = |field: &FieldDoc| field.retention.map_or(u64::MAX, Retention::seconds);
    let shorter = new.fields.iter().filter(|(name, field)| {
        let before = old.document().fields.iter().find(|(before, doc)| doc.id(before) == field.id(name));
        before.is_some_and(|(_, before)| seconds(before) > seconds(field))
    });
    shorter.map(|(name, _)| name).collect()
}

fn check_field(old: &FieldDoc, name: &FieldName, new: &FieldDoc) -> Result<(), (&'static str, Refusal)> {
    let field = name.clone();
    if old.kind != new.kind {
        return Err(("type", Refusal::TypeChanged { field, was: old.kind, becomes: new.kind }));
    }
    let (was, becomes) = (old.compartment(), new.compartment());
    if was != becomes {
        return Err(("compartment", Refusal::CompartmentChanged { field, was, becomes }));
    }
    let exact = |field: &FieldDoc| field.lookup.contains(&Lookup::Exact);
    if exact(new) && !exact(old) {
        return Err(("lookup", Refusal::LookupAdded(field)));
    }
    Ok(())
}

fn refuse(new: &Document, path: &str, refusal: Refusal) -> ChangeError {
    // What is gone has no line; the table that it is gone from says little.
    let gone = matches!(refusal, Refusal::FieldGone(_) | Refusal::PurposeGone(_) | Refusal::CompartmentGone(_));
    ChangeError { line: if gone { None } else { new.line(path) }, refusal }
}
