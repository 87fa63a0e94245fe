//! Messages between the coordinator and a worker, as JSON text over one WebSocket.
//!
//! A worker dials out, says [`FromWorker::Hello`], and is welcomed. Each message of a group carries
//! job and generation; whoever gets one of an older generation ignores it.

use crate::api::{Checkpoint, LogLevel, MetricsRow};
use crate::error::Explained;
use crate::ids::{Generation, JobId, WorkerId};
use crate::job::JobRecord;
use crate::place::{DevicePhase, Place};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The version of this protocol. Both sides must speak the same.
pub const PROTOCOL: u32 = 1;

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
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// The worker; its rank is its index in [`Start::members`].
    pub worker: WorkerId,
    /// Where its peers reach it.
    pub reduce_address: SocketAddr,
    /// Relative speed, for the deal of slices. 1 for all until measured.
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
}

/// From the coordinator to a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToWorker {
    /// The worker is registered.
    Welcome {
        /// How often it must send a heartbeat, in milliseconds.
        heartbeat_interval_ms: u64,
        /// The artifact store.
        store: String,
    },
    /// The worker is refused; it ends with this message.
    Refused {
        /// Why, and what to do.
        error: Explained,
    },
    /// Begin a generation, leaving any other first.
    Start(Box<Start>),
    /// Leave the group at once; keep nothing running for it.
    Stop {
        /// The job.
        job: JobId,
        /// Groups of this generation and below are to be left.
        generation: Generation,
        /// Whether to write a checkpoint first (a parked job), or not (a cancelled one).
        checkpoint: bool,
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
        /// What was seen.
        detail: String,
    },
    /// It was told to.
    Stopped,
    /// It is draining.
    Draining,
}

/// From a worker to the coordinator.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
        /// Manifest key of the final checkpoint; only rank 0 has it.
        last: Option<String>,
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
    /// The worker was asked to end: give it nothing more.
    Draining,
}
