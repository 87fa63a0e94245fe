//! Workers as processes beside the coordinator, which end with it.

use super::scale::{At, Seen};
use super::{CA_FINGERPRINT, Told, new_id};
use crate::device::{self, Compute};
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
    /// What workers are dealt.
    devices: Vec<Compute>,
    running: BTreeMap<String, Running>,
}

struct Running {
    child: Child,
    device: Compute,
    /// The worker ends when this does, however this process ends.
    stdin: Option<ChildStdin>,
}

impl Local {
    pub(super) fn new(told: Told, hub: Vec<OsString>) -> Result<Self, Explained> {
        let Told { program, coordinator, token_file, threads, ca_fingerprint } = told;
        let ca_file = None;
        let device = Vec::new();
        let process =
            WorkerProcess { program, coordinator, ca_file, token_file, threads, device, hub };
        let devices = device::of_this_machine()?;
        Ok(Self { process, ca_fingerprint, devices, running: BTreeMap::new() })
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
        let taken: Vec<Compute> = self.running.values().map(|running| running.device).collect();
        let device = least_taken(&self.devices, &taken);
        let mut command = self.process.command();
        // Without a GPU it looks for itself, and says what it misses.
        if device != Compute::Cpu {
            command.args(["--device", &device.to_string()]);
        }
        command.env(LAUNCH_VARIABLE, &id).envs(fingerprint);
        let mut child = command.spawn().map_err(|error| {
            let program = self.process.program.display().to_string();
            Explained::new(format!("no worker can be started: {error}")).at(program)
        })?;
        tracing::info!(launch = id, pid = child.id(), %device, "a worker is started");
        let stdin = child.stdin.take();
        self.running.insert(id, Running { child, device, stdin });
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
        for (_, Running { child, stdin, .. }) in std::mem::take(&mut self.running) {
            drop(stdin);
            ends.spawn(local::end(child));
        }
        while ends.join_next().await.is_some() {}
    }
}

/// The first of the devices that the fewest workers have.
fn least_taken(devices: &[Compute], taken: &[Compute]) -> Compute {
    let workers_of = |device: &&Compute| taken.iter().filter(|other| other == device).count();
    devices.iter().min_by_key(workers_of).copied().unwrap_or(Compute::Cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_gets_the_gpu_that_the_fewest_have() {
        let [first, second, third] = [0, 1, 2].map(Compute::Cuda);
        let devices = [first, second, third];
        assert_eq!(least_taken(&devices, &[]), first);
        assert_eq!(least_taken(&devices, &[first, second]), third);
        assert_eq!(least_taken(&devices, &[first, third]), second, "its worker has ended");
        assert_eq!(least_taken(&devices, &[first, second, third, first]), second);
        assert_eq!(least_taken(&[Compute::Cpu], &[Compute::Cpu]), Compute::Cpu);
    }
}
