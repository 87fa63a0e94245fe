//! What must hold whatever happens. The checker keeps its own view of the jobs, from the journal alone.

use super::store::Store;
use super::training::mix;
use super::{Action, Event, Fact};
use ptv2_common::api::{JobState, JobStatus};
use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::job::JobRecord;
use ptv2_common::session::{FromWorker, ToWorker};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What was violated, in words.
pub(super) type Check = Result<(), String>;

#[derive(Debug, Clone, PartialEq)]
enum State {
    Waiting,
    Running(Vec<WorkerId>),
    Succeeded,
    Failed,
    Cancelled,
}

#[derive(Debug)]
struct Known {
    state: State,
    generation: Generation,
    workers: Range<usize>,
    /// What it must end with.
    tuned_sha256: String,
}

/// Who has applied a step in a generation, of those who still hold the job.
#[derive(Debug, Clone, Default)]
struct Applied {
    workers: BTreeSet<WorkerId>,
    /// Whether all of the generation have.
    is_whole: bool,
}

/// The jobs as the journal tells of them.
#[derive(Debug, Default)]
pub(super) struct Checker {
    jobs: BTreeMap<JobId, Known>,
    /// Jobs whose submit was answered.
    acknowledged: BTreeSet<JobId>,
    /// Kind of each worker there ever was.
    kinds: BTreeMap<WorkerId, String>,
    /// Who has applied a job's step, by generation, since it last went back to the store.
    applied: BTreeMap<(JobId, u64), BTreeMap<Generation, Applied>>,
    /// The step of each job's newest checkpoint.
    published: BTreeMap<JobId, u64>,
}

impl Checker {
    pub(super) fn worker(&mut self, id: &WorkerId, kind: &str) {
        self.kinds.insert(id.clone(), kind.to_owned());
    }

    /// The generation that trains a job, if one does.
    pub(super) fn current(&self, job: &JobId) -> Option<Generation> {
        let known = self.jobs.get(job)?;
        matches!(known.state, State::Running(_)).then_some(known.generation)
    }

    pub(super) fn all_ended(&self) -> bool {
        self.jobs.values().all(|known| known.state.is_final())
    }

    /// Nothing is recorded because of what an old generation says.
    pub(super) fn decided(&self, event: &Event, actions: &[Action]) -> Check {
        let Event::Said(worker, message) = event else { return Ok(()) };
        let Some((job, generation)) = report_of(message) else { return Ok(()) };
        let Some(known) = self.jobs.get(job) else { return Ok(()) };
        if generation >= known.generation {
            return Ok(());
        }
        for action in actions {
            let Action::Record(fact) = action else { continue };
            let is_report = matches!(
                fact,
                Fact::FirstStep { .. }
                    | Fact::Evaluated { .. }
                    | Fact::Checkpoint { .. }
                    | Fact::Succeeded { .. }
                    | Fact::Failed { .. }
            );
            if is_report && fact.job() == job {
                return Err(format!(
                    "{worker} of generation {generation} made the coordinator record {fact:?}, while \
                     generation {} is the newest",
                    known.generation
                ));
            }
        }
        Ok(())
    }

    /// A fact is in the journal.
    pub(super) fn recorded(&mut self, fact: &Fact) -> Check {
        if let Fact::Submitted(record) = fact {
            let asked = record.spec.resources.workers;
            let most = asked.max.min(record.plan.slices) as usize;
            let workers = asked.min as usize..most + 1;
            let generation = Generation::default();
            let tuned_sha256 = format!("{:016x}", undisturbed(record));
            let known = Known { state: State::Waiting, generation, workers, tuned_sha256 };
            if self.jobs.insert(record.id.clone(), known).is_some() {
                return Err(format!("{} was submitted twice", record.id));
            }
            return Ok(());
        }
        self.check_members(fact)?;
        // Who holds its state may be given other work.
        if matches!(fact, Fact::Requeued { .. } | Fact::Failed { .. } | Fact::Cancelled { .. }) {
            self.goes_back(fact.job());
        }
        let Some(known) = self.jobs.get_mut(fact.job()) else {
            return Err(format!("the journal does not know the job of {fact:?}"));
        };
        let next = match fact {
            Fact::Staged { .. } => State::Waiting,
            Fact::Requeued { .. } => State::Waiting,
            Fact::Started { generation, members, .. } => {
                if *generation <= known.generation {
                    return Err(format!(
                        "generation {generation} of {} follows generation {}",
                        fact.job(),
                        known.generation
                    ));
                }
                known.generation = *generation;
                State::Running(members.clone())
            }
            Fact::Succeeded { tuned_sha256, .. } => {
                if *tuned_sha256 != known.tuned_sha256 {
                    return Err(format!("{} succeeded with another state", fact.job()));
                }
                State::Succeeded
            }
            Fact::Failed { .. } => State::Failed,
            Fact::Cancelled { .. } => State::Cancelled,
            Fact::Retried { .. } => {
                if !matches!(known.state, State::Failed | State::Cancelled) {
                    return Err(format!("{} is tried again while {:?}", fact.job(), known.state));
                }
                known.state = State::Waiting;
                return Ok(());
            }
            Fact::Submitted(_)
            | Fact::Adopted(_)
            | Fact::FirstStep { .. }
            | Fact::Evaluated { .. }
            | Fact::Checkpoint { .. } => return Ok(()),
        };
        if known.state.is_final() {
            return Err(format!("{} was {:?}, and then {next:?}", fact.job(), known.state));
        }
        known.state = next;
        Ok(())
    }

    /// A group is of one kind, as large as the job wants it, and nobody is in two.
    fn check_members(&self, fact: &Fact) -> Check {
        let Fact::Started { job, members, fingerprint, .. } = fact else { return Ok(()) };
        let Some(known) = self.jobs.get(job) else { return Ok(()) };
        let distinct: BTreeSet<&WorkerId> = members.iter().collect();
        if distinct.len() != members.len() || !known.workers.contains(&members.len()) {
            return Err(format!("{job} wants {:?} workers and got {members:?}", known.workers));
        }
        if members.iter().any(|member| self.kinds.get(member) != Some(&fingerprint.device)) {
            return Err(format!("{members:?} are not all of kind {}", fingerprint.device));
        }
        for (other, known) in self.jobs.iter().filter(|(other, _)| *other != job) {
            if let State::Running(busy) = &known.state
                && busy.iter().any(|worker| distinct.contains(worker))
            {
                return Err(format!("{job} gets {members:?} while {other} has {busy:?}"));
            }
        }
        Ok(())
    }

    /// A message is sent.
    pub(super) fn told(&self, message: &ToWorker) -> Check {
        let ToWorker::Start(start) = message else { return Ok(()) };
        // The same decision may have ended it again: its members hear of that next.
        if self.jobs.get(&start.job.id).is_some_and(|it| it.generation >= start.generation) {
            return Ok(());
        }
        Err(format!(
            "generation {} of {} was started, and the journal does not know it",
            start.generation, start.job.id
        ))
    }

    /// A submit is answered.
    pub(super) fn submitted(&mut self, job: &JobId) -> Check {
        self.acknowledged.insert(job.clone());
        if self.jobs.contains_key(job) {
            return Ok(());
        }
        Err(format!("{job} was accepted, and the journal does not know it"))
    }

    /// A cancel is answered.
    pub(super) fn cancelled(&self, job: &JobId) -> Check {
        match self.jobs.get(job) {
            Some(known) if !known.state.is_final() => {
                Err(format!("the cancel of {job} was answered, and it is {:?}", known.state))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// What people see: every job that was accepted, and of each that does not run, why and since when.
    pub(super) fn seen(&self, statuses: &[JobStatus]) -> Check {
        for job in &self.acknowledged {
            let Some(status) = statuses.iter().find(|status| status.id == job.0) else {
                return Err(format!("{job} was accepted and is lost"));
            };
            let said = status.reason.is_some() && status.reason_text.is_some();
            if (status.state != JobState::Running && !said) || status.since_unix_ms.is_none() {
                return Err(format!("{job} is {:?} and says no reason", status.state));
            }
            let state = self.jobs.get(job).map(|known| &known.state);
            let final_here = state.is_some_and(State::is_final);
            if final_here != status.state.is_final() {
                return Err(format!("{job} is {:?}, in the journal {state:?}", status.state));
            }
        }
        Ok(())
    }

    /// A generation begins from this checkpoint: no later one had begun before that step.
    pub(super) fn resumed(
        &self,
        store: &Store,
        job: &JobId,
        (step, generation): (u64, Generation),
    ) -> Check {
        for (later, start) in store.starts_of(job) {
            if later > generation && start < step {
                return Err(format!(
                    "{job} resumes from step {step} of generation {generation}, but generation {later} \
                     went another way at step {start}"
                ));
            }
        }
        Ok(())
    }

    /// A rank applies a step. Once all of the generation that trains the job have, the step is done: no
    /// other generation with one of them in it does it again, unless the job went back to the queue, or
    /// to the store. What a generation does that was superseded is nobody's.
    pub(super) fn committed(
        &mut self,
        (job, step): (&JobId, u64),
        generation: Generation,
        (worker, world): (&WorkerId, usize),
    ) -> Check {
        if self.current(job) != Some(generation) {
            return Ok(());
        }
        let applied = self.applied.entry((job.clone(), step)).or_default();
        let own = applied.entry(generation).or_default();
        own.workers.insert(worker.clone());
        own.is_whole |= own.workers.len() == world;
        let own = own.clone();
        for (other, done) in applied.iter().filter(|(other, _)| **other != generation) {
            if own.is_whole && done.is_whole && !own.workers.is_disjoint(&done.workers) {
                return Err(format!(
                    "generations {other} and {generation} both did step {step} of {job}"
                ));
            }
        }
        Ok(())
    }

    /// A worker gives up what it holds of a job.
    pub(super) fn forgets(&mut self, worker: &WorkerId, job: &JobId) {
        let of_job = self.applied.iter_mut().filter(|((of, _), _)| of == job);
        for done in of_job.flat_map(|(_, generations)| generations.values_mut()) {
            done.workers.remove(worker);
        }
    }

    /// A job begins from the store, or anew: what was done after that may be done again.
    pub(super) fn goes_back(&mut self, job: &JobId) {
        self.applied.retain(|(of, _), _| of != job);
    }

    /// Something was put into the store: what people see of it never goes back.
    pub(super) fn published(&mut self, store: &Store, job: &JobId) -> Check {
        let newest = store.newest(job, true).map_or(0, |(step, _)| step);
        let before = self.published.insert(job.clone(), newest).unwrap_or(0);
        if newest >= before {
            return Ok(());
        }
        Err(format!("the newest checkpoint of {job} was of step {before}, and is of step {newest}"))
    }

    /// A rank is through with a job: whatever happened on the way, the state is the one that an
    /// undisturbed run ends with.
    pub(super) fn finished(&self, record: &JobRecord, state: u64) -> Check {
        if state == undisturbed(record) {
            return Ok(());
        }
        Err(format!("{} ended with another state than an undisturbed run", record.id))
    }

    /// A rank applies a step: each slice of it was counted once.
    pub(super) fn applied(
        &self,
        (job, step): (&JobId, u64),
        slices: u32,
        runs: &[Range<u32>],
    ) -> Check {
        let mut counted: Vec<u32> = runs.iter().flat_map(Clone::clone).collect();
        counted.sort_unstable();
        if counted.iter().copied().eq(0..slices) {
            return Ok(());
        }
        Err(format!("step {step} of {job} counts slices {counted:?} of {slices}"))
    }
}

/// The state that a job ends with when nothing goes wrong.
fn undisturbed(record: &JobRecord) -> u64 {
    (0..record.plan.total_steps).fold(1, |state, step| mix(&record.id, step, state))
}

impl State {
    fn is_final(&self) -> bool {
        match self {
            Self::Waiting | Self::Running(_) => false,
            Self::Succeeded | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// The job and generation of a report that something is recorded for.
fn report_of(message: &FromWorker) -> Option<(&JobId, Generation)> {
    match message {
        FromWorker::Running { job, generation, .. }
        | FromWorker::Progress { job, generation, .. }
        | FromWorker::CheckpointReport { job, generation, .. }
        | FromWorker::Finished { job, generation, .. }
        | FromWorker::JobFailed { job, generation, .. } => Some((job, *generation)),
        FromWorker::Hello(_)
        | FromWorker::Heartbeat { .. }
        | FromWorker::Ready { .. }
        | FromWorker::Damaged { .. }
        | FromWorker::Left { .. }
        | FromWorker::Log { .. }
        | FromWorker::Draining => None,
    }
}
