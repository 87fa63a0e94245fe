//! What people see of jobs and workers, each waiting job with its reason.

use super::{Cluster, Job, MemberState, Phase};
use ptv2_common::api::{JobState, JobStatus, Reason, WorkerStatus};
use ptv2_common::ids::{JobId, WorkerId};
use std::time::Duration;

impl Cluster {
    /// A job's status.
    pub fn status(&self, id: &JobId) -> Option<JobStatus> {
        self.jobs.get(id).map(|job| self.status_of(job))
    }

    /// All jobs, newest first.
    pub fn statuses(&self) -> Vec<JobStatus> {
        let mut jobs: Vec<&Job> = self.jobs.values().collect();
        jobs.sort_by_key(|job| std::cmp::Reverse(job.order));
        jobs.into_iter().map(|job| self.status_of(job)).collect()
    }

    /// Ids of the jobs that an id, an id's beginning, or a name means.
    pub fn matching(&self, text: &str) -> Vec<JobId> {
        if text.is_empty() {
            return Vec::new();
        }
        let exact: Vec<JobId> = self.jobs.keys().filter(|id| id.0 == text).cloned().collect();
        if !exact.is_empty() {
            return exact;
        }
        let mut jobs: Vec<&Job> = self
            .jobs
            .values()
            .filter(|job| job.record.name == text || job.record.id.0.starts_with(text))
            .collect();
        jobs.sort_by_key(|job| job.order);
        jobs.into_iter().map(|job| job.record.id.clone()).collect()
    }

    /// All connected workers, oldest first.
    pub fn workers(&self, now: Duration) -> Vec<WorkerStatus> {
        let mut workers: Vec<_> = self.workers.iter().collect();
        workers.sort_by_key(|(_, worker)| worker.order);
        workers
            .into_iter()
            .map(|(id, worker)| WorkerStatus {
                id: id.to_string(),
                host: worker.hello.host.clone(),
                device: worker.hello.device.clone(),
                threads: worker.hello.threads,
                fingerprint: worker.hello.fingerprint.to_string(),
                job: worker.serving.as_ref().map(ToString::to_string),
                phase: worker.phase,
                place: worker.place,
                heartbeat_age_ms: u64::try_from(now.saturating_sub(worker.last_heard).as_millis())
                    .unwrap_or(u64::MAX),
                draining: worker.draining,
                backbone_loads: worker.backbone_loads,
                version: worker.hello.version.clone(),
            })
            .collect()
    }

    /// Whether a worker of that id is connected.
    pub fn knows_worker(&self, id: &WorkerId) -> bool {
        self.workers.contains_key(id)
    }

    fn status_of(&self, job: &Job) -> JobStatus {
        let reason = self.reason(job);
        let world = match &job.phase {
            Phase::Running(group) => u32::try_from(group.members.len()).unwrap_or(u32::MAX),
            Phase::Staging
            | Phase::Queued { .. }
            | Phase::Succeeded
            | Phase::Failed(_)
            | Phase::Cancelled => 0,
        };
        let record = &job.record;
        JobStatus {
            id: record.id.to_string(),
            name: record.name.clone(),
            state: state(&job.phase),
            reason_text: reason.as_ref().map(words),
            reason,
            task: record.spec.task.clone(),
            step: job.step,
            total_steps: record.plan.total_steps,
            epoch: job.epoch,
            world,
            generation: job.generation.0,
            fingerprint: job.fingerprint.as_ref().map(ToString::to_string),
            best: job.best.clone(),
            last: job.last.clone(),
            majority_class: job.majority_class,
            tuned_sha256: job.tuned_sha256.clone(),
            loss: job.loss,
            rows_per_s: job.rows_per_s,
            timings: job.timings.clone(),
            plan: record.plan.clone(),
            warnings: job.warnings.clone(),
            submitted_unix_ms: record.submitted_unix_ms,
        }
    }

    fn reason(&self, job: &Job) -> Option<Reason> {
        match &job.phase {
            Phase::Staging => Some(Reason::Staging),
            Phase::Queued { lost } => Some(self.why_queued(job, *lost)),
            Phase::Running(group) => {
                let forming = |state: &MemberState| match state {
                    MemberState::Forming | MemberState::Left => true,
                    MemberState::Running | MemberState::Finished { .. } => false,
                };
                let waiting = group.members.iter().filter(|(_, state)| forming(state)).count();
                let waiting_for = u32::try_from(waiting).unwrap_or(u32::MAX);
                (waiting_for > 0).then_some(Reason::Forming { waiting_for })
            }
            Phase::Succeeded => None,
            Phase::Failed(error) => Some(Reason::Failed { error: error.clone() }),
            Phase::Cancelled => Some(Reason::CancelledByUser),
        }
    }

    fn why_queued(&self, job: &Job, lost: bool) -> Reason {
        let queue = self.queue();
        let ahead = queue.iter().take_while(|id| **id != job.record.id).count();
        if ahead > 0 {
            return Reason::BehindOthers { ahead: u32::try_from(ahead).unwrap_or(u32::MAX) };
        }
        let needed = job.record.spec.resources.workers.min;
        if lost {
            return Reason::LostWorkers { needed };
        }
        let free = self.free_workers().values().map(Vec::len).max().unwrap_or(0);
        Reason::TooFewWorkers { free: u32::try_from(free).unwrap_or(u32::MAX), needed }
    }
}

fn state(phase: &Phase) -> JobState {
    match phase {
        Phase::Staging => JobState::Staging,
        Phase::Queued { .. } => JobState::Queued,
        Phase::Running(_) => JobState::Running,
        Phase::Succeeded => JobState::Succeeded,
        Phase::Failed(_) => JobState::Failed,
        Phase::Cancelled => JobState::Cancelled,
    }
}

/// A reason in words, with what would change it.
fn words(reason: &Reason) -> String {
    match reason {
        Reason::Staging => "its rows are being read and tokenized".into(),
        Reason::TooFewWorkers { free, needed } => format!(
            "it needs {needed} free workers of one kind and {free} are free; start more with \
             `ptv2d worker`, or wait for running jobs"
        ),
        Reason::BehindOthers { ahead } => {
            format!("{ahead} jobs of higher priority or greater age go first")
        }
        Reason::Forming { waiting_for } => {
            format!("{waiting_for} workers of its group are not ready yet")
        }
        Reason::LostWorkers { needed } => format!(
            "its group was lost; it resumes from its last checkpoint when {needed} workers are free"
        ),
        Reason::Failed { error } => error.to_string(),
        Reason::CancelledByUser => "someone cancelled it".into(),
    }
}
