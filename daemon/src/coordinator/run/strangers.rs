//! What a worker may say of a job: nothing that would change it, unless it has been a member of one of its
//! groups. A worker's token lets in, and does not make a member.

use super::Cluster;
use super::job::Job;
use ptv2_common::ids::{JobId, WorkerId};
use ptv2_common::session::FromWorker;

impl Cluster {
    /// Whether a worker's message is heard. One that was a member may be late with what it has to say, and
    /// what it says of a former generation is judged by that.
    pub fn may_say(&self, worker: &WorkerId, message: &FromWorker) -> bool {
        match message {
            FromWorker::Running { job, .. }
            | FromWorker::Progress { job, .. }
            | FromWorker::CheckpointReport { job, .. }
            | FromWorker::JobFailed { job, .. } => self.has_served(worker, job),
            // Of the worker itself; or of a group, in which it is looked for; or a line of the log, which
            // bears its name.
            FromWorker::Hello(_)
            | FromWorker::Heartbeat { .. }
            | FromWorker::Ready { .. }
            | FromWorker::Left { .. }
            | FromWorker::Log { .. }
            | FromWorker::Finished { .. }
            | FromWorker::Damaged { .. }
            | FromWorker::Draining => true,
        }
    }

    /// Whether a worker is or was a member of a job's group.
    pub(super) fn has_served(&self, worker: &WorkerId, job: &JobId) -> bool {
        self.jobs.get(job).is_some_and(|job| job.served.contains(worker))
    }
}

impl Job {
    /// Remembers the members of a generation.
    pub(super) fn serve(&mut self, members: &[WorkerId]) {
        self.served.extend(members.iter().cloned());
    }
}
