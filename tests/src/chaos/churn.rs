//! Minutes of churn: what share of the undisturbed rate is left.

use super::clock::{now, pause};
use super::faults::{Hole, Kind};
use super::run::{Run, seconds};
use std::path::Path;
use std::time::Duration;

/// Time from one fault to the next, in milliseconds: 15 s on average.
const INTERVAL_MS: std::ops::Range<u64> = 5_000..25_000;
/// The least share of the undisturbed rate.
const LEAST: f64 = 0.9;

/// Faults by how often they come, of twenty.
const FAULTS: [(u32, Kind); 9] = [
    (10, Kind::Kill),
    (3, Kind::Coordinator),
    (2, Kind::ShortStop),
    (1, Kind::LongStop),
    (1, Kind::ResetPeer),
    (1, Kind::Hole(Hole::Pair)),
    (1, Kind::Hole(Hole::Up)),
    (0, Kind::Hole(Hole::Isolation)),
    (1, Kind::ResetSession),
];

/// Steps done, and the seconds that they took.
#[derive(Debug, Clone, Copy, Default)]
struct Done {
    steps: u64,
    seconds: f64,
}

impl Done {
    fn add(&mut self, run: &Run) {
        self.steps += run.job.total;
        self.seconds += seconds(&run.nest.watch.steps());
    }

    fn rate(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count of steps")]
        let steps = self.steps as f64;
        steps / self.seconds
    }
}

/// Two workers of one thread, each respawned at once, and a fault every 15 s.
pub(crate) fn churn(data: &Path, seed: u64, minutes: u32) {
    // Jobs of about a minute, on a machine with nothing else to do.
    let epochs = 80 * minutes.clamp(1, 10);
    let mut run = Run::begin(data, seed, epochs, 2);
    let (mut calm, mut hurt) = (Done::default(), Done::default());
    calm.add(&run);
    let until = now() + Duration::from_secs(60) * minutes;
    let mut next = now();
    while now() < until {
        run.nest.resize(2);
        run.next_job();
        while run.nest.watch.highest() < Some(run.job.total) {
            run.nest.all_live();
            if now() < next {
                pause(Duration::from_millis(5));
                continue;
            }
            let kind = any(&mut run.rng);
            let began = now();
            if run.inject(kind) {
                next = began + Duration::from_millis(run.rng.u64(INTERVAL_MS));
            }
        }
        hurt.add(&run);
        run.finish();
    }
    run.nest.resize(2);
    run.next_job();
    run.finish();
    calm.add(&run);
    let share = hurt.rate() / calm.rate();
    println!(
        "undisturbed {:.1} updates/s; in {:.0} s of churn {:.1} updates/s: {:.1} %",
        calm.rate(),
        hurt.seconds,
        hurt.rate(),
        100.0 * share
    );
    println!("{}", run.report.table());
    assert!(run.report.wrong.is_empty(), "{:#?}", run.report.wrong);
    assert!(share >= LEAST, "{:.1} % of the undisturbed rate is left", 100.0 * share);
}

fn any(rng: &mut fastrand::Rng) -> Kind {
    let all: u32 = FAULTS.iter().map(|(share, _)| share).sum();
    let mut at = rng.u32(..all);
    for (share, kind) in FAULTS {
        if at < share {
            return kind;
        }
        at -= share;
    }
    Kind::Kill
}
