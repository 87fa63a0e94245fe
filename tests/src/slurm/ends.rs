//! How an allocation ends: cancelled, its script killed, its time over, preempted.

use super::lab::{Batch, Lab, OVER, calm, command, note, path, slurm};
use crate::chaos::clock::now;
use crate::chaos::signals::signal;
use crate::e2e::harness::{binary, poll};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn scancel_leaves_nothing() {
    let Some(lab) = Lab::new() else { return };
    let batch = lab.submit(&[], &[]);
    batch.says("checkpoint of step", 1);
    let began = now();
    slurm("scancel", &[&batch.id]);
    let took = batch.is_gone(began);
    assert!(took < OVER, "{took:?}: {}", batch.log());
    batch.is("CANCELLED");
    note("`scancel`", "CANCELLED, nothing left running", took);
}

#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn a_batch_script_that_is_killed_leaves_nothing() {
    let Some(lab) = Lab::new() else { return };
    let batch = lab.submit(&[], &[]);
    batch.says("checkpoint of step", 1);
    let scripts = batch.running("slurm_script");
    let began = now();
    for script in scripts {
        signal(script, libc::SIGKILL);
    }
    let took = batch.is_gone(began);
    assert!(took < OVER, "{took:?}: {}", batch.log());
    batch.is("FAILED");
    note("`kill -9` of the batch script", "FAILED, nothing left running", took);
}

/// A real time limit. Slurm looks every half a minute, and gives the notice that much early: 90 to 120 s after the start.
#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn the_time_limit_is_heard_before_it_comes() {
    let Some(lab) = Lab::new() else { return };
    let long = super::lab::cb(&lab.data)
        .replace(&format!("max_steps = {}", super::lab::STEPS), "max_steps = 5000");
    lab.write("cb.toml", &long);
    let options = ["--time=3", "--signal=USR1@60"];
    let batch = lab.submit(&options, &[("PTV2_REQUEUE", "1")]);
    batch.is("RUNNING");
    let began = now();
    batch.says("checkpoint of step", 1);
    batch.says("asked to end", 1);
    let noticed = began.elapsed();
    let took = batch.is_gone(now());
    assert!(took < OVER, "{took:?}: {}", batch.log());
    let last = newest(&lab.path("ptv2-store").join(&batch.id));
    batch.starts_again();
    batch.says("restarts=1", 1);
    batch.says(&format!("goes on from step {last}"), 1);
    assert!(last > 0);
    let after = noticed.as_secs();
    note(
        &format!("USR1 before a real time limit, {after} s after the start"),
        &format!("checkpoint of step {last} written, left; requeued, went on from step {last}"),
        took,
    );
}

/// A `PATH` whose first folder has a program of this name: a shell's lines.
fn path_with(lab: &Lab, name: &str, lines: &str) -> String {
    let folder = lab.path("programs");
    std::fs::create_dir(&folder).unwrap();
    let program = folder.join(name);
    std::fs::write(&program, format!("#!/bin/sh\n{lines}\n")).unwrap();
    std::fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", folder.display(), path())
}

/// A `PATH` whose `ptv2ctl submit` begins only once a file is there, so that it is met for sure; and that file.
fn slow_submit(lab: &Lab) -> (String, PathBuf) {
    let (told, ctl) = (lab.path("told"), binary("ptv2ctl"));
    let lines = format!(
        "until [ \"$1\" != submit ] || [ -e {told:?} ]; do sleep 0.1; done\nexec {ctl:?} \"$@\""
    );
    (path_with(lab, "ptv2ctl", &lines), told)
}

/// Gives notice, again each second until the coordinator has left: Slurm passes it on to no step that is only about to
/// start, and a program runs a moment before its step does.
fn leaves_by_a_notice(batch: &Batch<'_>) {
    let mut next = now();
    poll("the coordinator to leave", || {
        if now() >= next {
            let args = ["--signal=KILL", "2", "scancel", "--signal=USR1", &batch.id];
            command("timeout").args(args).status().unwrap();
            next = now() + Duration::from_secs(1);
        }
        batch.running("ptv2d coordinator").is_empty().then_some(())
    });
}

/// As where a limit is so short, or a job so urgent, that the notice comes at once: before the coordinator listens,
/// before the job is submitted, before a worker has it.
#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn a_notice_at_once_is_heard_too() {
    for program in ["ptv2d coordinator", "ptv2d worker", "ptv2ctl submit", "ptv2ctl wait"] {
        let Some(lab) = Lab::new() else { return };
        calm(&lab.data);
        let (path, told) = slow_submit(&lab);
        let tell = || std::fs::write(&told, "").unwrap();
        if program != "ptv2ctl submit" {
            tell();
        }
        let batch = lab.submit(&[], &[("PTV2_REQUEUE", "1"), ("PATH", &path)]);
        poll(program, || (!batch.running_itself(program).is_empty()).then_some(()));
        let began = now();
        // What is submitted after that would wait for a coordinator that has left.
        leaves_by_a_notice(&batch);
        tell();
        let took = batch.is_gone(began);
        assert!(took < OVER, "{program}: {took:?}: {}", batch.log());
        batch.starts_again();
        batch.succeeds();
        let event = format!("`scancel --signal=USR1` as soon as there is a `{program}`");
        note(&event, "left, requeued, ended with the hash", took);
    }
}

/// As where it is preempted while it tells its own steps to leave: `scancel` then tries to tell them for a minute.
#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn a_requeue_does_not_hold_up_its_leaving() {
    let Some(lab) = Lab::new() else { return };
    calm(&lab.data);
    // Its first start alone.
    let once = "[ -n \"${SLURM_RESTART_COUNT:-}\" ] || scontrol requeue \"$SLURM_JOB_ID\"";
    let path =
        path_with(&lab, "scancel", &format!("PATH=${{PATH#*:}}\n{once}\nexec scancel \"$@\""));
    let batch = lab.submit(&[], &[("PATH", &path)]);
    batch.says("checkpoint of step", 1);
    let began = now();
    // The coordinator alone hears of the end.
    for coordinator in batch.running_itself("ptv2d coordinator") {
        signal(coordinator, libc::SIGUSR1);
    }
    let took = batch.is_gone(began);
    assert!(took < OVER, "{took:?}: {}", batch.log());
    batch.starts_again();
    batch.succeeds();
    note("requeued while it tells its steps to leave", "left, ended with the hash", took);
}

#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn a_notice_ends_it_with_the_code_of_a_job_that_goes_on() {
    let Some(lab) = Lab::new() else { return };
    let batch = lab.submit(&[], &[("PTV2_RUN", "mine")]);
    batch.says("checkpoint of step", 1);
    let began = now();
    slurm("scancel", &["--signal=USR1", &batch.id]);
    let took = batch.is_gone(began);
    assert!(took < OVER, "{took:?}: {}", batch.log());
    batch.is("FAILED");
    assert_eq!(batch.field("ExitCode"), "7:0", "{}", batch.log());
    // Another allocation takes the run up by its name.
    let next = lab.submit(&[], &[("PTV2_RUN", "mine")]);
    next.succeeds();
    assert!(!next.log().contains("goes on from step 0"), "{}", next.log());
    note(
        "`scancel --signal=USR1`",
        "exit code 7; the same PTV2_RUN in a new job ends with the hash",
        took,
    );
}

#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn an_urgent_job_takes_the_nodes_and_gives_them_back() {
    let Some(lab) = Lab::new() else { return };
    calm(&lab.data);
    let batch = lab.submit(&["--cpus-per-task=4"], &[]);
    batch.says("checkpoint of step", 1);
    lab.write("urgent.sh", "#!/bin/sh\necho it runs\n");
    let options = ["--partition=urgent", "--nodes=2", "--ntasks-per-node=4"];
    let began = now();
    let urgent = lab.sbatch(&options, &[], &lab.path("urgent.sh"), &[]);
    urgent.says("it runs", 1);
    let took = began.elapsed();
    batch.starts_again();
    batch.succeeds();
    assert_eq!(batch.field("Restarts"), "1");
    note(
        "an urgent job needs both nodes",
        "it ran after that; the other was requeued and ended with the hash",
        took,
    );
}

/// The step of the newest checkpoint in a store with one job.
fn newest(store: &Path) -> u64 {
    let job = std::fs::read_dir(store.join("jobs")).unwrap().flatten().next().unwrap();
    let names = std::fs::read_dir(job.path().join("checkpoints")).unwrap().flatten();
    let step = |name: String| name.split('-').next()?.parse::<u64>().ok();
    names.filter_map(|entry| step(entry.file_name().into_string().ok()?)).max().unwrap()
}
