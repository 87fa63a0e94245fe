//! What people see of jobs and workers, each waiting job with its reason.

use super::{Cluster, Job, MemberState, Phase, Waiting, launches};
use crate::clock::millis;
use ptv2_common::api::{JobState, JobStatus, Reason, StorageBehind, Summary, WorkerStatus};
use ptv2_common::ids::{JobId, WorkerId};
use ptv2_common::place::DevicePhase;
use std::time::Duration;

impl Cluster {
    /// A job's status.
    pub fn status(&self, now: Duration, id: &JobId) -> Option<JobStatus> {
        self.jobs.get(id).map(|job| self.status_of(now, job))
    }

    /// All jobs, newest first.
    pub fn statuses(&self, now: Duration) -> Vec<JobStatus> {
        let mut jobs: Vec<&Job> = self.jobs.values().collect();
        jobs.sort_by_key(|job| std::cmp::Reverse(job.order));
        jobs.into_iter().map(|job| self.status_of(now, job)).collect()
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
                visible_device: worker.hello.visible_device.clone(),
                slurm: worker.hello.slurm.clone(),
                threads: worker.hello.threads,
                fingerprint: worker.hello.fingerprint.to_string(),
                job: worker.serving.as_ref().map(|(job, _)| job.to_string()),
                phase: worker.phase.unwrap_or(DevicePhase::Idle),
                place: worker.place,
                heartbeat_age_ms: millis(now.saturating_sub(worker.last_heard)),
                draining: worker.draining,
                backbone_loads: worker.backbone_loads,
                version: worker.hello.version.clone(),
                launch: worker.hello.launch.clone(),
            })
            .collect()
    }

    /// Whether a worker of that id is connected.
    pub fn knows_worker(&self, id: &WorkerId) -> bool {
        self.workers.contains_key(id)
    }

    fn status_of(&self, now: Duration, job: &Job) -> JobStatus {
        let reason = self.reason(now, job);
        let world = job.group().map_or(0, |group| group.members.len());
        let record = &job.record;
        let several = job.runs.len() > 1;
        JobStatus {
            seeds: if several { job.runs.clone() } else { Vec::new() },
            summary: if several { Summary::of(&job.runs) } else { None },
            id: record.id.to_string(),
            name: record.name.clone(),
            state: state(&job.phase),
            reason_text: reason.as_ref().map(|reason| words(reason, job)),
            remedy: reason.as_ref().and_then(|reason| remedy(reason, job)),
            since_unix_ms: Some(millis(job.since)),
            reason,
            task: record.spec.task.clone(),
            score: record.score.clone(),
            step: job.step,
            total_steps: record.plan.total_steps,
            epoch: job.epoch,
            world: u32::try_from(world).unwrap_or(u32::MAX),
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
            storage_behind: job.storage.as_ref().map(|(since, error)| StorageBehind {
                since_unix_ms: millis(*since),
                error: error.clone(),
            }),
            warnings: job.warnings.clone(),
            submitted_unix_ms: record.submitted_unix_ms,
            submitted_by: record.submitted_by.clone(),
        }
    }

    fn reason(&self, now: Duration, job: &Job) -> Option<Reason> {
        match &job.phase {
            Phase::Staging => Some(Reason::Staging),
            Phase::Queued(waiting) => Some(self.why_queued(now, job, waiting)),
            Phase::Running(group) => {
                let forming = |state: &MemberState| match state {
                    MemberState::Unheard | MemberState::Forming | MemberState::Left => true,
                    MemberState::Running | MemberState::Finished { .. } => false,
                };
                let waiting = group.members.iter().filter(|(_, state)| forming(state)).count();
                (waiting > 0).then_some(Reason::Forming { waiting_for: count(waiting) })
            }
            Phase::Succeeded => Some(Reason::Succeeded),
            Phase::Failed(error) => Some(Reason::Failed { error: error.clone() }),
            Phase::Cancelled => Some(Reason::CancelledByUser),
        }
    }

    fn why_queued(&self, now: Duration, job: &Job, waiting: &Waiting) -> Reason {
        match waiting {
            Waiting::NoStore { error, .. } => {
                return Reason::StoreUnavailable { error: error.clone() };
            }
            Waiting::Preempted { by } => return Reason::Preempted { by: by.to_string() },
            Waiting::New | Waiting::LostGroup { .. } => {}
        }
        let queue = self.queue(now);
        let ahead = queue.iter().take_while(|id| **id != job.record.id).count();
        if ahead > 0 {
            return Reason::BehindOthers { ahead: count(ahead) };
        }
        let needed = job.record.spec.resources.workers.min;
        if matches!(waiting, Waiting::LostGroup { .. }) {
            return Reason::LostWorkers { needed };
        }
        let free = self.free_workers().values().map(Vec::len).max().unwrap_or(0);
        Reason::TooFewWorkers { free: count(free), needed }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn state(phase: &Phase) -> JobState {
    match phase {
        Phase::Staging => JobState::Staging,
        Phase::Queued(_) => JobState::Queued,
        Phase::Running(_) => JobState::Running,
        Phase::Succeeded => JobState::Succeeded,
        Phase::Failed(_) => JobState::Failed,
        Phase::Cancelled => JobState::Cancelled,
    }
}

fn words(reason: &Reason, job: &Job) -> String {
    match reason {
        Reason::Staging => "its rows are being read and tokenized".into(),
        Reason::TooFewWorkers { free, needed } => {
            format!("it needs {} of one kind, and {free} are free", workers(*needed))
        }
        Reason::AwaitingLaunches { needed, launches, trouble } => {
            launches::words(*needed, launches, trouble.as_ref())
        }
        Reason::BehindOthers { ahead } => {
            format!("{ahead} waiting before it, of higher priority or greater age")
        }
        Reason::Forming { waiting_for } => {
            format!("{} of its group not ready yet", workers(*waiting_for))
        }
        Reason::LostWorkers { needed } => {
            format!("its group was lost, and it needs {}", workers(*needed))
        }
        Reason::Preempted { by } => {
            format!("{by}, of higher priority, took its workers; its state is in the store")
        }
        Reason::StoreUnavailable { error } => format!("the artifact store fails: {error}"),
        Reason::Succeeded => done(job).into(),
        Reason::Failed { error } => error.to_string(),
        Reason::CancelledByUser => "someone cancelled it".into(),
    }
}

/// What a job has come to that succeeded.
fn done(job: &Job) -> &'static str {
    let record = &job.record;
    if record.score.is_some() {
        "its split is scored"
    } else if job.step < record.plan.total_steps && record.spec.training.early_stopping.is_some() {
        "it ended early: nothing got better for `training.early_stopping` evaluations"
    } else {
        "all its steps are done"
    }
}

/// What would change it.
fn remedy(reason: &Reason, job: &Job) -> Option<String> {
    let name = &job.record.name;
    Some(match reason {
        Reason::Staging => "nothing to do: it is queued when its rows are staged".into(),
        Reason::TooFewWorkers { .. } => {
            "start more workers (`ptv2d worker`), or wait for running jobs to end".into()
        }
        Reason::AwaitingLaunches { launches, trouble, .. } => {
            launches::remedy(launches, trouble.as_ref())
        }
        Reason::BehindOthers { .. } => {
            "more workers; or a higher `resources.priority` at the next submit".into()
        }
        Reason::Forming { .. } => {
            "nothing to do: a worker that does not become ready in time is left out".into()
        }
        Reason::LostWorkers { .. } => {
            "start workers (`ptv2d worker`); it goes on from its last checkpoint".into()
        }
        Reason::Preempted { .. } => {
            "more workers (`ptv2d worker`); or it goes on by itself when the other job has ended"
                .into()
        }
        Reason::StoreUnavailable { .. } => {
            "see that the store is reachable and has room; it is tried again by itself".into()
        }
        Reason::Failed { error } => {
            let hint = error.hint.as_ref().map(|hint| format!("{hint}; "));
            format!("{}then `ptv2ctl retry {name}`", hint.unwrap_or_default())
        }
        Reason::CancelledByUser => format!("`ptv2ctl retry {name}` takes it up again"),
        Reason::Succeeded => return None,
    })
}

fn workers(number: u32) -> String {
    if number == 1 { "1 worker".into() } else { format!("{number} workers") }
}
