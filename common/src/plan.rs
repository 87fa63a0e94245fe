//! What a job will do and cost, computed before anything runs.

use serde::{Deserialize, Serialize};

/// The answer to `ptv2ctl plan`, and a part of each job's record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Plan {
    /// Rows of the training split that are used.
    pub train_rows: u64,
    /// Rows of the validation split that are used.
    pub val_rows: u64,
    /// Optimizer steps of one pass over the training rows; the last may be a partial batch.
    pub steps_per_epoch: u64,
    /// Optimizer steps of the whole job: of all its runs, where it has several seeds.
    pub total_steps: u64,
    /// Slices of a full global batch: the most workers times threads that can be of use.
    pub slices: u32,
    /// Trained parameters: prefix, head, and the pooler where it is trained.
    pub trainable_parameters: u64,
    /// The part of them that is the prefix, with the network it comes out of, or the prompt.
    pub prefix_parameters: u64,
    /// The part of them that is the pooler.
    #[serde(default)]
    pub pooler_parameters: u64,
    /// Parameters that are kept beside them unchanged: a frozen pooler that is the job's own.
    #[serde(default)]
    pub frozen_parameters: u64,
    /// Bytes of one fp32 gradient.
    pub gradient_bytes: u64,
    /// Bytes of a checkpoint: values, both moments, and what is kept unchanged.
    pub checkpoint_bytes: u64,
    /// Prefix length plus longest sequence.
    pub positions_used: u32,
    /// Rows of the backbone's position table.
    pub positions_available: u32,
}
