//! A worker's process: a session that talks, and the device thread of [`super::device`]. Orders, reports
//! and what follows from them are the very code of [`crate::protocol`].

use super::check::Check;
use super::coordinator::brief;
use super::device::Group;
use super::world::{End, Happening, World, between, millis};
use crate::protocol::reports::Reports;
use crate::protocol::slate::Slate;
use ptv2_common::api::Checkpoint;
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::manifest::checkpoint_key;
use ptv2_common::place::{DevicePhase, Place};
use ptv2_common::session::{Attached, FromWorker, Hello, ToWorker, Warm};
use std::time::Duration;

/// Without a sign of life for this long, a worker breaks its connection.
const SILENCE: Duration = millis(6_000);

/// How far a rank is, and its state: a hash of all that was done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Standing {
    pub(super) place: Place,
    pub(super) state: u64,
}

/// A worker's process.
pub(super) struct Worker {
    pub(super) hello: Hello,
    pub(super) connection: Option<u64>,
    /// When the coordinator gave its last sign of life.
    pub(super) heard_at: Duration,
    pub(super) reports: Reports,
    /// The process is stopped until then; nothing of it moves.
    pub(super) stopped_until: Duration,
    /// The device thread hangs until then; the session still talks.
    pub(super) hung_until: Duration,
    /// Time between two moves of the device thread.
    pub(super) pace: Duration,
    pub(super) moved_at: Duration,
    pub(super) slate: Slate,
    pub(super) group: Option<Group>,
    /// A job whose rows are being loaded ahead, and how many moves that still takes.
    pub(super) warming: Option<(Box<Warm>, u32)>,
    pub(super) attached: Option<Attached>,
    pub(super) held: Option<(JobId, Option<Standing>)>,
    /// Whom it writes checkpoints for: the job, its generation, and where that began.
    pub(super) keeper: Option<(JobId, Generation, u64)>,
    /// Checkpoints on their way to the store.
    pub(super) uploads: u32,
    /// What breaks on the device thread in its group.
    pub(super) breaks: Option<Break>,
}

/// What fails on a device while no peer is lost.
#[derive(Debug, Clone, Copy)]
pub(super) enum Break {
    /// The job cannot go on, whoever runs it.
    Job,
    /// NCCL.
    Transport,
    /// The device, for this process.
    Device,
}

/// A put to the store on its way.
pub(super) struct Write {
    pub(super) job: JobId,
    pub(super) generation: Generation,
    pub(super) start_step: u64,
    /// The checkpoint; none for a generation's start.
    pub(super) standing: Option<Standing>,
}

impl Worker {
    pub(super) fn new(hello: Hello, pace: Duration, now: Duration) -> Self {
        Self {
            hello,
            connection: None,
            heard_at: now,
            reports: Reports::default(),
            stopped_until: Duration::ZERO,
            hung_until: Duration::ZERO,
            pace,
            moved_at: now,
            slate: Slate::default(),
            group: None,
            warming: None,
            attached: None,
            held: None,
            keeper: None,
            uploads: 0,
            breaks: None,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.group.is_none() && self.warming.is_none()
    }

    pub(super) fn is_in(&self, job: &JobId, generation: Generation) -> bool {
        let group = self.group.as_ref();
        group.is_some_and(|it| it.start.job.id == *job && it.start.generation == generation)
    }

    pub(super) fn standing(&self, job: &JobId) -> Option<Standing> {
        self.held.as_ref().filter(|(held, _)| held == job).and_then(|(_, standing)| *standing)
    }

    /// What the process does at this moment, for the counts of what happened in its midst.
    pub(super) fn moment(&self) -> &'static str {
        match &self.group {
            None => "idle",
            Some(group) => group.stage.name(),
        }
    }

    pub(super) fn hello(&self) -> Hello {
        let attached = self.reports.attached(self.attached.clone());
        Hello { attached, ..self.hello.clone() }
    }

    pub(super) fn heartbeat(&self, now: Duration) -> FromWorker {
        let start = self.group.as_ref().map(|group| &group.start);
        let phase = match &self.group {
            None if self.warming.is_some() => DevicePhase::Loading,
            None => DevicePhase::Idle,
            Some(group) => group.stage.phase(),
        };
        FromWorker::Heartbeat {
            serving: start.map(|start| (start.job.id.clone(), start.generation)),
            place: None,
            phase,
            phase_age_ms: u64::try_from((now - self.moved_at).as_millis()).unwrap_or(0),
            backbone_loads: 0,
            speed: None,
        }
    }
}

impl World {
    /// Sends the reports that were not sent over this connection, some of them twice and very late.
    pub(super) fn flush(&mut self, id: &WorkerId) {
        loop {
            let Some(worker) = self.workers.get_mut(id) else { return };
            let Some(connection) = worker.connection else { return };
            let Some(envelope) = worker.reports.send() else { return };
            if !self.is_calm && self.rng.u32(0..12) == 0 {
                let message = Box::new(envelope.message.clone());
                let echo = Happening::Echo { worker: id.clone(), message };
                let after = between(&mut self.rng, 10, 12_000);
                self.push(after, echo);
            }
            self.say(id, connection, envelope.seq, envelope.message);
        }
    }

    pub(super) fn say(
        &mut self,
        id: &WorkerId,
        connection: u64,
        seq: Option<u64>,
        message: FromWorker,
    ) {
        let (worker, message) = (id.clone(), Box::new(message));
        let said = Happening::Said { worker, connection, seq, message };
        self.send((connection, true), said);
    }

    /// A worker connects and says who it is, how it is, and what was not taken.
    pub(super) fn dial(&mut self, id: &WorkerId) {
        let blocked = self.is_cut(&End::Worker(id.clone()), &End::Coordinator);
        let Some(worker) = self.workers.get_mut(id) else { return };
        if worker.connection.is_some() {
            return;
        }
        if self.coordinator.is_none() || blocked {
            return self.push(millis(700), Happening::Dial(id.clone()));
        }
        self.connections += 1;
        let connection = self.connections;
        worker.connection = Some(connection);
        worker.heard_at = self.now;
        worker.reports.again();
        let (hello, beat) = (FromWorker::Hello(worker.hello()), worker.heartbeat(self.now));
        self.say(id, connection, None, hello);
        self.say(id, connection, None, beat);
        self.flush(id);
    }

    /// A worker sees that its connection is gone, and dials again.
    pub(super) fn cut_off(&mut self, id: &WorkerId, connection: u64) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        if worker.connection == Some(connection) {
            worker.connection = None;
            let after = between(&mut self.rng, 50, 1_500);
            self.push(after, Happening::Dial(id.clone()));
        }
    }

    /// Both sides' signs of life.
    pub(super) fn beat(&mut self, id: &WorkerId) {
        let now = self.now;
        let from_coordinator = self.is_cut(&End::Coordinator, &End::Worker(id.clone()));
        let coordinator = self.coordinator.as_ref();
        let known = coordinator.and_then(|it| it.connections.get(id)).copied();
        let Some(worker) = self.workers.get_mut(id) else { return };
        if worker.connection.is_some() && worker.connection == known && !from_coordinator {
            worker.heard_at = now;
        }
        let is_lost = now - worker.heard_at > SILENCE;
        if let Some(connection) = worker.connection {
            let beat = worker.heartbeat(now);
            self.say(id, connection, None, beat);
            if is_lost {
                self.count("lost the coordinator");
                self.note(|| format!("{id} hears nothing of the coordinator"));
                self.cut_off(id, connection);
                self.push(millis(1), Happening::Closed { worker: id.clone(), connection });
            }
        }
        self.push(millis(1_200), Happening::Beat(id.clone()));
    }

    /// A message of the coordinator arrives.
    pub(super) fn obey(&mut self, id: &WorkerId, connection: u64, message: ToWorker) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(id) else { return };
        if worker.connection != Some(connection) {
            return;
        }
        worker.heard_at = now;
        if !matches!(message, ToWorker::Taken { .. }) {
            self.note(|| format!("{id} is told {}", brief(&message)));
        }
        let Some(worker) = self.workers.get_mut(id) else { return };
        if let ToWorker::Taken { seq } = message {
            worker.reports.taken(seq);
        }
        worker.slate.obey(message);
    }

    /// A put reaches the store, though its writer may have left the group long since, or be dead.
    pub(super) fn publish(&mut self, id: &WorkerId, write: Write) -> Check {
        let Write { job, generation, start_step, standing } = write;
        let now = self.now;
        if self.store.fails {
            if let Some(worker) = self.workers.get_mut(id) {
                worker.uploads = worker.uploads.saturating_sub(1);
                let outcome = Err(Explained::new("the store is away"));
                let waited_ms = 0;
                let report = FromWorker::CheckpointReport { job, generation, outcome, waited_ms };
                worker.reports.put(report);
                self.flush(id);
            }
            return Ok(());
        }
        let fenced = self.mutant_fence();
        self.store.publish(&(job.clone(), generation), start_step, standing, fenced);
        self.check.published(&self.store, &job)?;
        let Some(worker) = self.workers.get_mut(id) else { return Ok(()) };
        worker.uploads = worker.uploads.saturating_sub(1);
        worker.moved_at = worker.moved_at.max(now);
        let Some(standing) = standing else { return Ok(()) };
        let checkpoint = Checkpoint {
            run: 0,
            seed: None,
            ends_run: false,
            ends_job: false,
            key: checkpoint_key(&job, standing.place.step, generation),
            step: standing.place.step,
            generation: generation.0,
            is_best: false,
            metric: None,
            bytes: 0,
            tuned_sha256: String::new(),
        };
        let (outcome, waited_ms) = (Ok(checkpoint), 0);
        let report = FromWorker::CheckpointReport { job, generation, outcome, waited_ms };
        worker.reports.put(report);
        self.flush(id);
        Ok(())
    }

    /// Has a put on its way.
    pub(super) fn upload(&mut self, id: &WorkerId, standing: Option<Standing>) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let Some((job, generation, start_step)) = worker.keeper.clone() else { return };
        worker.uploads += 1;
        let write = Write { job, generation, start_step, standing };
        let after = between(&mut self.rng, 10, 3_000);
        self.push(after, Happening::Publish(id.clone(), Box::new(write)));
    }
}
