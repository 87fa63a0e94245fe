//! The coordinator: decides in [`run`] (pure), acts in [`driver`]'s one loop, remembers in
//! [`journal`]. Needs no torch.

pub mod accept;
pub mod adopt;
pub mod audit;
pub mod chores;
pub mod driver;
mod entries;
pub mod fetches;
pub mod gc;
pub mod http;
pub mod idempotency;
pub mod inputs;
pub mod journal;
pub mod launcher;
pub mod leave;
mod listen;
pub mod recover;
pub mod run;
pub mod serve;
pub mod staging;
pub mod tokens;
