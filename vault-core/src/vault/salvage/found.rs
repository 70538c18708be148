//! One subject, as far as it opens.

use super::super::consents::{Consent, Consents};
use super::super::holds::{Hold, Holds};
use super::super::metadata::{Metadata, RowMetadata};
use super::super::notes::Note;
use super::super::read::facts;
use super::super::records::{CompartmentKeys, SubjectRecord};
use super::super::restriction::{Restriction, Restrictions};
use super::super::row::Row;
use super::super::types::FieldStamp;
use super::super::verify::place;
use super::super::{Inner, subject};
use super::opened;
use crate::audit::{Pseudonym, day_of};
use crate::error::Error;
use crate::ids::{Compartment, FieldName, SubjectId, SubjectUuid};
use crate::policy::SubjectStanding;
use crate::schema::{FieldValue, Schema};
use crate::time::Timestamp;
use crate::trie::{EntryKey, Header};

/// A subject of whom something opens.
pub struct Salvaged {
    /// The caller's id.
    pub subject: SubjectId,
    /// The vault's own.
    pub uuid: SubjectUuid,
    /// What the audit log calls it today.
    pub pseudonym: Pseudonym,
    /// When it was enrolled.
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
    pub fields: Vec<SalvagedField>,
    /// What does not open.
    pub lost: Vec<LostPart>,
    pub(super) expired: u64,
    pub(super) problems: Vec<String>,
}

/// A value that opens.
pub struct SalvagedField {
    /// Which, and which version. One that the schema does not declare is named by its id.
    pub stamp: FieldStamp,
    /// Its id, as the audit log has it.
    pub id: FieldName,
    /// Where it lay.
    pub compartment: Compartment,
    /// The value.
    pub value: FieldValue,
    /// What is known of it besides.
    pub metadata: Metadata,
}

/// A part of a subject that does not open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LostPart {
    /// All of a compartment; what it held is not known.
    Compartment {
        /// Which.
        compartment: Compartment,
    },
    /// One value.
    Field {
        /// Where it lay.
        compartment: Compartment,
        /// Which.
        field: FieldName,
    },
    /// What is known of a compartment's values besides themselves: where they came from, what is objected to.
    Metadata {
        /// Which.
        compartment: Compartment,
    },
    /// What is noted of the subject on a topic: its consents, a restriction, its holds.
    Note {
        /// Which.
        topic: &'static str,
    },
}

/// Opens what opens of a subject.
pub(super) async fn subject(
    inner: &Inner,
    header: &Header,
    schema: &Schema,
    key: EntryKey,
    now: Timestamp,
) -> Result<Salvaged, Error> {
    let record = subject::find_by_key(inner, header, key).await?.living_unnoted(0)?;
    let mut found = Salvaged {
        subject: SubjectId::parse(&record.subject)?,
        uuid: record.uuid,
        pseudonym: Pseudonym(record.audit_key.pseudonym(day_of(now))),
        enrolled_at: record.enrolled_at,
        standing: record.standing(),
        consents: Vec::new(),
        restriction: None,
        holds: Vec::new(),
        fields: Vec::new(),
        lost: Vec::new(),
        expired: 0,
        problems: Vec::new(),
    };
    found.consents = found.note::<Consents>(inner, &record).await?.0;
    found.restriction = found.note::<Restrictions>(inner, &record).await?.0;
    found.holds = found.note::<Holds>(inner, &record).await?.0;
    for keys in record.compartments.iter().filter(|k| k.name != Compartment::system() && k.refused.is_none()) {
        found.compartment(inner, schema, &record, keys, now).await?;
    }
    Ok(found)
}

impl Salvaged {
    async fn note<N: Note>(&mut self, inner: &Inner, record: &SubjectRecord) -> Result<N, Error> {
        let note = opened(inner.note::<N>(record).await)?;
        if note.is_none() {
            self.lost.push(LostPart::Note { topic: N::FIELD });
            if let Some(keys) = record.keys(&Compartment::system()) {
                let at = place(&record.row_place(keys).key());
                self.problems.push(format!("data row {at}: the subject's {} do not open", N::FIELD));
            }
        }
        Ok(note.unwrap_or_default())
    }

    async fn compartment(
        &mut self,
        inner: &Inner,
        schema: &Schema,
        record: &SubjectRecord,
        keys: &CompartmentKeys,
        now: Timestamp,
    ) -> Result<(), Error> {
        let row_place = record.row_place(keys);
        let at = place(&row_place.key());
        let compartment = &keys.name;
        let Some(row) = opened(subject::open_row(inner, &row_place).await)? else {
            self.lost.push(LostPart::Compartment { compartment: compartment.clone() });
            self.problems.push(format!("data row {at}: it is missing or damaged"));
            return Ok(());
        };
        let mut metadata = RowMetadata::open(&row, &row_place).unwrap_or_else(|_| {
            self.lost.push(LostPart::Metadata { compartment: compartment.clone() });
            self.problems.push(format!("data row {at}: the metadata of its fields does not open"));
            RowMetadata::default()
        });
        for (id, entry) in &row.fields {
            let spec = schema.field_by_id(id);
            let known = metadata.0.remove(id);
            let over = spec.map_or_else(
                || known.as_ref().is_some_and(|known| known.lapsed(now)),
                |spec| facts(spec, entry.updated_at, known.as_ref(), None, now).expired,
            );
            if over {
                self.expired += 1;
                continue;
            }
            let name = spec.map_or(id, |spec| &spec.name);
            let Some(value) = opened(field(inner, &row, id, &row_place).await)? else {
                self.lost.push(LostPart::Field { compartment: compartment.clone(), field: name.clone() });
                self.problems.push(format!("data row {at}: field `{name}` does not open"));
                continue;
            };
            self.fields.push(SalvagedField {
                stamp: FieldStamp { name: name.clone(), version: entry.version, updated_at: entry.updated_at },
                id: id.clone(),
                compartment: compartment.clone(),
                value,
                metadata: known.unwrap_or_default(),
            });
        }
        Ok(())
    }
}

async fn field(
    inner: &Inner,
    row: &Row,
    id: &FieldName,
    place: &super::super::row::RowPlace<'_>,
) -> Result<FieldValue, Error> {
    Ok(FieldValue::decode(&subject::open_field(inner, row, id, place).await?)?)
}
