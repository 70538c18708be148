//! Points in time: stored as integers, written as RFC 3339 at the edge; and the clock, which may be wrong.

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

mod clock;

use self::clock::Clock;

/// Milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

static CLOCK: LazyLock<(Instant, Mutex<Clock>)> = LazyLock::new(|| (Instant::now(), Mutex::new(Clock::new(wall()))));

/// The system clock's time; the epoch itself if it stands before 1970.
fn wall() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn with_clock<T>(tell: impl FnOnce(&mut Clock, u64, u64) -> T) -> T {
    let (begun, clock) = &*CLOCK;
    // Under the lock, so that looks come in their order.
    let mut clock = clock.lock().unwrap_or_else(PoisonError::into_inner);
    let gone = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    tell(&mut clock, wall(), gone)
}

impl Timestamp {
    /// The present time, by the system's clock. While the process runs, a clock that is set back does not bring back what
    /// was over: time then goes on from where it was.
    pub fn now() -> Self {
        Self(with_clock(|clock, wall, gone| clock.look(wall, gone).latest))
    }

    /// The present time for what cannot be undone: of a clock that stepped ahead it learns only when that has lasted for an
    /// hour, and of one that was set back at once.
    pub fn settled() -> Self {
        Self(with_clock(|clock, wall, gone| clock.look(wall, gone).settled))
    }

    /// Makes known that it was this time when the vault was last at work. Heeded once in the life of a process.
    pub(crate) fn told_before(at: Self) {
        with_clock(|clock, wall, gone| clock.told_before(at.0, wall, gone));
    }

    /// This time `seconds` later.
    pub fn plus_seconds(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1000)))
    }

    /// So many seconds earlier; no earlier than 1970.
    #[must_use]
    pub fn minus_seconds(self, seconds: u64) -> Self {
        Self(self.0.saturating_sub(seconds.saturating_mul(1000)))
    }

    /// Reads an RFC 3339 time; `None` if it is not one or lies before 1970.
    pub fn parse(text: &str) -> Option<Self> {
        let at: jiff::Timestamp = text.parse().ok()?;
        u64::try_from(at.as_millisecond()).ok().map(Self)
    }
}

impl std::fmt::Display for Timestamp {
    /// RFC 3339 in UTC with milliseconds.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = i64::try_from(self.0).unwrap_or(i64::MAX);
        match jiff::Timestamp::from_millisecond(millis) {
            Ok(at) => write!(f, "{at:.3}"),
            Err(_) => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_reads_rfc_3339() {
        let at = Timestamp(1_764_028_800_123);
        assert_eq!(at.to_string(), "2025-11-25T00:00:00.123Z");
        assert_eq!(Timestamp::parse(&at.to_string()), Some(at));
        assert_eq!(Timestamp::parse("yesterday"), None);
    }
}
