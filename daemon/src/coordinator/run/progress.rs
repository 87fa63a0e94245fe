//! What is heard of a job's steps and evaluations.

use super::job::Job;
use super::{Action, Cluster, Fact, note};
use ptv2_common::api::{EvaluationMetrics, MetricsRow, StepMetrics};
use ptv2_common::ids::{Generation, JobId};
use ptv2_common::manifest::BestMetric;
use std::time::Duration;

impl Cluster {
    /// Whether a row of metrics is to be journaled. From the newest generation all are: it may compute a step
    /// again. An older one's are where they were not reported before: its rank 0 may have written a checkpoint of
    /// them by now, after which nobody computes them again. Nothing is decided by those.
    pub fn wants(&self, id: &JobId, generation: Generation, row: &MetricsRow) -> bool {
        let Some(job) = self.jobs.get(id).filter(|job| !job.is_final()) else { return false };
        generation == job.generation || (generation < job.generation && !job.knows(row))
    }

    /// Whether what a generation did is what was done of the job last: it trains it, or did before the job
    /// was sent back to the queue.
    fn is_newest(&self, id: &JobId, generation: Generation) -> bool {
        self.jobs.get(id).is_some_and(|job| job.generation == generation && !job.is_final())
    }

    pub(super) fn progressed(
        &mut self,
        now: Duration,
        id: &JobId,
        generation: Generation,
        metrics: Vec<MetricsRow>,
        actions: &mut Vec<Action>,
    ) {
        if !self.is_newest(id, generation) {
            return;
        }
        for row in metrics {
            match row {
                MetricsRow::Step(row) => self.stepped(now, id, &row, actions),
                MetricsRow::Evaluation(row) => self.evaluated(now, id, &row, actions),
            }
        }
    }

    fn stepped(&mut self, now: Duration, id: &JobId, row: &StepMetrics, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if row.step > job.step {
            job.setbacks.moved();
        }
        job.reported = job.reported.max(row.step);
        job.step = job.step.max(row.step);
        job.epoch = row.epoch;
        job.loss = Some(row.loss);
        job.rows_per_s = Some(row.rows_per_s);
        if job.timings.first_step_s.is_none() {
            let first_step_s = now.saturating_sub(job.submitted_at).as_secs_f64();
            self.record(now, Fact::FirstStep { job: id.clone(), first_step_s }, actions);
        }
    }

    fn evaluated(
        &mut self,
        now: Duration,
        id: &JobId,
        row: &EvaluationMetrics,
        actions: &mut Vec<Action>,
    ) {
        let Some(job) = self.jobs.get(id) else { return };
        // It may have been reported before, by a rank 0 that was lost, or over a lost connection.
        if job.has_evaluated(row.step) {
            return;
        }
        let name = job.record.best_metric.clone();
        let Some(value) = row.values.get(&name).copied() else { return };
        let seed = row.seed.map_or_else(String::new, |seed| format!("seed {seed}, "));
        let message = format!("{seed}epoch {}: {name} {value:.4}", row.epoch);
        actions.push(note(id, "evaluated", message));
        let metric = BestMetric { metric: name, value, step: row.step };
        self.record(now, Fact::Evaluated { job: id.clone(), epoch: row.epoch, metric }, actions);
    }
}

impl Job {
    /// Whether a row, or one of a later step, was reported before.
    fn knows(&self, row: &MetricsRow) -> bool {
        match row {
            MetricsRow::Step(row) => row.step <= self.reported,
            MetricsRow::Evaluation(row) => self.has_evaluated(row.step),
        }
    }

    fn has_evaluated(&self, step: u64) -> bool {
        self.last.as_ref().is_some_and(|last| step <= last.step)
    }
}
