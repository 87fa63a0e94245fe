//! PEFT's prefix-tuning adapter directory, written and read (specification, section 15).
//!
//! | ours | PEFT's, for BERT | PEFT's, for RoBERTa |
//! |---|---|---|
//! | `prefix.table` | `prompt_embeddings` | `prompt_embeddings` |
//! | `head.*` | `base_model.classifier.*` | `base_model.classifier.out_proj.*` |
//! | `pooler.*` | `base_model.bert.pooler.dense.*` | `base_model.classifier.dense.*` |
//!
//! RoBERTa's classifier in transformers is our pooler and head. A BERT's pooler belongs to the model that
//! PEFT wraps: an adapter has it only where it was trained, and PEFT writes it into that model.

mod export;
mod fit;
mod import;
#[cfg(test)]
mod tests;

pub use export::export;
pub use fit::{all_files, check_backbone, check_fit, files, read};
pub use import::{import, values_file};

use crate::numerics::state::{HEAD_BIAS, HEAD_WEIGHT, POOLER_BIAS, POOLER_WEIGHT, PREFIX_TABLE};
use ptv2_common::job::PinnedBackbone;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// PEFT's description of an adapter.
pub const CONFIG: &str = "adapter_config.json";
/// PEFT's file of an adapter's values.
const MODEL: &str = "adapter_model.safetensors";
/// What we write beside them, and PEFT does not read: the backbone and the task, pinned.
pub const ORIGIN: &str = "ptv2.json";

/// What [`ORIGIN`] holds: what PEFT's files do not say of themselves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Origin {
    /// Version of this file.
    pub format: u32,
    /// The task.
    pub task: String,
    /// Labels of the task in index order.
    pub labels: Vec<String>,
    /// Sequences that a row offers to choose from: 1 for classification.
    pub choices: u32,
    /// The backbone, pinned.
    pub backbone: PinnedBackbone,
    /// How the job's rows became tokens: keys of a job's `data`.
    pub data: Value,
}

/// Our name of each tensor, and PEFT's.
type Names = [(&'static str, &'static str); 5];

const BERT: Names = [
    (HEAD_BIAS, "base_model.classifier.bias"),
    (HEAD_WEIGHT, "base_model.classifier.weight"),
    (POOLER_BIAS, "base_model.bert.pooler.dense.bias"),
    (POOLER_WEIGHT, "base_model.bert.pooler.dense.weight"),
    (PREFIX_TABLE, "prompt_embeddings"),
];

const ROBERTA: Names = [
    (HEAD_BIAS, "base_model.classifier.out_proj.bias"),
    (HEAD_WEIGHT, "base_model.classifier.out_proj.weight"),
    (POOLER_BIAS, "base_model.classifier.dense.bias"),
    (POOLER_WEIGHT, "base_model.classifier.dense.weight"),
    (PREFIX_TABLE, "prompt_embeddings"),
];

/// PEFT's name of a tensor of ours.
fn name_in(names: &Names, ours: &str) -> Option<&'static str> {
    names.iter().find(|(name, _)| *name == ours).map(|(_, theirs)| *theirs)
}
