//! Jobs over NCCL, through the stand-in for its library, with workers on CPUs: the whole way from `meet` to the
//! last step, and a worker that dies on it.

use super::harness::{Cluster, faulty, hash, root, superglue, text, tiny_cb};
use std::path::PathBuf;
use std::process::Command;

/// The stand-in, which the C compiler makes from `tests/nccl-stand-in`.
pub(crate) fn stand_in() -> PathBuf {
    let run = Command::new(root().join("scripts/nccl-stand-in.sh")).output().unwrap();
    assert!(run.status.success(), "{}", text(&run.stderr));
    text(&run.stdout).trim().into()
}

#[test]
fn a_job_over_nccl_has_the_hash_of_tcp_whoever_dies() {
    let Some(data) = superglue() else { return };
    let library = stand_in();
    let job = tiny_cb(&data, "");
    let two = ["--workers", "2"];

    let mut cluster = Cluster::new(faulty());
    cluster.serve(0, 1, "127.0.0.1:0");
    cluster.worker(1, &[]);
    cluster.worker(1, &[]);
    let over_tcp = hash(&cluster.run(&job, &two));
    let long = ["--set", "training.epochs=30", "--workers", "1..2"];
    let long_over_tcp = hash(&cluster.run(&job, &long));
    cluster.workers.clear();
    cluster.has_workers(0);

    let made = cluster.folder.path().join("shared");
    std::fs::create_dir(&made).unwrap();
    cluster.set("PTV2_FAULTS", "nccl".into());
    cluster.set("PTV2_STAND_IN_DIR", made.clone());
    cluster.set("PTV2_NCCL", library);
    let calls = cluster.folder.path().join("calls");
    cluster.set("PTV2_STAND_IN_CALLS", calls.clone());
    let ids = || std::fs::read_to_string(&calls).unwrap().matches("ncclGetUniqueId").count();
    cluster.worker(1, &["--transport", "nccl"]);
    // A rank alone sums where its gradients lie: nothing of NCCL is made.
    let status = cluster.run(&job, &[]);
    assert_eq!(hash(&status), over_tcp, "{}", cluster.logs());
    let alone = cluster.json(&["logs", status["id"].as_str().unwrap()]).to_string();
    assert!(!alone.contains("NCCL") && !calls.exists(), "{alone}");
    cluster.worker(1, &[]);
    let status = cluster.run(&job, &two);
    assert_eq!(hash(&status), over_tcp, "{}", cluster.logs());
    let said = |id: &str| cluster.json(&["logs", id]).to_string();
    let id = status["id"].as_str().unwrap();
    assert!(said(id).contains("the ranks reduce over NCCL 2.28.9"), "{}", said(id));

    let ring = [&two, ["--set", "training.reduction=ring"].as_slice()].concat();
    let status = cluster.run(&job, &ring);
    let id = status["id"].as_str().unwrap();
    assert!(said(id).contains("by a ring"), "{}", said(id));

    let id = cluster.submit(&job, &long);
    cluster.reaches(&id, 10);
    // Killed, as all that a test lets go.
    drop(cluster.workers.remove(0));
    let status = cluster.done(&id);
    assert!(status["generation"].as_u64() >= Some(2), "{status:#}");
    assert_eq!(hash(&status), long_over_tcp);
    assert_eq!(made.read_dir().unwrap().count(), 0, "files are left behind");

    // A worker without the library: all agree on TCP, people are told which, and nobody made an id in vain.
    let asked = ids();
    assert!(asked >= 3, "{asked}");
    cluster.worker(1, &["--nccl", "/nowhere/libnccl.so.2"]);
    let status = cluster.run(&job, &two);
    assert_eq!(hash(&status), over_tcp);
    let said = cluster.json(&["logs", status["id"].as_str().unwrap()]).to_string();
    assert!(said.contains("the ranks reduce over TCP"), "{said}");
    assert!(said.contains("rank 1 (") && said.contains("has no NCCL"), "{said}");
    assert_eq!(ids(), asked);
}

/// All know it, and do what they were told: TCP, or no job.
#[test]
fn a_rank_0_that_makes_no_id_of_nccl_leaves_tcp_or_no_job() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::new(faulty());
    cluster.serve(0, 1, "127.0.0.1:0");
    cluster.set("PTV2_FAULTS", "nccl".into());
    cluster.set("PTV2_NCCL", stand_in());
    cluster.set("PTV2_STAND_IN", "refuse=ncclGetUniqueId".into());
    cluster.worker(1, &[]);
    cluster.worker(1, &[]);
    let job = tiny_cb(&data, "");
    let status = cluster.run(&job, &["--workers", "2"]);
    let said = cluster.json(&["logs", status["id"].as_str().unwrap()]).to_string();
    assert!(said.contains("the ranks reduce over TCP"), "{said}");
    assert!(said.contains("could not make NCCL's id: ncclGetUniqueId failed"), "{said}");

    drop(cluster.workers.remove(1));
    cluster.has_workers(1);
    cluster.worker(1, &["--transport", "nccl"]);
    let id = cluster.submit(&job, &["--workers", "2"]);
    cluster.ctl(&["wait", &id, "--timeout", "170s"]);
    let status = cluster.json(&["status", &id]);
    assert_eq!(status["state"], "failed", "{status:#}");
    let why = status.to_string();
    assert!(why.contains("was told to use NCCL only") && why.contains("NCCL's id"), "{status:#}");
}
