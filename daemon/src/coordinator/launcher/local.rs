//! Workers as processes beside the coordinator, which end with it.

use super::scale::{At, Seen};
use super::{CA_FINGERPRINT, Told, new_id};
use crate::local::{self, WorkerProcess};
use ptv2_common::error::Explained;
use ptv2_common::launch::LAUNCH_VARIABLE;
use std::collections::BTreeMap;
use std::ffi::OsString;
use tokio::process::{Child, ChildStdin};
use tokio::task::JoinSet;

/// Workers as processes.
pub(super) struct Local {
    process: WorkerProcess,
    ca_fingerprint: Option<String>,
    running: BTreeMap<String, Running>,
}

struct Running {
    child: Child,
    /// The worker ends when this does, however this process ends.
    stdin: Option<ChildStdin>,
}

impl Local {
    pub(super) fn new(told: Told, hub: Vec<OsString>) -> Self {
        let Told { program, coordinator, token_file, threads, ca_fingerprint } = told;
        let ca_file = None;
        let device = Vec::new();
        let process =
            WorkerProcess { program, coordinator, ca_file, token_file, threads, device, hub };
        Self { process, ca_fingerprint, running: BTreeMap::new() }
    }

    pub(super) fn look(&mut self) -> Vec<Seen> {
        let mut all = Vec::new();
        self.running.retain(|id, running| {
            let ended = match running.child.try_wait() {
                Ok(None) => None,
                Ok(Some(status)) => Some((status.success(), status.to_string())),
                Err(error) => Some((false, format!("it cannot be waited for: {error}"))),
            };
            let is_running = ended.is_none();
            let at = ended.map_or(At::Running, |(well, status)| At::Ended {
                well,
                how: Explained::new(format!("a worker's process ended: {status}"))
                    .hint("its reason stands in the coordinator's log"),
            });
            all.push(Seen { id: id.clone(), slurm_job: None, at });
            is_running
        });
        all
    }

    pub(super) fn start(&mut self) -> Result<(), Explained> {
        let id = new_id()?;
        let fingerprint = self.ca_fingerprint.as_ref().map(|value| (CA_FINGERPRINT, value));
        let mut child =
            self.process.command().env(LAUNCH_VARIABLE, &id).envs(fingerprint).spawn().map_err(
                |error| {
                    Explained::new(format!("no worker can be started: {error}")).at(self
                        .process
                        .program
                        .display()
                        .to_string())
                },
            )?;
        tracing::info!(launch = id, pid = child.id(), "a worker is started");
        let stdin = child.stdin.take();
        self.running.insert(id, Running { child, stdin });
        Ok(())
    }

    /// Asks a process to end; at the second time it is killed.
    pub(super) fn end(&mut self, launch: &str) {
        let Some(running) = self.running.get_mut(launch) else { return };
        if running.stdin.take().is_none() {
            // It has ended meanwhile, then.
            drop(running.child.start_kill());
        }
    }

    /// All end, side by side.
    pub(super) async fn stop(&mut self) {
        let mut ends = JoinSet::new();
        for (_, Running { child, stdin }) in std::mem::take(&mut self.running) {
            drop(stdin);
            ends.spawn(local::end(child));
        }
        while ends.join_next().await.is_some() {}
    }
}
