//! Artifact stores as they are in a cloud: servers that the tests start, a proxy that does harm between, and
//! one suite that every store and every wrapper of ours passes.

mod conformance;
#[path = "../../../daemon/src/faults/failing.rs"]
mod failing;
pub(crate) mod proxy;
pub(crate) mod servers;
#[path = "../../../daemon/src/faults/store.rs"]
mod store;
mod suite;
