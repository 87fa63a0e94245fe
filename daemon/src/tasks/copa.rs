//! COPA: which of two alternatives is the cause or the effect of a premise.

use super::{Pair, Task, mistyped, text};
use ptv2_common::error::Explained;
use serde_json::Value;

/// Choice of plausible alternatives.
pub(super) struct Copa;

impl Task for Copa {
    fn name(&self) -> &'static str {
        "superglue/copa"
    }

    fn folder(&self) -> &'static str {
        "COPA"
    }

    fn labels(&self) -> &'static [&'static str] {
        &["choice1", "choice2"]
    }

    fn choices(&self) -> u32 {
        2
    }

    fn pairs(&self, row: &Value) -> Result<Vec<Pair>, Explained> {
        let joint = match text(row, "question")? {
            "cause" => "because",
            "effect" => "so",
            _ => return Err(mistyped("question", &row["question"], "\"cause\" or \"effect\"")),
        };
        // The premise keeps its period, as in the reference.
        let stem = format!("{} {joint}", text(row, "premise")?);
        let pair = |field: &str| -> Result<Pair, Explained> {
            Ok((stem.clone(), Some(text(row, field)?.to_owned())))
        };
        Ok(vec![pair("choice1")?, pair("choice2")?])
    }

    fn label_index(&self, label: &Value) -> Option<i32> {
        label
            .as_i64()
            .filter(|label| (0..2).contains(label))
            .and_then(|label| label.try_into().ok())
    }
}
