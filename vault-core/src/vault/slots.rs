//! Rotation of root slots in hardware, by the clock and on demand: what makes a shred final on the slots' own disks (F2).
//!
//! The HSM is asked beside everything else, for it may be slow or away; only the writing of the slots' files takes a turn
//! between root batches. Roots go on being staged and settled without an HSM.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::finalizer::Job;
use super::session::Session;
use super::writer::Write;
use super::{Inner, Vault, evidence, life};
use crate::audit::{Action, Entry, Outcome};
use crate::error::Error;
use crate::memory;
use crate::root::{NewUnlock, SlotPlace};
use crate::time::Timestamp;

/// First and longest wait before a failed rotation is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The longest sleep, so that a clock that was set is noticed.
const NAP: Duration = Duration::from_secs(60);

impl Vault {
    /// Gives every root slot in hardware a fresh key, and destroys the ones from before; answers when it was begun. What
    /// was final by then does not come back from images of the slots' own disks, if all slots are in hardware.
    ///
    /// # Errors
    /// [`Error::Conflict`] if no slot is in hardware; [`Error::Slot`] names one that fails, and the rotation is then tried
    /// again by itself when its time comes.
    pub async fn rotate_slots(&self) -> Result<Timestamp, Error> {
        let session = self.session()?;
        if self.inner.keys_since().is_none() {
            let told = "no root slot is in hardware: there is no key to rotate. Make one with `vault-server slots add`";
            return Err(Error::Conflict(told));
        }
        rotate(&self.inner, &session).await
    }

    /// Makes one more slot that holds the present root. It is of use once the vault is opened with it.
    ///
    /// # Errors
    /// [`Error::Slot`] if the file exists or cannot be written, or the HSM refuses; [`Error::Locked`].
    pub async fn add_slot(&self, place: SlotPlace, unlocks: Vec<NewUnlock>) -> Result<(), Error> {
        let (vault, root) = (self.inner.vault, self.session()?.root.load().duplicate());
        let made = memory::blocking(move || life::create_slot(&place, vault, &unlocks, &root).map(drop));
        Ok(made.await.map_err(|_| Error::Failed)??)
    }
}

impl Inner {
    /// When the oldest key of a slot in hardware was made.
    fn keys_since(&self) -> Option<Timestamp> {
        self.roots.status().iter().filter_map(|slot| slot.hardware.as_ref()).map(|hardware| hardware.keys_since).min()
    }
}

/// Rotates slots when their time comes.
pub(super) async fn run(inner: Arc<Inner>, session: Arc<Session>) {
    let period = inner.options.slot_rotation_seconds;
    if inner.keys_since().is_none() {
        return;
    }
    // A rotation that a crash cut short may have left keys behind.
    let swept = {
        let _turn = inner.rotating_slots.lock().await;
        inner.roots.destroy_old_slot_keys().await
    };
    if let Err(error) = swept {
        tracing::warn!(%error, "old keys of a root slot may still be in its HSM; the next slot rotation destroys them");
    }
    let mut retry = RETRY.0;
    while period > 0 && !session.stopping() {
        match inner.until_due(period) {
            Some(wait) if !wait.is_zero() => tokio::time::sleep(wait.min(NAP)).await,
            _ => match memory::apart(|| rotate(&inner, &session)).await {
                Ok(_) => retry = RETRY.0,
                Err(error) => {
                    tracing::warn!(%error, "a slot rotation waits; it is tried again");
                    tokio::time::sleep(retry).await;
                    retry = (retry * 2).min(RETRY.1);
                }
            },
        }
    }
}

impl Inner {
    /// How long no slot is due for a rotation.
    fn until_due(&self, period: u64) -> Option<Duration> {
        let due = self.keys_since()?.0.saturating_add(period.saturating_mul(1000));
        Some(Duration::from_millis(due.saturating_sub(Timestamp::now().0)))
    }
}

async fn rotate(inner: &Inner, session: &Session) -> Result<Timestamp, Error> {
    let _turn = inner.rotating_slots.lock().await;
    inner.roots.draw_slot_keys().await?;
    let (reply, answer) = oneshot::channel();
    session.finalizer.send(Job::Reseal { reply }).map_err(|_| Error::LockedMeanwhile)?;
    let begun = answer.await.map_err(|_| Error::LockedMeanwhile)??;
    inner.roots.destroy_old_slot_keys().await?;
    let (reply, answer) = oneshot::channel();
    session.finalizer.send(Job::SlotFinal { begun, reply }).map_err(|_| Error::LockedMeanwhile)?;
    answer.await.map_err(|_| Error::LockedMeanwhile)??;
    tracing::info!("the root slots in hardware have fresh keys");
    Ok(begun)
}

/// Slots were sealed anew at `begun` and the keys from before are destroyed: what was final then is final on the slots' own
/// disks as well, if all slots are in hardware.
pub(super) async fn note_final(inner: &Inner, session: &Session, begun: Timestamp) -> Result<(), Error> {
    // The log is told of the rotation, whatever it made final.
    let entries = vec![Entry::new(Action::Slots, Outcome::Done)];
    session.commit(vec![Write { entries, ..Write::default() }]).await?;
    if !inner.roots.all_in_hardware() {
        return Ok(());
    }
    evidence::reach_f2(inner, session, begun).await
}
