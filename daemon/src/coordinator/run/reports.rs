//! What workers report, and what follows from it.

use super::groups::Change;
use super::{Action, Cluster, Fact, Job, MemberState, Warmth, note};
use crate::clock::millis;
use ptv2_common::api::{Checkpoint, LogLevel};
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::place::{DevicePhase, Place};
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
        if !self.may_say(id, &message) {
            return;
        }
        let Some(worker) = self.workers.get_mut(id) else { return };
        match message {
            FromWorker::Hello(_) => {}
            FromWorker::Log { job, level, message } => match level {
                LogLevel::Info => {}
                // What a worker that was cut off says of a job that has ended meanwhile, its log keeps.
                LogLevel::Warn | LogLevel::Error
                    if self.jobs.get(&job).is_some_and(Job::is_final) => {}
                LogLevel::Warn | LogLevel::Error => self.warn(&job, message, actions),
            },
            FromWorker::Heartbeat {
                serving,
                place,
                phase,
                phase_age_ms,
                backbone_loads,
                speed,
            } => {
                worker.place = place;
                worker.phase = Some(phase);
                worker.backbone_loads = backbone_loads;
                worker.speed = speed;
                self.recall(id, serving, actions);
                if phase_age_ms > millis(self.bound_of(phase)) {
                    let why = format!("its device has been {phase:?} for {phase_age_ms} ms");
                    actions.push(Action::Disconnect(id.clone()));
                    self.gone(now, id, &why, actions);
                }
            }
            FromWorker::Ready { job, outcome } => self.ready(id, job, outcome, actions),
            FromWorker::Running { job, generation, place } => {
                self.running(now, id, &job, (generation, place), actions);
            }
            FromWorker::Damaged { error, jobs } => self.damaged(id, &error, &jobs, actions),
            FromWorker::Left { job, generation, place, reason } => {
                worker.holds = place.map(|place| (job.clone(), place));
                self.left(now, id, &job, (generation, reason), actions);
            }
            FromWorker::Progress { job, generation, metrics } => {
                self.progressed(now, &job, generation, metrics, actions);
            }
            FromWorker::CheckpointReport { job, generation, outcome, waited_ms } => {
                // By the worker's own measure: no clocks of two machines are compared.
                let began = now.saturating_sub(Duration::from_millis(waited_ms));
                self.checkpointed((now, began), &job, generation, outcome, actions);
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
            let (checkpoint, finish_step) = (false, false);
            let stop = ToWorker::Stop { job, generation, checkpoint, finish_step };
            actions.push(Action::Tell(id.clone(), stop));
        }
    }

    /// People are told of what went wrong while the job goes on.
    pub(super) fn warn(&mut self, id: &JobId, message: String, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        actions.push(note(id, "warning", message.clone()));
        if job.warnings.len() >= WARNINGS {
            job.warnings.remove(0);
        }
        job.warnings.push(message);
    }

    /// A worker has loaded what a running job needs, or cannot.
    fn ready(
        &mut self,
        id: &WorkerId,
        job: JobId,
        outcome: Result<(), Explained>,
        actions: &mut Vec<Action>,
    ) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        if worker.warmth != Warmth::Warming(job.clone()) {
            return; // It was given other work meanwhile.
        }
        match outcome {
            Ok(()) => worker.warmth = Warmth::Warm(job),
            Err(error) => {
                worker.warmth = Warmth::Unfit(job.clone());
                let message = format!("worker {id} cannot join: {error}");
                self.warn(&job, message, actions);
            }
        }
    }

    /// A member trains. When all do, people are told from where.
    fn running(
        &mut self,
        now: Duration,
        id: &WorkerId,
        job_id: &JobId,
        (generation, place): (Generation, Place),
        actions: &mut Vec<Action>,
    ) {
        self.set_member(now, job_id, generation, id, MemberState::Running);
        let Some(job) = self.jobs.get_mut(job_id) else { return };
        let Some(group) = job.group_mut(generation) else { return };
        if group.is_whole() {
            let (world, step) = (group.members.len(), place.step);
            let message = format!("generation {generation} of {world} goes on from step {step}");
            actions.push(note(job_id, "running", message));
            job.step = job.step.max(step);
        }
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
        if let Some(group) = group {
            group.set(now, worker, state);
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
        if !group.is_some_and(|group| group.has(id)) {
            // The job has ended or goes on without this worker, which is now free.
            if let Some(worker) = self.workers.get_mut(id)
                && worker.serving.as_ref().is_some_and(|(of, at)| of == job && *at <= generation)
            {
                worker.serving = None;
            }
            return;
        }
        let Some(newest) = group.map(|group| group.generation) else { return };
        if newest == generation {
            self.set_member(now, job, generation, id, MemberState::Left);
        }
        match reason {
            LeaveReason::Stopped => {}
            LeaveReason::PeerLost { peer, silent, detail } => {
                let message = format!("worker {id} lost worker {peer}: {detail}");
                actions.push(note(job, "peer_lost", message));
                if silent && self.is_late(now, &peer) {
                    // Both miss it: it is stopped, or cut off from everyone.
                    actions.push(Action::Disconnect(peer.clone()));
                    let why = "its peers and the coordinator miss its signs of life";
                    return self.gone(now, &peer, why, actions);
                }
                self.blame(now, id, (job, generation), (&peer, silent), actions);
            }
            LeaveReason::Diverged { own, detail } => {
                self.diverged(id, job, (own, detail), actions);
            }
            LeaveReason::TransportFailed { detail } => {
                self.transport_failed(id, (job, generation), &detail, actions);
            }
            LeaveReason::DeviceLost { detail } => {
                self.device_lost(now, id, (job, generation), &detail, actions);
            }
        }
        self.reform(now, job, actions);
    }

    /// The ranks' states differed; `own` says whether this worker's is the one that differs from most.
    fn diverged(
        &mut self,
        id: &WorkerId,
        job: &JobId,
        (own, detail): (bool, String),
        actions: &mut Vec<Action>,
    ) {
        actions.push(note(job, "diverged", format!("worker {id}: {detail}")));
        let Some(worker) = self.workers.get_mut(id).filter(|_| own) else { return };
        worker.divergences += 1;
        let message = format!(
            "the state on worker {id} ({}) differed from that of most others; have its memory tested",
            worker.hello.host
        );
        self.warn(job, message, actions);
    }

    /// Whether a worker's last heartbeat should have come some time ago.
    fn is_late(&self, now: Duration, id: &WorkerId) -> bool {
        let late = self.limits.heartbeat_timeout * 2 / 5;
        self.workers.get(id).is_some_and(|worker| now.saturating_sub(worker.last_heard) > late)
    }

    /// Remembers that two workers, of which both are well with the coordinator, lost each other. The
    /// other side of the same failure does not count again.
    fn blame(
        &mut self,
        now: Duration,
        id: &WorkerId,
        (job, generation): (&JobId, Generation),
        (peer, silent): (&WorkerId, bool),
        actions: &mut Vec<Action>,
    ) {
        let Some(group) = self.jobs.get_mut(job).and_then(Job::any_group_mut) else { return };
        if group.generation != generation {
            // What it missed in a generation that has a planned successor, it will miss there, too.
            if silent && group.generation == generation.next() && group.has(peer) {
                self.count_failure(now, id, peer, silent);
                self.regroup(now, job, (&[], &[]), Change::Broken, actions);
            }
            return;
        }
        if !silent {
            group.lost.insert(peer.clone());
        }
        let has_left = group.member(peer).is_some_and(|state| *state == MemberState::Left);
        if silent || !has_left {
            self.count_failure(now, id, peer, silent);
        }
    }

    /// A worker found that frozen weights had changed in its memory. When is not known, so every job
    /// that it computed for since it last looked is in doubt.
    fn damaged(
        &mut self,
        id: &WorkerId,
        error: &Explained,
        jobs: &[JobId],
        actions: &mut Vec<Action>,
    ) {
        let host = self.workers.get(id).map_or("", |worker| worker.hello.host.as_str()).to_owned();
        for job in jobs.iter().filter(|job| self.has_served(id, job)).collect::<Vec<_>>() {
            let message = format!("its result is in doubt: worker {id} ({host}): {error}");
            self.warn(job, message, actions);
        }
    }

    /// A checkpoint that was begun to be written at a time is in the store, or still is not.
    fn checkpointed(
        &mut self,
        (now, began): (Duration, Duration),
        id: &JobId,
        generation: Generation,
        outcome: Result<Checkpoint, Explained>,
        actions: &mut Vec<Action>,
    ) {
        match outcome {
            Ok(checkpoint) => {
                if let Some(job) = self.jobs.get_mut(id) {
                    job.storage = None;
                }
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
                if let Some(job) = self.jobs.get_mut(id) {
                    let since = job.storage.take().map_or(began, |(since, _)| since);
                    job.storage = Some((since, error));
                }
            }
        }
    }

    pub(super) fn finish_if_all(
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
