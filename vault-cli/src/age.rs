//! Times in words: how long ago something was, and how long it will still take.

use jiff::Timestamp;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// How long before `now` the RFC 3339 time `then` was: `3 days`. An unreadable time is shown as it is.
pub(crate) fn since(then: &str, now: Timestamp) -> String {
    match then.parse::<Timestamp>() {
        Ok(then) => span(now.as_second() - then.as_second()),
        Err(_) => then.to_owned(),
    }
}

/// How long after `now` the RFC 3339 time `then` will be.
pub(crate) fn until(then: &str, now: Timestamp) -> String {
    match then.parse::<Timestamp>() {
        Ok(then) => span(then.as_second() - now.as_second()),
        Err(_) => then.to_owned(),
    }
}

/// A length of time in its largest whole unit. Clocks disagree, so a negative one counts as nothing.
fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (count, unit) = match seconds {
        s if s < MINUTE => (s, "second"),
        s if s < HOUR => (s / MINUTE, "minute"),
        s if s < 2 * DAY => (s / HOUR, "hour"),
        s => (s / DAY, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

/// A point in time, as an RFC 3339 time: taken as it is, or so long from now (`90s`, `15m`, `12h`, `30d`).
pub(crate) fn point(text: &str) -> Result<String, String> {
    if text.parse::<Timestamp>().is_ok() {
        return Ok(text.to_owned());
    }
    let told = || "give an RFC 3339 time, or a time from now such as 15m, 12h or 30d".to_owned();
    let unit = text.chars().next_back().ok_or_else(told)?;
    let seconds = match unit {
        's' => 1,
        'm' => MINUTE,
        'h' => HOUR,
        'd' => DAY,
        _ => return Err(told()),
    };
    let count: i64 = text[..text.len() - 1].parse().map_err(|_| told())?;
    let ahead = count.checked_mul(seconds).filter(|ahead| (0..=100 * 365 * DAY).contains(ahead)).ok_or_else(told)?;
    Timestamp::from_second(Timestamp::now().as_second() + ahead).map(|at| at.to_string()).map_err(|_| told())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ages_are_told_in_their_largest_whole_unit() {
        let now: Timestamp = "2026-03-10T12:00:00Z".parse().unwrap();
        let table = [
            ("2026-03-10T12:00:00Z", "0 seconds"),
            ("2026-03-10T11:59:59Z", "1 second"),
            ("2026-03-10T11:59:01Z", "59 seconds"),
            ("2026-03-10T11:59:00Z", "1 minute"),
            ("2026-03-10T11:00:01Z", "59 minutes"),
            ("2026-03-10T11:00:00Z", "1 hour"),
            ("2026-03-08T12:00:01Z", "47 hours"),
            ("2026-03-08T12:00:00Z", "2 days"),
            ("2025-03-10T12:00:00.25Z", "365 days"),
            ("2026-03-10T12:00:30Z", "0 seconds"),
            ("yesterday", "yesterday"),
        ];
        for (then, words) in table {
            assert_eq!(since(then, now), words, "{then}");
        }
        assert_eq!(until("2026-03-10T12:05:00Z", now), "5 minutes");
    }

    #[test]
    fn points_in_time_are_absolute_or_from_now() {
        assert_eq!(point("2026-03-10T12:00:00Z").unwrap(), "2026-03-10T12:00:00Z");
        let ahead = |text: &str| {
            let at: Timestamp = point(text).unwrap().parse().unwrap();
            at.as_second() - Timestamp::now().as_second()
        };
        assert!((29 * DAY..=30 * DAY).contains(&ahead("30d")) && (89..=90).contains(&ahead("90s")));
        for bad in ["", "d", "-1d", "soon", "9999999999999d", "3w", "1ü"] {
            assert!(point(bad).is_err(), "{bad}");
        }
    }
}
