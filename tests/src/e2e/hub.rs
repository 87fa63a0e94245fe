//! Backbones that come from a hub of models, with a server that answers as one does.

mod server;

use super::harness::{
    Cluster, Process, binary, coordinator_file, ends, hash, poll, superglue, text, tiny, tiny_cb,
};
use serde_json::Value;
use server::{COMMIT, Hub, Mood, REPOSITORY};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const ID: &str = "hf://ptv2/bert-tiny";
const NEEDED: [&str; 3] = ["config.json", "tokenizer.json", "model.safetensors"];

/// A cache folder, and a hub to fill it from.
struct Place {
    folder: TempDir,
    hub: Hub,
}

impl Place {
    fn new(backbone: &str, more: &[(&str, &[u8])], without: &[&str]) -> Self {
        let hub = Hub::serve(&tiny().with_file_name(backbone), more, without);
        Self { folder: tempfile::tempdir().unwrap(), hub }
    }

    fn good() -> Self {
        Self::new("backbone", &[("README.md", b"hello"), ("pytorch_model.bin", b"code")], &[])
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("hub")
    }

    fn snapshot(&self) -> PathBuf {
        self.cache().join("models--ptv2--bert-tiny/snapshots").join(COMMIT)
    }

    fn fetch(&self, id: &str, more: &[&str]) -> Output {
        let mut command = Command::new(binary("ptv2d"));
        command.args(["fetch", id]).args(more);
        ends(
            command
                // Nothing of the person who runs the tests.
                .env_remove("HF_TOKEN")
                .env("HF_HOME", self.folder.path())
                .env("HF_ENDPOINT", self.hub.url())
                .env("HF_HUB_CACHE", self.cache()),
        )
    }

    /// Fetches, which must succeed, and sees that all is there.
    fn fetches(&self, id: &str, more: &[&str]) {
        let run = self.fetch(id, more);
        assert!(run.status.success(), "{}", text(&run.stderr));
        assert_eq!(text(&run.stdout).trim(), self.snapshot().display().to_string());
        same_files(&self.snapshot(), &NEEDED, &tiny());
    }

    /// Fetches, which must fail, and looks for each part of the message.
    fn fails(&self, id: &str, more: &[&str], parts: &[&str]) {
        let run = self.fetch(id, more);
        let message = text(&run.stderr);
        assert_eq!((run.status.code(), &*text(&run.stdout)), (Some(1), ""), "{message}");
        for part in parts.iter().chain(&["expected: ", "hint: "]) {
            assert!(message.contains(part), "no {part:?} in:\n{message}");
        }
    }

    /// A cluster whose daemons fetch from this hub.
    fn cluster(&self, workers: u32) -> Cluster {
        let mut cluster = Cluster::new("ptv2d");
        cluster.set("HF_ENDPOINT", self.hub.url().into());
        cluster.set("HF_HUB_CACHE", self.cache());
        cluster.set("HF_HOME", self.folder.path().into());
        cluster.serve(workers, 1, "127.0.0.1:0");
        cluster
    }
}

fn same_files(folder: &Path, names: &[&str], golden: &Path) {
    for name in names {
        assert_eq!(
            std::fs::read(folder.join(name)).unwrap(),
            std::fs::read(golden.join(name)).unwrap(),
            "{name}"
        );
    }
    assert_eq!(folder.read_dir().unwrap().count(), names.len());
}

#[test]
fn what_a_backbone_needs_is_fetched_once_and_nothing_else() {
    let place = Place::good();
    place.fetches(ID, &[]);
    let asked = place.hub.asked();
    assert!(asked.iter().all(|path| !path.contains("README") && !path.contains("pytorch")));
    // A branch is looked up again; a commit that is whole needs no hub.
    place.fetches(&format!("{ID}@main"), &[]);
    assert_eq!(place.hub.asked(), [format!("/api/models/{REPOSITORY}/revision/main")]);
    place.fetches(&format!("{ID}@{COMMIT}"), &["--hub-endpoint", "http://127.0.0.1:9"]);
    std::fs::remove_file(place.snapshot().join("tokenizer.json")).unwrap();
    place.fetches(&format!("{ID}@{COMMIT}"), &[]);
    assert!(place.hub.asked().iter().all(|path| !path.contains(".safetensors")));

    let sharded = Place::new("backbone-sharded", &[], &[]);
    let run = sharded.fetch(ID, &[]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let golden = tiny().with_file_name("backbone-sharded");
    let names = golden.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    same_files(&sharded.snapshot(), &names, &golden);
}

#[test]
fn what_the_hub_refuses_is_said_with_its_url_and_what_to_do() {
    let place = Place::good();
    let url = format!("{}/api/models/", place.hub.url());
    let parts =
        ["no hf://ptv2/none@main", "404", &*format!("{url}ptv2/none/revision/main"), "misspelled"];
    place.fails("hf://ptv2/none", &[], &parts);
    place.fails(&format!("{ID}@v9"), &[], &["no hf://ptv2/bert-tiny@v9", "404", "revision/v9"]);
    let parts = ["gives no answer", "refused", "http://127.0.0.1:9/api/models", "hub.endpoint"];
    place.fails(ID, &["--hub-endpoint", "http://127.0.0.1:9"], &parts);
    place.fails(ID, &["--hub-endpoint", "hub"], &["`hub.endpoint` is `hub`", "http://"]);
    place.fails("hf://ptv2/../x", &[], &["no repository of a hub", "hf://org/name"]);
    place.fails(ID, &["--max-bytes", "1000"], &["bytes", "at most 1000", "hub.bytes_max"]);
    assert!(!place.snapshot().join("model.safetensors").exists());

    place.hub.is(Mood::Gated("secret"));
    place.fails(ID, &[], &["may not be read with no token", "401", "HF_TOKEN", "hub.token_file"]);
    let token = place.folder.path().join("own-token");
    std::fs::write(&token, "wrong\n").unwrap();
    let token = ["--hub-token-file", token.to_str().unwrap()];
    place.fails(ID, &token, &["may not be read with its token", "ask for access"]);
    std::fs::write(token[1], "secret\n").unwrap();
    place.fetches(ID, &token);
    place.fails(
        ID,
        &["--hub-token-file", "/nowhere/token"],
        &["the hub's token", "/nowhere/token"],
    );
}

#[test]
fn a_hub_leads_to_no_metadata_service() {
    let place = Place::good();
    let metadata = "http://169.254.169.254/latest/meta-data";
    for (beginning, target) in [
        ("/api/models", metadata),
        ("/ptv2/bert-tiny/resolve", metadata),
        ("/ptv2/bert-tiny/resolve", "http://metadata.google.internal/x"),
        ("/ptv2/bert-tiny/resolve", "http://2852039166/x"),
        // The large file, by way of the hub's other addresses.
        ("/cdn", metadata),
    ] {
        place.hub.is(Mood::Elsewhere(beginning, target));
        place.fails(ID, &[], &["where it leads, is", "metadata address", &place.hub.url()]);
    }
    place.fails(ID, &["--hub-endpoint", metadata], &["hub.endpoint is", "metadata address"]);
    place.hub.is(Mood::Good);
    place.fetches(ID, &[]);
}

#[test]
fn a_repository_without_safetensors_is_refused() {
    let pickle: &[(&str, &[u8])] = &[("pytorch_model.bin", b"code")];
    let place = Place::new("backbone", pickle, &["model.safetensors"]);
    place.fails(ID, &[], &["pytorch_model.bin, a pickle", "model.safetensors", "convert", COMMIT]);
    assert!(place.hub.asked().iter().all(|path| !path.contains("pytorch")), "it was fetched");
    let place = Place::new("backbone", &[], &["tokenizer.json"]);
    place.fails(ID, &[], &["has no tokenizer.json", "save_pretrained"]);
    let place = Place::new("backbone-sharded", &[], &["model-00002-of-00003.safetensors"]);
    place.fails(ID, &[], &["has no model-00002-of-00003.safetensors"]);
    let index: &[u8] = br#"{"weight_map": {"a": "../../x.safetensors"}}"#;
    let place = Place::new("backbone-sharded", &[("model.safetensors.index.json", index)], &[]);
    place.fails(ID, &[], &["../../x.safetensors", "beside the index"]);
}

#[test]
fn a_download_that_is_not_whole_is_not_kept() {
    let place = Place::good();
    place.hub.is(Mood::Cut);
    place.fails(ID, &[], &["gives no answer", "model.safetensors"]);
    assert!(!place.snapshot().join("model.safetensors").exists());
    place.hub.is(Mood::Good);
    place.fetches(ID, &[]);

    let place = Place::good();
    place.hub.is(Mood::Short);
    place.fails(
        ID,
        &[],
        &["cut off: 50912 bytes", "101824 bytes, as the hub says", "fetch it anew"],
    );
    place.hub.is(Mood::Other);
    place.fails(ID, &[], &["the download has SHA-256", "as the hub says"]);
    place.hub.is(Mood::Good);
    place.fetches(ID, &[]);
}

/// The tiny job, on the hub's backbone.
fn job(data: &Path) -> String {
    tiny_cb(data, "").replace(&tiny().display().to_string(), &format!("{ID}@main"))
}

#[test]
fn a_job_runs_on_a_backbone_of_the_hub() {
    let Some(data) = superglue() else { return };
    let place = Place::good();
    let cluster = place.cluster(1);
    let plan = cluster.json(&["plan", &cluster.file("plan.toml", &job(&data))]);
    assert_eq!(plan["train_rows"], 37);
    let of_hub = cluster.run(&job(&data), &[]);
    assert_eq!(hash(&of_hub), hash(&cluster.run(&tiny_cb(&data, ""), &[])));
    let id = of_hub["id"].as_str().unwrap();
    let run = cluster.ctl(&["pull", id, "--to", "adapter"]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let config = std::fs::read(cluster.folder.path().join("adapter/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(
        (&config["base_model_name_or_path"], &config["revision"]),
        (&REPOSITORY.into(), &COMMIT.into())
    );

    let refused = cluster.file("none.toml", &job(&data).replace("bert-tiny", "none"));
    let run = cluster.ctl(&["submit", &refused]);
    let message = text(&run.stderr);
    assert_eq!(run.status.code(), Some(2), "{message}");
    for part in ["the hub has no hf://ptv2/none@main", "404", "revision/main", "hint: look for"] {
        assert!(message.contains(part), "no {part:?} in:\n{message}");
    }
    // The cache is no root: a path into it is refused.
    let path = job(&data).replace(&format!("{ID}@main"), &place.snapshot().display().to_string());
    let run = cluster.ctl(&["submit", &cluster.file("path.toml", &path)]);
    assert!(text(&run.stderr).contains("lies under no root"), "{}", text(&run.stderr));
}

#[test]
fn a_worker_that_does_not_see_the_cache_fetches_into_its_own() {
    let Some(data) = superglue() else { return };
    let place = Place::good();
    let mut cluster = place.cluster(0);
    let (own, away) = (place.folder.path().join("own"), place.folder.path().join("away"));
    let queued = |cluster: &Cluster| {
        let id = cluster.submit(&job(&data), &[]);
        cluster.is_queued(&id);
        std::fs::rename(place.cache(), &away).unwrap();
        id
    };
    let own_cache = ["--hub-cache", own.to_str().unwrap()];
    let id = queued(&cluster);
    cluster.worker(1, &[&own_cache[..], &["--hub-endpoint", "http://127.0.0.1:9"]].concat());
    let run = cluster.ctl(&["wait", &id, "--timeout", "600s"]);
    assert_eq!(run.status.code(), Some(1), "{}", text(&run.stderr));
    let status = cluster.json(&["status", &id]).to_string();
    for part in [place.snapshot().to_str().unwrap(), "on this worker, and is not fetched", ":9"] {
        assert!(status.contains(part), "no {part:?} in {status}");
    }
    cluster.workers.clear();

    std::fs::rename(&away, place.cache()).unwrap();
    let id = queued(&cluster);
    cluster.worker(1, &own_cache);
    let status = cluster.done(&id);
    assert!(own.join("models--ptv2--bert-tiny/snapshots").join(COMMIT).exists());
    assert!(!place.cache().exists());
    assert_eq!(hash(&status), hash(&cluster.run(&tiny_cb(&data, ""), &[])));
}

#[test]
fn whoever_waits_for_a_long_fetch_sees_how_far_it_is() {
    let Some(data) = superglue() else { return };
    let place = Place::good();
    let cluster = place.cluster(0);
    place.hub.is(Mood::Stalled);
    let file = cluster.file("job.toml", &job(&data));
    let said = cluster.folder.path().join("said");
    let mut submit = Process::telling(cluster.client().args(["submit", &file]), &said);
    let read = || std::fs::read_to_string(&said).unwrap();
    poll("word of the fetch", || read().contains("is being fetched: 0 of 1 MB").then_some(()));
    // Nobody else is held up.
    assert_eq!(cluster.json(&["status"]), Value::Array(Vec::new()));
    place.hub.is(Mood::Good);
    assert_eq!(poll("the submit", || submit.ended()), 0, "{}", read());
}

#[test]
fn a_fetch_has_its_time() {
    let Some(data) = superglue() else { return };
    let place = Place::good();
    place.hub.is(Mood::Stalled);
    let mut cluster = Cluster::new("ptv2d");
    let limits = format!(
        "[hub]\nendpoint = {:?}\ncache = {:?}\ntimeout = \"300ms\"\n",
        place.hub.url(),
        place.cache()
    );
    let places = (&*cluster.state(), &*cluster.store());
    cluster.serve_by(&coordinator_file("127.0.0.1:0", places, &data, &limits));
    let run = cluster.ctl(&["submit", &cluster.file("job.toml", &job(&data))]);
    let message = text(&run.stderr);
    assert_eq!(run.status.code(), Some(2), "{message}");
    for part in ["not fetched within 300ms", "hub.timeout", "raise the bound"] {
        assert!(message.contains(part), "no {part:?} in:\n{message}");
    }
}
