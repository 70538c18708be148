//! Why a value or a name is refused: told with the field and what it takes, never with the value.

use std::borrow::Cow;

use crate::ids::FieldName;

/// A field that is not declared, or a value that is not what its field takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// No such field; undeclared fields are refused.
    #[error("the schema declares no field `{0}`: correct the name, or leave the field out")]
    UnknownField(FieldName),
    /// The value fails the field's kind.
    #[error("the value of `{field}` is refused: expected {expected}")]
    Invalid {
        /// The field.
        field: FieldName,
        /// What it takes instead, to follow the word "expected".
        expected: Cow<'static, str>,
    },
    /// The field is not declared for lookups.
    #[error("`{field}` is not declared for lookups: search by a field that is")]
    NotLookup {
        /// The field.
        field: FieldName,
    },
    /// The field is retired: readable, and no longer writable.
    #[error("`{field}` is retired: it can be read and removed, and takes no new values")]
    Retired {
        /// The field.
        field: FieldName,
    },
    /// Stored bytes that are not a field value.
    #[error("a stored field value does not decode: it was written by another version, or it is damaged")]
    Stored,
}
