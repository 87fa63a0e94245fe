//! BoolQ: whether a passage answers a question with yes.

use super::fields::Fields;
use super::{Example, Task, flat, truth};
use ptv2_common::error::Explained;
use serde_json::Value;

/// Boolean questions.
pub(super) struct BoolQ;

impl Task for BoolQ {
    fn name(&self) -> &str {
        "superglue/boolq"
    }

    fn folder(&self) -> &str {
        "BoolQ"
    }

    fn labels(&self) -> Vec<&str> {
        vec!["false", "true"]
    }

    fn label_index(&self, label: &Value) -> Option<i32> {
        truth(label)
    }

    fn examples(&self, row: &Value) -> Result<Vec<Example>, Explained> {
        let fields = Fields::of(row)?;
        let pair = (fields.text("question")?.into(), Some(fields.text("passage")?.into()));
        flat(self, &fields, vec![pair])
    }
}
