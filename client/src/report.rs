//! A report of jobs: what was trained, how, and what came out, over seeds, as data and as Markdown.

mod markdown;

use crate::failure::Failure;
use crate::http::Api;
use crate::tables::word;
pub(crate) use markdown::markdown;
use ptv2_common::api::{JobStatus, MetricsRow, RunStatus, Summary};
use ptv2_common::job::JobRecord;
use ptv2_common::manifest::BestMetric;
use serde::Serialize;
use std::collections::BTreeMap;

/// The version of a report's form.
const FORMAT: u32 = 1;

/// A report.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    format: u32,
    /// ptv2's version that made it.
    ptv2ctl: String,
    jobs: Vec<Entry>,
    /// What else is to be said, for people.
    pub(crate) notes: Vec<String>,
}

/// A job of a report.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Entry {
    id: String,
    name: String,
    state: String,
    task: String,
    /// The split that scores are of.
    split: String,
    train_rows: u64,
    split_rows: u64,
    majority_class: Option<f64>,
    epochs: Option<u64>,
    steps_per_run: u64,
    backbone: Backbone,
    method: serde_json::Value,
    training: serde_json::Value,
    max_seq_length: u32,
    template_id: u32,
    trainable_parameters: u64,
    /// Device, libtorch and ptv2 of the workers.
    fingerprint: Option<String>,
    tuned_sha256: Option<String>,
    runs: Vec<Run>,
    /// Mean and standard deviation of the deciding metric over runs that have ended.
    summary: Option<Summary>,
    warnings: Vec<String>,
    train_s: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Backbone {
    directory: String,
    weights_sha256: String,
    precision: String,
}

/// A run: its best and its last evaluation side by side.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Run {
    seed: u64,
    best: Option<Scores>,
    last: Option<Scores>,
    tuned_sha256: Option<String>,
}

/// All metrics of one evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Scores {
    epoch: u32,
    step: u64,
    metric: String,
    value: f64,
    all: BTreeMap<String, f64>,
}

/// A report of some jobs.
pub(crate) async fn of(api: &Api, jobs: &[String]) -> Result<Report, Failure> {
    let mut entries = Vec::new();
    for job in jobs {
        let status: JobStatus = api.get(&["jobs", job]).await?;
        let record: JobRecord = api.get(&["jobs", &status.id, "record"]).await?;
        let metrics: Vec<MetricsRow> = api.get(&["jobs", &status.id, "metrics"]).await?;
        entries.push(entry(status, record, &metrics));
    }
    let ptv2ctl = env!("CARGO_PKG_VERSION").to_owned();
    Ok(Report { format: FORMAT, ptv2ctl, jobs: entries, notes: Vec::new() })
}

fn entry(status: JobStatus, record: JobRecord, metrics: &[MetricsRow]) -> Entry {
    let alone = || RunStatus {
        seed: record.spec.training.seed,
        epoch: status.epoch,
        best: status.best.clone(),
        last: status.last.clone(),
        tuned_sha256: status.tuned_sha256.clone(),
    };
    let runs = if status.seeds.is_empty() { vec![alone()] } else { status.seeds.clone() };
    let run = |run: &RunStatus| Run {
        seed: run.seed,
        best: run.best.as_ref().map(|best| scores(best, metrics)),
        last: run.last.as_ref().map(|last| scores(last, metrics)),
        tuned_sha256: run.tuned_sha256.clone(),
    };
    let steps_per_epoch = record.plan.steps_per_epoch.max(1);
    let spec = &record.spec;
    Entry {
        runs: runs.iter().map(run).collect(),
        summary: status.summary.clone().or_else(|| Summary::of(&runs)),
        state: word(&status.state),
        split: record.score.as_ref().map_or_else(|| "val".into(), |score| score.split.clone()),
        train_rows: record.plan.train_rows,
        split_rows: record.plan.val_rows,
        majority_class: status.majority_class,
        epochs: (record.score.is_none()).then(|| record.steps_per_run().div_ceil(steps_per_epoch)),
        steps_per_run: record.steps_per_run(),
        method: serde_json::to_value(&spec.method).unwrap_or_default(),
        training: serde_json::to_value(&spec.training).unwrap_or_default(),
        max_seq_length: spec.data.max_seq_length,
        template_id: spec.data.template_id,
        trainable_parameters: record.plan.trainable_parameters,
        fingerprint: status.fingerprint,
        tuned_sha256: status.tuned_sha256,
        warnings: status.warnings,
        train_s: status.timings.train_s,
        backbone: Backbone {
            precision: word(&spec.backbone.precision),
            directory: record.backbone.directory,
            weights_sha256: record.backbone.weights_sha256,
        },
        id: status.id,
        name: status.name,
        task: status.task,
    }
}

/// An evaluation's deciding value, with all that was measured then.
fn scores(of: &BestMetric, metrics: &[MetricsRow]) -> Scores {
    let found = metrics.iter().find_map(|row| match row {
        MetricsRow::Evaluation(row) if row.step == of.step => Some(row),
        MetricsRow::Evaluation(_) | MetricsRow::Step(_) => None,
    });
    Scores {
        epoch: found.map_or(0, |row| row.epoch),
        step: of.step,
        metric: of.metric.clone(),
        value: of.value,
        all: found.map(|row| row.values.clone()).unwrap_or_default(),
    }
}
