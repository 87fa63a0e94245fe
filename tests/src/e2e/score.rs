//! Trained values applied: evaluations, predictions, a whole submission.

use super::harness::{Cluster, copy_tiny, superglue, text, tiny, tiny_cb};
use serde_json::Value;
use std::path::Path;

/// The lines of a leaderboard file.
fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A job, a pulled checkpoint of it and its PEFT adapter are the same values, and score the same; on one
/// worker and on two.
#[test]
fn a_job_and_its_adapters_are_evaluated_alike() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(2, 1);
    let trained = cluster.run(&tiny_cb(&data, ""), &["--set", "training.epochs=3"]);
    let id = trained["id"].as_str().unwrap();
    let folder = cluster.folder.path();
    for format in ["native", "peft"] {
        let to = folder.join(format);
        let to = to.to_str().unwrap();
        cluster.json(&["pull", id, "--checkpoint", "last", "--format", format, "--to", to]);
    }
    let few = ["--set", "data.max_val_rows=21", "--wait"];
    let eval =
        |source: &str, more: &[&str]| cluster.json(&[&["eval", source][..], &few, more].concat());
    let last = eval(id, &["--checkpoint", "last", "--workers", "1"]);
    assert_eq!(last["accuracy"], trained["last"]["value"], "{last:#}");
    assert_eq!((&last["rows"], &last["split"]), (&21.into(), &"val".into()));
    let values = |found: &Value| ["accuracy", "f1", "combined_score"].map(|key| found[key].clone());
    let best = eval(id, &[]);
    assert_eq!(best["accuracy"], trained["best"]["value"], "{best:#}");
    let native = eval("./native", &["--workers", "2"]);
    assert_eq!(values(&native), values(&last));
    // What lies beside our PEFT adapter says its task and lengths; a bare one says its prefix only.
    let data = data.to_str().unwrap();
    assert_eq!(values(&eval("./peft", &["--data", data])), values(&last));
    std::fs::remove_file(folder.join("peft/ptv2.json")).unwrap();
    let tiny = tiny().display().to_string();
    let more =
        ["--task", "cb", "--data", data, "--backbone", &tiny, "--set", "data.max_seq_length=48"];
    assert_eq!(values(&eval("./peft", &more)), values(&last));
    // All rows, where no limit is set: those of the job that trained it are not taken over.
    assert_eq!(cluster.json(&["eval", id, "--wait"])["rows"], 56);
}

#[test]
fn predictions_are_the_leaderboard_s_file() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(2, 1);
    let trained = cluster.run(&tiny_cb(&data, ""), &[]);
    let id = trained["id"].as_str().unwrap();
    let folder = cluster.folder.path();
    let predict = |to: &str, more: &[&str]| {
        cluster.json(&[&["predict", id, "--checkpoint", "last", "--to", to][..], more].concat())
    };
    let one = predict("one.jsonl", &["--workers", "1"]);
    let two = predict("two.jsonl", &["--workers", "2"]);
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    assert_eq!(read("one.jsonl"), read("two.jsonl"), "whoever computes it");
    let found = lines(&folder.join("one.jsonl"));
    assert_eq!((found.len(), &one["rows"]), (250, &250.into()));
    let labels = ["entailment", "contradiction", "neutral"];
    for (idx, line) in found.iter().enumerate() {
        assert_eq!(line["idx"], idx);
        assert!(labels.contains(&line["label"].as_str().unwrap()), "{line}");
    }
    // A folder gets the leaderboard's name; a file that is there stays; a job that predicts is fetched again.
    std::fs::create_dir(folder.join("out")).unwrap();
    let again = two["id"].as_str().unwrap();
    cluster.json(&["predict", again, "--to", "out"]);
    assert_eq!(read("out/CB.jsonl"), read("one.jsonl"));
    let run = cluster.ctl(&["predict", again, "--to", "one.jsonl"]);
    assert_eq!(run.status.code(), Some(2), "{}", text(&run.stderr));
}

/// What is wrong is said before anything runs.
#[test]
fn what_cannot_be_scored_is_refused() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(1, 1);
    let trained = cluster.run(&tiny_cb(&data, ""), &[]);
    let id = trained["id"].as_str().unwrap();
    let folder = cluster.folder.path();
    let other = folder.join("other");
    copy_tiny(&other);
    let weights = other.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    let other = other.to_str().unwrap();
    let refused = |args: &[&str], code: i32, said: &[&str]| {
        let run = cluster.ctl(args);
        let message = text(&run.stderr);
        assert_eq!(run.status.code(), Some(code), "{args:?}: {message}");
        assert!(said.iter().all(|said| message.contains(said)), "{args:?}: {message}");
    };
    refused(&["eval", id, "--split", "test"], 2, &["`label` is missing", "test.jsonl:1"]);
    refused(&["eval", id, "--split", "dev"], 2, &["dev"]);
    refused(&["eval", "nothing"], 4, &["nothing"]);
    refused(&["eval", id, "--checkpoint", "7777"], 4, &["7777"]);
    refused(&["eval", id, "--task", "rte"], 2, &["superglue/cb", "superglue/rte"]);
    let [shorter, trains] = ["method.pre_seq_len=4", "training.epochs=3"];
    refused(&["eval", id, "--set", shorter], 2, &["prefix.table", "[5, "]);
    refused(&["eval", id, "--set", trains], 2, &["`training` is set"]);
    // Both backbones are named, with their hashes.
    let tiny = tiny().canonicalize().unwrap().display().to_string();
    refused(&["eval", id, "--backbone", other], 2, &[other, &tiny, "SHA-256"]);
}

/// All of a submission from one command; a second call finds everything done.
#[test]
fn a_submission_is_made_by_one_command_and_taken_up_by_the_next() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(2, 1);
    let config = format!(
        "name = \"tiny\"\nto = \"out\"\n\
         tasks = [\"cb\", \"copa\", \"record\", \"rte\", \"wsc\"]\n\
         [job]\nbackbone.path = \"{}\"\n\
         data = {{ root = \"{}\", max_seq_length = 32, max_train_rows = 24, max_val_rows = 16 }}\n\
         method.pre_seq_len = 4\n\
         training = {{ epochs = 1, batch_size = 12, slices = 3, seeds = [1, 2] }}\n",
        tiny().display(),
        data.display()
    );
    let file = cluster.file("superglue.toml", &config);
    let first = cluster.json(&["superglue", "--config", &file]);
    let files = [
        ("CB.jsonl", 250),
        ("COPA.jsonl", 500),
        ("RTE.jsonl", 3000),
        ("AX-b.jsonl", 1104),
        ("AX-g.jsonl", 356),
        ("WSC.jsonl", 146),
    ];
    assert_eq!(first["predicted"], serde_json::json!(files.map(|(name, _)| name)), "{first:#}");
    // The sample of ReCoRD has no test split, which is said.
    assert!(
        first["notes"][0].as_str().unwrap().starts_with("superglue/record: not predicted"),
        "{first:#}"
    );
    let out = cluster.folder.path().join("out");
    let zip = std::fs::read(out.join("submission.zip")).unwrap();
    let unzip = "import json, sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); z.testzip()\n\
                 print(json.dumps([(n, len(z.read(n).splitlines())) for n in z.namelist()]))";
    let listed = std::process::Command::new("python3")
        .args(["-c", unzip])
        .arg(out.join("submission.zip"))
        .output()
        .unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!(listed, serde_json::json!(files));
    let report = std::fs::read_to_string(out.join("report.md")).unwrap();
    assert!(report.contains("| superglue/cb | val | 16 | accuracy | "), "{report}");
    assert!(report.contains("superglue/record: not predicted"), "{report}");
    let json: Value =
        serde_json::from_slice(&std::fs::read(out.join("report.json")).unwrap()).unwrap();
    assert_eq!(json["jobs"][0]["runs"].as_array().unwrap().len(), 2, "{json:#}");

    let second = cluster.json(&["superglue", "--config", &file]);
    assert_eq!(second["jobs"], first["jobs"]);
    assert_eq!(std::fs::read(out.join("submission.zip")).unwrap(), zip, "the same bytes");
}
