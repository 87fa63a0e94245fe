//! Devices and NCCL that fail while all workers are well with the coordinator.

use super::{Action, Cluster, note};
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId, WorkerId};
use std::time::Duration;

/// So many generations in a row try NCCL; the next one reduces over TCP.
const NCCL: u32 = 2;
/// So many generations in a row may lose a device before it is the job's fault.
const DEVICES: u32 = 3;

/// Failures in a row, without a step between them. They are forgotten when the job is tried again, and not in the
/// journal: a coordinator that starts again counts anew.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Setbacks {
    nccl: Count,
    devices: Count,
}

/// Generations that failed in one way.
#[derive(Debug, Clone, Default, PartialEq)]
struct Count {
    generations: u32,
    last: Generation,
    why: String,
}

impl Count {
    /// Ranks of one generation fail together, and count once.
    fn add(&mut self, generation: Generation, why: &str) {
        if self.last < generation {
            self.generations += 1;
            self.last = generation;
            why.clone_into(&mut self.why);
        }
    }
}

impl Setbacks {
    /// The job has made a step. Where that took TCP, it stays with it: each group that connects in vain costs time.
    pub(super) fn moved(&mut self) {
        self.devices = Count::default();
        if self.nccl.generations < NCCL {
            self.nccl = Count::default();
        }
    }

    /// Why the next generation is not to use NCCL, if it is not.
    pub(super) fn without_nccl(&self) -> Option<String> {
        let Count { generations, why, .. } = &self.nccl;
        (*generations >= NCCL)
            .then(|| format!("NCCL failed in {generations} generations in a row, last with: {why}"))
    }
}

impl Cluster {
    /// A rank left because NCCL failed. The next generation connects anew, or over TCP.
    pub(super) fn transport_failed(
        &mut self,
        id: &WorkerId,
        (job, generation): (&JobId, Generation),
        detail: &str,
        actions: &mut Vec<Action>,
    ) {
        actions.push(note(job, "transport_failed", format!("worker {id}: {detail}")));
        self.warn(job, format!("on worker {id} the reduction failed: {detail}"), actions);
        if let Some(job) = self.jobs.get_mut(job) {
            job.setbacks.nccl.add(generation, detail);
        }
    }

    /// A worker's device is lost to its process, which ends. The others go on, unless the job takes one device after the
    /// other along.
    pub(super) fn device_lost(
        &mut self,
        now: Duration,
        id: &WorkerId,
        (job_id, generation): (&JobId, Generation),
        detail: &str,
        actions: &mut Vec<Action>,
    ) {
        let host = match self.workers.get_mut(id) {
            Some(worker) => {
                worker.draining = true;
                worker.hello.host.clone()
            }
            None => String::new(),
        };
        actions.push(note(job_id, "device_lost", format!("worker {id} on {host}: {detail}")));
        self.warn(job_id, format!("worker {id} ({host}) lost its device: {detail}"), actions);
        let Some(job) = self.jobs.get_mut(job_id) else { return };
        let devices = &mut job.setbacks.devices;
        devices.add(generation, detail);
        if devices.generations < DEVICES {
            return;
        }
        let times = devices.generations;
        let error = Explained::new(format!("{times} generations in a row lost a device: {detail}"))
            .at(format!("worker {id} on {host}"))
            .hint("look at `nvidia-smi` and the kernel's log there (dmesg, Xid); `ptv2ctl retry` trains on");
        self.fail(now, job_id, error, actions);
    }
}
