//! The configuration of coordinator and worker: each key once, with its default and what it costs.

pub mod duration;
