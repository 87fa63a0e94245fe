//! The runs of a job: one a seed, one after the other, each bit for bit what a job of that seed alone
//! would be.

use super::state::TunedState;
use ptv2_common::job::JobRecord;

/// Where each run stands in a job's steps, which are numbered through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runs {
    seeds: Vec<u64>,
    /// Steps of a run.
    steps: u64,
    /// Steps between two evaluations.
    evaluation: u64,
    /// Evaluations without a better one after which a run ends.
    patience: Option<u32>,
}

impl Runs {
    /// The runs of a job.
    pub fn of(job: &JobRecord) -> Self {
        let training = &job.spec.training;
        Self {
            seeds: training.run_seeds(),
            steps: job.steps_per_run(),
            evaluation: u64::from(training.eval_every) * job.plan.steps_per_epoch.max(1),
            patience: training.early_stopping,
        }
    }

    /// A run's seed.
    pub fn seed(&self, run: u32) -> u64 {
        self.seeds.get(run as usize).copied().unwrap_or_default()
    }

    /// The same where the job has several, for people.
    pub fn shown_seed(&self, run: u32) -> Option<u64> {
        (self.seeds.len() > 1).then(|| self.seed(run))
    }

    /// Steps of the job that come before a run.
    pub fn start(&self, run: u32) -> u64 {
        u64::from(run) * self.steps
    }

    /// Steps of a run.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Whether the job has no run after this one.
    pub fn is_last(&self, run: u32) -> bool {
        run as usize + 1 >= self.seeds.len()
    }

    /// Whether a state that was evaluated is its run's last: all steps are done, or there was no better
    /// evaluation for too long.
    pub fn is_over(&self, state: &TunedState) -> bool {
        if state.steps_of_run() >= self.steps {
            return true;
        }
        let (Some(patience), Some(best), Some(last)) = (self.patience, &state.best, &state.last)
        else {
            return false;
        };
        last.step == state.step
            && (last.step - best.step).div_ceil(self.evaluation) >= u64::from(patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptv2_common::manifest::BestMetric;

    fn runs(patience: Option<u32>) -> Runs {
        Runs { seeds: vec![11, 44], steps: 12, evaluation: 3, patience }
    }

    fn state(run: u32, step: u64, best: u64) -> TunedState {
        let metric = |step| Some(BestMetric { metric: "accuracy".into(), value: 0.5, step });
        let mut state = TunedState::new(Vec::new());
        (state.run, state.run_start, state.step) = (run, 12 * u64::from(run), step);
        (state.best, state.last) = (metric(best), metric(step));
        state
    }

    #[test]
    fn steps_are_numbered_through() {
        let runs = runs(None);
        assert_eq!((runs.start(1), state(1, 15, 15).steps_of_run()), (12, 3));
        assert_eq!((runs.seed(1), runs.is_last(0), runs.is_last(1)), (44, false, true));
        assert!(runs.is_over(&state(0, 12, 3)) && !runs.is_over(&state(1, 12, 3)));
    }

    #[test]
    fn a_run_ends_when_it_has_not_been_better_for_too_long() {
        let over =
            |patience, run, step, best| runs(Some(patience)).is_over(&state(run, step, best));
        assert!(!over(2, 0, 3, 3) && !over(2, 0, 6, 3) && over(2, 0, 9, 3));
        assert!(!over(2, 1, 18, 15) && over(2, 1, 21, 15));
        let mut unevaluated = state(0, 9, 3);
        unevaluated.step = 10;
        assert!(!runs(Some(2)).is_over(&unevaluated), "only an evaluation ends a run");
    }
}
