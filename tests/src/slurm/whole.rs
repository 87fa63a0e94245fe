//! A real job from `sbatch` to a pulled adapter.

use super::lab::{Lab, calm, note};
use crate::chaos::clock::now;
use crate::e2e::harness::poll;

#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn a_job_goes_from_sbatch_to_a_pulled_adapter() {
    let Some(lab) = Lab::new() else { return };
    calm(&lab.data);
    let began = now();
    let batch = lab.submit(&["--cpus-per-task=2"], &[]);
    // What each worker says of itself.
    let workers = poll("both workers", || {
        let workers = batch.json(&["workers"])?;
        (workers.as_array()?.len() == 2).then_some(workers)
    });
    let mut places: Vec<String> = Vec::new();
    for worker in workers.as_array().unwrap() {
        let slurm = &worker["slurm"];
        assert_eq!(slurm["job"], batch.id.as_str(), "{worker:#}");
        assert_eq!(slurm["task"]["local_rank"], 0, "{worker:#}");
        assert_eq!(worker["threads"], 2, "as many as --cpus-per-task: {worker:#}");
        assert!(worker.get("visible_device").is_none(), "none was given: {worker:#}");
        places.push(format!("{} on {}", slurm["task"]["rank"], slurm["node"]));
    }
    places.sort();
    assert_eq!(places, ["0 on \"n0\"", "1 on \"n1\""]);
    batch.succeeds();
    let took = began.elapsed();
    assert_eq!(batch.field("ExitCode"), "0:0");
    assert!(batch.processes().is_empty(), "{:?}", batch.processes());
    note(
        "`sbatch` of a CB job on two nodes",
        "adapter pulled, hash of an undisturbed run, exit code 0",
        took,
    );
}

#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn a_batch_ends_as_its_jobs_did() {
    let Some(lab) = Lab::new() else { return };
    lab.write("cb.toml", &super::lab::cb(&lab.data).replace("3e-2", "-1"));
    let began = now();
    let batch = lab.submit(&[], &[]);
    batch.is("FAILED");
    assert_eq!(batch.field("ExitCode"), "2:0", "{}", batch.log());
    assert!(batch.log().contains("learning_rate"), "{}", batch.log());
    batch.is_gone(began);
    note("a job file that is refused", "exit code 2, nothing left", began.elapsed());
}
