//! The schema of a new vault, as two tables.

use super::{Basis, FieldKind, FieldSpec, PurposeSpec, Schema, Sensitivity, View};
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
    let full = PURPOSES.iter().filter(|(_, full, _)| full.contains(&name));
    FieldSpec {
        id: field_name(name),
        name: field_name(name),
        compartment: Compartment::profile(),
        kind,
        sensitivity: Sensitivity::Personal,
        lookup,
        last4: false,
        retention: None,
        retired: false,
        views: full.map(|(purpose, ..)| (purpose_name(purpose), View::Full)).collect(),
    }
}

fn purpose((name, _, otherwise): (&str, &[&str], View)) -> PurposeSpec {
    PurposeSpec {
        name: purpose_name(name),
        basis: Basis::Contract,
        under_restriction: false,
        automated: false,
        otherwise,
    }
}

fn purpose_name(name: &str) -> Purpose {
    Purpose::parse(name).expect("the tables hold valid names")
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
        for (_, full, _) in PURPOSES {
            for field in *full {
                assert!(schema.field(&field_name(field)).is_ok(), "{field}");
            }
        }
    }
}
