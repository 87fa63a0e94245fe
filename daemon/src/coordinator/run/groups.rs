//! Groups are formed, told to start, found broken, and formed anew.

use super::{Action, Cluster, Fact, MemberState, Phase, Waiting, note};
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::session::{Member, Start, ToWorker};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Why a group changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It lost a member: it is left at once.
    Broken,
    /// Someone is to come or go: it finishes its step.
    Planned,
}

/// How members are stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stopping {
    /// Whether the job waits, so that its state is written; else the state is forgotten.
    pub(super) park: bool,
    pub(super) change: Change,
}

impl Stopping {
    /// The job is over: at once, without a trace.
    pub(super) const FORGET: Self = Self { park: false, change: Change::Broken };

    /// The job waits.
    pub(super) fn park(change: Change) -> Self {
        Self { park: true, change }
    }
}

impl Cluster {
    /// Ends a job's generation on all its members.
    pub(super) fn stop_members(&self, id: &JobId, how: Stopping, actions: &mut Vec<Action>) {
        let Some(group) = self.jobs.get(id).and_then(|job| job.group()) else { return };
        let members: Vec<WorkerId> =
            group.members.iter().map(|(worker, _)| worker.clone()).collect();
        self.stop(id, &members, how, actions);
    }

    /// Ends a job's generation on some workers.
    fn stop(&self, id: &JobId, workers: &[WorkerId], how: Stopping, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get(id) else { return };
        let (checkpoint, finish_step) = (how.park, how.change == Change::Planned);
        for worker in workers.iter().filter(|worker| self.workers.contains_key(worker)) {
            let (job, generation) = (id.clone(), job.generation);
            let stop = ToWorker::Stop { job, generation, checkpoint, finish_step };
            actions.push(Action::Tell(worker.clone(), stop));
        }
    }

    /// A generation's key was made and its checkpoint found: its members are told.
    pub(super) fn prepared(
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
        let ids: Vec<&WorkerId> = group.members.iter().map(|(worker, _)| worker).collect();
        let members = self.described(&ids);
        for (rank, member) in (0..).zip(&members) {
            let start = Start {
                job: job.record.clone(),
                generation,
                rank,
                members: members.clone(),
                group_key: group_key.to_owned(),
                features: features.clone(),
                resume: resume.cloned(),
                finish_step: group.finish_step,
                reported_step: job.reported,
                without_nccl: job.setbacks.without_nccl(),
            };
            let message = ToWorker::Start(Box::new(start));
            actions.push(Action::Tell(member.worker.clone(), message));
        }
    }

    /// Members with their addresses and speeds. Who was not measured yet is taken for as fast, by its
    /// threads, as the others.
    fn described(&self, ids: &[&WorkerId]) -> Vec<Member> {
        let workers: Vec<_> = ids.iter().filter_map(|id| self.workers.get(*id)).collect();
        let measured = || workers.iter().filter_map(|it| Some((it.speed?, it.hello.threads)));
        let speed: f64 = measured().map(|(speed, _)| speed).sum();
        let threads: f64 = measured().map(|(_, threads)| f64::from(threads)).sum();
        let of_a_thread = if threads > 0.0 { speed / threads } else { 1.0 };
        let member = |worker: &&super::Worker| Member {
            worker: worker.hello.worker.clone(),
            reduce_address: worker.hello.reduce_address,
            weight: worker.speed.unwrap_or(f64::from(worker.hello.threads) * of_a_thread),
        };
        workers.iter().map(member).collect()
    }

    /// The store failed while a group was about to begin: the job waits, a while longer each time.
    pub(super) fn prepare_failed(
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
        self.stop_members(id, Stopping::park(Change::Broken), actions);
        actions.push(note(id, "requeued", format!("the store does not answer: {error}")));
        let fact = Fact::Requeued { job: id.clone(), error: Some(error), preempted_by: None };
        self.record(now, fact, actions);
    }

    /// Forms a group anew when it is known who is left of it: when all have left, or the lost peer had
    /// its time to show that it is dead, or a member is drained, or one that was awaited did not come.
    pub(super) fn reform(&mut self, now: Duration, id: &JobId, actions: &mut Vec<Action>) {
        let Some(group) = self.jobs.get(id).and_then(|job| job.group()) else { return };
        if group.is_awaited(now) && !group.is_over() {
            return;
        }
        let grace = self.limits.blame_grace;
        let had_its_time = group.broken_at.is_some_and(|at| now.saturating_sub(at) >= grace);
        let broken = group.is_over()
            || had_its_time
            || group.members.iter().any(|(_, state)| *state == MemberState::Unheard);
        let is_draining =
            |(id, _): &(WorkerId, MemberState)| self.workers.get(id).is_some_and(|it| it.draining);
        if broken {
            self.regroup(now, id, (&[], &[]), Change::Broken, actions);
        } else if group.members.iter().any(is_draining) {
            self.regroup(now, id, (&[], &[]), Change::Planned, actions);
        }
    }

    /// Starts the next generation with the members that are still there, with `more` and without
    /// `fewer`; or, with too few of them, sends the job back to the queue.
    pub(super) fn regroup(
        &mut self,
        now: Duration,
        id: &JobId,
        (more, fewer): (&[WorkerId], &[WorkerId]),
        change: Change,
        actions: &mut Vec<Action>,
    ) {
        let Some(job) = self.jobs.get(id) else { return };
        let Some(group) = job.group() else { return };
        // A group that does not step yet has no step to finish.
        let change = if group.is_whole() { change } else { Change::Broken };
        let stays = |worker: &WorkerId| {
            self.workers.get(worker).is_some_and(|it| !it.draining && !it.is_suspect())
                && !fewer.contains(worker)
        };
        let present = group.members.iter().map(|(worker, _)| worker);
        let mut members: Vec<WorkerId> =
            present.clone().filter(|worker| stays(worker)).cloned().collect();
        members.extend(more.iter().cloned());
        let mut parted = self.part_failed_pairs(&mut members);
        let min = job.record.spec.resources.workers.min as usize;
        if !members.is_empty() && members.len() < min {
            // Others take the places of those who are lost: the job loses no step as long as one lives.
            let free = self.free_workers();
            let alike = job.fingerprint.as_ref().and_then(|own| free.get(own));
            let spare = self.newcomers(id, &members, alike.into_iter().flatten());
            members.extend(spare.into_iter().take(min - members.len()));
            parted.extend(self.part_failed_pairs(&mut members));
        }
        if members.len() >= min {
            for worker in &parted {
                let message =
                    format!("worker {worker} leaves: it and a peer do not reach each other");
                actions.push(note(id, "worker_left_out", message));
            }
            let staying: BTreeSet<&WorkerId> = members.iter().collect();
            let leaving: Vec<WorkerId> =
                present.filter(|worker| !staying.contains(worker)).cloned().collect();
            self.stop(id, &leaving, Stopping { park: false, change }, actions);
            self.launch(now, id, members, change, actions);
            return;
        }
        self.stop_members(id, Stopping::park(change), actions);
        let message =
            "too few workers are left; the job waits and resumes from its last checkpoint";
        actions.push(note(id, "requeued", message.into()));
        let fact = Fact::Requeued { job: id.clone(), error: None, preempted_by: None };
        self.record(now, fact, actions);
        if members.is_empty()
            && let Some(job) = self.jobs.get_mut(id)
        {
            let until = now + self.limits.blame_grace;
            job.enter(now, Phase::Queued(Waiting::LostGroup { until }));
        }
    }

    /// Takes workers out of a group to be until no two that failed to reach each other are in it: first
    /// whoever fails to reach the most others, of two the newer.
    fn part_failed_pairs(&self, members: &mut Vec<WorkerId>) -> Vec<WorkerId> {
        let mut parted = Vec::new();
        loop {
            let mut failures: BTreeMap<&WorkerId, usize> = BTreeMap::new();
            for ((one, other), (count, _)) in &self.failed_pairs {
                let both = members.contains(one) && members.contains(other);
                if *count >= self.limits.pair_failures && both {
                    *failures.entry(one).or_default() += 1;
                    *failures.entry(other).or_default() += 1;
                }
            }
            let order = |id: &WorkerId| self.workers.get(id).map_or(u64::MAX, |it| it.order);
            let worst = failures.into_iter().max_by_key(|(id, count)| (*count, order(id)));
            let Some((worst, _)) = worst else { return parted };
            let worst = worst.clone();
            members.retain(|member| *member != worst);
            parted.push(worst);
        }
    }

    /// Members of a group that keep failing to meet, although each is well with the coordinator.
    pub(super) fn count_failure(
        &mut self,
        now: Duration,
        one: &WorkerId,
        other: &WorkerId,
        silent: bool,
    ) {
        let pair = if one < other { (one, other) } else { (other, one) };
        let pair = (pair.0.clone(), pair.1.clone());
        let known = self.failed_pairs.entry(pair).or_insert((0, now));
        // Trying such a pair again costs all others the time until its silence is noticed.
        let enough = if silent { self.limits.pair_failures } else { 0 };
        *known = ((known.0 + 1).max(enough), now);
    }

    /// Whether two workers are not to be in one group for now.
    pub(super) fn failed_too_often(&self, one: &WorkerId, other: &WorkerId) -> bool {
        if self.failed_pairs.is_empty() {
            return false;
        }
        let pair = if one < other { (one, other) } else { (other, one) };
        self.failed_pairs
            .get(&(pair.0.clone(), pair.1.clone()))
            .is_some_and(|(failures, _)| *failures >= self.limits.pair_failures)
    }

    /// Running jobs' groups that may be broken.
    pub(super) fn reform_all(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let running: BTreeSet<JobId> = self
            .jobs
            .iter()
            .filter(|(_, job)| job.group().is_some())
            .map(|(id, _)| id.clone())
            .collect();
        for id in running {
            self.reform(now, &id, actions);
        }
    }
}
