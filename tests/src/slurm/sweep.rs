//! A standing coordinator, workers that join it by `workers.sbatch`, and a job array that uses it.

use super::lab::{Batch, Lab, OVER, note, slurm, start_soon, template};
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
    let task = |number: u32| format!("{}_{number}", array.id);
    let requeued = |parts: &[&str]| {
        poll("the requeued task", || {
            let shown = slurm("scontrol", &["--oneliner", "show", "job", &task(2)]);
            parts.iter().all(|part| shown.contains(part)).then_some(())
        });
    };
    slurm("scontrol", &["requeue", &task(2)]);
    requeued(&["JobState=PENDING"]);
    start_soon(&task(2));
    requeued(&["JobState=RUNNING", "Restarts=1"]);
    let workers = lab.sbatch(
        &["--ntasks=2", "--cpus-per-task=1"],
        &settings,
        &template("workers.sbatch"),
        &[],
    );
    for number in [1, 2] {
        poll(&format!("task {number}\n{}", workers.log()), || {
            let shown = slurm("scontrol", &["--oneliner", "show", "job", &task(number)]);
            assert!(!shown.contains("JobState=FAILED"), "{shown}\n{}", log(&lab, &array, number));
            shown.contains("JobState=COMPLETED").then_some(())
        });
    }
    let refused = slurm("scontrol", &["--oneliner", "show", "job", &task(3)]);
    assert!(refused.contains("ExitCode=2:0"), "{refused}\n{}", log(&lab, &array, 3));
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
    poll("the workers' leaving", || {
        cluster.json(&["workers"]).as_array()?.is_empty().then_some(())
    });
    note("`scancel` of workers that joined", "they left, nothing left running", took);
}

fn log(lab: &Lab, array: &Batch<'_>, number: u32) -> String {
    let name = format!("slurm-{}_{number}.out", array.id);
    std::fs::read_to_string(lab.path(&name)).unwrap_or_default()
}
