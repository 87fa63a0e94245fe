//! A thousand simulated workers in one real coordinator: real sessions over real sockets, steps that
//! only take time. `make scale` runs it and prints the tables that `docs/scale.md` quotes.
//!
//! [`worker`] is one simulated worker: a session, and a [`device`] that obeys the very slate of the
//! real one. [`board`] is what they share: which group is complete, who is dead, what was sent.
//! [`coordinator`] starts the real program, asks it and reads its use of the machine; [`course`] is
//! what is done to it, [`figures`] how that is told.

mod board;
mod coordinator;
mod course;
mod device;
mod figures;
mod worker;

use crate::e2e::harness::superglue;
use std::path::PathBuf;
use std::time::Duration;

/// What the jobs are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// As many jobs of eight workers as there are workers for.
    ManyJobs,
    /// One job that all workers train.
    OneJob,
}

/// How large a run is.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// `ptv2d`.
    pub(crate) program: PathBuf,
    /// Simulated workers.
    pub(crate) workers: usize,
    /// Steps a second of each job.
    pub(crate) steps_per_s: f64,
    /// How long it is measured while nothing happens.
    pub(crate) calm: Duration,
}

impl Options {
    /// From the environment, as `make scale` sets it.
    fn from_environment() -> Self {
        let number = |name: &str, default: f64| {
            env(name)
                .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
        };
        let beside = std::env::current_exe().unwrap();
        let beside = beside.parent().and_then(|deps| deps.parent()).unwrap().join("ptv2d");
        Self {
            program: env("PTV2_SCALE_PROGRAM").map_or(beside, PathBuf::from),
            workers: env("PTV2_SCALE_WORKERS").map_or(1000, |text| text.parse().unwrap()),
            steps_per_s: number("PTV2_SCALE_STEPS", 10.0),
            calm: Duration::from_secs_f64(number("PTV2_SCALE_SECONDS", 30.0)),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a test's configuration")]
fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

/// Runs a shape and prints its table.
pub(crate) fn run(shape: Shape, options: Options) {
    let Some(data) = superglue() else { return };
    assert!(options.program.exists(), "{} is not built", options.program.display());
    coordinator::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let table = runtime.block_on(course::run(shape, &options, &data));
    println!("\n{table}");
}

#[test]
#[ignore = "takes minutes and the whole machine: make scale"]
fn many_jobs_of_eight_workers() {
    run(Shape::ManyJobs, Options::from_environment());
}

#[test]
#[ignore = "takes minutes and the whole machine: make scale"]
fn one_job_of_all_workers() {
    run(Shape::OneJob, Options::from_environment());
}
