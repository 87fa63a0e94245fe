//! Jobs whose backbone, data and adapter lie in a bucket.

use super::super::harness::{Cluster, hash, superglue, text, tiny, tiny_cb};
use crate::stores::servers::{self, Cloud};
use ptv2_common::storage::{Store, replace};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Puts files into a place of the bucket.
fn put(store: &Store, files: &[(String, PathBuf)]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for (name, file) in files {
        let bytes = fs::read(file).unwrap();
        runtime.block_on(replace(store, name, bytes.into())).unwrap();
    }
}

/// Puts all files of a folder there.
fn put_folder(store: &Store, under: &str, folder: &Path) {
    let files = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let name = |file: &Path| format!("{under}/{}", file.file_name().unwrap().display());
    let files: Vec<_> = files.map(|file| (name(&file), file)).collect();
    put(store, &files);
}

/// A coordinator that may read below a place of a bucket, and no folder.
fn serve(cloud: &Cloud, prefix: &str) -> Cluster {
    let mut cluster = Cluster::new("ptv2d");
    for (name, value) in cloud.variables {
        cluster.set(name, value.into());
    }
    let place = cloud.at(cloud.listens, prefix);
    let config = format!(
        "listen = \"127.0.0.1:0\"\nstate = {:?}\nroots = [{:?}]\n\
         [storage]\nendpoint = {:?}\nallow_http = true\n\
         [limits]\ngrowth_delay = \"100ms\"\n",
        cluster.state(),
        place.url,
        place.settings.endpoint.unwrap(),
    );
    cluster.serve_by(&config);
    cluster
}

/// The cache's objects, each with its inode: one that is fetched again has another.
fn objects(cache: &Path) -> BTreeMap<String, u64> {
    let entries = cache.join("objects").read_dir().unwrap().map(|entry| entry.unwrap());
    let named = |entry: fs::DirEntry| {
        (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().ino())
    };
    entries.map(named).collect()
}

#[test]
fn a_job_runs_on_what_lies_in_a_bucket() {
    let Some(data) = superglue() else { return };
    let cloud = servers::s3();
    let store = cloud.open("inputs");
    put_folder(&store, "models/tiny", &tiny());
    put(&store, &[("models/tiny/pytorch_model.bin".into(), tiny().join("config.json"))]);
    let rows = |name: &str| (format!("data/CB/{name}"), data.join("CB").join(name));
    put(&store, &["train.jsonl", "val.jsonl", "test.jsonl"].map(rows));

    let mut calm = Cluster::by_file(&data);
    calm.worker(1, &[]);
    let expected = hash(&calm.run(&tiny_cb(&data, ""), &[]));
    drop(calm);

    let url = cloud.at(cloud.listens, "inputs").url;
    let job = tiny_cb(Path::new(&format!("{url}/data")), "")
        .replace(&tiny().display().to_string(), &format!("{url}/models/tiny"));
    let mut cluster = serve(cloud, "inputs");
    let own = cluster.folder.path().join("own");
    let cache = cluster.state().join("inputs");
    // A worker that does not see the coordinator's cache.
    let id = cluster.submit(&job, &[]);
    cluster.is_queued(&id);
    let away = cluster.folder.path().join("away");
    fs::rename(&cache, &away).unwrap();
    cluster.worker(1, &["--inputs-cache", own.to_str().unwrap()]);
    assert_eq!(hash(&cluster.done(&id)), expected);
    fs::rename(&away, &cache).unwrap();
    // What is not read was not fetched: three files of the backbone, two of the rows.
    assert_eq!((objects(&cache).len(), objects(&own).len()), (5, 3));

    // The second submit fetches nothing, and its record names the bucket.
    let before = objects(&cache);
    let again = cluster.run(&job, &[]);
    assert_eq!((hash(&again), objects(&cache)), (expected.clone(), before));
    let id = again["id"].as_str().unwrap();
    let run = cluster.ctl(&["pull", id, "--to", "adapter"]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    put_folder(&store, "adapter", &cluster.folder.path().join("adapter"));
    let scored = cluster.json(&["eval", id, "--wait"]);
    // A PEFT adapter does not say where the rows are.
    let (adapter, data_url) = (format!("{url}/adapter"), format!("{url}/data"));
    let adapter = cluster.json(&["eval", &adapter, "--data", &data_url, "--wait"]);
    for metric in ["rows", "accuracy", "f1"] {
        assert!(scored[metric].is_number(), "{scored:#}");
        assert_eq!(scored[metric], adapter[metric], "{adapter:#}");
    }
    // First values from the bucket are those of a folder.
    let init = format!("{job}init.adapter = \"{url}/adapter\"\n");
    let from_bucket = cluster.run(&init, &[]);
    assert_ne!(hash(&from_bucket), expected);
    drop(cluster);

    let mut local = Cluster::by_file(&data);
    local.worker(1, &[]);
    let run = local.run(&tiny_cb(&data, ""), &[]);
    let adapter = super::super::harness::root().join("target").join("inputs-adapter");
    let to = adapter.to_str().unwrap();
    let pulled = local.ctl(&["pull", run["id"].as_str().unwrap(), "--to", to, "--force"]);
    assert!(pulled.status.success(), "{}", text(&pulled.stderr));
    let init = tiny_cb(&data, &format!("init.adapter = {to:?}"));
    assert_eq!(hash(&local.run(&init, &[])), hash(&from_bucket));
    fs::remove_dir_all(&adapter).unwrap();

    spoiled_and_missing(cloud, &store, &job);
}

/// What has changed between submit and use is refused; what is missing is named.
fn spoiled_and_missing(cloud: &Cloud, store: &Store, job: &str) {
    let mut cluster = serve(cloud, "inputs");
    let id = cluster.submit(job, &[]);
    cluster.is_queued(&id);
    let cache = cluster.state().join("inputs");
    fs::rename(&cache, cluster.folder.path().join("away")).unwrap();
    put(store, &[("models/tiny/model.safetensors".into(), tiny().join("tokenizer.json"))]);
    let own = cluster.folder.path().join("own");
    cluster.worker(1, &["--inputs-cache", own.to_str().unwrap()]);
    let run = cluster.ctl(&["wait", &id, "--timeout", "600s"]);
    assert_eq!(run.status.code(), Some(1), "{}", text(&run.stderr));
    let status = cluster.json(&["status", &id]).to_string();
    for part in [own.to_str().unwrap(), cache.to_str().unwrap(), "is not fetched", "has SHA-256"] {
        assert!(status.contains(part), "no {part:?} in {status}");
    }
    let missing = job.replace("models/tiny", "models/none");
    super::refused(&cluster, &missing, &["models/none/config.json", "misspelled"]);
}
