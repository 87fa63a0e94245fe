//! Which job gets which workers.

use super::groups::{Change, Stopping};
use super::{Action, Cluster, Fact, Group, Job, Phase, Waiting, Warmth, note};
use ptv2_common::ids::{JobId, WorkerId};
use ptv2_common::place::Place;
use ptv2_common::session::{Fingerprint, ToWorker, Warm};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

impl Cluster {
    /// Starts what can be started, by priority, then age; then lets running groups grow.
    pub(super) fn schedule(&mut self, now: Duration, actions: &mut Vec<Action>) {
        for id in self.queue(now) {
            let mut free = self.free_workers();
            for workers in free.values_mut() {
                workers.sort_by_key(|worker| Reverse(self.held_by(worker, &id)));
            }
            let Some(job) = self.jobs.get(&id) else { continue };
            if let Some(members) = choose(job, &free) {
                self.launch(now, &id, members, Change::Broken, actions);
            } else {
                // A younger job does not overtake: the one in front would wait for ever.
                return self.preempt(now, &id, actions);
            }
        }
        self.grow(now, actions);
    }

    /// Jobs that wait for workers, in the order in which they get them. One whose next attempt is not
    /// due yet is in nobody's way.
    pub(super) fn queue(&self, now: Duration) -> Vec<JobId> {
        let is_due = |job: &&Job| match &job.phase {
            Phase::Queued(Waiting::New | Waiting::Preempted { .. }) => true,
            Phase::Queued(Waiting::LostGroup { until } | Waiting::NoStore { until, .. }) => {
                now >= *until
            }
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
            let is_free = worker.serving.is_none() && worker.phase.is_some();
            if is_free && !worker.draining && !worker.is_suspect() {
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

    /// How far a worker's state of a job is, where it left one: who is furthest is the first choice.
    fn held_by(&self, worker: &WorkerId, job: &JobId) -> Option<Place> {
        let (held, place) = self.workers.get(worker)?.holds.as_ref()?;
        (held == job).then_some(*place)
    }

    /// Starts a generation of a job on these workers, by rank.
    pub(super) fn launch(
        &mut self,
        now: Duration,
        id: &JobId,
        members: Vec<WorkerId>,
        change: Change,
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
                worker.warmth = Warmth::Cold;
            }
        }
        let names: Vec<String> = members.iter().map(ToString::to_string).collect();
        let message = format!("generation {generation} starts on {}", names.join(", "));
        actions.push(note(id, "generation", message));
        let fact = Fact::Started { job: id.clone(), generation, members, fingerprint };
        self.record(now, fact, actions);
        if let Some(group) = self.jobs.get_mut(id).and_then(|job| job.group_mut(generation)) {
            group.finish_step = change == Change::Planned;
        }
        actions.push(Action::Prepare(id.clone(), generation));
    }

    /// Gives free workers to running groups that want more and have been whole for a while. First they
    /// load what the job needs, while the group trains on; then the group takes them in.
    fn grow(&mut self, now: Duration, actions: &mut Vec<Action>) {
        for (id, more) in self.offers(now) {
            let is_warm = |worker: &WorkerId| {
                self.workers.get(worker).is_some_and(|it| it.warmth == Warmth::Warm(id.clone()))
            };
            let (warm, cold): (Vec<WorkerId>, Vec<WorkerId>) =
                more.into_iter().partition(|worker| is_warm(worker));
            for worker in cold {
                self.warm_up(&id, &worker, actions);
            }
            if !warm.is_empty() {
                self.regroup(now, &id, (&warm, &[]), Change::Planned, actions);
            }
        }
    }

    /// Which free workers each running group is to have; none is offered to two groups, nor to one
    /// while it loads for another.
    fn offers(&self, now: Duration) -> Vec<(JobId, Vec<WorkerId>)> {
        let wants_more = |job: &Job, group: &Group| {
            group.is_whole()
                && now.saturating_sub(group.changed_at) >= self.limits.growth_delay
                && group.members.len() < most(job)
        };
        let groups = self.jobs.iter().filter_map(|(id, job)| Some((id, job, job.group()?)));
        let mut groups = groups.filter(|(_, job, group)| wants_more(job, group)).peekable();
        if groups.peek().is_none() {
            return Vec::new();
        }
        let mut free = self.free_workers();
        let mut offers = Vec::new();
        for (id, job, group) in groups {
            let alike = job.fingerprint.as_ref().and_then(|own| free.get_mut(own));
            let Some(alike) = alike else { continue };
            let present: Vec<WorkerId> = group.members.iter().map(|(id, _)| id.clone()).collect();
            let (mut own, mut others) = (Vec::new(), Vec::new());
            for worker in alike.iter() {
                match self.loads_for(worker) {
                    Some(loads_for) if loads_for == id => own.push(worker),
                    Some(_) => {}
                    None => others.push(worker),
                }
            }
            let more = self.newcomers(id, &present, own.into_iter().chain(others));
            alike.retain(|worker| !more.contains(worker));
            offers.push((id.clone(), more));
        }
        offers
    }

    /// The job for whose group, which still has room, a worker loads or has loaded what it needs.
    fn loads_for(&self, worker: &WorkerId) -> Option<&JobId> {
        let (Warmth::Warming(id) | Warmth::Warm(id)) = &self.workers.get(worker)?.warmth else {
            return None;
        };
        let job = self.jobs.get(id)?;
        job.group().is_some_and(|group| group.members.len() < most(job)).then_some(id)
    }

    /// Of these free workers, who a job has room for beside its present members, can use, and these
    /// reach.
    pub(super) fn newcomers<'a>(
        &self,
        id: &JobId,
        present: &[WorkerId],
        free: impl Iterator<Item = &'a WorkerId>,
    ) -> Vec<WorkerId> {
        let Some(job) = self.jobs.get(id) else { return Vec::new() };
        let room = most(job).saturating_sub(present.len());
        let unfit = Warmth::Unfit(id.clone());
        let fits = |new: &&WorkerId| {
            self.workers.get(*new).is_some_and(|worker| worker.warmth != unfit)
                && !present.iter().any(|old| self.failed_too_often(new, old))
        };
        free.filter(fits).take(room).cloned().collect()
    }

    /// Has a free worker load what a job needs.
    fn warm_up(&mut self, id: &JobId, worker: &WorkerId, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get(id) else { return };
        let (Some(features), Some(known)) = (&job.features, self.workers.get_mut(worker)) else {
            return;
        };
        if matches!(known.warmth, Warmth::Warming(_)) {
            return;
        }
        known.warmth = Warmth::Warming(id.clone());
        let warm = Warm { job: job.record.clone(), features: features.clone() };
        actions.push(Action::Tell(worker.clone(), ToWorker::Warm(Box::new(warm))));
    }

    /// A job that waits takes workers from running jobs of lower priority, as they finish a step: first
    /// those that a group can do without, then whole groups, of the lowest priority and the youngest
    /// first. Who is to leave is waited for.
    fn preempt(&mut self, now: Duration, id: &JobId, actions: &mut Vec<Action>) {
        let Some(job) = self.jobs.get(id) else { return };
        let min = job.record.spec.resources.workers.min as usize;
        let priority = job.record.spec.resources.priority;
        let mut coming: BTreeMap<Fingerprint, usize> = BTreeMap::new();
        for worker in self.workers.values().filter(|it| !it.draining && !it.is_suspect()) {
            let is_leaving = worker.serving.as_ref().is_some_and(|(job, _)| {
                let group = self.jobs.get(job).and_then(|job| job.group());
                !group.is_some_and(|group| group.has(&worker.hello.worker))
            });
            if is_leaving || (worker.serving.is_none() && worker.phase.is_some()) {
                *coming.entry(worker.hello.fingerprint.clone()).or_default() += 1;
            }
        }
        if coming.values().any(|count| *count >= min) {
            return;
        }
        let mut victims: Vec<&Job> = self
            .jobs
            .values()
            .filter(|job| job.record.spec.resources.priority < priority)
            .filter(|job| job.group().is_some_and(|group| !group.is_awaited(now)))
            .collect();
        victims.sort_by_key(|job| (job.record.spec.resources.priority, Reverse(job.order)));
        let mut takeable = coming.clone();
        for victim in &victims {
            if let (Some(group), Some(fingerprint)) = (victim.group(), &victim.fingerprint) {
                *takeable.entry(fingerprint.clone()).or_default() += group.members.len();
            }
        }
        let own = job.fingerprint.as_ref().filter(|own| takeable.get(own) >= Some(&min));
        let most = takeable.iter().max_by_key(|(_, count)| **count).map(|(found, _)| found);
        let Some(fingerprint) = own.or(most).filter(|it| takeable.get(it) >= Some(&min)) else {
            return;
        };
        let needed = min - coming.get(fingerprint).copied().unwrap_or(0);
        let victims: Vec<JobId> = victims
            .iter()
            .filter(|job| job.fingerprint.as_ref() == Some(fingerprint))
            .map(|job| job.record.id.clone())
            .collect();
        self.take_from(now, id, &victims, needed, actions);
    }

    fn take_from(
        &mut self,
        now: Duration,
        id: &JobId,
        victims: &[JobId],
        mut needed: usize,
        actions: &mut Vec<Action>,
    ) {
        let mut parked = Vec::new();
        for victim in victims {
            let Some(job) = self.jobs.get(victim) else { continue };
            let Some(group) = job.group() else { continue };
            let min = job.record.spec.resources.workers.min as usize;
            let (spare, count) = (group.members.len().saturating_sub(min), group.members.len());
            let takes = spare.min(needed);
            if takes == 0 {
                parked.push((victim.clone(), count));
                continue;
            }
            let fewer: Vec<WorkerId> =
                group.members[count - takes..].iter().map(|(worker, _)| worker.clone()).collect();
            needed -= takes;
            parked.push((victim.clone(), count - takes));
            actions.push(note(victim, "preempted", format!("{id} takes {takes} of its workers")));
            self.regroup(now, victim, (&[], &fewer), Change::Planned, actions);
        }
        for (victim, count) in parked {
            if needed == 0 {
                return;
            }
            needed = needed.saturating_sub(count);
            let whole =
                self.jobs.get(&victim).and_then(|job| job.group()).is_some_and(Group::is_whole);
            let change = if whole { Change::Planned } else { Change::Broken };
            self.stop_members(&victim, Stopping::park(change), actions);
            let message = format!("parked: {id}, of higher priority, takes its workers");
            actions.push(note(&victim, "preempted", message));
            let preempted_by = Some(id.clone());
            let fact = Fact::Requeued { job: victim, error: None, preempted_by };
            self.record(now, fact, actions);
        }
    }
}

/// The most workers that a job can use: it has so many slices.
pub(super) fn most(job: &Job) -> usize {
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
