//! Frozen pretrained encoders, one file an architecture.

pub mod bert;
pub mod weights;

pub use bert::Bert as Backbone;
