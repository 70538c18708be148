//! Which fields exist, what each accepts, how it is looked up and how much of it a reader sees.
//!
//! Pure: no keys, no store, no clock. A value enters as the JSON text the caller sent, is checked by its field's kind and
//! leaves as a [`FieldValue`]: the text as given, byte for byte, beside its normal form. A [`Schema`] is plain data, so
//! that a declared document can replace [`Schema::builtin`] without a change to those who read it.

mod builtin;
mod bytes;
mod card;
pub mod change;
mod compile;
mod decimal;
mod document;
mod document_error;
mod email;
mod error;
mod json;
mod kind;
mod mask;
mod named;
mod national_id;
mod number;
mod parameter;
mod phone;
mod place;
mod plain;
mod text;
mod url;
mod value;
mod view;

use zeroize::Zeroizing;

use crate::ids::{Compartment, FieldName, Purpose};
use crate::words::word_enum;
use kind::Expected;

pub(crate) use card::checks as card_number_checks;
pub use compile::{COMPARTMENTS_MAX, FIELDS_MAX, PURPOSES_MAX};
pub use document::{CompartmentDoc, DOCUMENT_MAX, Document, FieldDoc, Lookup, Mask, PurposeDoc, Type};
pub use document_error::DocumentError;
pub use error::SchemaError;
pub use kind::{DecimalRange, FieldKind, Pattern};
pub use named::Named;
pub use parameter::{Bound, Retention};
pub use value::FieldValue;
pub use view::{Form, ParseFormError, ParseViewError, View};

/// The largest value, in bytes of JSON text.
pub const VALUE_MAX: usize = 32 * 1024;

/// The declared fields and purposes; anything else is refused.
#[derive(Clone, Debug)]
pub struct Schema {
    /// The version that sealed fields name in their bytes.
    pub version: u16,
    fields: Vec<FieldSpec>,
    /// Places in `fields`, sorted by name and by id.
    by_name: Vec<usize>,
    by_id: Vec<usize>,
    purposes: Vec<PurposeSpec>,
    document: Document,
}

impl Schema {
    /// The schema of a new vault: registration data, all in the compartment `profile`.
    pub fn builtin() -> Self {
        builtin::schema()
    }

    fn assemble(version: u16, fields: Vec<FieldSpec>, purposes: Vec<PurposeSpec>, document: Document) -> Self {
        let mut by_name: Vec<_> = (0..fields.len()).collect();
        let mut by_id = by_name.clone();
        by_name.sort_by_key(|&at| &fields[at].name);
        by_id.sort_by_key(|&at| &fields[at].id);
        Self { version, fields, by_name, by_id, purposes, document }
    }

    /// What it was compiled from.
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// Whether every read and lookup has to name a purpose, and not only a full view.
    pub fn purpose_required(&self) -> bool {
        self.document.purpose_required
    }

    /// The declaration of a field.
    ///
    /// # Errors
    /// [`SchemaError::UnknownField`] if there is none of this name.
    pub fn field(&self, name: &FieldName) -> Result<&FieldSpec, SchemaError> {
        let found = self.by_name.binary_search_by_key(&name, |&at| &self.fields[at].name);
        found.map(|at| &self.fields[self.by_name[at]]).map_err(|_| SchemaError::UnknownField(name.clone()))
    }

    /// The declaration of the field that rows name by this id; `None` if there is none.
    pub fn field_by_id(&self, id: &FieldName) -> Option<&FieldSpec> {
        let found = self.by_id.binary_search_by_key(&id, |&at| &self.fields[at].id);
        found.ok().map(|at| &self.fields[self.by_id[at]])
    }

    /// All fields, in the order they were declared.
    pub fn fields(&self) -> impl Iterator<Item = &FieldSpec> {
        self.fields.iter()
    }

    /// The declaration of a purpose; `None` if it is not declared.
    pub fn purpose(&self, name: &str) -> Option<&PurposeSpec> {
        self.purposes.iter().find(|purpose| purpose.name.as_str() == name)
    }

    /// All purposes, in the order they were declared.
    pub fn purposes(&self) -> impl Iterator<Item = &PurposeSpec> {
        self.purposes.iter()
    }
}

word_enum! {
    /// How much care a field needs.
    Sensitivity {
        /// Personal data.
        Personal = "personal",
        /// Data that could do particular harm (GDPR 9, PIPL 28): its mask tells nothing of its length.
        Sensitive = "sensitive",
    }
}

word_enum! {
    /// Why a purpose may process personal data (GDPR 6).
    Basis {
        /// The subject agreed, and may withdraw.
        Consent = "consent",
        /// A contract with the subject needs it.
        Contract = "contract",
        /// The law demands it.
        LegalObligation = "legal_obligation",
        /// Somebody's life depends on it.
        VitalInterest = "vital_interest",
        /// A task in the public interest.
        PublicTask = "public_task",
        /// An interest that outweighs the subject's.
        LegitimateInterest = "legitimate_interest",
    }
}

/// The declaration of one field.
#[derive(Clone, Debug)]
pub struct FieldSpec {
    /// What rows, tags and sealed bytes name it by: the name it was first declared under. Survives renaming.
    pub id: FieldName,
    /// Its name now.
    pub name: FieldName,
    /// The compartment whose key seals it.
    pub compartment: Compartment,
    /// What it accepts.
    pub kind: FieldKind,
    /// How much care it needs.
    pub sensitivity: Sensitivity,
    /// Whether subjects can be found by its exact value.
    pub lookup: bool,
    /// Whether subjects can be found by its last four digits together with another field's exact value.
    pub last4: bool,
    /// How long a value may be kept after it was written, in seconds; `None` for as long as its subject.
    pub retention: Option<u64>,
    /// Readable, and no longer writable.
    pub retired: bool,
    /// Its mask shows nothing, and neither does a view of its last four digits.
    hidden: bool,
    /// The most that each purpose shows of it, sorted by purpose; one that is not here shows what it shows of any field.
    views: Vec<(Purpose, View)>,
}

impl FieldSpec {
    /// Checks a value, given as JSON text, and keeps it as given beside its normal form.
    ///
    /// # Errors
    /// [`SchemaError::Invalid`], which never repeats the value; `null` is not a value.
    pub fn parse(&self, raw_json: &str) -> Result<FieldValue, SchemaError> {
        let given = self.bounded(raw_json)?;
        let normal = self.kind.normalise(given).map_err(|e| self.invalid(e))?;
        Ok(FieldValue::new(given, normal))
    }

    /// The bytes a lookup tag is computed over; `None` if the field has no lookup.
    pub fn lookup_form(&self, value: &FieldValue) -> Option<Zeroizing<Vec<u8>>> {
        self.lookup.then(|| json::lookup_bytes(value.normal()))
    }

    /// The lookup form of a searched value; a phone number may be in national form beside its `region`.
    ///
    /// # Errors
    /// [`SchemaError::NotLookup`] for a field without lookup, [`SchemaError::Invalid`] for a value that it could not
    /// hold, or for a region where the field takes none.
    pub fn lookup_query(&self, raw_json: &str, region: Option<&str>) -> Result<Zeroizing<Vec<u8>>, SchemaError> {
        if !self.lookup {
            return Err(SchemaError::NotLookup { field: self.name.clone() });
        }
        let normal = match region {
            None => self.kind.normalise_search(self.bounded(raw_json)?).map_err(|e| self.invalid(e))?,
            Some(region) if self.kind == FieldKind::Phone => {
                phone::normalise_national(raw_json, region).map_err(|e| self.invalid(e))?
            }
            Some(_) => return Err(self.invalid("a value without a region")),
        };
        Ok(json::lookup_bytes(&normal))
    }

    /// What a reader gets, as JSON text; `None` for [`View::None`].
    ///
    /// A mask is made from the normal form, whatever `form` says. [`View::Last4`] of a kind that has no such view shows
    /// the mask; [`crate::policy`] lowers it beforehand, so that the reader is told.
    pub fn show(&self, value: &FieldValue, view: View, form: Form) -> Option<Zeroizing<String>> {
        match (view, form) {
            (View::None, _) => None,
            (View::Masked | View::Last4, _) if self.hidden => Some(mask::hidden()),
            (View::Masked, _) => Some(mask::masked(&self.kind, self.sensitivity, value.normal())),
            (View::Last4, _) if !self.has_last4() => Some(mask::masked(&self.kind, self.sensitivity, value.normal())),
            (View::Last4, _) => Some(mask::last4(&self.kind, self.sensitivity, value.normal())),
            (View::Full, Form::Given) => Some(Zeroizing::new(value.given().to_owned())),
            (View::Full, Form::Normal) => Some(Zeroizing::new(value.normal().to_owned())),
        }
    }

    /// Whether there is a view of its last four digits.
    pub fn has_last4(&self) -> bool {
        // Whether a number has fewer digits than that tells of its length.
        self.kind.has_last4() && !self.hidden && self.sensitivity == Sensitivity::Personal
    }

    /// The last four digits of a phone number, without its country, or of a card; `None` if it has none, or is so short
    /// that they would give it away.
    pub(crate) fn last4_of(&self, value: &FieldValue) -> Option<Zeroizing<String>> {
        mask::last4_digits(&self.kind, value.normal())
    }

    /// The most that a purpose shows of this field; [`View::None`] if the field is none of its business.
    pub fn ceiling(&self, purpose: &PurposeSpec) -> View {
        let found = self.views.binary_search_by_key(&&purpose.name, |(name, _)| name);
        found.map_or(purpose.otherwise, |at| self.views[at].1)
    }

    /// The text of the value without white space around it.
    fn bounded<'a>(&self, raw_json: &'a str) -> Result<&'a str, SchemaError> {
        let given = raw_json.trim_matches([' ', '\t', '\r', '\n']);
        if given.len() > VALUE_MAX { Err(self.invalid("at most 32 KiB of JSON")) } else { Ok(given) }
    }

    fn invalid(&self, expected: impl Into<Expected>) -> SchemaError {
        SchemaError::Invalid { field: self.name.clone(), expected: expected.into() }
    }
}

/// The declaration of one purpose.
#[derive(Clone, Debug)]
pub struct PurposeSpec {
    /// Its name.
    pub name: Purpose,
    /// Why it may process personal data.
    pub basis: Basis,
    /// Whether it goes on while a subject's processing is restricted.
    pub under_restriction: bool,
    /// Whether it makes automated decisions.
    pub automated: bool,
    /// The most it shows of a field that says nothing else.
    pub otherwise: View,
}

impl PurposeSpec {
    /// Whether it may read only while the subject's consent to it is given.
    pub fn needs_consent(&self) -> bool {
        self.basis == Basis::Consent
    }
}

#[cfg(test)]
mod tests;
