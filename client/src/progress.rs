//! What a person sees on stderr while a job is followed: a bar, or plain lines where stderr is a file.

mod pace;

use crate::render;
use crate::tables;
use indicatif::{ProgressBar, ProgressStyle};
use pace::Pace;
use ptv2_common::api::{Event, JobState, JobStatus};
use std::io::IsTerminal;
use std::time::Duration;
use tokio::time::Instant;

/// Plain lines come no more often than this.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// The view of one followed job.
#[derive(Debug)]
pub(crate) struct Progress {
    view: View,
    pace: Pace,
}

#[derive(Debug)]
enum View {
    /// On a terminal.
    Bar(ProgressBar),
    /// Anywhere else: what was said last, and when.
    Lines(Option<(Instant, String)>),
}

impl Progress {
    /// Chooses by what stderr is.
    pub(crate) fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let view = if is_terminal { View::Bar(bar()) } else { View::Lines(None) };
        Self { view, pace: Pace::default() }
    }

    /// Shows how far the job is.
    pub(crate) fn status(&mut self, job: &JobStatus) {
        let now = Instant::now();
        let left = self.pace.watch(now, job);
        match &mut self.view {
            View::Bar(bar) => {
                bar.set_prefix(tables::word(&job.state));
                bar.set_length(job.total_steps);
                bar.set_position(job.step);
                bar.set_message(render::clean(&figures(job, left)));
            }
            View::Lines(last) => {
                let text = line(job, left);
                let is_due = last.as_ref().is_none_or(|(at, said)| {
                    *said != text && now.duration_since(*at) >= LINE_INTERVAL
                });
                if is_due {
                    render::note(&text);
                    *last = Some((now, text));
                }
            }
        }
    }

    /// Shows something that happened.
    pub(crate) fn event(&self, event: &Event) {
        let text = tables::event(event);
        match &self.view {
            View::Bar(bar) => bar.println(render::clean(&text)),
            View::Lines(_) => render::note(&text),
        }
    }

    /// Takes the bar away: the result follows.
    pub(crate) fn finish(&self) {
        match &self.view {
            View::Bar(bar) => bar.finish_and_clear(),
            View::Lines(_) => {}
        }
    }
}

fn bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

fn line(job: &JobStatus, left: Option<Duration>) -> String {
    let state = tables::word(&job.state);
    let figures = figures(job, left);
    let separator = if figures.is_empty() { "" } else { "; " };
    format!("{state} {}/{}{separator}{figures}", job.step, job.total_steps)
}

fn figures(job: &JobStatus, left: Option<Duration>) -> String {
    // The last rate of a job that waits again is no rate.
    let rate = job.rows_per_s.filter(|_| job.state == JobState::Running);
    let figures = [
        job.loss.map(|loss| format!("loss {loss:.4}")),
        rate.map(|rate| format!("{rate:.1} rows/s")),
        left.map(pace::left_in_words),
        job.best.as_ref().map(|best| format!("best {}", tables::score(best))),
        tables::reason(job),
    ];
    figures.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use serde_json::json;

    /// A job that waits.
    pub(crate) fn job() -> JobStatus {
        serde_json::from_value(json!({
            "id": "j0123456789", "name": "a", "state": "queued", "reason": null,
            "reason_text": "2 jobs go first", "task": "superglue/rte", "step": 0,
            "total_steps": 40, "epoch": 0, "world": 0, "generation": 0, "fingerprint": null,
            "best": null, "last": null, "majority_class": null, "tuned_sha256": null,
            "loss": null, "rows_per_s": null, "timings": {}, "warnings": [], "submitted_unix_ms": 0,
            "plan": {
                "train_rows": 1, "val_rows": 1, "steps_per_epoch": 1, "total_steps": 40,
                "slices": 1, "trainable_parameters": 1, "prefix_parameters": 1,
                "gradient_bytes": 1, "checkpoint_bytes": 1, "positions_used": 1,
                "positions_available": 1
            }
        }))
        .unwrap()
    }

    #[test]
    fn a_line_says_what_is_known() {
        let mut job = job();
        assert_eq!(line(&job, None), "queued 0/40; 2 jobs go first");
        job.reason_text = None;
        job.rows_per_s = Some(64.0);
        assert_eq!(line(&job, None), "queued 0/40");
        (job.loss, job.state) = (Some(0.5), JobState::Running);
        let left = Some(Duration::from_secs(90));
        assert_eq!(line(&job, left), "running 0/40; loss 0.5000, 64.0 rows/s, about 1m 30s left");
    }
}
