//! Stack frames that held secrets, overwritten once they are left.
//!
//! A value that is moved stays behind where it was, and ciphers keep round keys in their frames. Whoever worked with
//! secrets and now waits calls [`wipe_stack`] from about the depth that the work began at.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::Pin;

use tokio::task::JoinError;

use super::registers;

/// How much of the stack below is overwritten, in bytes: more than the work of a request takes. Without optimisation
/// frames are several times as large.
const DEPTH: usize = if cfg!(debug_assertions) { 512 * 1024 } else { 64 * 1024 };

/// The same for a cipher or a hash: its rounds' keys and its blocks.
const CIPHER_DEPTH: usize = 16 * 1024;
/// How much of the stack a call into a storage engine uses at most, before it reaches for a file.
const ENGINE_DEPTH: usize = 32 * 1024;

/// Overwrites what frames that are left already had on the stack below the caller's own.
pub fn wipe_stack() {
    wipe::<DEPTH>();
    registers::wipe();
}

/// Runs `work`, then overwrites what it had on the stack.
pub fn wiped<T>(work: impl FnOnce() -> T) -> T {
    let outcome = below(work);
    wipe_stack();
    outcome
}

thread_local! {
    /// Whether a caller further up overwrites what is left below him.
    static CIPHERING: Cell<bool> = const { Cell::new(false) };
}

/// Runs a cipher or a hash, or some of them, then overwrites what they had on the stack.
pub(crate) fn ciphering<T>(work: impl FnOnce() -> T) -> T {
    if CIPHERING.replace(true) {
        return work();
    }
    // Also if the work panics.
    let _ends = Ends;
    below(work)
}

/// The end of ciphering.
struct Ends;

impl Drop for Ends {
    fn drop(&mut self) {
        CIPHERING.set(false);
        wipe::<CIPHER_DEPTH>();
    }
}

/// Calls a storage engine from a stack that holds nothing: engines move structures of which they set a part only, and what
/// lay below stays in their memory.
pub(crate) fn outside<T>(work: impl FnOnce() -> T) -> T {
    wipe::<ENGINE_DEPTH>();
    work()
}

#[inline(never)]
fn wipe<const BYTES: usize>() {
    let mut below = [0u8; BYTES];
    // Otherwise nobody would look at it, and it were left out.
    std::hint::black_box(&mut below);
}

/// A frame of its own, below the caller's.
#[inline(never)]
fn below<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Runs `work`, and each time it waits, or ends, overwrites what it had on the stack. Its state is in memory of its own,
/// which is freed when it ends.
pub fn wiping<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let mut work = Box::pin(work);
    poll_fn(move |cx| wiped(|| work.as_mut().poll(cx)))
}

/// Work of a task that lives long, in memory of its own, which is freed and wiped when it ends: a task's own state keeps what
/// it held until something else comes to lie there. Made in here, for a future that a task makes and hands on has its place in
/// that state all the same.
pub(crate) fn apart<F: Future>(work: impl FnOnce() -> F) -> Pin<Box<F>> {
    Box::pin(work())
}

/// Runs `work` in a thread where it may block, as `tokio::task::spawn_blocking` does, then overwrites what it had on the
/// stack. What `work` holds and what it answers have memory of their own: in the frames above those that are overwritten
/// there is but a pointer to them, for these frames stay as they are until that thread works again, if ever it does.
pub fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, JoinError>> + Send {
    let work = Box::new(work);
    let worked = tokio::task::spawn_blocking(move || wiped(move || Box::new(work())));
    async move { worked.await.map(|outcome| *outcome) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn work_answers_through_what_wipes_behind_it() {
        assert_eq!(wiped(|| 7), 7);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let waits = async {
            tokio::task::yield_now().await;
            blocking(|| 8).await.unwrap()
        };
        assert_eq!(runtime.block_on(wiping(waits)), 8);
    }

    /// What a thread that blocked leaves on its stack.
    mod left {
        use std::fs::File;
        use std::os::unix::fs::FileExt;

        use super::*;

        const KEY: [u8; 16] = *b"a key, found 1st";
        const ANSWER: [u8; 16] = *b"an answer, found";

        /// Work that holds a key and answers something, spelled backwards so that only what it does has them as they are.
        fn work(at: tokio::sync::oneshot::Sender<usize>) -> impl FnOnce() -> [u8; 16] + Send + 'static {
            let turned = |mut text: [u8; 16]| {
                text.reverse();
                std::hint::black_box(text)
            };
            let keys = [turned(turned(KEY)); 16];
            move || {
                let local = 0u8;
                at.send(std::hint::black_box(&raw const local).addr()).unwrap();
                std::hint::black_box(&keys);
                turned(turned(ANSWER))
            }
        }

        /// How often the key and the answer are on the stack that an address is of.
        fn found(at: usize) -> [usize; 2] {
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let spans = maps.lines().map(|line| {
                let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
                usize::from_str_radix(start, 16).unwrap()..usize::from_str_radix(end, 16).unwrap()
            });
            let span = spans.into_iter().find(|span| span.contains(&at)).unwrap();
            let mut stack = vec![0; span.len()];
            File::open("/proc/self/mem").unwrap().read_exact_at(&mut stack, span.start as u64).unwrap();
            [KEY, ANSWER].map(|text| stack.windows(16).filter(|window| *window == text).count())
        }

        fn after<F: Future>(run: impl FnOnce(tokio::sync::oneshot::Sender<usize>) -> F) -> [usize; 2] {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (tell, at) = tokio::sync::oneshot::channel();
            let _ = runtime.block_on(async { run(tell).await });
            found(runtime.block_on(at).unwrap())
        }

        #[test]
        fn by_work_that_blocked_is_nothing_of_what_it_held_and_answered() {
            let [key, answer] = after(|at| {
                let work = work(at);
                tokio::task::spawn_blocking(move || wiped(work))
            });
            assert!(key > 0 && answer > 0, "the control: {key}, {answer}");
            assert_eq!(after(|at| blocking(work(at))), [0, 0]);
        }
    }
}
