//! What the coordinator decides: a pure function of (state, now, event). No clock, no I/O, no chance.
//!
//! [`Cluster::apply`] is the whole of it. The driver performs the actions; results of slow ones come
//! back as events.

mod facts;
mod members;
mod reports;
mod schedule;
#[cfg(test)]
pub(crate) mod tests;
mod view;

pub use facts::Fact;

use ptv2_common::api::Checkpoint;
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::job::JobRecord;
use ptv2_common::manifest::BestMetric;
use ptv2_common::session::{DevicePhase, Fingerprint, FromWorker, Hello, Member, Place, ToWorker};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Bounds on waits and sizes. Each is a key of the coordinator's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// A worker that is silent for this long is lost. Shorter notices a dead host sooner, and takes
    /// a busy one for dead more easily.
    #[serde(with = "crate::config::duration")]
    pub heartbeat_timeout: Duration,
    /// A device thread may load a backbone and features for this long.
    #[serde(with = "crate::config::duration")]
    pub loading_timeout: Duration,
    /// A device thread may wait for its peers, and bring laggards level, for this long.
    #[serde(with = "crate::config::duration")]
    pub joining_timeout: Duration,
    /// A device thread may stay at one step or one evaluation slice for this long.
    #[serde(with = "crate::config::duration")]
    pub step_timeout: Duration,
    /// After a rank reports a lost peer, this long is waited for the peer's own sign of death before
    /// the group is formed anew with both.
    #[serde(with = "crate::config::duration")]
    pub blame_grace: Duration,
    /// After this many failures between two workers they are not grouped together.
    pub pair_failures: u32,
    /// A pair that failed too often may meet again after this long.
    #[serde(with = "crate::config::duration")]
    pub pair_cooldown: Duration,
    /// A running group takes in free workers when it has been whole for this long.
    #[serde(with = "crate::config::duration")]
    pub growth_delay: Duration,
    /// Jobs that may wait; a submit beyond is refused.
    pub queue_limit: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            heartbeat_timeout: Duration::from_secs(10),
            loading_timeout: Duration::from_secs(600),
            joining_timeout: Duration::from_secs(120),
            step_timeout: Duration::from_secs(600),
            blame_grace: Duration::from_secs(2),
            pair_failures: 3,
            pair_cooldown: Duration::from_secs(600),
            growth_delay: Duration::from_secs(5),
            queue_limit: 10_000,
        }
    }
}

/// What can happen.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A checked job was accepted.
    Submitted(Box<JobRecord>),
    /// A job's features are in the store.
    Staged {
        /// The job.
        job: JobId,
        /// The features' hash.
        features: String,
        /// Share of the most frequent label of the validation rows.
        majority_class: f64,
    },
    /// A job's rows cannot be staged.
    StagingFailed {
        /// The job.
        job: JobId,
        /// Why.
        error: Explained,
    },
    /// A generation's key was made and its starting checkpoint found.
    Prepared {
        /// The job.
        job: JobId,
        /// The generation.
        generation: Generation,
        /// The group's key, hexadecimal.
        group_key: String,
        /// The manifest key of the checkpoint to begin from.
        resume: Option<String>,
    },
    /// Someone cancels a job.
    Cancel(JobId),
    /// A worker connected and said who it is.
    Joined(Box<Hello>),
    /// A worker's connection ended.
    Gone(WorkerId),
    /// A worker said something.
    Said(WorkerId, Box<FromWorker>),
    /// Someone wants a worker to take no more work and to end.
    Drain(WorkerId),
    /// Time passed.
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write it to the journal before any later action is performed.
    Record(Fact),
    /// Tell people: a line of the job's events.
    Note {
        /// The job.
        job: JobId,
        /// A stable word.
        kind: &'static str,
        /// One line.
        message: String,
    },
    /// Read and tokenize a job's rows; [`Event::Staged`] or [`Event::StagingFailed`] follows.
    Stage(JobId),
    /// Make a group key and find the checkpoint to begin from; [`Event::Prepared`] follows.
    Prepare(JobId, Generation),
    /// Send a message.
    Tell(WorkerId, ToWorker),
    /// Close a worker's connection: it is counted as lost.
    Disconnect(WorkerId),
}

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
}

/// A job and where it is in its life.
#[derive(Debug, Clone, PartialEq)]
struct Job {
    record: JobRecord,
    order: u64,
    submitted_at: Duration,
    phase: Phase,
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
    staged_at: Option<Duration>,
    first_started_at: Option<Duration>,
}

/// A job's life, each state with just what it is valid with.
#[derive(Debug, Clone, PartialEq)]
enum Phase {
    Staging,
    Queued {
        /// Whether a group was lost, so that people are told why it waits again.
        lost: bool,
    },
    Running(Group),
    Succeeded,
    Failed(Explained),
    Cancelled,
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
    phase: DevicePhase,
    place: Option<Place>,
    backbone_loads: u64,
    draining: bool,
    /// The job that it was told to start and has not yet left.
    serving: Option<JobId>,
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
        }
    }

    /// Decides. `now` is the time since the coordinator's start; it never runs backwards.
    pub fn apply(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Submitted(record) => self.submitted(now, *record, &mut actions),
            Event::Staged { job, features, majority_class } => {
                self.staged(now, &job, features, majority_class, &mut actions);
            }
            Event::StagingFailed { job, error } => self.fail(now, &job, error, &mut actions),
            Event::Prepared { job, generation, group_key, resume } => {
                self.prepared(&job, generation, &group_key, resume.as_ref(), &mut actions);
            }
            Event::Cancel(job) => self.cancel(now, &job, &mut actions),
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
        actions.push(Action::Record(Fact::Submitted(Box::new(record.clone()))));
        actions.push(note(&id, "submitted", format!("{} was accepted", record.name)));
        actions.push(Action::Stage(id));
        self.insert(now, record);
    }

    fn insert(&mut self, now: Duration, record: JobRecord) {
        self.submitted += 1;
        let id = record.id.clone();
        self.jobs.insert(id, Job::new(now, self.submitted, record));
    }

    fn staged(
        &mut self,
        now: Duration,
        id: &JobId,
        features: String,
        majority_class: f64,
        actions: &mut Vec<Action>,
    ) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if job.phase != Phase::Staging {
            return;
        }
        let staged_s = now.saturating_sub(job.submitted_at).as_secs_f64();
        let fact = Fact::Staged { job: id.clone(), features, majority_class, staged_s };
        actions.push(note(
            id,
            "staged",
            format!("rows were read and tokenized in {staged_s:.1} s"),
        ));
        self.record(now, fact, actions);
    }

    fn cancel(&mut self, now: Duration, id: &JobId, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get(id) else { return };
        if job.is_final() {
            return;
        }
        self.stop_members(id, false, actions);
        actions.push(note(id, "cancelled", "cancelled by a user".into()));
        self.record(now, Fact::Cancelled { job: id.clone() }, actions);
    }

    fn fail(&mut self, now: Duration, id: &JobId, error: Explained, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get(id) else { return };
        if job.is_final() {
            return;
        }
        self.stop_members(id, false, actions);
        actions.push(note(id, "failed", error.to_string()));
        self.record(now, Fact::Failed { job: id.clone(), error }, actions);
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
            let start = ptv2_common::session::Start {
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

    /// The job of that id.
    pub fn record_of(&self, id: &JobId) -> Option<&JobRecord> {
        self.jobs.get(id).map(|job| &job.record)
    }

    /// Jobs that wait for workers or for their rows.
    pub fn waiting(&self) -> usize {
        self.jobs
            .values()
            .filter(|job| matches!(job.phase, Phase::Staging | Phase::Queued { .. }))
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
            staged_at: None,
            first_started_at: None,
        }
    }

    fn is_final(&self) -> bool {
        match self.phase {
            Phase::Staging | Phase::Queued { .. } | Phase::Running(_) => false,
            Phase::Succeeded | Phase::Failed(_) | Phase::Cancelled => true,
        }
    }

    fn group_mut(&mut self, generation: Generation) -> Option<&mut Group> {
        match &mut self.phase {
            Phase::Running(group) if group.generation == generation => Some(group),
            Phase::Staging
            | Phase::Queued { .. }
            | Phase::Running(_)
            | Phase::Succeeded
            | Phase::Failed(_)
            | Phase::Cancelled => None,
        }
    }
}

fn note(job: &JobId, kind: &'static str, message: String) -> Action {
    Action::Note { job: job.clone(), kind, message }
}
