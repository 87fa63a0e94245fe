//! NCCL, and devices, that fail while all workers are well: whatever it is, the job ends with the hash of an undisturbed
//! run.

use super::harness::{Cluster, faulty, hash, poll, superglue, tiny_cb};
use super::nccl::stand_in;
use serde_json::Value;

/// A coordinator whose workers, that are still to be started, have these faults. Gives the job, long enough for two
/// generations, and its hash by two workers without any.
fn calm() -> Option<(Cluster, String, String)> {
    let job = tiny_cb(&superglue()?, "resources.workers = \"1..2\"");
    let mut cluster = Cluster::new(faulty());
    cluster.serve(0, 1, "127.0.0.1:0");
    cluster.worker(1, &[]);
    cluster.worker(1, &[]);
    let expected = hash(&cluster.run(&job, &[]));
    cluster.workers.clear();
    cluster.has_workers(0);
    Some((cluster, job, expected))
}

/// Two workers that reduce over the stand-in of NCCL, the second with these of its faults.
fn over_nccl(cluster: &mut Cluster, faults: &str) {
    cluster.set("PTV2_FAULTS", "nccl".into());
    cluster.set("PTV2_STAND_IN_DIR", cluster.folder.path().into());
    cluster.set("PTV2_NCCL", stand_in());
    cluster.worker(1, &[]);
    cluster.set("PTV2_STAND_IN", faults.into());
    cluster.worker(1, &[]);
}

fn warnings(status: &Value) -> String {
    status["warnings"].to_string()
}

#[test]
fn a_job_goes_on_after_an_error_of_nccl() {
    let Some((mut cluster, job, expected)) = calm() else { return };
    over_nccl(&mut cluster, "async-error=5");
    let status = cluster.run(&job, &["--workers", "2"]);
    assert_eq!(hash(&status), expected, "{}", cluster.logs());
    assert_eq!(status["generation"], 2, "{status:#}");
    let told = warnings(&status);
    assert!(told.contains("the reduction failed") && told.contains("a cable was pulled"), "{told}");
    let said = cluster.json(&["logs", status["id"].as_str().unwrap()]).to_string();
    assert!(said.matches("the ranks reduce over NCCL").count() == 2, "{said}");
    assert!(said.contains("a cable was pulled"), "{said}");
    // The workers are the same.
    cluster.has_workers(2);
}

#[test]
fn where_nccl_never_connects_tcp_takes_its_place() {
    let Some((mut cluster, job, expected)) = calm() else { return };
    over_nccl(&mut cluster, "refuse=ncclCommInitRankConfig");
    let status = cluster.run(&job, &["--workers", "2"]);
    assert_eq!(hash(&status), expected, "{}", cluster.logs());
    assert_eq!(status["generation"], 3, "{status:#}");
    let told = warnings(&status);
    assert!(told.contains("the ranks reduce over TCP"), "{told}");
    assert!(told.contains("NCCL failed in 2 generations in a row, last with: ncclComm"), "{told}");
}

#[test]
fn a_worker_that_can_compute_no_more_says_so_and_ends() {
    let Some((mut cluster, job, expected)) = calm() else { return };
    cluster.worker(1, &[]);
    cluster.set("PTV2_FAULTS", "device-dies=4".into());
    cluster.worker(1, &[]);
    let id = cluster.submit(&job, &["--workers", "2"]);
    assert_eq!(cluster.worker_ends(1), 1, "{}", cluster.logs());
    let why = poll("why it waits", || {
        let status = cluster.json(&["status", &id]);
        (status["state"] == "queued").then_some(status)
    });
    assert!(warnings(&why).contains("lost its device: "), "{why:#}");
    let log = std::fs::read_to_string(cluster.folder.path().join("worker-1.log")).unwrap();
    assert!(log.contains("this process can compute no more"), "{log}");
    assert!(log.contains("start the worker again"), "{log}");
    // Another one takes its place.
    cluster.set("PTV2_FAULTS", "".into());
    cluster.worker(1, &[]);
    let status = cluster.done(&id);
    assert_eq!(hash(&status), expected, "{}", cluster.logs());
}
