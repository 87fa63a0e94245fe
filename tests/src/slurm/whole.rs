//! A real job from `sbatch` to a pulled adapter.

use super::lab::{Lab, calm, cb, note, template};
use crate::chaos::clock::now;
use crate::e2e::harness::poll;
use serde_json::Value;

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

/// Both GPUs of a node, which are no real ones: each worker says which it was given, and the parts beside them start
/// without.
#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn each_worker_of_the_template_has_a_gpu_of_its_own() {
    let Some(lab) = Lab::new() else { return };
    let began = now();
    for options in [["--gpus-per-task=1", "--ntasks=2"], ["--gres=gpu:2", "--ntasks=2"]] {
        let options = [options.as_slice(), &["--nodes=1", "--cpus-per-task=1"]].concat();
        let batch = lab.sbatch(&options, &[], &template("ptv2.sbatch"), &["cb.toml"]);
        let workers = poll(&format!("both workers\n{}", batch.log()), || {
            let workers = batch.json(&["workers"])?;
            (workers.as_array()?.len() == 2).then_some(workers)
        });
        let given = |worker: &Value| worker["visible_device"]["name"].as_str().map(str::to_owned);
        let mut given: Vec<Option<String>> =
            workers.as_array().unwrap().iter().map(given).collect();
        given.sort();
        assert_eq!(given, [Some("0".into()), Some("1".into())], "{options:?}: {workers:#}");
        batch.succeeds();
        std::fs::remove_dir_all(lab.path("adapters")).unwrap();
    }
    note(
        "`ptv2.sbatch` with `--gpus-per-task=1`, and with `--gres=gpu:2`",
        "each of two workers was given one; adapters pulled",
        began.elapsed(),
    );
}

/// The first job goes well and the second is cancelled: the adapter of the one, the code of the other.
#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn a_batch_of_two_jobs_ends_as_the_worse_one() {
    let Some(lab) = Lab::new() else { return };
    let long = format!("max_steps = {}", super::lab::STEPS);
    lab.write("long.toml", &cb(&lab.data).replace(&long, "max_steps = 5000"));
    let began = now();
    let both = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1"];
    let batch = lab.sbatch(&both, &[], &template("ptv2.sbatch"), &["cb.toml", "long.toml"]);
    let id = poll(&format!("the second job\n{}", batch.log()), || {
        let jobs = batch.json(&["status"])?;
        let is_long = |job: &&Value| job["total_steps"] == 5000;
        let long = jobs.as_array()?.iter().find(is_long)?;
        Some(long["id"].as_str()?.to_owned())
    });
    poll("the first job's end", || {
        let jobs = batch.json(&["status"])?;
        let is_done = |job: &Value| job["state"] == "succeeded";
        jobs.as_array()?.iter().any(is_done).then_some(())
    });
    assert!(batch.ctl(&["cancel", &id]).status.success());
    batch.is("FAILED");
    assert_eq!(batch.field("ExitCode"), "5:0", "{}", batch.log());
    let adapters = std::fs::read_dir(lab.path("adapters")).unwrap().flatten();
    let weights: Vec<_> =
        adapters.map(|entry| entry.path().join("adapter_model.safetensors").exists()).collect();
    assert_eq!(weights, [true], "{}", batch.log());
    batch.is_gone(began);
    note(
        "two job files, one job cancelled",
        "exit code 5; the other's adapter pulled",
        began.elapsed(),
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
