//! Turns: writes that lost a race for their subject try again one after the other, so that each gets through.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};

use tokio::sync::{Mutex, MutexGuard};

use crate::ids::SubjectId;

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

    /// Lets those through who have or wait for the turn of one of these subjects, and takes none.
    pub(crate) async fn give_way(&self, subjects: impl Iterator<Item = &SubjectId>) {
        let places: BTreeSet<usize> = subjects.map(|subject| self.at(subject)).collect();
        for at in places {
            drop(self.turns[at].lock().await);
        }
    }

    fn at(&self, subject: &SubjectId) -> usize {
        let at = self.hasher.hash_one(subject) % self.turns.len() as u64;
        usize::try_from(at).expect("there are few turns")
    }
}
