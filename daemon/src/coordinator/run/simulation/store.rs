//! The artifact store: generations' starts and checkpoints' manifests, create-only.

use super::worker::Standing;
use ptv2_common::ids::{Generation, JobId};
use ptv2_common::manifest::counts;
use std::collections::BTreeMap;

/// What the simulated store holds.
#[derive(Default)]
pub(super) struct Store {
    /// The step that each generation started from.
    starts: BTreeMap<(JobId, Generation), u64>,
    /// The state in each checkpoint.
    checkpoints: BTreeMap<(JobId, u64, Generation), Standing>,
    /// Whether it does not answer.
    pub(super) fails: bool,
}

impl Store {
    /// Puts a generation's start, if it is not there, and a checkpoint, as `checkpoint::write` does.
    /// `fenced` is what a mutant leaves out: what was published before stays.
    pub(super) fn publish(
        &mut self,
        (job, generation): &(JobId, Generation),
        start_step: u64,
        checkpoint: Option<Standing>,
        fenced: bool,
    ) {
        if !self.starts.contains_key(&(job.clone(), *generation)) {
            let newest = self.newest(job, true).filter(|_| fenced);
            let start_step = newest.map_or(start_step, |(step, _)| start_step.max(step));
            self.starts.insert((job.clone(), *generation), start_step);
        }
        if let Some(standing) = checkpoint {
            let key = (job.clone(), standing.place.step, *generation);
            self.checkpoints.entry(key).or_insert(standing);
        }
    }

    /// The checkpoint that a new generation begins from. `fenced` is what a mutant leaves out.
    pub(super) fn newest(&self, job: &JobId, fenced: bool) -> Option<(u64, Generation)> {
        let starts: Vec<(Generation, u64)> = self.starts_of(job).collect();
        self.checkpoints
            .keys()
            .filter(|(of, step, generation)| {
                of == job && (!fenced || counts(*step, *generation, &starts))
            })
            .map(|(_, step, generation)| (*step, *generation))
            .max()
    }

    pub(super) fn state(&self, job: &JobId, step: u64, generation: Generation) -> Option<Standing> {
        self.checkpoints.get(&(job.clone(), step, generation)).copied()
    }

    pub(super) fn starts_of(&self, job: &JobId) -> impl Iterator<Item = (Generation, u64)> {
        let of = self.starts.iter().filter(move |((of, _), _)| of == job);
        of.map(|((_, generation), start)| (*generation, *start))
    }
}
