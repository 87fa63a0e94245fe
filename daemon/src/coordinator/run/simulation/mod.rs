//! The coordinator's decisions under simulation: the very [`Cluster`] that the daemon links, with
//! simulated workers, clients, network, store, disk and clock around it.
//!
//! A seed is a life: jobs are submitted, cancelled and tried again; workers join, crash in the midst of
//! whatever they do, hang, are stopped and drained; paths carry nothing, in one direction or both;
//! messages come late, twice, out of order or never; the coordinator dies before, between and after its
//! journal's writes. After a while everything is healed but for a flipped bit, and every job must come to
//! its end, with the state of an undisturbed run. [`check::Checker`] watches all of it. A worker's orders,
//! reports and votes are the very code of [`crate::protocol`], which the real worker performs.
//!
//! One seed again, with what happened: `PTV2_SEED=17 cargo test --workspace simulation::one_seed --
//! --nocapture`.

mod check;
mod coordinator;
mod device;
mod exchange;
mod faults;
mod mutant;
mod store;
mod training;
mod worker;
mod world;

use super::{Action, Cluster, Event, Fact, Limits, Recorded, tests};
use mutant::Mutant;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use world::World;

/// How often things of a kind happened.
type Counts = BTreeMap<&'static str, u64>;

/// Seeds of a run of the tests.
const SEEDS: u64 = 10_000;

/// What must happen often in so many lives, or they would prove little.
const USUAL: [&str; 45] = [
    "a bit flipped",
    "a flipped bit was seen",
    "a pair was parted",
    "a pair was parted one way",
    "a worker heard nothing",
    "a worker lost the coordinator's path",
    "a worker was cut off",
    "a worker was not heard",
    "a worker was stopped",
    "cancelled",
    "checkpoint",
    "device_lost",
    "died after the journal",
    "died amidst its actions",
    "died before the journal",
    "died in a change of generation",
    "died in peace",
    "failed",
    "fingerprint_changed",
    "generation",
    "killed at the end",
    "killed in a forward pass",
    "killed in a reduction",
    "killed in an evaluation",
    "killed in an update",
    "killed in an upload",
    "killed while joining",
    "killed while loading",
    "left after a step",
    "lost the coordinator",
    "peer_lost",
    "preempted",
    "requeued",
    "resumed from the store",
    "retried",
    "staged",
    "submitted",
    "succeeded",
    "the store failed",
    "transport_failed",
    "two in a row",
    "warning",
    "worker_drained",
    "worker_left_out",
    "worker_lost",
];

/// Lives one seed to its end: the hash of everything that happened, or what was violated.
fn live(seed: u64, mutant: Option<Mutant>) -> Result<(u64, Counts), String> {
    let mut world = World::new(seed, mutant, false);
    world.live().map(|trace| (trace, world.counts))
}

fn replay_command(seed: u64) -> String {
    format!("PTV2_SEED={seed} cargo test --workspace simulation::one_seed -- --nocapture")
}

/// Lives every seed twice, on all processors.
#[test]
fn every_job_ends_and_nothing_is_lost() {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
    let counts = Mutex::new(Counts::new());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| live_all(&next, &counts));
        }
    });
    let counts = counts.into_inner().unwrap();
    for kind in USUAL {
        let count = counts.get(kind).copied().unwrap_or(0);
        println!("{count:>9} {kind}");
        assert!(count >= 100, "{kind} happened {count} times in {SEEDS} lives");
    }
}

fn live_all(next: &AtomicU64, counts: &Mutex<Counts>) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= SEEDS {
            return;
        }
        let (trace, seen) = live(seed, None).unwrap_or_else(|violation| {
            panic!("seed {seed}: {violation}\n  replay: {}", replay_command(seed))
        });
        let again = live(seed, None).map(|(trace, _)| trace);
        assert_eq!(again, Ok(trace), "seed {seed} went another way: {}", replay_command(seed));
        let mut counts = counts.lock().unwrap();
        for (kind, count) in seen {
            *counts.entry(kind).or_default() += count;
        }
    }
}

/// Each planted bug is found, or the checks would prove nothing.
#[test]
fn every_planted_bug_is_found() {
    for mutant in Mutant::ALL {
        let found = (0..SEEDS).find_map(|seed| Some((seed, live(seed, Some(mutant)).err()?)));
        let Some((seed, violation)) = found else { panic!("{mutant:?} lives on unnoticed") };
        println!("{mutant:?} is found by seed {seed}: {violation}");
    }
}

/// The seed that `PTV2_SEED` names, with everything that happens in it.
#[test]
fn one_seed() {
    let seed = std::env::vars().find(|(name, _)| name == "PTV2_SEED");
    let seed = seed.map_or(0, |(_, seed)| seed.parse().expect("PTV2_SEED is a number"));
    let mut world = World::new(seed, None, std::env::args().any(|arg| arg == "--nocapture"));
    if let Err(violation) = world.live() {
        panic!("seed {seed}: {violation}");
    }
}
