//! ptv2d: the coordinator and the workers. See ARCHITECTURE.md for a reading guide.

#![cfg_attr(test, expect(clippy::float_cmp, reason = "tests of exact values compare exactly"))]

pub mod backbone;
pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod collective;
pub mod config;
pub mod coordinator;
#[cfg(feature = "torch")]
pub mod cuda;
pub mod device;
#[cfg(feature = "faults")]
mod faults;
pub mod features;
pub mod hub;
pub mod inputs;
pub mod local;
pub mod log;
pub mod numerics;
#[cfg(test)]
mod proptests;
pub mod protocol;
pub mod tasks;
#[cfg(feature = "torch")]
pub mod train;
#[cfg(feature = "torch")]
pub mod worker;

/// libtorch's allocations too, by mimalloc's feature `override`: a step's tensors come and go by the hundred megabytes, which the C
/// library's allocator gives back to the system and fetches anew, page by page.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
