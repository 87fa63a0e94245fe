//! The templates of `configs/slurm` in a real Slurm of two nodes: `make test-slurm`, which brings one up by
//! `scripts/slurm-lab.sh` and takes it down again. Ignored otherwise.
//!
//! Each event that was tried leaves a line in `target/slurm.txt`: what happened, and how long it took.

mod devices;
mod ends;
mod goes_on;
pub(crate) mod lab;
mod launcher;
mod nodes;
mod sweep;
mod whole;
