//! The learning rate of each step.

use ptv2_common::spec;

/// A learning rate's course over a job.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The full rate.
    pub rate: f64,
    /// Steps of the whole job.
    pub total_steps: u64,
    /// Steps during which the rate rises.
    pub warmup_steps: u64,
    /// What follows the warm-up.
    pub kind: spec::Schedule,
}

impl Schedule {
    /// The course that a job's spec asks for; the warm-up is rounded up to whole steps.
    pub fn new(training: &spec::TrainingSpec, total_steps: u64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a share between 0 and 1 of a number of steps far below 2^53"
        )]
        let warmup_steps = (training.warmup_ratio * total_steps as f64).ceil() as u64;
        Self { rate: training.learning_rate, total_steps, warmup_steps, kind: training.schedule }
    }

    /// The rate of step `step`, counted from 0: the full rate at 0 without warm-up, and
    /// `rate / total` at the last step of the linear course.
    #[expect(clippy::cast_precision_loss, reason = "numbers of steps are far below 2^53")]
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.rate * step as f64 / self.warmup_steps as f64;
        }
        match self.kind {
            spec::Schedule::Constant => self.rate,
            spec::Schedule::Linear => {
                let (left, whole) = self.left(step);
                self.rate * left / whole
            }
            spec::Schedule::Cosine => {
                let (left, whole) = self.left(step);
                let angle = std::f64::consts::PI * (1.0 - left / whole);
                self.rate * 0.5 * (1.0 + angle.cos())
            }
        }
    }

    /// The steps that are left, `step` included, and all steps after the warm-up.
    #[expect(clippy::cast_precision_loss, reason = "numbers of steps are far below 2^53")]
    fn left(&self, step: u64) -> (f64, f64) {
        let left = self.total_steps.saturating_sub(step) as f64;
        let whole = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        (left, whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(warmup_steps: u64, kind: spec::Schedule, expected: &[f64]) {
        let schedule = Schedule { rate: 0.1, total_steps: 4, warmup_steps, kind };
        for (step, expected) in (0..).zip(expected) {
            assert!((schedule.at(step) - expected).abs() < 1e-15, "step {step}");
        }
    }

    #[test]
    fn courses_are_the_reference_s() {
        check(0, spec::Schedule::Linear, &[0.1, 0.075, 0.05, 0.025, 0.0]);
        check(2, spec::Schedule::Linear, &[0.0, 0.05, 0.1, 0.05, 0.0]);
        check(2, spec::Schedule::Constant, &[0.0, 0.05, 0.1, 0.1, 0.1]);
        // Half of (1 + cos) of no, a quarter, a half, three quarters and the whole of half a turn.
        let root = 2.0_f64.sqrt() / 2.0;
        let half = [0.1, 0.05 * (1.0 + root), 0.05, 0.05 * (1.0 - root), 0.0];
        check(0, spec::Schedule::Cosine, &half);
    }
}
