//! Checks by whole jobs through the real programs.

use crate::e2e::harness::{Cluster, device, faulty, hash, root, superglue, tiny_cb};
use crate::e2e::memory;
use serde_json::Value;
use std::path::PathBuf;

/// Jobs that are run again and again.
const RUNS: usize = 3;

fn data() -> PathBuf {
    superglue().expect("rows of CB")
}

/// A cluster of workers on the device.
fn cluster(workers: usize) -> Cluster {
    let mut cluster = Cluster::by_file(&data());
    for _ in 0..workers {
        cluster.worker(1, &[]);
    }
    for worker in cluster.json(&["workers"]).as_array().unwrap() {
        assert_eq!(worker["device"], device().as_str(), "{worker:#}");
    }
    cluster
}

/// Both precisions, on one worker again and on another one.
pub(super) fn repeated_runs() -> String {
    let job = tiny_cb(&data(), "");
    let (one, other) = (cluster(1), cluster(1));
    let mut found = Vec::new();
    for precision in ["fp32", "bf16"] {
        let precise = format!("backbone.precision={precision}");
        let run = |cluster: &Cluster| hash(&cluster.run(&job, &["--set", &precise]));
        let expected = run(&one);
        for _ in 1..RUNS {
            assert_eq!(run(&one), expected, "{precision}, on the same worker");
        }
        assert_eq!(run(&other), expected, "{precision}, on another worker");
        found.push(format!("{precision} {}", &expected[..12]));
    }
    found.join(", ")
}

/// Two processes on one device give what one gives.
pub(super) fn two_workers() -> String {
    let job = tiny_cb(&data(), "");
    let alone = hash(&cluster(1).run(&job, &[]));
    let pair = cluster(2).run(&job, &["--workers", "2"]);
    assert_eq!(hash(&pair), alone);
    format!("the hash of one worker, {}", &alone[..12])
}

/// The backbone of the comparison.
pub(super) fn large() -> PathBuf {
    root().join("large/backbone")
}

/// A job on it, of one slice a step, by its tokens, prefix, and steps and rows.
fn large_job((tokens, prefix): (u32, u32), training: &str) -> String {
    format!(
        "task = \"superglue/cb\"\nbackbone.path = {:?}\n\
         data = {{ root = {:?}, max_seq_length = {tokens} }}\nmethod.pre_seq_len = {prefix}\n\
         training = {{ {training}, learning_rate = 1e-2, slices = 1 }}\n",
        large(),
        data()
    )
}

/// One slice that no card has room for: the job is refused by the memory that it takes, and the next one is done.
pub(super) fn too_much() -> String {
    let cluster = cluster(1);
    let job = large_job((384, 128), "max_steps = 1, batch_size = 4096");
    let status = memory::fails(&cluster, &job);
    let said = status["reason_text"].as_str().unwrap_or_default().to_owned();
    assert!(said.contains("memory"), "{status:#}");
    let workers = cluster.json(&["workers"]);
    cluster.run(&tiny_cb(&data(), ""), &[]);
    assert_eq!(cluster.json(&["workers"])[0]["id"], workers[0]["id"], "the worker lives");
    said
}

/// A job that fits, as far as anybody can count, finds all memory taken in its second step: torch's allocator gives up.
/// What it held is given back, and the worker does the next job.
pub(super) fn runs_out() -> String {
    let tch::Device::Cuda(index) = super::device() else { panic!("no GPU") };
    let free = || ptv2_daemon::cuda::free_memory(u32::try_from(index).unwrap()).unwrap();
    let before = free();
    let mut cluster = Cluster::new(faulty());
    cluster.serve_by_file(&data());
    cluster.set("PTV2_FAULTS", "memory-ends=1".into());
    cluster.worker(1, &[]);
    let workers = cluster.json(&["workers"]);
    // A slice of 4 rows, so that small cards take the job; the first step keeps no more than that in torch's hands.
    let job = large_job((128, 20), "max_steps = 3, batch_size = 4");
    let status = memory::runs_out(&cluster, &job);
    let said = status["reason_text"].as_str().unwrap_or_default().to_owned();
    assert!(said.contains("out of memory"), "{status:#}");
    // The worker still holds the weights and its context.
    let left = free();
    assert!(left > before / 2, "{left} bytes are free after it, {before} before");
    cluster.run(&tiny_cb(&data(), ""), &[]);
    assert_eq!(cluster.json(&["workers"])[0]["id"], workers[0]["id"], "the worker lives");
    said
}

/// A kernel asserts that an element is there, in vain, so that its process can compute no more: that worker says so and
/// ends, and another one goes on.
pub(super) fn lost_device() -> String {
    let job = tiny_cb(&data(), "");
    let mut cluster = Cluster::new(faulty());
    cluster.serve_by_file(&data());
    cluster.worker(1, &[]);
    let expected = hash(&cluster.run(&job, &[]));
    cluster.workers.clear();
    cluster.has_workers(0);
    cluster.set("PTV2_FAULTS", "device-dies=4".into());
    cluster.worker(1, &[]);
    let id = cluster.submit(&job, &[]);
    assert_eq!(cluster.worker_ends(0), 1, "{}", cluster.logs());
    cluster.set("PTV2_FAULTS", PathBuf::new());
    cluster.worker(1, &[]);
    let status = cluster.done(&id);
    assert_eq!(hash(&status), expected, "{}", cluster.logs());
    let told = status["warnings"].to_string();
    assert!(told.contains("lost its device"), "{told}");
    if device().starts_with("cuda") {
        // In torch's words and in the driver's.
        let asserts = told.to_lowercase().matches("assert").count();
        assert!(asserts >= 2, "the device was lost otherwise: {told}");
    }
    told
}

/// The second job finds everything loaded.
pub(super) fn warm_start() -> String {
    let (cluster, job) = (cluster(1), tiny_cb(&data(), ""));
    let first = |status: &Value| status["timings"]["first_step_s"].as_f64().unwrap();
    let cold = first(&cluster.run(&job, &[]));
    let warm = first(&cluster.run(&job, &["--set", "training.seed=7"]));
    assert!(warm < 1.0, "{warm} s");
    format!("{warm:.2} s; the first one {cold:.2} s")
}
