//! The table of attacks: what came back, what it cost, what others noticed.

use super::probe::{Seen, Watch, high};
use super::{GROWTH_MAX, Target, control};
use crate::e2e::harness::usage::mib;
use serde_json::Value;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// Others are answered within this time, whatever goes on.
const ANSWER_MAX: Duration = Duration::from_secs(3);
/// An attack that lasts so long has a control, and is held to it.
pub(super) const LONG: Duration = Duration::from_secs(1);
/// So much of the steps that are made beside as much other work are made during an attack.
const SHARE_MIN: f64 = 0.5;
/// Steps that were begun or ended between two looks.
const CUT_OFF: f64 = 2.0;
/// Others' work may come in between, and between an attack and its control: an attack that seems to hold somebody
/// up is made so often.
const LOOKS: usize = 3;

/// An attack that was made.
struct Row {
    name: String,
    back: String,
    seen: Seen,
    /// What was seen during its control.
    control: Option<Seen>,
}

/// Rows of the table.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
    /// Attacks at which a bound was not held.
    failed: Vec<String>,
    /// Times of the job's steps, from its first on.
    steps: Vec<Duration>,
}

impl Table {
    /// Makes an attack, looks on, and holds what was seen to the bounds. The others are made all the same:
    /// [`Table::holds`] fails in the end.
    pub(super) fn during(&mut self, name: &str, target: &Target, attack: impl Fn() -> String) {
        let mut failed = None;
        for look in 1..=LOOKS {
            let watch = Watch::begin(target);
            let back = std::panic::catch_unwind(AssertUnwindSafe(&attack));
            let seen = watch.end();
            let control = (seen.time >= LONG).then(|| control::beside(target, &seen));
            let row = Row {
                name: name.to_owned(),
                back: back.unwrap_or_else(|_| "FAILED".into()),
                seen,
                control,
            };
            failed = row.broken();
            let slow = row.slow();
            println!("{}", row.line(&[]));
            self.rows.retain(|former| former.name != name);
            self.rows.push(row);
            match slow {
                Some(why) if failed.is_none() && look < LOOKS => println!("{name}: {why}"),
                slow => {
                    failed = failed.or(slow);
                    break;
                }
            }
        }
        self.failed.extend(failed.map(|why| format!("{name}: {why}")));
    }

    /// Takes the times of the job's steps from its metrics, as its worker measured them.
    pub(super) fn take_steps(&mut self, target: &Target) {
        let metrics = target.get(&format!("/v1/jobs/{}/metrics", target.job)).json();
        let rows = metrics.as_array().unwrap().iter().filter(|row| row.get("split").is_none());
        let time = |row: &Value| {
            Duration::from_secs_f64(target.batch / row["rows_per_s"].as_f64().unwrap())
        };
        self.steps = rows.map(time).collect();
    }

    /// Fails if any attack did.
    pub(crate) fn holds(&self) {
        assert!(self.failed.is_empty(), "{:#?}", self.failed);
    }

    /// The table in Markdown.
    pub(crate) fn text(&self) -> String {
        let mut text = String::from(
            "| attack | what came back | memory | time | /healthz p99, max | status p99, max | \
             cores | steps/s | step p99 |\n|---|---|---|---|---|---|---|---|---|\n",
        );
        for row in &self.rows {
            writeln!(text, "{}", row.line(&self.steps)).unwrap();
        }
        text
    }
}

impl Row {
    /// The bound that was not held.
    fn broken(&self) -> Option<String> {
        if self.back == "FAILED" {
            return Some("see above".to_owned());
        }
        (self.seen.growth >= GROWTH_MAX).then(|| format!("{} KiB more", self.seen.growth >> 10))
    }

    /// That others wait, or that the job is slower than beside as much other work.
    fn slow(&self) -> Option<String> {
        let longest = self.seen.health[0].max(self.seen.status[0]);
        if longest >= ANSWER_MAX {
            return Some(format!("others waited for {longest:?}"));
        }
        let (steps, beside) = (self.seen.steps_per_s, self.control.as_ref()?.steps_per_s);
        let why = || format!("{steps:.0} steps/s, and {beside:.0} beside as much other work");
        let least = SHARE_MIN * beside - CUT_OFF / self.seen.time.as_secs_f64();
        (steps < least).then(why)
    }

    fn line(&self, steps: &[Duration]) -> String {
        let Self { name, back, seen, control } = self;
        let ms = |time: Duration| format!("{:.0}", time.as_secs_f64() * 1e3);
        let longest = |[longest, most]: [Duration; 2]| format!("{}, {} ms", ms(most), ms(longest));
        let p99 = |seen: &Seen| {
            let [from, to] = seen.steps.map(|step| usize::try_from(step).unwrap());
            steps.get(from..to).map_or("-".into(), |steps| ms(high(steps.to_vec())[1]))
        };
        let both = |figure: &dyn Fn(&Seen) -> String| {
            let both = control.as_ref().map(|control| [seen, control].map(figure).join(", "));
            both.unwrap_or_else(|| "-".into())
        };
        format!(
            "| {name} | {back} | {:.1} MiB | {:.1} s | {} | {} | {} | {} | {} |",
            mib(seen.growth),
            seen.time.as_secs_f64(),
            longest(seen.health),
            longest(seen.status),
            both(&|seen| format!("{:.1}", seen.cores)),
            both(&|seen| format!("{:.0}", seen.steps_per_s)),
            both(&|seen| format!("{} ms", p99(seen)))
        )
    }
}
