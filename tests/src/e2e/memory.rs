//! Memory that runs out in the midst of a step. torch is asked for more than any machine has, and refuses: the job
//! fails and says what would help; its worker computes the next one.

use super::harness::{Cluster, hash, superglue, tiny_cb};
use serde_json::Value;

/// Has a job run that fails; what is known of it.
pub(crate) fn fails(cluster: &Cluster, job: &str) -> Value {
    let file = cluster.file("large.toml", job);
    let run = cluster.ctl(&["submit", &file, "--wait", "--output", "json"]);
    let status: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(status["state"], "failed", "{status:#}");
    status
}

/// The same of one that fails for want of memory in a step.
pub(crate) fn runs_out(cluster: &Cluster, job: &str) -> Value {
    let status = fails(cluster, job);
    let error = &status["reason"]["error"];
    assert!(error["what"].as_str().unwrap().starts_with("memory ran out"), "{status:#}");
    assert!(error["hint"].as_str().unwrap().contains("raise `training.slices`"), "{status:#}");
    status
}

fn is_told_and_survived(wish: &str, during: &str) {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::faulty(&[wish]);
    let workers = cluster.json(&["workers"]);
    let job = tiny_cb(&data, "");
    let said = runs_out(&cluster, &job)["reason_text"].as_str().unwrap().to_owned();
    assert!(said.contains(during), "{said}");
    assert!(said.contains("you tried to allocate 4503599627370496 bytes"), "{said}");

    let next = cluster.run(&job, &[]);
    let now = cluster.json(&["workers"]);
    assert_eq!(now[0]["id"], workers[0]["id"], "the worker lives: {}", cluster.logs());
    // Nothing of what failed is left.
    assert_eq!(hash(&next), hash(&cluster.run(&job, &[])));
}

#[test]
fn memory_that_runs_out_on_the_host_is_told_and_survived() {
    is_told_and_survived("memory-ends=2", "memory ran out: ");
}

#[test]
fn memory_that_runs_out_on_a_device_is_told_and_survived() {
    is_told_and_survived(
        "on-device,memory-ends=2",
        "memory ran out while computing the gradient of slice ",
    );
}
