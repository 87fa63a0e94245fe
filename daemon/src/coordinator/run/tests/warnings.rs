//! What people are told while a job goes on.

use super::*;
use ptv2_common::api::LogLevel;

#[test]
fn people_are_told_when_most_rows_lose_tokens() {
    let mut bench = Bench::new();
    bench.apply(Event::Submitted(Box::new(record("j0", "1"))));
    let job = JobId("j0".into());
    let truncated = vec![("train".into(), 0.875), ("val".into(), 0.25)];
    let (features, majority_class, staged_s) = ("f".into(), 0.5, 0.5);
    bench.apply(Event::Staged { job, features, majority_class, staged_s, truncated });
    let warnings = bench.status("j0").warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("88 % of the train rows are longer"), "{warnings:?}");
}

/// Whoever follows a job's events until its end has seen them all.
#[test]
fn a_late_warning_of_a_job_that_has_ended_is_no_event() {
    let mut bench = Bench::new();
    bench.submit("j0", "1");
    bench.join("w0");
    let job = JobId("j0".into());
    let warning = FromWorker::Log {
        job: job.clone(),
        level: LogLevel::Warn,
        message: "the loss does not fall".into(),
    };
    bench.apply(Event::Said(WorkerId("w0".into()), Box::new(warning.clone())));
    assert_eq!(bench.status("j0").warnings.len(), 1);
    bench.apply(Event::Cancel(job));
    let actions = bench.apply(Event::Said(WorkerId("w0".into()), Box::new(warning)));
    assert!(!actions.iter().any(|action| matches!(action, Action::Note { .. })), "{actions:?}");
    assert_eq!(bench.status("j0").warnings.len(), 1);
}
