//! CB: whether a premise entails or contradicts a hypothesis, or neither.

use super::fields::Fields;
use super::{Example, Scored, Task, flat, labels, metrics, predictions};
use ptv2_common::error::Explained;
use serde_json::Value;
use std::collections::BTreeMap;

/// CommitmentBank.
pub(super) struct Cb;

impl Task for Cb {
    fn name(&self) -> &str {
        "superglue/cb"
    }

    fn folder(&self) -> &str {
        "CB"
    }

    fn labels(&self) -> Vec<&str> {
        vec!["entailment", "contradiction", "neutral"]
    }

    fn examples(&self, row: &Value) -> Result<Vec<Example>, Explained> {
        let fields = Fields::of(row)?;
        let pair = (fields.text("premise")?.into(), Some(fields.text("hypothesis")?.into()));
        flat(self, &fields, vec![pair])
    }

    fn metrics(&self, rows: &[Scored]) -> BTreeMap<String, f64> {
        let (predictions, labels) = (predictions(rows), labels(rows));
        let accuracy = metrics::accuracy(&predictions, &labels);
        let f1 = metrics::macro_f1(&predictions, &labels);
        BTreeMap::from([
            (metrics::ACCURACY.into(), accuracy),
            ("f1".into(), f1),
            ("combined_score".into(), f64::midpoint(accuracy, f1)),
        ])
    }
}
