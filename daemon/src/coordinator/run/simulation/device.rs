//! The device thread: takes orders and trains, move by move. What follows from an order, from the ranks'
//! standings and from their votes is the very code of [`crate::protocol`].

use super::check::Check;
use super::exchange::{Frame, Kind};
use super::mutant::Mutant;
use super::worker::{Break, Standing, Worker};
use super::world::{End, Happening, World, millis};
use crate::protocol::level::{self, Levelling};
use crate::protocol::slate::{Order, Stop};
use ptv2_common::error::Explained;
use ptv2_common::ids::{Generation, JobId, WorkerId};
use ptv2_common::place::{DevicePhase, Place, PlacePhase};
use ptv2_common::session::{Attached, FromWorker, LeaveReason, Stage as Told, Start};
use std::ops::Range;
use std::time::Duration;

/// From a peer that is stopped or cut off nothing comes for this long before it is lost.
const SILENCE: Duration = millis(4_000);
/// Ranks meet within this time.
const JOINING: Duration = millis(10_000);

/// The group that a device thread is in.
pub(super) struct Group {
    pub(super) start: Box<Start>,
    pub(super) stage: Stage,
    /// Since when it waits for its peers.
    pub(super) since: Duration,
    /// A state to be kept once all ranks have been seen to agree on it.
    pub(super) unverified: Option<Standing>,
}

/// What a rank does, and what it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Loading(u32),
    Joining,
    Levelling(u32),
    Forward,
    Reducing,
    Updating,
    Evaluating,
    Scoring,
    Leaving,
    Finishing,
}

impl Stage {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Loading(_) => "loading",
            Self::Joining => "joining",
            Self::Levelling(_) => "levelling",
            Self::Forward => "a forward pass",
            Self::Reducing => "a reduction",
            Self::Updating => "an update",
            Self::Evaluating | Self::Scoring => "an evaluation",
            Self::Leaving | Self::Finishing => "the end",
        }
    }

    pub(super) fn phase(self) -> DevicePhase {
        match self {
            Self::Loading(_) => DevicePhase::Loading,
            Self::Joining | Self::Levelling(_) => DevicePhase::Joining,
            Self::Forward | Self::Reducing | Self::Updating | Self::Leaving => {
                DevicePhase::Stepping
            }
            Self::Evaluating | Self::Scoring => DevicePhase::Evaluating,
            Self::Finishing => DevicePhase::Finishing,
        }
    }
}

/// What a rank finds when it looks for its peers' frames.
pub(super) enum Found {
    All(Vec<Frame>),
    Waiting,
    Lost(WorkerId, bool),
}

impl Worker {
    pub(super) fn stage(&mut self, stage: Stage, now: Duration) {
        if let Some(group) = &mut self.group {
            (group.stage, group.since) = (stage, now);
        }
    }

    pub(super) fn leave(&mut self, reason: LeaveReason) {
        let Some(group) = self.group.take() else { return };
        let (job, generation) = (group.start.job.id.clone(), group.start.generation);
        self.slate.leave();
        self.tell(Told::Left);
        let place = self.standing(&job).map(|standing| standing.place);
        self.reports.put(FromWorker::Left { job, generation, place, reason });
    }

    pub(super) fn tell(&mut self, stage: Told) {
        if let Some(attached) = &mut self.attached {
            attached.stage = stage;
        }
    }

    fn forget(&mut self, job: &JobId) {
        self.held.take_if(|(held, _)| held == job);
        self.attached.take_if(|attached| attached.job == *job);
    }

    fn begin(&mut self, start: Box<Start>, now: Duration) {
        let (job, generation) = (start.job.id.clone(), start.generation);
        self.slate.enter(&job, generation);
        self.attached = Some(Attached { job: job.clone(), generation, stage: Told::Forming });
        self.keeper = None;
        let is_held = self.held.as_ref().is_some_and(|(held, _)| *held == job);
        if !is_held {
            self.held = Some((job, None));
        }
        let stage = if is_held { Stage::Joining } else { Stage::Loading(2) };
        self.group = Some(Group { start, stage, since: now, unverified: None });
    }

    /// Whether the present state is to be evaluated.
    fn evaluates(&self, start: &Start, standing: Standing) -> bool {
        let Place { step, phase, .. } = standing.place;
        let due = step > 0 && (step.is_multiple_of(5) || step >= start.job.plan.total_steps);
        due && phase != PlacePhase::Evaluated
    }

    /// What comes after a step or an evaluation.
    pub(super) fn next_stage(&self, start: &Start, standing: Standing) -> Stage {
        if self.evaluates(start, standing) {
            Stage::Evaluating
        } else if standing.place.step >= start.job.plan.total_steps {
            Stage::Finishing
        } else {
            Stage::Forward
        }
    }
}

impl World {
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
            None => self.idle(id),
            Some(_) if worker.slate.is_aborted() => worker.leave(LeaveReason::Stopped),
            Some(_) if worker.breaks.is_some() => {
                if self.break_down(id) {
                    return Ok(());
                }
            }
            Some(group) => {
                let (start, stage) = (group.start.clone(), group.stage);
                self.move_on(id, &start, stage)?;
            }
        }
        self.flush(id);
        self.push(pace, Happening::Move(id.clone()));
        Ok(())
    }

    /// Something fails while no peer is lost. Says whether the process ends with it.
    fn break_down(&mut self, id: &WorkerId) -> bool {
        let Some(worker) = self.workers.get_mut(id) else { return true };
        let (Some(broken), Some(group)) = (worker.breaks.take(), &worker.group) else {
            return false;
        };
        let detail = "it broke".into();
        match broken {
            Break::Transport => worker.leave(LeaveReason::TransportFailed { detail }),
            Break::Device => {
                worker.leave(LeaveReason::DeviceLost { detail });
                // What it says last may not be heard any more.
                self.flush(id);
                self.end_worker(id);
                return true;
            }
            Break::Job => {
                let (job, generation) = (group.start.job.id.clone(), group.start.generation);
                let error = Explained::new("the backbone has changed");
                worker.reports.put(FromWorker::JobFailed { job, generation, error });
                worker.group = None;
                worker.slate.leave();
                worker.tell(Told::Left);
            }
        }
        false
    }

    /// Loads ahead, or takes the next order.
    fn idle(&mut self, id: &WorkerId) {
        let (now, store_fails) = (self.now, self.store.fails);
        let Some(worker) = self.workers.get_mut(id) else { return };
        if let Some((warm, moves)) = &mut worker.warming {
            if !store_fails {
                *moves -= 1;
            }
            if *moves == 0 {
                let job = warm.job.id.clone();
                worker.warming = None;
                if let Some((held, _)) = worker.held.take_if(|(held, _)| *held != job) {
                    self.check.forgets(id, &held);
                }
                worker.held.get_or_insert((job.clone(), None));
                worker.reports.put(FromWorker::Ready { job, outcome: Ok(()) });
            }
            return;
        }
        match worker.slate.take() {
            None => {}
            Some(Order::Start(start)) => {
                if let Some((held, _)) = worker.held.take_if(|(held, _)| *held != start.job.id) {
                    self.check.forgets(id, &held);
                }
                worker.begin(start, now);
            }
            Some(Order::Warm(warm)) => worker.warming = Some((warm, 2)),
            Some(Order::Forget(job)) => worker.forget(&job),
            Some(Order::Stop(Stop { job, generation, park })) => {
                let standing = worker.standing(&job);
                if !park {
                    worker.forget(&job);
                }
                let (place, reason) = (standing.map(|it| it.place), LeaveReason::Stopped);
                worker.reports.put(FromWorker::Left { job, generation, place, reason });
                if park && standing.is_some() {
                    self.upload(id, standing);
                }
            }
            Some(Order::End) => {
                let standing = worker.held.as_ref().and_then(|(_, standing)| *standing);
                if standing.is_some() {
                    self.upload(id, standing);
                }
                self.flush(id);
                self.end_worker(id);
            }
        }
    }

    fn move_on(&mut self, id: &WorkerId, start: &Start, stage: Stage) -> Check {
        let now = self.now;
        match stage {
            Stage::Loading(moves) => {
                let fails = self.store.fails;
                let Some(worker) = self.workers.get_mut(id) else { return Ok(()) };
                if moves == 0 {
                    worker.stage(Stage::Joining, now);
                } else if !fails {
                    worker.stage(Stage::Loading(moves - 1), now);
                }
            }
            Stage::Joining => self.join(id, start),
            Stage::Levelling(source) => self.level(id, start, source),
            Stage::Forward => self.forward(id, start),
            Stage::Reducing => self.reduce(id, start)?,
            Stage::Updating => self.update(id, start)?,
            Stage::Evaluating => self.score(id, start),
            Stage::Scoring => self.evaluated(id, start),
            Stage::Leaving => self.leave_together(id, start)?,
            Stage::Finishing => self.finish(id, start)?,
        }
        Ok(())
    }

    /// Looks for a frame of every rank, or of one.
    pub(super) fn look_for(
        &mut self,
        id: &WorkerId,
        start: &Start,
        kind: Kind,
        step: u64,
    ) -> Found {
        let ranks = 0..u32::try_from(start.members.len()).unwrap_or(0);
        self.look_for_some(id, start, (kind, step), ranks)
    }

    fn look_for_some(
        &mut self,
        id: &WorkerId,
        start: &Start,
        (kind, step): (Kind, u64),
        ranks: Range<u32>,
    ) -> Found {
        let (job, generation) = (&start.job.id, start.generation);
        let exchange = self.exchanges.entry((job.clone(), generation)).or_default();
        let mut frames = Vec::new();
        let mut missing = None;
        for rank in ranks {
            let peer = &start.members[rank as usize].worker;
            let sent = exchange.sent(kind, step, rank).cloned();
            let (from, to) = (End::Worker(peer.clone()), End::Worker(id.clone()));
            let is_open = *peer == *id || !super::world::is_cut(&self.cuts, self.now, &from, &to);
            match sent {
                Some(frame) if is_open => frames.push(frame),
                Some(_) | None => missing = missing.or_else(|| Some((peer.clone(), is_open))),
            }
        }
        let Some((peer, is_open)) = missing else { return Found::All(frames) };
        let since =
            self.workers.get(id).and_then(|worker| worker.group.as_ref()).map(|it| it.since);
        let waited = self.now - since.unwrap_or(self.now);
        let known = self.workers.get(&peer);
        let has_joined = kind != Kind::Hello;
        let is_in = known.is_some_and(|peer| peer.is_in(job, generation));
        let is_silent = !is_open || known.is_none_or(|peer| peer.stopped_until > self.now);
        if is_open && has_joined && !is_in && !(known.is_some() && is_silent) {
            return Found::Lost(peer, false);
        }
        if (is_silent && waited > SILENCE) || (!has_joined && waited > JOINING) {
            return Found::Lost(peer, true);
        }
        Found::Waiting
    }

    /// Sends a frame and looks for everyone's; leaves when one is lost.
    pub(super) fn gather(
        &mut self,
        id: &WorkerId,
        start: &Start,
        (kind, step): (Kind, u64),
        frame: Frame,
    ) -> Option<Vec<Frame>> {
        let key = (start.job.id.clone(), start.generation);
        self.exchanges.entry(key).or_default().send(kind, step, start.rank, frame);
        let found = self.look_for(id, start, kind, step);
        self.settle(id, found)
    }

    pub(super) fn settle(&mut self, id: &WorkerId, found: Found) -> Option<Vec<Frame>> {
        match found {
            Found::All(frames) => Some(frames),
            Found::Waiting => None,
            Found::Lost(peer, silent) => {
                let detail = "no frame came".into();
                let worker = self.workers.get_mut(id)?;
                worker.leave(LeaveReason::PeerLost { peer, silent, detail });
                None
            }
        }
    }

    /// Meets the other ranks, and learns who has the furthest state.
    fn join(&mut self, id: &WorkerId, start: &Start) {
        let Some(own) = self.workers.get(id).map(|worker| worker.standing(&start.job.id)) else {
            return;
        };
        let hello = level::Standing {
            place: own.map(|own| own.place),
            hash: own.map_or(0, |own| own.state),
        };
        let Some(frames) = self.gather(id, start, (Kind::Hello, 0), Frame::Hello(hello)) else {
            return;
        };
        let standings: Vec<level::Standing> = frames
            .into_iter()
            .filter_map(|frame| if let Frame::Hello(one) = frame { Some(one) } else { None })
            .collect();
        let stored = start.resume.as_deref().and_then(parse).map(|(step, _)| step);
        let Levelling { mut source, mut from_store, .. } = level::level(&standings, stored);
        if self.mutant == Some(Mutant::LevelToTheLast)
            && let Some((last, _)) = (0..)
                .zip(&standings)
                .filter(|(_, one)| one.place.is_some())
                .min_by_key(|(_, one)| one.place)
        {
            (source, from_store) = (last, false);
        }
        if source == start.rank {
            let state = if from_store { self.begin_with(start) } else { own };
            let Some(state) = state else { return };
            let key = (start.job.id.clone(), start.generation);
            let exchange = self.exchanges.entry(key).or_default();
            exchange.send(Kind::State, 0, start.rank, Frame::State(state));
        }
        if from_store {
            self.check.goes_back(&start.job.id);
        }
        let now = self.now;
        if let Some(worker) = self.workers.get_mut(id) {
            worker.stage(Stage::Levelling(source), now);
        }
    }

    /// The state of the newest checkpoint, or the first values; none while the store fails.
    fn begin_with(&self, start: &Start) -> Option<Standing> {
        let Some((step, generation)) = start.resume.as_deref().and_then(parse) else {
            return Some(Standing { place: Place::default(), state: 1 });
        };
        let state = self.store.state(&start.job.id, step, generation)?;
        (!self.store.fails).then_some(state)
    }

    /// Takes the source's state and begins.
    fn level(&mut self, id: &WorkerId, start: &Start, source: u32) {
        let found = self.look_for_some(id, start, (Kind::State, 0), source..source + 1);
        let Some(frames) = self.settle(id, found) else { return };
        let Some(Frame::State(standing)) = frames.into_iter().next() else { return };
        let (job, generation, now) = (start.job.id.clone(), start.generation, self.now);
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.held = Some((job.clone(), Some(standing)));
        worker.tell(Told::Running);
        let place = standing.place;
        worker.reports.put(FromWorker::Running { job: job.clone(), generation, place });
        let next = worker.next_stage(start, standing);
        worker.stage(next, now);
        if start.rank == 0 {
            worker.keeper = Some((job, generation, place.step));
            self.upload(id, None);
        }
    }
}

/// Step and generation of a manifest's key.
fn parse(key: &str) -> Option<(u64, Generation)> {
    let name = crate::checkpoint::read::Name::parse(key.to_owned())?;
    Some((name.step, Generation(name.generation)))
}
