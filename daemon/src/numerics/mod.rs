//! Plain loops whose bits depend on nothing but their input: no torch, no vector library, no fused
//! multiply-add, sums in a fixed order.

pub mod adamw;
pub mod batches;
pub mod generator;
pub mod schedule;
pub mod state;
pub mod tree;
