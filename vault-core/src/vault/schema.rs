//! The schema in force: kept in the trie in all its versions, loaded at unlock, part of every snapshot.
//!
//! A version has a record, which lies in the order of the versions, and its document in parts, for a payload is small.
//! Version 1 is built in and not kept.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::records::{decode, encode};
use super::session::reading;
use super::writer::Write;
use super::{Inner, Vault};
use crate::error::Error;
use crate::schema::{Document, Schema, change};
use crate::time::Timestamp;
use crate::trie::{self, EntryKey, Header, Kind, Op};

/// The bytes of a document that one entry holds.
const PART: usize = 8000;
/// How often a change is prepared again because something else changed meanwhile.
const ATTEMPTS: usize = 64;

/// That a version of the schema exists.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct VersionRecord {
    version: u16,
    at: Timestamp,
    /// How many parts its document has.
    parts: u32,
}

impl Vault {
    /// The fields and purposes that are declared.
    ///
    /// # Errors
    /// [`Error::Locked`].
    pub fn schema(&self) -> Result<Arc<Schema>, Error> {
        Ok(self.session()?.snapshot().schema.clone())
    }

    /// One version of the schema, for values that were sealed under it.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there was none of this number.
    pub async fn schema_version(&self, version: u16) -> Result<Schema, Error> {
        let session = self.session()?;
        reading!(session, |snapshot| at_version(&self.inner, &snapshot.header, version).await)
    }

    /// Puts a schema into force: every read and write that begins after this has returned goes by it. A document that
    /// is in force already stays the version it is.
    ///
    /// # Errors
    /// [`Error::PreconditionFailed`] if `over` is not the version in force; [`Error::Document`] if its parts do not fit
    /// together; [`Error::SchemaChange`] if it would orphan or reinterpret what is stored.
    pub async fn put_schema(&self, document: Document, over: Option<u16>) -> Result<Arc<Schema>, Error> {
        let session = self.session()?;
        for _ in 0..ATTEMPTS {
            let snapshot = session.snapshot();
            let present = &snapshot.schema;
            if over.is_some_and(|version| version != present.version) {
                return Err(Error::PreconditionFailed);
            }
            if present.document().to_json() == document.to_json() {
                return Ok(present.clone());
            }
            let next = prepare(present, &document, snapshot.counts.subjects > 0)?;
            let write = Write {
                under: Some(present.version),
                // What is allowed only while nothing is stored must find it so.
                without_subjects: change::check(present, &document, true).is_err(),
                schema: Some(next.clone()),
                ..noting(&snapshot.header, &next)?
            };
            if session.commit(vec![write]).await? == [true] {
                return Ok(next);
            }
        }
        Err(Error::Conflict("the vault is changed by too many requests at once: retry"))
    }

    /// Checks a schema as [`Vault::put_schema`] would, and changes nothing.
    ///
    /// # Errors
    /// As [`Vault::put_schema`].
    pub fn check_schema(&self, document: &Document) -> Result<(), Error> {
        let snapshot = self.session()?.snapshot();
        prepare(&snapshot.schema, document, snapshot.counts.subjects > 0).map(|_| ())
    }
}

fn prepare(present: &Schema, document: &Document, holds_subjects: bool) -> Result<Arc<Schema>, Error> {
    let version =
        present.version.checked_add(1).ok_or(Error::Conflict("there were too many versions of the schema"))?;
    let next = Schema::compile(document.clone(), version)?;
    change::check(present, document, holds_subjects)?;
    Ok(Arc::new(next))
}

fn noting(header: &Header, schema: &Schema) -> Result<Write, Error> {
    let json = Zeroizing::new(schema.document().to_json().into_bytes());
    let parts = json.chunks(PART);
    let count = u32::try_from(parts.len()).map_err(|_| Error::TooLarge)?;
    let record = VersionRecord { version: schema.version, at: Timestamp::now(), parts: count };
    let mut edits = vec![(Kind::System, version_key(header, schema.version), Op::Insert(encode(&record)?))];
    for (part, bytes) in (0..count).zip(parts) {
        let key = part_key(header, schema.version, part);
        edits.push((Kind::System, key, Op::Insert(Zeroizing::new(bytes.to_vec()))));
    }
    Ok(Write { edits, ..Write::default() })
}

/// Reads the schema that is in force; a vault that was never given one has the built-in.
pub(crate) async fn load(inner: &Inner, header: &Header) -> Result<Schema, Error> {
    match versions(inner, header).await?.last() {
        None => Ok(Schema::builtin()),
        Some(record) => compile(inner, header, record).await,
    }
}

/// The newest version that reads as one, for a salvage.
pub(super) async fn newest_whole(inner: &Inner, header: &Header) -> Result<Schema, Error> {
    let records = versions(inner, header).await?;
    for record in records.iter().rev() {
        if let Ok(schema) = compile(inner, header, record).await {
            return Ok(schema);
        }
    }
    Ok(Schema::builtin())
}

async fn at_version(inner: &Inner, header: &Header, version: u16) -> Result<Schema, Error> {
    if version == Schema::builtin().version {
        return Ok(Schema::builtin());
    }
    let payload = trie::find(&inner.pages, header, Kind::System, &version_key(header, version)).await?;
    let record: VersionRecord = decode(&payload.ok_or(Error::NotFound("version of the schema"))?)?;
    compile(inner, header, &record).await
}

async fn compile(inner: &Inner, header: &Header, record: &VersionRecord) -> Result<Schema, Error> {
    const DAMAGED: Error = Error::Damaged("a stored schema does not read as one");
    let mut json = Vec::new();
    for part in 0..record.parts {
        let key = part_key(header, record.version, part);
        let payload = trie::find(&inner.pages, header, Kind::System, &key).await?;
        json.extend_from_slice(&payload.ok_or(Error::Damaged("a part of a stored schema is missing"))?);
    }
    let document = Document::from_json(std::str::from_utf8(&json).map_err(|_| DAMAGED)?).map_err(|_| DAMAGED)?;
    Schema::compile(document, record.version).map_err(|_| DAMAGED)
}

/// The records of all versions, oldest first.
async fn versions(inner: &Inner, header: &Header) -> Result<Vec<VersionRecord>, Error> {
    let prefix = &version_key(header, 0)[..16];
    let entries = trie::scan(&inner.pages, header, Kind::System, prefix, None, usize::from(u16::MAX)).await?;
    entries.iter().map(|(_, payload)| decode(payload)).collect()
}

fn version_key(header: &Header, version: u16) -> EntryKey {
    let mut discriminator = [0; 16];
    discriminator[..2].copy_from_slice(&version.to_be_bytes());
    header.entry_key(Kind::System, "schema", "", b"", discriminator)
}

fn part_key(header: &Header, version: u16, part: u32) -> EntryKey {
    let mut discriminator = [0; 16];
    discriminator[..4].copy_from_slice(&part.to_be_bytes());
    header.entry_key(Kind::System, "schema-part", "", &version.to_be_bytes(), discriminator)
}
