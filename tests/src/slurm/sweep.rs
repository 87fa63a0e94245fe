//! A standing coordinator, workers that join it by `workers.sbatch`, and a job array that uses it.

use super::lab::{Lab, OVER, note, slurm, template};
use crate::chaos::clock::now;
use crate::e2e::harness::{Cluster, poll, tiny_cb};

#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn an_array_is_a_job_a_task_and_requeued_tasks_find_theirs() {
    let Some(lab) = Lab::new() else { return };
    let cluster = Cluster::by_file(&lab.data);
    let state = cluster.state().display().to_string();
    let settings = [("PTV2_STATE", state.as_str())];
    lab.write("cb.toml", &tiny_cb(&lab.data, "checkpoint.every = 10"));
    lab.write(
        "settings.txt",
        "training.epochs=40 training.seed=11\ntraining.epochs=40 training.seed=12\ntraining.epochs=40 task=x/y\n",
    );
    let began = now();
    // The tasks wait for workers that are not there yet; one of them is requeued meanwhile.
    let arguments = ["cb.toml", "settings.txt"];
    let array = lab.sbatch(&["--array=1-3"], &settings, &template("sweep.sbatch"), &arguments);
    let jobs = || cluster.json(&["status"]).as_array().unwrap().len();
    poll("two jobs", || (jobs() == 2).then_some(()));
    let second = array.task(2);
    slurm("scontrol", &["requeue", &second.id]);
    second.starts_again();
    assert_eq!(second.field("Restarts"), "1");
    let workers = lab.sbatch(
        &["--ntasks=2", "--cpus-per-task=1"],
        &settings,
        &template("workers.sbatch"),
        &[],
    );
    for task in [array.task(1), second] {
        poll(&format!("task {}\n{}", task.id, workers.log()), || {
            let state = task.field("JobState");
            assert_ne!(state, "FAILED", "{}", task.log());
            (state == "COMPLETED").then_some(())
        });
    }
    let refused = array.task(3);
    assert_eq!(refused.field("ExitCode"), "2:0", "{}", refused.log());
    assert_eq!(jobs(), 2, "a key is a job");
    let adapters = std::fs::read_dir(lab.path("adapters")).unwrap().count();
    assert_eq!(adapters, 2);
    let happened =
        "a job each, one more start found the same job; adapters pulled; a refused one ends with 2";
    note("an array of three, one task requeued", happened, began.elapsed());

    let began = now();
    slurm("scancel", &[&workers.id]);
    let took = workers.is_gone(began);
    assert!(took < OVER, "{took:?}: {}", workers.log());
    cluster.has_workers(0);
    note("`scancel` of workers that joined", "they left, nothing left running", took);
}
