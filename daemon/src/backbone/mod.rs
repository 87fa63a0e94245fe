//! A backbone's files as they lie on disk, without torch: what is in them, and of which shape. Checked
//! at submit, and again by each worker that loads them.

mod config;
mod header;
mod tensors;
mod weights;

pub use config::Config;
pub use header::{Found, Header};
pub use tensors::{Shapes, shapes};
pub use weights::{WeightFiles, WeightNames};

/// The configuration's file name.
pub const CONFIG: &str = "config.json";
/// The weights' file name.
pub const WEIGHTS: &str = "model.safetensors";
/// The file that says which shard holds which tensor, where weights are in several files.
pub const INDEX: &str = "model.safetensors.index.json";
/// The tokenizer's file name.
pub const TOKENIZER: &str = "tokenizer.json";
