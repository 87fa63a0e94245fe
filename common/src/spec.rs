//! A job as its author writes it: TOML or JSON, each key checked, each default stated.

mod check;
mod resources;
#[cfg(test)]
mod tests;

pub use resources::{Interval, WorkerRange};

use crate::error::Explained;
use serde::{Deserialize, Serialize};

/// The version of the job format that this build reads.
pub const FORMAT: u32 = 1;

/// A job file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// Version of this format. Only 1 exists.
    #[serde(default = "format_now")]
    pub format: u32,
    /// A name for people: `[a-z0-9][a-z0-9._-]{0,127}`. Default: the task and the job's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The task, for example `superglue/rte`.
    pub task: String,
    /// The frozen model.
    pub backbone: BackboneSpec,
    /// The rows.
    pub data: DataSpec,
    /// What is trained.
    #[serde(default)]
    pub method: MethodSpec,
    /// How it is trained.
    pub training: TrainingSpec,
    /// What training starts from.
    #[serde(default)]
    pub init: InitSpec,
    /// What the job runs on.
    #[serde(default)]
    pub resources: ResourceSpec,
    /// When its state is kept.
    #[serde(default)]
    pub checkpoint: CheckpointSpec,
}

/// The frozen model that a job builds on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackboneSpec {
    /// A Hugging Face directory with `config.json`, `model.safetensors` and `tokenizer.json`.
    pub path: String,
    /// Number format of the frozen weights and activations. The tuned state is always fp32.
    #[serde(default)]
    pub precision: Precision,
}

/// Number format of frozen weights and activations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    Fp32,
}

/// The rows of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// A folder that holds the task's folder: `<root>/RTE/{train,val,test}.jsonl`. It must lie under
    /// a root that the coordinator allows.
    pub root: String,
    /// Alternative text template, for tasks that have one.
    #[serde(default)]
    pub template_id: u32,
    /// Longest sequence in tokens, special tokens included; longer pairs lose tokens from the longer
    /// side. Attention costs grow with its square.
    #[serde(default = "default_max_seq_length")]
    pub max_seq_length: u32,
    /// Keep only the first rows of the training split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_train_rows: Option<u32>,
    /// Keep only the first rows of the validation split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_val_rows: Option<u32>,
}

/// What is trained besides the head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MethodKind {
    /// P-tuning v2: learned keys and values in front of every layer's own.
    #[default]
    Prefix,
    /// Nothing: the frozen backbone and a linear head, as a baseline.
    Head,
}

/// The method and its sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MethodSpec {
    /// What is trained.
    #[serde(default)]
    pub kind: MethodKind,
    /// Prefix positions before every layer's keys and values. The reference's own scripts use 8 to
    /// 128 for SuperGLUE; memory and gradient bytes grow linearly. Not used by `head`.
    #[serde(default = "default_pre_seq_len")]
    pub pre_seq_len: u32,
    /// Whether the prefix comes out of a small network instead of a table. Only `false` is there yet.
    #[serde(default)]
    pub prefix_projection: bool,
    /// That network's hidden size; without it of no effect.
    #[serde(default = "default_prefix_hidden_size")]
    pub prefix_hidden_size: u32,
    /// P-tuning v2's one knob: dropout of prefix, hidden states and head.
    #[serde(default = "default_dropout")]
    pub hidden_dropout_prob: f64,
    /// Overrides `hidden_dropout_prob` for the prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_dropout: Option<f64>,
    /// Dropout of attention probabilities. Default: the backbone's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_dropout: Option<f64>,
    /// Overrides `hidden_dropout_prob` for the head's input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dropout: Option<f64>,
}

/// The learning rate's course.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// From the full rate to zero over all steps, after the warm-up.
    #[default]
    Linear,
    /// The full rate throughout, after the warm-up.
    Constant,
}

/// How training goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainingSpec {
    /// Passes over the training rows. Either this or `max_steps`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<u32>,
    /// Optimizer steps. Either this or `epochs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Rows of one optimizer step: the global batch, whatever the number of workers.
    #[serde(default = "default_batch_size")]
    pub batch_size: u32,
    /// Full learning rate. The reference's scripts use 1e-4 to 1e-2 for SuperGLUE.
    pub learning_rate: f64,
    /// Seed of first values, order of rows and dropout.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Whether each epoch has an order of its own.
    #[serde(default = "default_true")]
    pub shuffle: bool,
    /// Evaluate after every so many epochs, and always at the end.
    #[serde(default = "default_eval_every")]
    pub eval_every: u32,
    /// Decoupled weight decay; biases are exempt.
    #[serde(default)]
    pub weight_decay: f64,
    /// Share of all steps during which the rate rises from zero.
    #[serde(default)]
    pub warmup_ratio: f64,
    /// The learning rate's course.
    #[serde(default)]
    pub schedule: Schedule,
    /// Global L2 norm that gradients are clipped to; 0 turns clipping off.
    #[serde(default = "default_max_grad_norm")]
    pub max_grad_norm: f64,
    /// Decay of AdamW's first moment.
    #[serde(default = "default_adam_beta1")]
    pub adam_beta1: f64,
    /// Decay of AdamW's second moment.
    #[serde(default = "default_adam_beta2")]
    pub adam_beta2: f64,
    /// Added to AdamW's denominator.
    #[serde(default = "default_adam_epsilon")]
    pub adam_epsilon: f64,
    /// Parts that a global batch is cut into: the unit of sharding, and the largest useful number of
    /// workers times threads. Default: one for every 4 rows. A part of the result: another number
    /// gives other bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slices: Option<u32>,
}

/// What training starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitSpec {
    /// A PEFT prefix adapter directory whose prefix and head are the first values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
}

/// What the job runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResourceSpec {
    /// Number of workers, `"2"` or `"1..4"`. The result does not depend on it.
    #[serde(default)]
    pub workers: WorkerRange,
    /// A job of higher priority is started first.
    #[serde(default)]
    pub priority: i32,
}

/// When a job's state is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointSpec {
    /// Interval as a time (`"60s"`) or a number of steps (`200`).
    #[serde(default)]
    pub every: Interval,
    /// Checkpoints that are kept besides the best. At least the two newest good ones stay.
    #[serde(default = "default_keep")]
    pub keep: u32,
}

fn format_now() -> u32 {
    FORMAT
}
fn default_max_seq_length() -> u32 {
    128
}
fn default_pre_seq_len() -> u32 {
    20
}
fn default_prefix_hidden_size() -> u32 {
    512
}
fn default_dropout() -> f64 {
    0.1
}
fn default_batch_size() -> u32 {
    32
}
fn default_seed() -> u64 {
    11
}
fn default_true() -> bool {
    true
}
fn default_eval_every() -> u32 {
    1
}
fn default_max_grad_norm() -> f64 {
    1.0
}
fn default_adam_beta1() -> f64 {
    0.9
}
fn default_adam_beta2() -> f64 {
    0.999
}
fn default_adam_epsilon() -> f64 {
    1e-8
}
fn default_keep() -> u32 {
    2
}

impl Default for MethodSpec {
    fn default() -> Self {
        Self {
            kind: MethodKind::default(),
            pre_seq_len: default_pre_seq_len(),
            prefix_projection: false,
            prefix_hidden_size: default_prefix_hidden_size(),
            hidden_dropout_prob: default_dropout(),
            prefix_dropout: None,
            attention_dropout: None,
            head_dropout: None,
        }
    }
}

impl Default for CheckpointSpec {
    fn default() -> Self {
        Self { every: Interval::default(), keep: default_keep() }
    }
}

impl MethodSpec {
    /// Prefix positions in effect: 0 for `head`.
    pub fn prefix_length(&self) -> u32 {
        match self.kind {
            MethodKind::Prefix => self.pre_seq_len,
            MethodKind::Head => 0,
        }
    }
}

impl TrainingSpec {
    /// Slices of a global batch in effect: as asked, or one for every 4 rows.
    pub fn slice_count(&self) -> u32 {
        self.slices.unwrap_or_else(|| self.batch_size.div_ceil(4))
    }
}

impl JobSpec {
    /// Reads a job from TOML and checks each value that can be checked without files.
    ///
    /// # Errors
    /// Names the key, its value, what was expected, and a hint.
    pub fn from_toml(text: &str) -> Result<Self, Explained> {
        let value: toml::Value = toml::from_str(text).map_err(|error| {
            let line = error.span().map(|span| 1 + text[..span.start].matches('\n').count());
            let explained =
                Explained::new(format!("the job is not valid TOML: {}", error.message()));
            match line {
                Some(line) => explained.at(format!("line {line}")),
                None => explained,
            }
        })?;
        let json = serde_json::to_value(value)
            .map_err(|error| Explained::new(format!("the job cannot be read: {error}")))?;
        Self::from_value(json)
    }

    /// Reads a job from a JSON value, with the same checks.
    ///
    /// # Errors
    /// As [`JobSpec::from_toml`].
    pub fn from_value(value: serde_json::Value) -> Result<Self, Explained> {
        let spec: Self = serde_json::from_value(value).map_err(|error| {
            Explained::new(format!("the job is refused: {error}"))
                .hint("docs and defaults of each key stand in configs/example-job.toml")
        })?;
        check::check(&spec)?;
        Ok(spec)
    }
}
