//! Signs that training leads nowhere, which people otherwise see after days.

use ptv2_common::error::Explained;

/// Epochs' mean losses and evaluations of a run, as rank 0 sees them.
#[derive(Debug, Default)]
pub(super) struct Health {
    /// Sum and number of the current epoch's losses.
    epoch: (f64, u64),
    /// Mean losses of the epochs so far, in this generation.
    means: Vec<f64>,
    /// Evaluations in a row that gave one class only.
    one_class: u32,
    warned_of_loss: bool,
    warned_of_class: bool,
}

/// The loss is flat when so many epochs have not brought it below this share of the first one's.
const EPOCHS: usize = 3;
const FLAT: f64 = 0.995;

impl Health {
    /// Hears of a step's mean loss. Says, once, when the loss does not fall.
    pub(super) fn step(&mut self, loss: f64, steps_per_epoch: u64) -> Option<String> {
        self.epoch.0 += loss;
        self.epoch.1 += 1;
        if self.epoch.1 < steps_per_epoch {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "an epoch's steps are far below 2^53")]
        self.means.push(self.epoch.0 / self.epoch.1 as f64);
        self.epoch = (0.0, 0);
        let (first, last) = (*self.means.first()?, *self.means.last()?);
        let is_flat =
            self.means.len() > EPOCHS && self.means.iter().skip(1).all(|mean| *mean > FLAT * first);
        if !is_flat || std::mem::replace(&mut self.warned_of_loss, true) {
            return None;
        }
        Some(format!(
            "the loss does not fall: {first:.4} on average in the first epoch seen, {last:.4} after \
             {EPOCHS} more; try another training.learning_rate, or see that labels fit their rows"
        ))
    }

    /// Hears which label all predictions of an evaluation were, if they were one. Says, once, when
    /// two evaluations in a row gave nothing else.
    pub(super) fn evaluation(&mut self, only: Option<&str>) -> Option<String> {
        let Some(label) = only else {
            self.one_class = 0;
            return None;
        };
        self.one_class += 1;
        if self.one_class < 2 || std::mem::replace(&mut self.warned_of_class, true) {
            return None;
        }
        Some(format!(
            "every validation row is predicted to be `{label}`, two evaluations in a row: training may \
             be stuck there; try another training.learning_rate, method.pre_seq_len or training.seed"
        ))
    }
}

/// Why a job ends whose loss or gradient is no number any more. Steps are counted from 1.
pub(super) fn not_finite(step: u64, epoch: u64, slices: &str) -> Explained {
    Explained::new(format!(
        "step {step} was not applied: its loss or gradient is not finite, in slice {slices}"
    ))
    .at(format!("step {step}, epoch {epoch}"))
    .expected("finite numbers")
    .hint(
        "lower training.learning_rate, set training.warmup_ratio, or take precision = \"fp32\"; the \
         checkpoints up to this step are good",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(losses: &[f64]) -> Vec<usize> {
        let mut health = Health::default();
        let said =
            losses.iter().enumerate().filter_map(|(at, loss)| health.step(*loss, 2).map(|_| at));
        said.collect()
    }

    #[test]
    fn a_loss_that_does_not_fall_is_told_once() {
        assert_eq!(losses(&[0.7; 20]), [7], "after four epochs of two steps");
        assert_eq!(losses(&[0.7, 0.7, 0.7, 0.6, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7]), [0; 0]);
    }

    #[test]
    fn one_class_alone_is_told_at_the_second_evaluation() {
        let mut health = Health::default();
        let said: Vec<bool> = [Some("true"), None, Some("true"), Some("true"), Some("true")]
            .into_iter()
            .map(|only| health.evaluation(only).is_some())
            .collect();
        assert_eq!(said, [false, false, false, true, false]);
    }

    #[test]
    fn what_is_not_finite_names_step_and_slice() {
        let error = not_finite(7, 0, "2, 5");
        assert!(error.what.contains("step 7") && error.what.contains("slice 2, 5"), "{error:?}");
    }
}
