//! A worker's configuration. It has no file: its few keys are command-line options.

use super::{HubConfig, InputsConfig};
use crate::collective::tcp::Waits;
use crate::device::{Choice, Compute, Gpu};
use crate::protocol::transport::Transport;
use ptv2_common::slurm::Placement;
use ptv2_common::tls::Fingerprint;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What a worker is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerConfig {
    /// The coordinator's URL, `https://host:port`, or `http://host:port` on this machine.
    pub coordinator: String,
    /// File of authorities that may vouch for the coordinator.
    pub ca_file: Option<PathBuf>,
    /// The authority that must vouch for the coordinator, whatever the file says.
    pub ca_fingerprint: Option<Fingerprint>,
    /// Whether the token may go to another machine in the clear.
    pub insecure_http: bool,
    /// File with the workers' token.
    pub token_file: PathBuf,
    /// The device that it was given, and why.
    pub device: Choice,
    /// What computes, after that choice.
    pub compute: Compute,
    /// What is known of the GPU that computes.
    pub gpu: Option<Gpu>,
    /// Where it stands in Slurm, if it does.
    pub slurm: Option<Placement>,
    /// Compute threads. Each computes whole slices alone.
    pub threads: u32,
    /// Where peers reach this worker's reduction. Port 0: any free one. Off: any free port of the
    /// interface by which it reaches the coordinator.
    pub reduce_listen: Option<SocketAddr>,
    /// The address that peers are told, where it differs from the one listened on.
    pub reduce_advertise: Option<SocketAddr>,
    /// What GPUs reduce over.
    pub transport: Transport,
    /// NCCL's library, if not the one that PyTorch has brought, or the system's.
    pub nccl: Option<PathBuf>,
    /// Where a backbone with an `hf://` path is fetched from, if it is not where the coordinator has it.
    pub hub: HubConfig,
    /// Where inputs that lie in stores are kept, if they are not seen where the coordinator has them.
    pub inputs: InputsConfig,
    /// Bounds on waits for peers.
    pub waits: Waits,
    /// Without a coordinator for this long, the worker writes a checkpoint and ends.
    pub orphan_limit: Duration,
    /// A worker that is asked to end gives up its step after this long. What it said last is waited for
    /// a third of it more, a second at most.
    pub drain_grace: Duration,
    /// File that tells what the worker is doing, for tests; see
    /// [`PulseRecord`](ptv2_common::place::PulseRecord).
    pub pulse_file: Option<PathBuf>,
    /// What the coordinator launched it as, if it did.
    pub launch: Option<String>,
    /// Whether to end when standard input does: set by a parent that wants no orphans.
    pub exit_with_parent: bool,
}
