//! A run: one undisturbed job, then job after job of the same kind with faults, until all are injected.
//! Every job must end with the first one's hash, and its metrics and events must have nothing twice
//! and miss nothing.

use super::clock::{now, within};
use super::cluster::{Nest, PATIENCE};
use super::faults::Kind;
use super::report::Report;
use super::stalls::{Fault, Generations, longest_gap, step_time};
use crate::e2e::harness::{Process, hash, tiny};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The coordinator's default.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(3);

/// Rows of a step.
const BATCH: u64 = 24;

/// A CB job on the tiny backbone whose phases are all long enough to be met.
pub(crate) fn job_file(data: &Path, epochs: u32) -> String {
    format!(
        "task = \"superglue/cb\"\n\
         backbone.path = \"{}\"\n\
         data = {{ root = \"{}\", max_seq_length = 24, max_train_rows = 120 }}\n\
         method.pre_seq_len = 40\n\
         training = {{ epochs = {epochs}, batch_size = {BATCH}, learning_rate = 5e-3, slices = 12 }}\n\
         checkpoint.every = 3\n",
        tiny().display(),
        data.display()
    )
}

/// The job that runs now.
pub(crate) struct Job {
    pub(crate) id: String,
    pub(crate) total: u64,
    epochs: u64,
    pub(crate) faults: Vec<(Kind, Fault)>,
    /// A client that follows the job's events from the beginning, and what it prints.
    follower: Process,
    followed: PathBuf,
}

/// All of a run.
pub(crate) struct Run {
    pub(crate) nest: Nest,
    pub(crate) rng: fastrand::Rng,
    pub(crate) report: Report,
    pub(crate) job: Job,
    pub(crate) heartbeat_timeout: Duration,
    file: String,
    jobs: u32,
}

impl Run {
    /// Starts the processes and runs the undisturbed job, which all others are compared with.
    pub(crate) fn begin(data: &Path, seed: u64, epochs: u32, workers: usize) -> Self {
        println!("seed {seed}");
        let mut nest = Nest::new(data, seed);
        nest.resize(workers);
        let file = job_file(data, epochs);
        let job = submit(&nest, &file, 0);
        let rng = fastrand::Rng::with_seed(seed);
        let heartbeat_timeout = HEARTBEAT_TIMEOUT;
        let report = Report::default();
        let mut run = Self { nest, rng, report, job, heartbeat_timeout, file, jobs: 1 };
        let status = run.done();
        assert_eq!(status["generation"], 1, "nobody disturbed it: {status:#}");
        run.report.reference = hash(&status);
        run.report.step_time = step_time(&run.nest.watch.steps());
        run.report.batch = BATCH;
        run.check(&status);
        run
    }

    /// Submits the next job.
    pub(crate) fn next_job(&mut self) {
        self.job = submit(&self.nest, &self.file, self.jobs);
        self.jobs += 1;
    }

    /// Injects these faults, in any number of jobs, each on 2 to `most` workers.
    pub(crate) fn faults(&mut self, mut faults: Vec<Kind>, most: usize) {
        while !faults.is_empty() {
            self.nest.resize(self.rng.usize(2..=most));
            self.next_job();
            while let Some(kind) = faults.last().copied()
                && self.inject(kind)
            {
                faults.pop();
            }
            self.finish();
        }
    }

    /// Sees the job to its end.
    pub(crate) fn finish(&mut self) {
        let status = self.done();
        self.check(&status);
    }

    /// Waits until the job has succeeded; its status.
    fn done(&mut self) -> Value {
        let mut looked = now();
        let limit = Duration::from_secs(600);
        let ended = within(limit, || {
            self.nest.all_live();
            // A client's start costs too much to look all the time.
            let is_due = looked.elapsed() > Duration::from_millis(250);
            if self.nest.watch.highest() < Some(self.job.total) || !is_due {
                return None;
            }
            looked = now();
            let status = self.nest.cluster.json(&["status", &self.job.id]);
            assert_ne!(status["state"], "failed", "{status:#}");
            (status["state"] == "succeeded").then_some(status)
        });
        ended.unwrap_or_else(|| panic!("job {} does not end", self.job.id))
    }

    /// What must hold for every job, and what its faults have cost.
    fn check(&mut self, status: &Value) {
        assert_eq!(hash(status), self.report.reference, "{status:#}");
        self.check_metrics();
        self.check_events();
        let log = self.nest.cluster.json(&["logs", &self.job.id]);
        let generations = Generations::read(&log);
        let steps = self.nest.watch.steps();
        let end = steps.last().map_or_else(now, |(at, _)| *at + Duration::from_nanos(1));
        let faults = std::mem::take(&mut self.job.faults);
        let nexts = faults.iter().skip(1).map(|(_, next)| (next.at, next.unix_ms));
        let nexts = nexts.chain([(end, u64::MAX)]);
        for ((kind, fault), (at, unix_ms)) in faults.iter().zip(nexts) {
            let held = fault.survivors.unwrap_or(0);
            let lost = generations.lost(fault, held, unix_ms);
            if lost > 0 && *kind != Kind::KillAll {
                self.wrong(format!("{kind:?} lost {lost} steps: {fault:?}"));
            }
            self.report.cost(*kind, lost, longest_gap(&steps, fault.at, at));
        }
        self.report.job(generations.count());
        println!(
            "job {}: {} faults, {} generations, {:.1} s",
            self.job.id,
            faults.len(),
            generations.count(),
            seconds(&steps)
        );
    }

    /// Notes what fails the run at its end, with all else that is wrong.
    fn wrong(&mut self, what: String) {
        println!("WRONG: job {}: {what}", self.job.id);
        self.report.wrong.push(format!("job {}: {what}", self.job.id));
    }

    /// Each step and each evaluation once, in order.
    fn check_metrics(&mut self) {
        let metrics = self.nest.cluster.json(&["metrics", &self.job.id]);
        let rows = metrics.as_array().unwrap();
        let of = |evaluations: bool| -> Vec<u64> {
            let rows = rows.iter().filter(|row| row["split"].is_string() == evaluations);
            rows.map(|row| row["step"].as_u64().unwrap()).collect()
        };
        let Job { total, epochs, .. } = self.job;
        let (steps, evaluations) = (of(false), of(true));
        let each: Vec<u64> = (1..=total).collect();
        let evaluated: Vec<u64> = (1..=epochs).map(|epoch| epoch * total / epochs).collect();
        for (what, found, expected) in
            [("steps", steps, each), ("evaluations", evaluations, evaluated)]
        {
            if found != expected {
                self.wrong(format!("its metrics' {what} are {}", difference(&found, &expected)));
            }
        }
    }

    /// Each event once, in order; and to a client that followed all the time the same.
    fn check_events(&mut self) {
        let events = self.nest.cluster.json(&["events", &self.job.id]);
        let seq = |event: &Value| event["seq"].as_u64().unwrap();
        let all: Vec<u64> = events.as_array().unwrap().iter().map(seq).collect();
        if !all.windows(2).all(|pair| pair[0] < pair[1]) {
            self.wrong(format!("its events do not come once each, in order: {all:?}"));
        }
        let code = within(PATIENCE, || self.job.follower.ended());
        let lines = std::fs::read_to_string(&self.job.followed).unwrap();
        let read = |line: &str| serde_json::from_str::<Value>(line).map(|event| seq(&event));
        let followed: Vec<u64> = lines.lines().map(|line| read(line).unwrap()).collect();
        if code != Some(0) || followed != all {
            let difference = difference(&followed, &all);
            self.wrong(format!("a client that followed ended with {code:?}; events {difference}"));
        }
    }
}

/// What a list has too much, and what it lacks.
fn difference(found: &[u64], expected: &[u64]) -> String {
    let lacking: Vec<&u64> = expected.iter().filter(|one| !found.contains(one)).collect();
    let mut rest = expected.to_vec();
    let mut surplus = Vec::new();
    for one in found {
        match rest.iter().position(|other| other == one) {
            Some(at) => drop(rest.remove(at)),
            None => surplus.push(*one),
        }
    }
    format!("without {lacking:?}, too often {surplus:?}, of {}", expected.len())
}

/// From the first slice to the last step.
pub(crate) fn seconds(steps: &[(Instant, u64)]) -> f64 {
    match steps {
        [(first, _), .., (last, _)] => last.duration_since(*first).as_secs_f64(),
        _ => 0.0,
    }
}

fn submit(nest: &Nest, file: &str, number: u32) -> Job {
    nest.watch.begin();
    let id = nest.cluster.submit(file, &["--workers", "1..4"]);
    let followed = nest.cluster.folder.path().join(format!("events-{number}"));
    let mut follow = nest.cluster.client();
    follow.args(["--output", "json", "events", "-f", &id]);
    let follower = Process::printing(&mut follow, &followed);
    let status = nest.cluster.json(&["status", &id]);
    let total = status["total_steps"].as_u64().unwrap();
    let epochs = total / status["plan"]["steps_per_epoch"].as_u64().unwrap();
    Job { id, total, epochs, faults: Vec::new(), follower, followed }
}
