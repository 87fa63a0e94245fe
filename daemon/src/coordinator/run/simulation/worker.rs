//! A worker's process: a session that talks, and a device thread that takes orders and trains. Modelled
//! on `worker::{session, orders, engine, generation, keeper}`.

use super::check::Check;
use super::world::{Happening, World, between, millis};
use crate::numerics::batches::deal;
use ptv2_common::api::{Checkpoint, MetricsRow, StepMetrics};
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::manifest::checkpoint_key;
use ptv2_common::place::{DevicePhase, Place, PlacePhase};
use ptv2_common::session::{FromWorker, Hello, LeaveReason, Start, ToWorker};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

/// A rank waits for its peers this long before it reports one lost.
const PATIENCE: Duration = millis(4_000);

/// How far a rank is, and its state: a hash of all that was done to it.
pub(super) type Standing = (u64, u64);

/// A worker's process.
pub(super) struct Worker {
    pub(super) hello: Hello,
    pub(super) connection: Option<u64>,
    /// What the device thread has to say, until the connection takes it.
    outbox: VecDeque<FromWorker>,
    /// The process is stopped until then; nothing of it moves.
    pub(super) stopped_until: Duration,
    /// The device thread hangs until then; the session still talks.
    pub(super) hung_until: Duration,
    /// Time between two moves of the device thread.
    pace: Duration,
    moved_at: Duration,
    start: Option<Box<Start>>,
    stop: Option<(JobId, Generation, bool)>,
    forget: Option<JobId>,
    group: Option<Group>,
    held: Option<(JobId, Option<Standing>)>,
    /// The next order to the device thread is to fail the job.
    pub(super) breaks: bool,
}

/// The group that a device thread is in.
struct Group {
    start: Box<Start>,
    begun: bool,
    abort: bool,
    /// Since when it waits for its peers.
    since: Duration,
    /// The step that the generation began with.
    start_step: u64,
}

/// What the ranks of a generation have sent each other.
#[derive(Default)]
pub(super) struct Exchange {
    arrived: BTreeMap<u32, Option<Standing>>,
    /// Where all began, once they have met.
    level: Option<Standing>,
    runs: BTreeMap<(u64, u32), Range<u32>>,
}

/// A checkpoint on its way to the store.
pub(super) struct Write {
    job: JobId,
    generation: Generation,
    start_step: u64,
    standing: Standing,
}

impl Worker {
    pub(super) fn new(hello: Hello, pace: Duration) -> Self {
        Self {
            hello,
            connection: None,
            outbox: VecDeque::new(),
            stopped_until: Duration::ZERO,
            hung_until: Duration::ZERO,
            pace,
            moved_at: Duration::ZERO,
            start: None,
            stop: None,
            forget: None,
            group: None,
            held: None,
            breaks: false,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.group.is_none() && self.start.is_none()
    }

    fn is_in(&self, job: &JobId, generation: Generation) -> bool {
        let group = self.group.as_ref();
        group.is_some_and(|it| it.start.job.id == *job && it.start.generation == generation)
    }

    fn standing(&self, job: &JobId) -> Option<Standing> {
        self.held.as_ref().filter(|(held, _)| held == job).and_then(|(_, standing)| *standing)
    }

    pub(super) fn heartbeat(&self, now: Duration) -> FromWorker {
        let start = self.group.as_ref().map(|group| &group.start);
        let phase = match &self.group {
            None => DevicePhase::Idle,
            Some(group) if group.begun => DevicePhase::Stepping,
            Some(_) => DevicePhase::Joining,
        };
        FromWorker::Heartbeat {
            serving: start.map(|start| (start.job.id.clone(), start.generation)),
            place: None,
            phase,
            phase_age_ms: u64::try_from((now - self.moved_at).as_millis()).unwrap_or(0),
            backbone_loads: 0,
        }
    }

    /// Takes an order down, as `worker::orders` does.
    fn obey(&mut self, message: ToWorker) {
        match message {
            ToWorker::Start(start) => {
                let covers = |other: &Start| {
                    other.job.id == start.job.id && other.generation >= start.generation
                };
                let superseded = self.start.as_ref().is_some_and(|pending| covers(pending))
                    || self.group.as_ref().is_some_and(|group| covers(&group.start));
                if !superseded {
                    self.start = Some(start);
                    self.abort();
                }
            }
            ToWorker::Stop { job, generation, checkpoint } => {
                let concerned =
                    |start: &Start| start.job.id == job && start.generation <= generation;
                self.start.take_if(|start| concerned(start));
                if self.group.as_ref().is_some_and(|group| concerned(&group.start)) {
                    self.abort();
                }
                if self.start.as_ref().is_none_or(|start| start.job.id != job) {
                    self.stop = Some((job, generation, checkpoint));
                }
            }
            ToWorker::Release { job, .. } => self.forget = Some(job),
            ToWorker::Welcome { .. } | ToWorker::Refused { .. } | ToWorker::Drain => {}
        }
    }

    fn abort(&mut self) {
        if let Some(group) = &mut self.group {
            group.abort = true;
        }
    }

    fn leave(&mut self, reason: LeaveReason) {
        let Some(group) = self.group.take() else { return };
        let (job, generation) = (group.start.job.id.clone(), group.start.generation);
        let place = self.standing(&job).map(place);
        self.outbox.push_back(FromWorker::Left { job, generation, place, reason });
    }

    /// Takes the next order: stop, forget, or start.
    fn take_order(&mut self, now: Duration) {
        if let Some((job, generation, park)) = self.stop.take() {
            let (place, reason) = (self.standing(&job).map(place), LeaveReason::Stopped);
            if !park {
                self.held.take_if(|(held, _)| *held == job);
            }
            self.outbox.push_back(FromWorker::Left { job, generation, place, reason });
        } else if let Some(job) = self.forget.take() {
            self.held.take_if(|(held, _)| *held == job);
        } else if let Some(start) = self.start.take() {
            if self.held.as_ref().is_none_or(|(held, _)| *held != start.job.id) {
                self.held = Some((start.job.id.clone(), None));
            }
            self.group =
                Some(Group { start, begun: false, abort: false, since: now, start_step: 0 });
        }
    }
}

fn place((step, _): Standing) -> Place {
    Place { step, phase: PlacePhase::Applied, evaluation_slice: 0 }
}

/// What a step makes of a state: a function of job and step alone.
fn mix(job: &JobId, (step, state): Standing) -> Standing {
    let salt = job.0.bytes().fold(step, |salt, byte| salt * 31 + u64::from(byte));
    (step + 1, (state ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29))
}

impl World {
    /// Sends what waits in a worker's outbox, some of it twice, some copies very late.
    pub(super) fn flush(&mut self, id: &WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let Some(connection) = worker.connection else { return };
        let waiting: Vec<FromWorker> = worker.outbox.drain(..).collect();
        for message in waiting {
            if !self.is_calm && self.rng.u32(0..12) == 0 {
                let echo =
                    Happening::Echo { worker: id.clone(), message: Box::new(message.clone()) };
                let after = between(&mut self.rng, 10, 12_000);
                self.push(after, echo);
            }
            let message = Box::new(message);
            let said = Happening::Said { worker: id.clone(), connection, message };
            self.send((connection, true), said);
        }
    }

    pub(super) fn beat(&mut self, id: &WorkerId) {
        let Some(worker) = self.workers.get(id) else { return };
        if let Some(connection) = worker.connection {
            let message = Box::new(worker.heartbeat(self.now));
            let said = Happening::Said { worker: id.clone(), connection, message };
            self.send((connection, true), said);
        }
        self.push(millis(1_500), Happening::Beat(id.clone()));
    }

    /// A message of the coordinator arrives. A drained worker ends.
    pub(super) fn obey(&mut self, id: &WorkerId, connection: u64, message: ToWorker) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        if worker.connection != Some(connection) {
            return;
        }
        if matches!(message, ToWorker::Drain) {
            return self.end_worker(id);
        }
        worker.obey(message);
    }

    /// The device thread's next move.
    pub(super) fn move_device(&mut self, id: &WorkerId) -> Check {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(id) else { return Ok(()) };
        let pace = worker.pace;
        if worker.hung_until > now {
            let rest = worker.hung_until - now;
            self.push(rest, Happening::Move(id.clone()));
            return Ok(());
        }
        worker.moved_at = now;
        match &worker.group {
            None => worker.take_order(now),
            Some(group) if group.abort => worker.leave(LeaveReason::Stopped),
            Some(group) if worker.breaks => {
                let (job, generation) = (group.start.job.id.clone(), group.start.generation);
                let error = Explained::new("the backbone has changed");
                worker.outbox.push_back(FromWorker::JobFailed { job, generation, error });
                (worker.group, worker.breaks) = (None, false);
            }
            Some(group) if group.begun => self.step(id)?,
            Some(_) => self.join(id),
        }
        self.flush(id);
        self.push(pace, Happening::Move(id.clone()));
        Ok(())
    }

    /// Meets the other ranks and takes the furthest state that anyone has.
    fn join(&mut self, id: &WorkerId) {
        let Some(worker) = self.workers.get(id) else { return };
        let Some(Group { start, since, .. }) = &worker.group else { return };
        let (job, generation) = (start.job.id.clone(), start.generation);
        let (start, since, own) = (start.clone(), *since, worker.standing(&job));
        let exchange = self.exchanges.entry((job.clone(), generation)).or_default();
        exchange.arrived.insert(start.rank, own);
        let missing =
            self.missing(id, &start, |exchange, rank| exchange.arrived.contains_key(&rank));
        let exchange = self.exchanges.entry((job.clone(), generation)).or_default();
        if exchange.level.is_none() && missing.is_none() {
            let furthest = exchange.arrived.values().flatten().max().copied();
            let stored = start.resume.as_deref().and_then(parse);
            exchange.level = Some(match (furthest, stored) {
                (Some(own), None) => own,
                (Some(own), Some((step, _))) if step <= own.0 => own,
                (_, Some((step, of))) => {
                    (step, self.store.state(&job, step, of).unwrap_or_default())
                }
                (None, None) => (0, 1),
            });
        }
        let (level, now) = (exchange.level, self.now);
        let Some(worker) = self.workers.get_mut(id) else { return };
        if let (Some(level), Some(group)) = (level, &mut worker.group) {
            (group.begun, group.since, group.start_step) = (true, now, level.0);
            worker.held = Some((job.clone(), Some(level)));
            let place = place(level);
            worker.outbox.push_back(FromWorker::Running { job, generation, place });
        } else if let Some(peer) = missing
            && now - since > PATIENCE
        {
            worker.leave(LeaveReason::PeerLost { peer, detail: "not there".into() });
        }
    }

    /// The first peer that is not in the same generation, cannot be reached, or has not sent.
    fn missing(
        &self,
        id: &WorkerId,
        start: &Start,
        has_sent: impl Fn(&Exchange, u32) -> bool,
    ) -> Option<WorkerId> {
        let exchange = self.exchanges.get(&(start.job.id.clone(), start.generation))?;
        let lacking = |(rank, peer): &(u32, &WorkerId)| {
            !has_sent(exchange, *rank) || (*peer != id && self.is_cut(id, peer))
        };
        let members = start.members.iter().map(|member| &member.worker);
        (0..).zip(members).find(lacking).map(|(_, peer)| peer.clone())
    }

    /// One step, or one more wait for a peer's part of it; at the end, the farewell.
    fn step(&mut self, id: &WorkerId) -> Check {
        let Some(worker) = self.workers.get(id) else { return Ok(()) };
        let Some(group) = &worker.group else { return Ok(()) };
        let (start, since) = (group.start.clone(), group.since);
        let (job, generation) = (start.job.id.clone(), start.generation);
        let Some(standing) = worker.standing(&job) else {
            return Err(format!("{id} steps {job} without a state"));
        };
        let slices = start.job.plan.slices;
        let weights: Vec<f64> = start.members.iter().map(|member| member.weight).collect();
        let runs = deal(&vec![1.0; slices as usize], &weights);
        let step = standing.0;
        let exchange = self.exchanges.entry((job.clone(), generation)).or_default();
        exchange.runs.insert((step, start.rank), runs[start.rank as usize].clone());
        let sent = |exchange: &Exchange, rank| exchange.runs.contains_key(&(step, rank));
        if let Some(peer) = self.missing(id, &start, sent) {
            let is_gone = self.workers.get(&peer).is_none_or(|peer| !peer.is_in(&job, generation));
            let (now, Some(worker)) = (self.now, self.workers.get_mut(id)) else { return Ok(()) };
            if is_gone || now - since > PATIENCE {
                worker.leave(LeaveReason::PeerLost { peer, detail: "no frame came".into() });
            }
            return Ok(());
        }
        if step >= start.job.plan.total_steps {
            self.finish(id, &start, standing);
            return Ok(());
        }
        let exchange = &self.exchanges[&(job.clone(), generation)];
        let runs: Vec<Range<u32>> = (0..u32::try_from(start.members.len()).unwrap_or(0))
            .filter_map(|rank| exchange.runs.get(&(step, rank)).cloned())
            .collect();
        self.check.applied((&job, step), slices, &runs)?;
        self.apply(id, &start, standing);
        Ok(())
    }

    fn apply(&mut self, id: &WorkerId, start: &Start, standing: Standing) {
        let (job, generation) = (start.job.id.clone(), start.generation);
        let next = mix(&job, standing);
        self.note(|| format!("{id} applies step {} of {job}, generation {generation}", next.0));
        let writes = self.rng.u32(0..4) == 0;
        let after = between(&mut self.rng, 10, 4_000);
        let now = self.now;
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.held = Some((job.clone(), Some(next)));
        let Some(group) = &mut worker.group else { return };
        group.since = now;
        let start_step = group.start_step;
        if start.rank != 0 {
            return;
        }
        let metrics = vec![MetricsRow::Step(metrics(next.0))];
        worker.outbox.push_back(FromWorker::Progress { job: job.clone(), generation, metrics });
        if writes {
            let write = Write { job, generation, start_step, standing: next };
            self.push(after, Happening::Publish(id.clone(), Box::new(write)));
        }
    }

    /// All are through: rank 0 writes the last checkpoint, as soon as the store takes it.
    fn finish(&mut self, id: &WorkerId, start: &Start, standing: Standing) {
        let (job, generation) = (start.job.id.clone(), start.generation);
        if start.rank == 0 {
            if self.store.fails {
                return;
            }
            let group = self.workers.get(id).and_then(|worker| worker.group.as_ref());
            let start_step = group.map_or(0, |group| group.start_step);
            self.store.publish(&(job.clone(), generation), start_step, standing);
        }
        let Some(worker) = self.workers.get_mut(id) else { return };
        let tuned_sha256 = format!("{:016x}", standing.1);
        worker.outbox.push_back(FromWorker::Finished { job, generation, tuned_sha256, last: None });
        worker.group = None;
    }

    /// A checkpoint reaches the store, though its writer may have left the group long since.
    pub(super) fn publish(&mut self, id: &WorkerId, write: Write) {
        let Write { job, generation, start_step, standing } = write;
        let outcome = if self.store.fails {
            Err(Explained::new("the store is away"))
        } else {
            self.store.publish(&(job.clone(), generation), start_step, standing);
            Ok(Checkpoint {
                key: checkpoint_key(&job, standing.0, generation),
                step: standing.0,
                generation: generation.0,
                is_best: false,
                metric: None,
                bytes: 0,
                tuned_sha256: String::new(),
            })
        };
        if let Some(worker) = self.workers.get_mut(id) {
            worker.outbox.push_back(FromWorker::CheckpointReport { job, generation, outcome });
            self.flush(id);
        }
    }
}

fn metrics(step: u64) -> StepMetrics {
    StepMetrics {
        step,
        epoch: 0,
        loss: 1.0,
        learning_rate: 0.1,
        grad_norm: 1.0,
        rows_per_s: 1.0,
        tokens_per_s: 1.0,
    }
}

/// Step and generation of a manifest's key.
fn parse(key: &str) -> Option<(u64, Generation)> {
    let name = crate::checkpoint::read::Name::parse(key.to_owned())?;
    Some((name.step, Generation(name.generation)))
}
