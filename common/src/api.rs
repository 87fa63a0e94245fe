//! What the HTTP API says, under `/v1`.
//!
//! | route | answer |
//! |---|---|
//! | `POST /v1/jobs` ([`SubmitRequest`]) | [`JobStatus`], 201; 200 for a repeated idempotency key |
//! | `POST /v1/plan` ([`SubmitRequest`]) | [`crate::plan::Plan`] |
//! | `POST /v1/scores` ([`ScoreRequest`]) | [`JobStatus`], as a submit |
//! | `GET /v1/jobs?state&task&limit` | list of [`JobStatus`], newest first |
//! | `GET /v1/jobs/{job}` | [`JobStatus`]; `{job}` is an id, its beginning, or a unique name |
//! | `GET /v1/jobs/{job}/record` | the accepted job: [`crate::job::JobRecord`] |
//! | `POST /v1/jobs/{job}/cancel`, `POST /v1/jobs/{job}/retry` | [`JobStatus`] |
//! | `GET /v1/jobs/{job}/metrics` | list of [`MetricsRow`] |
//! | `GET /v1/jobs/{job}/events?after=SEQ` | list of [`Event`] |
//! | `GET /v1/jobs/{job}/events/stream` | the same as server-sent events with ids (`Last-Event-ID`) |
//! | `GET /v1/jobs/{job}/logs?after=SEQ` | list of [`LogLine`] |
//! | `GET /v1/jobs/{job}/logs/stream` | the same as server-sent events |
//! | `GET /v1/jobs/{job}/checkpoints` | list of [`Checkpoint`] |
//! | `GET /v1/jobs/{job}/checkpoints/{best,last,STEP}?seed` | [`CheckpointFiles`] |
//! | `GET /v1/jobs/{job}/data/{sha256}` | the bytes of one file, or those that `Range` asks for (206) |
//! | `POST /v1/gc` ([`crate::upkeep::GcRequest`]) | [`crate::upkeep::GcReport`] |
//! | `POST /v1/recover` ([`crate::upkeep::RecoverRequest`]) | [`crate::upkeep::RecoverReport`] |
//! | `GET /v1/workers` | list of [`WorkerStatus`] |
//! | `POST /v1/workers/{worker}/drain` | 202 |
//! | `GET /v1/launcher` | [`crate::launch::LauncherStatus`] |
//! | `GET /v1/session` (WebSocket, worker token) | see [`crate::session`] |
//! | `/v1/tokens`, `/v1/audit` | see [`crate::access`] |
//! | `GET /v1/openapi.json`, `GET /healthz` (no token), `GET /metrics` | |
//!
//! Every error is an `application/problem+json` [`Problem`].

mod history;
mod runs;

pub use history::{EvaluationMetrics, Event, LogLevel, LogLine, MetricsRow, StepMetrics};
pub use runs::{RunStatus, Spread, Summary};

use crate::error::Explained;
use crate::job::Score;
use crate::launch::{LaunchStatus, LaunchTrouble};
use crate::manifest::{BestMetric, CheckpointManifest, FileEntry};
use crate::place::{DevicePhase, Place};
use crate::plan::Plan;
use crate::session::VisibleDevice;
use crate::slurm::Placement;
use crate::storage::StoreSettings;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The header by which each answer says the coordinator's version.
pub const VERSION_HEADER: &str = "ptv2-version";

/// Events, and log lines, of one answer at most: who wants more asks again, after the last.
pub const LONGEST_LIST: u32 = 10_000;

/// The code of an answer to a submit or plan whose backbone is on its way: ask again.
pub const FETCHING: &str = "fetching";

/// An error answer. `code` is stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// Stable word for programs: `refused_spec`, `no_such_job`, `not_permitted`, `conflict`, ….
    pub code: String,
    /// For people.
    #[serde(flatten)]
    pub error: Explained,
}

/// Submits or plans a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitRequest {
    /// The job file's content as JSON. Kept as it came until it is checked.
    #[schema(value_type = crate::spec::JobSpec)]
    pub spec: serde_json::Value,
    /// A repeated submit with the same key returns the first job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// Submits a job that scores a split with values that were trained before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScoreRequest {
    /// Whose values.
    pub source: ScoreSource,
    /// The split: train, val or test.
    pub split: String,
    /// Whether its rows must have labels, so that metrics can be computed.
    pub labels: bool,
    /// Keys of a job file that differ from the source's own, for example `task` and `data.root`.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub spec: serde_json::Value,
    /// A repeated submit with the same key returns the first job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// Where trained values come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ScoreSource {
    /// A checkpoint of a job.
    Job {
        /// The job's id, its beginning, or its name.
        job: String,
        /// `best`, `last` or a step.
        checkpoint: String,
        /// Of the run with this seed, where the job has several.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seed: Option<u64>,
    },
    /// A folder: a PEFT adapter, or a checkpoint that was pulled in native form.
    Adapter(String),
}

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Its rows are read and tokenized.
    Staging,
    /// It waits for workers.
    Queued,
    /// A group trains it.
    Running,
    /// It is done.
    Succeeded,
    /// It cannot be done.
    Failed,
    /// Someone cancelled it.
    Cancelled,
}

impl JobState {
    /// Whether nothing more will happen.
    pub fn is_final(self) -> bool {
        match self {
            Self::Staging | Self::Queued | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// Why a job is not running (or why a running one does not step yet).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    /// Its rows are being read and tokenized.
    Staging,
    /// Fewer free workers of one fingerprint than it asks for.
    TooFewWorkers {
        /// Largest number of free workers of one fingerprint.
        free: u32,
        /// What the job asks for at least.
        needed: u32,
    },
    /// It needs workers that the coordinator starts itself, and which are not there yet.
    AwaitingLaunches {
        /// What the job asks for at least.
        needed: u32,
        /// Workers that are on their way, the oldest first.
        launches: Vec<LaunchStatus>,
        /// What keeps the coordinator from starting some, while something does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        trouble: Option<LaunchTrouble>,
    },
    /// Jobs of higher priority, or older ones, go first.
    BehindOthers {
        /// How many.
        ahead: u32,
    },
    /// A generation is being formed.
    Forming {
        /// Members that are not ready yet.
        waiting_for: u32,
    },
    /// Its group lost too many workers; it resumes from its last checkpoint when enough are free.
    LostWorkers {
        /// What the job asks for at least.
        needed: u32,
    },
    /// A job of higher priority took its workers.
    Preempted {
        /// That job's id.
        by: String,
    },
    /// The artifact store did not answer when a group was to begin.
    StoreUnavailable {
        /// What it said.
        error: Explained,
    },
    /// All its steps are done.
    Succeeded,
    /// It failed.
    Failed {
        /// Why.
        error: Explained,
    },
    /// Someone cancelled it.
    CancelledByUser,
}

/// Seconds that parts of a job took.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Timings {
    /// From submit to the start of the first generation, staging excluded.
    pub queued_s: Option<f64>,
    /// Reading and tokenizing.
    pub staged_s: Option<f64>,
    /// From submit to the end of the first step.
    pub first_step_s: Option<f64>,
    /// From the first generation to the end.
    pub train_s: Option<f64>,
}

/// All that is known of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobStatus {
    /// The job's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Where it is in its life.
    pub state: JobState,
    /// Why it is not running, or not stepping yet.
    pub reason: Option<Reason>,
    /// The same in words.
    pub reason_text: Option<String>,
    /// What would change it, in words; none where nothing more is to come.
    #[serde(default)]
    pub remedy: Option<String>,
    /// Since when the job is in this state, in milliseconds since 1970.
    #[serde(default)]
    pub since_unix_ms: Option<u64>,
    /// The task.
    pub task: String,
    /// What it scores, where it trains nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
    /// Optimizer steps applied.
    pub step: u64,
    /// Optimizer steps of the whole job.
    pub total_steps: u64,
    /// Epochs completed.
    pub epoch: u32,
    /// Size of the group, 0 when there is none.
    pub world: u32,
    /// The current or last generation.
    pub generation: u64,
    /// The fingerprint of the group.
    pub fingerprint: Option<String>,
    /// Best evaluation; with several seeds that of the run in progress, or of the last one.
    pub best: Option<BestMetric>,
    /// Last evaluation.
    pub last: Option<BestMetric>,
    /// Each run, where the job has several seeds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub seeds: Vec<RunStatus>,
    /// Mean and standard deviation over the runs that have ended, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// Share of the most frequent label in the validation rows, for comparison.
    pub majority_class: Option<f64>,
    /// SHA-256 of the final tuned state.
    pub tuned_sha256: Option<String>,
    /// Mean loss of the last step that was reported.
    pub loss: Option<f64>,
    /// Rows a second over the last report.
    pub rows_per_s: Option<f64>,
    /// How long things took.
    pub timings: Timings,
    /// What was computed at submit.
    pub plan: Plan,
    /// Since when the artifact store takes no checkpoints, while it does not: training goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_behind: Option<StorageBehind>,
    /// Warnings, newest last: a checkpoint that could not be written, and so on.
    pub warnings: Vec<String>,
    /// When it was submitted, in milliseconds since 1970.
    pub submitted_unix_ms: u64,
    /// The name of the token that it was submitted with, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitted_by: Option<String>,
}

/// Checkpoints are not written, and are tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StorageBehind {
    /// Since when, in milliseconds since 1970.
    pub since_unix_ms: u64,
    /// What the store said last.
    pub error: Explained,
}

/// A published checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Checkpoint {
    /// Key of its manifest in the artifact store.
    pub key: String,
    /// Optimizer steps applied.
    pub step: u64,
    /// The generation that wrote it.
    pub generation: u64,
    /// Whether the state of this step is the best so far.
    pub is_best: bool,
    /// The deciding metric, where this step was evaluated.
    pub metric: Option<f64>,
    /// The run that the state belongs to, counted from 0.
    #[serde(default)]
    pub run: u32,
    /// Its seed. Absent from what earlier versions wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Whether the run ended with this state.
    #[serde(default)]
    pub ends_run: bool,
    /// Whether the job did.
    #[serde(default)]
    pub ends_job: bool,
    /// Bytes of its files.
    pub bytes: u64,
    /// SHA-256 of the tuned values.
    pub tuned_sha256: String,
}

impl Checkpoint {
    /// A manifest, under its key, as the API shows it.
    pub fn of(key: &str, manifest: &CheckpointManifest) -> Self {
        let best =
            manifest.best.as_ref().filter(|best| manifest.is_best && best.step == manifest.step);
        Self {
            key: key.to_owned(),
            step: manifest.step,
            generation: manifest.generation.0,
            is_best: manifest.is_best,
            metric: best.map(|best| best.value),
            run: manifest.run,
            seed: manifest.seed(),
            ends_run: manifest.ends_run,
            ends_job: manifest.ends_job(),
            bytes: manifest.files.iter().map(|file| file.bytes).sum(),
            tuned_sha256: manifest.tuned_sha256.clone(),
        }
    }
}

/// A checkpoint's files, as `pull` needs them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckpointFiles {
    /// The job.
    pub job: String,
    /// The artifact store's URL, for `pull --direct`.
    pub store: String,
    /// How the store is spoken to. Credentials are no part of it: whoever pulls takes their own.
    #[serde(default)]
    pub storage: StoreSettings,
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Files, of which those under `peft/` make the PEFT adapter and the others the native form.
    #[schema(value_type = Vec<Object>)]
    pub files: Vec<FileEntry>,
}

/// A registered worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WorkerStatus {
    /// The worker's id.
    pub id: String,
    /// Host name and process id.
    pub host: String,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// The GPU that it was given, whether its build computes on it or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visible_device: Option<VisibleDevice>,
    /// Where it stands in Slurm, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm: Option<Placement>,
    /// Compute threads.
    pub threads: u32,
    /// What its bits depend on.
    pub fingerprint: String,
    /// The job it serves.
    pub job: Option<String>,
    /// What its device thread does.
    pub phase: DevicePhase,
    /// How far it is.
    #[schema(value_type = Object)]
    pub place: Option<Place>,
    /// Milliseconds since its last heartbeat.
    pub heartbeat_age_ms: u64,
    /// Whether it takes no more work.
    pub draining: bool,
    /// Times a backbone was loaded since the process began.
    pub backbone_loads: u64,
    /// ptv2's version.
    pub version: String,
    /// What it was launched as, where the coordinator started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submit_is_described_down_to_the_keys_of_the_job() {
        let mut schemas = Vec::new();
        SubmitRequest::schemas(&mut schemas);
        let names: Vec<&str> = schemas.iter().map(|(name, _)| name.as_str()).collect();
        assert!(names.contains(&"JobSpec") && names.contains(&"TrainingSpec"), "{names:?}");
    }
}
