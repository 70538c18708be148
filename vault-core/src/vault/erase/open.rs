//! The erasures that are open, in memory: who is due next, who is late. Read once at unlock, and kept in step.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::ids::ErasureId;
use crate::time::Timestamp;
use crate::vault::records::{Approval, ErasureRecord};
use crate::vault::types::{ErasureState, OpenErasures};

/// The open erasures of a session.
#[derive(Default)]
pub(crate) struct OpenTable {
    records: Mutex<BTreeMap<ErasureId, ErasureRecord>>,
    /// Told when somebody may have become due.
    pub(crate) changed: tokio::sync::Notify,
}

impl OpenTable {
    /// Takes an erasure as it was committed.
    pub(crate) fn note(&self, record: &ErasureRecord) {
        let mut records = self.records();
        if record.ended_at.is_some() {
            records.remove(&record.id);
        } else {
            records.insert(record.id, record.clone());
        }
    }

    /// Those with something to be done at this time: due, held, or being taken back.
    pub(crate) fn due(&self, now: Timestamp) -> Vec<ErasureId> {
        self.records().values().filter(|record| record.is_due(now)).map(|record| record.id).collect()
    }

    /// When the next one is due.
    pub(crate) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let records = self.records();
        let waiting = records.values().filter(|record| record.approval != Approval::Awaited && record.accepted);
        waiting.filter_map(|record| record.not_before).filter(|at| *at > now).min()
    }

    pub(crate) fn status(&self, now: Timestamp) -> OpenErasures {
        let mut open = OpenErasures::default();
        for record in self.records().values() {
            match record.state() {
                ErasureState::AwaitingApproval => open.awaiting_approval += 1,
                ErasureState::Pending => open.pending += 1,
                ErasureState::Held => open.held += 1,
                _ => open.refused += 1,
            }
            if record.deadline <= now {
                open.late += 1;
            } else {
                open.next_deadline = Some(open.next_deadline.map_or(record.deadline, |at| at.min(record.deadline)));
            }
        }
        open
    }

    /// Whether all of its subjects are written down, or nobody goes on with that.
    pub(super) fn is_accepted(&self, id: ErasureId) -> bool {
        self.records().get(&id).is_some_and(|record| record.accepted)
    }

    fn records(&self) -> MutexGuard<'_, BTreeMap<ErasureId, ErasureRecord>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ErasureRecord {
    /// An error or a crash cut it short while it was being written down, and nobody was told of it: what is refused goes on to
    /// be final, what waits is taken back.
    pub(crate) fn cut_short(&mut self, now: Timestamp) {
        self.accepted = true;
        if self.waits() {
            self.cancelled_at = self.cancelled_at.or(Some(now));
        }
    }

    /// Whether nothing of it is still to be done.
    pub(crate) fn is_done(&self) -> bool {
        self.accepted && self.counts.refused + self.counts.pending + self.counts.held == 0
    }

    /// Whether subjects that wait can go on, or be taken back.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        let waits = self.counts.pending + self.counts.held > 0;
        let free = self.approval != Approval::Awaited && self.not_before.is_none_or(|at| at <= now);
        // One that is done and not ended was cut short by a crash.
        self.ended_at.is_none() && self.accepted && (self.is_done() || waits && (self.cancelled_at.is_some() || free))
    }

    /// Whether its subjects are left alone at first.
    pub(crate) fn waits(&self) -> bool {
        self.approval != Approval::NotNeeded || self.not_before.is_some()
    }

    /// How it is as a whole.
    pub(crate) fn state(&self) -> ErasureState {
        let counts = self.counts;
        if self.ended_at.is_some() {
            let nothing = counts.r#final + counts.unknown + counts.shredded == 0;
            return if counts.cancelled > 0 && nothing { ErasureState::Cancelled } else { ErasureState::Final };
        }
        match () {
            () if self.approval == Approval::Awaited => ErasureState::AwaitingApproval,
            () if counts.refused > 0 => ErasureState::Refused,
            () if counts.pending > 0 || !self.accepted => ErasureState::Pending,
            () => ErasureState::Held,
        }
    }
}
