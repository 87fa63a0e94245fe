//! ptv2d: the coordinator and the workers. See ARCHITECTURE.md for a reading guide.

pub mod numerics;
