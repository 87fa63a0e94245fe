//! Frozen pretrained encoders, one file an architecture.

pub mod bert;
pub mod weights;
