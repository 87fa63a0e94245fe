//! COPA: which of two alternatives is the cause or the effect of a premise.

use super::fields::Fields;
use super::{Example, Pair, Task, flat};
use ptv2_common::error::Explained;
use serde_json::Value;

/// Choice of plausible alternatives.
pub(super) struct Copa;

impl Task for Copa {
    fn name(&self) -> &str {
        "superglue/copa"
    }

    fn folder(&self) -> &str {
        "COPA"
    }

    fn labels(&self) -> Vec<&str> {
        vec!["choice1", "choice2"]
    }

    fn choices(&self) -> u32 {
        2
    }

    fn label_index(&self, label: &Value) -> Option<i32> {
        label
            .as_i64()
            .filter(|label| (0..2).contains(label))
            .and_then(|label| label.try_into().ok())
    }

    fn spelled(&self, label: i32) -> Value {
        label.into()
    }

    fn examples(&self, row: &Value) -> Result<Vec<Example>, Explained> {
        let fields = Fields::of(row)?;
        let joint = match fields.text("question")? {
            "cause" => "because",
            "effect" => "so",
            _ => return Err(fields.mistyped("question", "\"cause\" or \"effect\"")),
        };
        // The premise keeps its period, as in the reference.
        let stem = format!("{} {joint}", fields.text("premise")?);
        let pair = |field: &str| -> Result<Pair, Explained> {
            Ok((stem.clone(), Some(fields.text(field)?.to_owned())))
        };
        flat(self, &fields, vec![pair("choice1")?, pair("choice2")?])
    }
}
