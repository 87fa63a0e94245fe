//! What jobs read: from stores, and nothing that they may not.

mod stores;

use super::harness::usage::usage;
use super::harness::{Cluster, binary, copy_tiny, ends, superglue, text, tiny, tiny_cb};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Submits a job that must be refused, and looks for each part of the message.
fn refused(cluster: &Cluster, job: &str, parts: &[&str]) {
    let run = cluster.ctl(&["submit", &cluster.file("refused.toml", job)]);
    let message = text(&run.stderr);
    assert_eq!(run.status.code(), Some(2), "{message}\n{}", cluster.logs());
    for part in parts.iter().chain(&["expected: "]) {
        assert!(message.contains(part), "no {part:?} in:\n{message}");
    }
}

/// A job with another place of its rows.
fn at(root: &str) -> String {
    tiny_cb(Path::new(root), "")
}

#[test]
fn places_that_may_not_be_read_are_refused_before_anything_is_asked() {
    let mut cluster = Cluster::new("ptv2d");
    let config = format!(
        "listen = \"127.0.0.1:0\"\nstate = {:?}\nroots = [{:?}, \"s3://bucket/allowed\"]\n\
         [storage]\nendpoint = \"http://127.0.0.1:9\"\nallow_http = true\nretries = 0\n",
        cluster.state(),
        tiny(),
    );
    cluster.set("AWS_ACCESS_KEY_ID", "k".into());
    cluster.set("AWS_SECRET_ACCESS_KEY", "s".into());
    cluster.serve_by(&config);
    let outside = "lies under no root that jobs may read";
    for url in ["s3://bucket", "s3://bucket/allowed-2", "s3://other/allowed", "gs://bucket/allowed"]
    {
        refused(&cluster, &at(url), &[outside, "s3://bucket/allowed", "refused.toml, line 3)"]);
    }
    for url in [
        "s3://bucket/allowed/../x",
        "s3://bucket/allowed/%2e%2e/x",
        "s3://bucket/allowed%2fx",
        "s3://bucket/allowed//x",
        "s3://user@bucket/allowed",
        "s3://bucket:80/allowed",
        "s3://bucket/allowed?versionId=1",
        "S3://bucket/allowed",
        "http://169.254.169.254/latest/meta-data",
        "https://bucket/allowed",
        "s3://169.254.169.254/allowed",
        "s3://2852039166/allowed",
    ] {
        refused(&cluster, &at(url), &["s3://bucket/prefix", "refused.toml, line 3)"]);
    }
    // One that is allowed is asked for: the store is not there.
    refused(&cluster, &at("s3://bucket/allowed/x"), &["s3://bucket/allowed/x/CB/train.jsonl"]);
}

#[test]
fn a_coordinator_does_not_start_with_such_places() {
    let cluster = Cluster::new("ptv2d");
    for (config, parts) in [
        ("roots = [\"https://example.org/data\"]", ["over `https://`", "s3://bucket/prefix"]),
        ("roots = [\"s3://b/../c\"]", ["climbs", "s3://bucket/prefix"]),
        ("[hub]\nendpoint = \"http://169.254.169.254\"", ["hub.endpoint", "metadata"]),
        ("[hub]\nendpoint = \"http://[::ffff:a9fe:a9fe]/\"", ["hub.endpoint", "metadata"]),
        ("[storage]\nendpoint = \"https://0xa9fea9fe/\"", ["storage.endpoint", "metadata"]),
        ("[storage]\nendpoint = \"https://metadata.google.internal\"", ["storage.", "metadata"]),
        ("[inputs]\nbytes_max = 0", ["inputs.bytes_max", "room"]),
    ] {
        let file = cluster.file("coordinator.toml", config);
        let run = ends(Command::new(binary("ptv2d")).args(["check-config", "--config", &file]));
        let message = text(&run.stderr);
        assert_eq!(run.status.code(), Some(1), "{config}: {message}");
        for part in parts {
            assert!(message.contains(part), "no {part:?} in:\n{message}");
        }
    }
}

/// Copies of CB's files with one of them spoiled.
fn spoiled(cluster: &Cluster, data: &Path) -> PathBuf {
    let root = cluster.folder.path().join("data");
    fs::create_dir_all(root.join("CB")).unwrap();
    for name in ["train.jsonl", "val.jsonl"] {
        fs::copy(data.join("CB").join(name), root.join("CB").join(name)).unwrap();
    }
    root
}

#[test]
fn hostile_files_are_refused_in_little_memory_and_time() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(0, 1);
    let root = spoiled(&cluster, &data);
    let rows = root.join("CB/train.jsonl");
    let whole = cluster.json(&["plan", &cluster.file("plan.toml", &tiny_cb(&root, ""))]);
    assert_eq!(whole["train_rows"], 37);
    let pid = cluster.daemon.as_ref().unwrap().pid();
    let peak = || usage(pid).unwrap().peak;
    let before = peak();

    // A line of a gigabyte, which is as large as a file may be.
    let mut file = fs::File::create(&rows).unwrap();
    file.write_all(b"{\"premise\": \"").unwrap();
    file.set_len(1 << 30).unwrap();
    drop(file);
    let place = format!("{}:1", rows.display());
    refused(&cluster, &tiny_cb(&root, ""), &["more than 16777214 bytes", &place]);
    fs::write(&rows, format!("{{\"a\": {}", "[".repeat(1 << 17))).unwrap();
    refused(&cluster, &tiny_cb(&root, ""), &["recursion limit", &place]);
    fs::write(&rows, format!("{{\"a\": [{}0]}}", "[],".repeat(1 << 20))).unwrap();
    refused(&cluster, &tiny_cb(&root, ""), &["commas and brackets", &place]);
    // A pipe that nobody writes to, and a link out of the roots.
    fs::remove_file(&rows).unwrap();
    assert!(Command::new("mkfifo").arg(&rows).status().unwrap().success());
    refused(&cluster, &tiny_cb(&root, ""), &["no regular file"]);
    fs::remove_file(&rows).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", &rows).unwrap();
    refused(&cluster, &tiny_cb(&root, ""), &["lies under no root"]);

    // A backbone whose weights claim 10^9 elements.
    let backbone = cluster.folder.path().join("backbone");
    copy_tiny(&backbone);
    let job = tiny_cb(&data, "");
    let job = job.replace(&tiny().display().to_string(), &backbone.display().to_string());
    let header = serde_json::json!({"embeddings.word_embeddings.weight":
        {"dtype": "F32", "shape": [1_000_000_000_u64], "data_offsets": [0, 4_000_000_000_u64]}});
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    fs::write(backbone.join("model.safetensors"), bytes).unwrap();
    refused(&cluster, &job, &["the weights are cut off", "model.safetensors"]);

    let grown = peak().saturating_sub(before);
    println!("hostile files: the coordinator's peak memory grew by {} KiB", grown >> 10);
    assert!(grown < 64 << 20, "{grown} bytes");
}
