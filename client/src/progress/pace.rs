//! How long a followed job will go on, from the steps that were seen.

use ptv2_common::api::{JobState, JobStatus};
use std::time::Duration;
use tokio::time::Instant;

/// How far back the mean time of a step looks, in seconds.
const MEMORY_S: f64 = 30.0;
/// Nothing is said before steps were watched for so long, and so often.
const WATCHED_MIN_S: f64 = 3.0;
const SAMPLES_MIN: u32 = 3;
/// Steps that seem slower than the mean by more than this had an evaluation between them. They count
/// so much and no more: a pause moves the estimate a little, and does not make it jump.
const OUTLIER: f64 = 4.0;

/// Watches the steps of one job.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Generation and size of the group that is watched: another has another pace.
    group: (u64, u32),
    /// The newest step, and when it was new; no time for the first, which was there before.
    newest: Option<(Option<Instant>, u64)>,
    /// Seconds and steps that were watched, the older ones fading.
    seconds: f64,
    steps: f64,
    samples: u32,
    left: Option<Duration>,
}

impl Pace {
    /// Takes in a status. Returns the time that is left, or nothing while it is not known.
    pub(super) fn watch(&mut self, now: Instant, job: &JobStatus) -> Option<Duration> {
        let group = (job.generation, job.world);
        let is_back = self.newest.is_some_and(|(_, step)| job.step < step);
        if job.state != JobState::Running || group != self.group || is_back {
            *self = Self { group, ..Self::default() };
        }
        match self.newest {
            None => self.newest = Some((None, job.step)),
            Some((at, step)) if job.step > step => {
                if let Some(at) = at {
                    self.add(now.duration_since(at).as_secs_f64(), (job.step - step) as f64);
                    self.left = self.estimate(job.total_steps.saturating_sub(job.step));
                }
                self.newest = Some((Some(now), job.step));
            }
            // No new step: what was said last stands.
            Some(_) => {}
        }
        self.left
    }

    fn add(&mut self, seconds: f64, steps: f64) {
        // Time passes for the memory, too, but no pause takes much of it.
        let faded = (-seconds.min(MEMORY_S / 10.0) / MEMORY_S).exp();
        let counted = if self.samples == 0 {
            seconds
        } else {
            seconds.min(OUTLIER * steps * self.seconds / self.steps)
        };
        self.seconds = self.seconds * faded + counted;
        self.steps = self.steps * faded + steps;
        self.samples = self.samples.saturating_add(1);
    }

    fn estimate(&self, steps_left: u64) -> Option<Duration> {
        if self.samples < SAMPLES_MIN || self.seconds < WATCHED_MIN_S || steps_left == 0 {
            return None;
        }
        Duration::try_from_secs_f64(steps_left as f64 * self.seconds / self.steps).ok()
    }
}

/// A time that is left in words, rounded so that it does not flicker.
pub(super) fn left_in_words(left: Duration) -> String {
    let unit = match left.as_secs() {
        0..60 => 1,
        60..600 => 5,
        _ => 60,
    };
    let rounded = left.as_secs().next_multiple_of(unit).max(1);
    format!("about {} left", humantime::format_duration(Duration::from_secs(rounded)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::tests::job;

    /// What is said after these steps at these times, in seconds.
    struct Watched {
        pace: Pace,
        start: Instant,
        job: JobStatus,
    }

    impl Watched {
        fn new() -> Self {
            let mut job = job();
            job.state = JobState::Running;
            job.total_steps = 1000;
            (job.generation, job.world) = (1, 2);
            Self { pace: Pace::default(), start: Instant::now(), job }
        }

        fn at(&mut self, seconds: f64, step: u64) -> Option<f64> {
            self.job.step = step;
            let now = self.start + Duration::from_secs_f64(seconds);
            self.pace.watch(now, &self.job).map(|left| left.as_secs_f64())
        }

        /// Ten steps a second from here on, looked at twice a second.
        fn steady(&mut self, from: (f64, u64), seconds: u32) -> Option<f64> {
            (1..=2 * seconds)
                .map(|n| self.at(from.0 + f64::from(n) / 2.0, from.1 + u64::from(n) * 5))
                .last()
                .flatten()
        }
    }

    fn is_near(left: Option<f64>, expected: f64) {
        let left = left.unwrap();
        assert!((left / expected - 1.0).abs() < 0.01, "{left} is not about {expected}");
    }

    #[test]
    fn a_steady_job_says_the_time_that_is_left() {
        let mut watched = Watched::new();
        is_near(watched.steady((0.0, 0), 20), 80.0);
        is_near(watched.steady((20.0, 200), 40), 40.0);
    }

    #[test]
    fn nothing_is_said_before_anything_is_known() {
        let mut watched = Watched::new();
        assert_eq!(watched.at(0.0, 500), None, "joined in the middle");
        assert_eq!(watched.steady((0.0, 500), 2), None);
        assert!(watched.steady((2.0, 520), 3).is_some());
        assert_eq!(watched.at(5.1, 1000), None, "no step is left");
        watched.job.state = JobState::Queued;
        assert_eq!(watched.at(5.2, 1000), None);
    }

    #[test]
    fn a_pause_does_not_make_it_jump() {
        let mut watched = Watched::new();
        let before = watched.steady((0.0, 0), 20).unwrap();
        assert_eq!(watched.at(50.0, 200), Some(before), "no new step, no new estimate");
        let after = watched.at(50.5, 205).unwrap();
        assert!(after > before * 0.99 && after < before * 1.15, "{before} and then {after}");
    }

    #[test]
    fn a_job_that_became_five_times_slower_is_found_out() {
        let mut watched = Watched::new();
        watched.steady((0.0, 0), 20);
        let left = (1..=240_u32)
            .map(|n| watched.at(20.0 + f64::from(n) / 2.0, 200 + u64::from(n)))
            .last()
            .flatten()
            .unwrap();
        assert!((left / (560.0 / 2.0) - 1.0).abs() < 0.1, "{left}");
    }

    #[test]
    fn another_group_begins_anew() {
        let mut watched = Watched::new();
        assert!(watched.steady((0.0, 0), 20).is_some());
        watched.job.generation = 2;
        assert_eq!(watched.at(21.0, 150), None);
        assert!(watched.steady((21.0, 150), 10).is_some());
        assert_eq!(watched.at(40.0, 100), None, "it went back to a checkpoint");
    }

    #[test]
    fn the_time_that_is_left_is_rounded() {
        let check = |seconds: u64, expected: &str| {
            assert_eq!(left_in_words(Duration::from_secs(seconds)), expected);
        };
        check(0, "about 1s left");
        check(42, "about 42s left");
        check(201, "about 3m 25s left");
        check(7201, "about 2h 1m left");
    }
}
