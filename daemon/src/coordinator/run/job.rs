//! A job and its group, each state with just what it is valid with.

use super::setbacks::Setbacks;
use ptv2_common::api::{Checkpoint, RunStatus};
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::job::JobRecord;
use ptv2_common::manifest::BestMetric;
use ptv2_common::session::{Fingerprint, Stage};
use std::collections::BTreeSet;
use std::time::Duration;

/// A job and where it is in its life.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Job {
    pub(super) record: JobRecord,
    pub(super) order: u64,
    pub(super) submitted_at: Duration,
    pub(super) phase: Phase,
    /// When the phase began.
    pub(super) since: Duration,
    /// The last generation that was started.
    pub(super) generation: Generation,
    pub(super) features: Option<String>,
    pub(super) majority_class: Option<f64>,
    pub(super) fingerprint: Option<Fingerprint>,
    pub(super) step: u64,
    pub(super) epoch: u32,
    pub(super) loss: Option<f64>,
    pub(super) rows_per_s: Option<f64>,
    pub(super) best: Option<BestMetric>,
    pub(super) last: Option<BestMetric>,
    /// Members of its groups, former ones among them.
    pub(super) served: BTreeSet<WorkerId>,
    /// By seed, in the order of training.
    pub(super) runs: Vec<RunStatus>,
    pub(super) checkpoint: Option<Checkpoint>,
    /// The last step that metrics came of, in this life of the coordinator.
    pub(super) reported: u64,
    /// Since when checkpoints fail, and what the store says.
    pub(super) storage: Option<(Duration, Explained)>,
    pub(super) tuned_sha256: Option<String>,
    pub(super) warnings: Vec<String>,
    pub(super) timings: ptv2_common::api::Timings,
    /// Failures of devices and of NCCL since it last moved.
    pub(super) setbacks: Setbacks,
    /// Times in a row that the store failed when a group was to begin.
    pub(super) store_failures: u32,
    pub(super) staged_at: Option<Duration>,
    pub(super) first_started_at: Option<Duration>,
}

/// A job's life, each state with just what it is valid with.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Phase {
    Staging,
    Queued(Waiting),
    Running(Group),
    Succeeded,
    Failed(Explained),
    Cancelled,
}

/// Why a job is in the queue.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Waiting {
    /// It has not begun, or someone wants it tried again.
    New,
    /// Its group was lost. Nobody is given it before `until`: members whose connection ended may be alive,
    /// and hold more of it than the store.
    LostGroup { until: Duration },
    /// A job of higher priority took its workers.
    Preempted { by: JobId },
    /// The store did not answer when a group was to begin. It is tried again from this time on.
    NoStore { error: Explained, until: Duration },
}

/// The workers that train a job in one generation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    pub(super) generation: Generation,
    /// By rank.
    pub(super) members: Vec<(WorkerId, MemberState)>,
    /// When the last member began, or the generation started.
    pub(super) changed_at: Duration,
    /// When the first member left by itself.
    pub(super) broken_at: Option<Duration>,
    /// Until when a coordinator that was started again waits for members to say that they are there.
    pub(super) awaited_until: Option<Duration>,
    /// Whether the generation before it finishes its step first.
    pub(super) finish_step: bool,
    /// Members whose connection to a peer ended: they are dead, or have left.
    pub(super) lost: BTreeSet<WorkerId>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum MemberState {
    /// Not heard of since the coordinator was started again.
    Unheard,
    /// Told to start, or about to be.
    Forming,
    /// Computing.
    Running,
    /// Left the generation by itself: a peer is gone for it.
    Left,
    /// Through with the job.
    Finished { tuned_sha256: String },
}

impl Job {
    pub(super) fn new(now: Duration, order: u64, record: JobRecord) -> Self {
        let seeds = record.spec.training.run_seeds();
        Self {
            runs: seeds.into_iter().map(RunStatus::new).collect(),
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
            served: BTreeSet::new(),
            checkpoint: None,
            reported: 0,
            storage: None,
            tuned_sha256: None,
            warnings: Vec::new(),
            timings: ptv2_common::api::Timings::default(),
            setbacks: Setbacks::default(),
            store_failures: 0,
            staged_at: None,
            first_started_at: None,
        }
    }

    pub(super) fn is_final(&self) -> bool {
        match self.phase {
            Phase::Staging | Phase::Queued(_) | Phase::Running(_) => false,
            Phase::Succeeded | Phase::Failed(_) | Phase::Cancelled => true,
        }
    }

    pub(super) fn group(&self) -> Option<&Group> {
        match &self.phase {
            Phase::Running(group) => Some(group),
            Phase::Staging
            | Phase::Queued(_)
            | Phase::Succeeded
            | Phase::Failed(_)
            | Phase::Cancelled => None,
        }
    }

    pub(super) fn group_mut(&mut self, generation: Generation) -> Option<&mut Group> {
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

    /// Its group, whatever the generation.
    pub(super) fn any_group_mut(&mut self) -> Option<&mut Group> {
        self.group_mut(self.generation)
    }

    /// Takes an evaluation down: of the job's own figures, the best is that of the run in progress.
    pub(super) fn evaluated(&mut self, epoch: u32, metric: &BestMetric) {
        self.epoch = epoch;
        self.last = Some(metric.clone());
        let Some(run) = self.runs.get_mut(self.record.run_of(metric.step)) else { return };
        // Of equal ones the earliest stays.
        if run.best.as_ref().is_none_or(|best| metric.value > best.value) {
            run.best = Some(metric.clone());
        }
        run.epoch = epoch;
        run.last = Some(metric.clone());
        self.best.clone_from(&run.best);
    }

    /// Another phase begins.
    pub(super) fn enter(&mut self, now: Duration, phase: Phase) {
        self.phase = phase;
        self.since = now;
    }
}

impl Group {
    pub(super) fn member(&self, worker: &WorkerId) -> Option<&MemberState> {
        self.members.iter().find(|(member, _)| member == worker).map(|(_, state)| state)
    }

    pub(super) fn has(&self, worker: &WorkerId) -> bool {
        self.member(worker).is_some()
    }

    /// A generation that is about to be formed.
    pub(super) fn forming(
        now: Duration,
        generation: Generation,
        members: &[WorkerId],
        finish_step: bool,
    ) -> Self {
        let members = members.iter().map(|id| (id.clone(), MemberState::Forming)).collect();
        Self {
            generation,
            members,
            changed_at: now,
            broken_at: None,
            awaited_until: None,
            finish_step,
            lost: BTreeSet::new(),
        }
    }

    /// Whether every member trains.
    pub(super) fn is_whole(&self) -> bool {
        self.members.iter().all(|(_, state)| *state == MemberState::Running)
    }

    /// Whether members may still say that they are there, after the coordinator was started again.
    pub(super) fn is_awaited(&self, now: Duration) -> bool {
        self.awaited_until.is_some_and(|until| now < until)
            && self.members.iter().any(|(_, state)| *state == MemberState::Unheard)
    }

    /// Whether every member has left, but for those whose end a peer has seen.
    pub(super) fn is_over(&self) -> bool {
        self.members.iter().all(|(id, state)| match state {
            MemberState::Left => true,
            MemberState::Unheard => self.lost.contains(id),
            MemberState::Forming | MemberState::Running | MemberState::Finished { .. } => false,
        })
    }

    /// A coordinator that starts again hears of each member anew. They train on meanwhile.
    pub(super) fn await_members(&mut self, now: Duration, until: Duration) {
        self.members.iter_mut().for_each(|(_, state)| *state = MemberState::Unheard);
        (self.changed_at, self.broken_at) = (now, None);
        self.awaited_until = Some(until);
    }

    /// A member that was heard of is gone again, while others are still awaited.
    pub(super) fn set_unheard(&mut self, worker: &WorkerId) {
        for (_, state) in self.members.iter_mut().filter(|(member, _)| member == worker) {
            *state = MemberState::Unheard;
        }
    }

    /// A member's part in the generation is further, or another than was thought.
    pub(super) fn set(&mut self, now: Duration, worker: &WorkerId, state: MemberState) {
        let member = self.members.iter_mut().find(|(member, _)| member == worker);
        let Some((_, known)) = member else { return };
        if !known.may_become(&state) {
            return;
        }
        if state == MemberState::Left {
            self.broken_at.get_or_insert(now);
        } else {
            self.changed_at = now;
        }
        *known = state;
    }
}

impl MemberState {
    /// A member's life goes one way, in whatever order its reports come.
    fn may_become(&self, next: &Self) -> bool {
        match self {
            Self::Unheard | Self::Forming => *next != Self::Unheard,
            Self::Running => !matches!(next, Self::Forming | Self::Unheard),
            Self::Left | Self::Finished { .. } => false,
        }
    }
}

impl From<Stage> for MemberState {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Forming => Self::Forming,
            Stage::Running => Self::Running,
            Stage::Left => Self::Left,
            Stage::Finished { tuned_sha256 } => Self::Finished { tuned_sha256 },
        }
    }
}
