//! WiC: whether a word means the same in two sentences.

use super::fields::Fields;
use super::{Example, Pair, Task, flat, truth};
use ptv2_common::error::Explained;
use serde_json::Value;

/// Words in context, with one of two texts: 0 is one sequence that asks, 1 a pair of sentences that
/// each begin with the word.
pub(super) struct Wic {
    pub(super) template: u32,
}

impl Task for Wic {
    fn name(&self) -> &str {
        "superglue/wic"
    }

    fn folder(&self) -> &str {
        "WiC"
    }

    fn labels(&self) -> Vec<&str> {
        vec!["false", "true"]
    }

    fn templates(&self) -> u32 {
        2
    }

    fn label_index(&self, label: &Value) -> Option<i32> {
        truth(label)
    }

    fn examples(&self, row: &Value) -> Result<Vec<Example>, Explained> {
        let fields = Fields::of(row)?;
        let word = fields.text("word")?;
        let (one, other) = (fields.text("sentence1")?, fields.text("sentence2")?);
        let pair: Pair = if self.template == 0 {
            (format!("{one} {other} Does {word} have the same meaning in both sentences?"), None)
        } else {
            (format!("{word}: {one}"), Some(format!("{word}: {other}")))
        };
        flat(self, &fields, vec![pair])
    }
}
