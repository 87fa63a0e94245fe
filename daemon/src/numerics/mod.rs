//! Plain loops whose bits depend on nothing but their input: no torch, no fused multiply-add, sums
//! in a fixed order. Only integers are computed by whatever vectors a processor has.

pub mod adamw;
pub mod batches;
pub mod generator;
pub mod layout;
pub mod masks;
pub mod projection;
pub mod runs;
pub mod schedule;
pub mod state;
pub mod tree;
