//! Turns: writes that lost a race for their subject try again one after the other, so that each gets through.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};

use tokio::sync::{Mutex, MutexGuard};

use crate::error::Error;
use crate::ids::SubjectId;

/// How often a write is prepared again because its subject changed meanwhile.
pub(super) const ATTEMPTS: usize = 64;

/// Subjects that share a turn hold each other up a little, and nothing else.
const TURNS: usize = 256;

/// A bounded set of turns, one of which each subject has.
pub(crate) struct Turns {
    turns: Vec<Mutex<()>>,
    hasher: RandomState,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self { turns: (0..TURNS).map(|_| Mutex::new(())).collect(), hasher: RandomState::new() }
    }

    /// Waits for the turn of a subject.
    pub(crate) async fn of(&self, subject: &SubjectId) -> MutexGuard<'_, ()> {
        self.turns[self.at(subject)].lock().await
    }

    /// For writes of several subjects that are committed together, and tried again together.
    pub(crate) fn rounds(&self) -> Rounds<'_> {
        Rounds { turns: self, held: Vec::new(), left: usize::MAX, barren: 0 }
    }

    /// Lets those through who have or wait for the turn of one of these subjects, and takes none.
    pub(crate) async fn give_way(&self, subjects: impl Iterator<Item = &SubjectId>) {
        for at in self.places(subjects) {
            drop(self.turns[at].lock().await);
        }
    }

    fn places<'s>(&self, subjects: impl Iterator<Item = &'s SubjectId>) -> BTreeSet<usize> {
        subjects.map(|subject| self.at(subject)).collect()
    }

    fn at(&self, subject: &SubjectId) -> usize {
        let at = self.hasher.hash_one(subject) % self.turns.len() as u64;
        usize::try_from(at).expect("there are few turns")
    }
}

/// Writes of several subjects, tried until all came through: those that lose a race share the next round, in their turns.
/// One by one each would wait for a commit of its own.
pub(crate) struct Rounds<'t> {
    turns: &'t Turns,
    held: Vec<MutexGuard<'t, ()>>,
    left: usize,
    /// Rounds in a row in which nothing came through.
    barren: usize,
}

impl Rounds<'_> {
    /// Waits for the turns of these subjects, which come next, when so many writes are left.
    ///
    /// # Errors
    /// [`Error::Conflict`] if nothing came through in the last [`ATTEMPTS`] rounds.
    pub(crate) async fn next(&mut self, left: usize, subjects: impl Iterator<Item = &SubjectId>) -> Result<(), Error> {
        self.release();
        self.barren = if left < self.left { 0 } else { self.barren + 1 };
        self.left = left;
        if self.barren == ATTEMPTS {
            return Err(too_busy());
        }
        // In one order, so that nobody waits for who waits for him; and whoever has a single turn asks for no other.
        for at in self.turns.places(subjects) {
            self.held.push(self.turns.turns[at].lock().await);
        }
        Ok(())
    }

    /// Lets others have their turns, before what may take long.
    pub(crate) fn release(&mut self) {
        self.held.clear();
    }
}

/// What is told after [`ATTEMPTS`].
pub(super) fn too_busy() -> Error {
    Error::Conflict("the subject is changed by too many requests at once: retry")
}
