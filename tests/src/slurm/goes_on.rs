//! What a run survives: a worker, a node, a requeue, and the coordinator's disk.

use super::lab::{self, Batch, Lab, OVER, STEPS, calm, cb, command, note, slurm};
use crate::chaos::clock::now;
use crate::chaos::signals::signal;
use crate::e2e::harness::{poll, root};
use std::time::Duration;

#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn a_killed_worker_leaves_the_other_going_on() {
    let Some(lab) = Lab::new() else { return };
    calm(&lab.data);
    let batch = lab.submit(&[], &[]);
    batch.says("of 2 goes on", 1);
    batch.says("checkpoint of step", 1);
    let worker = batch.running_itself("ptv2d worker")[0];
    let alone = batch.log().matches("of 1 goes on").count();
    let began = now();
    signal(worker, libc::SIGKILL);
    batch.says("is lost", 1);
    batch.says("of 1 goes on", alone + 1);
    let took = began.elapsed();
    batch.succeeds();
    note("`kill -9` of a worker", "the other went on after that; hash of an undisturbed run", took);
}

/// Kills all that is on a node: its daemon, the keepers of its steps, and its tasks of this job.
fn kill_node(batch: &Batch<'_>, node: &str) {
    let tasks = batch.with_variable(&format!("SLURMD_NODENAME={node}"));
    assert!(!tasks.is_empty(), "no task is on {node}");
    let of_node = |line: &str| line.starts_with("slurmd ") && line.ends_with(&format!("-N {node}"));
    let daemons = lab::daemons(of_node);
    assert_eq!(daemons.len(), 1);
    let keepers = lab::daemons(|line| line.starts_with("slurmstepd"));
    let keepers =
        keepers.into_iter().filter(|keeper| tasks.iter().any(|task| lab::parent(*task) == *keeper));
    // The daemon first, which would tell.
    for pid in daemons.into_iter().chain(keepers).chain(tasks.iter().copied()) {
        signal(pid, libc::SIGKILL);
    }
}

#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn a_node_that_dies_takes_nobody_else_along() {
    let Some(lab) = Lab::new() else { return };
    // Long enough for Slurm to notice: it takes SlurmdTimeout, in the lab 10 s, by default 5 min.
    lab.write(
        "cb.toml",
        &cb(&lab.data).replace(&format!("max_steps = {STEPS}"), "max_steps = 5000"),
    );
    let batch = lab.submit(&[], &[]);
    batch.says("of 2 goes on", 1);
    batch.says("checkpoint of step", 1);
    let alone = batch.log().matches("of 1 goes on").count();
    let began = now();
    kill_node(&batch, "n1");
    batch.says("of 1 goes on", alone + 1);
    let took = began.elapsed();
    poll("Slurm to notice", || {
        slurm("sinfo", &["-h", "-n", "n1", "-o", "%T"]).contains("down").then_some(())
    });
    let noticed = began.elapsed();
    let step = batch.status().unwrap()["step"].as_u64().unwrap();
    batch.reaches(step + 3);
    assert_eq!(batch.field("JobState"), "RUNNING", "{}", batch.log());
    slurm("scancel", &[&batch.id]);
    let gone = batch.is_gone(now());
    let lab_script = root().join("scripts/slurm-lab.sh");
    assert!(command("bash").arg(lab_script).args(["node", "n1"]).status().unwrap().success());
    poll("both nodes", || {
        let idle = slurm("sinfo", &["-h", "-p", "main", "-t", "idle", "-o", "%D"]);
        (idle == "2").then_some(())
    });
    note("a node dies", "the survivor went on after that; the job stays RUNNING", took);
    note("… and Slurm notices", "the node is DOWN, the job goes on", noticed);
    note("… `scancel` with a node down", "nothing left running", gone);
    assert!(gone < OVER, "{gone:?}");
}

/// Requeues it once it has a checkpoint, does something meanwhile, and starts it again; how long it took from
/// there until it trained again.
fn requeued(batch: &Batch<'_>, meanwhile: impl FnOnce()) -> Duration {
    batch.says("checkpoint of step", 1);
    slurm("scontrol", &["requeue", &batch.id]);
    let gone = batch.is_gone(now());
    assert!(gone < OVER, "{gone:?}: {}", batch.log());
    meanwhile();
    let lives = batch.log().matches("goes on from step").count();
    batch.starts_again();
    let began = now();
    batch.says("goes on from step", lives + 1);
    let took = began.elapsed();
    batch.succeeds();
    let log = batch.log();
    assert!(log.contains("restarts=1"), "{log}");
    let resumed = log.split("goes on from step ").nth(lives + 1).unwrap();
    assert!(!resumed.starts_with("0 "), "it began anew: {log}");
    took
}

#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn a_requeued_job_goes_on() {
    let Some(lab) = Lab::new() else { return };
    let batch = lab.submit(&[], &[]);
    let took = requeued(&batch, || ());
    note(
        "`scontrol requeue`",
        "trained on after that from its last checkpoint; hash as undisturbed",
        took,
    );
}

#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn a_requeued_job_goes_on_without_the_coordinators_disk() {
    let Some(lab) = Lab::new() else { return };
    let batch = lab.submit(&[], &[]);
    let took = requeued(&batch, || std::fs::remove_dir_all(batch.state()).unwrap());
    assert!(batch.log().contains("found in the store"), "{}", batch.log());
    let happened = "found in the store by its key, trained on after that; hash as undisturbed";
    note("… and the coordinator's state folder is lost", happened, took);
}
