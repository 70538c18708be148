//! Waiting for an instant to the microsecond: the timers of the runtime are exact to a millisecond, which is longer than
//! most answers take.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};
use tokio::io::unix::AsyncFd;

/// A timer of the kernel.
pub(crate) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    /// One that is not set.
    pub(crate) fn new() -> io::Result<Alarm> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for types that may change their descriptor: this one cannot"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Alarm(timer))
    }

    /// Waits until `when`, or not at all if that has passed.
    pub(crate) async fn at(&self, when: Instant) -> io::Result<()> {
        let left = when.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let value = left.try_into().map_err(io::Error::other)?;
        let once = Itimerspec { it_interval: rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            let expired = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut [0; 8])?));
            if let Ok(expired) = expired {
                return expired.map(drop);
            }
        }
    }
}
