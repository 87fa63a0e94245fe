//! A worker's configuration. It has no file: its few keys are command-line options.

use super::{HubConfig, InputsConfig};
use crate::collective::tcp::Waits;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What a worker is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerConfig {
    /// The coordinator's URL, `http://host:port`.
    pub coordinator: String,
    /// File with the workers' token.
    pub token_file: PathBuf,
    /// Compute threads. Each computes whole slices alone.
    pub threads: u32,
    /// Where peers reach this worker's reduction. Port 0: any free one.
    pub reduce_listen: SocketAddr,
    /// The address that peers are told, where it differs from the one listened on.
    pub reduce_advertise: Option<SocketAddr>,
    /// Where a backbone with an `hf://` path is fetched from, if it is not where the coordinator has it.
    pub hub: HubConfig,
    /// Where inputs that lie in stores are kept, if they are not seen where the coordinator has them.
    pub inputs: InputsConfig,
    /// Bounds on waits for peers.
    pub waits: Waits,
    /// Without a coordinator for this long, the worker writes a checkpoint and ends.
    pub orphan_limit: Duration,
    /// A worker that is asked to end gives up its step after this long.
    pub drain_grace: Duration,
    /// File that tells what the worker is doing, for tests; see
    /// [`PulseRecord`](ptv2_common::place::PulseRecord).
    pub pulse_file: Option<PathBuf>,
    /// Whether to end when standard input does: set by a parent that wants no orphans.
    pub exit_with_parent: bool,
}
