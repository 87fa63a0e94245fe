//! Chaos with real processes: workers and the coordinator are killed and stopped wherever they are, the
//! network between them is cut, and not one bit of any result changes.
//!
//! Read `run` first, then `inject`. `cluster` has the processes, `proxy` the network between them,
//! `pulses` what the workers were doing, also those that are dead.

mod churn;
pub(crate) mod clock;
mod cluster;
mod faults;
mod inject;
mod proxy;
mod pulses;
mod report;
mod run;
pub(crate) mod signals;
mod stalls;

use crate::e2e::harness::{root, superglue};
use faults::{Hole, Kind};
use run::Run;
use stalls::Inside;
use std::path::Path;
use std::str::FromStr;

/// A short run's kills may all have missed one of the places. So often four more are aimed then.
const MORE_KILLS: usize = 10;

/// What is asked of a run by the environment.
#[expect(clippy::disallowed_methods, reason = "a test's configuration")]
fn asked<T: FromStr>(name: &str) -> Option<T> {
    let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is `{value}`, which is no number")))
}

/// `SEED`, or any. With `KEEP` set, logs are kept although all went well.
fn seed() -> u64 {
    asked("SEED").unwrap_or_else(|| fastrand::u64(..1_000_000))
}

/// Every kind of fault for a run with so many kills of single workers.
fn mixture(kills: usize) -> Vec<Kind> {
    let share = |of: usize| (kills / of).max(1);
    let counts = [
        (Kind::Kill, kills),
        (Kind::KillUnattended, share(40)),
        (Kind::KillAll, share(20)),
        (Kind::ShortStop, share(20)),
        (Kind::LongStop, share(25)),
        (Kind::Coordinator, share(20)),
        (Kind::ResetPeer, share(25)),
        (Kind::ResetSession, share(25)),
        (Kind::Hole(Hole::Pair), share(80)),
        (Kind::Hole(Hole::OneWay), share(80)),
        (Kind::Hole(Hole::Session), share(80)),
        (Kind::Hole(Hole::Up), share(80)),
        (Kind::Hole(Hole::Down), share(80)),
        (Kind::Hole(Hole::Isolation), share(80)),
    ];
    counts.into_iter().flat_map(|(kind, count)| std::iter::repeat_n(kind, count)).collect()
}

/// A run with faults of every kind in any order. Prints its table, and checks what must hold for the
/// whole of it.
fn chaos(data: &Path, seed: u64, kills: usize, epochs: u32) -> String {
    let mut run = Run::begin(data, seed, epochs, cluster::SLOTS);
    let mut faults = mixture(kills);
    run.rng.shuffle(&mut faults);
    run.faults(faults, cluster::SLOTS);
    let is_met = |run: &Run, inside| run.report.killed_inside(inside) > 0;
    for _ in 0..MORE_KILLS {
        if Inside::AIMS.into_iter().all(|inside| is_met(&run, inside)) {
            break;
        }
        run.faults(vec![Kind::Kill; 4], cluster::SLOTS);
    }
    let table = format!("seed {seed}\n{}", run.report.table());
    println!("{table}");
    for inside in Inside::AIMS {
        assert!(is_met(&run, inside), "no kill landed inside {inside:?}");
    }
    for kind in Kind::ALL {
        let is_due = kind != Kind::KillMeanwhile;
        assert!(!is_due || run.report.count(kind) > 0, "no {kind:?}");
    }
    assert!(run.report.wrong.is_empty(), "{:#?}", run.report.wrong);
    table
}

/// The short form, a part of the end-to-end tests.
pub(crate) fn short() {
    let Some(data) = superglue() else { return };
    chaos(&data, seed(), 24, 40);
}

/// `make chaos`.
#[test]
#[ignore = "takes half an hour: make chaos"]
fn a_thousand_kills_change_no_bit() {
    let Some(data) = superglue() else { return };
    let table = chaos(&data, seed(), asked("KILLS").unwrap_or(1000), 100);
    std::fs::write(root().join("target/chaos.txt"), table).unwrap();
}

/// `make churn`.
#[test]
#[ignore = "takes a quarter of an hour: make churn"]
fn churn_leaves_nine_tenths_of_the_rate() {
    let Some(data) = superglue() else { return };
    churn::churn(&data, seed(), asked("MINUTES").unwrap_or(10));
}
