//! A simulated device thread: it obeys the real worker's slate, meets its peers on the board, and
//! lets time pass where the real one computes.

use super::board::{Board, Meeting, Pace};
use ptv2_common::api::{MetricsRow, StepMetrics};
use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::place::{DevicePhase, Place};
use ptv2_common::session::{Attached, FromWorker, LeaveReason, Stage, Start, ToWorker, Warm};
use ptv2_daemon::protocol::reports::Reports;
use ptv2_daemon::protocol::slate::{Order, Slate, Stop};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Connecting to the peers and becoming level with them.
const JOINING: Duration = Duration::from_millis(20);
/// What all ranks say at the end.
const FINAL: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What the thread is in the middle of.
#[derive(Debug)]
enum Part {
    Idle,
    Joining { start: Box<Start>, until: Instant, seat: Option<watch::Receiver<Meeting>> },
    Running { start: Box<Start>, pace: Pace, seat: watch::Receiver<Meeting>, reported: u64 },
}

/// A simulated device thread.
#[derive(Debug)]
pub(super) struct Device {
    worker: WorkerId,
    board: Arc<Board>,
    slate: Slate,
    part: Part,
    /// The job whose state it holds, and how far that is.
    held: Option<(JobId, u64)>,
    attached: Option<Attached>,
    /// What it has to say.
    pub(super) reports: Reports,
}

impl Device {
    /// A thread that waits for work.
    pub(super) fn new(worker: WorkerId, board: Arc<Board>) -> Self {
        Self {
            worker,
            board,
            slate: Slate::default(),
            part: Part::Idle,
            held: None,
            attached: None,
            reports: Reports::default(),
        }
    }

    /// What it is, or was last, a member of.
    pub(super) fn attached(&self) -> Option<Attached> {
        self.attached.clone()
    }

    /// Takes an order of the coordinator.
    pub(super) fn obey(&mut self, message: ToWorker, now: Instant) {
        // First how far it is by now: a step that is to be finished is the next one.
        self.advance(now);
        self.slate.obey(message);
        self.advance(now);
    }

    /// The message that tells the coordinator what it does.
    pub(super) fn heartbeat(&self, now: Instant) -> FromWorker {
        let (phase, start) = match &self.part {
            Part::Idle => (DevicePhase::Idle, None),
            Part::Joining { start, .. } => (DevicePhase::Joining, Some(start)),
            Part::Running { start, .. } => (DevicePhase::Stepping, Some(start)),
        };
        let step = match &self.part {
            Part::Running { pace, .. } => Some(pace.step(now)),
            Part::Idle | Part::Joining { .. } => self.held.as_ref().map(|(_, step)| *step),
        };
        FromWorker::Heartbeat {
            serving: start.map(|start| (start.job.id.clone(), start.generation)),
            place: step.map(applied),
            phase,
            phase_age_ms: 0,
            backbone_loads: 1,
            speed: Some(1.0),
        }
    }

    /// Waits until there is something to do: time has come, or the group changed.
    pub(super) async fn due(&mut self, now: Instant) {
        let (at, seat) = match &mut self.part {
            Part::Idle => (None, None),
            Part::Joining { until, seat, .. } => (seat.is_none().then_some(*until), seat.as_mut()),
            Part::Running { start, pace, seat, .. } => {
                let is_timed = start.rank == 0 || self.slate.is_leaving();
                (is_timed.then(|| pace.next(now)), Some(seat))
            }
        };
        let time = async {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let change = async {
            match seat {
                // The board keeps all groups: the sender is there.
                Some(seat) => drop(seat.changed().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = time => {}
            () = change => {}
        }
    }

    /// Does all that is due.
    pub(super) fn advance(&mut self, now: Instant) {
        while self.turn(now) {}
    }

    /// Does one thing; false when nothing is due.
    fn turn(&mut self, now: Instant) -> bool {
        match std::mem::replace(&mut self.part, Part::Idle) {
            Part::Idle => self.take_order(now),
            Part::Joining { start, until, seat } => self.join(start, until, seat, now),
            Part::Running { start, pace, seat, reported } => {
                self.train(start, pace, seat, reported, now)
            }
        }
    }

    fn take_order(&mut self, now: Instant) -> bool {
        match self.slate.take() {
            None => return false,
            Some(Order::Warm(warm)) => self.warm(*warm),
            Some(Order::Start(start)) => {
                self.slate.enter(&start.job.id, start.generation);
                self.attach(&start.job.id, start.generation, Stage::Forming);
                self.part = Part::Joining { start, until: now + JOINING, seat: None };
            }
            Some(Order::Forget(job)) => self.forget(&job),
            Some(Order::Stop(Stop { job, generation, park })) => {
                self.left(&job, generation, LeaveReason::Stopped);
                if !park {
                    self.forget(&job);
                }
            }
            // The session ends with the order that caused this one.
            Some(Order::End) => return false,
        }
        true
    }

    fn forget(&mut self, job: &JobId) {
        self.held.take_if(|(held, _)| held == job);
        self.attached.take_if(|attached| attached.job == *job);
    }

    fn warm(&mut self, warm: Warm) {
        self.reports.put(FromWorker::Ready { job: warm.job.id, outcome: Ok(()) });
    }

    fn join(
        &mut self,
        start: Box<Start>,
        until: Instant,
        seat: Option<watch::Receiver<Meeting>>,
        now: Instant,
    ) -> bool {
        if self.slate.is_leaving() {
            self.leave(&start, LeaveReason::Stopped);
            return true;
        }
        let Some(mut seat) = seat else {
            let is_there = now >= until;
            let seat =
                is_there.then(|| self.board.arrive(&start, &self.worker, self.step(&start.job.id)));
            self.part = Part::Joining { start, until, seat };
            return is_there;
        };
        let meeting = seat.borrow_and_update().clone();
        match meeting {
            Meeting::Waiting | Meeting::Over => {
                self.part = Part::Joining { start, until, seat: Some(seat) };
                return false;
            }
            Meeting::Broken(peer) => self.leave(&start, peer_lost(peer)),
            Meeting::Complete(pace) => {
                let (job, generation) = (start.job.id.clone(), start.generation);
                self.held = Some((job.clone(), pace.from));
                self.attach(&job, generation, Stage::Running);
                let place = applied(pace.from);
                self.reports.put(FromWorker::Running { job, generation, place });
                self.board.runs(&start, &self.worker);
                let reported = start.reported_step.min(pace.from);
                self.part = Part::Running { start, pace, seat, reported };
            }
        }
        true
    }

    fn train(
        &mut self,
        start: Box<Start>,
        pace: Pace,
        mut seat: watch::Receiver<Meeting>,
        reported: u64,
        now: Instant,
    ) -> bool {
        let before = self.step(&start.job.id);
        let step = pace.step(now);
        self.held = Some((start.job.id.clone(), step));
        if start.rank == 0 && step > reported {
            self.progress(&start, reported + 1..=step);
        }
        let meeting = seat.borrow_and_update().clone();
        match meeting {
            Meeting::Broken(peer) => self.leave(&start, peer_lost(peer)),
            Meeting::Over => self.finish(&start),
            // All ranks leave after the same step: the one at whose end they look.
            Meeting::Waiting | Meeting::Complete(_)
                if self.slate.is_aborted() || (self.slate.is_leaving() && step > before) =>
            {
                self.leave(&start, LeaveReason::Stopped);
            }
            Meeting::Waiting | Meeting::Complete(_) => {
                let reported = reported.max(step);
                self.part = Part::Running { start, pace, seat, reported };
                return false;
            }
        }
        true
    }

    /// How far the state is that it holds of a job.
    fn step(&self, job: &JobId) -> u64 {
        self.held.as_ref().filter(|(held, _)| held == job).map_or(0, |(_, step)| *step)
    }

    #[expect(clippy::cast_precision_loss, reason = "made-up figures")]
    fn progress(&mut self, start: &Start, steps: std::ops::RangeInclusive<u64>) {
        let row = |step| {
            MetricsRow::Step(StepMetrics {
                seed: None,
                step,
                epoch: 0,
                loss: 0.654_321_987_654_321 + 1.0 / step as f64,
                learning_rate: 0.01 / step as f64,
                grad_norm: 0.123_456_789 / step as f64,
                rows_per_s: 1_234.567_89,
                tokens_per_s: 45_678.901_23,
            })
        };
        let (job, generation) = (start.job.id.clone(), start.generation);
        let metrics = steps.map(row).collect();
        self.reports.put(FromWorker::Progress { job, generation, metrics });
    }

    fn finish(&mut self, start: &Start) {
        let (job, generation) = (start.job.id.clone(), start.generation);
        self.slate.leave();
        let tuned_sha256 = FINAL.to_owned();
        self.attach(&job, generation, Stage::Finished { tuned_sha256: tuned_sha256.clone() });
        self.reports.put(FromWorker::Finished { job, generation, tuned_sha256 });
    }

    fn leave(&mut self, start: &Start, reason: LeaveReason) {
        self.slate.leave();
        self.attach(&start.job.id, start.generation, Stage::Left);
        self.left(&start.job.id, start.generation, reason);
    }

    fn left(&mut self, job: &JobId, generation: Generation, reason: LeaveReason) {
        let place = self.held.as_ref().filter(|(held, _)| held == job);
        let place = place.map(|(_, step)| applied(*step));
        self.reports.put(FromWorker::Left { job: job.clone(), generation, place, reason });
    }

    fn attach(&mut self, job: &JobId, generation: Generation, stage: Stage) {
        self.attached = Some(Attached { job: job.clone(), generation, stage });
    }
}

fn applied(step: u64) -> Place {
    Place { step, ..Place::default() }
}

fn peer_lost(peer: WorkerId) -> LeaveReason {
    let detail = "its connection ended".to_owned();
    LeaveReason::PeerLost { peer, silent: false, detail }
}
