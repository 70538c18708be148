//! Everything that is held of a subject, with all that is known of it: what the subject may ask for.

use super::consents::{Consent, Consents};
use super::holds::{Hold, Holds};
use super::metadata::{Metadata, RowMetadata};
use super::read::facts;
use super::records::SubjectRecord;
use super::restriction::{Restriction, Restrictions};
use super::session::{Snapshot, reading};
use super::types::FieldStamp;
use super::{Inner, Vault, subject};
use crate::audit::trail;
use crate::error::Error;
use crate::ids::{Compartment, Purpose, SubjectId};
use crate::policy::SubjectStanding;
use crate::schema::{Basis, FieldSpec, FieldValue, Schema, View};
use crate::time::Timestamp;

/// What is held of a subject, in one consistent state.
pub struct Export {
    /// When it was put together.
    pub exported_at: Timestamp,
    /// When the subject was enrolled.
    pub enrolled_at: Timestamp,
    /// How it stands.
    pub standing: SubjectStanding,
    /// Its consents, in force and over, oldest first.
    pub consents: Vec<Consent>,
    /// The restriction of its processing, while there is one.
    pub restriction: Option<Restriction>,
    /// Its legal holds, oldest first.
    pub holds: Vec<Hold>,
    /// Its values, by compartment and then by id.
    pub fields: Vec<ExportedField>,
}

/// A value with all that is known of it.
pub struct ExportedField {
    /// Which, and which version.
    pub stamp: FieldStamp,
    /// How it is declared.
    pub spec: FieldSpec,
    /// The value; none if its time is over and it waits to be forgotten.
    pub value: Option<FieldValue>,
    /// What is known of it besides.
    pub metadata: Metadata,
    /// What the schema lets it be used for.
    pub uses: Vec<Use>,
}

/// A purpose that may see a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// Which.
    pub purpose: Purpose,
    /// The most it sees.
    pub view: View,
    /// Why it may.
    pub basis: Basis,
}

impl Vault {
    /// Everything that is held of a subject. A restriction of processing does not stop it, for it serves the subject.
    ///
    /// # Errors
    /// [`Error::UnknownSubject`] or [`Error::Shredded`].
    pub async fn export(&self, id: &SubjectId) -> Result<Export, Error> {
        let session = self.session()?;
        reading!(session, |snapshot| self.inner.export(&snapshot, id).await)
    }
}

impl Inner {
    async fn export(&self, snapshot: &Snapshot, id: &SubjectId) -> Result<Export, Error> {
        let now = Timestamp::now();
        let record = subject::find(self, &snapshot.header, id).await?.living(self.options.tombstone_seconds)?;
        let fields = self.exported_fields(&snapshot.schema, &record, now).await?;
        Ok(Export {
            exported_at: now,
            enrolled_at: record.enrolled_at,
            standing: record.standing(),
            consents: self.note::<Consents>(&record).await?.0,
            restriction: self.note::<Restrictions>(&record).await?.0,
            holds: self.note::<Holds>(&record).await?.0,
            fields,
        })
    }

    async fn exported_fields(
        &self,
        schema: &Schema,
        record: &SubjectRecord,
        now: Timestamp,
    ) -> Result<Vec<ExportedField>, Error> {
        let mut fields = Vec::new();
        for keys in record.compartments.iter().filter(|k| k.name != Compartment::system() && k.refused.is_none()) {
            let place = record.row_place(keys);
            let row = subject::open_row(self, &place).await?;
            let mut metadata = RowMetadata::open(&row, &place)?;
            for (id, entry) in &row.fields {
                let spec = schema.field_by_id(id).ok_or(Error::Damaged("a field that the schema does not declare"))?;
                trail::fields([id]);
                let known = metadata.0.remove(id);
                let expired = facts(spec, entry.updated_at, known.as_ref(), None, now).expired;
                let value = match expired {
                    true => None,
                    false => Some(FieldValue::decode(&subject::open_field(self, &row, id, &place).await?)?),
                };
                fields.push(ExportedField {
                    stamp: FieldStamp { name: spec.name.clone(), version: entry.version, updated_at: entry.updated_at },
                    uses: uses(schema, spec),
                    spec: spec.clone(),
                    value,
                    metadata: known.unwrap_or_default(),
                });
            }
        }
        Ok(fields)
    }
}

fn uses(schema: &Schema, spec: &FieldSpec) -> Vec<Use> {
    let used = |purpose: &crate::schema::PurposeSpec| Use {
        purpose: purpose.name.clone(),
        view: spec.ceiling(purpose),
        basis: purpose.basis,
    };
    schema.purposes().map(used).filter(|used| used.view != View::None).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::MetadataPatch;
    use super::super::tests::{Fixture, id, name};
    use super::*;

    #[tokio::test]
    async fn holds_everything_until_the_shred() {
        let fixture = Fixture::new().await;
        let phone = r#"{"national": "050 123 8301", "region": "AE"}"#;
        fixture.put("a", &[("phone", phone), ("birth_date", r#""1990-02-03""#)]).await.unwrap();
        let patch = MetadataPatch { source: Some(Some("campaign-7".to_owned())), ..MetadataPatch::default() };
        fixture.vault.change_metadata(&id("a"), &name("phone"), patch).await.unwrap();
        let export = fixture.vault.export(&id("a")).await.unwrap();
        assert_eq!((export.fields.len(), export.standing), (2, SubjectStanding::Active));
        let field = export.fields.iter().find(|field| field.stamp.name == name("phone")).unwrap();
        let value = field.value.as_ref().unwrap();
        assert_eq!((value.given(), value.normal()), (phone, r#""+971501238301""#));
        assert_eq!(
            (field.spec.kind.name(), field.metadata.source.as_deref()),
            (crate::schema::Type::Phone, Some("campaign-7"))
        );
        let views: Vec<_> = field.uses.iter().map(|used| (used.purpose.as_str(), used.view)).collect();
        assert!(views.contains(&("delivery", View::Full)) && views.contains(&("support", View::Last4)), "{views:?}");
        let born = export.fields.iter().find(|field| field.stamp.name == name("birth_date")).unwrap();
        assert!(born.uses.iter().all(|used| used.purpose.as_str() != "marketing"), "no business of marketing");

        let marketing = Purpose::parse("marketing").unwrap();
        fixture
            .vault
            .give_consent(&id("a"), &marketing, "2026-05", "form", crate::ids::CallerId([7; 16]))
            .await
            .unwrap();
        fixture.vault.restrict(&id("a"), Some("a dispute")).await.unwrap();
        let export = fixture.vault.export(&id("a")).await.unwrap();
        assert_eq!((export.fields.len(), export.holds.len()), (2, 0), "a restriction does not stop it");
        assert_eq!((export.consents[0].version.as_str(), export.standing), ("2026-05", SubjectStanding::Restricted));
        assert_eq!(export.restriction.unwrap().reason.as_deref(), Some("a dispute"));

        assert!(matches!(fixture.vault.export(&id("b")).await, Err(Error::UnknownSubject)));
        fixture.shred(&["a"]).await;
        assert!(matches!(fixture.vault.export(&id("a")).await, Err(Error::Shredded)));
    }
}
