//! A job as its author writes it: TOML or JSON, each key checked, each default stated.
//!
//! The comments of the keys are for that author, too: configs/example-job.toml, `ptv2ctl init` and
//! the API's document are made from them. Each says what the key does, its range, and what it costs.

mod check;
mod example;
mod keys;
mod read;
mod recipes;
mod resources;
#[cfg(test)]
mod tests;

pub use example::commented;
pub use keys::{is_key, wants_text};
pub use read::merge;
pub use recipes::{job_file, known_tasks, recipe};
pub use resources::{Interval, WorkerRange};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The version of the job format that this build reads.
pub const FORMAT: u32 = 1;

/// A job file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobSpec {
    /// Version of this format. Only 1 exists.
    #[serde(default = "format_now")]
    pub format: u32,
    /// A name for people: 1 to 128 of a-z 0-9 . _ -, beginning with a letter or digit. Off: made of
    /// the task and the job's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "rte-first")]
    pub name: Option<String>,
    /// superglue/boolq, superglue/cb, superglue/copa, superglue/multirc, superglue/record, superglue/rte,
    /// superglue/wic or superglue/wsc; or a task of your own: the path of a file that ends in .toml and
    /// is written like configs/own-task.toml, relative to this file, under a root that the coordinator
    /// allows.
    pub task: String,
    /// The frozen model that the job builds on.
    pub backbone: BackboneSpec,
    /// The rows of the job.
    pub data: DataSpec,
    /// What is trained, and its sizes.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BackboneSpec {
    /// A Hugging Face directory with config.json, tokenizer.json and model.safetensors, or the shards
    /// that model.safetensors.index.json names. Relative to this file; it must lie under a root that
    /// the coordinator allows, at the same path on every worker. Or hf://org/name@revision, which the
    /// coordinator fetches from a hub of models; without a revision it is main. Or the URL of a place in a
    /// store, s3://bucket/prefix, gs:// or az://, under a root. Pinned by hash at submit.
    pub path: String,
    /// Number format of the frozen weights and activations: fp32, or bf16, which is half as large,
    /// and faster on processors that multiply it (avx512_bf16 or amx_bf16 in lscpu). The tuned state
    /// is always fp32.
    #[serde(default)]
    pub precision: Precision,
}

/// Number format of frozen weights and activations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floating point.
    #[default]
    Fp32,
    /// 16-bit floating point with the exponent of fp32.
    Bf16,
}

/// The rows of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// The folder that holds the task's folder, for example `<root>/RTE/{train,val}.jsonl`; of a task of
    /// your own, the folder that holds its files. Relative to this file. It must lie under a root that
    /// the coordinator allows. Or the URL of such a place in a store, as s3://bucket/prefix.
    pub root: String,
    /// Text template, 0 or 1, of superglue/wic (0: one sequence that asks; 1: a pair of sentences, each
    /// behind the word) and superglue/wsc (0: the pronoun in front; 1: marked in the text by asterisks).
    /// The reference takes 1 for WiC with BERT.
    #[serde(default)]
    pub template_id: u32,
    /// Longest sequence in tokens, special tokens included, 8 to 8192. Longer pairs lose tokens from
    /// the longer side. Attention costs grow with its square. Prefix length and this must fit the
    /// backbone's position table.
    #[serde(default = "default_max_seq_length")]
    pub max_seq_length: u32,
    /// Keep only the first rows of the training split, where each answer of superglue/multirc and each
    /// entity of superglue/record is a row. Off: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 1000)]
    pub max_train_rows: Option<u32>,
    /// Keep only the first rows of the validation split, counted alike: the last question may lose some
    /// of its answers, and is judged by those that are left. Off: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 100)]
    pub max_val_rows: Option<u32>,
}

/// What is trained besides the head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MethodKind {
    /// P-tuning v2: learned keys and values in front of every layer's own.
    #[default]
    Prefix,
    /// Prompt tuning: learned vectors in front of the words' embeddings, at the input alone.
    Prompt,
    /// Nothing: the frozen backbone and a linear head, as a baseline.
    Head,
}

/// What becomes of the pooler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PoolerKind {
    /// It stays what it is at the start.
    Frozen,
    /// It is trained beside prefix and head.
    Trained,
}

/// The method and its sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MethodSpec {
    /// prefix: P-tuning v2, learned keys and values in front of every layer's own. prompt: learned
    /// vectors in front of the words' embeddings, at the input alone; far fewer values, weaker on small
    /// backbones. head: the frozen backbone and a linear head, as a baseline.
    #[serde(default)]
    pub kind: MethodKind,
    /// Positions of prefix or prompt, 1 to 4096. The reference's scripts use 8 to 128 for SuperGLUE.
    /// Trained values, checkpoint and bytes on the wire grow linearly. Not used by head.
    #[serde(default = "default_pre_seq_len")]
    pub pre_seq_len: u32,
    /// Whether the prefix comes out of a small network instead of a table, which steadies training at
    /// some tasks (the reference uses it for WiC with BERT). With BERT-large and 20 positions 26 times as
    /// many values are trained and sent; the adapter for PEFT holds the table that comes out.
    #[serde(default)]
    pub prefix_projection: bool,
    /// That network's hidden size, 1 to 65536; without it of no effect.
    #[serde(default = "default_prefix_hidden_size")]
    pub prefix_hidden_size: u32,
    /// The dense layer between the first token and the head: frozen or trained. BERT's is pretrained.
    /// RoBERTa's and MPNet's begin with what the backbone has, else with random values of the seed, and
    /// are kept in the checkpoint in both cases. Off: frozen; for DeBERTa, whose is random and must be
    /// trained, trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "trained")]
    pub pooler: Option<PoolerKind>,
    /// P-tuning v2's one knob: dropout of prefix, hidden states and head, at least 0 and below 1.
    #[serde(default = "default_dropout")]
    pub hidden_dropout_prob: f64,
    /// Dropout of the prefix alone; a prompt has that of the embeddings. Off: hidden_dropout_prob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 0.1)]
    pub prefix_dropout: Option<f64>,
    /// Dropout of attention probabilities. Off: the backbone's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 0.1)]
    pub attention_dropout: Option<f64>,
    /// Dropout of the head's input alone. Off: hidden_dropout_prob.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 0.1)]
    pub head_dropout: Option<f64>,
}

/// The learning rate's course.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// From the full rate to zero over all steps, after the warm-up.
    #[default]
    Linear,
    /// From the full rate to zero along half a cosine, after the warm-up.
    Cosine,
    /// The full rate throughout, after the warm-up.
    Constant,
}

/// How the ranks' gradients become one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// In a fixed tree over the slices.
    #[default]
    Ordered,
    /// As NCCL's all-reduce does it.
    Ring,
}

/// How training goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainingSpec {
    /// Passes over the training rows: either this or max_steps, and one of the two is required. Time
    /// grows linearly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 60)]
    pub epochs: Option<u32>,
    /// Optimizer steps of the whole job, in place of epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 1000)]
    pub max_steps: Option<u64>,
    /// Rows of one optimizer step, 1 to 65536: the global batch, whatever the number of workers.
    #[serde(default = "default_batch_size")]
    pub batch_size: u32,
    /// Full learning rate, above 0. The reference's scripts use 1e-4 to 1e-2 for SuperGLUE.
    pub learning_rate: f64,
    /// Seed of first values, order of rows and dropout. Not used where seeds are given.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// Several runs in one job, one after the other, each with a seed of its own and otherwise alike;
    /// status and report give mean and standard deviation over them. Time grows linearly. A run is bit
    /// for bit what a job with that seed alone would give. Off: one run with seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = json!([11, 44, 7]))]
    pub seeds: Option<Vec<u64>>,
    /// Whether each epoch has an order of its own. Off helps to compare step by step with other
    /// trainers.
    #[serde(default = "default_true")]
    pub shuffle: bool,
    /// Evaluate after every so many epochs, and always at the end. Each evaluation is a pass over the
    /// validation rows, and the best of them is the result.
    #[serde(default = "default_eval_every")]
    pub eval_every: u32,
    /// End a run after so many evaluations in a row without a better one, at least 1. The learning rate
    /// still falls as if all epochs were to come. Off: all epochs are trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 10)]
    pub early_stopping: Option<u32>,
    /// Decoupled weight decay, at least 0; biases are exempt.
    #[serde(default)]
    pub weight_decay: f64,
    /// Share of all steps during which the rate rises from zero, 0 to 1.
    #[serde(default)]
    pub warmup_ratio: f64,
    /// The rate after the warm-up. linear: from the full rate to zero over all steps. cosine: the same
    /// along half a cosine. constant: the full rate throughout.
    #[serde(default)]
    pub schedule: Schedule,
    /// Global L2 norm that gradients are clipped to; 0 turns clipping off.
    #[serde(default = "default_max_grad_norm")]
    pub max_grad_norm: f64,
    /// Decay of AdamW's first moment, at least 0 and below 1.
    #[serde(default = "default_adam_beta1")]
    pub adam_beta1: f64,
    /// Decay of AdamW's second moment, at least 0 and below 1.
    #[serde(default = "default_adam_beta2")]
    pub adam_beta2: f64,
    /// Added to AdamW's denominator, above 0: to the square root of the second moment before bias
    /// correction, as in the reference; torch corrects first.
    #[serde(default = "default_adam_epsilon")]
    pub adam_epsilon: f64,
    /// Parts that a global batch is cut into, 1 to batch_size: the unit of sharding, and the largest
    /// useful number of workers times threads. More slices of fewer rows need less memory, as gradient
    /// accumulation does elsewhere. A part of the result: another number gives other bits.
    /// Off: one for every 4 rows of batch_size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = 8)]
    pub slices: Option<u32>,
    /// How gradients are summed. ordered: in a fixed tree over the slices, so that the result does not
    /// depend on the workers. ring: by NCCL's all-reduce where workers on GPUs use NCCL; bits are then those
    /// of one group only. It is for groups that ordered slows down: by docs/scale.md, reckoned and not
    /// measured, those of more than about 32 GPUs, or of several nodes whose GPUs share an adapter.
    /// Elsewhere ring is ordered. Off: ordered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "ring")]
    pub reduction: Option<Reduction>,
}

/// What training starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InitSpec {
    /// Start from the prefix and head of a PEFT adapter directory, or of a checkpoint that was pulled
    /// in native form; or the URL of such a place in a store. Off: random values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "adapters/first")]
    pub adapter: Option<String>,
}

/// What the job runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceSpec {
    /// Number of workers, "2" or "1..4". The job starts with the least and takes in more as they come
    /// free. The result does not depend on it.
    #[serde(default)]
    pub workers: WorkerRange,
    /// Jobs of higher priority are started first; of equal ones the older.
    #[serde(default)]
    pub priority: i32,
}

/// When a job's state is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckpointSpec {
    /// Interval as a time ("60s") or a number of steps (200). Each new best is kept besides. A shorter
    /// one loses less when every worker of a job dies at once, and writes more.
    #[serde(default)]
    pub every: Interval,
    /// Checkpoints that are kept besides the best; at least the two newest good ones stay.
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
            pooler: None,
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
    /// Positions of prefix or prompt in effect: 0 for `head`.
    pub fn prefix_length(&self) -> u32 {
        match self.kind {
            MethodKind::Prefix | MethodKind::Prompt => self.pre_seq_len,
            MethodKind::Head => 0,
        }
    }
}

impl TrainingSpec {
    /// Slices of a global batch in effect: as asked, or one for every 4 rows.
    pub fn slice_count(&self) -> u32 {
        self.slices.unwrap_or_else(|| self.batch_size.div_ceil(4))
    }

    /// Seeds in effect, one a run.
    pub fn run_seeds(&self) -> Vec<u64> {
        self.seeds.clone().unwrap_or_else(|| vec![self.seed])
    }
}
