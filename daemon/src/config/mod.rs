//! The configuration of coordinator and worker: each key once, with its default and what it costs.

mod coordinator;
pub mod duration;
mod http;
mod hub;
mod inputs;
mod launcher;
mod layers;
mod storage;
pub(crate) mod tls;
mod worker;

pub use coordinator::CoordinatorConfig;
pub use http::HttpConfig;
pub use hub::{BYTES_MAX, HubConfig};
pub use inputs::{INPUTS_BYTES_MAX, InputsConfig};
pub use launcher::LauncherConfig;
pub use layers::{Layers, Origin};
pub use storage::StorageConfig;
pub use tls::TlsConfig;
pub use worker::WorkerConfig;

/// Where a coordinator listens, and a client looks, unless told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:7341";

/// The state folder unless told otherwise, in the current folder.
pub const DEFAULT_STATE: &str = ".ptv2";
