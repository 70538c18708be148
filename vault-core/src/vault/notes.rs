//! What is noted about a subject besides its values: one sealed record for each topic, in the row of the compartment
//! `system`.
//!
//! What decides (which consents are given, whether processing is restricted, which holds there are) is in the subject's
//! record, so that a decision opens no row more. Here is what explains it: when, in which words, by whom. Both change in
//! one commit, and a shred takes both with the keys.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Inner;
use super::consents::Consents;
use super::holds::Holds;
use super::put::first_keys;
use super::records::SubjectRecord;
use super::restriction::Restrictions;
use super::row::{Row, RowWriter};
use super::session::{Session, Snapshot, reading};
use super::subject::{self, Room};
use super::turns::{ATTEMPTS, too_busy};
use super::writer::{Guard, Write};
use crate::codec;
use crate::error::Error;
use crate::ids::{Compartment, FieldName, SubjectId};
use crate::schema::Schema;
use crate::time::Timestamp;
use crate::trie::{EntryKey, Header, Kind, Op};

/// A topic of notes.
pub(super) trait Note: Default + Send + Serialize + DeserializeOwned {
    /// The reserved id of the field that it lies in.
    const FIELD: &'static str;
    /// How far it may make the subject's record grow.
    const ROOM: Room;
}

fn field_of<N: Note>() -> FieldName {
    FieldName::parse(N::FIELD).expect("reserved ids are names")
}

/// A subject and what is noted of it, while that is being changed.
pub(super) struct Noting<'a, N> {
    pub(super) header: &'a Header,
    pub(super) schema: &'a Schema,
    /// Of the subject's directory entry.
    pub(super) key: EntryKey,
    /// The bytes that it took.
    before: usize,
    pub(super) now: Timestamp,
    pub(super) record: SubjectRecord,
    pub(super) note: N,
    /// What changes in the trie besides the subject's own entry.
    pub(super) edits: Vec<(Kind, EntryKey, Op)>,
}

/// What a change came to.
pub(super) enum Noted<T> {
    /// All was as it is asked for already: there is nothing to write.
    Before(T),
    /// It is to be written.
    Now(T),
}

/// Changes what is noted, or says that it is so already; called again if the subject changed meanwhile.
type Change<'c, N, T> = dyn Fn(&mut Noting<'_, N>) -> Result<Noted<T>, Error> + Sync + 'c;

impl Inner {
    /// What is noted of a subject on one topic.
    pub(super) async fn note<N: Note>(&self, record: &SubjectRecord) -> Result<N, Error> {
        let Some(keys) = record.keys(&Compartment::system()) else { return Ok(N::default()) };
        let place = record.row_place(keys);
        let row = subject::open_row(self, &place).await?;
        self.note_in(record, Some(&row)).await
    }

    async fn note_in<N: Note>(&self, record: &SubjectRecord, row: Option<&Row>) -> Result<N, Error> {
        let field = field_of::<N>();
        match (row, record.keys(&Compartment::system())) {
            (Some(row), Some(keys)) if row.fields.contains_key(&field) => {
                let bytes = subject::open_field(self, row, &field, &record.row_place(keys)).await?;
                Ok(codec::decode_record(&bytes)?)
            }
            _ => Ok(N::default()),
        }
    }

    /// Changes what is noted of a living subject, in one durable commit; once more if the subject changed meanwhile.
    pub(super) async fn change_note<N: Note, T: Send>(
        &self,
        session: &Session,
        id: &SubjectId,
        change: &Change<'_, N, T>,
    ) -> Result<T, Error> {
        let mut turn = None;
        for _ in 0..ATTEMPTS {
            let (write, outcome) = reading!(session, |snapshot| self.prepare_note(&snapshot, id, change).await)?;
            let Some(write) = write else { return Ok(outcome) };
            if session.commit(vec![write]).await? == [true] {
                return Ok(outcome);
            }
            if turn.is_none() {
                turn = Some(self.turns.of(id).await);
            }
        }
        Err(too_busy())
    }

    async fn prepare_note<N: Note, T: Send>(
        &self,
        snapshot: &Snapshot,
        id: &SubjectId,
        change: &Change<'_, N, T>,
    ) -> Result<(Option<Write>, T), Error> {
        let found = subject::find(self, &snapshot.header, id).await?;
        let (guard, key, before, now) = (found.guard(), found.key, found.size()?, Timestamp::now());
        let record = found.living(self.options.tombstone_seconds)?;
        let row = match record.keys(&Compartment::system()) {
            Some(keys) => Some(subject::open_row(self, &record.row_place(keys)).await?),
            None => None,
        };
        let note = self.note_in(&record, row.as_ref()).await?;
        let (header, schema) = (&*snapshot.header, &*snapshot.schema);
        let mut noting = Noting { header, schema, key, before, now, record, note, edits: Vec::new() };
        match change(&mut noting)? {
            Noted::Before(outcome) => Ok((None, outcome)),
            Noted::Now(outcome) => {
                let mut write = noting.into_write(row)?;
                write.guards.push(guard);
                Ok((Some(write), outcome))
            }
        }
    }
}

impl<N: Note> Noting<'_, N> {
    /// The subject's entry and the next version of its row `system`, which the first note creates.
    fn into_write(mut self, row: Option<Row>) -> Result<Write, Error> {
        let mut write = Write { edits: self.edits, under: Some(self.schema.version), ..Write::default() };
        if row.is_none() {
            let keys = first_keys(Compartment::system(), &self.record);
            self.record.compartments.push(keys);
            write.delta.rows += 1;
        }
        let keys = self.record.keys(&Compartment::system());
        let place = self.record.row_place(keys.expect("it had a row, or was just given keys"));
        write.guards.push(Guard::Row { key: place.key(), version: row.as_ref().map(|row| row.version) });

        let field = field_of::<N>();
        let row = row.unwrap_or_else(Row::empty);
        let version = row.fields.get(&field).map_or(0, |entry| entry.version) + 1;
        let bytes = codec::encode_record(&self.note).map_err(|_| Error::TooLarge)?;
        let mut writer = RowWriter::new(row, place, self.schema.version, 1);
        writer.set(&field, version, self.now, &bytes);
        let rows = writer.finish()?;
        // Besides the row itself there may be one for a note that is long, and one less for its former version.
        write.delta.rows += few(rows.put.len()) - 1 - few(rows.delete.len());
        write.put = rows.put;
        write.delete = rows.delete;
        let payload = subject::encode_within(self.record, N::ROOM, || Ok(self.before))?;
        write.edits.push((Kind::Directory, self.key, Op::Insert(payload)));
        Ok(write)
    }
}

fn few(rows: usize) -> i64 {
    i64::try_from(rows).expect("a note lies in two rows at most")
}

/// Whether a field of the row `system` is a note as it should be.
pub(super) fn check(field: &FieldName, bytes: &[u8]) -> Result<(), Error> {
    match field.as_str() {
        Consents::FIELD => codec::decode_record::<Consents>(bytes).map(|_| ())?,
        Holds::FIELD => codec::decode_record::<Holds>(bytes).map(|_| ())?,
        Restrictions::FIELD => codec::decode_record::<Restrictions>(bytes).map(|_| ())?,
        _ => return Err(Error::Damaged("a note of no known topic")),
    }
    Ok(())
}

/// Whether a text is 1 to `max` bytes on one line.
pub(super) fn is_line(text: &str, max: usize) -> bool {
    (1..=max).contains(&text.len()) && !text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
}
