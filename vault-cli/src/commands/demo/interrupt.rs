//! What an interrupted demo leaves behind: no server and no temporary vault.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::{Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::server::{Running, lock};

/// From now on a signal that ends this program first ends the running server and removes `scratch`. The exit
/// code is 128 and the signal's number: 130 when interrupted.
pub(super) fn clean_up_after(running: Running, scratch: PathBuf) -> io::Result<Interrupted> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let interrupted = Interrupted::default();
    let noticed = interrupted.clone();
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            noticed.0.store(true, Ordering::SeqCst);
            if let Some(server) = *lock(&running) {
                // It may be gone already, which is what is wanted.
                let _ = kill_process(server, Signal::KILL);
            }
            // Nobody is left to be told; what cannot be removed is in the system's temporary directory.
            let _ = fs::remove_dir_all(&scratch);
            process::exit(128 + signal);
        }
    });
    Ok(interrupted)
}

/// Whether a signal is ending this program.
#[derive(Clone, Default)]
pub(super) struct Interrupted(Arc<AtomicBool>);

impl Interrupted {
    /// Leaves the end to the signal, if there was one: what fails without its server is no failure of the demo.
    pub(super) fn yield_to_signal(&self) {
        while self.0.load(Ordering::SeqCst) {
            thread::park();
        }
    }
}
