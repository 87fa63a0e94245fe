//! Disks that are full and files that are damaged: jobs go on, and people are told.

use super::harness::{Cluster, ends, hash, poll, superglue, text, tiny_cb};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small disk of its own, gone after the test.
struct Disk(PathBuf);

impl Disk {
    /// Mounts it, where this user may; says so otherwise.
    fn mount(place: PathBuf, bytes: u64) -> Option<Self> {
        std::fs::create_dir_all(&place).unwrap();
        let size = format!("size={bytes},mode=700");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "ptv2-test"])
            .arg(&place)
            .output();
        match mount {
            Ok(run) if run.status.success() => return Some(Self(place)),
            Ok(run) => println!("skipped: no disk can be mounted: {}", text(&run.stderr).trim()),
            Err(error) => println!("skipped: `mount` cannot be started: {error}"),
        }
        None
    }

    /// Leaves no room on it.
    fn fill(&self) {
        let block = [0_u8; 4096];
        let mut filler = std::fs::File::create(self.filler()).unwrap();
        while std::io::Write::write_all(&mut filler, &block).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process of this test may still have a file open there.
        drop(Command::new("umount").arg("--lazy").arg(&self.0).output());
    }
}

#[test]
fn a_full_disk_delays_a_checkpoint_and_no_step() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::new("ptv2d");
    let Some(disk) = Disk::mount(cluster.store(), 64 << 20) else { return };
    cluster.serve_by_file(&data);
    let more = ["--set", "training.epochs=50", "--set", "checkpoint.every=5"];
    let id = cluster.submit(&tiny_cb(&data, ""), &more);
    cluster.is_queued(&id);
    disk.fill();
    cluster.worker(1, &[]);
    // Other warnings are about rows and training.
    let of_store = |warning: &&Value| {
        let warning = warning.as_str().unwrap();
        let is_it = warning.contains("checkpoint could not be written");
        assert!(!is_it || warning.contains("jobs/"), "{warning}");
        is_it
    };
    let warned = poll("two warnings", || {
        let status = cluster.json(&["status", &id]);
        (status["warnings"].as_array()?.iter().filter(of_store).count() >= 2).then_some(status)
    });
    // It goes on to its last step, and what it came to is not given up there.
    let total = warned["total_steps"].as_u64().unwrap();
    let status = cluster.reaches(&id, total);
    assert_eq!(status["state"], "running", "{status:#}");
    assert_eq!(cluster.json(&["checkpoints", &id]), Value::Array(Vec::new()));
    disk.make_room();
    let status = cluster.done(&id);
    assert_eq!(status["generation"], 1, "{status:#}");
}

/// Puts that fail, that are slow, that are done and answered with an error: steps go on, and what is in
/// the store at the end is what would be there without.
#[test]
fn a_failing_store_delays_checkpoints_and_no_step() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::faulty(&["store"]);
    let job = tiny_cb(&data, "");
    let more = ["--set", "training.epochs=50", "--set", "checkpoint.every=5"];
    let id = cluster.submit(&job, &more);
    let behind = poll("word of the store", || {
        let status = cluster.json(&["status", &id]);
        status["storage_behind"]["error"].is_object().then_some(status)
    });
    assert!(behind["storage_behind"].to_string().contains("tried again"), "{behind:#}");
    let status = cluster.done(&id);
    assert_eq!(status["generation"], 1, "{status:#}");
    assert_eq!(status["storage_behind"], Value::Null, "{status:#}");
    let checkpoints = cluster.json(&["checkpoints", &id]);
    let last = checkpoints.as_array().unwrap().iter().find(|one| one["step"] == status["step"]);
    assert_eq!(last.unwrap()["tuned_sha256"], status["tuned_sha256"], "{checkpoints:#}");
    drop(cluster.workers.remove(0));
    cluster.worker(1, &[]);
    let calm = cluster.run(&job, &more);
    assert_eq!(calm["tuned_sha256"], status["tuned_sha256"]);
}

/// Nothing is decided while nothing can be written down; the worker trains on meanwhile.
#[test]
fn a_full_disk_of_the_journal_loses_nothing() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::new("ptv2d");
    let Some(disk) = Disk::mount(cluster.state(), 8 << 20) else { return };
    cluster.serve_by_file(&data);
    cluster.worker(1, &[]);
    let long = ["--set", "training.epochs=200"];
    let id = cluster.submit(&tiny_cb(&data, ""), &long);
    let before = cluster.reaches(&id, 1)["step"].as_u64().unwrap();
    disk.fill();
    let client = reqwest::blocking::Client::new();
    let health = || {
        let answer = client.get(format!("{}/healthz", cluster.url())).send().unwrap();
        (answer.status().as_u16(), answer.text().unwrap())
    };
    let said = poll("the trouble", || {
        let (status, text) = health();
        (status == 503).then_some(text)
    });
    for part in ["journal.sqlite", "make room"] {
        assert!(said.contains(part), "{said}");
    }
    let ask = |args: &[&str]| ends(cluster.client().args(args));
    let refused = ask(&["submit", &cluster.file("second.toml", &tiny_cb(&data, ""))]);
    assert_eq!(refused.status.code(), Some(3), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("journal.sqlite"), "{}", text(&refused.stderr));
    let asked = ask(&["status", &id]);
    assert_eq!(asked.status.code(), Some(3), "{}", text(&asked.stderr));
    disk.make_room();
    poll("the trouble's end", || (health().0 == 200).then_some(()));
    // Neither the worker nor the job is blamed, and the refused job is not there.
    cluster.reaches(&id, before + 1);
    let jobs = cluster.json(&["status"]);
    assert_eq!(jobs.as_array().unwrap().len(), 1, "{jobs:#}");
    let status = cluster.done(&id);
    assert_eq!(status["generation"], 1, "{status:#}");
    cluster.run(&tiny_cb(&data, ""), &[]);
}

/// The files of a job's newest checkpoint that hold its state.
fn newest_state(cluster: &Cluster, store: &Path, id: &str) -> PathBuf {
    let checkpoints = cluster.json(&["checkpoints", id]);
    let newest = checkpoints.as_array().unwrap().iter().max_by_key(|one| one["step"].as_u64());
    let manifest = std::fs::read(store.join(newest.unwrap()["key"].as_str().unwrap())).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let state = |file: &&Value| file["name"] == "state.safetensors";
    let state = manifest["files"].as_array().unwrap().iter().find(state).unwrap();
    store.join(format!("jobs/{id}/data")).join(state["sha256"].as_str().unwrap())
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::by_file(&data);
    cluster.worker(1, &[]);
    let job = tiny_cb(&data, "checkpoint.every = 3");
    let calm = cluster.run(&job, &["--set", "training.epochs=80"]);
    let id = cluster.submit(&job, &["--set", "training.epochs=80"]);
    cluster.has_checkpoints(&id, 2);
    cluster.workers.clear();
    cluster.is_queued(&id);
    let damaged = newest_state(&cluster, &cluster.store(), &id);
    let mut bytes = std::fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    cluster.worker(1, &[]);
    let status = cluster.done(&id);
    assert_eq!(hash(&status), hash(&calm));
    assert!(status["warnings"].to_string().contains("is skipped"), "{status:#}");
    let logs = cluster.json(&["logs", &id]).to_string();
    for said in ["is skipped", "SHA-256", "resumes from the checkpoint of step"] {
        assert!(logs.contains(said), "{said}: {logs}");
    }
}

/// A journal that cannot be read is refused, and said what to do; after that is done, each job is
/// where it was.
#[test]
fn jobs_are_adopted_when_the_journal_is_lost() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::start(0, 1);
    let listen = cluster.listen();
    cluster.worker(1, &[]);
    let job = tiny_cb(&data, "checkpoint.every = 3");
    let epochs = ["--set", "training.epochs=40"];
    let done = cluster.run(&job, &epochs);
    let cancelled = cluster.submit(&job, &["--set", "training.epochs=2000"]);
    cluster.has_checkpoints(&cancelled, 1);
    assert!(cluster.ctl(&["cancel", &cancelled]).status.success());
    let end = cluster.state().join(format!("store/jobs/{cancelled}/ends"));
    poll("the end's mark", || end.exists().then_some(()));
    let running = cluster.submit(&job, &epochs);
    cluster.has_checkpoints(&running, 1);
    cluster.daemon = None;

    let journal = cluster.state().join("journal.sqlite");
    // What was written last stands in the second file.
    for name in ["journal.sqlite", "journal.sqlite-wal"] {
        let file = cluster.state().join(name);
        let size = std::fs::metadata(&file).unwrap().len();
        std::fs::write(&file, vec![0x5a; usize::try_from(size).unwrap()]).unwrap();
    }
    let refused = ends(&mut cluster.local(0, 1, &listen));
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    for part in ["journal.sqlite", "move it away", "adopts"] {
        assert!(said.contains(part), "{said}");
    }

    std::fs::rename(&journal, cluster.state().join("damaged")).unwrap();
    cluster.serve(0, 1, &listen);
    let status = cluster.done(&running);
    assert_eq!(hash(&status), hash(&done));
    let events = cluster.json(&["events", &running]).to_string();
    assert!(events.contains("adopted"), "{events}");
    let id = |status: &Value| status["id"].as_str().unwrap().to_owned();
    assert_eq!(hash(&cluster.json(&["status", &id(&done)])), hash(&done));
    assert_eq!(cluster.json(&["status", &id(&done)])["state"], "succeeded");
    assert_eq!(cluster.json(&["status", &cancelled])["state"], "cancelled");
    let pulled = cluster.ctl(&["pull", &id(&done), "--to", "adapter"]);
    assert!(pulled.status.success(), "{}", text(&pulled.stderr));
}
