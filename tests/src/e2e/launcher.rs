//! A coordinator that starts its workers itself, as processes beside it. As jobs of Slurm: `crate::slurm`.

use super::harness::{Cluster, coordinator_file, poll, superglue, text, tiny_cb};
use crate::chaos::clock::now;
use crate::chaos::signals::signal;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Starts a coordinator with this `[launcher]`.
fn launching(data: &Path, launcher: &str) -> Cluster {
    let mut cluster = Cluster::new("ptv2d");
    serve(&mut cluster, data, "127.0.0.1:0", launcher);
    cluster
}

fn serve(cluster: &mut Cluster, data: &Path, listen: &str, launcher: &str) {
    let limits = "growth_delay = \"100ms\"\n";
    let place = (cluster.state(), cluster.store());
    let config = coordinator_file(listen, (&place.0, &place.1), data, limits);
    cluster.serve_by(&format!("{config}[launcher]\n{launcher}"));
}

/// What the coordinator says of its launcher.
fn launcher(cluster: &Cluster) -> Value {
    let url = format!("{}/v1/launcher", cluster.url());
    let answer = reqwest::blocking::Client::new().get(url).bearer_auth(cluster.token()).send();
    answer.unwrap().error_for_status().unwrap().json().unwrap()
}

fn workers(cluster: &Cluster) -> usize {
    cluster.json(&["workers"]).as_array().unwrap().len()
}

#[test]
fn workers_come_with_the_queue_and_go_when_it_is_empty() {
    let Some(data) = superglue() else { return };
    let local = "kind = \"local\"\nmax = 2\nidle = \"1s\"\nevery = \"100ms\"\n";
    let mut cluster = launching(&data, local);
    assert_eq!(workers(&cluster), 0);
    let began = now();
    let id = cluster.submit(&tiny_cb(&data, ""), &["--workers", "2..4"]);
    let status = cluster.done(&id);
    println!("submit to the end of the first step: {:?}", status["timings"]["first_step_s"]);
    let events = cluster.json(&["events", &id]);
    let group = |event: &&Value| event["kind"] == "generation";
    let first = events.as_array().unwrap().iter().find(group).unwrap();
    assert_eq!(first["message"].as_str().unwrap().matches(", ").count(), 1, "{first}");
    let ended = now();
    poll("no worker", || (workers(&cluster) == 0).then_some(()));
    println!("end of the job to no worker: {} ms", ended.elapsed().as_millis());
    poll("no launch", || launcher(&cluster)["launches"].as_array()?.is_empty().then_some(()));
    assert!(began.elapsed() > Duration::from_secs(1), "they are kept for a while");

    // A worker that is killed is replaced; the job goes on. What is started ends with the coordinator.
    let more = ["--workers", "1..2", "--set", "training.epochs=400"];
    let id = cluster.submit(&tiny_cb(&data, ""), &more);
    cluster.has_world(&id, 2);
    let victim = cluster.pids()[0];
    signal(victim, libc::SIGKILL);
    let others = poll("a worker in its place", || {
        let pids = cluster.pids();
        (pids.len() == 2 && !pids.contains(&victim)).then_some(pids)
    });
    let daemon = cluster.daemon.take().unwrap();
    signal(daemon.pid(), libc::SIGTERM);
    let lives = |pid: &u32| Path::new(&format!("/proc/{pid}/exe")).read_link().is_ok();
    poll("an end of all", || (!others.iter().any(lives)).then_some(()));
    drop(daemon);
}

#[test]
fn workers_that_die_at_once_are_tried_less_and_less_often_and_the_job_says_why() {
    let Some(data) = superglue() else { return };
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "0".repeat(64)).unwrap();
    let wrong = format!(
        "kind = \"local\"\nmax = 3\nevery = \"100ms\"\ntoken_file = {token:?}\nidle = \"1s\"\n"
    );
    let mut cluster = launching(&data, &wrong);
    let id = cluster.submit(&tiny_cb(&data, ""), &["--workers", "1..3"]);
    let status = poll("two failures", || {
        let status = cluster.json(&["status", &id]);
        let failures = status["reason"]["trouble"]["failures"].as_u64()?;
        (failures >= 2).then_some(status)
    });
    assert_eq!(status["reason"]["kind"], "awaiting_launches", "{status:#}");
    let words = status["reason_text"].as_str().unwrap();
    assert!(words.contains("cannot be started") && words.contains("exit status: 1"), "{words}");
    let remedy = status["remedy"].as_str().unwrap();
    assert!(remedy.contains("coordinator's log"), "{remedy}");
    let table = text(&cluster.ctl(&["workers"]).stdout);
    assert!(table.contains("in a row"), "{table}");
    assert!(cluster.logs().contains("refuses this worker's token"), "the log says why");
    // The first time all that were wanted; then one at a time.
    let started = cluster.logs().matches("a worker is started").count() as u64;
    let failures = launcher(&cluster)["trouble"]["failures"].as_u64().unwrap();
    assert!(started <= 3 + failures, "{started} were started, {failures} failures");

    // Once the cause is mended, it goes on; also in another life of the coordinator.
    let listen = cluster.listen();
    drop(cluster.daemon.take());
    serve(&mut cluster, &data, &listen, "kind = \"local\"\nmax = 1\nidle = \"1s\"\n");
    cluster.done(&id);
}

#[test]
fn what_no_launcher_can_do_is_said() {
    let Some(data) = superglue() else { return };
    let cluster = launching(&data, "kind = \"local\"\nmax = 1\nmin = 1\n");
    let id = cluster.submit(&tiny_cb(&data, ""), &["--workers", "2"]);
    let status = poll("the one worker", || {
        let status = cluster.json(&["status", &id]);
        (status["reason"]["free"] == 1).then_some(status)
    });
    assert_eq!(status["reason"]["kind"], "too_few_workers");
    assert!(status["remedy"].as_str().unwrap().contains("launcher.max"), "{status:#}");
}
