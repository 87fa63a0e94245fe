//! Checkpoint manifests and the names of objects in the artifact store.
//!
//! A checkpoint exists if and only if its manifest exists. Data objects are named by their SHA-256,
//! so "already there" means verify and reuse; the manifest is put last, create-only.

use crate::error::Explained;
use crate::ids::{Generation, JobId};
use crate::job::JobRecord;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The version of the manifest that this build writes.
pub const FORMAT: u32 = 1;

/// Folder, among a checkpoint's files, of what a job that scores has predicted.
pub const PREDICTIONS_FOLDER: &str = "predictions/";

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
    /// The last evaluation. Absent from what earlier versions wrote.
    #[serde(default)]
    pub last: Option<BestMetric>,
    /// Whether the state of this very step is that best.
    pub is_best: bool,
    /// The run that the state belongs to, counted from 0: a job with several seeds has several.
    #[serde(default)]
    pub run: u32,
    /// Whether that run ended with this state. Absent from what earlier versions wrote.
    #[serde(default)]
    pub ends_run: bool,
    /// The files.
    pub files: Vec<FileEntry>,
}

impl CheckpointManifest {
    /// The seed of the run that the state belongs to.
    pub fn seed(&self) -> Option<u64> {
        self.job.spec.training.run_seeds().get(self.run as usize).copied()
    }

    /// Whether the job was done with this state.
    pub fn ends_job(&self) -> bool {
        let runs = self.job.spec.training.run_seeds().len();
        let is_last = self.run as usize + 1 == runs;
        (self.ends_run && is_last) || self.step >= self.job.plan.total_steps
    }
}

/// Which checkpoint of a job is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The best evaluated state.
    Best,
    /// The newest.
    Last,
    /// The one after this many optimizer steps.
    Step(u64),
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "best" => Ok(Self::Best),
            "last" => Ok(Self::Last),
            step => step
                .parse()
                .map(Self::Step)
                .map_err(|_| format!("`{step}` is neither `best`, `last` nor a step")),
        }
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Best => f.write_str("best"),
            Self::Last => f.write_str("last"),
            Self::Step(step) => write!(f, "{step}"),
        }
    }
}

/// The place of the checkpoint that is meant, among those of a job that count, oldest first; of the run
/// with a seed, where one is given. The best of several runs is the one of the highest value, of equal
/// ones the earlier.
pub fn choose(
    valid: &[(String, CheckpointManifest)],
    which: Which,
    seed: Option<u64>,
) -> Option<usize> {
    let mut asked = valid
        .iter()
        .enumerate()
        .filter(|(_, (_, one))| seed.is_none_or(|seed| one.seed() == Some(seed)));
    let at = |found: (usize, &(String, CheckpointManifest))| found.0;
    match which {
        Which::Last => asked.next_back().map(at),
        Which::Step(step) => asked.rfind(|(_, (_, one))| one.step == step).map(at),
        Which::Best => {
            let mut best: Option<(f64, u32, usize)> = None;
            for (at, (_, one)) in asked.filter(|(_, (_, one))| one.is_best) {
                let value = one.best.as_ref().map_or(f64::NEG_INFINITY, |best| best.value);
                // Within a run each best is better than the one before.
                if best.is_none_or(|(known, run, _)| value > known || run == one.run) {
                    best = Some((value, one.run, at));
                }
            }
            best.map(|(_, _, at)| at)
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_is_a_word_or_a_step() {
        assert_eq!("best".parse(), Ok(Which::Best));
        assert_eq!("120".parse(), Ok(Which::Step(120)));
        assert!("newest".parse::<Which>().is_err());
    }

    /// The library of JSON reads some numbers one bit off, unless its feature `float_roundtrip` is on.
    #[test]
    fn a_number_comes_back_to_the_last_bit() {
        for value in [-1.3157556894320221e218, 0.9452706955539223, 0.38120423768821243, 5e-324] {
            let best = BestMetric { metric: "accuracy".into(), value, step: 1 };
            let written = serde_json::to_string(&best).unwrap();
            let read: BestMetric = serde_json::from_str(&written).unwrap();
            assert_eq!(
                read.value.to_bits(),
                value.to_bits(),
                "{written} is read as {}",
                read.value
            );
        }
    }
}
