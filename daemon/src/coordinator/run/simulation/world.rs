//! Everything around the coordinator, in one thread and one order: what happens next is the earliest of
//! what is due, and chance is a seed.

use super::check::{Check, Checker};
use super::coordinator::{Coordinator, Facts};
use super::mutant::Mutant;
use super::store::Store;
use super::worker::{Exchange, Worker, Write};
use super::{Event, tests};
use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::job::JobRecord;
use ptv2_common::session::{FromWorker, ToWorker};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::time::Duration;

/// After this long nothing goes wrong any more.
const CALM: Duration = millis(40_000);
/// A job that has not ended by then never will.
const DEADLINE: Duration = millis(400_000);

/// What can happen at a moment.
pub(super) enum Happening {
    Tick,
    Said {
        worker: WorkerId,
        connection: u64,
        message: Box<FromWorker>,
    },
    /// A copy of a report comes late and by no connection.
    Echo {
        worker: WorkerId,
        message: Box<FromWorker>,
    },
    /// The coordinator sees a connection's end.
    Closed {
        worker: WorkerId,
        connection: u64,
    },
    Told {
        worker: WorkerId,
        connection: u64,
        message: Box<ToWorker>,
    },
    /// A worker sees its connection's end.
    Cut {
        worker: WorkerId,
        connection: u64,
    },
    Dial(WorkerId),
    Beat(WorkerId),
    Move(WorkerId),
    Prepare(u64, JobId, Generation),
    Result(u64, Box<Event>),
    Publish(WorkerId, Box<Write>),
    Ask(Ask),
    Restart,
    Fault,
    Mend(Mend),
    Calm,
}

/// What a client wants, until it is answered.
pub(super) enum Ask {
    Submit(Box<JobRecord>),
    Cancel(JobId),
    Retry(JobId),
    Drain(WorkerId),
}

/// The end of a fault.
pub(super) enum Mend {
    Store,
    Path(WorkerId, WorkerId),
}

pub(super) struct World {
    pub(super) rng: fastrand::Rng,
    pub(super) now: Duration,
    queue: BTreeMap<(Duration, u64), Happening>,
    order: u64,
    /// When the last message of a connection, in a direction, arrives: none overtakes it.
    arrivals: BTreeMap<(u64, bool), Duration>,
    connections: u64,
    pub(super) coordinator: Option<Coordinator>,
    pub(super) lives: u64,
    pub(super) journal: Facts,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    spawned: u64,
    pub(super) exchanges: BTreeMap<(JobId, Generation), Exchange>,
    cut: BTreeSet<(WorkerId, WorkerId)>,
    pub(super) store: Store,
    pub(super) check: Checker,
    pub(super) mutant: Option<Mutant>,
    pub(super) is_calm: bool,
    jobs: u64,
    asks: usize,
    trace: DefaultHasher,
    /// How often things of a kind happened.
    pub(super) counts: BTreeMap<&'static str, u64>,
    is_loud: bool,
}

pub(super) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn between(rng: &mut fastrand::Rng, least: u64, most: u64) -> Duration {
    Duration::from_micros(rng.u64(least * 1000..=most * 1000))
}

impl World {
    pub(super) fn new(seed: u64, mutant: Option<Mutant>, is_loud: bool) -> Self {
        Self {
            rng: fastrand::Rng::with_seed(seed),
            now: Duration::ZERO,
            queue: BTreeMap::new(),
            order: 0,
            arrivals: BTreeMap::new(),
            connections: 0,
            coordinator: None,
            lives: 0,
            journal: Facts::new(),
            workers: BTreeMap::new(),
            spawned: 0,
            exchanges: BTreeMap::new(),
            cut: BTreeSet::new(),
            store: Store::default(),
            check: Checker::default(),
            mutant,
            is_calm: false,
            jobs: 0,
            asks: 0,
            trace: DefaultHasher::new(),
            counts: BTreeMap::new(),
            is_loud,
        }
    }

    /// Lives until every job has ended; gives the hash of all that happened.
    pub(super) fn live(&mut self) -> Result<u64, String> {
        self.start_coordinator()?;
        for _ in 0..self.rng.u32(1..4) {
            self.submit();
        }
        for _ in 0..self.rng.u32(1..5) {
            self.spawn();
        }
        self.push(millis(200), Happening::Tick);
        self.push(millis(500), Happening::Fault);
        self.push(CALM, Happening::Calm);
        while let Some(((at, order), happening)) = self.queue.pop_first() {
            self.now = at;
            self.asks -= usize::from(matches!(happening, Happening::Ask(_)));
            self.trace.write_u64(order ^ u64::try_from(at.as_micros()).unwrap_or(0));
            self.happen(happening).map_err(|what| format!("at {at:?}: {what}"))?;
            if self.is_calm && self.has_ended() {
                return Ok(self.trace.finish());
            }
            if at > DEADLINE {
                return Err(self.stuck());
            }
        }
        Err("nothing happens any more".into())
    }

    fn happen(&mut self, happening: Happening) -> Check {
        if let Some(until) = self.delayed(&happening) {
            self.push(until - self.now, happening);
            return Ok(());
        }
        match happening {
            Happening::Tick => {
                self.push(millis(500), Happening::Tick);
                self.decide(Event::Tick)?;
                return self.look();
            }
            Happening::Said { worker, connection, message } => {
                return self.hear(worker, connection, *message);
            }
            Happening::Echo { worker, message } => {
                return self.decide(Event::Said(worker, message));
            }
            Happening::Closed { worker, connection } => return self.lose(worker, connection),
            Happening::Told { worker, connection, message } => {
                self.obey(&worker, connection, *message);
            }
            Happening::Cut { worker, connection } => self.cut_off(&worker, connection),
            Happening::Dial(worker) => self.dial(&worker),
            Happening::Beat(worker) => self.beat(&worker),
            Happening::Move(worker) => return self.move_device(&worker),
            Happening::Prepare(life, job, generation) => {
                return self.prepare(life, job, generation);
            }
            Happening::Result(life, event) => {
                if self.coordinator.as_ref().is_some_and(|it| it.life == life) {
                    return self.decide(*event);
                }
            }
            Happening::Publish(worker, write) => self.publish(&worker, *write),
            Happening::Ask(ask) => return self.answer(ask),
            Happening::Restart => {
                if self.coordinator.is_none() {
                    return self.start_coordinator();
                }
            }
            Happening::Fault => self.fault(),
            Happening::Mend(Mend::Store) => self.store.fails = false,
            Happening::Mend(Mend::Path(one, other)) => drop(self.cut.remove(&(one, other))),
            Happening::Calm => return self.calm(),
        }
        Ok(())
    }

    /// When whoever it concerns can take it, if that is later than now.
    fn delayed(&self, happening: &Happening) -> Option<Duration> {
        let until = match happening {
            Happening::Tick
            | Happening::Said { .. }
            | Happening::Echo { .. }
            | Happening::Closed { .. }
            | Happening::Result(..)
            | Happening::Ask(_) => self.coordinator.as_ref()?.stalled_until,
            Happening::Told { worker, .. }
            | Happening::Cut { worker, .. }
            | Happening::Dial(worker)
            | Happening::Beat(worker)
            | Happening::Move(worker)
            | Happening::Publish(worker, _) => self.workers.get(worker)?.stopped_until,
            Happening::Prepare(..)
            | Happening::Restart
            | Happening::Fault
            | Happening::Mend(_)
            | Happening::Calm => return None,
        };
        (until > self.now).then_some(until)
    }

    /// Lets something happen later.
    pub(super) fn push(&mut self, after: Duration, happening: Happening) {
        self.asks += usize::from(matches!(happening, Happening::Ask(_)));
        self.order += 1;
        self.queue.insert((self.now + after, self.order), happening);
    }

    /// Sends something over a connection, in one direction, in order.
    pub(super) fn send(&mut self, path: (u64, bool), happening: Happening) {
        let due = self.now + between(&mut self.rng, 1, 40);
        let last = self.arrivals.entry(path).or_default();
        *last = due.max(*last);
        let after = *last - self.now;
        self.push(after, happening);
    }

    /// Says what happened, to whoever looks at this seed.
    pub(super) fn note(&self, what: impl FnOnce() -> String) {
        if self.is_loud {
            println!("{:>12.3?} {}", self.now, what());
        }
    }

    pub(super) fn count(&mut self, kind: &'static str) {
        *self.counts.entry(kind).or_default() += 1;
    }

    pub(super) fn is_cut(&self, one: &WorkerId, other: &WorkerId) -> bool {
        self.cut.contains(&(one.clone(), other.clone()))
            || self.cut.contains(&(other.clone(), one.clone()))
    }

    fn submit(&mut self) {
        self.jobs += 1;
        let min = self.rng.u32(1..4);
        let max = self.rng.u32(min..5);
        let mut record = tests::record(&format!("j{}", self.jobs), &format!("{min}..{max}"));
        record.plan.slices = self.rng.u32(max..9);
        record.plan.total_steps = self.rng.u64(2..100);
        record.spec.resources.priority = self.rng.i32(0..2);
        let after = between(&mut self.rng, 0, 5_000);
        self.push(after, Happening::Ask(Ask::Submit(Box::new(record))));
    }

    fn spawn(&mut self) {
        self.spawned += 1;
        let kind = if !self.is_calm && self.rng.u32(0..5) == 0 { "other" } else { "cpu" };
        let hello = tests::hello(&format!("w{}", self.spawned), kind);
        let id = hello.worker.clone();
        self.check.worker(&id, kind);
        let pace = between(&mut self.rng, 100, 500);
        self.workers.insert(id.clone(), Worker::new(hello, pace));
        self.push(millis(1), Happening::Dial(id.clone()));
        self.push(millis(2), Happening::Beat(id.clone()));
        self.push(millis(3), Happening::Move(id));
    }

    /// A worker connects, says who it is, sends a heartbeat and what has waited.
    fn dial(&mut self, id: &WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        if worker.connection.is_some() {
            return;
        }
        if self.coordinator.is_none() {
            return self.push(millis(700), Happening::Dial(id.clone()));
        }
        self.connections += 1;
        let connection = self.connections;
        worker.connection = Some(connection);
        let message = Box::new(FromWorker::Hello(worker.hello.clone()));
        self.send((connection, true), Happening::Said { worker: id.clone(), connection, message });
        self.beat_once(id, connection);
        self.flush(id);
    }

    fn beat_once(&mut self, id: &WorkerId, connection: u64) {
        let Some(worker) = self.workers.get(id) else { return };
        let message = Box::new(worker.heartbeat(self.now));
        self.send((connection, true), Happening::Said { worker: id.clone(), connection, message });
    }

    /// A worker sees that its connection is gone, and dials again.
    fn cut_off(&mut self, id: &WorkerId, connection: u64) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        if worker.connection == Some(connection) {
            worker.connection = None;
            let after = between(&mut self.rng, 50, 2_500);
            self.push(after, Happening::Dial(id.clone()));
        }
    }

    /// A worker's process is gone. Its connection's end is seen soon, or not at all.
    pub(super) fn end_worker(&mut self, id: &WorkerId) {
        let Some(worker) = self.workers.remove(id) else { return };
        self.note(|| format!("{id} ends"));
        if let Some(connection) = worker.connection
            && self.rng.u32(0..4) != 0
        {
            let after = between(&mut self.rng, 1, 500);
            self.push(after, Happening::Closed { worker: id.clone(), connection });
        }
    }

    fn any_worker(&mut self) -> Option<WorkerId> {
        let count = self.workers.len();
        (count > 0)
            .then(|| self.rng.usize(0..count))
            .and_then(|nth| self.workers.keys().nth(nth).cloned())
    }

    fn any_job(&mut self) -> JobId {
        JobId(format!("j{}", self.rng.u64(1..=self.jobs)))
    }

    fn fault(&mut self) {
        if self.is_calm {
            return;
        }
        let after = between(&mut self.rng, 200, 4_000);
        self.push(after, Happening::Fault);
        let long = between(&mut self.rng, 100, 16_000);
        match self.rng.u32(0..14) {
            0 if self.jobs < 6 => self.submit(),
            1 => {
                let job = self.any_job();
                self.push(millis(1), Happening::Ask(Ask::Cancel(job)));
            }
            2 | 3 => {
                let job = self.any_job();
                self.push(millis(1), Happening::Ask(Ask::Retry(job)));
            }
            4 | 5 if self.workers.len() < 7 => self.spawn(),
            6 => {
                self.count("died in peace");
                self.kill_coordinator();
            }
            7 => {
                let until = self.now + long / 2;
                self.note(|| format!("the coordinator stalls until {until:?}"));
                if let Some(coordinator) = &mut self.coordinator {
                    coordinator.stalled_until = until;
                }
            }
            8 => {
                self.note(|| format!("the store fails for {long:?}"));
                self.store.fails = true;
                self.push(long, Happening::Mend(Mend::Store));
            }
            kind => self.fault_of_a_worker(kind, long),
        }
    }

    fn fault_of_a_worker(&mut self, kind: u32, long: Duration) {
        let (Some(id), Some(other)) = (self.any_worker(), self.any_worker()) else { return };
        let until = self.now + long;
        self.note(|| format!("fault {kind} of {id} for {long:?}"));
        let Some(worker) = self.workers.get_mut(&id) else { return };
        match kind {
            9 => self.end_worker(&id),
            10 => worker.stopped_until = until,
            11 => worker.hung_until = until,
            12 => {
                if let Some(connection) = worker.connection {
                    self.push(millis(1), Happening::Cut { worker: id.clone(), connection });
                    if self.rng.bool() {
                        self.push(millis(2), Happening::Closed { worker: id, connection });
                    }
                }
            }
            13 => {
                self.cut.insert((id.clone(), other.clone()));
                self.push(long, Happening::Mend(Mend::Path(id, other)));
            }
            0 => worker.breaks = true,
            _ => self.push(millis(1), Happening::Ask(Ask::Drain(id))),
        }
    }

    /// From now on nothing goes wrong, and there are workers enough.
    fn calm(&mut self) -> Check {
        self.note(|| "calm".into());
        self.is_calm = true;
        self.store.fails = false;
        self.cut.clear();
        for worker in self.workers.values_mut() {
            worker.stopped_until = self.now;
            worker.hung_until = self.now;
        }
        for _ in 0..4 {
            self.spawn();
        }
        match &mut self.coordinator {
            Some(coordinator) => coordinator.stalled_until = self.now,
            None => return self.start_coordinator(),
        }
        Ok(())
    }

    /// Whether every job has, and nobody works any more.
    fn has_ended(&self) -> bool {
        self.asks == 0
            && self.check.all_ended()
            && self.workers.values().all(Worker::is_idle)
            && self.coordinator.as_ref().is_some_and(|coordinator| {
                coordinator.cluster.workers(self.now).iter().all(|worker| worker.job.is_none())
            })
    }

    fn stuck(&self) -> String {
        let Some(coordinator) = &self.coordinator else { return "no coordinator".into() };
        let jobs: Vec<String> = coordinator
            .cluster
            .statuses(self.now)
            .into_iter()
            .map(|job| format!("{} {:?} {:?}", job.id, job.state, job.reason_text))
            .collect();
        let workers: Vec<String> = coordinator
            .cluster
            .workers(self.now)
            .into_iter()
            .map(|worker| format!("{} {:?} {:?}", worker.id, worker.job, worker.phase))
            .collect();
        format!("not everything came to its end: {jobs:?}; {workers:?}")
    }
}
