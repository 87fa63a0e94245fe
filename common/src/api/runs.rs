//! The runs of a job with several seeds, and what they come to.

use crate::manifest::BestMetric;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One run of a job with several seeds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RunStatus {
    /// Its seed.
    pub seed: u64,
    /// Epochs completed.
    pub epoch: u32,
    /// Best evaluation so far.
    pub best: Option<BestMetric>,
    /// Last evaluation.
    pub last: Option<BestMetric>,
    /// SHA-256 of its final tuned state, when it has ended.
    pub tuned_sha256: Option<String>,
}

impl RunStatus {
    /// A run that has not begun.
    pub fn new(seed: u64) -> Self {
        Self { seed, epoch: 0, best: None, last: None, tuned_sha256: None }
    }
}

/// The deciding metric over the runs of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    /// The metric's name.
    pub metric: String,
    /// Of each run's best evaluation.
    pub best: Spread,
    /// Of each run's last evaluation.
    pub last: Spread,
}

impl Summary {
    /// Over the runs that have ended; none where there is no such run.
    pub fn of(runs: &[RunStatus]) -> Option<Self> {
        let ended = || runs.iter().filter(|run| run.tuned_sha256.is_some());
        let best: Vec<&BestMetric> = ended().filter_map(|run| run.best.as_ref()).collect();
        let last: Vec<f64> = ended().filter_map(|run| run.last.as_ref()).map(|l| l.value).collect();
        let metric = best.first()?.metric.clone();
        let best: Vec<f64> = best.iter().map(|best| best.value).collect();
        Some(Self { metric, best: Spread::of(&best)?, last: Spread::of(&last)? })
    }
}

/// Mean and standard deviation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Spread {
    /// The mean.
    pub mean: f64,
    /// The sample's standard deviation (divided by n - 1); none of a single value.
    pub sd: Option<f64>,
    /// Values.
    pub n: u32,
}

impl Spread {
    /// Mean and standard deviation of some values; none of no values.
    #[expect(clippy::cast_precision_loss, reason = "runs are few")]
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = u32::try_from(values.len()).ok().filter(|n| *n > 0)?;
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let sd = (n > 1).then(|| (squares / (values.len() - 1) as f64).sqrt());
        Some(Self { mean, sd, n })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_mean_and_sample_deviation() {
        // Deviations of -2, 0 and 2: squares sum to 8, over n - 1 = 2 gives 4.
        let spread = Spread::of(&[70.0, 72.0, 74.0]).unwrap();
        assert_eq!((spread.mean, spread.sd, spread.n), (72.0, Some(2.0), 3));
        assert_eq!(Spread::of(&[0.5]).unwrap().sd, None);
        assert_eq!(Spread::of(&[]), None);
    }
}
