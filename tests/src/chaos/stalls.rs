//! One fault and what came of it: where it landed, what it cost, how long nothing was finished.

use super::clock::in_ms;
use ptv2_common::place::{Moment, PulseRecord};
use serde_json::Value;
use std::time::{Duration, Instant};

/// The places inside of which faults must land.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Inside {
    Forward,
    Reduction,
    Update,
    Evaluation,
    Upload,
    /// Loading, joining, finishing, idle.
    Elsewhere,
}

impl Inside {
    /// Those that must be met, without the last.
    pub(crate) const AIMS: [Self; 5] =
        [Self::Forward, Self::Reduction, Self::Update, Self::Evaluation, Self::Upload];

    /// What a worker was in the middle of: a device phase, and an upload beside it.
    pub(crate) fn of(record: &PulseRecord) -> Vec<Self> {
        let phase = match record.moment {
            Moment::Forward => Self::Forward,
            Moment::Reduction => Self::Reduction,
            Moment::Update => Self::Update,
            Moment::Evaluation => Self::Evaluation,
            Moment::Idle | Moment::Loading | Moment::Joining | Moment::Finishing => Self::Elsewhere,
        };
        if record.uploading { vec![phase, Self::Upload] } else { vec![phase] }
    }

    /// Whether a worker is there.
    pub(crate) fn is_at(self, record: &PulseRecord) -> bool {
        Self::of(record).contains(&self)
    }
}

/// A fault that was injected.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) at: Instant,
    /// The same moment by the clock of log lines.
    pub(crate) unix_ms: u64,
    /// What the workers that it hit were doing.
    pub(crate) hit: Vec<PulseRecord>,
    /// The newest generation of the job.
    pub(crate) generation: u64,
    /// The highest step that any worker showed.
    pub(crate) highest: u64,
    /// The highest step that a worker showed which the fault left alone; nothing if there was none.
    pub(crate) survivors: Option<u64>,
}

/// A line by which a rank says that its generation runs.
#[derive(Debug, Clone, Copy)]
struct Runs {
    unix_ms: u64,
    generation: u64,
    step: u64,
}

/// When the generations of a job ran, and from which step.
pub(crate) struct Generations(Vec<Runs>);

impl Generations {
    /// Reads a job's log, as the client prints it.
    pub(crate) fn read(log: &Value) -> Self {
        let line = |line: &Value| {
            let message = line["message"].as_str()?.strip_prefix("generation ")?;
            let (generation, step) = message.split_once(" runs here from step ")?;
            let unix_ms = line["unix_ms"].as_u64()?;
            Some(Runs { unix_ms, generation: generation.parse().ok()?, step: step.parse().ok()? })
        };
        Self(log.as_array().unwrap().iter().filter_map(line).collect())
    }

    /// How many there were.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().map(|line| line.generation).max().unwrap_or(0)
    }

    /// Steps that were done and are done again because of a fault: the first generation after it
    /// begins at a lower step than `held`. `next` is when the next fault came.
    pub(crate) fn lost(&self, fault: &Fault, held: u64, next: u64) -> u64 {
        let after = self.0.iter().filter(|line| {
            line.generation > fault.generation && (fault.unix_ms..next).contains(&line.unix_ms)
        });
        let Some(first) = after.clone().map(|line| line.generation).min() else { return 0 };
        let of_first = after.filter(|line| line.generation == first);
        let from = of_first.map(|line| line.step).min().unwrap_or(held);
        held.saturating_sub(from)
    }
}

/// The longest time between two finished steps from a fault to the next one.
pub(crate) fn longest_gap(steps: &[(Instant, u64)], from: Instant, until: Instant) -> Duration {
    let inside = steps.iter().map(|(at, _)| *at).filter(|at| (from..until).contains(at));
    let bounds: Vec<Instant> = std::iter::once(from).chain(inside).collect();
    bounds.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// The usual time of a step: the median of an undisturbed job.
pub(crate) fn step_time(steps: &[(Instant, u64)]) -> Duration {
    let mut times: Vec<Duration> = steps.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Times of one kind of fault.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        let at = self.0.partition_point(|one| *one < time);
        self.0.insert(at, time);
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that a share of all do not exceed, in milliseconds; the nearest rank.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count of faults"
        )]
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.max(1) - 1).map_or(f64::NAN, |time| in_ms(*time))
    }
}

#[test]
fn quantiles_are_of_the_nearest_rank() {
    let mut times = Times::default();
    for ms in (1..=100).rev() {
        times.add(Duration::from_millis(ms));
    }
    assert_eq!(
        [0.5, 0.95, 0.99, 1.0].map(|share| times.quantile_ms(share)),
        [50.0, 95.0, 99.0, 100.0]
    );
    assert!(Times::default().quantile_ms(0.5).is_nan());
}

#[test]
fn a_generation_that_begins_below_what_survivors_held_has_lost_steps() {
    let line =
        |unix_ms: u64, message: &str| serde_json::json!({ "unix_ms": unix_ms, "message": message });
    let log = Value::Array(vec![
        line(100, "generation 1 runs here from step 0"),
        line(205, "generation 2 runs here from step 7"),
        line(206, "generation 2 runs here from step 7"),
        line(206, "else"),
        line(290, "generation 3 runs here from step 5"),
    ]);
    let generations = Generations::read(&log);
    assert_eq!(generations.count(), 3);
    let fault = |unix_ms, generation| Fault {
        at: super::clock::now(),
        unix_ms,
        hit: Vec::new(),
        generation,
        highest: 0,
        survivors: None,
    };
    assert_eq!(generations.lost(&fault(200, 1), 8, 250), 1);
    assert_eq!(generations.lost(&fault(200, 1), 7, 250), 0);
    assert_eq!(generations.lost(&fault(250, 2), 9, u64::MAX), 4);
    // No generation came of it.
    assert_eq!(generations.lost(&fault(207, 2), 9, 280), 0);
}
