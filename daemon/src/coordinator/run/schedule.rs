//! Which job gets which workers.

use super::{Action, Cluster, Fact, Job, MemberState, Phase, Waiting, note};
use ptv2_common::ids::{JobId, WorkerId};
use ptv2_common::session::Fingerprint;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

impl Cluster {
    /// Starts what can be started, by priority, then age; then lets running groups grow.
    pub(super) fn schedule(&mut self, now: Duration, actions: &mut Vec<Action>) {
        for id in self.queue(now) {
            let free = self.free_workers();
            let Some(job) = self.jobs.get(&id) else { continue };
            if let Some(members) = choose(job, &free) {
                self.launch(now, &id, members, actions);
            } else {
                // A younger job does not overtake: the one in front would wait for ever.
                return;
            }
        }
        self.grow(now, actions);
    }

    /// Jobs that wait for workers, in the order in which they get them. One whose next attempt is not
    /// due yet is in nobody's way.
    pub(super) fn queue(&self, now: Duration) -> Vec<JobId> {
        let is_due = |job: &&Job| match &job.phase {
            Phase::Queued(Waiting::New | Waiting::LostGroup) => true,
            Phase::Queued(Waiting::NoStore { until, .. }) => now >= *until,
            Phase::Staging
            | Phase::Running(_)
            | Phase::Succeeded
            | Phase::Failed(_)
            | Phase::Cancelled => false,
        };
        let mut waiting: Vec<&Job> = self.jobs.values().filter(is_due).collect();
        waiting.sort_by_key(|job| (Reverse(job.record.spec.resources.priority), job.order));
        waiting.into_iter().map(|job| job.record.id.clone()).collect()
    }

    /// Workers without a job, oldest first, by fingerprint.
    pub(super) fn free_workers(&self) -> BTreeMap<Fingerprint, Vec<WorkerId>> {
        let mut free: BTreeMap<Fingerprint, Vec<(u64, WorkerId)>> = BTreeMap::new();
        for (id, worker) in &self.workers {
            if worker.serving.is_none() && worker.phase.is_some() && !worker.draining {
                let fingerprint = worker.hello.fingerprint.clone();
                free.entry(fingerprint).or_default().push((worker.order, id.clone()));
            }
        }
        free.into_iter()
            .map(|(fingerprint, mut workers)| {
                workers.sort();
                (fingerprint, workers.into_iter().map(|(_, id)| id).collect())
            })
            .collect()
    }

    /// Starts a generation of a job on these workers, by rank.
    pub(super) fn launch(
        &mut self,
        now: Duration,
        id: &JobId,
        members: Vec<WorkerId>,
        actions: &mut Vec<Action>,
    ) {
        let Some(job) = self.jobs.get(id) else { return };
        let first = members.first().and_then(|first| self.workers.get(first));
        let Some(fingerprint) = first.map(|first| first.hello.fingerprint.clone()) else { return };
        if job.fingerprint.as_ref().is_some_and(|before| *before != fingerprint) {
            let message = format!(
                "goes on with fingerprint {fingerprint}; the promise of equal bits ends at step {}",
                job.step
            );
            actions.push(note(id, "fingerprint_changed", message));
        }
        let generation = job.generation.next();
        for worker in &members {
            if let Some(worker) = self.workers.get_mut(worker) {
                worker.serving = Some((id.clone(), generation));
            }
        }
        let names: Vec<String> = members.iter().map(ToString::to_string).collect();
        let message = format!("generation {generation} starts on {}", names.join(", "));
        actions.push(note(id, "generation", message));
        let fact = Fact::Started { job: id.clone(), generation, members, fingerprint };
        self.record(now, fact, actions);
        actions.push(Action::Prepare(id.clone(), generation));
    }

    /// Gives free workers to running groups that want more and have been whole for a while.
    fn grow(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let delay = self.limits.growth_delay;
        let candidates: Vec<JobId> = self
            .jobs
            .iter()
            .filter(|(_, job)| {
                let Some(group) = job.group() else { return false };
                let whole = group.members.iter().all(|(_, state)| *state == MemberState::Running);
                whole
                    && now.saturating_sub(group.changed_at) >= delay
                    && group.members.len() < most(job)
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in candidates {
            let free = self.free_workers();
            let Some(job) = self.jobs.get(&id) else { continue };
            let Some(group) = job.group() else { continue };
            let room = most(job) - group.members.len();
            let more: Vec<WorkerId> = job
                .fingerprint
                .as_ref()
                .and_then(|fingerprint| free.get(fingerprint))
                .map(|free| free.iter().take(room).cloned().collect())
                .unwrap_or_default();
            let failed = more
                .iter()
                .any(|new| group.members.iter().any(|(old, _)| self.failed_too_often(new, old)));
            if !more.is_empty() && !failed {
                self.regroup(now, &id, &more, actions);
            }
        }
    }

    fn failed_too_often(&self, one: &WorkerId, other: &WorkerId) -> bool {
        let pair = if one < other { (one, other) } else { (other, one) };
        self.failed_pairs
            .get(&(pair.0.clone(), pair.1.clone()))
            .is_some_and(|(failures, _)| *failures >= self.limits.pair_failures)
    }
}

/// The most workers that a job can use: it has so many slices.
fn most(job: &Job) -> usize {
    job.record.spec.resources.workers.max.min(job.record.plan.slices) as usize
}

/// Picks workers of one fingerprint: the job's own where it has begun and that has enough, else the
/// one with the most free workers.
fn choose(job: &Job, free: &BTreeMap<Fingerprint, Vec<WorkerId>>) -> Option<Vec<WorkerId>> {
    let min = job.record.spec.resources.workers.min as usize;
    let own = job.fingerprint.as_ref().and_then(|own| free.get(own));
    let own = own.filter(|workers| workers.len() >= min);
    let workers = own.or_else(|| free.values().max_by_key(|workers| workers.len()))?;
    (workers.len() >= min).then(|| workers.iter().take(most(job)).cloned().collect())
}
