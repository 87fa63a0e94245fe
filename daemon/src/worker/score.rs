//! A job that trains nothing: it scores one split and keeps the predictions.

use super::evaluate::{self, Evaluation};
use super::generation::Training;
use super::held::Exit;
use crate::tasks;
use ptv2_common::api::MetricsRow;
use ptv2_common::error::Explained;
use ptv2_common::manifest::{BestMetric, PREDICTIONS_FOLDER};

impl Training<'_> {
    /// Scores the split and ends the job. Rows that were scored before a group was cut off are not scored
    /// again, also when all were: so the place stays before the evaluation until the job is done.
    pub(super) fn score(mut self) -> Result<String, Exit> {
        let Evaluation { row, scored } = evaluate::evaluate(&mut self)?;
        let job = &self.start.job;
        let task = tasks::of(job)?;
        let mut lines = Vec::new();
        for answer in task.answers(&scored) {
            let line = serde_json::to_vec(&answer).map_err(|e| Explained::from_error(&e))?;
            lines.extend(line);
            lines.push(b'\n');
        }
        let metric = job.best_metric.clone();
        let step = self.state()?.step;
        if let Some(value) = row.values.get(&metric).copied()
            && let Some(progress) = &mut self.held.progress
        {
            progress.state.last = Some(BestMetric { metric, value, step });
        }
        self.note(MetricsRow::Evaluation(row));
        self.finish(vec![(format!("{PREDICTIONS_FOLDER}{}", task.answer_file()), lines)])
    }
}
