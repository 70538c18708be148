//! What a change of metadata asks for: checked against the schema once, then made to one value after the other. Pure.

use super::Metadata;
use crate::error::Error;
use crate::ids::Purpose;
use crate::schema::Schema;
use crate::time::Timestamp;

/// The longest source or recipient, in bytes.
const TEXT_MAX: usize = 128;
/// The most purposes, objections or recipients of one value.
const LIST_MAX: usize = 32;

/// What is replaced; `None` leaves a thing as it is, `Some(None)` or an empty list clears it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataPatch {
    /// Where the value came from: 1 to 128 bytes on one line.
    pub source: Option<Option<String>>,
    /// What it may be used for, at most 32 declared purposes; `Some(None)` for whatever the schema allows.
    pub purposes: Option<Option<Vec<Purpose>>>,
    /// What the subject objects to, at most 32 declared purposes.
    pub objections: Option<Vec<Purpose>>,
    /// Whom it was shared with, at most 32 of 1 to 128 bytes on one line.
    pub recipients: Option<Vec<String>>,
    /// Whether automated decisions may use it.
    pub automated: Option<Option<bool>>,
    /// When it has to be forgotten: a time that is yet to come.
    pub expires_at: Option<Option<Timestamp>>,
}

/// What is put into lists, or taken out of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataLists {
    /// Of what the value may be used for.
    pub purposes: Vec<Purpose>,
    /// Of what the subject objects to.
    pub objections: Vec<Purpose>,
    /// Of whom it was shared with.
    pub recipients: Vec<String>,
}

/// A change of metadata: first what is replaced, then what is added, then what is taken out.
///
/// A value without purposes may be used for all that the schema allows: adding one to it changes nothing, and taking one
/// out leaves it all other declared ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataEdit {
    /// What is replaced.
    pub set: MetadataPatch,
    /// What is added.
    pub add: MetadataLists,
    /// What is taken out.
    pub remove: MetadataLists,
}

impl From<MetadataPatch> for MetadataEdit {
    fn from(set: MetadataPatch) -> Self {
        Self { set, ..Self::default() }
    }
}

impl MetadataEdit {
    /// Refuses what no value may be given, whatever it has at present. What is only taken out may be anything.
    pub(super) fn check(&self, schema: &Schema, now: Timestamp) -> Result<(), Error> {
        let set = &self.set;
        check_texts("source", set.source.iter().flatten())?;
        check_purposes("purposes", schema, set.purposes.iter().flatten().flatten().chain(&self.add.purposes))?;
        check_purposes("objections", schema, set.objections.iter().flatten().chain(&self.add.objections))?;
        check_texts("recipients", set.recipients.iter().flatten().chain(&self.add.recipients))?;
        if set.expires_at.flatten().is_some_and(|at| at <= now) {
            return Err(Error::Invalid { field: "expires_at", expected: "a time that is yet to come" });
        }
        check_lengths(&Metadata {
            purposes: set.purposes.clone().flatten(),
            objections: set.objections.clone().unwrap_or_default(),
            recipients: set.recipients.clone().unwrap_or_default(),
            ..Metadata::default()
        })
    }

    /// The metadata after the change.
    ///
    /// # Errors
    /// [`Error::Invalid`] if a list grows too long; [`Error::Conflict`] for another expiry of what has expired.
    pub(super) fn applied(&self, before: &Metadata, schema: &Schema, now: Timestamp) -> Result<Metadata, Error> {
        let mut after = before.clone();
        let MetadataPatch { source, purposes, objections, recipients, automated, expires_at } = self.set.clone();
        if let Some(expires_at) = expires_at {
            if before.lapsed(now) {
                return Err(Error::Conflict("the value has expired and is about to be forgotten: write it anew"));
            }
            after.expires_at = expires_at;
        }
        after.source = source.unwrap_or(after.source);
        after.purposes = purposes.unwrap_or(after.purposes).map(distinct);
        after.objections = distinct(objections.unwrap_or(after.objections));
        after.recipients = distinct(recipients.unwrap_or(after.recipients));
        after.automated = automated.unwrap_or(after.automated);

        if let Some(purposes) = &mut after.purposes {
            add(purposes, &self.add.purposes);
        }
        add(&mut after.objections, &self.add.objections);
        add(&mut after.recipients, &self.add.recipients);

        if after.purposes.is_none() && !self.remove.purposes.is_empty() {
            after.purposes = Some(schema.purposes().map(|purpose| purpose.name.clone()).collect());
        }
        if let Some(purposes) = &mut after.purposes {
            purposes.retain(|purpose| !self.remove.purposes.contains(purpose));
        }
        after.objections.retain(|purpose| !self.remove.objections.contains(purpose));
        after.recipients.retain(|recipient| !self.remove.recipients.contains(recipient));
        check_lengths(&after)?;
        Ok(after)
    }
}

fn distinct<T: PartialEq + Clone>(list: Vec<T>) -> Vec<T> {
    let mut kept = Vec::with_capacity(list.len());
    add(&mut kept, &list);
    kept
}

fn add<T: PartialEq + Clone>(list: &mut Vec<T>, more: &[T]) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

fn check_lengths(metadata: &Metadata) -> Result<(), Error> {
    let lengths = [
        ("purposes", metadata.purposes.as_ref().map_or(0, Vec::len)),
        ("objections", metadata.objections.len()),
        ("recipients", metadata.recipients.len()),
    ];
    match lengths.into_iter().find(|(_, length)| *length > LIST_MAX) {
        Some((field, _)) => Err(Error::Invalid { field, expected: "at most 32 of them" }),
        None => Ok(()),
    }
}

fn check_texts<'a>(field: &'static str, mut texts: impl Iterator<Item = &'a String>) -> Result<(), Error> {
    match texts.all(|text| is_line(text)) {
        true => Ok(()),
        false => Err(Error::Invalid { field, expected: "1 to 128 bytes of text on one line" }),
    }
}

/// Whether a text may be a source or a recipient.
pub(super) fn is_line(text: &str) -> bool {
    (1..=TEXT_MAX).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn check_purposes<'a>(
    field: &'static str,
    schema: &Schema,
    mut purposes: impl Iterator<Item = &'a Purpose>,
) -> Result<(), Error> {
    match purposes.all(|purpose| schema.purpose(purpose.as_str()).is_some()) {
        true => Ok(()),
        false => Err(Error::Invalid { field, expected: "purposes that the schema declares" }),
    }
}
