//! What the API's types look like to a person.

mod upkeep;

use crate::render::{bytes, or_dash, pairs, seconds, table, time};
use ptv2_common::access::{AuditEvent, TokenStatus};
use ptv2_common::api::{
    Checkpoint, Event, JobStatus, LogLine, MetricsRow, Reason, RunStatus, Spread, Summary,
    WorkerStatus,
};
use ptv2_common::launch::{LaunchStatus, LaunchTrouble, LauncherStatus};
use ptv2_common::manifest::BestMetric;
use ptv2_common::plan::Plan;
use ptv2_common::text::escaped;
use serde::Serialize;
pub(crate) use upkeep::{orphans, recovered};

/// The list of jobs. `now_unix_ms` is for their age.
pub(crate) fn jobs(jobs: &[JobStatus], now_unix_ms: u64) -> String {
    let rows = jobs.iter().map(|job| {
        let age_s = now_unix_ms.saturating_sub(job.submitted_unix_ms) / 1000;
        vec![
            job.id.clone(),
            job.name.clone(),
            word(&job.state),
            job.task.clone(),
            format!("{}/{}", job.step, job.total_steps),
            or_dash(job.best.as_ref().map(|best| format!("{} {:.4}", best.metric, best.value))),
            job.world.to_string(),
            age(age_s),
        ]
    });
    table(&["id", "name", "state", "task", "step", "best", "world", "age"], rows.collect())
}

/// One job in full.
pub(crate) fn job(job: &JobStatus) -> String {
    let mut rows = vec![
        ("id", Some(job.id.clone())),
        ("name", Some(job.name.clone())),
        ("state", Some(word(&job.state))),
        ("since", job.since_unix_ms.map(time)),
        ("reason", reason(job)),
        ("expected", expected(job)),
        ("what helps", job.remedy.clone()),
        ("task", Some(job.task.clone())),
        ("scores", job.score.as_ref().map(|score| format!("{} with {}", score.split, score.of))),
        ("step", Some(format!("{}/{}", job.step, job.total_steps))),
        ("epoch", Some(job.epoch.to_string())),
        ("world", Some(job.world.to_string())),
        ("generation", Some(job.generation.to_string())),
        ("fingerprint", job.fingerprint.clone()),
        ("rows/s", job.rows_per_s.map(|rate| format!("{rate:.1}"))),
    ];
    rows.extend(scores_and_timings(job));
    rows.push(("submitted", Some(time(job.submitted_unix_ms))));
    rows.push(("by", job.submitted_by.clone()));
    pairs(rows)
}

/// What a finished job came to.
pub(crate) fn result(job: &JobStatus) -> String {
    let mut rows = vec![
        ("job", Some(format!("{} ({})", job.id, job.name))),
        ("state", Some(word(&job.state))),
        ("reason", reason(job)),
        ("expected", expected(job)),
        ("what helps", job.remedy.clone()),
        ("step", Some(format!("{}/{}", job.step, job.total_steps))),
    ];
    rows.extend(scores_and_timings(job));
    pairs(rows)
}

/// Why a job is where it is, in words.
pub(crate) fn reason(job: &JobStatus) -> Option<String> {
    job.reason_text.clone()
}

/// What would have been right, where a job failed.
fn expected(job: &JobStatus) -> Option<String> {
    match &job.reason {
        Some(Reason::Failed { error }) => error.expected.clone(),
        Some(_) | None => None,
    }
}

/// What a job will do and cost.
pub(crate) fn plan(plan: &Plan) -> String {
    let some = |count: u64| (count > 0).then(|| count.to_string());
    pairs(vec![
        ("training rows", Some(plan.train_rows.to_string())),
        ("validation rows", Some(plan.val_rows.to_string())),
        ("steps an epoch", Some(plan.steps_per_epoch.to_string())),
        ("steps in all", Some(plan.total_steps.to_string())),
        ("slices", Some(format!("{} (the most workers times threads of use)", plan.slices))),
        ("trained parameters", Some(plan.trainable_parameters.to_string())),
        ("of them prefix", Some(plan.prefix_parameters.to_string())),
        ("of them pooler", some(plan.pooler_parameters)),
        ("kept unchanged", some(plan.frozen_parameters)),
        ("gradient", Some(bytes(plan.gradient_bytes))),
        ("checkpoint", Some(bytes(plan.checkpoint_bytes))),
        ("positions", Some(format!("{} of {}", plan.positions_used, plan.positions_available))),
    ])
}

/// Steps and evaluations, one under the other as they came.
pub(crate) fn metrics(rows: &[MetricsRow]) -> String {
    let head =
        ["step", "epoch", "loss", "learning rate", "grad norm", "rows/s", "tokens/s", "evaluation"];
    table(&head, rows.iter().map(metrics_row).collect())
}

/// Published checkpoints.
pub(crate) fn checkpoints(checkpoints: &[Checkpoint]) -> String {
    let rows = checkpoints.iter().map(|checkpoint| {
        vec![
            checkpoint.step.to_string(),
            checkpoint.generation.to_string(),
            if checkpoint.is_best { "best".into() } else { "-".into() },
            or_dash(checkpoint.metric.map(|value| format!("{value:.4}"))),
            bytes(checkpoint.bytes),
            checkpoint.tuned_sha256.chars().take(16).collect(),
        ]
    });
    table(&["step", "generation", "best", "metric", "size", "tuned sha256"], rows.collect())
}

/// Registered workers.
pub(crate) fn workers(workers: &[WorkerStatus]) -> String {
    let rows = workers.iter().map(|worker| {
        vec![
            worker.id.clone(),
            worker.host.clone(),
            worker.device.clone(),
            worker.threads.to_string(),
            or_dash(worker.job.as_ref()),
            if worker.draining { "draining".into() } else { word(&worker.phase) },
            or_dash(worker.place.map(|place| place.step)),
            format!("{:.1}s", worker.heartbeat_age_ms as f64 / 1000.0),
            worker.backbone_loads.to_string(),
            worker.fingerprint.clone(),
        ]
    });
    let head = [
        "id",
        "host",
        "device",
        "threads",
        "job",
        "phase",
        "step",
        "heard",
        "loads",
        "fingerprint",
    ];
    table(&head, rows.collect())
}

/// Workers that are started and not there yet, and what keeps more from being started; nothing where there is
/// nothing to tell.
pub(crate) fn launches(launcher: &LauncherStatus) -> Option<String> {
    let coming: Vec<&LaunchStatus> =
        launcher.launches.iter().filter(|launch| launch.is_coming()).collect();
    let trouble =
        launcher.trouble.as_ref().map(|LaunchTrouble { failures, error, again_unix_ms }| {
            let again = time(*again_unix_ms);
            format!(
                "workers cannot be started ({failures} in a row): {error}\n  again from {again}"
            )
        });
    let rows = coming.iter().map(|launch| {
        let (id, since) = (launch.id.clone(), time(launch.since_unix_ms));
        vec![id, or_dash(launch.slurm_job.as_ref()), launch.to_string(), since]
    });
    let head = ["launch", "slurm job", "on its way", "since"];
    let coming = (!coming.is_empty()).then(|| table(&head, rows.collect()));
    let parts: Vec<String> = coming.into_iter().chain(trouble).collect();
    (!parts.is_empty()).then(|| parts.join("\n"))
}

/// An event on one line.
pub(crate) fn event(event: &Event) -> String {
    let [kind, message] = [&event.kind, &event.message].map(|text| escaped(text));
    format!("{}  {kind:<12} {message}", time(event.unix_ms))
}

/// A line of a log.
pub(crate) fn log_line(line: &LogLine) -> String {
    let [source, message] = [&line.source, &line.message].map(|text| escaped(text));
    format!("{}  {:<5} {source}: {message}", time(line.unix_ms), word(&line.level))
}

/// Tokens. `now_unix_ms` tells which are over.
pub(crate) fn tokens(tokens: &[TokenStatus], now_unix_ms: u64) -> String {
    let state = |token: &TokenStatus| match token {
        TokenStatus { revoked_unix_ms: Some(_), .. } => "revoked",
        token if token.over_since(now_unix_ms).is_some() => "expired",
        TokenStatus { uses_left: Some(0), .. } => "used up",
        _ => "good",
    };
    let rows = tokens.iter().map(|token| {
        vec![
            token.id.clone(),
            token.name.clone(),
            token.scope.to_string(),
            state(token).into(),
            time(token.made_unix_ms),
            or_dash(token.expires_unix_ms.map(time)),
            or_dash(token.last_used_unix_ms.map(time)),
            or_dash(token.uses_left),
            or_dash(token.file.as_ref()),
        ]
    });
    let head = ["id", "name", "scope", "is", "made", "expires", "last used", "uses left", "file"];
    table(&head, rows.collect())
}

/// A token on one line, without the token itself.
pub(crate) fn token_line(token: &TokenStatus) -> String {
    let until = token.expires_unix_ms.map(|at| format!(", until {}", time(at)));
    let uses = token.uses_left.map(|uses| format!(", workers that may join: {uses}"));
    let (until, uses) = (until.unwrap_or_default(), uses.unwrap_or_default());
    format!("token {} of {}, scope {}{until}{uses}", token.id, token.name, token.scope)
}

/// Who did what.
pub(crate) fn audit(events: &[AuditEvent]) -> String {
    let rows = events.iter().map(|event| {
        vec![
            time(event.unix_ms),
            or_dash(event.principal.as_ref()),
            or_dash(event.token.as_ref()),
            or_dash(event.remote.as_ref()),
            event.action.clone(),
            or_dash(event.subject.as_ref()),
            event.outcome.clone(),
        ]
    });
    table(&["when", "who", "token", "from", "what", "about", "outcome"], rows.collect())
}

/// The word that the API has for a value of an enumeration.
pub(crate) fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => "-".into(),
    }
}

/// An evaluation's deciding value and when it was measured.
pub(crate) fn score(best: &BestMetric) -> String {
    format!("{} {:.4} (step {})", best.metric, best.value, best.step)
}

fn scores_and_timings(job: &JobStatus) -> Vec<(&'static str, Option<String>)> {
    let mut rows = vec![
        ("best", job.best.as_ref().map(score)),
        ("last", job.last.as_ref().map(score)),
        ("majority class", job.majority_class.map(|share| format!("{share:.4}"))),
        ("tuned sha256", job.tuned_sha256.clone()),
    ];
    let run_steps = job.total_steps / (job.seeds.len().max(1) as u64);
    rows.extend((0_u64..).zip(&job.seeds).map(|(index, run)| {
        let line = run_line(run, index * run_steps, job.plan.steps_per_epoch);
        ("seed", Some(line))
    }));
    if let Some(summary) = &job.summary {
        let Summary { metric, best, last } = summary;
        let line = format!("{metric}: best {}, last {}, of {}", spread(best), spread(last), best.n);
        rows.push(("over seeds", Some(line)));
    }
    rows.extend([
        ("queued", job.timings.queued_s.map(seconds)),
        ("staged", job.timings.staged_s.map(seconds)),
        ("first step", job.timings.first_step_s.map(seconds)),
        ("trained", job.timings.train_s.map(seconds)),
    ]);
    if let Some(behind) = &job.storage_behind {
        let words =
            format!("takes no checkpoints since {}: {}", time(behind.since_unix_ms), behind.error);
        rows.push(("storage", Some(words)));
    }
    rows.extend(job.warnings.iter().map(|warning| ("warning", Some(warning.clone()))));
    rows
}

/// A run on one line: its best and last epoch side by side. `start` steps of the job come before it.
fn run_line(run: &RunStatus, start: u64, steps_per_epoch: u64) -> String {
    let of = |metric: &Option<BestMetric>| {
        or_dash(metric.as_ref().map(|found| {
            let epoch = found.step.saturating_sub(start).div_ceil(steps_per_epoch.max(1));
            format!("{} {:.4} (epoch {epoch})", found.metric, found.value)
        }))
    };
    let ended = if run.tuned_sha256.is_some() { "" } else { ", not ended" };
    format!("{}: best {}, last {}{ended}", run.seed, of(&run.best), of(&run.last))
}

/// Mean and standard deviation.
fn spread(of: &Spread) -> String {
    match of.sd {
        Some(sd) => format!("{:.4} ± {sd:.4}", of.mean),
        None => format!("{:.4}", of.mean),
    }
}

fn metrics_row(row: &MetricsRow) -> Vec<String> {
    match row {
        MetricsRow::Step(step) => vec![
            step.step.to_string(),
            step.epoch.to_string(),
            format!("{:.4}", step.loss),
            format!("{:.3e}", step.learning_rate),
            format!("{:.4}", step.grad_norm),
            format!("{:.1}", step.rows_per_s),
            format!("{:.0}", step.tokens_per_s),
            String::new(),
        ],
        MetricsRow::Evaluation(evaluation) => {
            let values: Vec<String> = evaluation
                .values
                .iter()
                .map(|(name, value)| format!("{name} {value:.4}"))
                .collect();
            let mut cells = vec![evaluation.step.to_string(), evaluation.epoch.to_string()];
            cells.resize(5, String::new());
            for rate in [evaluation.rows_per_s, evaluation.tokens_per_s] {
                cells.push(rate.map(|rate| format!("{rate:.0}")).unwrap_or_default());
            }
            let seed = evaluation.seed.map(|seed| format!("seed {seed}, ")).unwrap_or_default();
            cells.push(format!("{seed}{}: {}", evaluation.split, values.join(", ")));
            cells
        }
    }
}

/// An age in its largest unit.
fn age(age_s: u64) -> String {
    match age_s {
        0..60 => format!("{age_s}s"),
        60..3600 => format!("{}m", age_s / 60),
        3600..86_400 => format!("{}h", age_s / 3600),
        _ => format!("{}d", age_s / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::tests::job as waiting_job;
    use ptv2_common::api::{EvaluationMetrics, JobState};
    use ptv2_common::error::Explained;
    use ptv2_common::launch::LaunchStage;

    #[test]
    fn a_failed_job_says_what_can_be_done() {
        let mut failed = waiting_job();
        let error = Explained::new("the rows changed").at("/data/val.jsonl").expected("the same");
        failed.state = JobState::Failed;
        failed.reason_text = Some(error.to_string());
        failed.reason = Some(Reason::Failed { error });
        failed.remedy = Some("submit it again".into());
        let text = job(&failed);
        let lines = [
            "reason      the rows changed (/data/val.jsonl)",
            "expected    the same",
            "what helps  submit it again",
        ];
        assert!(text.contains(&lines.join("\n")), "{text}");
    }

    #[test]
    fn runs_stand_side_by_side_with_their_spread() {
        let mut several = waiting_job();
        let metric = |value, step| Some(BestMetric { metric: "accuracy".into(), value, step });
        // Each run has 20 of the job's 40 steps, an epoch each.
        let run = |seed, start: u64, best, last| RunStatus {
            seed,
            epoch: 2,
            best: metric(best, start + 3),
            last: metric(last, start + 6),
            tuned_sha256: Some(String::new()),
        };
        several.seeds = vec![run(11, 0, 0.5, 0.25), run(44, 20, 0.75, 0.75)];
        several.summary = Summary::of(&several.seeds);
        let text = job(&several);
        let line = "44: best accuracy 0.7500 (epoch 3), last accuracy 0.7500 (epoch 6)";
        assert!(text.contains(line), "{text}");
        let line = "accuracy: best 0.6250 ± 0.1768, last 0.5000 ± 0.3536, of 2";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn lines_of_others_stay_lines() {
        let message = "a\u{1b}[2J\nb".to_owned();
        let line = event(&Event { seq: 1, unix_ms: 0, kind: "staged".into(), message });
        assert_eq!(line, "1970-01-01T00:00:00Z  staged       a\\u{1b}[2J\\nb");
    }

    #[test]
    fn a_token_says_what_it_is_good_for() {
        let token = TokenStatus {
            id: "12ab34cd".into(),
            name: "node-7".into(),
            scope: ptv2_common::access::Scope::Worker,
            file: None,
            made_unix_ms: 0,
            expires_unix_ms: Some(1000),
            last_used_unix_ms: None,
            revoked_unix_ms: None,
            uses_left: Some(2),
        };
        let line = "token 12ab34cd of node-7, scope worker, until 1970-01-01T00:00:01Z";
        let line = format!("{line}, workers that may join: 2");
        assert_eq!(token_line(&token), line);
        for (now, uses, expected) in [(0, 2, "good"), (0, 0, "used up"), (1000, 2, "expired")] {
            let token = TokenStatus { uses_left: Some(uses), ..token.clone() };
            assert!(tokens(&[token], now).contains(expected), "{expected}");
        }
    }

    #[test]
    fn an_age_has_one_unit() {
        for (age_s, expected) in [(0, "0s"), (61, "1m"), (7300, "2h"), (200_000, "2d")] {
            assert_eq!(age(age_s), expected);
        }
    }

    #[test]
    fn workers_that_are_to_come_stand_below_those_that_are_there() {
        let mut launcher = LauncherStatus::default();
        assert_eq!(launches(&launcher), None);
        let stage = LaunchStage::Pending { state: "PENDING".into(), reason: "Resources".into() };
        let slurm_job = Some("123".to_owned());
        launcher.launches =
            vec![LaunchStatus { id: "l1".into(), slurm_job, stage, since_unix_ms: 0 }];
        let text = launches(&launcher).unwrap();
        assert!(text.contains("Slurm job 123: PENDING (Resources)"), "{text}");
        let error = Explained::new("`sbatch` refuses: no such partition");
        launcher.trouble = Some(LaunchTrouble { failures: 2, error, again_unix_ms: 0 });
        let text = launches(&launcher).unwrap();
        assert!(text.contains("(2 in a row): `sbatch` refuses: no such partition"), "{text}");
    }

    #[test]
    fn a_state_is_the_word_of_the_api() {
        assert_eq!(word(&JobState::Cancelled), "cancelled");
    }

    #[test]
    fn an_evaluation_fills_the_last_column() {
        let row = MetricsRow::Evaluation(EvaluationMetrics {
            seed: None,
            step: 20,
            epoch: 1,
            split: "val".into(),
            rows_per_s: Some(100.0),
            tokens_per_s: Some(900.0),
            values: [("accuracy".to_owned(), 0.5)].into(),
        });
        let cells = metrics_row(&row);
        assert_eq!((cells.len(), cells[7].as_str()), (8, "val: accuracy 0.5000"));
    }
}
