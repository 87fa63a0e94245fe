//! CB: whether a premise entails or contradicts a hypothesis, or neither.

use super::{Pair, Task, metrics, named_label, text};
use ptv2_common::error::Explained;
use serde_json::Value;
use std::collections::BTreeMap;

/// CommitmentBank.
pub(super) struct Cb;

impl Task for Cb {
    fn name(&self) -> &'static str {
        "superglue/cb"
    }

    fn folder(&self) -> &'static str {
        "CB"
    }

    fn labels(&self) -> &'static [&'static str] {
        &["entailment", "contradiction", "neutral"]
    }

    fn pairs(&self, row: &Value) -> Result<Vec<Pair>, Explained> {
        Ok(vec![(text(row, "premise")?.into(), Some(text(row, "hypothesis")?.into()))])
    }

    fn label_index(&self, label: &Value) -> Option<i32> {
        named_label(label, self.labels())
    }

    fn metrics(&self, predictions: &[i32], labels: &[i32]) -> BTreeMap<String, f64> {
        let accuracy = metrics::accuracy(predictions, labels);
        let f1 = metrics::macro_f1(predictions, labels);
        BTreeMap::from([
            (metrics::ACCURACY.into(), accuracy),
            ("f1".into(), f1),
            ("combined_score".into(), f64::midpoint(accuracy, f1)),
        ])
    }
}
