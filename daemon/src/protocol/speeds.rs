//! How fast the ranks of a group are, measured by themselves and told with each step's votes. All ranks
//! hold the same numbers and deal the next step's slices by them, so a slow worker gets fewer and does
//! not set the pace. Which rank computes a slice changes no bit of the result.

use super::vote::Vote;

/// What a measurement is worth after each further step. Half of the weight lies on the last five.
const FADING: f64 = 0.87;
/// A rank that got no slices is taken for a little faster after each step, until it gets one and is
/// measured again.
const HOPE: f64 = 1.03;

#[derive(Debug, Clone, Copy)]
struct Speed {
    /// By what the coordinator knew.
    given: f64,
    /// Cost done and seconds taken, both fading.
    cost: f64,
    seconds: f64,
}

impl Speed {
    fn measured(&self) -> Option<f64> {
        (self.seconds > 0.0 && self.cost > 0.0).then(|| self.cost / self.seconds)
    }
}

/// The ranks' speeds.
#[derive(Debug, Clone)]
pub struct Speeds {
    ranks: Vec<Speed>,
}

impl Speeds {
    /// Begins with relative speeds, by rank.
    pub fn new(given: impl IntoIterator<Item = f64>) -> Self {
        let speed = |given| Speed { given, cost: 0.0, seconds: 0.0 };
        Self { ranks: given.into_iter().map(speed).collect() }
    }

    /// Takes a step's votes, by rank.
    pub fn record(&mut self, votes: &[Vote]) {
        for (speed, vote) in self.ranks.iter_mut().zip(votes) {
            let (cost, seconds) = (f64::from(vote.cost), f64::from(vote.seconds));
            if cost > 0.0 && seconds > 0.0 && cost.is_finite() && seconds.is_finite() {
                speed.cost = speed.cost * FADING + cost;
                speed.seconds = speed.seconds * FADING + seconds;
            } else {
                speed.cost *= HOPE;
            }
        }
    }

    /// Cost a second of one rank, once it was measured.
    pub fn measured(&self, rank: u32) -> Option<f64> {
        self.ranks.get(rank as usize)?.measured()
    }

    /// The weights to deal by. Ranks that were not measured yet stand to the others as it was given.
    pub fn weights(&self) -> Vec<f64> {
        let known = || self.ranks.iter().filter_map(|speed| Some((speed.measured()?, speed.given)));
        let measured: f64 = known().map(|(measured, _)| measured).sum();
        let given: f64 = known().map(|(_, given)| given).sum();
        let scale = if given > 0.0 { measured / given } else { 1.0 };
        let weight = |speed: &Speed| speed.measured().unwrap_or(speed.given * scale);
        self.ranks.iter().map(weight).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numerics::batches::deal;

    fn vote(cost: f32, seconds: f32) -> Vote {
        Vote { hash: 0, leaving: false, cost, seconds }
    }

    #[test]
    fn what_was_given_holds_until_it_is_measured() {
        let mut speeds = Speeds::new([3.0, 1.0]);
        assert_eq!(speeds.weights(), [3.0, 1.0]);
        speeds.record(&[vote(30.0, 2.0), vote(0.0, 0.0)]);
        assert_eq!(speeds.weights(), [15.0, 5.0]);
        assert_eq!((speeds.measured(0), speeds.measured(1)), (Some(15.0), None));
    }

    /// Deals of nine slices to two ranks of which one is at half speed.
    #[test]
    fn a_worker_at_half_speed_gets_half_as_much() {
        let mut speeds = Speeds::new([1.0, 1.0]);
        for _ in 0..10 {
            let runs = deal(&[1.0; 9], &speeds.weights());
            let counts = [runs[0].len() as f32, runs[1].len() as f32];
            speeds.record(&[vote(counts[0], counts[0]), vote(counts[1], 2.0 * counts[1])]);
        }
        let runs = deal(&[1.0; 9], &speeds.weights());
        assert_eq!((runs[0].len(), runs[1].len()), (6, 3));
    }

    /// A worker that stood still for a while gets nothing, and is tried again.
    #[test]
    fn a_worker_that_recovers_is_found_out() {
        let mut speeds = Speeds::new([1.0, 1.0]);
        let mut tried = Vec::new();
        for step in 0..200 {
            let runs = deal(&[1.0; 8], &speeds.weights());
            let slowness = if step < 20 { 50.0 } else { 1.0 };
            let counts = [runs[0].len() as f32, runs[1].len() as f32];
            tried.push(runs[1].len());
            speeds.record(&[vote(counts[0], counts[0]), vote(counts[1], slowness * counts[1])]);
        }
        assert!(tried.contains(&0));
        assert_eq!(tried.last(), Some(&4));
    }

    #[test]
    fn nonsense_changes_nothing() {
        let mut speeds = Speeds::new([1.0, 2.0]);
        speeds.record(&[vote(f32::NAN, 1.0), vote(1.0, f32::INFINITY)]);
        assert_eq!(speeds.weights(), [1.0, 2.0]);
    }
}
