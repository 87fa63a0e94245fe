//! BoolQ: whether a passage answers a question with yes.

use super::{Pair, Task, text};
use ptv2_common::error::Explained;
use serde_json::Value;

/// Boolean questions.
pub(super) struct BoolQ;

impl Task for BoolQ {
    fn name(&self) -> &'static str {
        "superglue/boolq"
    }

    fn folder(&self) -> &'static str {
        "BoolQ"
    }

    fn labels(&self) -> &'static [&'static str] {
        &["false", "true"]
    }

    fn pairs(&self, row: &Value) -> Result<Vec<Pair>, Explained> {
        Ok(vec![(text(row, "question")?.into(), Some(text(row, "passage")?.into()))])
    }

    fn label_index(&self, label: &Value) -> Option<i32> {
        label.as_bool().map(i32::from)
    }
}
