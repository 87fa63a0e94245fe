//! Several runs in one job; runs and jobs that end early, by choice or because they cannot go on.

use super::harness::{Cluster, hash, superglue, text, tiny_cb};
use crate::chaos::signals::signal;
use serde_json::Value;

const SEEDS: [&str; 2] = ["--set", "training.seeds=[11, 44]"];

/// The hash that each run of a job ended with, by seed.
fn runs(status: &Value) -> Vec<(u64, String)> {
    let runs = status["seeds"].as_array().unwrap();
    let run = |run: &Value| (run["seed"].as_u64().unwrap(), hash(run));
    runs.iter().map(run).collect()
}

/// Each run is bit for bit the job of its seed, though a worker dies in the first and all die in the second.
#[test]
fn each_run_is_the_job_of_its_seed() {
    let Some(data) = superglue() else { return };
    let job = tiny_cb(&data, "checkpoint.every = 3");
    // A run has 120 steps.
    let epochs = ["--set", "training.epochs=30", "--workers", "1..2"];
    let mut cluster = Cluster::start(0, 1);
    cluster.worker(1, &[]);
    cluster.worker(1, &[]);
    let alone = ["11", "44"].map(|seed| {
        let seed = format!("training.seed={seed}");
        cluster.run(&job, &[&epochs[..], &["--set", &seed]].concat())
    });
    let id = cluster.submit(&job, &[&epochs[..], &SEEDS].concat());
    cluster.reaches(&id, 10);
    signal(cluster.pids()[0], libc::SIGKILL);
    cluster.reaches(&id, 125);
    cluster.workers.clear();
    cluster.is_queued(&id);
    cluster.worker(2, &[]);
    let status = cluster.done(&id);
    let [first, second] = &alone;
    assert_eq!(runs(&status), [(11, hash(first)), (44, hash(second))], "{status:#}");
    assert_eq!(hash(&status), hash(second));
    cluster.check_steps(&id, 240);

    for (alone, run) in alone.iter().zip(status["seeds"].as_array().unwrap()) {
        assert_eq!(
            (&alone["best"]["value"], &alone["last"]["value"]),
            (&run["best"]["value"], &run["last"]["value"])
        );
    }
    let value = |of: &Value| of["last"]["value"].as_f64().unwrap();
    let mean = f64::midpoint(value(first), value(second));
    let found = status["summary"]["last"]["mean"].as_f64().unwrap();
    assert!((found - mean).abs() < 1e-12, "{status:#}");

    // Each run's own state can be pulled, long after the next has begun.
    for (seed, hash) in runs(&status) {
        let (seed, to) = (seed.to_string(), cluster.state().join(format!("pulled-{seed}")));
        let to = to.to_str().unwrap();
        let pulled =
            cluster.json(&["pull", &id, "--checkpoint", "last", "--seed", &seed, "--to", to]);
        assert_eq!(pulled["checkpoint"]["tuned_sha256"], hash.as_str(), "{pulled:#}");
    }
    let none = cluster.ctl(&["pull", &id, "--seed", "7"]);
    assert_eq!(none.status.code(), Some(4), "{}", text(&none.stderr));
}

/// A rate that changes nothing finds nothing better: each run ends after the first evaluation and two more.
#[test]
fn runs_end_early_when_nothing_gets_better() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(2, 1);
    let sets = [
        "training.early_stopping=2",
        "training.epochs=10",
        "training.learning_rate=1e-12",
        "checkpoint.every=100",
    ];
    let sets: Vec<&str> = sets.into_iter().flat_map(|set| ["--set", set]).collect();
    let status = cluster.run(&tiny_cb(&data, ""), &[&sets[..], &SEEDS].concat());
    let rows = cluster.json(&["metrics", status["id"].as_str().unwrap()]);
    let evaluations: Vec<(u64, u64, u64)> = rows
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["split"] == "val")
        .map(|row| ["seed", "epoch", "step"].map(|key| row[key].as_u64().unwrap()).into())
        .collect();
    // A run has 40 steps, and the second begins behind all of the first.
    let expected = [(11, 1, 4), (11, 2, 8), (11, 3, 12), (44, 1, 44), (44, 2, 48), (44, 3, 52)];
    assert_eq!(evaluations, expected);
    let ended =
        status["seeds"].as_array().unwrap().iter().all(|run| run["tuned_sha256"].is_string());
    assert!(ended && status["state"] == "succeeded", "{status:#}");
    assert!(status["reason_text"].as_str().unwrap().starts_with("it ended early"), "{status:#}");
}

/// The step is not applied, and the job fails with the step and slice named.
#[test]
fn a_loss_that_is_no_number_ends_the_job() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(2, 1);
    let sets = ["--set", "training.learning_rate=1e37", "--set", "checkpoint.every=1"];
    let id = cluster.submit(&tiny_cb(&data, ""), &sets);
    let run = cluster.ctl(&["wait", &id]);
    assert_eq!(run.status.code(), Some(1));
    let status = cluster.json(&["status", &id]);
    let why = status["reason_text"].as_str().unwrap();
    assert!(why.contains("was not applied") && why.contains("in slice "), "{why}");
    let step = status["step"].as_u64().unwrap();
    assert!(why.contains(&format!("step {} was not applied", step + 1)), "{why} after {step}");
}
