//! The state of a slot while somebody has it, and what of it is shown meanwhile.
//!
//! A disk that does not answer holds up whoever has the state, and whoever waits for it. On a worker of the runtime that
//! would be everybody: so what is asked for there is kept apart, as it was when the state was last given back.

use std::ops::{Deref, DerefMut};
use std::sync::{MutexGuard, PoisonError};

use super::{Inner, State};
use crate::root::{Hardware, Method};

/// What anybody may ask at any time.
#[derive(Clone)]
pub(super) struct Shown {
    pub(super) methods: Vec<Method>,
    pub(super) hardware: Option<Hardware>,
}

impl Shown {
    pub(super) fn of(state: &State, in_hardware: bool) -> Self {
        let hardware = |key: &crate::root::stanza::HsmKey| Hardware {
            keys_since: key.made_at,
            waits_for: state.waits_for.clone(),
        };
        Self {
            methods: state.stanzas.iter().map(|stanza| stanza.origin.method()).collect(),
            hardware: state.hsm_key().filter(|_| in_hardware).map(hardware),
        }
    }
}

/// The state, until it is given back.
pub(super) struct Held<'s> {
    inner: &'s Inner,
    state: MutexGuard<'s, State>,
}

impl<'s> Held<'s> {
    pub(super) fn of(inner: &'s Inner) -> Self {
        // Nothing is left half-changed in there by a panic.
        Self { inner, state: inner.state.lock().unwrap_or_else(PoisonError::into_inner) }
    }
}

impl Deref for Held<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Held<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        *self.inner.to_show() = Shown::of(&self.state, self.inner.hsm.is_some());
    }
}

impl Inner {
    /// As it was when the state was last given back.
    pub(super) fn shown(&self) -> Shown {
        self.to_show().clone()
    }

    fn to_show(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
impl super::FileSlot {
    /// As while its disk does not answer: until what this answers is dropped.
    pub(crate) fn hang(&self) -> std::sync::mpsc::Sender<()> {
        use std::sync::mpsc::channel;
        let ((holds, held), (release, released)) = (channel(), channel());
        let slot = self.clone();
        std::thread::spawn(move || {
            let _state = slot.0.state();
            let _ = holds.send(());
            let _ = released.recv();
        });
        let _ = held.recv();
        release
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc;
    use std::time::Duration;

    use crate::crypto::{Random, UnlockKey};
    use crate::ids::VaultId;
    use crate::root::{FileSlot, Method, NewUnlock, RootEntry, RootSlot};

    #[test]
    fn what_is_shown_does_not_wait_for_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (key, first) = (UnlockKey::draw(&mut Random::for_keys(1)), RootEntry::draw(1, &mut Random::for_keys(2)));
        let unlocks = [NewUnlock::KeyFile(key)];
        let slot = FileSlot::create(&dir.path().join("root.slot"), VaultId([7; 16]), &unlocks, &first).unwrap();
        let hangs = slot.hang();
        let (sender, told) = mpsc::channel();
        let asked = slot.clone();
        std::thread::spawn(move || sender.send((asked.methods(), asked.hardware())));
        let told = told.recv_timeout(Duration::from_secs(60));
        drop(hangs);
        assert_eq!(told, Ok((vec![Method::KeyFile], None)));
    }
}
