//! The real binaries, as people and schedulers use them.

mod adapter;
mod backbones;
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
mod hub;
mod inputs;
mod install;
mod limits;
mod methods;
mod one_hash;
pub(crate) mod real_data;
mod recipes;
mod score;
mod seeds;
mod signals;
mod tasks;
mod tls;
mod tokens;
mod wire;
