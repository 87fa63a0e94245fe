//! Frozen pretrained encoders. BERT, RoBERTa, MPNet and DeBERTa are one stack of layers; what differs
//! is what they are made of, which the configuration says, so no file here is an architecture's own.

mod convolution;
mod embeddings;
mod encoder;
mod layer;
mod parts;
mod relative;
pub mod weights;

pub use encoder::Backbone;
