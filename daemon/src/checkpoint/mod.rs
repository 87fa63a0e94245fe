//! Checkpoints in the artifact store: written by one rank, read by anyone, swept by the writer.
//!
//! A checkpoint exists if and only if its manifest exists. See `ptv2_common::manifest` for names.

pub mod listing;
pub mod peft;
pub mod read;
pub mod retention;
#[cfg(test)]
pub(crate) mod tests;
pub mod write;

/// Name of the whole tuned state in a checkpoint.
pub const STATE_FILE: &str = "state.safetensors";
/// Name of the job's record in a checkpoint.
pub const JOB_FILE: &str = "job.json";
/// Folder of the PEFT adapter in a checkpoint.
pub const PEFT_FOLDER: &str = "peft";
