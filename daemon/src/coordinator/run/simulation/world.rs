//! Everything around the coordinator, in one thread and one order: what happens next is the earliest of
//! what is due, and chance is a seed.

use super::check::{Check, Checker};
use super::coordinator::{Coordinator, Facts};
use super::exchange::Exchange;
use super::mutant::Mutant;
use super::store::Store;
use super::worker::{Worker, Write};
use super::{Event, tests};
use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::job::JobRecord;
use ptv2_common::session::{FromWorker, ToWorker};
use std::collections::BTreeMap;
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
        seq: Option<u64>,
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
    StoreAnswers,
    Flip,
    Calm,
}

/// What a client wants, until it is answered.
pub(super) enum Ask {
    Submit(Box<JobRecord>),
    Cancel(JobId),
    Retry(JobId),
    Drain(WorkerId),
}

/// An end of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Coordinator,
    Worker(WorkerId),
}

/// Paths, each in one direction, that carry nothing, and until when.
pub(super) type Cuts = BTreeMap<(End, End), Duration>;

/// Whether a path carries nothing.
pub(super) fn is_cut(cuts: &Cuts, now: Duration, from: &End, to: &End) -> bool {
    cuts.get(&(from.clone(), to.clone())).is_some_and(|until| *until > now)
}

pub(super) struct World {
    pub(super) rng: fastrand::Rng,
    pub(super) now: Duration,
    queue: BTreeMap<(Duration, u64), Happening>,
    order: u64,
    /// When the last message of a connection, in a direction, arrives: none overtakes it.
    arrivals: BTreeMap<(u64, bool), Duration>,
    pub(super) connections: u64,
    pub(super) coordinator: Option<Coordinator>,
    pub(super) lives: u64,
    pub(super) journal: Facts,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    spawned: u64,
    pub(super) exchanges: BTreeMap<(JobId, Generation), Exchange>,
    pub(super) cuts: Cuts,
    /// Number of each worker's last report in the journal, and the one that is being decided upon.
    pub(super) reported: BTreeMap<WorkerId, u64>,
    pub(super) hearing: Option<(WorkerId, u64)>,
    pub(super) store: Store,
    pub(super) check: Checker,
    pub(super) mutant: Option<Mutant>,
    pub(super) is_calm: bool,
    pub(super) jobs: u64,
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
            cuts: Cuts::new(),
            reported: BTreeMap::new(),
            hearing: None,
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
            if let Some(until) = self.delayed(&happening) {
                self.delay(until, order, happening);
                continue;
            }
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
        match happening {
            Happening::Tick => {
                self.push(millis(500), Happening::Tick);
                self.decide(Event::Tick)?;
                return self.look();
            }
            Happening::Said { worker, connection, seq, message } => {
                return self.hear(worker, (connection, seq), *message);
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
            Happening::Publish(worker, write) => return self.publish(&worker, *write),
            Happening::Ask(ask) => return self.answer(ask),
            Happening::Restart => {
                if self.coordinator.is_none() {
                    return self.start_coordinator();
                }
            }
            Happening::Fault => self.fault(),
            Happening::StoreAnswers => self.store.fails = false,
            Happening::Flip => self.flip(),
            Happening::Calm => return self.calm(),
        }
        Ok(())
    }

    /// When whoever it concerns can take it, if that is later than now.
    fn delayed(&self, happening: &Happening) -> Option<Duration> {
        let of_coordinator = || self.coordinator.as_ref().map(|it| it.stalled_until);
        let of_worker = |worker| self.workers.get(worker).map(|it| it.stopped_until);
        let path = |from: End, to: End| self.cuts.get(&(from, to)).copied();
        let until = match happening {
            Happening::Said { worker, .. } | Happening::Closed { worker, .. } => {
                of_coordinator().max(path(End::Worker(worker.clone()), End::Coordinator))
            }
            Happening::Told { worker, .. } | Happening::Cut { worker, .. } => {
                of_worker(worker).max(path(End::Coordinator, End::Worker(worker.clone())))
            }
            Happening::Tick
            | Happening::Echo { .. }
            | Happening::Result(..)
            | Happening::Ask(_) => of_coordinator(),
            Happening::Dial(worker)
            | Happening::Beat(worker)
            | Happening::Move(worker)
            | Happening::Publish(worker, _) => of_worker(worker),
            Happening::Prepare(..)
            | Happening::Restart
            | Happening::Fault
            | Happening::StoreAnswers
            | Happening::Flip
            | Happening::Calm => None,
        }?;
        (until > self.now).then_some(until)
    }

    /// Puts something off, in the same order among others; what is sent after it on its path does not
    /// overtake it.
    fn delay(&mut self, until: Duration, order: u64, happening: Happening) {
        self.asks += usize::from(matches!(happening, Happening::Ask(_)));
        if let Happening::Said { connection, .. } | Happening::Closed { connection, .. } =
            &happening
        {
            let last = self.arrivals.entry((*connection, true)).or_default();
            *last = until.max(*last);
        }
        if let Happening::Told { connection, .. } | Happening::Cut { connection, .. } = &happening {
            let last = self.arrivals.entry((*connection, false)).or_default();
            *last = until.max(*last);
        }
        self.queue.insert((until, order), happening);
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

    pub(super) fn is_cut(&self, from: &End, to: &End) -> bool {
        is_cut(&self.cuts, self.now, from, to)
    }

    pub(super) fn submit(&mut self) {
        self.jobs += 1;
        let min = self.rng.u32(1..4);
        let max = self.rng.u32(min..5);
        let mut record = tests::record(&format!("j{}", self.jobs), &format!("{min}..{max}"));
        record.plan.slices = self.rng.u32(max..9);
        record.plan.total_steps = self.rng.u64(2..45);
        record.spec.resources.priority = self.rng.i32(0..2);
        let after = between(&mut self.rng, 0, 5_000);
        self.push(after, Happening::Ask(Ask::Submit(Box::new(record))));
    }

    pub(super) fn spawn(&mut self) {
        self.spawned += 1;
        let kind = if !self.is_calm && self.rng.u32(0..5) == 0 { "other" } else { "cpu" };
        let hello = tests::hello(&format!("w{}", self.spawned), kind);
        let id = hello.worker.clone();
        self.check.worker(&id, kind);
        let pace = between(&mut self.rng, 40, 200);
        self.workers.insert(id.clone(), Worker::new(hello, pace, self.now));
        self.push(millis(1), Happening::Dial(id.clone()));
        self.push(millis(2), Happening::Beat(id.clone()));
        self.push(millis(3), Happening::Move(id));
    }

    /// From now on nothing goes wrong, and there are workers enough.
    fn calm(&mut self) -> Check {
        self.note(|| "calm".into());
        self.is_calm = true;
        self.store.fails = false;
        self.cuts.clear();
        for worker in self.workers.values_mut() {
            worker.stopped_until = self.now;
            worker.hung_until = self.now;
        }
        for _ in 0..4 {
            self.spawn();
        }
        self.push(millis(8_000), Happening::Flip);
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
