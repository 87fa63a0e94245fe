//! A backbone's files as they lie on disk, without torch: what is in them, and of which shape. Checked
//! at submit, and again by each worker that loads them.

mod config;
mod deberta;
mod header;
mod pooling;
pub mod tensors;
mod weights;

pub use config::{Architecture, Config};
pub use deberta::Deberta;
pub use header::{Found, Header};
pub use pooling::Pooling;
pub use tensors::{Shapes, shapes};
pub use weights::{INDEX_BYTES_MAX, WeightFiles, WeightNames};

/// The configuration's file name.
pub const CONFIG: &str = "config.json";
/// The weights' file name.
pub const WEIGHTS: &str = "model.safetensors";
/// The file that says which shard holds which tensor, where weights are in several files.
pub const INDEX: &str = "model.safetensors.index.json";
/// The tokenizer's file name.
pub const TOKENIZER: &str = "tokenizer.json";
