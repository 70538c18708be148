//! Lookups by the last four digits: among the subjects that another field's exact value finds, and nowhere else.
//!
//! No index of last four digits exists, so that nobody can walk through the ten thousand of them. What another field's
//! value finds is opened and compared.

use super::metadata::RowMetadata;
use super::read::{Wanted, facts};
use super::session::{Snapshot, reading};
use super::types::Reader;
use super::{Inner, Vault, subject};
use crate::audit::trail;
use crate::crypto::equal;
use crate::error::Error;
use crate::ids::{FieldName, SubjectId};
use crate::schema::{FieldSpec, FieldValue};
use crate::time::Timestamp;

/// The most subjects that may share the other field's value.
const CANDIDATES_MAX: usize = 1000;

/// A lookup by the last four digits of one field and the exact value of another.
#[derive(Clone, Copy)]
pub struct Last4Lookup<'a> {
    /// The field whose last four digits are known.
    pub field: &'a FieldName,
    /// The digits.
    pub last4: &'a str,
    /// The field whose value is known.
    pub and: &'a FieldName,
    /// Its value, as JSON text.
    pub value: &'a str,
    /// The region of a phone number in national form.
    pub region: Option<&'a str>,
}

impl Vault {
    /// Finds the subjects that have these last four digits in one field and exactly this value in another.
    ///
    /// # Errors
    /// [`Error::Schema`] or [`Error::Invalid`] if the fields are not declared for such a lookup, if these are not four
    /// digits or not a value of the other field, or if more than 1,000 subjects share that value.
    pub async fn look_up_last4(&self, reader: &Reader, asked: &Last4Lookup<'_>) -> Result<Vec<SubjectId>, Error> {
        let session = self.session()?;
        let schema = session.snapshot().schema.clone();
        let (spec, and) = (schema.field(asked.field)?, schema.field(asked.and)?);
        check(spec, and, asked.last4)?;
        trail::fields([&spec.id, &and.id]);
        let form = and.lookup_query(asked.value, asked.region)?;
        let wanted = Wanted { spec: and, form: &form, finding: reader.finding(&schema, &[spec, and])? };
        reading!(session, |snapshot| {
            let candidates = self.inner.candidates(&snapshot, &wanted).await;
            match candidates {
                Ok(candidates) => self.inner.with_last4(&snapshot, candidates, spec, asked.last4).await,
                Err(error) => Err(error),
            }
        })
    }
}

fn check(spec: &FieldSpec, and: &FieldSpec, last4: &str) -> Result<(), Error> {
    let refused = |field, expected| Err(Error::Invalid { field, expected });
    if !spec.last4 {
        return refused("field", "a field that the schema declares for lookups by the last four digits");
    }
    if spec.id == and.id {
        return refused("and", "another field than the one whose last four digits are known");
    }
    if last4.len() != 4 || !last4.bytes().all(|digit| digit.is_ascii_digit()) {
        return refused("last4", "exactly four digits, 0 to 9");
    }
    Ok(())
}

impl Inner {
    async fn candidates(&self, snapshot: &Snapshot, wanted: &Wanted<'_>) -> Result<Vec<SubjectId>, Error> {
        let page = self.look_up(snapshot, wanted, None, CANDIDATES_MAX + 1, |_| ()).await?;
        match page.next {
            // An answer without those that were not looked at would be taken for the whole.
            Some(_) => Err(Error::Invalid { field: "and", expected: "a value that at most 1,000 subjects have" }),
            None => Ok(page.subjects),
        }
    }

    async fn with_last4(
        &self,
        snapshot: &Snapshot,
        candidates: Vec<SubjectId>,
        spec: &FieldSpec,
        last4: &str,
    ) -> Result<Vec<SubjectId>, Error> {
        let mut found = Vec::new();
        for id in candidates {
            if self.has_last4(snapshot, &id, spec, last4).await? {
                found.push(id);
            }
        }
        Ok(found)
    }

    async fn has_last4(
        &self,
        snapshot: &Snapshot,
        id: &SubjectId,
        spec: &FieldSpec,
        last4: &str,
    ) -> Result<bool, Error> {
        let now = Timestamp::now();
        let record = subject::find(self, &snapshot.header, id).await?.living_unnoted(self.options.tombstone_seconds)?;
        let Some(keys) = record.keys(&spec.compartment) else { return Ok(false) };
        let place = record.row_place(keys);
        let row = subject::open_row(self, &place).await?;
        let Some(entry) = row.fields.get(&spec.id) else { return Ok(false) };
        let metadata = RowMetadata::open(&row, &place)?;
        if facts(spec, entry.updated_at, metadata.0.get(&spec.id), None, now).expired {
            return Ok(false);
        }
        let plaintext = subject::open_field(self, &row, &spec.id, &place).await?;
        let digits = spec.last4_of(&FieldValue::decode(&plaintext)?);
        let has = digits.is_some_and(|digits| equal(digits.as_bytes(), last4.as_bytes()));
        if has {
            trail::subject(&record.audit_key);
        }
        Ok(has)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::schema::SchemaError;
    use crate::vault::PutOptions;
    use crate::vault::tests::{Fixture, changes, full, id, name};

    const EMAIL: &str = r#""jane@example.org""#;

    async fn fixture() -> Fixture {
        let fixture = Fixture::shipped().await;
        for (subject, phone, email) in [
            ("jane", "+971501238301", "Jane@EXAMPLE.org"),
            ("her partner", "+971501238302", "jane@example.org"),
            ("a stranger", "+971509998301", "joe@example.org"),
        ] {
            let (phone, email) = (format!("\"{phone}\""), format!("\"{email}\""));
            fixture.put(subject, &[("phone", &phone), ("email", &email)]).await.unwrap();
        }
        fixture.put("has no phone", &[("email", EMAIL)]).await.unwrap();
        fixture
    }

    async fn find(fixture: &Fixture, field: &str, last4: &str, and: &str, value: &str) -> Result<Vec<String>, Error> {
        let (field, and) = (name(field), name(and));
        let asked = Last4Lookup { field: &field, last4, and: &and, value, region: None };
        let found = fixture.vault.look_up_last4(&full().reader, &asked).await?;
        Ok(found.iter().map(|id| id.as_str().to_owned()).collect())
    }

    #[tokio::test]
    async fn finds_among_those_with_the_other_value_only() {
        let fixture = fixture().await;
        assert_eq!(find(&fixture, "phone", "8301", "email", EMAIL).await.unwrap(), ["jane"]);
        assert_eq!(find(&fixture, "phone", "8302", "email", EMAIL).await.unwrap(), ["her partner"]);
        assert!(find(&fixture, "phone", "0000", "email", EMAIL).await.unwrap().is_empty());
        assert!(find(&fixture, "phone", "8301", "email", r#""nobody@example.org""#).await.unwrap().is_empty());
        fixture.put("jane", &[("phone", r#""+971501230000""#)]).await.unwrap();
        assert!(find(&fixture, "phone", "8301", "email", EMAIL).await.unwrap().is_empty());
        assert_eq!(find(&fixture, "phone", "0000", "email", EMAIL).await.unwrap(), ["jane"]);
        fixture.shred(&["jane"]).await;
        assert!(find(&fixture, "phone", "0000", "email", EMAIL).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn wrong_shapes_are_refused() {
        let fixture = fixture().await;
        for last4 in ["", "830", "08301", "830a", "83 1", "٨٣٠١", "+830"] {
            let refused = find(&fixture, "phone", last4, "email", EMAIL).await;
            assert!(matches!(refused, Err(Error::Invalid { field: "last4", .. })), "{last4}");
        }
        let undeclared = find(&fixture, "email", "8301", "phone", r#""+971501238301""#).await;
        assert!(matches!(undeclared, Err(Error::Invalid { field: "field", .. })));
        let itself = find(&fixture, "phone", "8301", "phone", r#""+971501238301""#).await;
        assert!(matches!(itself, Err(Error::Invalid { field: "and", .. })));
        let without_lookup = find(&fixture, "phone", "8301", "nickname", r#""Jane""#).await;
        assert!(matches!(without_lookup, Err(Error::Schema(SchemaError::NotLookup { .. }))));
        let no_address = find(&fixture, "phone", "8301", "email", r#""jane""#).await;
        assert!(matches!(no_address, Err(Error::Schema(SchemaError::Invalid { .. }))));
    }

    #[tokio::test]
    async fn a_value_that_too_many_share_is_refused() {
        let fixture = fixture().await;
        let put = async |from: usize, to: usize| {
            let item = |n| (id(&format!("s{n}")), changes(&[("email", EMAIL)]), PutOptions::default());
            let items = (from..to).map(item);
            for outcome in fixture.vault.write_batch(items.collect()).await {
                outcome.unwrap();
            }
        };
        // Three have it already.
        put(0, CANDIDATES_MAX - 3).await;
        assert_eq!(find(&fixture, "phone", "8301", "email", EMAIL).await.unwrap(), ["jane"]);
        put(CANDIDATES_MAX - 3, CANDIDATES_MAX - 2).await;
        let refused = find(&fixture, "phone", "8301", "email", EMAIL).await;
        assert!(matches!(refused, Err(Error::Invalid { field: "and", .. })));
    }
}
