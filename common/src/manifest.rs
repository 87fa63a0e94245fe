//! Checkpoint manifests and the names of objects in the artifact store.
//!
//! A checkpoint exists if and only if its manifest exists. Data objects are named by their SHA-256,
//! so "already there" means verify and reuse; the manifest is put last, create-only.

use crate::error::Explained;
use crate::ids::{Generation, JobId};
use crate::job::JobRecord;
use serde::{Deserialize, Serialize};

/// The version of the manifest that this build writes.
pub const FORMAT: u32 = 1;

/// A file of a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// The name it has in a pulled folder.
    pub name: String,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256 in hexadecimal: also its object's name.
    pub sha256: String,
}

/// What a checkpoint is. The object that makes it exist.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointManifest {
    /// Version of this file.
    pub format: u32,
    /// The job's record, so that a coordinator can adopt the job from the store alone.
    pub job: JobRecord,
    /// Optimizer steps applied.
    pub step: u64,
    /// Epochs completed.
    pub epoch: u32,
    /// The generation that wrote it.
    pub generation: Generation,
    /// The step that generation started from.
    pub generation_start_step: u64,
    /// Random, so that a put whose answer was lost is recognized as one's own.
    pub nonce: String,
    /// SHA-256 of the tuned values: tensors in name order, fp32, little-endian; behind them those that
    /// are kept unchanged.
    pub tuned_sha256: String,
    /// Features the job trains on.
    pub features: String,
    /// Whether this is the best state so far, and by which metric.
    pub best: Option<BestMetric>,
    /// Whether the state of this very step is that best.
    pub is_best: bool,
    /// The files.
    pub files: Vec<FileEntry>,
}

/// The best value of the deciding metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct BestMetric {
    /// The metric's name.
    pub metric: String,
    /// Its value.
    pub value: f64,
    /// Steps applied when it was measured.
    pub step: u64,
}

/// Published by each generation before its first checkpoint: readers ignore manifests of a
/// generation beyond the start step of any later one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationManifest {
    /// Version of this file.
    pub format: u32,
    /// The generation.
    pub generation: Generation,
    /// The step it started from.
    pub start_step: u64,
    /// Random, as in [`CheckpointManifest::nonce`].
    pub nonce: String,
}

/// An end that no checkpoint tells of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", content = "error", rename_all = "snake_case")]
pub enum End {
    /// The job cannot be done.
    Failed(Explained),
    /// Someone cancelled it.
    Cancelled,
}

/// Left in the store when a job fails or is cancelled, so that a coordinator that adopts its jobs from
/// the store does not begin it again. It holds until a later generation begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndMark {
    /// Version of this file.
    pub format: u32,
    /// The generation that was the last one.
    pub generation: Generation,
    /// How the job ended.
    #[serde(flatten)]
    pub end: End,
}

/// Whether a checkpoint of a step and generation counts: no later generation began before that step.
/// If one did, a worker that was cut off wrote it, and the job went on without it. `starts` are the
/// known generations, each with the step it started from.
pub fn counts(step: u64, generation: Generation, starts: &[(Generation, u64)]) -> bool {
    starts.iter().all(|(later, start)| *later <= generation || step <= *start)
}

/// Key of a data object of a job.
pub fn data_key(job: &JobId, sha256: &str) -> String {
    format!("jobs/{job}/data/{sha256}")
}

/// Folder of a job's checkpoint manifests.
pub fn checkpoints_prefix(job: &JobId) -> String {
    format!("jobs/{job}/checkpoints")
}

/// Key of a checkpoint's manifest. Fixed width, so that names sort by step, then generation.
pub fn checkpoint_key(job: &JobId, step: u64, generation: Generation) -> String {
    format!("{}/{step:010}-{:06}.json", checkpoints_prefix(job), generation.0)
}

/// Folder of a job's generation start manifests.
pub fn generations_prefix(job: &JobId) -> String {
    format!("jobs/{job}/generations")
}

/// Key of a generation's start manifest.
pub fn generation_key(job: &JobId, generation: Generation) -> String {
    format!("{}/{:06}.json", generations_prefix(job), generation.0)
}

/// Folder of a job's end marks.
pub fn ends_prefix(job: &JobId) -> String {
    format!("jobs/{job}/ends")
}

/// Key of the mark that a job ended with a generation.
pub fn end_key(job: &JobId, generation: Generation) -> String {
    format!("{}/{:06}.json", ends_prefix(job), generation.0)
}

/// Key of the object that ties an idempotency key to a job.
pub fn idempotency_object(sha256_of_principal_and_key: &str) -> String {
    format!("keys/{sha256_of_principal_and_key}.json")
}
