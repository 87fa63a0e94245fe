//! Somebody sets the machine's clock: nothing that was decided changes, nothing hangs.

use super::harness::{Cluster, root, superglue, text, tiny_cb};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A library that shifts the time of day of whatever loads it.
pub(super) fn library(folder: &Path) -> PathBuf {
    let library = folder.join("clock.so");
    let run = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(root().join("tests/src/e2e/clock.c"))
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", text(&run.stderr));
    library
}

fn times(rows: &Value) -> Vec<u64> {
    rows.as_array().unwrap().iter().map(|row| row["unix_ms"].as_u64().unwrap()).collect()
}

#[test]
fn a_clock_that_is_set_back_an_hour_changes_nothing() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::new("ptv2d");
    let offset = cluster.folder.path().join("offset");
    std::fs::write(&offset, "0").unwrap();
    cluster.set("LD_PRELOAD", library(cluster.folder.path()));
    cluster.set("CLOCK_OFFSET_FILE", offset.clone());
    cluster.serve(0, 1, "127.0.0.1:0");
    let listen = cluster.listen();
    cluster.worker(1, &[]);
    let long = ["--set", "training.epochs=100", "--set", "checkpoint.every=10"];
    let id = cluster.submit(&tiny_cb(&data, ""), &long);
    cluster.reaches(&id, 10);
    std::fs::write(&offset, "-3600").unwrap();
    let step = cluster.status(&id)["step"].as_u64().unwrap();
    let status = cluster.reaches(&id, step + 50);
    assert_eq!(status["generation"], 1, "nobody is taken for lost: {status:#}");

    // What happens after is later, and stays so when the coordinator starts by the wrong clock.
    let second = cluster.submit(&tiny_cb(&data, ""), &[]);
    let newest = cluster.json(&["status"])[0].clone();
    assert_eq!(newest["id"], second.as_str(), "{newest:#}");
    let submitted = |id: &str| cluster.json(&["status", id])["submitted_unix_ms"].as_u64();
    assert!(submitted(&second) > submitted(&id));
    cluster.daemon = None;
    cluster.serve(0, 1, &listen);
    let status = cluster.done(&id);
    assert!(status["since_unix_ms"].as_u64() > status["submitted_unix_ms"].as_u64());
    cluster.done(&second);
    for rows in ["events", "logs"] {
        let times = times(&cluster.json(&[rows, &id]));
        assert!(times.is_sorted(), "{rows}: {times:?}");
    }
}
