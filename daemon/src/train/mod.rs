//! The numerical core: one slice in, its gradient out. Read [`step`] first.
//!
//! Letters in shapes: B sequences of a slice, S padded length, P prefix length, L layers, H hidden
//! size, h heads, d = H / h, C outputs of the head. This module knows no HTTP, JSON or async; it is
//! the only one that calls torch.

pub mod attention;
pub mod audit;
pub mod backbones;
pub mod batch;
mod device;
pub mod dropout;
pub(crate) mod exhausted;
mod flat;
mod masks;
pub mod memory;
pub mod pool;
mod pooler;
pub mod prefix;
pub mod relation;
pub mod step;
pub mod stepper;

use ptv2_common::error::Explained;

/// What a tensor operation gives.
pub type Result<T> = std::result::Result<T, TensorError>;

/// A tensor operation failed: out of memory, or a defect.
#[derive(Debug, thiserror::Error)]
#[error("a tensor operation failed: {0}")]
pub struct TensorError(#[from] tch::TchError);

impl From<TensorError> for Explained {
    fn from(error: TensorError) -> Self {
        let text = error.to_string();
        if exhausted::is_out_of_memory(&text) {
            return memory::ran_out(&text, None);
        }
        Self::new(text)
    }
}
