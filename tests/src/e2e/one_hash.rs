//! The result does not depend on the number of workers or threads, nor on the deal of slices, nor on
//! who died: bit for bit.

use super::harness::{Cluster, hash, superglue, tiny_cb};
use crate::chaos::signals::signal;

#[test]
fn every_group_ends_with_one_hash() {
    let Some(data) = superglue() else { return };
    let job = tiny_cb(&data, "");
    let bf16 = ["--set", "backbone.precision=bf16"];
    let (mut hashes, mut bf16_hashes) = (Vec::new(), Vec::new());
    for threads in [1, 2] {
        let cluster = Cluster::start(4, threads);
        for world in ["1", "2", "3", "4"] {
            let status = cluster.run(&job, &["--workers", world]);
            hashes.push((format!("{world} workers of {threads} threads"), hash(&status)));
        }
        for world in ["1", "4"] {
            let status = cluster.run(&job, &[bf16.as_slice(), &["--workers", world]].concat());
            bf16_hashes.push((format!("{world} workers of {threads} threads"), hash(&status)));
        }
    }
    // Workers of 3, 1 and 1 threads are dealt 3, 1 and 1 slices of five.
    let mut cluster = Cluster::start(0, 1);
    for threads in [3, 1, 1] {
        cluster.worker(threads, &[]);
    }
    hashes.push(("an uneven deal".into(), hash(&cluster.run(&job, &["--workers", "3"]))));
    assert!(hashes.iter().all(|(_, hash)| *hash == hashes[0].1), "{hashes:#?}");
    assert!(bf16_hashes.iter().all(|(_, hash)| *hash == bf16_hashes[0].1), "{bf16_hashes:#?}");
    assert_ne!(hashes[0].1, bf16_hashes[0].1, "bf16 must not be fp32");
    // Another seed, and another cut into slices, give another result: the hash tells them apart.
    let other = cluster.run(&job, &["--set", "training.seed=12"]);
    assert_ne!(hash(&other), hashes[0].1);
}

/// What must not be: with dropout keyed by the process, too, the same job differs between one and two workers.
#[test]
fn dropout_keyed_by_the_process_would_be_noticed() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::faulty(&["dropout-by-process"; 2]);
    let job = tiny_cb(&data, "");
    let one = cluster.run(&job, &["--workers", "1"]);
    let two = cluster.run(&job, &["--workers", "2"]);
    assert_ne!(hash(&one), hash(&two), "the negative control must differ");
}

/// A long job on the tiny backbone, so that there is time to hurt it.
const LONG: &str = "checkpoint.every = 3";

/// Threads named after a compute thread: itself, and any that torch would start from it.
fn compute_threads(pid: u32) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
        .filter(|name| name.starts_with("compute-"))
        .count()
}

#[test]
fn a_killed_worker_costs_a_generation_and_no_bit() {
    let Some(data) = superglue() else { return };
    let job = tiny_cb(&data, LONG);
    let epochs = ["--set", "training.epochs=30", "--workers", "2"];
    let cluster = Cluster::start(2, 1);
    let calm = cluster.run(&job, &epochs);
    assert_eq!(calm["generation"], 1);

    let id = cluster.submit(&job, &epochs);
    let pids = cluster.pids();
    cluster.reaches(&id, 10);
    for pid in &pids {
        assert_eq!(compute_threads(*pid), 1, "torch must start no threads of its own");
    }
    signal(pids[0], libc::SIGKILL);
    let status = cluster.done(&id);
    assert!(status["generation"].as_u64() >= Some(2), "{status:#}");
    assert_eq!(hash(&status), hash(&calm));
    let events = cluster.json(&["events", &id]).to_string();
    assert!(events.contains("worker_lost"), "{events}");
}

/// A worker that comes later takes its share, from the state that the first one holds.
#[test]
fn a_worker_that_joins_changes_no_bit() {
    let Some(data) = superglue() else { return };
    let job = tiny_cb(&data, LONG);
    // A worker starts in less than a second, where a step takes ten milliseconds.
    let more = ["--set", "training.epochs=80", "--workers", "1..2"];
    let mut cluster = Cluster::by_file(&data);
    cluster.worker(1, &[]);
    let calm = cluster.run(&job, &more);
    let id = cluster.submit(&job, &more);
    cluster.reaches(&id, 5);
    cluster.worker(1, &[]);
    cluster.has_world(&id, 2);
    let status = cluster.done(&id);
    assert_eq!(status["generation"], 2, "{status:#}");
    assert_eq!(hash(&status), hash(&calm));
}

/// All state is lost but the store's: the job resumes from its last checkpoint, to the same bits.
#[test]
fn a_job_resumes_when_all_workers_are_killed() {
    let Some(data) = superglue() else { return };
    let job = tiny_cb(&data, LONG);
    let epochs = ["--set", "training.epochs=40", "--workers", "2"];
    let mut cluster = Cluster::start(0, 1);
    cluster.worker(1, &[]);
    cluster.worker(1, &[]);
    let calm = cluster.run(&job, &epochs);
    let id = cluster.submit(&job, &epochs);
    cluster.has_checkpoints(&id, 1);
    cluster.workers.clear();
    cluster.is_queued(&id);
    cluster.worker(1, &[]);
    let status = cluster.json(&["status", &id]);
    assert!(status["remedy"].to_string().contains("checkpoint"), "{status:#}");
    cluster.worker(1, &[]);
    let status = cluster.done(&id);
    assert_eq!(hash(&status), hash(&calm));
    let logs = cluster.json(&["logs", &id]).to_string();
    assert!(logs.contains("resumes from the checkpoint of step"), "{logs}");
}

/// The coordinator dies by `kill -9` and starts again on its folder and port. Training does not notice:
/// the same generation goes on, and what it did meanwhile is in the journal, each step once.
#[test]
fn a_killed_coordinator_goes_on_from_its_journal() {
    let Some(data) = superglue() else { return };
    let job = tiny_cb(&data, LONG);
    let epochs = ["--set", "training.epochs=40", "--workers", "2"];
    let mut cluster = Cluster::start(0, 1);
    cluster.worker(1, &[]);
    cluster.worker(1, &[]);
    let calm = cluster.run(&job, &epochs);
    let id = cluster.submit(&job, &epochs);
    cluster.reaches(&id, 10);
    let listen = cluster.listen();
    cluster.daemon = None;
    cluster.serve(0, 1, &listen);
    let status = cluster.done(&id);
    assert_eq!(hash(&status), hash(&calm));
    assert_eq!(status["generation"], 1, "{status:#}");
    cluster.check_steps(&id, 160);
}
