//! The schema as people write it: one document, as TOML or as JSON of the same shape.
//!
//! Reading checks the shape only; [`Schema::compile`](super::Schema::compile) checks that the parts fit together.

use serde::{Deserialize, Deserializer, Serialize};

use super::document_error::DocumentError;
use super::named::{Entry, Named, table};
use super::parameter::{Bound, Retention};
use super::place::Places;
use super::{Basis, Sensitivity, View};
use crate::ids::{Compartment, FieldName, Purpose};
use crate::words::word_enum;

/// The largest document, in bytes: of what is read, and of its JSON form.
pub const DOCUMENT_MAX: usize = 256 * 1024;

/// A schema as declared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Whether every read and lookup names a purpose, and not only a full view.
    #[serde(default, skip_serializing_if = "is_false")]
    pub purpose_required: bool,
    /// Why values are read.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub purposes: Named<Purpose, PurposeDoc>,
    /// What can be shredded apart; `profile` need not be declared.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub compartments: Named<Compartment, CompartmentDoc>,
    /// What is held.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub fields: Named<FieldName, FieldDoc>,
    #[serde(skip)]
    places: Places,
}

/// A purpose as declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PurposeDoc {
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Why it may process personal data.
    pub basis: Basis,
    /// The most it shows of a field that does not name it; left out, nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_view: Option<View>,
    /// Whether it goes on while a subject's processing is restricted.
    #[serde(default, skip_serializing_if = "is_false")]
    pub under_restriction: bool,
    /// Whether it makes automated decisions.
    #[serde(default, skip_serializing_if = "is_false")]
    pub automated: bool,
}

/// A compartment as declared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CompartmentDoc {
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// A field as declared. Which of the parameters a type takes is for the compiler to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldDoc {
    /// What stored data names it by; left out, its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<FieldName>,
    /// What it is, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What it accepts.
    #[serde(rename = "type")]
    pub kind: Type,
    /// The decimals of a degree that the mask of a `location` keeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<u8>,
    /// What a `national_id` looks like as a whole: a regular expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// The least `integer` or `decimal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Bound>,
    /// The greatest `integer` or `decimal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Bound>,
    /// The longest `text`, in characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<u32>,
    /// Whether a `text` may have several lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiline: Option<bool>,
    /// What an `enum` may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<String>>,
    /// The largest `json`, in bytes of its text, or `bytes`, decoded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u32>,
    /// The compartment whose key seals it; left out, `profile`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compartment: Option<Compartment>,
    /// How much care it needs; left out, `personal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitivity: Option<Sensitivity>,
    /// How subjects are found by it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lookup: Vec<Lookup>,
    /// What a masked view shows; left out, the mask of its type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<Mask>,
    /// How long a value may be kept; left out, as long as its subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// Readable, and no longer writable.
    #[serde(default, skip_serializing_if = "is_false")]
    pub retired: bool,
    /// The most that each purpose shows of it.
    #[serde(default, skip_serializing_if = "Named::is_empty")]
    pub purposes: Named<Purpose, View>,
}

word_enum! {
    /// The types of fields, as a document names them.
    Type {
        /// A phone number.
        Phone = "phone",
        /// An e-mail address.
        Email = "email",
        /// A person's name.
        Name = "name",
        /// A postal address.
        Address = "address",
        /// A calendar date.
        Date = "date",
        /// An IP address.
        Ip = "ip",
        /// A JSON object.
        Object = "object",
        /// A position on earth.
        Location = "location",
        /// A web address.
        Url = "url",
        /// A number or code that a state gave.
        NationalId = "national_id",
        /// A number like those on payment cards.
        Card = "card",
        /// A whole number.
        Integer = "integer",
        /// A number kept exactly.
        Decimal = "decimal",
        /// Text.
        Text = "text",
        /// One of a few words.
        Enum = "enum",
        /// Any JSON.
        Json = "json",
        /// Bytes as base64.
        Bytes = "bytes",
    }
}

word_enum! {
    /// How subjects are found by a field.
    Lookup {
        /// By its value.
        Exact = "exact",
        /// By its last four digits, together with another field's value.
        Last4 = "last4",
    }
}

word_enum! {
    /// What a masked view of a field shows.
    Mask {
        /// What its type gives away.
        Default = "default",
        /// Nothing.
        Hidden = "hidden",
    }
}

impl Document {
    /// Reads TOML.
    ///
    /// # Errors
    /// With the line and column of what is not understood.
    pub fn from_toml(text: &str) -> Result<Self, DocumentError> {
        DocumentError::check_size(text.len())?;
        let read = toml::Deserializer::parse(text).and_then(table::<Self, _>);
        let mut document = read.map_err(|e| DocumentError::in_toml(text, &e))?;
        document.places = Places::in_toml(text);
        document.order_as_written();
        Ok(document)
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// With the line and column of what is not understood.
    pub fn from_json(text: &str) -> Result<Self, DocumentError> {
        DocumentError::check_size(text.len())?;
        let mut input = serde_json::Deserializer::from_str(text);
        let read = table(&mut input).and_then(|document| input.end().map(|()| document));
        read.map_err(|e| DocumentError::in_json(&e))
    }

    /// Compact JSON, always the same for the same document: what is stored and served.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a document is made of names, texts and numbers")
    }

    /// TOML, for people to edit.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a document is made of names, texts and numbers")
    }

    /// The line of the TOML on which `path` or the innermost table around it stands; `None` for JSON.
    pub(super) fn line(&self, path: &str) -> Option<usize> {
        self.places.line(path)
    }

    /// TOML is read sorted by name.
    fn order_as_written(&mut self) {
        let places = &self.places;
        self.purposes.order_by(|name| places.rank(&format!("purposes.{name}")));
        self.compartments.order_by(|name| places.rank(&format!("compartments.{name}")));
        self.fields.order_by(|name| places.rank(&format!("fields.{name}")));
        let names: Vec<_> = self.fields.iter().map(|(name, _)| name.clone()).collect();
        for (name, field) in names.iter().zip(self.fields.entries_mut()) {
            field.purposes.order_by(|purpose| places.rank(&format!("fields.{name}.purposes.{purpose}")));
        }
    }
}

impl<'de> Entry<'de> for PurposeDoc {
    fn read<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        table(input)
    }
}

impl<'de> Entry<'de> for CompartmentDoc {
    fn read<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        table(input)
    }
}

impl<'de> Entry<'de> for FieldDoc {
    fn read<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        table(input)
    }
}

impl<'de> Entry<'de> for View {
    fn read<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        Self::deserialize(input)
    }
}

impl FieldDoc {
    /// What stored data names it by.
    pub fn id<'a>(&'a self, name: &'a FieldName) -> &'a FieldName {
        self.id.as_ref().unwrap_or(name)
    }

    /// The compartment whose key seals it.
    pub fn compartment(&self) -> Compartment {
        self.compartment.clone().unwrap_or_else(Compartment::profile)
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}
