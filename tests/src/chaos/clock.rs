//! The only place of the chaos test that reads a clock or pauses.

use std::time::{Duration, Instant, SystemTime};

/// Now, by the clock that stalls are measured with.
#[expect(clippy::disallowed_methods, reason = "a test that measures reads the clock here")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since 1970, by the clock that log lines bear.
#[expect(clippy::disallowed_methods, reason = "compared with the times of a job's log lines")]
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

/// Gives the processor away for a moment, between two looks at what tells of its changes to nobody.
#[expect(clippy::disallowed_methods, reason = "polling with a deadline pauses between looks")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// Looks again and again, for at most so long.
pub(crate) fn within<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = now() + limit;
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if now() >= deadline {
            return None;
        }
        pause(Duration::from_millis(1));
    }
}

/// A time in milliseconds.
pub(crate) fn in_ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
