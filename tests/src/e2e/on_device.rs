//! Whole jobs the way of a GPU, walked on the processor: the workers' tuned state lies in tensors, and comes
//! to the host only when a checkpoint, a joiner or an evaluation wants it.

use super::harness::{Cluster, hash, superglue, tiny_cb};
use crate::chaos::signals::signal;
use serde_json::Value;

const WISH: &str = "on-device";
const MORE: [&str; 4] = ["--set", "training.epochs=8", "--workers", "1..3"];

/// Losses, and values of evaluations, by step.
fn curve(cluster: &Cluster, status: &Value) -> Vec<f64> {
    let metrics = cluster.json(&["metrics", status["id"].as_str().unwrap()]);
    let number = |row: &Value| row.get("loss").or_else(|| row.get("accuracy"))?.as_f64();
    metrics.as_array().unwrap().iter().map(|row| number(row).unwrap()).collect()
}

/// One hash, though a worker dies on the way, all die, and others go on from a checkpoint; and the host's
/// numbers.
#[test]
fn a_job_on_devices_has_one_hash_and_the_hosts_numbers() {
    let Some(data) = superglue() else { return };
    let job = tiny_cb(&data, "checkpoint.every = 3");
    let mut cluster = Cluster::faulty(&[WISH, WISH]);
    let calm = cluster.run(&job, &MORE);
    let one = cluster.run(&job, &[&MORE[..2], &["--workers", "1"]].concat());
    assert_eq!(hash(&one), hash(&calm));

    // One dies; the other goes on with what its device holds.
    let long = ["--set", "training.epochs=40", "--workers", "1..3"];
    let id = cluster.submit(&job, &long);
    let pids = cluster.pids();
    cluster.reaches(&id, 8);
    signal(pids[0], libc::SIGKILL);
    let hurt = cluster.done(&id);
    assert!(hurt["generation"].as_u64() >= Some(2), "{hurt:#}");
    cluster.check_steps(&id, 160);

    // All die; one goes on from a checkpoint, and takes another in.
    let id = cluster.submit(&job, &long);
    cluster.has_checkpoints(&id, 1);
    cluster.workers.clear();
    cluster.is_queued(&id);
    cluster.set("PTV2_FAULTS", WISH.into());
    cluster.worker(1, &[]);
    cluster.worker(1, &[]);
    let status = cluster.done(&id);
    let logs = cluster.json(&["logs", &id]).to_string();
    assert!(logs.contains("resumes from the checkpoint of step"), "{logs}");
    let undisturbed = hash(&cluster.run(&job, &long));
    assert_eq!(hash(&hurt), undisturbed, "{}", cluster.logs());
    assert_eq!(hash(&status), undisturbed, "{}", cluster.logs());
    cluster.check_steps(&id, 160);

    // Each of two runs of a job is the job of its seed.
    let seeds = [&MORE[..], &["--set", "training.seeds=[12, 11]"]].concat();
    assert_eq!(hash(&cluster.run(&job, &seeds)), hash(&calm));

    let host = Cluster::faulty(&[""]);
    let same = host.run(&job, &MORE);
    let (found, expected) = (curve(&cluster, &calm), curve(&host, &same));
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() <= 1e-4 * expected.abs(), "{found} {expected}");
    }
}

/// One bit of one rank's state flips on its device: the others notice, and it takes theirs.
#[test]
fn a_bit_that_flips_on_a_device_changes_no_result() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::faulty(&[WISH, "on-device,state=9", WISH]);
    let job = tiny_cb(&data, "checkpoint.every = 3");
    let three = ["--set", "training.epochs=8", "--workers", "3"];
    let spoiled = cluster.run(&job, &three);
    let calm = cluster.run(&job, &three);
    assert_eq!(hash(&spoiled), hash(&calm));
    assert_eq!(calm["generation"], 1, "{calm:#}");
    let events = cluster.json(&["events", spoiled["id"].as_str().unwrap()]).to_string();
    assert!(events.contains("diverged"), "{events}");
}
