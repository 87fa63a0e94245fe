//! The only place that reads the clock. Decisions take time as an argument; the edges ask here.

use std::time::{Duration, Instant, SystemTime};

/// A point on the monotonic clock.
#[expect(clippy::disallowed_methods, reason = "this is the edge that reads the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since 1970, for people.
#[expect(clippy::disallowed_methods, reason = "this is the edge that reads the clock")]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    millis(since)
}

/// The wall clock, for the times of files.
#[expect(clippy::disallowed_methods, reason = "this is the edge that reads the clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// A duration in whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Time since 1970 that never runs backwards: the wall clock is read once, then only the monotonic
/// one. Someone who sets the wall clock changes nothing that is decided.
#[derive(Debug, Clone, Copy)]
pub struct Steady {
    at_start: Duration,
    started: Instant,
}

impl Steady {
    /// A clock that begins now, or at `least` where the wall clock was set back behind that.
    pub fn start(least: Duration) -> Self {
        Self { at_start: Duration::from_millis(unix_ms()).max(least), started: now() }
    }

    /// Time since 1970.
    pub fn elapsed(&self) -> Duration {
        self.at_start + self.started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_does_not_take_time_back() {
        let future = Duration::from_millis(unix_ms()) + Duration::from_secs(3600);
        assert!(Steady::start(future).elapsed() >= future);
        assert!(Steady::start(Duration::ZERO).elapsed() < future);
    }
}
