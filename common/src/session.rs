//! Messages between the coordinator and a worker, as JSON text over one WebSocket.
//!
//! A worker dials out, says [`FromWorker::Hello`], and is welcomed. Each message of a group carries
//! job and generation; whoever gets one of an older generation ignores it.
//!
//! A worker numbers its reports and keeps each until the coordinator has it in its journal
//! ([`ToWorker::Taken`]). After a lost connection it sends again what was not taken; the coordinator
//! drops what it has already. So a report is neither lost nor taken twice when either side's
//! connection, or the coordinator, dies.

use crate::api::{Checkpoint, LogLevel, MetricsRow};
use crate::error::Explained;
use crate::ids::{Generation, JobId, WorkerId};
use crate::job::JobRecord;
use crate::place::{DevicePhase, Place};
use crate::slurm::Placement;
use crate::storage::StoreAddress;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The version of this protocol. Both sides must speak the same.
pub const PROTOCOL: u32 = 4;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Why a worker of another protocol is refused.
pub fn other_protocol(who: &str, version: &str, protocol: u32) -> Explained {
    Explained::new(format!("{who} is ptv2 {version} and speaks protocol {protocol}"))
        .expected(format!("protocol {PROTOCOL} of ptv2 {}", crate::VERSION))
        .hint("install the same version of ptv2 on all machines")
}

/// All that bits depend on besides the job: one group holds one fingerprint.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
pub struct Fingerprint {
    /// Device model: the processor's vendor and family, or the GPU's name.
    pub device: String,
    /// Instruction-set level that libtorch uses, for example `AVX512`.
    pub instruction_set: String,
    /// libtorch's version.
    pub libtorch: String,
    /// ptv2's version.
    pub ptv2: String,
    /// Numeric settings in effect.
    pub settings: String,
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { device, instruction_set, libtorch, ptv2, settings } = self;
        write!(f, "{device}/{instruction_set}/libtorch-{libtorch}/ptv2-{ptv2}/{settings}")
    }
}

/// What a worker says of itself when it connects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the worker's build.
    pub protocol: u32,
    /// The worker.
    pub worker: WorkerId,
    /// Host name and process id, for people.
    pub host: String,
    /// ptv2's version.
    pub version: String,
    /// What its bits depend on.
    pub fingerprint: Fingerprint,
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// Compute threads.
    pub threads: u32,
    /// Where other workers reach its reduction listener.
    pub reduce_address: SocketAddr,
    /// What it was launched as, where the coordinator started it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch: Option<String>,
    /// Where it stands in Slurm, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm: Option<Placement>,
    /// The GPU that it was given, whether its build computes on it or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visible_device: Option<VisibleDevice>,
    /// What it is, or was last, a member of: a coordinator that starts again takes it up from there.
    pub attached: Option<Attached>,
}

/// A GPU that a process sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VisibleDevice {
    /// Its number for CUDA: the visible ones are counted from 0.
    pub index: u32,
    /// What `CUDA_VISIBLE_DEVICES` calls it: a number on the node, or a UUID.
    pub name: String,
}

/// A worker's membership in a generation, as it sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// The job.
    pub job: JobId,
    /// The generation.
    pub generation: Generation,
    /// How far the worker's part in it is.
    pub stage: Stage,
}

/// The stages of a worker's part in a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Stage {
    /// It loads, meets its peers, or becomes level with them.
    Forming,
    /// It trains.
    Running,
    /// It has left, for good.
    Left,
    /// It is through with the job, and waits to be released.
    Finished {
        /// SHA-256 of the final tuned state.
        tuned_sha256: String,
    },
}

/// A message of a worker on its way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// Number of a report, counted from 1 in the worker's life. What may be lost, hello and heartbeats,
    /// has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    /// The message.
    pub message: FromWorker,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The worker; its rank is its index in [`Start::members`].
    pub worker: WorkerId,
    /// Where its peers reach it.
    pub reduce_address: SocketAddr,
    /// Relative speed, for the first deals of slices; the group measures its own.
    pub weight: f64,
}

/// Starts a generation on one member.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// The job.
    pub job: JobRecord,
    /// The new generation. It supersedes every lower one.
    pub generation: Generation,
    /// This member's rank.
    pub rank: u32,
    /// All members, by rank.
    pub members: Vec<Member>,
    /// The group's random key, hexadecimal, 32 bytes.
    pub group_key: String,
    /// Hash of the staged features.
    pub features: String,
    /// Checkpoint to begin from when no member holds the job's state: a manifest's key.
    pub resume: Option<String>,
    /// Whether a generation of the job that runs finishes its step first, and all its ranks leave
    /// after the same one. Else it is left at once, because it is broken.
    pub finish_step: bool,
    /// The last step that the coordinator has metrics of. Rank 0 reports later ones again, which a
    /// lost rank 0 may have taken with it.
    pub reported_step: u64,
    /// Why this generation does not use NCCL, where it could: NCCL failed in those before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without_nccl: Option<String>,
}

/// What a worker is to load before it is needed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Warm {
    /// The job.
    pub job: JobRecord,
    /// Hash of the staged features.
    pub features: String,
}

/// From the coordinator to a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToWorker {
    /// The worker is registered.
    Welcome {
        /// How often it must send a heartbeat, in milliseconds.
        heartbeat_interval_ms: u64,
        /// Whoever is silent for this long is lost, in milliseconds: a worker for the coordinator, the
        /// coordinator for a worker. Peers allow each other two thirds of it.
        heartbeat_timeout_ms: u64,
        /// The artifact store. Credentials are no part of it: a worker takes its own.
        store: StoreAddress,
    },
    /// The worker is refused; it ends with this message.
    Refused {
        /// Why, and what to do.
        error: Explained,
    },
    /// Reports up to this number are in the journal.
    Taken {
        /// [`Envelope::seq`] of the last one.
        seq: u64,
    },
    /// Load a job's backbone and rows; [`FromWorker::Ready`] answers.
    Warm(Box<Warm>),
    /// Begin a generation, leaving any other first.
    Start(Box<Start>),
    /// Leave the group; keep nothing running for it.
    Stop {
        /// The job.
        job: JobId,
        /// Groups of this generation and below are to be left.
        generation: Generation,
        /// Whether to write a checkpoint first (a parked job), or not (a cancelled one).
        checkpoint: bool,
        /// Whether to finish the step first, as in [`Start::finish_step`].
        finish_step: bool,
    },
    /// All ranks have finished: the worker may forget the job.
    Release {
        /// The job.
        job: JobId,
        /// The generation that finished.
        generation: Generation,
    },
    /// Finish the step, leave, and end the process.
    Drain,
}

/// Why a device thread left a generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LeaveReason {
    /// This rank lacks a frame of that peer.
    PeerLost {
        /// The peer.
        peer: WorkerId,
        /// Whether nothing came from it for too long; else its connection ended, or it sent nonsense.
        silent: bool,
        /// What was seen.
        detail: String,
    },
    /// The ranks' states differ.
    Diverged {
        /// Whether this rank is the one that differs from a majority.
        own: bool,
        /// What was seen.
        detail: String,
    },
    /// What the ranks reduce over failed, although no peer is lost. Another generation may do better.
    TransportFailed {
        /// What it said.
        detail: String,
    },
    /// This rank's device computes nothing more in this process, which ends. No peer is to blame.
    DeviceLost {
        /// What was seen.
        detail: String,
    },
    /// It was told to, or all finished a step and left as planned.
    Stopped,
}

/// From a worker to the coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(
    clippy::large_enum_variant,
    reason = "one a connection, and no other is kept by the thousand"
)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromWorker {
    /// First message.
    Hello(Hello),
    /// Sent at the welcomed interval.
    Heartbeat {
        /// The job and generation it serves, if any.
        serving: Option<(JobId, Generation)>,
        /// Place of the device thread.
        place: Option<Place>,
        /// What the device thread does.
        phase: DevicePhase,
        /// For how long it has not moved, in milliseconds.
        phase_age_ms: u64,
        /// Times a backbone was loaded since the process began.
        backbone_loads: u64,
        /// Cost of slices a second, as measured in the job that it serves or served last.
        speed: Option<f64>,
    },
    /// A job's backbone and rows are loaded, or cannot be.
    Ready {
        /// The job.
        job: JobId,
        /// What kept it.
        outcome: Result<(), Explained>,
    },
    /// The group is complete on this rank and the first slice begins.
    Running {
        /// The job.
        job: JobId,
        /// The generation.
        generation: Generation,
        /// Where it begins.
        place: Place,
    },
    /// The device thread has irrevocably left the generation. It applies no step of it any more.
    Left {
        /// The job.
        job: JobId,
        /// The generation that was left.
        generation: Generation,
        /// How far it is.
        place: Option<Place>,
        /// Why.
        reason: LeaveReason,
    },
    /// What happened since the last report. Only rank 0 sends it.
    Progress {
        /// The job.
        job: JobId,
        /// The generation.
        generation: Generation,
        /// Steps and evaluations.
        metrics: Vec<MetricsRow>,
    },
    /// A checkpoint was published, or could not be.
    CheckpointReport {
        /// The job.
        job: JobId,
        /// The generation.
        generation: Generation,
        /// The checkpoint, or what went wrong; training goes on either way.
        outcome: Result<Checkpoint, Explained>,
        /// How long the store has not taken it, in milliseconds, where something went wrong.
        #[serde(default, skip_serializing_if = "is_zero")]
        waited_ms: u64,
    },
    /// A line for the job's log.
    Log {
        /// The job.
        job: JobId,
        /// How grave it is.
        level: LogLevel,
        /// One line.
        message: String,
    },
    /// This rank is through with the job's last step and evaluation.
    Finished {
        /// The job.
        job: JobId,
        /// The generation.
        generation: Generation,
        /// SHA-256 of the final tuned state.
        tuned_sha256: String,
    },
    /// The job cannot go on, whoever runs it.
    JobFailed {
        /// The job.
        job: JobId,
        /// The generation.
        generation: Generation,
        /// Why.
        error: Explained,
    },
    /// Frozen weights have changed in memory since they were loaded. They are loaded anew.
    Damaged {
        /// Which, and how that was seen.
        error: Explained,
        /// Jobs that this worker computed for since the weights were last seen to be whole.
        jobs: Vec<JobId>,
    },
    /// The worker was asked to end: give it nothing more.
    Draining,
}

impl FromWorker {
    /// Whether it is heard again although it was taken before. That a rank has finished is not in the
    /// journal, and a coordinator that took it may have died since.
    pub fn bears_repeating(&self) -> bool {
        matches!(self, Self::Finished { .. })
    }
}
