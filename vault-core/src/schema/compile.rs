//! From a document to a schema: whether its parts fit together.

use std::collections::BTreeMap;

use super::decimal::Decimal;
use super::document::{Document, FieldDoc, Lookup, Mask, Type};
use super::document_error::DocumentError;
use super::kind::{DecimalRange, FieldKind, Pattern};
use super::parameter::{Bound, Retention};
use super::{FieldSpec, PurposeSpec, Schema, Sensitivity, View, bytes, text};
use crate::ids::{Compartment, FieldName, Purpose};

/// The most fields of a schema.
pub const FIELDS_MAX: usize = 256;
/// The most purposes of a schema.
pub const PURPOSES_MAX: usize = 64;
/// The most compartments of a schema, those of its fields counted.
pub const COMPARTMENTS_MAX: usize = 32;

/// The most values of an enum, and the longest, in bytes.
const VALUES_MAX: usize = 256;
const ENUM_VALUE_MAX: usize = 128;
/// Three decimals of a degree are some hundred metres: a mask that tells more hides nothing.
const PRECISION_MAX: u8 = 3;
const PRECISION: u8 = 1;
/// 16 KiB.
const BYTES: usize = 16 * 1024;

impl Schema {
    /// Checks that the parts of a document fit together; sealed fields will name `version`.
    ///
    /// # Errors
    /// The first part that does not fit, with its line if the document was TOML, and a way out.
    pub fn compile(document: Document, version: u16) -> Result<Self, DocumentError> {
        check_limits(&document)?;
        let purposes = document.purposes.iter().map(|(name, purpose)| PurposeSpec {
            name: name.clone(),
            basis: purpose.basis,
            under_restriction: purpose.under_restriction,
            automated: purpose.automated,
            otherwise: purpose.default_view.unwrap_or(View::None),
        });
        let purposes = purposes.collect();
        let fields = document.fields.iter().map(|(name, field)| Compiler { document: &document, name, field }.field());
        let fields = fields.collect::<Result<Vec<_>, _>>()?;
        check_ids(&document)?;
        Ok(Self::assemble(version, fields, purposes, document))
    }
}

fn check_limits(document: &Document) -> Result<(), DocumentError> {
    let few = |what: &str, count: usize, max: usize| match count <= max {
        true => Ok(()),
        false => Err(DocumentError::at(document, what, format!("{count} of them, of at most {max}: declare fewer"))),
    };
    few("fields", document.fields.len(), FIELDS_MAX)?;
    few("purposes", document.purposes.len(), PURPOSES_MAX)?;
    few("compartments", document.compartments.len(), COMPARTMENTS_MAX)?;
    if document.fields.is_empty() {
        return Err(DocumentError::whole("no field is declared: add a table such as `[fields.phone]`"));
    }
    if document.compartments.find(&Compartment::system()).is_some() {
        let reserved = "this compartment is the vault's own, for what it notes about a subject: choose another name";
        return Err(DocumentError::at(document, "compartments.system", reserved));
    }
    DocumentError::check_size(document.to_json().len())
}

/// Rows name fields by their ids, so no two may share one.
fn check_ids(document: &Document) -> Result<(), DocumentError> {
    let mut seen: BTreeMap<&FieldName, &FieldName> = BTreeMap::new();
    for (name, field) in document.fields.iter() {
        let id = field.id(name);
        if let Some(other) = seen.insert(id, name) {
            let reason = format!("has the id `{id}`, which `{other}` has already: give it an `id` of its own");
            return Err(DocumentError::at(document, format!("fields.{name}"), reason));
        }
    }
    Ok(())
}

/// One field on its way.
struct Compiler<'a> {
    document: &'a Document,
    name: &'a FieldName,
    field: &'a FieldDoc,
}

impl Compiler<'_> {
    fn field(&self) -> Result<FieldSpec, DocumentError> {
        let kind = self.kind()?;
        self.check_lookups(&kind)?;
        let lookup = self.field.lookup.contains(&Lookup::Exact);
        let last4 = self.field.lookup.contains(&Lookup::Last4);
        let mut views = self.views(&kind)?;
        views.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(FieldSpec {
            id: self.field.id(self.name).clone(),
            name: self.name.clone(),
            compartment: self.compartment()?,
            kind,
            sensitivity: self.field.sensitivity.unwrap_or(Sensitivity::Personal),
            lookup,
            last4,
            retention: self.field.retention.map(Retention::seconds),
            retired: self.field.retired,
            hidden: self.field.mask == Some(Mask::Hidden),
            views,
        })
    }

    fn compartment(&self) -> Result<Compartment, DocumentError> {
        let compartment = self.field.compartment();
        if compartment == Compartment::system() {
            return Err(self.wrong("compartment", "`system` is the vault's own: choose another"));
        }
        if compartment == Compartment::profile() || self.document.compartments.find(&compartment).is_some() {
            return Ok(compartment);
        }
        let way_out =
            format!("`{compartment}` is not declared: add `[compartments.{compartment}]`, or correct the name");
        Err(self.wrong("compartment", way_out))
    }

    fn views(&self, kind: &FieldKind) -> Result<Vec<(Purpose, View)>, DocumentError> {
        let views = self.field.purposes.iter().map(|(purpose, view)| {
            let place = format!("purposes.{purpose}");
            if self.document.purposes.find(purpose).is_none() {
                let way_out = format!("is not declared: add `[purposes.{purpose}]`, or correct the name");
                return Err(self.wrong(&place, way_out));
            }
            if *view == View::Last4 && !kind.has_last4() {
                let way_out = format!("`{}` has no last four digits: say `masked`", kind.name().as_str());
                return Err(self.wrong(&place, way_out));
            }
            Ok((purpose.clone(), *view))
        });
        views.collect()
    }

    fn check_lookups(&self, kind: &FieldKind) -> Result<(), DocumentError> {
        let lookups = &self.field.lookup;
        let name = kind.name().as_str();
        if lookups.contains(&Lookup::Last4) && !kind.has_last4() {
            return Err(self.wrong("lookup", format!("`{name}` has no last four digits: only `phone` and `card` have")));
        }
        if lookups.contains(&Lookup::Exact) && !kind.is_findable() {
            let way_out = format!(
                "a `{name}` cannot be found by its value, for equal ones differ, or many share one: leave `exact` out"
            );
            return Err(self.wrong("lookup", way_out));
        }
        let repeated = lookups.iter().enumerate().any(|(i, lookup)| lookups[..i].contains(lookup));
        if repeated { Err(self.wrong("lookup", "names one twice: leave one out")) } else { Ok(()) }
    }

    fn kind(&self) -> Result<FieldKind, DocumentError> {
        self.check_parameters()?;
        Ok(match self.field.kind {
            Type::Phone => FieldKind::Phone,
            Type::Email => FieldKind::Email,
            Type::Name => FieldKind::Name,
            Type::Address => FieldKind::Address,
            Type::Date => FieldKind::Date,
            Type::Ip => FieldKind::Ip,
            Type::Object => FieldKind::Object,
            Type::Location => FieldKind::Location { precision: self.precision()? },
            Type::Url => FieldKind::Url,
            Type::NationalId => FieldKind::NationalId { pattern: self.pattern()? },
            Type::Card => FieldKind::Card,
            Type::Integer => self.integer()?,
            Type::Decimal => self.decimal()?,
            Type::Text => FieldKind::Text {
                max_length: self.size("max_length", self.field.max_length, text::TEXT_MAX, text::TEXT_MAX)?,
                multiline: self.field.multiline.unwrap_or(false),
            },
            Type::Enum => FieldKind::Enum { values: self.values()? },
            Type::Json => {
                FieldKind::Json { max_bytes: self.size("max_bytes", self.field.max_bytes, BYTES, super::VALUE_MAX)? }
            }
            Type::Bytes => {
                FieldKind::Bytes { max_bytes: self.size("max_bytes", self.field.max_bytes, BYTES, bytes::BYTES_MAX)? }
            }
        })
    }

    /// Refuses parameters of other types.
    fn check_parameters(&self) -> Result<(), DocumentError> {
        let field = self.field;
        let given = [
            ("precision", field.precision.is_some(), &[Type::Location] as &[Type]),
            ("pattern", field.pattern.is_some(), &[Type::NationalId]),
            ("min", field.min.is_some(), &[Type::Integer, Type::Decimal]),
            ("max", field.max.is_some(), &[Type::Integer, Type::Decimal]),
            ("max_length", field.max_length.is_some(), &[Type::Text]),
            ("multiline", field.multiline.is_some(), &[Type::Text]),
            ("values", field.values.is_some(), &[Type::Enum]),
            ("max_bytes", field.max_bytes.is_some(), &[Type::Json, Type::Bytes]),
        ];
        match given.into_iter().find(|(_, given, types)| *given && !types.contains(&field.kind)) {
            None => Ok(()),
            Some((parameter, _, types)) => {
                let types: Vec<_> = types.iter().map(|kind| format!("`{}`", kind.as_str())).collect();
                let way_out = format!(
                    "is a parameter of {}, not of `{}`: leave it out",
                    types.join(" and "),
                    field.kind.as_str()
                );
                Err(self.wrong(parameter, way_out))
            }
        }
    }

    fn precision(&self) -> Result<u8, DocumentError> {
        let precision = self.field.precision.unwrap_or(PRECISION);
        if precision <= PRECISION_MAX {
            return Ok(precision);
        }
        Err(self.wrong("precision", format!("is a number of decimals from 0 to {PRECISION_MAX}: lower it")))
    }

    fn pattern(&self) -> Result<Pattern, DocumentError> {
        let Some(pattern) = &self.field.pattern else {
            return Err(self.wrong("pattern", "is missing: say what a value looks like, such as `[0-9]{8}[A-Z]`"));
        };
        Pattern::compile(pattern).map_err(|why| self.wrong("pattern", why))
    }

    fn integer(&self) -> Result<FieldKind, DocumentError> {
        let limit = |parameter, bound: &Option<Bound>, otherwise| match bound {
            None => Ok(otherwise),
            Some(bound) => {
                bound.0.to_text().parse().map_err(|_| self.wrong(parameter, "is a whole number of 64 bits: correct it"))
            }
        };
        let min: i64 = limit("min", &self.field.min, i64::MIN)?;
        let max = limit("max", &self.field.max, i64::MAX)?;
        self.check_order(min <= max)?;
        Ok(FieldKind::Integer { min, max })
    }

    fn decimal(&self) -> Result<FieldKind, DocumentError> {
        let limit = |bound: &Option<Bound>| -> Option<Decimal> { bound.as_ref().map(|bound| bound.0.clone()) };
        let range = DecimalRange { min: limit(&self.field.min), max: limit(&self.field.max) };
        let ordered = range.min.as_ref().zip(range.max.as_ref()).is_none_or(|(min, max)| min <= max);
        self.check_order(ordered)?;
        Ok(FieldKind::Decimal(range))
    }

    fn check_order(&self, ordered: bool) -> Result<(), DocumentError> {
        if ordered { Ok(()) } else { Err(self.wrong("min", "is above `max`: exchange them")) }
    }

    fn values(&self) -> Result<Vec<String>, DocumentError> {
        let values = self.field.values.clone().unwrap_or_default();
        let sound =
            |value: &String| (1..=ENUM_VALUE_MAX).contains(&value.len()) && !value.chars().any(char::is_control);
        if !(1..=VALUES_MAX).contains(&values.len()) || !values.iter().all(sound) {
            let way_out =
                format!("lists 1 to {VALUES_MAX} texts of 1 to {ENUM_VALUE_MAX} bytes in one line: correct them");
            return Err(self.wrong("values", way_out));
        }
        match values.iter().enumerate().find(|(i, value)| values[..*i].contains(value)) {
            Some((_, twice)) => Err(self.wrong("values", format!("lists `{twice}` twice: leave one out"))),
            None => Ok(values),
        }
    }

    fn size(&self, parameter: &str, given: Option<u32>, default: usize, max: usize) -> Result<usize, DocumentError> {
        let size = given.map_or(default, |given| given as usize);
        if (1..=max).contains(&size) {
            return Ok(size);
        }
        Err(self.wrong(parameter, format!("is from 1 to {max}: correct it")))
    }

    fn wrong(&self, key: &str, reason: impl Into<String>) -> DocumentError {
        DocumentError::at(self.document, format!("fields.{}.{key}", self.name), reason)
    }
}
