//! A report for people.

use super::{Entry, Report, Run, Scores};
use ptv2_common::api::Spread;
use std::fmt::Write;

/// The report in Markdown. Scores are in percent.
pub(crate) fn markdown(report: &Report) -> String {
    let mut text = format!("# Report\n\nMade by ptv2ctl {}.\n\n", report.ptv2ctl);
    text.push_str(
        "`best` is the highest of a run's evaluations, chosen on the very split that it is measured on; \
         `last` is that of its last epoch. Both are percent, mean ± standard deviation over the seeds \
         that have ended.\n\n",
    );
    line(&mut text, &HEAD.map(str::to_owned));
    line(&mut text, &HEAD.map(|_| "---".to_owned()));
    for job in &report.jobs {
        line(&mut text, &summary(job));
    }
    for job in &report.jobs {
        details(&mut text, job);
    }
    if !report.notes.is_empty() {
        text.push_str("\n## Notes\n\n");
        report.notes.iter().for_each(|note| text.push_str(&format!("- {note}\n")));
    }
    text
}

const HEAD: [&str; 9] = [
    "task",
    "split",
    "rows",
    "metric",
    "best",
    "last",
    "majority class",
    "seeds",
    "trained parameters",
];

fn summary(job: &Entry) -> [String; 9] {
    let of = |spread: fn(&ptv2_common::api::Summary) -> Spread| {
        job.summary.as_ref().map_or_else(|| "-".into(), |summary| shown(spread(summary)))
    };
    [
        job.task.clone(),
        job.split.clone(),
        job.split_rows.to_string(),
        job.summary.as_ref().map_or_else(|| "-".into(), |summary| summary.metric.clone()),
        of(|summary| summary.best),
        of(|summary| summary.last),
        job.majority_class.map_or_else(|| "-".into(), percent),
        job.runs.len().to_string(),
        job.trainable_parameters.to_string(),
    ]
}

fn details(text: &mut String, job: &Entry) {
    let word = |table: &serde_json::Value, key: &str| match table[key].as_str() {
        Some(word) => word.to_owned(),
        None => table[key].to_string(),
    };
    let training = |key: &str| word(&job.training, key);
    let method = match word(&job.method, "kind").as_str() {
        "head" => "head only".to_owned(),
        kind => format!("{kind}, P = {}", word(&job.method, "pre_seq_len")),
    };
    let epochs = job.epochs.map_or_else(|| "none".into(), |epochs| epochs.to_string());
    let parts = [
        format!("\n## {} ({}, {})\n\n", job.name, job.id, job.state),
        format!("- backbone: {} in {}", job.backbone.directory, job.backbone.precision),
        format!(", SHA-256 {}\n", job.backbone.weights_sha256),
        format!("- method: {method}; {} trained parameters\n", job.trainable_parameters),
        format!("- data: {} training rows, ", job.train_rows),
        format!("{} rows of {}, ", job.split_rows, job.split),
        format!("template {}, at most {} tokens\n", job.template_id, job.max_seq_length),
        format!("- training: epochs {epochs}, batch {}, ", training("batch_size")),
        format!("learning rate {}, schedule {}\n", training("learning_rate"), training("schedule")),
        format!("- workers: {}\n", job.fingerprint.as_deref().unwrap_or("none yet")),
    ];
    text.push_str(&parts.concat());
    text.push('\n');
    line(
        text,
        &["seed", "best", "at epoch", "last", "at epoch", "tuned SHA-256"].map(str::to_owned),
    );
    line(text, &["---"; 6].map(str::to_owned));
    for run in &job.runs {
        line(text, &row(run));
    }
    for warning in &job.warnings {
        let _infallible = writeln!(text, "\nWarning: {warning}");
    }
}

fn row(run: &Run) -> [String; 6] {
    let values = |scores: &Scores| {
        let all = scores.all.iter().map(|(name, value)| format!("{name} {}", percent(*value)));
        all.collect::<Vec<_>>().join(", ")
    };
    let [best, last] = [&run.best, &run.last].map(|scores| {
        scores
            .as_ref()
            .map_or(("-".to_owned(), "-".to_owned()), |one| (values(one), one.epoch.to_string()))
    });
    let hash = run.tuned_sha256.as_ref().map_or("-", |hash| &hash[..16.min(hash.len())]);
    [run.seed.to_string(), best.0, best.1, last.0, last.1, hash.to_owned()]
}

fn shown(spread: Spread) -> String {
    match spread.sd {
        Some(sd) => format!("{} ± {}", percent(spread.mean), percent(sd)),
        None => percent(spread.mean),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1}", 100.0 * share)
}

fn line(text: &mut String, cells: &[String]) {
    let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    let _infallible = writeln!(text, "| {} |", cells.join(" | "));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Backbone;
    use ptv2_common::api::{RunStatus, Summary};
    use ptv2_common::manifest::BestMetric;
    use serde_json::json;

    fn scores(value: f64, epoch: u32) -> Option<Scores> {
        let all = [("accuracy".to_owned(), value), ("f1".to_owned(), value / 2.0)].into();
        Some(Scores { epoch, step: 4, metric: "accuracy".into(), value, all })
    }

    fn entry() -> Entry {
        let metric = |value| Some(BestMetric { metric: "accuracy".into(), value, step: 4 });
        let status = |best, last| RunStatus {
            best: metric(best),
            last: metric(last),
            tuned_sha256: Some("f".into()),
            ..RunStatus::new(0)
        };
        let run = |seed, best, last| Run {
            seed,
            best: scores(best, 2),
            last: scores(last, 5),
            tuned_sha256: Some("0123456789abcdef0123".into()),
        };
        Entry {
            id: "j1".into(),
            name: "a|b".into(),
            state: "succeeded".into(),
            task: "superglue/cb".into(),
            split: "val".into(),
            train_rows: 250,
            split_rows: 56,
            majority_class: Some(0.5),
            epochs: Some(5),
            steps_per_run: 40,
            backbone: Backbone {
                directory: "/m".into(),
                weights_sha256: "aa".into(),
                precision: "bf16".into(),
            },
            method: json!({ "kind": "prefix", "pre_seq_len": 20 }),
            training: json!({ "batch_size": 32, "learning_rate": 0.005, "schedule": "linear" }),
            max_seq_length: 128,
            template_id: 0,
            trainable_parameters: 9,
            fingerprint: None,
            tuned_sha256: None,
            runs: vec![run(11, 0.75, 0.5), run(44, 0.5, 0.5)],
            summary: Summary::of(&[status(0.75, 0.5), status(0.5, 0.5)]),
            warnings: vec!["the loss does not fall".into()],
            train_s: None,
        }
    }

    #[test]
    fn best_and_last_stand_side_by_side_over_seeds() {
        let notes = vec!["superglue/record: no test split".into()];
        let report = Report { format: 1, ptv2ctl: "0".into(), jobs: vec![entry()], notes };
        let text = markdown(&report);
        for line in [
            "| superglue/cb | val | 56 | accuracy | 62.5 ± 17.7 | 50.0 ± 0.0 | 50.0 | 2 | 9 |",
            "| 11 | accuracy 75.0, f1 37.5 | 2 | accuracy 50.0, f1 25.0 | 5 | 0123456789abcdef |",
            "- training: epochs 5, batch 32, learning rate 0.005, schedule linear",
            "Warning: the loss does not fall",
            "- superglue/record: no test split",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
