//! The schema of a new vault, as two tables.

use super::{FieldKind, FieldSpec, PurposeSpec, Schema, View};
use crate::ids::{Compartment, FieldName, Purpose};

const VERSION: u16 = 1;

/// Name, kind, and whether subjects are found by it.
const FIELDS: &[(&str, FieldKind, bool)] = &[
    ("nickname", FieldKind::Text, false),
    ("name", FieldKind::Name, false),
    ("phone", FieldKind::Phone, true),
    ("email", FieldKind::Email, true),
    ("home_address", FieldKind::Address, false),
    ("birth_date", FieldKind::Date, false),
    ("ip_address", FieldKind::Ip, false),
    ("device", FieldKind::Object, false),
    ("location", FieldKind::Location, false),
];

/// Name, the fields it shows in full, and the most it shows of the others.
///
/// Marketing has no business with the rest, not even masked.
const PURPOSES: &[(&str, &[&str], View)] = &[
    ("account", &[], View::Full),
    ("delivery", &["name", "phone", "home_address"], View::Masked),
    ("support", &[], View::Last4),
    ("marketing", &["phone", "email", "name", "nickname"], View::None),
    ("security", &["ip_address", "device", "location"], View::Masked),
];

pub(super) fn schema() -> Schema {
    Schema {
        version: VERSION,
        fields: FIELDS.iter().copied().map(field).collect(),
        purposes: PURPOSES.iter().copied().map(purpose).collect(),
    }
}

fn field((name, kind, lookup): (&str, FieldKind, bool)) -> FieldSpec {
    FieldSpec { name: field_name(name), compartment: Compartment::profile(), kind, lookup }
}

fn purpose((name, full, otherwise): (&str, &[&str], View)) -> PurposeSpec {
    PurposeSpec {
        name: Purpose::parse(name).expect("the tables hold valid names"),
        views: full.iter().map(|name| (field_name(name), View::Full)).collect(),
        otherwise,
    }
}

fn field_name(name: &str) -> FieldName {
    FieldName::parse(name).expect("the tables hold valid names")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_name_declared_fields() {
        let schema = schema();
        assert_eq!(schema.fields().count(), 9);
        for purpose in schema.purposes() {
            for (field, _) in &purpose.views {
                assert!(schema.field(field).is_ok(), "{field}");
            }
        }
    }
}
