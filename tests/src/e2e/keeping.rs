//! What is kept is found again: after a crash at any write, a flipped byte, a broken connection, a lost
//! coordinator; and what nobody needs goes.

mod figures;
mod pulls;
mod tap;

use super::harness::{
    Cluster, Process, coordinator_file, ends, hash, poll, superglue, text, tiny_cb,
};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const EPOCHS: &str = "training.epochs=50";
/// Long enough for many checkpoints.
const LONG: &str = "training.epochs=200";

/// A job's checkpoints in the store: step and key, oldest first.
fn checkpoints(cluster: &Cluster, id: &str) -> Vec<(u64, String)> {
    let found = cluster.json(&["checkpoints", id]);
    let one = |one: &Value| (one["step"].as_u64().unwrap(), one["key"].as_str().unwrap().into());
    found.as_array().unwrap().iter().map(one).collect()
}

/// The messages of a job's log.
fn log(cluster: &Cluster, id: &str) -> Vec<String> {
    let lines = cluster.json(&["logs", id]);
    let message = |line: &Value| line["message"].as_str().unwrap().to_owned();
    lines.as_array().unwrap().iter().map(message).collect()
}

/// The steps that a job has resumed from.
fn resumed(cluster: &Cluster, id: &str) -> Vec<u64> {
    let begin = "resumes from the checkpoint of step ";
    let log = log(cluster, id);
    log.iter().filter_map(|line| line.strip_prefix(begin)?.parse().ok()).collect()
}

fn store(cluster: &Cluster) -> PathBuf {
    cluster.state().join("store")
}

fn manifest(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A generation puts its start; a checkpoint its state, the job, three files of the adapter and its
/// manifest. A worker dies at each of them, before it or after it: the newest whole checkpoint is gone
/// on from, and the end is what it would have been.
#[test]
fn a_worker_may_die_at_any_write_of_a_checkpoint() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::faulty(&[]);
    let job = tiny_cb(&data, "checkpoint.every = 2");
    let id = cluster.submit(&job, &["--set", EPOCHS]);
    // What is there afterwards: nothing new until the manifest is put.
    let mut deaths = vec![("put-before", 8, true)];
    deaths.extend((1..=7).map(|put| ("put-before", put, false)));
    deaths.extend([("put-after", 4, false), ("put-after", 7, true)]);
    let mut newest = 0;
    for (moment, put, is_published) in deaths {
        let resumes = resumed(&cluster, &id).len();
        cluster.set("PTV2_FAULTS", format!("{moment}={put}").into());
        cluster.start_worker(1, &[]);
        poll("the worker's death", || cluster.workers[0].is_over().then_some(()));
        cluster.workers.clear();
        // One that died at once may not have said where it began.
        if let Some(begun) = resumed(&cluster, &id).get(resumes) {
            assert_eq!(*begun, newest, "{moment}={put}");
        }
        let found = checkpoints(&cluster, &id).last().map_or(0, |(step, _)| *step);
        assert_eq!(found > newest, is_published, "{moment}={put}: {found} after {newest}");
        println!("| {moment}={put} | {newest} | {found} |");
        newest = found;
        cluster.is_queued(&id);
    }
    cluster.set("PTV2_FAULTS", "".into());
    cluster.worker(1, &[]);
    let status = cluster.done(&id);
    assert_eq!(resumed(&cluster, &id).last(), Some(&newest));
    assert_eq!(hash(&status), hash(&cluster.run(&job, &["--set", EPOCHS])));
}

/// Flips a bit in a file, at a text's place and so many bytes behind, or at its end.
fn flip(path: &Path, text: &str, behind: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let found = bytes.windows(text.len().max(1)).position(|part| part == text.as_bytes());
    let at = found.map_or(bytes.len() - 1, |at| at + behind);
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Each of the newest checkpoints has one byte flipped, each of another kind. The newest whole one is gone
/// on from, and the job says of each why it was not. A file that all share is no reason to begin anew.
#[test]
fn a_flipped_byte_of_any_kind_is_told_and_passed_over() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::by_file(&data);
    let job = tiny_cb(&data, "checkpoint = { every = 1, keep = 40 }");
    let id = cluster.submit(&job, &["--set", LONG]);
    cluster.worker(1, &[]);
    cluster.has_checkpoints(&id, 8);
    cluster.workers.clear();
    cluster.is_queued(&id);
    let kinds = [
        ("", "\"epoch\"", 1),
        ("", "\"step\": ", 8),
        ("", "\"sha256\": ", 12),
        ("", "\"learning_rate\": ", 19),
        ("state.safetensors", "__metadata__", 3),
        ("state.safetensors", "", 0),
        ("peft/adapter_model.safetensors", "", 0),
    ];
    let (found, root) = (checkpoints(&cluster, &id), cluster.store());
    let file = |key: &str, name: &str| {
        let manifest = manifest(&root.join(key));
        let files = manifest["files"].as_array().unwrap();
        let file = files.iter().find(|file| file["name"] == name).unwrap();
        format!("jobs/{id}/data/{}", file["sha256"].as_str().unwrap())
    };
    let mut damaged = Vec::new();
    for ((_, key), (name, text, behind)) in found.iter().rev().zip(kinds) {
        let spoiled = if name.is_empty() { key.clone() } else { file(key, name) };
        flip(&cluster.store().join(&spoiled), text, behind);
        damaged.push((key, spoiled));
    }
    let (whole, _) = &found[found.len() - 1 - kinds.len()];
    let before = resumed(&cluster, &id).len();
    cluster.worker(1, &[]);
    let resumes =
        |before: usize| poll("the next life", || resumed(&cluster, &id).get(before).copied());
    assert_eq!(resumes(before), *whole);
    let events = cluster.json(&["events", &id]).to_string();
    for (key, spoiled) in &damaged {
        let is_it = |line: &String| line.contains(&format!("{key} is skipped"));
        let line = log(&cluster, &id).into_iter().find(is_it).unwrap();
        assert!(line.contains(spoiled) && line.contains("expected"), "{line}");
        assert!(events.contains(&format!("{key} is skipped")), "{events}");
        println!("| {line} |");
    }
    // Then what all of them share.
    let newest = |cluster: &Cluster| checkpoints(cluster, &id).pop().unwrap();
    // Beyond those that are damaged, which count until then.
    let more = found.last().unwrap().0;
    poll("more checkpoints", || (newest(&cluster).0 > more).then_some(()));
    cluster.workers.clear();
    cluster.is_queued(&id);
    let (step, key) = newest(&cluster);
    let shared = cluster.store().join(file(&key, "job.json"));
    flip(&shared, "", 0);
    cluster.worker(1, &[]);
    assert_eq!(poll("the last life", || resumed(&cluster, &id).get(before + 1).copied()), step);
    let taken = format!("no checkpoint is whole; {key} is taken");
    assert!(log(&cluster, &id).iter().any(|line| line.contains(&taken)));
    let status = cluster.done(&id);
    let calm = cluster.run(&tiny_cb(&data, ""), &["--set", LONG]);
    assert_eq!(hash(&status), hash(&calm));
}

/// Makes a file, and has it look old.
fn old(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000)).unwrap();
}

/// Orphans go beside a job that writes a checkpoint a step, and what it writes is whole.
#[test]
fn orphans_are_collected_beside_a_running_job() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(1, 1);
    let job = tiny_cb(&data, "checkpoint = { every = 1, keep = 3 }");
    let calm = cluster.run(&job, &["--set", EPOCHS]);
    let id = cluster.submit(&job, &["--set", EPOCHS]);
    cluster.has_checkpoints(&id, 2);
    let store = store(&cluster);
    let at = |key: String| store.join(key);
    // Of nobody: features, and what is left of a job. Of the running job: a manifest that was fenced off,
    // and data that it may be about to name.
    let orphans = [
        at(format!("features/{}/manifest.json", "0".repeat(64))),
        at(format!("features/{}/train-0.safetensors", "0".repeat(64))),
        at(format!("jobs/jffffffffff/data/{}", "1".repeat(64))),
        at(format!("jobs/{id}/checkpoints/9000000000-000000.json")),
    ];
    for (orphan, bytes) in orphans.iter().zip(["{}", "abc", "abcd", "{}"]) {
        old(orphan, bytes.as_bytes());
    }
    let kept = at(format!("jobs/{id}/data/{}", "2".repeat(64)));
    old(&kept, b"may be named");
    let dry = cluster.json(&["gc", "--dry-run"]);
    assert_eq!((&dry["objects"], &dry["bytes"]), (&4.into(), &11.into()), "{dry:#}");
    for orphan in &orphans {
        assert!(orphan.exists(), "a dry run deletes nothing");
    }
    let said = cluster.ctl(&["gc", "--dry-run"]);
    assert!(text(&said.stdout).contains("4 objects of 11 B would be deleted"), "{said:?}");
    let report = cluster.json(&["gc"]);
    assert_eq!((&report["objects"], &report["dry_run"]), (&4.into(), &false.into()), "{report:#}");
    let kinds: Vec<&str> = report["orphans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["kind"].as_str().unwrap())
        .collect();
    for kind in ["fenced", "leftover", "features"] {
        assert!(kinds.contains(&kind), "{report:#}");
    }
    assert!(orphans.iter().all(|orphan| !orphan.exists()));
    // Again and again, while it writes.
    poll("the job's end", || {
        let report = cluster.json(&["gc"]);
        assert_eq!(report["objects"], 0, "{report:#}");
        (cluster.json(&["status", &id])["state"] != "running").then_some(())
    });
    let status = cluster.done(&id);
    assert_eq!(hash(&status), hash(&calm));
    for (step, _) in checkpoints(&cluster, &id) {
        let to = format!("pulled-{step}");
        let pulled = cluster.ctl(&["pull", &id, "--checkpoint", &step.to_string(), "--to", &to]);
        assert!(pulled.status.success(), "{}", text(&pulled.stderr));
    }
}

/// A coordinator of its own, which may read another's store.
fn beside(other: &Cluster, data: &Path) -> Cluster {
    let mut cluster = Cluster::new("ptv2d");
    let (state, store) = (cluster.state(), cluster.store());
    let config = coordinator_file("127.0.0.1:0", (&state, &store), data, "");
    let roots = format!("roots = [{:?}, ", other.store());
    cluster.serve_by(&config.replace("roots = [", &roots));
    cluster
}

fn copied(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copied(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn outcomes(report: &Value) -> Vec<(String, String)> {
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let jobs = report["jobs"].as_array().unwrap().iter();
    jobs.map(|job| (word(&job["id"]), word(&job["outcome"]))).collect()
}

/// A coordinator and its disk are gone; another one takes the jobs up from the bucket alone.
#[test]
fn jobs_are_recovered_from_another_store() {
    let Some(data) = superglue() else { return };
    let mut lost = Cluster::by_file(&data);
    let job = tiny_cb(&data, "checkpoint.every = 3");
    lost.worker(1, &[]);
    let calm = lost.run(&job, &["--set", EPOCHS]);
    let done = calm["id"].as_str().unwrap().to_owned();
    let open = lost.submit(&job, &["--set", EPOCHS]);
    lost.has_checkpoints(&open, 2);
    lost.workers.clear();
    lost.daemon = None;
    let from = format!("file://{}", lost.store().display());

    let mut cluster = beside(&lost, &data);
    // From its own store: the job lies there, and the journal does not know it.
    let folder = format!("jobs/{done}");
    copied(&lost.store().join(&folder), &cluster.store().join(&folder));
    let own = format!("file://{}", cluster.store().display());
    let report = cluster.json(&["jobs", "recover", "--from", &own]);
    assert_eq!(outcomes(&report), [(done.clone(), "recovered".into())]);
    assert_eq!(report["jobs"][0]["copied_bytes"], 0);
    let refused = |from: &str, job: &str, parts: &[&str]| {
        let run = ends(cluster.client().args(["jobs", "recover", "--from", from, "--job", job]));
        assert_eq!(run.status.code(), Some(2), "{}", text(&run.stderr));
        for part in parts {
            assert!(text(&run.stderr).contains(part), "{part}: {}", text(&run.stderr));
        }
    };
    refused(&from, "j0000000000", &["no checkpoint of job j0000000000"]);
    refused(&from, "../../x", &["no full job id"]);
    refused("file:///etc", &open, &["lies under no root"]);

    let report = cluster.json(&["jobs", "recover", "--from", &from]);
    let mut expected = [(done.clone(), "known".to_owned()), (open.clone(), "recovered".to_owned())];
    expected.sort();
    assert_eq!(outcomes(&report), expected, "{report:#}");
    let status = cluster.json(&["status", &done]);
    assert_eq!((&status["state"], hash(&status)), (&"succeeded".into(), hash(&calm)));
    let again = cluster.ctl(&["jobs", "recover", "--from", &from, "--job", &open]);
    assert!(text(&again.stdout).contains("known"), "{again:?}");
    // What it needs is here now: the other store may go.
    std::fs::remove_dir_all(lost.store()).unwrap();
    let pull = |cluster: &Cluster, to: &str| {
        let run = cluster.ctl(&["pull", &open, "--checkpoint", "last", "--to", to]);
        assert!(run.status.success(), "{}", text(&run.stderr));
    };
    pull(&cluster, "before");
    cluster.worker(1, &[]);
    assert_eq!(hash(&cluster.done(&open)), hash(&calm));
    let events = cluster.json(&["events", &open]).to_string();
    assert!(events.contains("adopted") && events.contains(&from), "{events}");
    assert!(resumed(&cluster, &open)[0] > 0);
    let run = cluster.ctl(&["eval", &done, "--wait"]);
    assert!(run.status.success(), "{}", text(&run.stderr));
}
