//! A worker's side of the protocol, as pure functions: no clock, no I/O, no torch. The worker performs
//! what is decided here, and the coordinator's simulation drives the very same code.
//!
//! [`slate`] is what it was told and what comes next; [`level`] is how the ranks of a new generation
//! become level; [`vote`] is what a rank says of itself beside each step's gradients, and what all
//! conclude from it; [`speeds`] is how slices are dealt by measured speed; [`transport`] is what the ranks
//! reduce over; [`reports`] is what it has to say, until the coordinator has it.

pub mod level;
pub mod reports;
pub mod slate;
pub mod speeds;
pub mod transport;
pub mod vote;
