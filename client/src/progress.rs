//! What a person sees on stderr while a job is followed: a bar, or plain lines where stderr is a file.

use crate::render;
use crate::tables;
use indicatif::{ProgressBar, ProgressStyle};
use ptv2_common::api::{Event, JobStatus};
use std::io::IsTerminal;
use std::time::Duration;
use tokio::time::Instant;

/// Plain lines come no more often than this.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// The view of one followed job.
#[derive(Debug)]
pub(crate) enum Progress {
    /// On a terminal.
    Bar(ProgressBar),
    /// Anywhere else.
    Lines {
        /// What was said last, and when.
        last: Option<(Instant, String)>,
    },
}

impl Progress {
    /// Chooses by what stderr is.
    pub(crate) fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self::Lines { last: None };
        }
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self::Bar(bar)
    }

    /// Shows how far the job is.
    pub(crate) fn status(&mut self, job: &JobStatus) {
        match self {
            Self::Bar(bar) => {
                bar.set_prefix(tables::word(&job.state));
                bar.set_length(job.total_steps);
                bar.set_position(job.step);
                bar.set_message(render::clean(&figures(job)));
            }
            Self::Lines { last } => {
                let now = Instant::now();
                let text = line(job);
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
        match self {
            Self::Bar(bar) => bar.println(render::clean(&text)),
            Self::Lines { .. } => render::note(&text),
        }
    }

    /// Takes the bar away: the result follows.
    pub(crate) fn finish(&self) {
        match self {
            Self::Bar(bar) => bar.finish_and_clear(),
            Self::Lines { .. } => {}
        }
    }
}

fn line(job: &JobStatus) -> String {
    let state = tables::word(&job.state);
    let figures = figures(job);
    let separator = if figures.is_empty() { "" } else { "; " };
    format!("{state} {}/{}{separator}{figures}", job.step, job.total_steps)
}

fn figures(job: &JobStatus) -> String {
    let figures = [
        job.loss.map(|loss| format!("loss {loss:.4}")),
        job.rows_per_s.map(|rate| format!("{rate:.1} rows/s")),
        job.best.as_ref().map(|best| format!("best {}", tables::score(best))),
        tables::reason(job),
    ];
    figures.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_says_what_is_known() {
        let mut job: JobStatus = serde_json::from_value(json!({
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
        .unwrap();
        assert_eq!(line(&job), "queued 0/40; 2 jobs go first");
        job.reason_text = None;
        assert_eq!(line(&job), "queued 0/40");
        job.loss = Some(0.5);
        assert_eq!(line(&job), "queued 0/40; loss 0.5000");
    }
}
