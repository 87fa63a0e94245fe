//! The table of attacks: what came back, what it cost, what others noticed.

use super::probe::{Seen, Watch};
use super::{GROWTH_MAX, Target};
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// Others are answered within this time, whatever goes on.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// An attack that lasts so long must not stop a job: it goes on by a step at least.
const LONG: Duration = Duration::from_secs(2);

/// Rows of the table.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<(String, String, Seen)>,
    /// Attacks at which a bound was not held.
    failed: Vec<String>,
}

impl Table {
    /// Makes an attack, looks on, and holds what was seen to the bounds. The others are made all the same:
    /// [`Table::holds`] fails in the end.
    pub(super) fn during(&mut self, name: &str, target: &Target, attack: impl FnOnce() -> String) {
        let watch = Watch::begin(target);
        let back = std::panic::catch_unwind(AssertUnwindSafe(attack));
        let seen = watch.end();
        let longest = seen.health[0].max(seen.status[0]);
        let failed = match &back {
            Err(_) => Some("see above".to_owned()),
            Ok(_) if seen.growth >= GROWTH_MAX => Some(format!("{} KiB more", seen.growth >> 10)),
            Ok(_) if longest >= ANSWER_MAX => Some(format!("others waited for {longest:?}")),
            Ok(_) if seen.time >= LONG && seen.steps_per_s <= 0.0 => {
                Some("the job stood still".to_owned())
            }
            Ok(_) => None,
        };
        let back = back.unwrap_or_else(|_| "FAILED".into());
        println!("{}", line(name, &back, &seen));
        self.failed.extend(failed.map(|why| format!("{name}: {why}")));
        self.rows.push((name.to_owned(), back, seen));
    }

    /// Fails if any attack did.
    pub(crate) fn holds(&self) {
        assert!(self.failed.is_empty(), "{:#?}", self.failed);
    }

    /// The table in Markdown.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from(
            "| attack | what came back | memory | time | /healthz p99, max | status p99, max | \
             steps/s |\n|---|---|---|---|---|---|---|\n",
        );
        for (name, back, seen) in &self.rows {
            writeln!(text, "{}", line(name, back, seen)).unwrap();
        }
        text
    }
}

fn line(name: &str, back: &str, seen: &Seen) -> String {
    let ms = |[longest, most]: [Duration; 2]| {
        format!("{:.0}, {:.0} ms", most.as_secs_f64() * 1e3, longest.as_secs_f64() * 1e3)
    };
    let steps = match seen.steps_per_s {
        steps if steps.is_nan() => "-".to_owned(),
        steps => format!("{steps:.0}"),
    };
    format!(
        "| {name} | {back} | {:.1} MiB | {:.1} s | {} | {} | {steps} |",
        seen.growth as f64 / f64::from(1 << 20),
        seen.time.as_secs_f64(),
        ms(seen.health),
        ms(seen.status)
    )
}
