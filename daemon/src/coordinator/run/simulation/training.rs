//! The device thread's steps and evaluations, and the end of a job.

use super::check::Check;
use super::device::Stage;
use super::exchange::{Exchange, Frame, Kind};
use super::mutant::Mutant;
use super::worker::Standing;
use super::world::World;
use crate::coordinator::run::tests::progress;
use crate::numerics::batches::deal;
use crate::protocol::vote::{Verdict, Vote, judge};
use ptv2_common::ids::{JobId, WorkerId};
use ptv2_common::place::{Place, PlacePhase};
use ptv2_common::session::{FromWorker, LeaveReason, Stage as Told, Start};
use std::ops::Range;

/// What a step makes of a state: a function of job and step alone.
pub(super) fn mix(job: &JobId, step: u64, state: u64) -> u64 {
    let salt = job.0.bytes().fold(step, |salt, byte| salt * 31 + u64::from(byte));
    (state ^ salt).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29)
}

impl World {
    pub(super) fn forward(&mut self, id: &WorkerId, start: &Start) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(id) else { return };
        let Some(standing) = worker.standing(&start.job.id) else { return };
        let weights: Vec<f64> = start.members.iter().map(|member| member.weight).collect();
        let slices = start.job.plan.slices;
        let run = deal(&vec![1.0; slices as usize], &weights)[start.rank as usize].clone();
        let leaving = worker.slate.is_leaving();
        let vote = Vote { hash: standing.state, leaving, cost: 1.0, seconds: 1.0 };
        worker.stage(Stage::Reducing, now);
        let key = (start.job.id.clone(), start.generation);
        let exchange = self.exchanges.entry(key).or_default();
        exchange.send(Kind::Parts, standing.place.step, start.rank, Frame::Parts(vote, run));
    }

    /// Waits for everyone's partial sums, and sends the sum of its range.
    pub(super) fn reduce(&mut self, id: &WorkerId, start: &Start) -> Check {
        let job = &start.job.id;
        let Some(standing) = self.workers.get(id).and_then(|worker| worker.standing(job)) else {
            return Ok(());
        };
        let step = standing.place.step;
        let found = self.look_for(id, start, Kind::Parts, step);
        if self.settle(id, found).is_none() {
            return Ok(());
        }
        let key = (job.clone(), start.generation);
        let exchange = self.exchanges.entry(key).or_default();
        exchange.send(Kind::Range, step, start.rank, Frame::Nothing);
        let now = self.now;
        if let Some(worker) = self.workers.get_mut(id) {
            worker.stage(Stage::Updating, now);
        }
        Ok(())
    }

    /// Waits for everyone's sums, judges the votes, and applies the step.
    pub(super) fn update(&mut self, id: &WorkerId, start: &Start) -> Check {
        let (job, generation) = (start.job.id.clone(), start.generation);
        let Some(standing) = self.workers.get(id).and_then(|worker| worker.standing(&job)) else {
            return Ok(());
        };
        let step = standing.place.step;
        let found = self.look_for(id, start, Kind::Range, step);
        if self.settle(id, found).is_none() {
            return Ok(());
        }
        let world = u32::try_from(start.members.len()).unwrap_or(0);
        let exchange = self.exchanges.entry((job.clone(), generation)).or_default();
        let (votes, runs) = parts_of(exchange, world, step);
        let mut verdict = judge(start.rank, &votes);
        if self.mutant == Some(Mutant::IgnoreVotes) {
            verdict = Verdict::Agreed { leaving: votes.iter().any(|vote| vote.leaving) };
        }
        let Verdict::Agreed { leaving } = verdict else {
            return self.diverged(id, &job, verdict);
        };
        self.check.applied((&job, step), start.job.plan.slices, &runs)?;
        self.check.committed((&job, step + 1), generation, (id, start.members.len()))?;
        self.apply(id, start, standing, leaving);
        Ok(())
    }

    fn diverged(&mut self, id: &WorkerId, job: &JobId, verdict: Verdict) -> Check {
        self.count("a flipped bit was seen");
        let Verdict::Diverged { own, majority } = verdict else { return Ok(()) };
        if !majority {
            self.check.goes_back(job);
        }
        let Some(worker) = self.workers.get_mut(id) else { return Ok(()) };
        if own {
            self.check.forgets(id, job);
            worker.held = Some((job.clone(), None));
        }
        let detail = "the states differ".into();
        worker.leave(LeaveReason::Diverged { own: own && majority, detail });
        Ok(())
    }

    fn apply(&mut self, id: &WorkerId, start: &Start, standing: Standing, leaving: bool) {
        let (job, generation, now) = (start.job.id.clone(), start.generation, self.now);
        let step = standing.place.step + 1;
        let state = mix(&job, standing.place.step, standing.state);
        let next = Standing { place: Place { step, ..Place::default() }, state };
        self.note(|| format!("{id} applies step {step} of {job}, generation {generation}"));
        let keeps = self.rng.u32(0..4) == 0;
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.held = Some((job.clone(), Some(next)));
        let Some(group) = &mut worker.group else { return };
        let verified = group.unverified.take();
        if start.rank == 0 && keeps {
            group.unverified = Some(next);
        }
        if start.rank == 0 {
            worker.reports.put(progress(&job.0, generation.0, step));
        }
        let stage = if leaving { Stage::Leaving } else { worker.next_stage(start, next) };
        worker.stage(stage, now);
        if verified.is_some() {
            self.upload(id, verified);
        }
    }

    pub(super) fn score(&mut self, id: &WorkerId, start: &Start) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(id) else { return };
        let Some(standing) = worker.standing(&start.job.id) else { return };
        worker.stage(Stage::Scoring, now);
        let exchange = self.exchanges.entry((start.job.id.clone(), start.generation)).or_default();
        exchange.send(Kind::Scores, standing.place.step, start.rank, Frame::Nothing);
    }

    pub(super) fn evaluated(&mut self, id: &WorkerId, start: &Start) {
        let (job, now) = (&start.job.id, self.now);
        let standing = self.workers.get(id).and_then(|worker| worker.standing(job));
        let Some(mut standing) = standing else { return };
        let found = self.look_for(id, start, Kind::Scores, standing.place.step);
        if self.settle(id, found).is_none() {
            return;
        }
        let Some(worker) = self.workers.get_mut(id) else { return };
        standing.place.phase = PlacePhase::Evaluated;
        worker.held = Some((job.clone(), Some(standing)));
        let stage = worker.next_stage(start, standing);
        worker.stage(stage, now);
    }

    /// All leave with a state that they have seen to be the same.
    pub(super) fn leave_together(&mut self, id: &WorkerId, start: &Start) -> Check {
        if self.agree(id, start)?.is_some()
            && let Some(worker) = self.workers.get_mut(id)
        {
            worker.leave(LeaveReason::Stopped);
            self.count("left after a step");
        }
        Ok(())
    }

    /// Compares the ranks' states once more; gives the state when all hold it.
    fn agree(&mut self, id: &WorkerId, start: &Start) -> Result<Option<Standing>, String> {
        let job = &start.job.id;
        let standing = self.workers.get(id).and_then(|worker| worker.standing(job));
        let Some(standing) = standing else { return Ok(None) };
        let vote = Vote { hash: standing.state, leaving: false, cost: 0.0, seconds: 0.0 };
        let key = (Kind::Last, standing.place.step);
        let Some(frames) = self.gather(id, start, key, Frame::Last(vote)) else { return Ok(None) };
        let votes: Vec<Vote> = frames
            .into_iter()
            .filter_map(|frame| if let Frame::Last(vote) = frame { Some(vote) } else { None })
            .collect();
        let verdict = judge(start.rank, &votes);
        let is_ignored = self.mutant == Some(Mutant::IgnoreVotes);
        if is_ignored || matches!(verdict, Verdict::Agreed { .. }) {
            return Ok(Some(standing));
        }
        self.diverged(id, job, verdict)?;
        Ok(None)
    }

    /// All are through: rank 0 writes the last checkpoint, as soon as the store takes it.
    pub(super) fn finish(&mut self, id: &WorkerId, start: &Start) -> Check {
        let (job, generation) = (start.job.id.clone(), start.generation);
        let Some(standing) = self.agree(id, start)? else { return Ok(()) };
        if start.rank == 0 {
            if self.store.fails {
                return Ok(());
            }
            let keeper = self.workers.get(id).and_then(|worker| worker.keeper.clone());
            let start_step = keeper.map_or(0, |(_, _, start_step)| start_step);
            let fenced = self.mutant_fence();
            self.store.publish(&(job.clone(), generation), start_step, Some(standing), fenced);
            self.check.published(&self.store, &job)?;
        }
        self.check.finished(&start.job, standing.state)?;
        let Some(worker) = self.workers.get_mut(id) else { return Ok(()) };
        let tuned_sha256 = format!("{:016x}", standing.state);
        worker.tell(Told::Finished { tuned_sha256: tuned_sha256.clone() });
        worker.reports.put(FromWorker::Finished { job, generation, tuned_sha256 });
        worker.group = None;
        worker.slate.leave();
        Ok(())
    }

    /// Whether the store's fence keeps what was published; a mutant's does not.
    pub(super) fn mutant_fence(&self) -> bool {
        self.mutant != Some(Mutant::FenceOffPublished)
    }
}

/// Votes and runs of everyone's partial sums, by rank.
fn parts_of(exchange: &Exchange, world: u32, step: u64) -> (Vec<Vote>, Vec<Range<u32>>) {
    (0..world)
        .filter_map(|rank| match exchange.sent(Kind::Parts, step, rank) {
            Some(Frame::Parts(vote, run)) => Some((*vote, run.clone())),
            _ => None,
        })
        .unzip()
}
