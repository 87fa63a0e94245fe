//! `ptv2d coordinator` and `ptv2d worker`, as they are started on several machines.

use super::harness::{Cluster, binary, hash, poll, superglue, text, tiny_cb};
use std::process::Command;

#[test]
fn a_coordinator_and_a_worker_of_their_own_do_a_job() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::by_file(&data);
    cluster.worker(2, &["--device", "cpu"]);
    let status = cluster.run(&tiny_cb(&data, ""), &[]);
    assert_eq!(status["world"], 0, "the group is gone when the job is done");
    assert!(cluster.store().join("jobs").exists());
    let log = std::fs::read_to_string(cluster.folder.path().join("daemon.log")).unwrap();
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(line["level"].is_string(), "{line}");
    }
}

/// Whoever reads the logs of a run finds what is said of a job by its fields, in one place.
#[test]
fn log_lines_as_json_have_job_generation_rank_and_step() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::by_file(&data);
    for _ in 0..2 {
        cluster.worker(1, &["--log-format", "json"]);
    }
    let status = cluster.run(&tiny_cb(&data, ""), &["--workers", "2"]);
    let id = status["id"].as_str().unwrap();
    let fields = |name: &str| -> Vec<serde_json::Value> {
        let log = std::fs::read_to_string(cluster.folder.path().join(name)).unwrap();
        let line = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
        log.lines().map(|text| line(text)["fields"].clone()).collect()
    };
    let mut ranks = Vec::new();
    for name in ["worker-0.log", "worker-1.log"] {
        let lines = fields(name);
        let of_job = || lines.iter().filter(|line| line["job"] == id);
        let whole = of_job()
            .find(|line| line["generation"] == 1 && line["rank"].is_u64() && line["step"] == 0);
        let whole = whole.unwrap_or_else(|| panic!("{lines:#?}"));
        ranks.push(whole["rank"].as_u64().unwrap());
        let ends = |line: &&serde_json::Value| line["tuned_sha256"] == status["tuned_sha256"];
        assert!(of_job().any(|line| ends(&line)), "{lines:#?}");
        if whole["rank"] == 0 {
            // Its checkpoints are written by another thread.
            let written = of_job().find(|line| line["key"].is_string()).unwrap();
            assert_eq!((&written["rank"], written["step"].is_u64()), (&0.into(), true));
        }
    }
    ranks.sort_unstable();
    assert_eq!(ranks, [0, 1]);
    let lines = fields("daemon.log");
    let of_job: Vec<_> = lines.iter().filter(|line| line["job"] == id).collect();
    assert!(of_job.len() > 4, "{lines:#?}");
    for line in of_job {
        assert!(line["generation"].is_u64() && line["step"].is_u64(), "{line}");
    }
}

/// A drained worker ends well; the job goes on with the others, to the same bits.
#[test]
fn a_worker_is_drained() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::start(0, 1);
    cluster.worker(1, &[]);
    cluster.worker(1, &[]);
    let job = tiny_cb(&data, "");
    let epochs = ["--set", "training.epochs=12", "--workers", "1..2"];
    let calm = cluster.run(&job, &epochs);
    let id = cluster.submit(&job, &epochs);
    cluster.reaches(&id, 8);
    let workers = cluster.json(&["workers"]);
    let first = workers[0]["id"].as_str().unwrap();
    assert!(cluster.ctl(&["drain", first]).status.success());
    let status = cluster.done(&id);
    assert_eq!(hash(&status), hash(&calm));
    let code = poll("the drained worker", || cluster.workers[0].ended());
    assert_eq!(code, 0);
    assert_eq!(cluster.json(&["workers"]).as_array().unwrap().len(), 1);
}

/// A worker is free for the next job whenever its job was cancelled: staged, forming or running.
#[test]
fn a_cancelled_job_gives_its_workers_back() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::by_file(&data);
    cluster.worker(1, &[]);
    cluster.worker(1, &[]);
    let long = ["--workers", "2", "--set", "training.epochs=5000"];
    for wait_for_steps in [false, true, false, true] {
        let id = cluster.submit(&tiny_cb(&data, ""), &long);
        if wait_for_steps {
            cluster.reaches(&id, 1);
        }
        assert!(cluster.ctl(&["cancel", &id]).status.success());
        assert_eq!(cluster.ctl(&["wait", &id]).status.code(), Some(5));
    }
    cluster.run(&tiny_cb(&data, ""), &["--workers", "2"]);
}

#[test]
fn a_wrong_start_says_what_to_do() {
    let fails = |args: &[&str], said: &str| {
        let run = Command::new(binary("ptv2d")).args(args).output().unwrap();
        assert!(!run.status.success(), "{args:?}");
        let message = text(&run.stderr);
        assert!(message.contains(said), "{args:?}: {message}");
    };
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let state = state.to_str().unwrap();
    fails(&["coordinator", "--config", "/none.toml"], "/none.toml");
    fails(&["local", "--state", state, "--listen", "0.0.0.0:0"], "--insecure-listen");
    fails(&["local", "--state", state, "--allow", "/none"], "--allow");
    fails(&["worker", "--coordinator", "ftp://x"], "http://host:port");
}

/// Each layer goes over the ones before, and each value says where it came from.
#[test]
fn a_configuration_says_where_each_value_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("coordinator.toml");
    std::fs::write(&file, "state = \"/var/lib/ptv2\"\n[limits]\nqueue_limit = 5\n").unwrap();
    let check = |variables: &[(&str, &str)], more: &[&str]| {
        let mut command = Command::new(binary("ptv2d"));
        command.args(["check-config", "--config"]).arg(&file).args(more);
        command.envs(variables.iter().copied()).output().unwrap()
    };
    let good = check(&[("PTV2_LIMITS__PAIR_FAILURES", "9")], &["--listen", "127.0.0.1:7"]);
    assert!(good.status.success(), "{}", text(&good.stderr));
    let shown = text(&good.stdout);
    for line in [
        format!("queue_limit = 5  # {}", file.display()),
        "pair_failures = 9  # PTV2_LIMITS__PAIR_FAILURES".into(),
        "listen = \"127.0.0.1:7\"  # --listen".into(),
        "blame_grace = \"300ms\"  # default".into(),
    ] {
        assert!(shown.contains(&line), "{line}: {shown}");
    }
    let bad = check(&[("PTV2_LISTEN", "0.0.0.0:7")], &[]);
    assert!(!bad.status.success());
    assert!(text(&bad.stderr).contains("listen, set by PTV2_LISTEN"), "{}", text(&bad.stderr));
    let misspelled = check(&[("PTV2_LIMITS__QUEUE_LIMT", "7")], &[]);
    assert!(text(&misspelled.stderr).contains("did you mean PTV2_LIMITS__QUEUE_LIMIT"));
}
