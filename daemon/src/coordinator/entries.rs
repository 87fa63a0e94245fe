//! What goes into the journal of a decision, and of what a worker says.

use super::journal::Entry;
use super::run::{Action, Cluster};
use ptv2_common::api::{LogLevel, MetricsRow};
use ptv2_common::ids::{JobId, WorkerId};
use ptv2_common::session::{FromWorker, LeaveReason};

/// What is to be journaled of a decision.
pub(super) fn of_decision(
    cluster: &Cluster,
    actions: &[Action],
    unix_ms: u64,
    mut entries: Vec<Entry>,
) -> Vec<Entry> {
    for action in actions {
        match action {
            Action::Record(fact) => entries.push(Entry::Fact { unix_ms, fact: fact.clone() }),
            Action::Note { job, kind, message } => {
                let (generation, step) = cluster.reached(job);
                tracing::info!(%job, generation, step, kind, "{message}");
                entries.push(Entry::Event {
                    job: job.clone(),
                    unix_ms,
                    kind: (*kind).into(),
                    message: message.clone(),
                });
            }
            Action::Stage(_)
            | Action::Prepare(..)
            | Action::Tell(..)
            | Action::MarkEnd(..)
            | Action::Disconnect(_) => {}
        }
    }
    entries
}

/// What a worker's message puts into the journal beside what is decided about it.
pub(super) fn of_report(
    cluster: &Cluster,
    worker: &WorkerId,
    message: &FromWorker,
    unix_ms: u64,
) -> Vec<Entry> {
    let log = |job: &JobId, level: LogLevel, message: String| Entry::Log {
        job: job.clone(),
        unix_ms,
        level,
        source: worker.to_string(),
        message,
    };
    match message {
        FromWorker::Log { job, level, message } => vec![log(job, *level, message.clone())],
        FromWorker::Progress { job, generation, metrics } => {
            let entry = |row: &MetricsRow| Entry::Metrics { job: job.clone(), row: row.clone() };
            let wanted = metrics.iter().filter(|row| cluster.wants(job, *generation, row));
            wanted.map(entry).collect()
        }
        FromWorker::Running { job, generation, place } => {
            let message = format!("generation {generation} runs here from step {}", place.step);
            vec![log(job, LogLevel::Info, message)]
        }
        FromWorker::JobFailed { job, error, .. } => {
            vec![log(job, LogLevel::Error, error.to_string())]
        }
        FromWorker::Left { job, reason: LeaveReason::TransportFailed { detail }, .. } => {
            vec![log(job, LogLevel::Warn, format!("the reduction failed: {detail}"))]
        }
        FromWorker::Left { job, reason: LeaveReason::DeviceLost { detail }, .. } => {
            vec![log(job, LogLevel::Error, format!("the device is lost: {detail}"))]
        }
        FromWorker::CheckpointReport { job, outcome: Err(error), .. } => {
            let message = format!("a checkpoint could not be written: {error}");
            vec![log(job, LogLevel::Warn, message)]
        }
        FromWorker::Hello(_)
        | FromWorker::Heartbeat { .. }
        | FromWorker::Ready { .. }
        | FromWorker::Left { .. }
        | FromWorker::CheckpointReport { outcome: Ok(_), .. }
        | FromWorker::Finished { .. }
        | FromWorker::Damaged { .. }
        | FromWorker::Draining => Vec::new(),
    }
}
