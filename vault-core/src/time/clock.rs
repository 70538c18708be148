//! A clock that may be set: what the system's clock says is held against how much time has gone by. Times are in
//! milliseconds.

/// What two looks at clocks may differ by, and small corrections.
const SLACK: u64 = 1000;
/// How long a step ahead must last before what cannot be undone goes by it.
const LASTING: u64 = 60 * 60 * 1000;
/// A vault that was at rest for longer than this, if its clock is right, and a clock that is further behind than this: what
/// was told before says which of the two it is to nobody.
const GAP: u64 = 24 * 60 * 60 * 1000;

/// Between two bounds lies the time; they are the same while nobody sets the clock.
pub(super) struct Clock {
    /// When the process began, as far as it is known: the later and the earlier bound.
    latest: u64,
    settled: u64,
    ahead: Option<Step>,
    behind: bool,
    told: bool,
    /// What the system's clock said last.
    said: u64,
}

/// How far the system's clock is ahead of the earlier bound, and since when.
#[derive(Clone, Copy)]
struct Step {
    by: u64,
    since: u64,
}

/// What is told of a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) latest: u64,
    pub(super) settled: u64,
}

impl Clock {
    /// The process begins, and the system's clock says this.
    pub(super) fn new(wall: u64) -> Self {
        Self { latest: wall, settled: wall, ahead: None, behind: false, told: false, said: wall }
    }

    /// The system's clock says `wall`, and so much time has gone by since the process began.
    pub(super) fn look(&mut self, wall: u64, gone: u64) -> Moment {
        // What is told does not go back by the corrections either: nothing lies ahead of a time that was told just now.
        let wall = if wall.saturating_add(SLACK) >= self.said { wall.max(self.said) } else { wall };
        self.said = wall;
        self.follow(wall, gone);
        let (latest, settled) = (self.latest.saturating_add(gone), self.settled.saturating_add(gone));
        let behind = latest > wall.saturating_add(SLACK);
        if behind && !self.behind {
            let seconds = (latest - wall) / 1000;
            tracing::warn!(seconds, "the system's clock was set back: time goes on from where it was until a restart");
        }
        self.behind = behind;
        Moment {
            latest: if behind { latest } else { wall },
            settled: if wall > settled.saturating_add(SLACK) { settled } else { wall },
        }
    }

    /// Takes over what the system's clock was ahead by all the while of an hour.
    fn follow(&mut self, wall: u64, gone: u64) {
        let by = wall.saturating_sub(self.settled.saturating_add(gone));
        self.ahead = match self.ahead {
            _ if by <= SLACK => None,
            Some(step) if gone.saturating_sub(step.since) >= LASTING => {
                self.settled = self.settled.saturating_add(step.by.min(by));
                self.latest = self.latest.max(self.settled);
                tracing::info!("the system's clock is taken to be right: it has been so for an hour");
                // What it is ahead by beyond that begins to last now.
                let rest = by.saturating_sub(step.by);
                (rest > SLACK).then_some(Step { by: rest, since: gone })
            }
            Some(step) => Some(Step { by: step.by.min(by), ..step }),
            None => {
                let seconds = by / 1000;
                tracing::warn!(
                    seconds,
                    "the system's clock is ahead of what was known of the time: what cannot be undone waits for an hour, \
                     and goes by it if it stays so"
                );
                Some(Step { by, since: gone })
            }
        };
    }

    /// It was `at` before the process began.
    pub(super) fn told_before(&mut self, at: u64, wall: u64, gone: u64) {
        if std::mem::replace(&mut self.told, true) {
            return;
        }
        let begun = wall.saturating_sub(gone);
        if begun > at.saturating_add(GAP) {
            self.settled = self.settled.min(at);
        } else if at > begun.saturating_add(SLACK) {
            let seconds = (at - begun) / 1000;
            if at - begun <= GAP {
                self.latest = self.latest.max(at);
            }
            tracing::warn!(
                seconds,
                "the system's clock is behind the time of the vault's last commit: check it. What has expired may not have, \
                 and what is due is late"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGUN: u64 = 1_764_028_800_000;
    const MINUTE: u64 = 60 * 1000;

    fn moment(latest: u64, settled: u64) -> Moment {
        Moment { latest: BEGUN + latest, settled: BEGUN + settled }
    }

    #[test]
    fn a_clock_that_is_left_alone_is_followed() {
        let mut clock = Clock::new(BEGUN);
        for gone in [0, 1, 900, MINUTE, 3 * LASTING] {
            assert_eq!(clock.look(BEGUN + gone, gone), moment(gone, gone));
        }
        // A correction ahead is followed; one back lets time stand until it is made up for.
        let (gone, wall) = (4 * LASTING, BEGUN + 4 * LASTING);
        for (correction, told) in [(400, 400), (-100, 400), (399, 400), (401, 401)] {
            let corrected = wall.saturating_add_signed(correction);
            assert_eq!(clock.look(corrected, gone), moment(gone + told, gone + told));
        }
    }

    #[test]
    fn set_back_nothing_comes_back_and_nothing_is_due_early() {
        let mut clock = Clock::new(BEGUN);
        assert_eq!(clock.look(BEGUN - 50 * MINUTE, 10 * MINUTE), moment(10 * MINUTE, 0).earlier(50 * MINUTE));
        assert_eq!(clock.look(BEGUN + 11 * MINUTE, 11 * MINUTE), moment(11 * MINUTE, 11 * MINUTE));
    }

    #[test]
    fn a_step_ahead_is_believed_when_it_has_lasted() {
        let mut clock = Clock::new(BEGUN);
        let step = 365 * 24 * LASTING;
        assert_eq!(clock.look(BEGUN + step, 0), moment(step, 0));
        // Taken back in time, it was nothing.
        assert_eq!(clock.look(BEGUN + MINUTE, MINUTE), moment(MINUTE, MINUTE));
        for gone in [2 * MINUTE, 30 * MINUTE, 2 * MINUTE + LASTING - 1] {
            assert_eq!(clock.look(BEGUN + step + gone, gone), moment(step + gone, gone));
        }
        let gone = 2 * MINUTE + LASTING;
        assert_eq!(clock.look(BEGUN + step + gone, gone), moment(step + gone, step + gone));
        // From then on that is the time, and going back is.
        assert_eq!(clock.look(BEGUN + gone, gone), Moment { settled: BEGUN + gone, ..moment(step + gone, 0) });
    }

    #[test]
    fn of_a_clock_that_runs_ahead_only_what_has_lasted_counts() {
        let mut clock = Clock::new(BEGUN);
        let ahead = |gone: u64| gone / MINUTE * 2 * SLACK;
        for gone in (0..5 * LASTING).step_by(MINUTE as usize) {
            let settled = clock.look(BEGUN + gone + ahead(gone), gone).settled;
            assert!(settled <= BEGUN + gone + ahead(gone.saturating_sub(LASTING)) + SLACK, "after {gone}");
            // And that does, however often it is set on: nothing waits for ever.
            assert!(settled >= BEGUN + gone + ahead(gone.saturating_sub(3 * LASTING)), "after {gone}");
        }
    }

    #[test]
    fn what_was_told_before_is_a_bound() {
        // At rest for a night.
        let mut clock = Clock::new(BEGUN);
        clock.told_before(BEGUN - 9 * LASTING, BEGUN, 0);
        assert_eq!(clock.look(BEGUN, 0), moment(0, 0));
        // For a year, or ahead by one: nobody knows.
        let mut clock = Clock::new(BEGUN);
        let year = 365 * GAP;
        clock.told_before(BEGUN - year, BEGUN, 0);
        assert_eq!(clock.look(BEGUN, 0), moment(0, 0).earlier(year));
        assert_eq!(clock.look(BEGUN + LASTING, LASTING), moment(LASTING, LASTING));
        // Behind by an hour: time does not go back. By a year: one of the two was wrong.
        let mut clock = Clock::new(BEGUN);
        clock.told_before(BEGUN + LASTING, BEGUN, 0);
        assert_eq!(clock.look(BEGUN + MINUTE, MINUTE), moment(LASTING + MINUTE, MINUTE));
        let mut clock = Clock::new(BEGUN);
        clock.told_before(BEGUN + year, BEGUN, 0);
        assert_eq!(clock.look(BEGUN, 0), moment(0, 0));
    }

    impl Moment {
        /// The same with an earlier bound that is so much earlier.
        fn earlier(self, by: u64) -> Self {
            Self { settled: self.settled - by, ..self }
        }
    }
}
