//! `ptv2d local`: a coordinator in this process and workers as children of it.

use crate::config::CoordinatorConfig;
use crate::coordinator::serve::Coordinator;
use crate::device::Compute;
use ptv2_common::error::Explained;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A worker that ended is started again after this long.
const RESTART: Duration = Duration::from_secs(1);
/// A worker may take this long to end when asked.
const ENDING: Duration = Duration::from_secs(10);

/// How many workers there are, and what each computes with.
#[derive(Debug, Clone)]
pub struct Workers {
    /// The device of each.
    pub devices: Vec<Compute>,
    /// Threads of each.
    pub threads: u32,
    /// Where torch's libraries for GPUs lie, if that was said.
    pub libtorch_cuda: Option<PathBuf>,
}

/// Runs a coordinator and workers until `shutdown`.
///
/// # Errors
/// Those of the coordinator; for a certificate that its workers could not verify; and when this program cannot be
/// started again as a worker.
pub async fn run(
    config: &CoordinatorConfig,
    workers: &Workers,
    shutdown: &CancellationToken,
) -> Result<(), Explained> {
    if !workers.devices.is_empty() && config.tls.certificate.is_some() {
        return Err(Explained::new(
            "the workers of `ptv2d local` cannot know this certificate's names",
        )
        .at("tls.certificate")
        .expected("TLS by the coordinator's own authority (`tls.own_ca`, --tls)")
        .hint(
            "or start `ptv2d coordinator`, and workers that are told its name by --coordinator",
        ));
    }
    let coordinator = Coordinator::open(config, shutdown).await?;
    let program = std::env::current_exe()
        .map_err(|error| Explained::new(format!("this program's path is unknown: {error}")))?;
    let worker = WorkerProcess {
        program,
        coordinator: coordinator.url(),
        ca_file: config.tls.own_ca.then(|| config.state.join(ptv2_common::tls::CA_FILE)),
        token_file: config.state.join("worker-token"),
        threads: workers.threads,
        device: Vec::new(),
        hub: config.hub.options(),
    };
    let mut keepers = JoinSet::new();
    for device in &workers.devices {
        let device = workers.options(*device);
        keepers.spawn(keep(WorkerProcess { device, ..worker.clone() }, shutdown.clone()));
    }
    let result = coordinator.run().await;
    shutdown.cancel();
    while keepers.join_next().await.is_some() {}
    result
}

impl Workers {
    /// How a worker is told its device.
    fn options(&self, device: Compute) -> Vec<OsString> {
        let mut options = vec!["--device".into(), device.to_string().into()];
        if let Some(libtorch_cuda) = &self.libtorch_cuda {
            options.extend(["--libtorch-cuda".into(), libtorch_cuda.into()]);
        }
        options
    }
}

/// How a worker is started as a child of this process.
#[derive(Clone)]
pub(crate) struct WorkerProcess {
    pub(crate) program: PathBuf,
    pub(crate) coordinator: String,
    /// The coordinator's own authority.
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) token_file: PathBuf,
    pub(crate) threads: u32,
    /// Options that say what computes; none: what it finds.
    pub(crate) device: Vec<OsString>,
    /// Where backbones are fetched from.
    pub(crate) hub: Vec<OsString>,
}

impl WorkerProcess {
    /// The command that starts one.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(Path::new(&self.program));
        command
            .args(["worker", "--exit-with-parent", "--coordinator", &self.coordinator])
            .arg("--token-file")
            .arg(&self.token_file)
            .args(["--threads", &self.threads.to_string()])
            // Of this coordinator, whatever other one the environment means.
            .env_remove("PTV2_CA_FINGERPRINT")
            .args(self.ca_file.iter().flat_map(|file| ["--ca-file".as_ref(), file.as_os_str()]))
            .args(&self.device)
            .args(&self.hub)
            // The worker ends when this pipe does, however this process ends.
            .stdin(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

/// Keeps one worker alive until `shutdown`.
async fn keep(worker: WorkerProcess, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        let mut child = match worker.command().spawn() {
            Ok(child) => child,
            Err(error) => {
                tracing::error!(%error, "a worker cannot be started");
                shutdown.cancel();
                return;
            }
        };
        // Taken out, since waiting for a child closes its standard input.
        let stdin = child.stdin.take();
        tokio::select! {
            status = child.wait() => match status {
                Ok(status) if status.success() => {
                    return tracing::info!("a drained worker ended");
                }
                Ok(status) => tracing::warn!(%status, "a worker ended and is started again"),
                Err(error) => tracing::error!(%error, "a worker cannot be waited for"),
            },
            () = shutdown.cancelled() => {
                drop(stdin);
                return end(child).await;
            }
        }
        tokio::select! {
            () = tokio::time::sleep(RESTART) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// Waits for a worker whose standard input was closed to end; kills it when it does not.
pub(crate) async fn end(mut child: Child) {
    if tokio::time::timeout(ENDING, child.wait()).await.is_err() {
        tracing::warn!("a worker did not end in time and is killed");
        drop(child.kill().await);
    }
}
