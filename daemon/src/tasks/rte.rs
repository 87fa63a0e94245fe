//! RTE: whether a premise entails a hypothesis.

use super::{Pair, Task, named_label, text};
use ptv2_common::error::Explained;
use serde_json::Value;

/// Recognizing textual entailment.
pub(super) struct Rte;

impl Task for Rte {
    fn name(&self) -> &'static str {
        "superglue/rte"
    }

    fn folder(&self) -> &'static str {
        "RTE"
    }

    fn labels(&self) -> &'static [&'static str] {
        &["entailment", "not_entailment"]
    }

    fn pairs(&self, row: &Value) -> Result<Vec<Pair>, Explained> {
        Ok(vec![(text(row, "premise")?.into(), Some(text(row, "hypothesis")?.into()))])
    }

    fn label_index(&self, label: &Value) -> Option<i32> {
        named_label(label, self.labels())
    }
}
