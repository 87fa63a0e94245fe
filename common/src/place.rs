//! How far a rank is, and what its device thread is doing.

use serde::{Deserialize, Serialize};

/// How far a rank is in a job. Ordered: whoever is greater is ahead.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
pub struct Place {
    /// Optimizer steps applied.
    pub step: u64,
    /// What is done at this step.
    pub phase: PlacePhase,
    /// Evaluation slices done, while evaluating.
    pub evaluation_slice: u32,
}

/// The phases of one step, in order.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum PlacePhase {
    /// The step was applied; the next was not begun.
    #[default]
    Applied,
    /// Evaluating the state after this step.
    Evaluating,
    /// The evaluation after this step is complete.
    Evaluated,
}

/// What a device thread is doing. Each phase has its own bound in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DevicePhase {
    /// Waiting for work.
    Idle,
    /// Loading the backbone or features.
    Loading,
    /// Meeting the other ranks and bringing laggards level.
    Joining,
    /// Computing slices, reducing and updating.
    Stepping,
    /// Evaluating.
    Evaluating,
    /// Writing the final files.
    Finishing,
}
