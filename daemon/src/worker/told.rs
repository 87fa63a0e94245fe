//! What a worker tells its coordinator stands in its own log, too. Job, generation and rank are those of the
//! span that the thread is in.

use ptv2_common::api::{LogLevel, MetricsRow};
use ptv2_common::ids::{Generation, JobId};
use ptv2_common::session::{FromWorker, LeaveReason};
use tracing::Span;

/// All that is done for a job in a generation by this rank. Of the highest level, so that no filter takes it
/// from the lines in it.
pub(super) fn generation(job: &JobId, generation: Generation, rank: u32) -> Span {
    tracing::error_span!("generation", %job, generation = generation.0, rank)
}

/// All that is done for a job outside of its generations.
pub(super) fn job(job: &JobId) -> Span {
    tracing::error_span!("job", %job)
}

/// Writes a line of what is told.
pub(super) fn log(message: &FromWorker) {
    match message {
        FromWorker::Running { place, .. } => {
            tracing::info!(step = place.step, "the group is complete and goes on from here");
        }
        FromWorker::Left { place, reason, .. } => {
            let step = place.map(|place| place.step);
            match reason {
                LeaveReason::Stopped => tracing::info!(step, "left as it was told, or planned"),
                LeaveReason::PeerLost { peer, silent, detail } => {
                    tracing::warn!(step, %peer, silent, detail, "left: a peer is lost");
                }
                LeaveReason::TransportFailed { detail } => {
                    tracing::warn!(step, detail, "left: the reduction failed");
                }
                LeaveReason::DeviceLost { detail } => {
                    tracing::error!(step, detail, "left: this process can compute no more");
                }
                LeaveReason::Diverged { own, detail } => {
                    tracing::warn!(step, own, detail, "left: the ranks' states differ");
                }
            }
        }
        FromWorker::Progress { metrics, .. } => metrics.iter().for_each(row),
        FromWorker::CheckpointReport { outcome: Ok(checkpoint), .. } => {
            tracing::info!(step = checkpoint.step, key = checkpoint.key, "a checkpoint is written");
        }
        FromWorker::CheckpointReport { outcome: Err(error), .. } => {
            tracing::warn!(%error, "a checkpoint could not be written");
        }
        FromWorker::Log { level: LogLevel::Info, message, .. } => tracing::info!("{message}"),
        FromWorker::Log { level: LogLevel::Warn, message, .. } => tracing::warn!("{message}"),
        FromWorker::Log { level: LogLevel::Error, message, .. } => tracing::error!("{message}"),
        FromWorker::Finished { tuned_sha256, .. } => {
            tracing::info!(tuned_sha256, "through with the job's last step");
        }
        FromWorker::JobFailed { error, .. } => tracing::error!(%error, "the job cannot go on"),
        FromWorker::Ready { outcome: Ok(()), .. } => tracing::info!("loaded, and ready"),
        FromWorker::Ready { outcome: Err(error), .. } => tracing::warn!(%error, "not ready"),
        // Damage is told where it is found.
        FromWorker::Damaged { .. }
        | FromWorker::Hello(_)
        | FromWorker::Heartbeat { .. }
        | FromWorker::Draining => {}
    }
}

fn row(row: &MetricsRow) {
    match row {
        MetricsRow::Step(of) => {
            tracing::debug!(step = of.step, loss = of.loss, rows_per_s = of.rows_per_s, "stepped");
        }
        MetricsRow::Evaluation(of) => {
            let found = of.values.iter().map(|(name, value)| format!("{name} {value:.4}"));
            let found = found.collect::<Vec<_>>().join(", ");
            tracing::info!(step = of.step, epoch = of.epoch, "evaluated: {found}");
        }
    }
}
