//! One change of metadata for everything that a search finds.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::task::{JoinError, JoinSet};

use super::change::Edited;
use super::search::{Cursor, Match};
use super::{MetadataEdit, MetadataQuery};
use crate::audit::trail;
use crate::error::Error;
use crate::ids::{FieldName, SubjectId};
use crate::time::Timestamp;
use crate::trie::EntryKey;
use crate::vault::put::TURN_KEPT;
use crate::vault::session::{Session, reading};
use crate::vault::turns::Rounds;
use crate::vault::writer::Write;
use crate::vault::{Inner, Vault};

/// Values whose changes share one commit.
const TOGETHER: usize = 256;

/// What a change for many did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Values that were found, one that the change moves ahead of the search each time that it is.
    pub matched: u64,
    /// Values whose metadata is another now.
    pub changed: u64,
    /// Values that were left as they are, for theirs would have outgrown its bounds, or they have expired.
    pub refused: u64,
}

/// A subject and the fields of his that were found, by their ids.
type Found = BTreeMap<EntryKey, (SubjectId, Vec<FieldName>)>;

impl Vault {
    /// Changes the metadata of every value that answers to the query, part by part, each part durable. Goes on to the end
    /// if nobody waits for it any more; after an error, asking again does the rest.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a query or a change that is out of bounds: nothing was changed then.
    pub async fn apply_metadata(&self, query: MetadataQuery, edit: MetadataEdit) -> Result<Applied, Error> {
        let session = self.session()?;
        let schema = session.snapshot().schema.clone();
        query.check(&schema)?;
        edit.check(&schema, Timestamp::now())?;
        let inner = self.inner.clone();
        let task = tokio::spawn(trail::carried(async move { inner.apply(&session, &query, &edit).await }));
        task.await.map_err(|_| Error::Failed)?
    }
}

impl Inner {
    async fn apply(
        &self,
        session: &Arc<Session>,
        query: &MetadataQuery,
        edit: &MetadataEdit,
    ) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        let mut after = Some(Cursor::default());
        while let Some(at) = after {
            let (matches, next) = reading!(session, |snapshot| self.matches(&snapshot, query, at, TOGETHER).await)?;
            applied.matched += matches.len() as u64;
            self.apply_part(session, by_subject(matches), edit, &mut applied).await?;
            after = next;
        }
        Ok(applied)
    }

    /// One commit for all of a part; those that lose a race share the next one.
    async fn apply_part(
        &self,
        session: &Arc<Session>,
        mut part: Found,
        edit: &MetadataEdit,
        applied: &mut Applied,
    ) -> Result<(), Error> {
        let mut rounds = self.turns.rounds();
        while !part.is_empty() {
            part = self.apply_round(session, part, &mut rounds, edit, applied).await?;
            rounds.next(part.len(), part.values().map(|(subject, _)| subject)).await?;
        }
        Ok(())
    }

    /// Answers who lost a race.
    async fn apply_round(
        &self,
        session: &Arc<Session>,
        part: Found,
        rounds: &mut Rounds<'_>,
        edit: &MetadataEdit,
        applied: &mut Applied,
    ) -> Result<Found, Error> {
        let (mut writes, mut waiting) = (Vec::with_capacity(part.len()), Vec::with_capacity(part.len()));
        let mut finals = JoinSet::new();
        for (key, found) in part {
            let prepared = self.prepare_edit(session, key, &found.1, edit).await?;
            match prepared.write {
                None => applied.count(&prepared.edited),
                // Too much was left behind with this subject: it waits for a root batch, together with others.
                Some(write) if prepared.replaces => {
                    let session = session.clone();
                    finals.spawn(
                        async move { (key, found, prepared.edited, session.commit_with_root(write, false).await) },
                    );
                }
                Some(write) => {
                    writes.push(Write { together: !writes.is_empty(), ..write });
                    waiting.push((key, found, prepared.edited));
                }
            }
        }
        let committed = session.commit(writes).await?;
        let mut again = Found::new();
        for ((key, found, edited), held) in waiting.into_iter().zip(committed) {
            if held { applied.count(&edited) } else { drop(again.insert(key, found)) }
        }
        let mut ended = Vec::with_capacity(finals.len());
        // As with a single write, turns are kept for a while.
        let _ = tokio::time::timeout(TURN_KEPT, to_their_end(&mut finals, &mut ended)).await;
        rounds.release();
        to_their_end(&mut finals, &mut ended).await;
        for done in ended {
            let (key, found, edited, done) = done.map_err(|_| Error::Failed)?;
            if done?.held { applied.count(&edited) } else { drop(again.insert(key, found)) }
        }
        Ok(again)
    }
}

async fn to_their_end<T: 'static>(tasks: &mut JoinSet<T>, ended: &mut Vec<Result<T, JoinError>>) {
    while let Some(done) = tasks.join_next().await {
        ended.push(done);
    }
}

fn by_subject(matches: Vec<Match>) -> Found {
    let mut sorted = Found::new();
    for found in matches {
        let (_, fields) = sorted.entry(found.directory).or_insert_with(|| (found.subject, Vec::new()));
        fields.push(found.field);
    }
    sorted
}

impl Applied {
    fn count(&mut self, edited: &[Result<Edited, Error>]) {
        for value in edited {
            match value {
                Ok(edited) => self.changed += u64::from(edited.changed),
                Err(_) => self.refused += 1,
            }
        }
    }
}
