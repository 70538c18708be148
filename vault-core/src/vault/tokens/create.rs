//! Making value tokens: the subject must be there and hold the field; many tokens of one subject are one write.

use std::collections::{BTreeMap, BTreeSet};

use zeroize::Zeroizing;

use super::super::records::{DirectoryEntry, SubjectRecord, TokenOf, TokenRecord, encode};
use super::super::row::Row;
use super::super::session::{Session, Snapshot, reading};
use super::super::subject;
use super::super::writer::{Guard, Write};
use super::super::{Inner, Vault};
use super::{Expiring, TokenShape, entry_key, list_key, token_tag};
use crate::audit::trail;
use crate::crypto::Random;
use crate::crypto::tag::Tag;
use crate::error::Error;
use crate::ids::{CallerId, Compartment, FieldName, Purpose, SubjectId};
use crate::schema::{FieldSpec, Schema};
use crate::time::Timestamp;
use crate::trie::{self, Header, Kind, Op};

/// The longest that a token may resolve, in seconds: ten years, whichever they are.
const TTL_MAX: u64 = 3653 * 24 * 3600;

/// A value token to be created.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// The subject; its processing may be restricted, for making a token reveals nothing.
    pub subject: SubjectId,
    /// The field whose present value it resolves to, whatever that is then. It must be held now.
    pub field: FieldName,
    /// How long it resolves, in seconds, up to ten years; `None` for as long as the field is kept.
    pub ttl: Option<u64>,
    /// Whether it resolves once.
    pub single_use: bool,
    /// How it looks.
    pub shape: TokenShape,
    /// The only purpose that it resolves for.
    pub purpose: Option<Purpose>,
    /// The only caller that it resolves for.
    pub caller: Option<CallerId>,
}

/// A value token, as it is shown this one time.
pub struct CreatedToken {
    /// The token.
    pub token: Zeroizing<String>,
    /// When it stops resolving.
    pub expires_at: Option<Timestamp>,
}

type Outcome = Result<CreatedToken, Error>;

/// The tokens of one subject, ready for the writer.
struct Prepared {
    write: Write,
    /// What to answer, by position, once the write is committed.
    made: Vec<(usize, CreatedToken)>,
    /// What is refused whatever happens to the write.
    refused: Vec<(usize, Error)>,
}

impl Vault {
    /// Creates a value token.
    ///
    /// # Errors
    /// [`Error::UnknownSubject`], [`Error::Shredded`]; [`Error::NoSuchField`] if the subject does not hold the field;
    /// [`Error::Invalid`] for too long a time, an undeclared purpose, or a shape that is not the field's.
    pub async fn create_token(&self, new: NewToken) -> Result<CreatedToken, Error> {
        self.create_tokens(&[new]).await.pop().unwrap_or(Err(Error::Failed))
    }

    /// Creates many in one durable commit, those whose subject changes meanwhile in the next one, and answers them in order. Each succeeds or fails on its own.
    pub async fn create_tokens(&self, items: &[NewToken]) -> Vec<Outcome> {
        let Ok(session) = self.session() else { return items.iter().map(|_| Err(Error::Locked)).collect() };
        let mut outcomes: Vec<Option<Outcome>> = items.iter().map(|_| None).collect();
        let mut by_subject: BTreeMap<&SubjectId, Vec<usize>> = BTreeMap::new();
        for (at, item) in items.iter().enumerate() {
            by_subject.entry(&item.subject).or_default().push(at);
        }
        // A token changes its subject's record: whoever lost a race for that, to make something final perhaps, goes first.
        self.inner.turns.give_way(by_subject.keys().copied()).await;
        let mut rounds = self.inner.turns.rounds();
        while !by_subject.is_empty() {
            by_subject = self.inner.create_together(&session, items, by_subject, &mut outcomes).await;
            if let Err(error) = rounds.next(by_subject.len(), by_subject.keys().copied()).await {
                lose(by_subject.into_values().flatten(), &error, &mut outcomes);
                break;
            }
        }
        outcomes.into_iter().map(|outcome| outcome.unwrap_or(Err(Error::Failed))).collect()
    }
}

impl Inner {
    /// One commit for all subjects; answers those that changed meanwhile.
    async fn create_together<'i>(
        &self,
        session: &Session,
        items: &[NewToken],
        by_subject: BTreeMap<&'i SubjectId, Vec<usize>>,
        outcomes: &mut [Option<Outcome>],
    ) -> BTreeMap<&'i SubjectId, Vec<usize>> {
        let mut writes = Vec::with_capacity(by_subject.len());
        let mut waiting = Vec::with_capacity(by_subject.len());
        for (id, positions) in by_subject {
            if let Some(prepared) = self.prepared(session, items, id, &positions, outcomes).await {
                writes.push(Write { together: !writes.is_empty(), ..prepared.write });
                waiting.push((id, positions, prepared.made));
            }
        }
        if writes.is_empty() {
            return BTreeMap::new();
        }
        let mut left = BTreeMap::new();
        match session.commit(writes).await {
            Ok(committed) => {
                for ((id, positions, made), held) in waiting.into_iter().zip(committed) {
                    if held { answer(made, outcomes) } else { drop(left.insert(id, positions)) }
                }
            }
            Err(error) => {
                let made = waiting.into_iter().flat_map(|(.., made)| made);
                lose(made.map(|(at, _)| at), &error, outcomes);
            }
        }
        left
    }

    /// The write for one subject's tokens, with what is refused answered already; none if nothing is left to write.
    async fn prepared(
        &self,
        session: &Session,
        items: &[NewToken],
        id: &SubjectId,
        positions: &[usize],
        outcomes: &mut [Option<Outcome>],
    ) -> Option<Prepared> {
        match reading!(session, |snapshot| self.prepare_tokens(&snapshot, items, id, positions).await) {
            Ok(mut prepared) => {
                for (at, error) in prepared.refused.drain(..) {
                    outcomes[at] = Some(Err(error));
                }
                (!prepared.made.is_empty()).then_some(prepared)
            }
            Err(error) => {
                trail::ended(&Err::<(), _>(error.again()));
                fail(positions.iter().copied(), &error, outcomes);
                None
            }
        }
    }

    async fn prepare_tokens(
        &self,
        snapshot: &Snapshot,
        items: &[NewToken],
        id: &SubjectId,
        positions: &[usize],
    ) -> Result<Prepared, Error> {
        let header = &*snapshot.header;
        let now = Timestamp::now();
        let found = subject::find(self, header, id).await?;
        let (guard, directory) = (found.guard(), found.key);
        let mut record = found.living(self.options.tombstone_seconds)?;
        if record.compartments.iter().any(|keys| keys.refused.is_some()) {
            // It needs the record to stand still, and creations would go on for ever.
            return Err(Error::Conflict(
                "the shred of one of the subject's compartments is not final yet: retry once it is",
            ));
        }
        let mut prepared = Prepared {
            write: Write { guards: vec![guard], ..Write::default() },
            made: Vec::new(),
            refused: Vec::new(),
        };
        // It is told with the write, and with each token that is refused.
        trail::anew();
        let (name, schema) = (trail::name(&record.audit_key), &*snapshot.schema);
        let mut fields = BTreeSet::new();
        let mut rows = BTreeMap::new();
        let mut drawn = BTreeSet::new();
        let mut random = Random::new(positions.len() * 32);
        for &at in positions {
            let new = &items[at];
            match self.check(schema, &record, new, &mut rows).await {
                Ok(spec) => {
                    let (tag, token) = self.draw(header, new.shape, &mut random, &mut drawn).await?;
                    let expires_at = new.ttl.map(|seconds| now.plus_seconds(seconds));
                    let made = TokenRecord {
                        uuid: record.uuid,
                        directory: subject::tag_of(&directory),
                        field: spec.id.clone(),
                        purpose: new.purpose.clone(),
                        caller: new.caller,
                        created_at: now,
                        expires_at,
                        single_use: new.single_use,
                        spent: false,
                    };
                    put(header, tag, &made, spec, &mut prepared.write)?;
                    fields.insert(&spec.id);
                    prepared.made.push((at, CreatedToken { token, expires_at }));
                }
                Err(error @ Error::Damaged(_)) => return Err(error),
                Err(error) => {
                    trail::failed(name, schema.field(&new.field).ok().map(|spec| &spec.id), &error);
                    prepared.refused.push((at, error));
                }
            }
        }
        prepared.write.entries = trail::change(&record.audit_key, fields);
        record.tokens += prepared.made.len() as u64;
        let record = encode(&DirectoryEntry::Subject(record))?;
        prepared.write.edits.push((Kind::Directory, directory, Op::Insert(record)));
        Ok(prepared)
    }

    /// The declaration of the field, if the subject holds it and the token may be as it is asked for.
    async fn check<'s>(
        &self,
        schema: &'s Schema,
        record: &SubjectRecord,
        new: &NewToken,
        rows: &mut BTreeMap<Compartment, Row>,
    ) -> Result<&'s FieldSpec, Error> {
        let spec = schema.field(&new.field)?;
        if new.ttl.is_some_and(|ttl| !(1..=TTL_MAX).contains(&ttl)) {
            return Err(Error::Invalid { field: "ttl", expected: "1 second to 10 years, in seconds" });
        }
        if new.purpose.as_ref().is_some_and(|purpose| schema.purpose(purpose.as_str()).is_none()) {
            return Err(Error::Invalid { field: "purpose", expected: "a purpose that the schema declares" });
        }
        if !new.shape.fits(&spec.kind) {
            return Err(Error::Invalid { field: "shape", expected: "`random`, or the shape of the field's own type" });
        }
        let keys = record.keys(&spec.compartment).ok_or(Error::NoSuchField)?;
        if !rows.contains_key(&keys.name) {
            rows.insert(keys.name.clone(), subject::open_row(self, &record.row_place(keys)).await?);
        }
        let held = rows[&keys.name].fields.contains_key(&spec.id);
        if held { Ok(spec) } else { Err(Error::NoSuchField) }
    }

    /// A token that is not there yet, and its tag.
    async fn draw(
        &self,
        header: &Header,
        shape: TokenShape,
        random: &mut Random,
        drawn: &mut BTreeSet<Tag>,
    ) -> Result<(Tag, Zeroizing<String>), Error> {
        loop {
            let token = shape.draw(random);
            let tag = token_tag(header, &token);
            let taken = trie::find(&self.pages, header, Kind::Tokens, &entry_key(tag)).await?.is_some();
            if !taken && drawn.insert(tag) {
                return Ok((tag, token));
            }
        }
    }
}

/// Puts all entries of a token into the write.
fn put(header: &Header, tag: Tag, record: &TokenRecord, spec: &FieldSpec, write: &mut Write) -> Result<(), Error> {
    let key = entry_key(tag);
    let of = TokenOf { field: spec.id.clone(), compartment: spec.compartment.clone() };
    // Should somebody draw the same one at the same time, one of the two draws again.
    write.guards.push(Guard::Entry { kind: Kind::Tokens, key, seen: None });
    write.edits.push((Kind::Tokens, key, Op::Insert(encode(record)?)));
    write.edits.push((Kind::Tokens, list_key(header, record.uuid, tag), Op::Insert(encode(&of)?)));
    write.edits.extend(record.expires_at.map(|at| Expiring::Token.index(header, &key, at)));
    Ok(())
}

fn answer(made: Vec<(usize, CreatedToken)>, outcomes: &mut [Option<Outcome>]) {
    for (at, token) in made {
        outcomes[at] = Some(Ok(token));
    }
}

/// What came to nothing after it was prepared.
fn lose(positions: impl Iterator<Item = usize>, error: &Error, outcomes: &mut [Option<Outcome>]) {
    fail(positions.inspect(|_| trail::failed(None, [], error)), error, outcomes);
}

fn fail(positions: impl Iterator<Item = usize>, error: &Error, outcomes: &mut [Option<Outcome>]) {
    for at in positions {
        outcomes[at] = Some(Err(error.again()));
    }
}
