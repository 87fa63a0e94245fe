//! The types that ptv2's processes exchange and keep in files, and the opening of object stores.
//!
//! Only what is defined here crosses a wire or reaches a disk. Reading order: [`ids`], [`spec`] (a
//! job as its author writes it), [`task`] (a task of one's own), [`plan`] (what it will cost), [`job`] (the same, pinned), [`session`]
//! and [`place`] (coordinator and worker), [`api`], [`launch`] and [`access`] (client and coordinator), [`manifest`]
//! (checkpoints), [`tls`] (who trusts whom), [`hosts`] (which no URL may name), [`slurm`] (where a process stands in Slurm).

pub mod access;
pub mod api;
pub mod error;
pub mod hosts;
pub mod hub;
pub mod ids;
pub mod job;
pub mod launch;
pub mod manifest;
pub mod names;
pub mod place;
pub mod plan;
#[cfg(test)]
mod proptests;
pub mod seal;
pub mod secret;
pub mod session;
pub mod slurm;
pub mod spec;
pub mod storage;
pub mod task;
pub mod text;
pub mod tls;
pub mod upkeep;

/// The version of this build, exchanged by client, coordinator and worker.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
