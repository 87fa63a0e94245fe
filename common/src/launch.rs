//! Workers that the coordinator starts itself, as the API shows them.

use crate::error::Explained;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Variable by which a worker learns what it was launched as, and says so when it connects.
pub const LAUNCH_VARIABLE: &str = "PTV2_LAUNCH";

/// How workers are started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LauncherKind {
    /// Not by the coordinator.
    #[default]
    None,
    /// As processes beside it.
    Local,
    /// As jobs of Slurm.
    Slurm,
}

/// What the launcher does and wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LauncherStatus {
    /// How workers are started.
    pub kind: LauncherKind,
    /// So many are kept, whether there is work or not.
    pub min: u32,
    /// More are never started.
    pub max: u32,
    /// So many workers could the jobs use that wait or run, whoever starts them.
    pub wanted: u32,
    /// What was started and has not ended, oldest first.
    pub launches: Vec<LaunchStatus>,
    /// What keeps it from starting workers, while something does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<LaunchTrouble>,
}

/// One worker that the coordinator started, or asked Slurm for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LaunchStatus {
    /// The launch.
    pub id: String,
    /// Slurm's number of its job, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slurm_job: Option<String>,
    /// How far it is.
    pub stage: LaunchStage,
    /// Since when it is so, in milliseconds since 1970.
    pub since_unix_ms: u64,
}

/// How far a launch is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LaunchStage {
    /// Slurm was asked, and has not answered yet.
    Submitting,
    /// It waits in Slurm's queue.
    Pending {
        /// The job's state, as Slurm says it: `PENDING`, `CONFIGURING`, ….
        state: String,
        /// Why, as Slurm says it: `Resources`, `Priority`, ….
        reason: String,
    },
    /// It runs, and its worker has not connected yet.
    Starting,
    /// Its worker is connected.
    Connected {
        /// The worker.
        worker: String,
    },
    /// It is let go.
    Leaving,
}

/// Launches failed, and are tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LaunchTrouble {
    /// How often in a row.
    pub failures: u32,
    /// What was seen last.
    pub error: Explained,
    /// Not before this time another one is started, in milliseconds since 1970.
    pub again_unix_ms: u64,
}

impl LaunchStatus {
    /// What it is called.
    pub fn name(&self) -> String {
        match &self.slurm_job {
            Some(job) => format!("Slurm job {job}"),
            None => format!("launch {}", self.id),
        }
    }

    /// Whether its worker is still to come.
    pub fn is_coming(&self) -> bool {
        match self.stage {
            LaunchStage::Submitting | LaunchStage::Pending { .. } | LaunchStage::Starting => true,
            LaunchStage::Connected { .. } | LaunchStage::Leaving => false,
        }
    }
}

impl std::fmt::Display for LaunchStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.name())?;
        match &self.stage {
            LaunchStage::Submitting => f.write_str("being submitted"),
            LaunchStage::Pending { state, reason } => write!(f, "{state} ({reason})"),
            LaunchStage::Starting => f.write_str("started, not connected yet"),
            LaunchStage::Connected { worker } => write!(f, "worker {worker}"),
            LaunchStage::Leaving => f.write_str("let go"),
        }
    }
}
