//! What the coordinator decides: a pure function of (state, now, event). No clock, no I/O, no chance.
//!
//! [`Cluster::apply`] is the whole of it. The driver performs the actions; results of slow ones come
//! back as events. `simulation` drives it through thousands of made-up lives.

mod events;
mod facts;
mod limits;
mod members;
mod reports;
mod schedule;
#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod tests;
mod view;

pub use events::{Action, Event};
pub use facts::{Adopted, Fact, Recorded};
pub use limits::Limits;

use ptv2_common::api::Checkpoint;
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::job::JobRecord;
use ptv2_common::manifest::{BestMetric, End};
use ptv2_common::place::{DevicePhase, Place};
use ptv2_common::session::{Fingerprint, Hello, Member, Start, ToWorker};
use std::collections::BTreeMap;
use std::time::Duration;

/// All that the coordinator decides upon.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    limits: Limits,
    jobs: BTreeMap<JobId, Job>,
    workers: BTreeMap<WorkerId, Worker>,
    /// How often, and when last, two workers failed to reach each other; the smaller id first.
    failed_pairs: BTreeMap<(WorkerId, WorkerId), (u32, Duration)>,
    /// Jobs so far, for their order of age.
    submitted: u64,
    /// Workers so far, for their order of age.
    joined: u64,
    /// When time was last looked at.
    last_tick: Duration,
}

/// A job and where it is in its life.
#[derive(Debug, Clone, PartialEq)]
struct Job {
    record: JobRecord,
    order: u64,
    submitted_at: Duration,
    phase: Phase,
    /// When the phase began.
    since: Duration,
    /// The last generation that was started.
    generation: Generation,
    features: Option<String>,
    majority_class: Option<f64>,
    fingerprint: Option<Fingerprint>,
    step: u64,
    epoch: u32,
    loss: Option<f64>,
    rows_per_s: Option<f64>,
    best: Option<BestMetric>,
    last: Option<BestMetric>,
    checkpoint: Option<Checkpoint>,
    tuned_sha256: Option<String>,
    warnings: Vec<String>,
    timings: ptv2_common::api::Timings,
    /// Times in a row that the store failed when a group was to begin.
    store_failures: u32,
    staged_at: Option<Duration>,
    first_started_at: Option<Duration>,
}

/// A job's life, each state with just what it is valid with.
#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Staging,
    Queued(Waiting),
    Running(Group),
    Succeeded,
    Failed(Explained),
    Cancelled,
}

/// Why a job is in the queue.
#[derive(Debug, Clone, PartialEq)]
enum Waiting {
    /// It has not begun, or someone wants it tried again.
    New,
    /// Its group was lost.
    LostGroup,
    /// The store did not answer when a group was to begin. It is tried again from this time on.
    NoStore { error: Explained, until: Duration },
}

/// The workers that train a job in one generation.
#[derive(Debug, Clone, PartialEq)]
struct Group {
    generation: Generation,
    /// By rank.
    members: Vec<(WorkerId, MemberState)>,
    /// When the last member began, or left, or the generation started.
    changed_at: Duration,
}

#[derive(Debug, Clone, PartialEq)]
enum MemberState {
    /// Told to start, or about to be.
    Forming,
    /// Computing.
    Running,
    /// Left the generation by itself: a peer is gone for it.
    Left,
    /// Through with the job.
    Finished { tuned_sha256: String },
}

/// A connected worker.
#[derive(Debug, Clone, PartialEq)]
struct Worker {
    hello: Hello,
    order: u64,
    last_heard: Duration,
    /// What its device thread does. Unknown until its first heartbeat, and not given work before.
    phase: Option<DevicePhase>,
    place: Option<Place>,
    backbone_loads: u64,
    draining: bool,
    /// The job and generation that it was told to start and has not yet left.
    serving: Option<(JobId, Generation)>,
}

impl Cluster {
    /// A coordinator that knows nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            jobs: BTreeMap::new(),
            workers: BTreeMap::new(),
            failed_pairs: BTreeMap::new(),
            submitted: 0,
            joined: 0,
            last_tick: Duration::ZERO,
        }
    }

    /// Decides. `now` is the time since 1970 by a clock that never runs backwards, whatever people do
    /// to the wall clock.
    pub fn apply(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Submitted(record) => self.submitted(now, *record, &mut actions),
            Event::Staged { job, features, majority_class, staged_s } => {
                let fact = Fact::Staged { job, features, majority_class, staged_s };
                self.staged(now, fact, &mut actions);
            }
            Event::StagingFailed { job, error } => self.fail(now, &job, error, &mut actions),
            Event::Prepared { job, generation, group_key, resume } => {
                self.prepared(&job, generation, &group_key, resume.as_ref(), &mut actions);
            }
            Event::PrepareFailed { job, generation, error } => {
                self.prepare_failed(now, &job, generation, error, &mut actions);
            }
            Event::Cancel(job) => self.cancel(now, &job, &mut actions),
            Event::Retry(job) => self.retry(now, &job, &mut actions),
            Event::Joined(hello) => self.joined(now, *hello, &mut actions),
            Event::Gone(worker) => self.gone(now, &worker, "its connection ended", &mut actions),
            Event::Said(worker, message) => self.said(now, &worker, *message, &mut actions),
            Event::Drain(worker) => self.drain(now, &worker, &mut actions),
            Event::Tick => self.tick(now, &mut actions),
        }
        self.schedule(now, &mut actions);
        actions
    }

    fn submitted(&mut self, now: Duration, record: JobRecord, actions: &mut Vec<Action>) {
        let id = record.id.clone();
        if self.jobs.contains_key(&id) {
            return;
        }
        actions.push(note(&id, "submitted", format!("{} was accepted", record.name)));
        self.record(now, Fact::Submitted(Box::new(record)), actions);
        actions.push(Action::Stage(id));
    }

    fn staged(&mut self, now: Duration, fact: Fact, actions: &mut Vec<Action>) {
        let is_staging = |job: &Job| job.phase == Phase::Staging;
        let Fact::Staged { job, staged_s, .. } = &fact else { return };
        if self.jobs.get(job).is_some_and(is_staging) {
            let message = format!("rows were read and tokenized in {staged_s:.1} s");
            actions.push(note(job, "staged", message));
            self.record(now, fact, actions);
        }
    }

    fn cancel(&mut self, now: Duration, id: &JobId, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get(id) else { return };
        if job.is_final() {
            return;
        }
        self.stop_members(id, false, actions);
        actions.push(note(id, "cancelled", "cancelled by a user".into()));
        self.record(now, Fact::Cancelled { job: id.clone() }, actions);
        self.mark_end(id, End::Cancelled, actions);
    }

    /// A job that failed or was cancelled waits again, and goes on from its last checkpoint.
    fn retry(&mut self, now: Duration, id: &JobId, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get(id) else { return };
        if !matches!(job.phase, Phase::Failed(_) | Phase::Cancelled) {
            return;
        }
        actions.push(note(id, "retried", "tried again by a user".into()));
        self.record(now, Fact::Retried { job: id.clone() }, actions);
        actions.push(Action::Stage(id.clone()));
    }

    fn fail(&mut self, now: Duration, id: &JobId, error: Explained, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get(id) else { return };
        if job.is_final() {
            return;
        }
        self.stop_members(id, false, actions);
        actions.push(note(id, "failed", error.to_string()));
        let end = End::Failed(error.clone());
        self.record(now, Fact::Failed { job: id.clone(), error }, actions);
        self.mark_end(id, end, actions);
    }

    /// Has the store remember an end that no checkpoint tells of.
    fn mark_end(&self, id: &JobId, end: End, actions: &mut Vec<Action>) {
        if let Some(job) = self.jobs.get(id) {
            actions.push(Action::MarkEnd(id.clone(), job.generation, end));
        }
    }

    /// Journals a fact and lets it take effect, by the same code that replays it.
    fn record(&mut self, now: Duration, fact: Fact, actions: &mut Vec<Action>) {
        self.take(now, &fact);
        actions.push(Action::Record(fact));
    }

    /// Ends a job's generation on all its members.
    fn stop_members(&mut self, id: &JobId, checkpoint: bool, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get(id) else { return };
        let Phase::Running(group) = &job.phase else { return };
        for (worker, _) in &group.members {
            if self.workers.contains_key(worker) {
                let generation = group.generation;
                let stop = ToWorker::Stop { job: id.clone(), generation, checkpoint };
                actions.push(Action::Tell(worker.clone(), stop));
            }
        }
    }

    fn prepared(
        &self,
        id: &JobId,
        generation: Generation,
        group_key: &str,
        resume: Option<&String>,
        actions: &mut Vec<Action>,
    ) {
        let Some(job) = self.jobs.get(id) else { return };
        let (Phase::Running(group), Some(features)) = (&job.phase, &job.features) else { return };
        if group.generation != generation {
            return;
        }
        let members: Vec<Member> = group
            .members
            .iter()
            .filter_map(|(worker, _)| self.workers.get(worker))
            .map(|worker| Member {
                worker: worker.hello.worker.clone(),
                reduce_address: worker.hello.reduce_address,
                weight: f64::from(worker.hello.threads),
            })
            .collect();
        for (rank, member) in (0..).zip(&members) {
            let start = Start {
                job: job.record.clone(),
                generation,
                rank,
                members: members.clone(),
                group_key: group_key.to_owned(),
                features: features.clone(),
                resume: resume.cloned(),
            };
            let message = ToWorker::Start(Box::new(start));
            actions.push(Action::Tell(member.worker.clone(), message));
        }
    }

    /// The store failed while a group was about to begin: the job waits, a while longer each time.
    fn prepare_failed(
        &mut self,
        now: Duration,
        id: &JobId,
        generation: Generation,
        error: Explained,
        actions: &mut Vec<Action>,
    ) {
        if self.current(id) != Some(generation) {
            return;
        }
        self.stop_members(id, true, actions);
        actions.push(note(id, "requeued", format!("the store does not answer: {error}")));
        self.record(now, Fact::Requeued { job: id.clone(), error: Some(error) }, actions);
    }

    /// The job of that id.
    pub fn record_of(&self, id: &JobId) -> Option<&JobRecord> {
        self.jobs.get(id).map(|job| &job.record)
    }

    /// Jobs that wait for workers or for their rows.
    pub fn waiting(&self) -> usize {
        self.jobs
            .values()
            .filter(|job| matches!(job.phase, Phase::Staging | Phase::Queued(_)))
            .count()
    }

    /// The limits in effect.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

impl Job {
    fn new(now: Duration, order: u64, record: JobRecord) -> Self {
        Self {
            record,
            order,
            submitted_at: now,
            phase: Phase::Staging,
            since: now,
            generation: Generation::default(),
            features: None,
            majority_class: None,
            fingerprint: None,
            step: 0,
            epoch: 0,
            loss: None,
            rows_per_s: None,
            best: None,
            last: None,
            checkpoint: None,
            tuned_sha256: None,
            warnings: Vec::new(),
            timings: ptv2_common::api::Timings::default(),
            store_failures: 0,
            staged_at: None,
            first_started_at: None,
        }
    }

    fn is_final(&self) -> bool {
        match self.phase {
            Phase::Staging | Phase::Queued(_) | Phase::Running(_) => false,
            Phase::Succeeded | Phase::Failed(_) | Phase::Cancelled => true,
        }
    }

    fn group(&self) -> Option<&Group> {
        match &self.phase {
            Phase::Running(group) => Some(group),
            Phase::Staging
            | Phase::Queued(_)
            | Phase::Succeeded
            | Phase::Failed(_)
            | Phase::Cancelled => None,
        }
    }

    fn group_mut(&mut self, generation: Generation) -> Option<&mut Group> {
        match &mut self.phase {
            Phase::Running(group) if group.generation == generation => Some(group),
            Phase::Staging
            | Phase::Queued(_)
            | Phase::Running(_)
            | Phase::Succeeded
            | Phase::Failed(_)
            | Phase::Cancelled => None,
        }
    }

    /// Another phase begins.
    fn enter(&mut self, now: Duration, phase: Phase) {
        self.phase = phase;
        self.since = now;
    }
}

impl Group {
    fn member(&self, worker: &WorkerId) -> Option<&MemberState> {
        self.members.iter().find(|(member, _)| member == worker).map(|(_, state)| state)
    }
}

fn note(job: &JobId, kind: &'static str, message: String) -> Action {
    Action::Note { job: job.clone(), kind, message }
}
