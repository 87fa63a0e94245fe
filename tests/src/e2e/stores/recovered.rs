//! A bucket outlives its coordinator: another one takes the job up from there, and collects what nobody needs.

use super::super::clock;
use super::super::harness::{Cluster, hash, text};
use super::{Files, HERE, config, files, with_rights};
use crate::stores::servers::Cloud;
use ptv2_common::storage::{self, Put, Store};
use serde_json::{Value, json};
use std::path::Path;

/// Longer than the grace period of what is collected, and less than clouds let a signature's time be off.
const LATER_S: u32 = 720;

fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn keys(store: &Store) -> Vec<String> {
    wait(storage::list(store, "")).unwrap()
}

/// Pulls a job's best checkpoint; its files.
fn pull(cluster: &Cluster, cloud: &Cloud, id: &str, to: &str, more: &[&str]) -> Files {
    let mut command = cluster.client();
    command.args(["pull", id, "--format", "native", "--to", to]).args(more).envs(cloud.variables);
    let run = command.output().unwrap();
    assert!(run.status.success(), "{}\n{}", text(&run.stderr), cluster.logs());
    files(&cluster.folder.path().join(to))
}

/// A coordinator with a place of its own knows the URL of the other's, whose job it was, and nothing else.
pub(super) fn from_the_bucket(cloud: &Cloud, data: &Path, status: &Value, pulled: &Files) {
    let (id, other) = (status["id"].as_str().unwrap(), cloud.open(HERE));
    let from = cloud.at(cloud.listens, HERE).url;
    let own = cloud.at(cloud.listens, "recovered job/here");
    let store = cloud.open("recovered job/here");
    let before = keys(&other);

    let mut cluster = with_rights(cloud);
    let offset = cluster.folder.path().join("offset");
    std::fs::write(&offset, "0").unwrap();
    cluster.set("LD_PRELOAD", clock::library(cluster.folder.path()));
    cluster.set("CLOCK_OFFSET_FILE", offset.clone());
    let roots = format!("roots = [{from:?}, ");
    cluster.serve_by(&config(&cluster, &own, data, "").replace("roots = [", &roots));
    assert_eq!(cluster.json(&["status"]), json!([]));
    let recover = || cluster.json(&["jobs", "recover", "--from", &from])["jobs"].clone();
    let report = recover();
    assert_eq!((&report[0]["id"], &report[0]["outcome"]), (&json!(id), &json!("recovered")));
    assert!(report[0]["copied_bytes"].as_u64().unwrap() > 0, "{report:#}");
    assert_eq!(recover()[0]["outcome"], "known");
    let found = cluster.json(&["status", id]);
    assert_eq!((&found["state"], hash(&found)), (&json!("succeeded"), hash(status)), "{found:#}");
    assert_eq!(pull(&cluster, cloud, id, "through", &[]), *pulled);

    let later = || std::fs::write(&offset, LATER_S.to_string()).unwrap();
    orphans_go(&cluster, &store, id, later);
    assert_eq!(pull(&cluster, cloud, id, "after", &[]), *pulled);
    assert_eq!(pull(&cluster, cloud, id, "direct", &["--direct"]), *pulled);
    assert_eq!(keys(&other), before, "what lies beside its place is not its own");
}

/// Orphans lie in the bucket: while they are young they stay, a dry run names them, and then they alone go.
fn orphans_go(cluster: &Cluster, store: &Store, id: &str, later: impl FnOnce()) {
    let needed = keys(store);
    let nobody = "0".repeat(64);
    for (key, bytes) in [
        (format!("jobs/{id}/data/{nobody}"), "abcd"),
        (format!("jobs/{id}/checkpoints/9000000000-000000.json"), "{}"),
        (format!("features/{nobody}/manifest.json"), "{}"),
        (format!("features/{nobody}/train-0.safetensors"), "abc"),
    ] {
        assert_eq!(wait(storage::put_create(store, &key, bytes.into())).unwrap(), Put::Created);
    }
    let all = keys(store);
    assert_eq!(all.len(), needed.len() + 4);
    let young = cluster.json(&["gc"]);
    assert_eq!((&young["objects"], &young["left"]), (&json!(0), &json!([])), "{young:#}");
    later();
    let mut report = cluster.json(&["gc", "--dry-run"]);
    let expected = json!([
        {"kind": "fenced", "place": format!("jobs/{id}/checkpoints"), "objects": 1, "bytes": 2},
        {"kind": "data", "place": format!("jobs/{id}/data"), "objects": 1, "bytes": 4},
        {"kind": "features", "place": format!("features/{nobody}"), "objects": 2, "bytes": 5},
    ]);
    assert_eq!((&report["orphans"], &report["left"]), (&expected, &json!([])), "{report:#}");
    assert_eq!(keys(store), all, "a dry run deletes nothing");
    report["dry_run"] = json!(false);
    assert_eq!(cluster.json(&["gc"]), report);
    assert_eq!(keys(store), needed);
}
