//! The real binaries, as people and schedulers use them.

mod adapter;
mod bad_input;
mod bad_moments;
mod chaos;
mod client;
mod clock;
mod daemon;
mod disks;
mod elastic;
mod half_speed;
pub(crate) mod harness;
mod install;
mod one_hash;
mod real_data;
mod seeds;
mod tasks;
mod wire;
