//! A job once it is accepted: the spec with everything that it refers to pinned.

use crate::ids::JobId;
use crate::plan::Plan;
use crate::spec::JobSpec;
use crate::task::OwnTask;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// An accepted job. It never changes; with a step number it determines that step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Version of this record.
    pub format: u32,
    /// The job.
    pub id: JobId,
    /// The name that people see.
    pub name: String,
    /// The spec as submitted, with defaults filled in.
    pub spec: JobSpec,
    /// SHA-256 of the spec as submitted, for idempotency keys.
    pub spec_sha256: String,
    /// When it was accepted, in milliseconds since 1970. For people only.
    pub submitted_unix_ms: u64,
    /// Whose token it was submitted with. Absent from what earlier versions accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_by: Option<String>,
    /// The backbone, pinned.
    pub backbone: PinnedBackbone,
    /// SHA-256 of each split's data file, by split.
    pub data_sha256: BTreeMap<String, String>,
    /// SHA-256 of the values' file of `init.adapter`, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_sha256: Option<String>,
    /// What was fetched of stores, by the key that names the place.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mirrored: BTreeMap<String, MirroredFiles>,
    /// What a job scores that trains nothing. Absent from a job that trains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
    /// The task as its file declared it at submit, where the spec names a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_task: Option<OwnTask>,
    /// What was computed at submit.
    pub plan: Plan,
    /// Labels of the task in index order.
    pub labels: Vec<String>,
    /// Sequences that a row offers to choose from: 1 for classification.
    pub choices: u32,
    /// The metric that decides which state is best.
    pub best_metric: String,
}

/// Files of a place in a store, as they were at submit: who does not have them fetches those very ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirroredFiles {
    /// The place's URL.
    pub url: String,
    /// Where the coordinator has them.
    pub folder: String,
    /// SHA-256 of each file, by its name below the place.
    pub files: BTreeMap<String, String>,
}

impl PinnedBackbone {
    /// What a job's `backbone.path` says of it.
    pub fn path(&self) -> &str {
        self.hub.as_deref().or(self.url.as_deref()).unwrap_or(&self.directory)
    }
}

/// What a job scores: one split, with values that were trained before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Score {
    /// The split.
    pub split: String,
    /// Whether its rows must have labels, so that metrics can be computed; else only predictions are
    /// made.
    pub labels: bool,
    /// Whose values they are, for people: a job's checkpoint, or an adapter.
    pub of: String,
    /// SHA-256 of the state file that holds them: a data object of this job.
    pub state_sha256: String,
}

impl JobRecord {
    /// Steps of each of the job's runs; one seed is one run.
    pub fn steps_per_run(&self) -> u64 {
        let runs = self.spec.training.seeds.as_ref().map_or(1, Vec::len) as u64;
        self.plan.total_steps / runs.max(1)
    }

    /// Index of the run that step number `applied` (counted from 1) belongs to.
    pub fn run_of(&self, applied: u64) -> usize {
        let run = applied.saturating_sub(1) / self.steps_per_run().max(1);
        usize::try_from(run).unwrap_or(usize::MAX)
    }
}

/// A backbone directory and the hashes of its files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedBackbone {
    /// The directory, absolute.
    pub directory: String,
    /// The repository that it was fetched from, `hf://org/name@commit`: a worker that does not see the
    /// directory fetches it, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<String>,
    /// The URL of the store that it was fetched from: a worker that does not see the directory fetches it
    /// into its own cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// SHA-256 of `config.json`.
    pub config_sha256: String,
    /// SHA-256 of `model.safetensors`; of weights in several files, that of [`Self::shards`] as
    /// `sha256sum` prints them.
    pub weights_sha256: String,
    /// SHA-256 of the index and of each shard by file name; empty where one file holds all weights.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub shards: BTreeMap<String, String>,
    /// SHA-256 of `tokenizer.json`.
    pub tokenizer_sha256: String,
    /// Which kind of encoder it is: bert, roberta, mpnet or deberta-v2.
    #[serde(default = "bert")]
    pub architecture: String,
    /// Hidden size H.
    pub hidden_size: u32,
    /// Number of layers L.
    pub layers: u32,
    /// Attention heads h.
    pub heads: u32,
}

fn bert() -> String {
    "bert".into()
}
