//! Value tokens: random stand-ins for a subject's fields. They live in the sealed trie and die with the subject.

use std::collections::BTreeSet;

use super::Inner;
use super::records::SubjectRecord;
use super::writer::Write;
use crate::error::Error;
use crate::ids::FieldName;
use crate::trie::Header;

/// Puts the removal of all tokens of these fields (by id) into a write for a root batch.
pub(super) async fn forget_of(
    _inner: &Inner,
    _header: &Header,
    _record: &SubjectRecord,
    _fields: &BTreeSet<&FieldName>,
    _write: &mut Write,
) -> Result<(), Error> {
    Ok(())
}
