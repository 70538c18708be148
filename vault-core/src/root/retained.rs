//! Roots that stay in the slots beside the current one, for a backup of the key plane that lags behind.
//!
//! Whoever has a backup of the key plane of epoch E needs the root of E to restore it. While that root is retained, no shred
//! that began at E or later is final: root and backup together still lead to its keys.

use std::sync::PoisonError;

use super::protocol::distinct;
use super::{RootEntry, RootError, Roots, SlotState};
use crate::ids::RootId;

impl Roots {
    /// From here on `root` stays in every slot whenever one is written.
    pub fn retain(&self, root: &RootEntry) {
        let mut retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = RootEntry { retained: true, ..root.duplicate() };
        if !retained.contains(&kept) {
            retained.push(kept);
            retained.sort_by_key(|e| (e.epoch, e.id));
        }
    }

    /// Lets go of a retained root. It is gone from the slots once [`Roots::finish`] or [`Roots::retry_behind`] has written
    /// all of them again, and says so.
    pub fn release(&self, id: RootId) {
        self.retained.lock().unwrap_or_else(PoisonError::into_inner).retain(|e| e.id != id);
        self.unsettle();
    }

    /// The retained roots, oldest first.
    pub fn retained(&self) -> Vec<(u64, RootId)> {
        let retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
        retained.iter().map(|e| (e.epoch, e.id)).collect()
    }

    /// The epoch of the oldest retained root: shreds that left an epoch from this one on are not final.
    pub fn oldest_retained(&self) -> Option<u64> {
        self.retained().first().map(|(epoch, _)| *epoch)
    }

    /// The keys of the retained roots, oldest first.
    pub(crate) fn retained_entries(&self) -> Vec<RootEntry> {
        let retained = self.retained.lock().unwrap_or_else(PoisonError::into_inner);
        retained.iter().map(RootEntry::duplicate).collect()
    }

    /// Drops the retained roots from memory, for locking the vault; the slots keep theirs.
    pub fn forget_retained_keys(&self) {
        self.retain_only(Vec::new());
    }

    /// For a restore: every root in any slot. Reads only.
    pub(crate) async fn read_for_restore(&self) -> Result<Vec<RootEntry>, RootError> {
        Ok(distinct(self.read_all().await?.into_iter().flatten()))
    }

    /// For a restore: what the slots hold is left as it is until its root batch is committed.
    pub(crate) fn take_as_they_are(&self) {
        for at in 0..self.slots.len() {
            self.note(at, SlotState::Ok, None);
        }
    }

    /// Notes that the slots may hold another root than they should.
    fn unsettle(&self) {
        for at in 0..self.slots.len() {
            self.note(at, SlotState::Behind, Some("a retained root is to be written or wiped".to_owned()));
        }
    }

    /// These and no others are retained from here on.
    pub(crate) fn retain_only(&self, mut entries: Vec<RootEntry>) {
        entries.sort_by_key(|e| (e.epoch, e.id));
        *self.retained.lock().unwrap_or_else(PoisonError::into_inner) = entries;
    }

    /// What a slot is to hold: `roots`, and beside them the retained ones.
    pub(super) fn beside(&self, roots: &[&RootEntry]) -> Vec<RootEntry> {
        let mut all = self.retained_entries();
        all.extend(roots.iter().map(|root| root.duplicate()));
        all
    }

    /// Whether a slot holds just that.
    pub(super) fn is_beside(&self, entries: &[RootEntry], root: &RootEntry) -> bool {
        let wanted = self.beside(&[root]);
        entries.len() == wanted.len() && wanted.iter().all(|e| entries.contains(e))
    }
}
