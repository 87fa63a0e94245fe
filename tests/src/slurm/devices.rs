//! Which GPU a worker takes under Slurm, on nodes whose two GPUs are no real ones: what is looked at is the
//! choice alone.

use super::lab::{Batch, Lab, command, note, slurm};
use crate::chaos::clock::now;
use crate::e2e::harness::{Cluster, poll, text};

/// Workers of some steps beside a coordinator; what each says of its GPU, in the order of its tasks.
fn gpus(lab: &Lab, cluster: &Cluster, options: &[&str], steps: &[&str]) -> Vec<String> {
    let before = cluster.json(&["workers"]).as_array().unwrap().len();
    assert_eq!(before, 0, "those of before have left");
    let steps = steps.iter().map(|step| format!("srun {step} ptv2d worker &"));
    let script = format!("#!/bin/bash\n{}\nwait\n", steps.collect::<Vec<_>>().join("\n"));
    lab.write("workers.sh", &script);
    let token = cluster.state().join("worker-token").display().to_string();
    let settings = [("PTV2_COORDINATOR", cluster.url()), ("PTV2_WORKER_TOKEN_FILE", token)];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let batch = lab.sbatch(options, &settings, &lab.path("workers.sh"), &[]);
    let workers = poll(&format!("two workers\n{}", batch.log()), || {
        let workers = cluster.json(&["workers"]);
        (workers.as_array()?.len() == 2).then_some(workers)
    });
    let mut found: Vec<String> = workers.as_array().unwrap().iter().map(told).collect();
    found.sort();
    leave(&batch, cluster);
    found
}

fn told(worker: &serde_json::Value) -> String {
    assert_eq!(worker["device"], "cpu");
    let task = &worker["slurm"]["task"];
    let gpu = worker.get("visible_device");
    let gpu = gpu.map_or("none".into(), |gpu| format!("index {} of {}", gpu["index"], gpu["name"]));
    format!("step {} task {}: {}", task["step"], task["rank"], gpu).replace('"', "")
}

fn leave(batch: &Batch<'_>, cluster: &Cluster) {
    slurm("scancel", &[&batch.id]);
    batch.is_gone(now());
    cluster.has_workers(0);
}

#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn each_worker_takes_the_gpu_that_it_was_given() {
    let Some(lab) = Lab::new() else { return };
    let cluster = Cluster::by_file(&lab.data);
    let began = now();
    let two = ["--nodes=1", "--ntasks=2"];
    let all = gpus(&lab, &cluster, &[two.as_slice(), &["--gres=gpu:2"]].concat(), &["--ntasks=2"]);
    assert_eq!(all, ["step 0 task 0: index 0 of 0", "step 0 task 1: index 1 of 1"]);
    let each =
        gpus(&lab, &cluster, &[two.as_slice(), &["--gpus-per-task=1"]].concat(), &["--ntasks=2"]);
    assert_eq!(each, ["step 0 task 0: index 0 of 0", "step 0 task 1: index 0 of 1"]);
    let step = "--exact --ntasks=1 --gres=gpu:1";
    let steps = gpus(&lab, &cluster, &[two.as_slice(), &["--gres=gpu:2"]].concat(), &[step, step]);
    let devices: Vec<&str> = steps.iter().map(|told| told.split(": ").nth(1).unwrap()).collect();
    assert!(
        devices == ["index 0 of 0", "index 0 of 1"] || devices == ["index 0 of 1", "index 0 of 0"],
        "{steps:?}"
    );
    let none = gpus(&lab, &cluster, &two, &["--ntasks=2"]);
    assert_eq!(none, ["step 0 task 0: none", "step 0 task 1: none"]);
    let happened = "the one of the local rank; the only visible one; one a step; none";
    note(
        "`--gres=gpu:2`; `--gpus-per-task=1`; two steps; no GPU asked for",
        happened,
        began.elapsed(),
    );
}

#[test]
#[ignore = "needs a Slurm: make test-slurm"]
fn a_gpu_that_was_not_given_is_refused() {
    let wanted = |options: &[&str], device: &str| {
        let run = command("srun")
            .args(["--nodes=1", "--ntasks=1"])
            .args(options)
            .args(["ptv2d", "worker", "--coordinator", "http://127.0.0.1:1", "--device", device])
            .output()
            .unwrap();
        assert!(!run.status.success());
        text(&run.stderr)
    };
    let said = wanted(&[], "cuda");
    assert!(said.contains("CUDA_VISIBLE_DEVICES is not set"), "{said}");
    assert!(said.contains("--gpus-per-task=1"), "{said}");
    let said = wanted(&["--gres=gpu:1"], "cuda:1");
    assert!(said.contains("one GPU is visible"), "{said}");
    let said = wanted(&["--gres=gpu:2"], "cuda");
    assert!(said.contains("device 0 (0; local rank 0 of 2 visible)"), "{said}");
    assert!(said.contains("has no NVIDIA driver"), "{said}");
}
