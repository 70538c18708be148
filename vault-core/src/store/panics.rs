//! Contains the panics of an engine: they become errors, and their texts reach neither a terminal nor a log.
//!
//! An engine that finds damaged bytes may panic, and its text may quote them. Panics on a thread that called
//! [`contained`] come back as [`Panicked`]; those on threads of the engine's own are told to whoever awaits
//! [`engine_thread_died`].

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::{LazyLock, Once};

use tokio::sync::watch;

/// An engine panicked; its text is withheld.
#[derive(Debug)]
pub(super) struct Panicked;

thread_local! {
    static CONTAINED: Cell<bool> = const { Cell::new(false) };
}

static HOOK: Once = Once::new();
static DEAD: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(false));

/// Runs `work`; a panic in it ends there and prints nothing.
pub(super) fn contained<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    let outer = CONTAINED.replace(true);
    // What `work` touched is an engine: after a panic its owner uses it no more for writing.
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    CONTAINED.set(outer);
    done.map_err(|_| Panicked)
}

/// Takes over the process's panic hook, once: every panic that is not an engine's goes on to the hook there was.
/// `engine_threads` are the beginnings of the names an engine gives its threads.
pub(super) fn watch(engine_threads: &'static [&'static str]) {
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if of_engine_thread(engine_threads) {
                report(info);
            } else if !CONTAINED.get() {
                before(info);
            }
        }));
    });
}

/// Returns once a thread of an engine's own has died in this process: what waits for the engine may wait for ever.
pub(super) async fn engine_thread_died() {
    // The sender is static, so that this cannot fail.
    let _ = DEAD.subscribe().wait_for(|dead| *dead).await;
}

fn of_engine_thread(names: &[&str]) -> bool {
    std::thread::current()
        .name()
        .is_some_and(|name| names.iter().any(|start| name.starts_with(start)))
}

fn report(info: &PanicHookInfo<'_>) {
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(
        place,
        "a thread of the storage engine died: the store takes no more writes"
    );
    DEAD.send_replace(true);
}
