//! Writing many subjects: together, for a commit of its own for each would wait for the disk as many times.

use std::collections::HashSet;

use super::super::session::Session;
use super::super::types::{Changes, PutOptions, PutOutcome};
use super::super::writer::Write;
use super::super::{Inner, Vault};
use crate::audit::trail;
use crate::error::Error;
use crate::ids::SubjectId;

type Item = (SubjectId, Changes, PutOptions);

/// Items, and the answer to each that has one.
struct Batch {
    items: Vec<Item>,
    answers: Vec<Option<Result<PutOutcome, Error>>>,
}

impl Vault {
    /// Puts many subjects in one durable commit. Those that change meanwhile share the next one, and so do those that are
    /// listed twice; a final change has one of its own. Each item succeeds or fails on its own.
    pub async fn write_batch(&self, items: Vec<(SubjectId, Changes, PutOptions)>) -> Vec<Result<PutOutcome, Error>> {
        let Ok(session) = self.session() else { return items.iter().map(|_| Err(Error::Locked)).collect() };
        let mut batch = Batch { answers: items.iter().map(|_| None).collect(), items };
        let mut rounds = self.inner.turns.rounds();
        let mut round = batch.round();
        // Others do not wait for what waits for a root batch.
        let mut alone = Vec::new();
        while !round.is_empty() {
            alone.extend(batch.together(&self.inner, &session, &round).await);
            round = batch.round();
            round.retain(|at| !alone.contains(at));
            if round.is_empty() {
                rounds.release();
                batch.one_by_one(&self.inner, &session, std::mem::take(&mut alone)).await;
                round = batch.round();
            }
            let subjects = round.iter().map(|at| &batch.items[*at].0);
            if let Err(error) = rounds.next(batch.left() - alone.len(), subjects).await {
                round.into_iter().for_each(|at| batch.fail(at, error.again()));
                batch.one_by_one(&self.inner, &session, std::mem::take(&mut alone)).await;
                round = batch.round();
            }
        }
        batch.end()
    }
}

impl Batch {
    /// What is tried next: of each subject the first item that has no answer, for those behind it build on it.
    fn round(&self) -> Vec<usize> {
        let mut subjects = HashSet::new();
        let waits = |at: &usize| self.answers[*at].is_none() && subjects.insert(&self.items[*at].0);
        (0..self.items.len()).filter(waits).collect()
    }

    fn left(&self) -> usize {
        self.answers.iter().filter(|answer| answer.is_none()).count()
    }

    /// Commits what needs no root batch as one; answers what needs one.
    async fn together(&mut self, inner: &Inner, session: &Session, round: &[usize]) -> Vec<usize> {
        let mut writes = Vec::with_capacity(round.len());
        let mut waiting = Vec::with_capacity(round.len());
        let mut alone = Vec::new();
        for &at in round {
            trail::anew();
            let (id, changes, options) = &self.items[at];
            match inner.prepare(session, id, changes, options).await {
                Ok(prepared) if prepared.replaces => alone.push(at),
                Ok(prepared) => {
                    writes.push(Write { together: !writes.is_empty(), ..prepared.write });
                    waiting.push((at, prepared.outcome));
                }
                Err(error) => self.fail(at, error),
            }
        }
        trail::anew();
        match session.commit(writes).await {
            Ok(committed) => {
                for ((at, outcome), _) in waiting.into_iter().zip(committed).filter(|(_, held)| *held) {
                    self.answers[at] = Some(Ok(outcome));
                }
            }
            Err(error) => waiting.into_iter().for_each(|(at, _)| self.fail(at, error.again())),
        }
        alone
    }

    /// Each by itself, and in order.
    async fn one_by_one(&mut self, inner: &Inner, session: &Session, which: Vec<usize>) {
        for at in which {
            let (id, changes, options) = &self.items[at];
            match inner.put(session, id, changes, options).await {
                Ok(outcome) => self.answers[at] = Some(Ok(outcome)),
                Err(error) => self.fail(at, error),
            }
        }
    }

    fn fail(&mut self, at: usize, error: Error) {
        let failed = Err(error);
        trail::ended(&failed);
        self.answers[at] = Some(failed);
    }

    fn end(self) -> Vec<Result<PutOutcome, Error>> {
        self.answers.into_iter().map(|answer| answer.unwrap_or(Err(Error::Failed))).collect()
    }
}
