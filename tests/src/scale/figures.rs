//! How what was measured is told: medians, the slow end, and a table.

use std::fmt::{Display, Write};
use std::time::Duration;

/// A table of what was measured, in the order of the course.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<(String, String)>);

impl Table {
    /// A line; printed at once, for whoever waits.
    pub(super) fn line(&mut self, what: impl Display, figure: impl Display) {
        println!("  {what}: {figure}");
        self.0.push((what.to_string(), figure.to_string()));
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("| what | measured |\n|---|---|")?;
        self.0.iter().try_for_each(|(what, figure)| write!(f, "\n| {what} | {figure} |"))
    }
}

/// Median, 99th percentile and greatest of times, and how many there are.
pub(super) fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let Some(max) = times.last() else { return "none".into() };
    let mut text = String::new();
    for (name, share) in [("p50", 50), ("p99", 99)] {
        let at = (times.len() * share).div_ceil(100).saturating_sub(1);
        write!(text, "{name} {}, ", time(times[at])).unwrap();
    }
    format!("{text}max {} (of {})", time(*max), times.len())
}

/// A time in the unit that suits it.
pub(super) fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

/// Bytes in the unit that suits them.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(super) fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        ..1e3 => format!("{bytes} B"),
        ..1e6 => format!("{:.1} kB", bytes / 1e3),
        ..1e9 => format!("{:.1} MB", bytes / 1e6),
        _ => format!("{:.2} GB", bytes / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slow_end_is_told() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(spread(times), "p50 100.0 ms, p99 198.0 ms, max 200.0 ms (of 200)");
        assert_eq!(
            spread(vec![Duration::from_secs(2)]),
            "p50 2.00 s, p99 2.00 s, max 2.00 s (of 1)"
        );
        assert_eq!(size(73_400_000), "73.4 MB");
    }
}
