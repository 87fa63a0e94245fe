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

/// A duration in whole milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
