//! The coordinator: decides in [`run`] (pure), acts in the driver's one loop, remembers in the
//! journal. Needs no torch.

pub mod accept;
pub mod run;
pub mod staging;
