//! What workers report, and what follows from it.

use super::{Action, Cluster, Fact, MemberState, note};
use crate::clock::millis;
use ptv2_common::api::{Checkpoint, LogLevel, MetricsRow};
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::manifest::BestMetric;
use ptv2_common::place::DevicePhase;
use ptv2_common::session::{FromWorker, LeaveReason, ToWorker};
use std::time::Duration;

/// Warnings that a job keeps: the newest are the ones that matter.
const WARNINGS: usize = 20;

impl Cluster {
    pub(super) fn said(
        &mut self,
        now: Duration,
        id: &WorkerId,
        message: FromWorker,
        actions: &mut Vec<Action>,
    ) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.last_heard = now;
        match message {
            FromWorker::Hello(_) => {}
            FromWorker::Log { job, level, message } => match level {
                LogLevel::Info => {}
                LogLevel::Warn | LogLevel::Error => self.warn(&job, message, actions),
            },
            FromWorker::Heartbeat { serving, place, phase, phase_age_ms, backbone_loads } => {
                worker.place = place;
                worker.phase = Some(phase);
                worker.backbone_loads = backbone_loads;
                self.recall(id, serving, actions);
                if phase_age_ms > millis(self.bound_of(phase)) {
                    let why = format!("its device has been {phase:?} for {phase_age_ms} ms");
                    actions.push(Action::Disconnect(id.clone()));
                    self.gone(now, id, &why, actions);
                }
            }
            FromWorker::Running { job, generation, .. } => {
                self.set_member(now, &job, generation, id, MemberState::Running);
            }
            FromWorker::Left { job, generation, reason, .. } => {
                self.left(now, id, &job, (generation, reason), actions);
            }
            FromWorker::Progress { job, generation, metrics } => {
                self.progressed(now, &job, generation, metrics, actions);
            }
            FromWorker::CheckpointReport { job, generation, outcome } => {
                self.checkpointed(now, &job, generation, outcome, actions);
            }
            FromWorker::Finished { job, generation, tuned_sha256, .. } => {
                let state = MemberState::Finished { tuned_sha256 };
                self.set_member(now, &job, generation, id, state);
                self.finish_if_all(now, &job, generation, actions);
            }
            FromWorker::JobFailed { job, generation, error } => {
                if self.current(&job) == Some(generation) {
                    self.fail(now, &job, error, actions);
                }
            }
            FromWorker::Draining => self.drain(now, id, actions),
        }
    }

    fn bound_of(&self, phase: DevicePhase) -> Duration {
        match phase {
            DevicePhase::Idle => Duration::MAX,
            DevicePhase::Loading => self.limits.loading_timeout,
            DevicePhase::Joining => self.limits.joining_timeout,
            DevicePhase::Stepping | DevicePhase::Evaluating | DevicePhase::Finishing => {
                self.limits.step_timeout
            }
        }
    }

    /// The generation that trains a job now.
    pub(super) fn current(&self, id: &JobId) -> Option<Generation> {
        self.jobs.get(id)?.group().map(|group| group.generation)
    }

    /// A worker that trains what nobody wants of it any more is told to leave: a coordinator that
    /// died between a decision and its messages never told it.
    fn recall(
        &self,
        id: &WorkerId,
        serving: Option<(JobId, Generation)>,
        actions: &mut Vec<Action>,
    ) {
        let Some((job, generation)) = serving else { return };
        if self.workers.get(id).is_none_or(|worker| worker.serving.is_some()) {
            return; // What it was told last is on its way.
        }
        let known = self.jobs.get(&job);
        let is_wanted = known.is_some_and(|job| match job.group() {
            Some(group) => group.member(id).is_some(),
            None => !job.is_final(),
        });
        if !is_wanted {
            let stop = ToWorker::Stop { job, generation, checkpoint: false };
            actions.push(Action::Tell(id.clone(), stop));
        }
    }

    /// People are told of what went wrong while the job goes on.
    fn warn(&mut self, id: &JobId, message: String, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        actions.push(note(id, "warning", message.clone()));
        if job.warnings.len() >= WARNINGS {
            job.warnings.remove(0);
        }
        job.warnings.push(message);
    }

    fn set_member(
        &mut self,
        now: Duration,
        job: &JobId,
        generation: Generation,
        worker: &WorkerId,
        state: MemberState,
    ) {
        let group = self.jobs.get_mut(job).and_then(|job| job.group_mut(generation));
        let Some(group) = group else { return };
        let member = group.members.iter_mut().find(|(member, _)| member == worker);
        if let Some((_, known)) = member
            && known.may_become(&state)
        {
            *known = state;
            group.changed_at = now;
        }
    }

    fn left(
        &mut self,
        now: Duration,
        id: &WorkerId,
        job: &JobId,
        (generation, reason): (Generation, LeaveReason),
        actions: &mut Vec<Action>,
    ) {
        let group = self.jobs.get(job).and_then(|job| job.group());
        let member_state = |id: &WorkerId| group.and_then(|group| group.member(id));
        if member_state(id).is_none() {
            // The job has ended or goes on without this worker, which is now free.
            if let Some(worker) = self.workers.get_mut(id)
                && worker.serving.as_ref().is_some_and(|(of, at)| of == job && *at <= generation)
            {
                worker.serving = None;
            }
            return;
        }
        if group.is_some_and(|group| group.generation != generation) {
            return; // It left an older generation on its way into the current one.
        }
        if let LeaveReason::PeerLost { peer, detail } = &reason {
            let message = format!("worker {id} lost worker {peer}: {detail}");
            actions.push(note(job, "peer_lost", message));
            // The other side of the same failure does not count again.
            if member_state(peer) != Some(&MemberState::Left) {
                let pair = if id < peer { (id, peer) } else { (peer, id) };
                let pair = (pair.0.clone(), pair.1.clone());
                let failures = self.failed_pairs.entry(pair).or_insert((0, now));
                *failures = (failures.0 + 1, now);
            }
        }
        self.set_member(now, job, generation, id, MemberState::Left);
    }

    fn progressed(
        &mut self,
        now: Duration,
        id: &JobId,
        generation: Generation,
        metrics: Vec<MetricsRow>,
        actions: &mut Vec<Action>,
    ) {
        if self.current(id) != Some(generation) {
            return;
        }
        for row in metrics {
            let Some(job) = self.jobs.get_mut(id) else { return };
            match row {
                MetricsRow::Step(step) => {
                    job.step = job.step.max(step.step);
                    job.epoch = step.epoch;
                    job.loss = Some(step.loss);
                    job.rows_per_s = Some(step.rows_per_s);
                    if job.timings.first_step_s.is_none() {
                        let first_step_s = now.saturating_sub(job.submitted_at).as_secs_f64();
                        self.record(
                            now,
                            Fact::FirstStep { job: id.clone(), first_step_s },
                            actions,
                        );
                    }
                }
                MetricsRow::Evaluation(row) => {
                    let name = job.record.best_metric.clone();
                    let Some(value) = row.values.get(&name).copied() else { continue };
                    let message = format!("epoch {}: {name} {value:.4}", row.epoch);
                    actions.push(note(id, "evaluated", message));
                    let metric = BestMetric { metric: name, value, step: row.step };
                    let fact = Fact::Evaluated { job: id.clone(), epoch: row.epoch, metric };
                    self.record(now, fact, actions);
                }
            }
        }
    }

    fn checkpointed(
        &mut self,
        now: Duration,
        id: &JobId,
        generation: Generation,
        outcome: Result<Checkpoint, Explained>,
        actions: &mut Vec<Action>,
    ) {
        match outcome {
            Ok(checkpoint) => {
                // Readers of the store decide by manifests; the journal only remembers the newest.
                if self.jobs.get(id).is_some_and(|job| job.generation == generation) {
                    actions.push(note(
                        id,
                        "checkpoint",
                        format!("checkpoint of step {} is in the store", checkpoint.step),
                    ));
                    self.record(now, Fact::Checkpoint { job: id.clone(), checkpoint }, actions);
                }
            }
            Err(error) => {
                self.warn(id, format!("a checkpoint could not be written: {error}"), actions);
            }
        }
    }

    fn finish_if_all(
        &mut self,
        now: Duration,
        id: &JobId,
        generation: Generation,
        actions: &mut Vec<Action>,
    ) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let started = job.first_started_at;
        let Some(group) = job.group_mut(generation) else { return };
        let mut hashes = Vec::new();
        for (_, state) in &group.members {
            let MemberState::Finished { tuned_sha256 } = state else { return };
            hashes.push(tuned_sha256.clone());
        }
        let members: Vec<WorkerId> = group.members.iter().map(|(id, _)| id.clone()).collect();
        if hashes.windows(2).any(|pair| pair[0] != pair[1]) {
            let error = Explained::new(format!("ranks ended with different states: {hashes:?}"))
                .expected("one hash on all ranks")
                .hint("please report this; the job's checkpoints up to the last are still good");
            return self.fail(now, id, error, actions);
        }
        let train_s = started.map_or(0.0, |at| now.saturating_sub(at).as_secs_f64());
        let tuned_sha256 = hashes.swap_remove(0);
        actions.push(note(id, "succeeded", format!("done; tuned state {tuned_sha256}")));
        self.record(now, Fact::Succeeded { job: id.clone(), tuned_sha256, train_s }, actions);
        for worker in members {
            if let Some(known) = self.workers.get_mut(&worker) {
                known.serving = None;
            }
            let release = ToWorker::Release { job: id.clone(), generation };
            actions.push(Action::Tell(worker, release));
        }
    }
}

impl MemberState {
    /// A member's life goes one way, in whatever order its reports come.
    fn may_become(&self, next: &Self) -> bool {
        match self {
            Self::Forming => true,
            Self::Running => *next != Self::Forming,
            Self::Left | Self::Finished { .. } => false,
        }
    }
}
