//! The artifact store: generations' starts and checkpoints' manifests, create-only.

use ptv2_common::ids::{Generation, JobId};
use ptv2_common::manifest::counts;
use std::collections::BTreeMap;

/// What the simulated store holds.
#[derive(Default)]
pub(super) struct Store {
    /// The step that each generation started from.
    starts: BTreeMap<(JobId, Generation), u64>,
    /// The state in each checkpoint.
    checkpoints: BTreeMap<(JobId, u64, Generation), u64>,
    /// Whether it answers.
    pub(super) fails: bool,
}

impl Store {
    /// Puts a checkpoint, its generation's start before it.
    pub(super) fn publish(
        &mut self,
        (job, generation): &(JobId, Generation),
        start_step: u64,
        (step, state): (u64, u64),
    ) {
        self.starts.entry((job.clone(), *generation)).or_insert(start_step);
        self.checkpoints.entry((job.clone(), step, *generation)).or_insert(state);
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

    pub(super) fn state(&self, job: &JobId, step: u64, generation: Generation) -> Option<u64> {
        self.checkpoints.get(&(job.clone(), step, generation)).copied()
    }

    pub(super) fn starts_of(&self, job: &JobId) -> impl Iterator<Item = (Generation, u64)> {
        let of = self.starts.iter().filter(move |((of, _), _)| of == job);
        of.map(|((_, generation), start)| (*generation, *start))
    }
}
