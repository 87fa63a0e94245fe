//! What the ranks agree on, and what is kept of it: checkpoints, the end of a run, the end of a job.

use super::generation::Training;
use super::held::{Exit, Progress};
use super::join;
use super::keeper::Last;
use crate::clock;
use crate::numerics::state::TunedState;
use crate::protocol::vote::{Verdict, Vote, judge};
use ptv2_common::error::Explained;
use ptv2_common::place::{DevicePhase, Place, PlacePhase};
use ptv2_common::spec::Interval;
use std::sync::Arc;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// How often a rank that waits for the store looks whether its group goes on.
const LOOK: Duration = Duration::from_millis(200);

impl Training<'_> {
    /// Compares the states that the ranks began with. Where they agree, what waited for that is kept.
    /// Says whether all leave now.
    pub(super) fn verify(&mut self, votes: &[Vote]) -> Result<bool, Exit> {
        match judge(self.group.rank(), votes) {
            Verdict::Agreed { leaving } => {
                if let Some(state) = self.unverified.take()
                    && let Some(keeper) = &self.held.keeper
                {
                    keeper.offer(state);
                }
                Ok(leaving)
            }
            Verdict::Diverged { own, majority } => {
                let hashes: Vec<String> =
                    votes.iter().map(|vote| format!("{:016x}", vote.hash)).collect();
                Err(Exit::Diverged {
                    own,
                    majority,
                    detail: format!(
                        "the ranks' states differ after step {}: {}; {}",
                        self.place()?.step,
                        hashes.join(", "),
                        if majority {
                            "the minority takes the majority's"
                        } else {
                            "all go back to the last checkpoint"
                        }
                    ),
                })
            }
        }
    }

    pub(super) fn checkpoint_is_due(&self) -> Result<bool, Exit> {
        if self.held.keeper.is_none() {
            return Ok(false);
        }
        let step = self.place()?.step;
        let (at, kept) = self.kept;
        Ok(match self.start.job.spec.checkpoint.every {
            Interval::Steps(steps) => step.saturating_sub(kept) >= steps,
            Interval::Time(time) => clock::now().saturating_duration_since(at) >= time,
        } && !self.evaluation_is_due()?)
    }

    /// Has the current state kept once all ranks have been seen to agree on it.
    pub(super) fn keep(&mut self) -> Result<(), Exit> {
        if self.held.keeper.is_some() {
            let state = self.whole_state()?.clone();
            self.kept = (clock::now(), state.step);
            self.unverified = Some(state);
        }
        Ok(())
    }

    /// Sees that all ranks hold the same state, without a step.
    pub(super) fn agree(&mut self) -> Result<(), Exit> {
        let (step, hash) = (self.state()?.step, self.held.stepper.hash(self.state()?));
        let own = Vote { hash, leaving: false, cost: 0.0, seconds: 0.0 };
        let votes = self.group.all_gather_bytes(step, &own.to_bytes())?;
        let vote = |bytes: &Vec<u8>| bytes.first_chunk().map_or(own, Vote::from_bytes);
        let votes: Vec<Vote> = votes.iter().map(vote).collect();
        self.verify(&votes).map(drop)
    }

    /// The job's end: the ranks agree once more, and rank 0 sees its last checkpoint into the store.
    /// With it go more files, where there are any.
    pub(super) fn finish(mut self, files: Vec<(String, Vec<u8>)>) -> Result<String, Exit> {
        let place = self.place()?;
        self.shared.pulse.moved(DevicePhase::Finishing, Some(place));
        // What would have been kept now is the last state itself.
        self.unverified = None;
        self.agree()?;
        let state = Arc::new(self.whole_state()?.clone());
        let tuned_sha256 = state.tuned_sha256();
        let Some(keeper) = &self.held.keeper else { return Ok(tuned_sha256) };
        let answer = keeper.finish(Last { state, files });
        loop {
            match answer.recv_timeout(LOOK) {
                Ok(_) => return Ok(tuned_sha256),
                Err(RecvTimeoutError::Timeout) if self.group.is_aborted() => {
                    return Err(Exit::Left);
                }
                // The writer says what keeps it; this is not a thread that hangs.
                Err(RecvTimeoutError::Timeout) => {
                    self.shared.pulse.moved(DevicePhase::Finishing, Some(place));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Explained::new("the writer of checkpoints ended").into());
                }
            }
        }
    }

    /// Ends a run that others follow: rank 0 has its last state written beside training, and every rank
    /// begins the next run with first values of its seed.
    pub(super) fn next_run(&mut self) -> Result<(), Exit> {
        // What would have been kept now is the last state itself.
        self.unverified = None;
        self.agree()?;
        let ended = Arc::new(self.whole_state()?.clone());
        if let Some(keeper) = &self.held.keeper {
            keeper.end_run(Arc::clone(&ended));
        }
        let run = ended.run + 1;
        let values = join::first_values(&self.start.job, self.held, self.runs.seed(run))?;
        let step = self.runs.start(run);
        let place = Place { step, phase: PlacePhase::Begun, evaluation_slice: 0 };
        let state = TunedState { run, run_start: step, step, ..TunedState::new(values) };
        self.held.stepper.load(&state)?;
        let mut next = Progress::at(place, state);
        if let Some(before) = self.held.progress.take() {
            next.ended = before.ended;
        }
        next.ended.push(ended);
        self.held.progress = Some(next);
        self.kept = (clock::now(), step);
        Ok(())
    }
}
