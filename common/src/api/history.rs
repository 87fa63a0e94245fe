//! What a job has told: steps, evaluations, events and log lines.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A line of `metrics`: one step, or one evaluation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum MetricsRow {
    /// One optimizer step.
    Step(StepMetrics),
    /// One evaluation.
    Evaluation(EvaluationMetrics),
}

/// What one optimizer step was like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StepMetrics {
    /// Optimizer steps applied, this one included.
    pub step: u64,
    /// Epochs begun before this step, from 0.
    pub epoch: u32,
    /// Mean loss of the batch.
    pub loss: f64,
    /// Learning rate of this step.
    pub learning_rate: f64,
    /// The run's seed, where the job has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Global L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Rows a second.
    pub rows_per_s: f64,
    /// Tokens a second, padding excluded.
    pub tokens_per_s: f64,
}

/// What one evaluation found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EvaluationMetrics {
    /// Optimizer steps applied.
    pub step: u64,
    /// Epochs completed.
    pub epoch: u32,
    /// `val`; another one where a job only evaluates or predicts.
    pub split: String,
    /// The run's seed, where the job has several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Rows a second of the whole group. Absent from what earlier versions measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_per_s: Option<f64>,
    /// Tokens a second of the whole group, padding excluded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_s: Option<f64>,
    /// Metrics by name, as fields of their own: `"accuracy": 0.5`.
    #[serde(flatten)]
    pub values: BTreeMap<String, f64>,
}

/// Something that happened to a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Grows by one for each event of the coordinator.
    pub seq: u64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// A word: `submitted`, `staged`, `generation`, `worker_lost`, `evaluated`, `checkpoint`, ….
    pub kind: String,
    /// One line for people.
    pub message: String,
}

/// How grave a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Good to know.
    Info,
    /// Something went wrong and the job goes on.
    Warn,
    /// The job ends.
    Error,
}

/// A line of a job's log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogLine {
    /// Grows within the coordinator.
    pub seq: u64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// How grave it is.
    pub level: LogLevel,
    /// Who says it: `coordinator` or a worker.
    pub source: String,
    /// One line.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evaluation_has_its_metrics_as_fields() {
        let row = MetricsRow::Evaluation(EvaluationMetrics {
            step: 16,
            epoch: 1,
            split: "val".into(),
            seed: None,
            rows_per_s: Some(8.5),
            tokens_per_s: Some(99.0),
            values: [("accuracy".to_owned(), 0.5), ("f1".to_owned(), 0.25)].into(),
        });
        let json = serde_json::to_value(&row).unwrap();
        let expected = serde_json::json!(
            {"step": 16, "epoch": 1, "split": "val", "rows_per_s": 8.5, "tokens_per_s": 99.0,
             "accuracy": 0.5, "f1": 0.25}
        );
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<MetricsRow>(json).unwrap(), row);
        // What an earlier version wrote into its journal.
        let earlier = r#"{"step": 16, "epoch": 1, "split": "val", "accuracy": 0.5}"#;
        let read: MetricsRow = serde_json::from_str(earlier).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), earlier.replace(' ', ""));
    }
}
