//! Workers come, fall silent, are drained and go; groups that lose one go on without it.

use super::{Action, Cluster, Fact, MemberState, Worker, note};
use ptv2_common::error::Explained;
use ptv2_common::ids::{JobId, WorkerId};
use ptv2_common::session::{Hello, PROTOCOL, ToWorker};
use std::time::Duration;

impl Cluster {
    pub(super) fn joined(&mut self, now: Duration, hello: Hello, actions: &mut Vec<Action>) {
        let id = hello.worker.clone();
        if hello.protocol != PROTOCOL {
            let error = Explained::new(format!(
                "worker {id} is ptv2 {} and speaks protocol {}",
                hello.version, hello.protocol
            ))
            .expected(format!("protocol {PROTOCOL} of ptv2 {}", ptv2_common::VERSION))
            .hint("install the same version of ptv2 on all machines");
            actions.push(Action::Tell(id.clone(), ToWorker::Refused { error }));
            actions.push(Action::Disconnect(id));
            return;
        }
        // A worker that connects again is taken as new: what it served is formed anew.
        if self.workers.contains_key(&id) {
            self.gone(now, &id, "it connected anew", actions);
        }
        self.joined += 1;
        self.workers.insert(
            id,
            Worker {
                hello,
                order: self.joined,
                last_heard: now,
                phase: None,
                place: None,
                backbone_loads: 0,
                draining: false,
                serving: None,
            },
        );
    }

    pub(super) fn gone(
        &mut self,
        now: Duration,
        worker: &WorkerId,
        why: &str,
        actions: &mut Vec<Action>,
    ) {
        let Some(lost) = self.workers.remove(worker) else { return };
        let Some((id, _)) = lost.serving else { return };
        let group = self.jobs.get(&id).and_then(|job| job.group());
        if group.is_some_and(|group| group.member(worker).is_some()) {
            let message = format!("worker {worker} on {} is lost: {why}", lost.hello.host);
            actions.push(note(&id, "worker_lost", message));
            self.regroup(now, &id, &[], actions);
        }
    }

    pub(super) fn drain(&mut self, now: Duration, id: &WorkerId, actions: &mut Vec<Action>) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        if worker.draining {
            return;
        }
        worker.draining = true;
        let serving = worker.serving.clone();
        actions.push(Action::Tell(id.clone(), ToWorker::Drain));
        if let Some((job, _)) = serving {
            actions.push(note(&job, "worker_drained", format!("worker {id} is drained")));
            self.regroup(now, &job, &[], actions);
        }
    }

    pub(super) fn tick(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let timeout = self.limits.heartbeat_timeout;
        // Whoever looks up after a long sleep cannot blame others for having heard nothing.
        if now.saturating_sub(self.last_tick) > timeout / 2 {
            self.workers.values_mut().for_each(|worker| worker.last_heard = now);
        }
        self.last_tick = now;
        let silent: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, worker)| now.saturating_sub(worker.last_heard) > timeout)
            .map(|(id, _)| id.clone())
            .collect();
        for id in silent {
            actions.push(Action::Disconnect(id.clone()));
            self.gone(now, &id, "it was silent for too long", actions);
        }
        self.reform_broken_groups(now, actions);
        self.failed_pairs
            .retain(|_, (_, last)| now.saturating_sub(*last) < self.limits.pair_cooldown);
    }

    /// A group whose member left by itself is formed anew: at once when all have left, else when the
    /// lost peer had its time to show that it is dead.
    fn reform_broken_groups(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let grace = self.limits.blame_grace;
        let broken: Vec<JobId> = self
            .jobs
            .iter()
            .filter(|(_, job)| {
                let Some(group) = job.group() else { return false };
                let left = group.members.iter().filter(|(_, state)| *state == MemberState::Left);
                let left = left.count();
                left == group.members.len()
                    || (left > 0 && now.saturating_sub(group.changed_at) >= grace)
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in broken {
            self.regroup(now, &id, &[], actions);
        }
    }

    /// Starts the next generation with the members that are still there, and `more`; or, with too
    /// few of them, sends the job back to the queue.
    pub(super) fn regroup(
        &mut self,
        now: Duration,
        id: &JobId,
        more: &[WorkerId],
        actions: &mut Vec<Action>,
    ) {
        let Some(job) = self.jobs.get(id) else { return };
        let Some(group) = job.group() else { return };
        let mut members: Vec<WorkerId> = group
            .members
            .iter()
            .map(|(worker, _)| worker.clone())
            .filter(|worker| self.workers.get(worker).is_some_and(|worker| !worker.draining))
            .collect();
        members.extend(more.iter().cloned());
        let dropped = self.part_failed_pairs(&mut members);
        if members.len() >= job.record.spec.resources.workers.min as usize {
            for worker in dropped {
                let message =
                    format!("worker {worker} leaves: it failed to reach a peer too often");
                actions.push(note(id, "worker_left_out", message));
                self.stop_one(id, &worker, actions);
            }
            self.launch(now, id, members, actions);
            return;
        }
        self.stop_members(id, true, actions);
        let message =
            "too few workers are left; the job waits and resumes from its last checkpoint";
        actions.push(note(id, "requeued", message.into()));
        self.record(now, Fact::Requeued { job: id.clone(), error: None }, actions);
    }

    fn stop_one(&self, id: &JobId, worker: &WorkerId, actions: &mut Vec<Action>) {
        if let Some(job) = self.jobs.get(id) {
            let generation = job.generation;
            let stop = ToWorker::Stop { job: id.clone(), generation, checkpoint: false };
            actions.push(Action::Tell(worker.clone(), stop));
        }
    }

    /// Takes the newer of each pair that failed too often out of a group to be.
    fn part_failed_pairs(&self, members: &mut Vec<WorkerId>) -> Vec<WorkerId> {
        let mut dropped = Vec::new();
        for ((one, other), (failures, _)) in &self.failed_pairs {
            let both = members.contains(one) && members.contains(other);
            if *failures < self.limits.pair_failures || !both {
                continue;
            }
            let order = |id: &WorkerId| self.workers.get(id).map_or(u64::MAX, |w| w.order);
            let newer = if order(one) > order(other) { one } else { other };
            members.retain(|member| member != newer);
            dropped.push(newer.clone());
        }
        dropped
    }
}
