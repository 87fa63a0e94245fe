//! The real binaries, as people and schedulers use them.

mod adapter;
mod bad_input;
mod bad_moments;
mod client;
mod clock;
mod daemon;
mod disks;
pub(crate) mod harness;
mod install;
mod one_hash;
mod real_data;
mod wire;
