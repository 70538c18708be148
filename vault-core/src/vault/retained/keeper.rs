//! What is known of retained roots besides their keys: the backups that they are retained for, and the lists of refusals
//! beside the slots.
//!
//! A slot's disk may not answer. What is known here never waits for one; lists are written by threads of their own, beside
//! all slots at once, and what is not done in time goes on by itself. Until it ends, nothing else is written beside that slot.

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::RetainedRoot;
use crate::error::Error;
use crate::ids::{RootId, VaultId};
use crate::memory;
use crate::root::{Refusal, Refusals, RootEntry};

/// How long lists are waited for beside a slot that does not answer.
const SILENT: Duration = Duration::from_secs(5);

pub(crate) struct Keeper {
    vault: VaultId,
    places: Vec<Place>,
    state: Mutex<State>,
    /// Held by whoever writes lists.
    turn: tokio::sync::Mutex<()>,
    /// Refusals that are durable and not noted yet.
    unnoted: watch::Sender<usize>,
}

/// Counts among the refusals that are not noted yet, until it is dropped.
pub(crate) struct Unnoted(watch::Sender<usize>);

impl Drop for Unnoted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// Where lists lie: beside a slot.
#[derive(Clone)]
struct Place {
    slot: PathBuf,
    /// Held while something is done there, be it that nobody waits for it any more.
    lane: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) kept: Option<RetainedRoot>,
    pub(super) begun: Option<(RetainedRoot, Instant)>,
    files: Vec<Arc<Refusals>>,
    /// Lists that missed something and could not be made whole: beside a slot that was away, for example.
    lagging: HashSet<(RootId, usize)>,
}

/// How long slots are waited for that do not answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// For [`SILENT`].
    Bounded,
    /// The same once one has done it; for that one as long as there is any.
    UntilOne,
}

impl Keeper {
    pub(crate) fn new(vault: VaultId, slots: Vec<PathBuf>) -> Self {
        let places = slots.into_iter().map(|slot| Place { slot, lane: Arc::default() }).collect();
        let (turn, unnoted) = (tokio::sync::Mutex::new(()), watch::Sender::new(0));
        Self { vault, places, state: Mutex::default(), turn, unnoted }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether refusals have to be noted at all.
    pub(crate) fn is_noting(&self) -> bool {
        !self.state().files.is_empty()
    }

    /// Whoever commits refusals has this until they are noted.
    pub(crate) fn unnoted(&self) -> Unnoted {
        self.unnoted.send_modify(|count| *count += 1);
        Unnoted(self.unnoted.clone())
    }

    /// Waits until everything that was committed is noted. For locking the vault: the lists are not known after that.
    pub(crate) async fn all_noted(&self) {
        // The sender lives as long as this.
        let _ = self.unnoted.subscribe().wait_for(|count| *count == 0).await;
    }

    /// Forgets everything, for locking the vault.
    pub(crate) async fn clear(&self) {
        let _turn = self.turn.lock().await;
        *self.state() = State::default();
    }

    /// Notes refusals for every retained root, beside one slot at least. A root whose refusals cannot be noted anywhere is
    /// given back: it must go. Waits for as long as there is a slot that may still take them and none that has.
    pub(crate) async fn note(&self, refusals: Vec<Refusal>) -> Vec<RootId> {
        let _turn = self.turn.lock().await;
        let refusals: Arc<[Refusal]> = refusals.into();
        let mut lost = Vec::new();
        for file in self.files() {
            if self.append(&file, &refusals).await {
                self.mend(&file).await;
            } else {
                lost.push(file.root);
            }
        }
        lost
    }

    /// Adds refusals to the lists that are whole; answers whether one of them has them.
    async fn append(&self, file: &Arc<Refusals>, refusals: &Arc<[Refusal]>) -> bool {
        let (list, refusals) = (file.clone(), refusals.clone());
        let append = move |slot: &Path| list.append(slot, &refusals);
        let mut noted = false;
        for (at, appended) in self.beside(self.whole(file.root), Patience::UntilOne, append).await {
            noted |= appended.is_ok();
            if let Err(error) = appended {
                self.lags(file.root, at, &error);
            }
        }
        noted
    }

    /// Makes lists that lag whole from the others; one that stays behind goes, for it would be taken for complete.
    async fn mend(&self, file: &Arc<Refusals>) {
        let lagging = self.everywhere().into_iter().filter(|at| !self.is_whole(file.root, *at));
        // What is being done there comes first.
        let idle: Vec<usize> = lagging.filter(|at| self.places[*at].lane.try_lock().is_ok()).collect();
        for at in idle {
            let others: Vec<PathBuf> =
                self.whole(file.root).into_iter().map(|at| self.places[at].slot.clone()).collect();
            let list = file.clone();
            let mended = self.at(at, move |slot| {
                let whole = list.gather(&others, false).ok_or(ErrorKind::NotFound)?;
                list.write(slot, &whole)
            });
            match mended.await {
                Ok(()) => drop(self.state().lagging.remove(&(file.root, at))),
                Err(error) if error.kind() == ErrorKind::TimedOut => {}
                Err(_) => self.drop_list(file, at).await,
            }
        }
    }

    /// Makes lists whole that missed something, now that their slots may answer again.
    pub(crate) async fn mend_all(&self) {
        if self.state().lagging.is_empty() {
            return;
        }
        // Whoever has it comes to that by himself, or in a while.
        let Ok(_turn) = self.turn.try_lock() else { return };
        for file in self.files() {
            self.mend(&file).await;
        }
    }

    async fn drop_list(&self, file: &Arc<Refusals>, at: usize) {
        let list = file.clone();
        if let Err(error) = self.at(at, move |slot| list.wipe(slot)).await {
            let slot = self.places[at].slot.display();
            tracing::error!(%slot, %error, "a list of refusals beside a root slot lags and stays: never restore from this slot alone");
        }
    }

    /// After an unlock: takes up what is noted for a root that is retained, and makes it the same beside every slot. Answers
    /// `false` if it is whole beside none: nobody knows then who was refused.
    pub(super) async fn take_up(&self, root: &RootEntry) -> bool {
        let _turn = self.turn.lock().await;
        let file = Arc::new(Refusals::of(root, self.vault));
        let slots: Vec<PathBuf> = self.places.iter().map(|place| place.slot.clone()).collect();
        let list = file.clone();
        let known = memory::blocking(move || list.gather(&slots, true)).await;
        let Ok(Some(known)) = known else { return false };
        self.state().files.push(file.clone());
        let list = file.clone();
        for (at, written) in
            self.beside(self.everywhere(), Patience::UntilOne, move |slot| list.write(slot, &known)).await
        {
            if let Err(error) = written {
                self.lags(file.root, at, &error);
                // What does not answer lacks nothing yet, and may be written still.
                if error.kind() != ErrorKind::TimedOut {
                    self.drop_list(&file, at).await;
                }
            }
        }
        true
    }

    /// Removes what a crash left of roots that are not retained any more.
    pub(super) async fn sweep(&self) {
        let _turn = self.turn.lock().await;
        let kept: Vec<u64> = self.files().iter().map(|file| file.epoch).collect();
        for (at, swept) in
            self.beside(self.everywhere(), Patience::Bounded, move |slot| Refusals::sweep(slot, &kept)).await
        {
            if let Err(error) = swept {
                let slot = self.places[at].slot.display();
                tracing::warn!(%slot, %error, "old lists of refusals beside a root slot could not be removed");
            }
        }
    }

    /// Begins a list of refusals for a root, beside one slot at least; not once the vault is being locked, for what is kept is
    /// forgotten then, and a list that goes on might be begun anew.
    pub(super) async fn begin(&self, root: &RootEntry, is_locking: impl Fn() -> bool) -> Result<(), Error> {
        let no_list = Error::Conflict(
            "no file can be made beside a root slot, and refusals must be noted there while a root is retained: see to the \
             slots' disks",
        );
        let Ok(_turn) = tokio::time::timeout(SILENT, self.turn.lock()).await else { return Err(no_list) };
        if is_locking() {
            return Err(Error::LockedMeanwhile);
        }
        let file = Arc::new(Refusals::of(root, self.vault));
        let list = file.clone();
        let made = self.beside(self.everywhere(), Patience::Bounded, move |slot| list.write(slot, &[])).await;
        if made.iter().all(|(_, made)| made.is_err()) {
            return Err(no_list);
        }
        for (at, made) in made {
            if let Err(error) = made {
                self.lags(file.root, at, &error);
            }
        }
        self.state().files.push(file);
        Ok(())
    }

    /// Ends the list of a root that is let go.
    pub(super) async fn end(&self, root: RootId) {
        let _turn = self.turn.lock().await;
        let ended = {
            let mut state = self.state();
            state.lagging.retain(|(of, _)| *of != root);
            let at = state.files.iter().position(|file| file.root == root);
            at.map(|at| state.files.remove(at))
        };
        if let Some(file) = ended {
            self.wipe(file).await;
        }
    }

    /// Ends all lists, and forgets which backups there were.
    pub(super) async fn end_all(&self) {
        let _turn = self.turn.lock().await;
        let ended = std::mem::take(&mut *self.state());
        for file in ended.files {
            self.wipe(file).await;
        }
    }

    async fn wipe(&self, file: Arc<Refusals>) {
        for (at, wiped) in self.beside(self.everywhere(), Patience::Bounded, move |slot| file.wipe(slot)).await {
            if let Err(error) = wiped {
                let slot = self.places[at].slot.display();
                tracing::warn!(%slot, %error, "refusals beside a slot could not be wiped; they are sealed under a root that is gone");
            }
        }
    }

    /// Has this done beside several slots at once; answers what came of it beside each, as far as that is known in time.
    async fn beside<T: Send + 'static>(
        &self,
        places: Vec<usize>,
        patience: Patience,
        work: impl Fn(&Path) -> io::Result<T> + Clone + Send + 'static,
    ) -> Vec<(usize, io::Result<T>)> {
        // What waits for its turn there is not done any more once nobody waits for it.
        let mut asked = JoinSet::new();
        for &at in &places {
            let answer = self.ask(at, work.clone());
            asked.spawn(async move { (at, answer.await) });
        }
        let deadline = Instant::now() + SILENT;
        let mut answers: Vec<(usize, io::Result<T>)> = Vec::with_capacity(places.len());
        loop {
            let waits = patience == Patience::UntilOne && answers.iter().all(|(_, answer)| answer.is_err());
            let next = match waits {
                true => asked.join_next().await,
                false => timeout_at(deadline, asked.join_next()).await.ok().flatten(),
            };
            let Some(answer) = next else { break };
            answers.extend(answer.ok());
        }
        let silent = places.into_iter().filter(|at| answers.iter().all(|(answered, _)| answered != at));
        let silent: Vec<_> = silent.map(|at| (at, Err(does_not_answer()))).collect();
        answers.extend(silent);
        answers
    }

    /// The same beside one.
    async fn at<T: Send + 'static>(
        &self,
        at: usize,
        work: impl Fn(&Path) -> io::Result<T> + Clone + Send + 'static,
    ) -> io::Result<T> {
        let answers = self.beside(vec![at], Patience::Bounded, work).await;
        answers.into_iter().next().map_or_else(|| Err(does_not_answer()), |(_, answer)| answer)
    }

    /// Has this done beside a slot, once what was begun there before is done.
    fn ask<T: Send + 'static, W: FnOnce(&Path) -> io::Result<T> + Send + 'static>(
        &self,
        at: usize,
        work: W,
    ) -> impl Future<Output = io::Result<T>> + Send + use<T, W> {
        let Place { slot, lane } = self.places[at].clone();
        async move {
            let lane = lane.lock_owned().await;
            let asked = memory::blocking(move || {
                let _lane = lane;
                work(&slot)
            });
            asked.await.unwrap_or_else(|_| Err(ErrorKind::Other.into()))
        }
    }

    fn files(&self) -> Vec<Arc<Refusals>> {
        self.state().files.clone()
    }

    fn everywhere(&self) -> Vec<usize> {
        (0..self.places.len()).collect()
    }

    /// Where the list of a root is whole.
    fn whole(&self, root: RootId) -> Vec<usize> {
        (0..self.places.len()).filter(|at| self.is_whole(root, *at)).collect()
    }

    fn is_whole(&self, root: RootId, at: usize) -> bool {
        !self.state().lagging.contains(&(root, at))
    }

    fn lags(&self, root: RootId, at: usize, error: &io::Error) {
        let slot = self.places[at].slot.display();
        tracing::warn!(%slot, %error, "refusals could not be noted beside a root slot: until that is made good, never restore from it alone");
        self.state().lagging.insert((root, at));
    }
}

fn does_not_answer() -> io::Error {
    io::Error::new(ErrorKind::TimedOut, "it does not answer")
}

#[cfg(test)]
impl Keeper {
    /// As while something that was begun beside this slot has no end: until what this answers is dropped.
    pub(crate) async fn hang(&self, at: usize) -> tokio::sync::OwnedMutexGuard<()> {
        self.places[at].lane.clone().lock_owned().await
    }
}
