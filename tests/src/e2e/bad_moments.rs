//! Bad moments: a killed client, no workers, a retry, two coordinators, a taken port, a wrong token.

use super::harness::{
    Cluster, Process, binary, copy_tiny, ends, hash, poll, superglue, text, tiny, tiny_cb,
};
use crate::chaos::clock::unix_ms;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Enough steps to be met on the way.
const EPOCHS: &str = "training.epochs=80";

/// Ended with this code; a person reads what was wrong, where, what was expected, and what to do.
fn check_refused(run: &Output, code: i32, parts: &[&str]) {
    let said = text(&run.stderr);
    assert_eq!(run.status.code(), Some(code), "{said}");
    for part in ["error: ", "\n  expected: ", "\n\nhint: "].iter().chain(parts) {
        assert!(said.contains(part), "{part:?} is missing: {said}");
    }
    assert!(run.stdout.is_empty(), "{}", text(&run.stdout));
}

/// Sequence numbers of events that a client printed, one to a line. A last line may be cut off.
fn printed(file: &Path) -> Vec<u64> {
    let lines = std::fs::read_to_string(file).unwrap();
    let events = lines.lines().map_while(|line| serde_json::from_str::<Value>(line).ok());
    events.map(|event| event["seq"].as_u64().unwrap()).collect()
}

/// What the journal has of a job: sequence numbers and kinds.
fn journaled(cluster: &Cluster, id: &str) -> (Vec<u64>, Vec<String>) {
    let events = cluster.json(&["events", id]);
    let events = events.as_array().unwrap().iter();
    let event = |event: &Value| {
        (event["seq"].as_u64().unwrap(), event["kind"].as_str().unwrap().to_owned())
    };
    events.map(event).unzip()
}

/// Reads a job's stream of events to its `end`, from after an event.
fn streamed(cluster: &Cluster, id: &str, after: u64) -> Vec<u64> {
    let answer = reqwest::blocking::Client::new()
        .get(format!("{}/v1/jobs/{id}/events/stream", cluster.url()))
        .bearer_auth(cluster.token())
        .header("last-event-id", after.to_string())
        .send()
        .unwrap();
    let stream = answer.text().unwrap();
    assert_eq!(stream.matches("event: end").count(), 1, "{stream}");
    let (events, rest) = stream.split_once("event: end").unwrap();
    assert!(!rest.contains("id: "), "{rest}");
    events.lines().filter_map(|line| line.strip_prefix("id: ")?.parse().ok()).collect()
}

#[test]
fn a_killed_follower_costs_nobody_an_event() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(1, 1);
    let place = |name: &str| cluster.folder.path().join(name);
    let job = cluster.file("job.toml", &tiny_cb(&data, ""));

    // Killed while it follows its own submit.
    let args = ["submit", &job, "--follow", "--set", "training.epochs=200"];
    let submitter = Process::printing(cluster.client().args(args), &place("submitter"));
    let id = poll("the job", || cluster.json(&["status"])[0]["id"].as_str().map(ToOwned::to_owned));
    cluster.reaches(&id, 1);
    drop(submitter);

    // Killed while it prints events.
    let follow = ["--output", "json", "events", "-f", &id];
    let first = Process::printing(cluster.client().args(follow), &place("first"));
    poll("some events", || (printed(&place("first")).len() >= 8).then_some(()));
    drop(first);
    let mut seen = printed(&place("first"));

    let status = cluster.json(&["status", &id]);
    assert_eq!(status["state"], "running", "{status:#}");
    let mut second = Process::printing(cluster.client().args(follow), &place("second"));
    seen.extend(streamed(&cluster, &id, *seen.last().unwrap()));
    let code = poll("the second follower's end", || second.ended());
    assert_eq!(code, 0);

    let status = cluster.done(&id);
    assert_eq!(status["generation"], 1, "{status:#}");
    let (all, kinds) = journaled(&cluster, &id);
    assert!(kinds.contains(&"succeeded".to_owned()), "{kinds:?}");
    assert_eq!(seen, all, "the first, and the stream from where it was killed");
    assert_eq!(printed(&place("second")), all, "the second, from the beginning");
}

#[test]
fn a_job_without_workers_says_so() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(0, 1);
    let began = unix_ms();
    let id = cluster.submit(&tiny_cb(&data, ""), &["--workers", "2"]);
    let status = cluster.is_queued(&id);
    let expected = serde_json::json!({ "kind": "too_few_workers", "free": 0, "needed": 2 });
    assert_eq!(status["reason"], expected, "{status:#}");
    let since = status["since_unix_ms"].as_u64().unwrap();
    assert!(since.abs_diff(began) < 60_000, "{began} {since}");
    let reason = status["reason_text"].as_str().unwrap();
    assert!(reason.contains("2 workers") && reason.contains("0 are free"), "{reason}");
    let remedy = status["remedy"].as_str().unwrap();
    assert!(remedy.contains("`ptv2d worker`"), "{remedy}");

    let table = text(&cluster.ctl(&["status", &id]).stdout);
    let row = |name: &str| {
        let row = table.lines().find_map(|line| line.strip_prefix(name));
        row.unwrap_or_else(|| panic!("no row `{name}`: {table}")).trim().to_owned()
    };
    assert_eq!(row("state "), "queued");
    assert!(row("since ").starts_with("20"), "{table}");
    assert_eq!(row("reason "), reason);
    assert_eq!(row("what helps "), remedy);
}

/// A copy of the tiny backbone that a test may change.
fn own_backbone(cluster: &Cluster) -> PathBuf {
    let copy = cluster.folder.path().join("backbone");
    copy_tiny(&copy);
    copy
}

/// Changes a file's last byte, and back.
fn flip(file: &Path) {
    let mut bytes = std::fs::read(file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn a_failed_job_is_retried_once_its_cause_is_mended() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::start(0, 1);
    let backbone = own_backbone(&cluster);
    let job = tiny_cb(&data, "");
    let job = job.replace(&tiny().display().to_string(), &backbone.display().to_string());
    let id = cluster.submit(&job, &[]);
    flip(&backbone.join("model.safetensors"));
    cluster.worker(1, &[]);
    let fails = || {
        let run = cluster.ctl(&["wait", &id, "--timeout", "600s"]);
        assert_eq!(run.status.code(), Some(1), "{}", text(&run.stderr));
    };
    fails();
    let status = cluster.json(&["status", &id]);
    let remedy = status["remedy"].as_str().unwrap();
    assert!(remedy.contains("ptv2ctl retry"), "{remedy}");

    let retry = || {
        let run = cluster.ctl(&["retry", &id]);
        assert!(run.status.success(), "{}", text(&run.stderr));
        assert!(text(&run.stdout).contains("staging"), "{}", text(&run.stdout));
    };
    retry();
    fails(); // Nothing was mended.
    flip(&backbone.join("model.safetensors"));
    retry();
    let status = cluster.done(&id);
    assert_eq!(hash(&status), hash(&cluster.run(&job, &[])));
    let (_, kinds) = journaled(&cluster, &id);
    let count = |kind: &str| kinds.iter().filter(|found| *found == kind).count();
    assert_eq!((count("failed"), count("retried"), count("succeeded")), (2, 2, 1), "{kinds:?}");

    let refused = cluster.ctl(&["retry", &id]);
    let parts = ["is succeeded", "failed or was cancelled", "submit it anew"];
    check_refused(&refused, 2, &parts);
}

#[test]
fn a_running_job_is_not_retried_and_a_cancelled_one_is() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(1, 1);
    let job = tiny_cb(&data, "checkpoint.every = 3");
    let calm = cluster.run(&job, &["--set", EPOCHS]);
    let id = cluster.submit(&job, &["--set", EPOCHS]);
    cluster.reaches(&id, 4);
    let refused = cluster.ctl(&["retry", &id]);
    let parts = ["is running", "failed or was cancelled", "ptv2ctl cancel"];
    check_refused(&refused, 2, &parts);

    assert!(cluster.ctl(&["cancel", &id]).status.success());
    // Whoever follows now gets all that there is, and its end.
    let (before, _) = journaled(&cluster, &id);
    let followed = streamed(&cluster, &id, 0);
    assert_eq!(followed[..before.len()], before);

    assert!(cluster.ctl(&["retry", &id]).status.success());
    let status = cluster.done(&id);
    assert_eq!(hash(&status), hash(&calm));
    let (_, kinds) = journaled(&cluster, &id);
    let at = |kind: &str| kinds.iter().position(|found| found == kind).unwrap();
    assert!(at("cancelled") < at("retried") && at("retried") < at("succeeded"), "{kinds:?}");
}

#[test]
fn a_second_coordinator_on_the_folder_is_refused() {
    let cluster = Cluster::start(0, 1);
    let address = cluster.url();
    // On another port and, as by a repeated command, on the same.
    for listen in ["127.0.0.1:0", &cluster.listen()] {
        let second = ends(
            Command::new(binary("ptv2d"))
                .args(["local", "--workers", "0", "--listen", listen, "--state"])
                .arg(cluster.state())
                .current_dir(cluster.folder.path()),
        );
        let state = cluster.state().display().to_string();
        let parts = ["another coordinator", &state, "one coordinator", "--state"];
        check_refused(&second, 1, &parts);
    }
    assert_eq!(cluster.url(), address);
    assert_eq!(cluster.json(&["status"]), Value::Array(Vec::new()), "the first goes on");
}

#[test]
fn a_taken_port_is_refused_and_leaves_nothing_behind() {
    let cluster = Cluster::new("ptv2d");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let state = cluster.state();
    let config = format!("listen = {address:?}\nstate = {state:?}\n");
    let config = cluster.file("coordinator.toml", &config);
    let mut by_file = Command::new(binary("ptv2d"));
    by_file.args(["coordinator", "--config", &config]);
    let mut local = Command::new(binary("ptv2d"));
    local.args(["local", "--workers", "0", "--listen", &address, "--state"]).arg(&state);
    for command in [&mut local, &mut by_file] {
        let run = ends(command.current_dir(cluster.folder.path()));
        check_refused(&run, 1, &[&address, "(listen)", "is free", "--listen"]);
        assert!(!state.exists());
    }
    // Free again, it is taken.
    drop(taken);
    let mut process = Process::printing(&mut local, &cluster.folder.path().join("printed"));
    poll("the coordinator", || {
        assert_eq!(process.ended(), None);
        state.join("address").exists().then_some(())
    });
}

#[test]
fn a_client_that_is_not_let_in_says_why() {
    let cluster = Cluster::start(0, 1);
    let wrong = cluster.file("wrong-token", &"0".repeat(64));
    let with = |name: &str, value: &str| ends(cluster.client().arg("status").env(name, value));
    let parts = [wrong.as_str(), &cluster.url(), "this coordinator's token", "PTV2_TOKEN_FILE"];
    check_refused(&with("PTV2_TOKEN_FILE", &wrong), 6, &parts);

    let missing = cluster.folder.path().join("none").display().to_string();
    let parts = [missing.as_str(), "No such file", "PTV2_TOKEN_FILE"];
    check_refused(&with("PTV2_TOKEN_FILE", &missing), 6, &parts);
    // Where no file is named, it is looked for where `ptv2d local` makes it.
    let unnamed = ends(cluster.client().arg("status").env_remove("PTV2_TOKEN_FILE"));
    check_refused(&unnamed, 6, &[".ptv2/token", "ptv2d local"]);

    // Nobody listens on a port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let parts = [&format!("http://{free}/"), "unreachable", "listens there", "PTV2_COORDINATOR"];
    check_refused(&with("PTV2_COORDINATOR", &format!("http://{free}")), 3, &parts);
}
