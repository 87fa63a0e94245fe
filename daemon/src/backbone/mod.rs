//! A backbone's files as they lie on disk, without torch: what is in them, and of which shape. Checked
//! at submit, and again by each worker that loads them.

mod config;
mod deberta;
mod header;
mod pooling;
pub mod tensors;

pub use config::{Architecture, Config};
pub use deberta::Deberta;
pub use header::{Found, Header};
pub use pooling::Pooling;
pub use tensors::{Shapes, shapes};

/// The configuration's file name.
pub const CONFIG: &str = "config.json";
/// The weights' file name.
pub const WEIGHTS: &str = "model.safetensors";
/// The tokenizer's file name.
pub const TOKENIZER: &str = "tokenizer.json";
