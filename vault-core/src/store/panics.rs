//! Contains the panics of an engine: they become errors, and their texts reach neither a terminal nor a log.
//!
//! An engine that finds damaged bytes may panic, and its text may quote them. Panics on a thread that called
//! [`contained`] come back as [`Panicked`]; those on threads of the engine's own are told to whoever awaits
//! [`engine_thread_died`].

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::{LazyLock, Once, PoisonError, RwLock};

use tokio::sync::watch;

/// An engine panicked; its text is withheld.
#[derive(Debug)]
pub(super) struct Panicked;

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

static HOOK: Once = Once::new();
static ENGINE_THREADS: RwLock<Vec<&[&str]>> = RwLock::new(Vec::new());
static DEAD: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(false));

/// Runs `work`; a panic in it ends there and prints nothing.
pub(super) fn contained<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    install_hook();
    let outer = CONTAINED.replace(true);
    // What `work` touched is an engine: after a panic its owner uses it no more for writing.
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(outer);
    done.map_err(|_| Panicked)
}

/// Has the panics of an engine's own threads told too. `engine_threads` are the beginnings of their names.
pub(super) fn watch(engine_threads: &'static [&'static str]) {
    let mut watched = ENGINE_THREADS.write().unwrap_or_else(PoisonError::into_inner);
    if !watched.contains(&engine_threads) {
        watched.push(engine_threads);
    }
    drop(watched);
    install_hook();
}

/// Takes over the process's panic hook, once: every panic that is not an engine's goes on to the hook there was.
fn install_hook() {
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if ENGINE_THREADS.read().unwrap_or_else(PoisonError::into_inner).iter().any(|names| of_engine_thread(names))
            {
                report(info);
            } else if !CONTAINED.get() {
                before(info);
            }
        }));
    });
}

/// Whether a thread of an engine's own has died in this process. Engines share such threads between stores.
pub(super) fn engine_died() -> bool {
    *DEAD.borrow()
}

/// Returns once a thread of an engine's own has died in this process: what waits for the engine may wait for ever.
pub(super) async fn engine_thread_died() {
    // The sender is static, so that this cannot fail.
    let _ = DEAD.subscribe().wait_for(|dead| *dead).await;
}

fn of_engine_thread(names: &[&str]) -> bool {
    std::thread::current().name().is_some_and(|name| names.iter().any(|start| name.starts_with(start)))
}

fn report(info: &PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(place, "a thread of the storage engine died: the store takes no more writes");
    DEAD.send_replace(true);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_panic_ends_where_it_is_contained() {
        let after = contained(|| {
            assert!(contained(|| panic!("inner")).is_err());
            CONTAINED.get()
        });
        assert!(after.unwrap(), "an inner containment does not end the outer");
        assert!(contained(|| -> u8 { panic!("outer") }).is_err());
        assert!(!CONTAINED.get());
        assert_eq!(contained(|| 7).unwrap(), 7);
    }

    #[test]
    fn engine_threads_are_known_by_name() {
        let as_thread = |name: &str| {
            let thread = std::thread::Builder::new().name(name.into());
            thread.spawn(|| of_engine_thread(&["io-", "flusher"])).unwrap().join().unwrap()
        };
        assert!(as_thread("io-12"));
        assert!(as_thread("flusher"));
        assert!(!as_thread("main"));
        assert!(!as_thread("an io-12"));
    }
}
