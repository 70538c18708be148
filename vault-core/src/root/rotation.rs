//! Slot rotation over all slots: its steps, each of which may be repeated, and what a root batch must not meet.

use super::{Finish, RootEntry, Roots, SlotError};

impl Roots {
    /// Whether a key in an HSM opens every slot, so that a slot rotation makes shreds final against images of all of them.
    pub fn all_in_hardware(&self) -> bool {
        self.slots.iter().all(|slot| slot.hardware().is_some())
    }

    /// First step of a slot rotation: fresh keys for every slot in hardware. Root batches may run beside it.
    ///
    /// # Errors
    /// Names the slot; the rotation may be begun again.
    pub async fn draw_slot_keys(&self) -> Result<(), SlotError> {
        for slot in &self.slots {
            slot.draw_keys().await?;
        }
        Ok(())
    }

    /// Second step: seals `current` in every slot in hardware with the fresh keys.
    ///
    /// # Errors
    /// [`SlotError::Outstanding`] while a root batch is; if a slot does not hold `current` alone, or cannot be written. Both
    /// old and new keys are needed then.
    pub async fn reseal(&self, current: &RootEntry) -> Result<(), SlotError> {
        if let Finish::Waiting(_) = self.retry_behind(current).await {
            // Told by name below, where that slot's turn comes.
            tracing::debug!("a slot rotation meets a slot that is behind");
        }
        let outstanding = self.outstanding.lock().await;
        if *outstanding {
            return Err(SlotError::Outstanding);
        }
        for (at, slot) in self.slots.iter().enumerate() {
            if let Err(error) = self.access(at, slot.reseal()).await {
                self.note_failure(at, &error);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Last step: destroys the keys from before in every HSM. Root batches may run beside it.
    ///
    /// # Errors
    /// Names the slot; the rotation may be begun again.
    pub async fn destroy_old_slot_keys(&self) -> Result<(), SlotError> {
        let mut failed = None;
        for slot in &self.slots {
            // One that fails does not keep the others' keys alive.
            if let Err(error) = slot.destroy_old_keys().await {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), Err)
    }
}
