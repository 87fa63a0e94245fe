//! Workers come, fall silent, are drained and go; groups that lose one go on without it.

use super::groups::Change;
use super::{Action, Cluster, Job, Warmth, Worker, note};
use ptv2_common::ids::WorkerId;
use ptv2_common::session::{self, Attached, Hello, PROTOCOL, Stage, ToWorker};
use std::time::Duration;

impl Cluster {
    pub(super) fn joined(&mut self, now: Duration, hello: Hello, actions: &mut Vec<Action>) {
        let id = hello.worker.clone();
        if hello.protocol != PROTOCOL {
            let who = format!("worker {id}");
            let error = session::other_protocol(&who, &hello.version, hello.protocol);
            actions.push(Action::Tell(id.clone(), ToWorker::Refused { error }));
            actions.push(Action::Disconnect(id));
            return;
        }
        let before = self.workers.remove(&id);
        let order = before.as_ref().map_or_else(
            || {
                self.joined += 1;
                self.joined
            },
            |before| before.order,
        );
        let attached = hello.attached.clone();
        let worker = Worker {
            hello,
            order,
            last_heard: now,
            phase: None,
            place: None,
            backbone_loads: 0,
            speed: None,
            draining: before.as_ref().is_some_and(|before| before.draining),
            divergences: before.as_ref().map_or(0, |before| before.divergences),
            holds: None,
            warmth: Warmth::Cold,
            serving: None,
        };
        self.workers.insert(id.clone(), worker);
        self.attach(now, &id, attached, actions);
    }

    /// Takes up a worker's place in its group: after a lost connection, or after the coordinator was
    /// started again. One that is not in the generation that it should be in has left it.
    fn attach(
        &mut self,
        now: Duration,
        id: &WorkerId,
        attached: Option<Attached>,
        actions: &mut Vec<Action>,
    ) {
        let in_group = |job: &&Job| job.group().is_some_and(|group| group.has(id));
        let Some(job) = self.jobs.values().find(in_group).map(|job| job.record.id.clone()) else {
            return;
        };
        let Some(group) = self.jobs.get_mut(&job).and_then(Job::any_group_mut) else { return };
        let generation = group.generation;
        let stage = match attached {
            Some(own) if own.job == job && own.generation == generation => own.stage,
            Some(_) | None => Stage::Left,
        };
        group.set(now, id, stage.into());
        if let Some(worker) = self.workers.get_mut(id) {
            worker.serving = Some((job.clone(), generation));
        }
        self.finish_if_all(now, &job, generation, actions);
        self.reform(now, &job, actions);
    }

    pub(super) fn gone(
        &mut self,
        now: Duration,
        worker: &WorkerId,
        why: &str,
        actions: &mut Vec<Action>,
    ) {
        let Some(lost) = self.workers.remove(worker) else { return };
        // Should it come back, it is a newcomer.
        self.failed_pairs.retain(|(one, other), _| one != worker && other != worker);
        let Some((id, _)) = lost.serving else { return };
        let Some(group) = self.jobs.get_mut(&id).and_then(Job::any_group_mut) else { return };
        if !group.has(worker) {
            return;
        }
        if group.is_awaited(now) {
            // Others are still to come: what is left of the group is not known yet.
            return group.set_unheard(worker);
        }
        let message = format!("worker {worker} on {} is lost: {why}", lost.hello.host);
        actions.push(note(&id, "worker_lost", message));
        self.regroup(now, &id, (&[], &[]), Change::Broken, actions);
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
            self.reform(now, &job, actions);
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
        self.reform_all(now, actions);
        self.failed_pairs
            .retain(|_, (_, last)| now.saturating_sub(*last) < self.limits.pair_cooldown);
    }
}
