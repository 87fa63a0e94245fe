//! What the coordinator decides: a pure function of (state, now, event). No clock, no I/O, no chance.
//!
//! [`Cluster::apply`] is the whole of it. The driver performs the actions; results of slow ones come
//! back as events. `simulation` drives it through thousands of made-up lives.

mod events;
mod facts;
mod groups;
mod job;
mod launches;
mod limits;
mod load;
mod members;
mod progress;
mod reports;
mod schedule;
mod setbacks;
#[cfg(test)]
mod simulation;
mod strangers;
#[cfg(test)]
pub(crate) mod tests;
mod upkeep;
mod view;

pub use events::{Action, Event};
pub use facts::{Adopted, Fact, Recorded};
pub use launches::explain;
pub use limits::Limits;
pub use load::{Hand, Load, Use};
pub use upkeep::Standing;

use groups::Stopping;
use job::{Group, Job, MemberState, Phase, Waiting};
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::job::JobRecord;
use ptv2_common::manifest::End;
use ptv2_common::place::{DevicePhase, Place};
use ptv2_common::session::Hello;
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
    /// Cost of slices a second, in the job that it serves or served last.
    speed: Option<f64>,
    draining: bool,
    /// How often its state differed from that of most others.
    divergences: u32,
    /// The job whose generation it left last, and how far its state of it is.
    holds: Option<(JobId, Place)>,
    /// What it has loaded, or is loading, for a group that wants it.
    warmth: Warmth,
    /// The job and generation that it was told to start and has not yet left.
    serving: Option<(JobId, Generation)>,
}

/// Whether a worker is ready for a job that runs already: a group does not wait for what it loads.
#[derive(Debug, Clone, PartialEq)]
enum Warmth {
    /// It was not asked.
    Cold,
    /// It was told to load a job's backbone and rows.
    Warming(JobId),
    /// It has.
    Warm(JobId),
    /// It could not.
    Unfit(JobId),
}

/// People are told when more than this share of a split's rows lose tokens.
const MOST: f64 = 0.5;

/// After so many times that its state differed from that of most others, a worker gets no more work.
const DIVERGENCES: u32 = 2;

impl Worker {
    /// Whether its memory, or something else of it, is not to be trusted.
    fn is_suspect(&self) -> bool {
        self.divergences >= DIVERGENCES
    }
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
            Event::Adopted { job, from } => self.adopted(now, job, &from, &mut actions),
            Event::Staged { job, features, majority_class, staged_s, truncated } => {
                let fact = Fact::Staged { job, features, majority_class, staged_s };
                self.staged(now, fact, &truncated, &mut actions);
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

    fn staged(
        &mut self,
        now: Duration,
        fact: Fact,
        truncated: &[(String, f64)],
        actions: &mut Vec<Action>,
    ) {
        let is_staging = |job: &Job| job.phase == Phase::Staging;
        let Fact::Staged { job, staged_s, .. } = &fact else { return };
        if self.jobs.get(job).is_some_and(is_staging) {
            let message = format!("rows were read and tokenized in {staged_s:.1} s");
            actions.push(note(job, "staged", message));
            for (split, share) in truncated.iter().filter(|(_, share)| *share > MOST) {
                let message = format!(
                    "{:.0} % of the {split} rows are longer than data.max_seq_length and lose tokens; \
                     raise it as far as prefix and positions allow",
                    100.0 * share
                );
                self.warn(job, message, actions);
            }
            self.record(now, fact, actions);
        }
    }

    fn cancel(&mut self, now: Duration, id: &JobId, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get(id) else { return };
        if job.is_final() {
            return;
        }
        self.stop_members(id, Stopping::FORGET, actions);
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
        self.stop_members(id, Stopping::FORGET, actions);
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

    /// The job of that id.
    pub fn record_of(&self, id: &JobId) -> Option<&JobRecord> {
        self.jobs.get(id).map(|job| &job.record)
    }

    /// Records of jobs that have not ended.
    pub fn unfinished(&self) -> impl Iterator<Item = &JobRecord> {
        self.jobs.values().filter(|job| !job.is_final()).map(|job| &job.record)
    }

    /// How many jobs there are, ended ones among them.
    pub fn remembered(&self) -> usize {
        self.jobs.len()
    }

    /// Jobs that wait for workers or for their rows.
    pub fn waiting(&self) -> usize {
        self.jobs
            .values()
            .filter(|job| matches!(job.phase, Phase::Staging | Phase::Queued(_)))
            .count()
    }

    /// The generation and the step that a job has come to, for the log.
    pub fn reached(&self, id: &JobId) -> (Option<u64>, Option<u64>) {
        let job = self.jobs.get(id);
        (job.map(|job| job.generation.0), job.map(|job| job.step))
    }

    /// The limits in effect.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

fn note(job: &JobId, kind: &'static str, message: String) -> Action {
    Action::Note { job: job.clone(), kind, message }
}
