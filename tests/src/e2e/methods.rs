//! The methods beside the deep prefix, and poolers of a job's own, on the real binaries.

use super::harness::{Cluster, hash, superglue, tiny, tiny_cb};
use serde_json::Value;
use std::path::Path;

/// What each job sets besides, and whether it trains on RoBERTa.
const JOBS: [(&[&str], bool); 4] = [
    (&["method.prefix_projection=true", "method.prefix_hidden_size=8"], false),
    (&["method.kind=prompt"], false),
    (&["method.pooler=trained"], false),
    (&[], true),
];

fn job(data: &Path, is_roberta: bool) -> String {
    let job = tiny_cb(data, "checkpoint.every = 2");
    if is_roberta { job.replace("bert-tiny", "roberta-tiny") } else { job }
}

fn set<'a>(keys: &[&'a str]) -> Vec<&'a str> {
    keys.iter().flat_map(|key| ["--set", key]).collect()
}

/// Bit for bit, whatever is tuned; and each is another job.
#[test]
fn every_method_ends_with_one_hash() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(2, 1);
    let mut hashes = Vec::new();
    for (keys, is_roberta) in JOBS {
        let run = |workers: &str| -> Value {
            cluster.run(&job(&data, is_roberta), &[set(keys), vec!["--workers", workers]].concat())
        };
        let (one, two) = (run("1"), run("2"));
        assert_eq!(hash(&one), hash(&two), "{keys:?}");
        hashes.push(hash(&one));
    }
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), JOBS.len(), "{hashes:?}");
}

/// The network of a projection, and a pooler that no file of the backbone holds, come back from the store.
#[test]
fn every_method_resumes_from_its_checkpoint() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::start(0, 1);
    for (keys, is_roberta) in [JOBS[0], JOBS[3]] {
        let more = [set(keys), vec!["--set", "training.epochs=40"]].concat();
        cluster.worker(1, &[]);
        let calm = cluster.run(&job(&data, is_roberta), &more);
        let id = cluster.submit(&job(&data, is_roberta), &more);
        cluster.has_checkpoints(&id, 1);
        cluster.workers.clear();
        cluster.is_queued(&id);
        cluster.worker(1, &[]);
        assert_eq!(hash(&cluster.done(&id)), hash(&calm), "{keys:?}");
        let logs = cluster.json(&["logs", &id]).to_string();
        assert!(logs.contains("resumes from the checkpoint of step"), "{logs}");
        cluster.workers.clear();
    }
}

/// `plan` says what is trained and what is only kept.
#[test]
fn a_plan_counts_what_is_trained() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(0, 1);
    let plan = |keys: &[&str], is_roberta| {
        let file = cluster.file("job.toml", &job(&data, is_roberta));
        let plan = cluster.json(&[vec!["plan", &file], set(keys)].concat());
        let count = |key: &str| plan[key].as_u64().unwrap();
        ["trainable", "prefix", "pooler", "frozen"].map(|key| count(&format!("{key}_parameters")))
    };
    let (head, pooler) = (3 * 32 + 3, 32 * 32 + 32);
    let projection = 5 * 32 + (32 * 8 + 8) + (8 * 128 + 128);
    assert_eq!(plan(JOBS[0].0, false), [projection + head, projection, 0, 0]);
    assert_eq!(plan(JOBS[1].0, false), [5 * 32 + head, 5 * 32, 0, 0]);
    assert_eq!(plan(JOBS[2].0, false), [5 * 128 + head + pooler, 5 * 128, pooler, 0]);
    assert_eq!(plan(JOBS[3].0, true), [5 * 128 + head, 5 * 128, 0, pooler]);
    assert!(tiny().ends_with("bert-tiny/backbone"), "which `job` replaces");
}
