//! Whatever is wrong with a job is said at its submit: what, where, what was expected, what to do.
//! Nothing of it stays, and the coordinator goes on.

use super::harness::{Cluster, copy_backbone, copy_tiny, text, tiny};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;

/// Rows of RTE and a copy of the golden backbone, in a folder that jobs may read.
struct Place<'a> {
    cluster: &'a Cluster,
    folder: PathBuf,
}

/// What a message must say.
struct Said<'a> {
    what: &'a [&'a str],
    expected: &'a str,
    hint: &'a str,
}

impl<'a> Place<'a> {
    fn new(cluster: &'a Cluster, name: &str) -> Self {
        let place = Self { cluster, folder: cluster.folder.path().join(name) };
        std::fs::create_dir_all(place.folder.join("data/RTE")).unwrap();
        copy_tiny(&place.folder.join("model"));
        for split in ["train", "val"] {
            place.rows(split, &[row("entailment"), row("not_entailment")].join("\n"));
        }
        place
    }

    fn model(&self, file: &str) -> PathBuf {
        self.folder.join("model").join(file)
    }

    fn rows(&self, split: &str, rows: &str) {
        std::fs::write(self.folder.join(format!("data/RTE/{split}.jsonl")), rows).unwrap();
    }

    fn job(&self) -> String {
        format!(
            "task = \"superglue/rte\"\nbackbone.path = \"{}\"\n\
             data = {{ root = \"{}\", max_seq_length = 24 }}\nmethod.pre_seq_len = 5\n\
             training = {{ epochs = 1, batch_size = 2, learning_rate = 1e-2 }}\n",
            self.folder.join("model").display(),
            self.folder.join("data").display()
        )
    }

    fn submit(&self, job: &str, more: &[&str]) -> Output {
        let file = self.cluster.file("bad.toml", job);
        self.cluster.ctl(&[&["submit", &file], more].concat())
    }

    /// Submits a job that must be refused, and looks for each part of the message.
    fn refused(&self, job: &str, more: &[&str], said: &Said<'_>) {
        let run = self.submit(job, more);
        let message = text(&run.stderr);
        assert_eq!(run.status.code(), Some(2), "{job}\n{message}");
        assert_eq!(text(&run.stdout), "", "{job}");
        let first = message.lines().next().unwrap_or_default();
        for part in said.what {
            assert!(first.contains(part), "no {part:?} in:\n{message}");
        }
        for (label, part) in [("expected: ", said.expected), ("hint: ", said.hint)] {
            let line = message.lines().find_map(|line| line.trim_start().strip_prefix(label));
            assert!(
                line.is_some_and(|line| line.contains(part)),
                "no {label}{part:?} in:\n{message}"
            );
        }
    }

    /// The same by a change of the job file.
    fn changed(&self, from: &str, to: &str, said: &Said<'_>) {
        let job = self.job();
        assert!(job.contains(from), "{from}");
        self.refused(&job.replace(from, to), &[], said);
    }
}

fn row(label: &str) -> String {
    format!(r#"{{"premise": "A cat.", "hypothesis": "The cat.", "label": "{label}", "idx": 0}}"#)
}

/// Writes a safetensors file anew, its header changed.
fn rewrite(path: &Path, change: impl FnOnce(&mut Value)) {
    let bytes = std::fs::read(path).unwrap();
    let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk().unwrap())).unwrap();
    let (header, data) = bytes[8..].split_at(length);
    let mut header: Value = serde_json::from_slice(header).unwrap();
    change(&mut header);
    let header = header.to_string();
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(path, [&length, header.as_bytes(), data].concat()).unwrap();
}

fn is_untouched(cluster: &Cluster) {
    assert_eq!(cluster.json(&["status"]), Value::Array(Vec::new()), "a refused job is there");
    let place = Place::new(cluster, "good");
    let run = place.submit(&place.job(), &[]);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
}

#[test]
fn a_job_file_that_is_wrong_is_refused() {
    let cluster = Cluster::start(0, 1);
    let place = Place::new(&cluster, "place");
    let said = |what, expected, hint| Said { what, expected, hint };
    place.changed(
        "batch_size",
        "batch_sise",
        &said(&["`training.batch_sise`", "bad.toml, line 5"], "one of", "`batch_size`"),
    );
    place.changed(
        "epochs = 1",
        "epochs = \"many\"",
        &said(
            &["`training.epochs`", "\"many\"", "bad.toml, line 5"],
            "a whole number",
            "example-job",
        ),
    );
    place.changed(
        "learning_rate = 1e-2",
        "learning_rate = -1.0",
        &said(&["`training.learning_rate` is -1", "line 5"], "above 0", "example-job"),
    );
    place.changed(
        "epochs = 1",
        "epochs = 1, max_steps = 5",
        &said(
            &["`training.epochs` and `training.max_steps`", "line 5"],
            "one of the two",
            "remove",
        ),
    );
    place.changed(
        "superglue/rte",
        "superglue/rtr",
        &said(&["superglue/rtr", "line 1"], "superglue/rte", "lower-case"),
    );
    place.changed("task =", "task", &said(&["bad.toml", "line 1"], "TOML", "ptv2ctl init"));
    place.changed(
        "max_seq_length = 24",
        "max_seq_length = 60",
        &said(&["65 positions", "64", "line 3"], "at most 64", "lower"),
    );
    let more = ["--set", "resources.workers=3", "--set", "training.slices=2"];
    place.refused(
        &place.job(),
        &more,
        &said(&["3 workers", "2 slices", "--set resources.workers=3"], "at most 2", "raise"),
    );
    let more = ["--set", "training.epochs=many"];
    place.refused(
        &place.job(),
        &more,
        &said(
            &["`training.epochs`", "--set training.epochs=many"],
            "a whole number",
            "example-job",
        ),
    );
    is_untouched(&cluster);
}

#[test]
fn a_backbone_that_is_wrong_is_refused() {
    let cluster = Cluster::start(0, 1);
    let check = |name: &str, spoil: &dyn Fn(&Place<'_>), what: &[&str], expected, hint| {
        let place = Place::new(&cluster, name);
        spoil(&place);
        place.refused(&place.job(), &[], &Said { what, expected, hint });
    };
    let weights = |place: &Place<'_>| place.model("model.safetensors");
    check(
        "no-folder",
        &|place| std::fs::remove_dir_all(place.folder.join("model")).unwrap(),
        &["no-folder/model", "bad.toml, line 2"],
        "an existing path",
        "misspelled",
    );
    check(
        "no-weights",
        &|place| std::fs::remove_file(weights(place)).unwrap(),
        &["no-weights/model/model.safetensors", "bad.toml, line 2"],
        "existing",
        "misspelled",
    );
    check(
        "config",
        &|place| std::fs::write(place.model("config.json"), "{").unwrap(),
        &["no valid JSON", "config/model/config.json"],
        "an encoder",
        "download",
    );
    let cut = |place: &Place<'_>| {
        let bytes = std::fs::read(weights(place)).unwrap();
        std::fs::write(weights(place), &bytes[..bytes.len() - 100]).unwrap();
    };
    check("cut", &cut, &["cut off", "cut/model/model.safetensors"], "bytes", "download");
    let query = "bert.encoder.layer.1.attention.self.query.weight";
    let reshaped = |place: &Place<'_>| {
        rewrite(&weights(place), |header| header[query]["shape"] = [16, 64].into());
    };
    let what = [query, "[16, 64]", "shape/model/model.safetensors"];
    check("shape", &reshaped, &what, "[32, 32]", "config.json");
    let renamed = |place: &Place<'_>| {
        rewrite(&weights(place), |header| {
            let tensor = header.as_object_mut().unwrap().remove(query).unwrap();
            header["else"] = tensor;
        });
    };
    check("missing", &renamed, &[query, "is missing"], "[32, 32]", "one model");
    let pickled = |place: &Place<'_>| {
        std::fs::rename(weights(place), place.model("pytorch_model.bin")).unwrap();
    };
    check("pickle", &pickled, &["a pickle"], "model.safetensors", "convert");
    words_that_disagree(&check);
    is_untouched(&cluster);
}

/// How a backbone is spoiled, and what is said of it.
type Check<'c> = dyn Fn(&str, &dyn Fn(&Place<'_>), &[&str], &'c str, &'c str) + 'c;

/// A tokenizer, a configuration and weights that are not of one model.
fn words_that_disagree(check: &Check<'_>) {
    let longer = |place: &Place<'_>| {
        let config = std::fs::read_to_string(place.model("tokenizer.json")).unwrap();
        let mut config: Value = serde_json::from_str(&config).unwrap();
        config["model"]["vocab"]["zebra"] = 4000.into();
        std::fs::write(place.model("tokenizer.json"), config.to_string()).unwrap();
    };
    let what = ["zebra", "4000", "128", "words/model/tokenizer.json"];
    check("words", &longer, &what, "below 128", "same model");
    let added = |place: &Place<'_>| {
        let text = std::fs::read_to_string(place.model("tokenizer.json")).unwrap();
        let mut tokenizer: Value = serde_json::from_str(&text).unwrap();
        let mut word = tokenizer["added_tokens"][0].clone();
        (word["id"], word["content"]) = (128.into(), "[NEW]".into());
        tokenizer["added_tokens"].as_array_mut().unwrap().push(word);
        std::fs::write(place.model("tokenizer.json"), tokenizer.to_string()).unwrap();
    };
    let what = ["[NEW]", "the id 128", "added/model/tokenizer.json"];
    check("added", &added, &what, "below 128", "same model");
    // A configuration that was made to fit such a tokenizer does not fit the weights.
    let wider = |place: &Place<'_>| {
        added(place);
        let config = std::fs::read_to_string(place.model("config.json")).unwrap();
        let wider = config.replace("\"vocab_size\": 128", "\"vocab_size\": 129");
        assert_ne!(wider, config);
        std::fs::write(place.model("config.json"), wider).unwrap();
    };
    let what = ["word_embeddings.weight` has shape [128, 32]", "wider/model/model.safetensors"];
    check("wider", &wider, &what, "[129, 32]", "one model");
    check(
        "no-words",
        &|place| std::fs::write(place.model("tokenizer.json"), "{}").unwrap(),
        &["no-words/model/tokenizer.json"],
        "tokenizer.json",
        "download",
    );
}

#[test]
fn shards_that_do_not_fit_their_index_are_refused() {
    let cluster = Cluster::start(0, 1);
    let last = "model-00003-of-00003.safetensors";
    let check = |name: &str, spoil: &dyn Fn(&Place<'_>), what: &[&str], expected, hint| {
        let place = Place::new(&cluster, name);
        copy_backbone("backbone-sharded", &place.folder.join("model"));
        std::fs::remove_file(place.model("model.safetensors")).unwrap();
        spoil(&place);
        place.refused(&place.job(), &[], &Said { what, expected, hint });
    };
    let mapped = |place: &Place<'_>, file: &str| {
        let path = place.model("model.safetensors.index.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let mut index: Value = serde_json::from_str(&text).unwrap();
        index["weight_map"]["bert.pooler.dense.bias"] = file.into();
        std::fs::write(&path, index.to_string()).unwrap();
    };
    let index = "model/model.safetensors.index.json";
    check(
        "gone",
        &|place| std::fs::remove_file(place.model(last)).unwrap(),
        &[&format!("gone/model/{last}` cannot be read"), "bad.toml, line 2"],
        "each file that model.safetensors.index.json names",
        "all of its files",
    );
    let outside = "../model.safetensors";
    check("climbs", &|place| mapped(place, outside), &[outside, index], "beside", "its folder");
    let linked = |place: &Place<'_>| {
        std::fs::remove_file(place.model(last)).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", place.model(last)).unwrap();
    };
    check("linked", &linked, &["lies under no root"], "below an allowed root", "all of its files");
    let first = "model-00001-of-00003.safetensors";
    let what = ["`bert.pooler.dense.bias` is not in", first, index];
    check("astray", &|place| mapped(place, first), &what, "that the index names", "one model");
    let pickled = |place: &Place<'_>| {
        let path = place.model("model.safetensors.index.json");
        std::fs::rename(path, place.model("pytorch_model.bin.index.json")).unwrap();
    };
    check("pickle", &pickled, &["a pickle"], "model.safetensors", "convert");
    is_untouched(&cluster);
}

#[test]
fn rows_that_are_wrong_are_refused() {
    let cluster = Cluster::start(0, 1);
    let good = row("entailment");
    let check = |name: &str, train: &str, what: &[&str], expected, hint| {
        let place = Place::new(&cluster, name);
        place.rows("train", train);
        place.refused(&place.job(), &[], &Said { what, expected, hint });
    };
    let line_2 = "data/RTE/train.jsonl:2";
    check("json", &format!("{good}\n{{\"premise\""), &["column 10", line_2], "JSON", "mend");
    let unlabelled = good.replace("\"label\": \"entailment\", ", "");
    check(
        "label",
        &format!("{good}\n{unlabelled}"),
        &["`label` is missing", line_2],
        "entailment",
        "need labels",
    );
    let number = good.replace("\"entailment\"", "7");
    check("kind", &format!("{good}\n{number}"), &["`label` is 7", line_2], "entailment", "mend");
    check("empty", "", &["no rows", "data/RTE/train.jsonl"], "at least one", "copied");

    let place = Place::new(&cluster, "no-split");
    std::fs::remove_file(place.folder.join("data/RTE/val.jsonl")).unwrap();
    let what = ["RTE/val.jsonl", "bad.toml, line 3"];
    place.refused(
        &place.job(),
        &[],
        &Said { what: &what, expected: "existing", hint: "misspelled" },
    );

    // Neither by its name nor by a link in an allowed folder.
    let place = Place::new(&cluster, "outside");
    let outside = Said {
        what: &["lies under no root", "bad.toml, line 3"],
        expected: "allowed roots",
        hint: "--allow",
    };
    let data = place.folder.join("data").display().to_string();
    place.changed(&data, "/etc", &outside);
    let link = place.folder.join("link");
    std::os::unix::fs::symlink("/etc", &link).unwrap();
    place.changed(&data, &link.display().to_string(), &outside);
    is_untouched(&cluster);
}

#[test]
fn an_adapter_of_another_shape_is_refused() {
    let cluster = Cluster::start(0, 1);
    let place = Place::new(&cluster, "place");
    // Its head has three outputs, for CB; RTE wants two.
    let adapter = tiny().parent().unwrap().join("peft").display().to_string();
    let more = ["--set", &format!("init.adapter={adapter}")];
    let what = ["base_model.classifier.bias", "[3]", "peft/adapter_model.safetensors"];
    let said = Said { what: &what, expected: "[2]", hint: "same backbone" };
    place.refused(&place.job(), &more, &said);
    is_untouched(&cluster);
}

#[test]
fn a_repeated_submit_finds_the_first_job() {
    let cluster = Cluster::start(0, 1);
    let place = Place::new(&cluster, "place");
    let key = ["--idempotency-key", "k"];
    let id = |run: Output| {
        assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
        text(&run.stdout).trim().to_owned()
    };
    let first = id(place.submit(&place.job(), &key));
    assert_eq!(id(place.submit(&place.job(), &key)), first);
    let other = [&key[..], &["--set", "training.seed=3"]].concat();
    let said = Said { what: &["idempotency key", "SHA-256"], expected: "SHA-256", hint: "key" };
    place.refused(&place.job(), &other, &said);
    assert_eq!(cluster.json(&["status"]).as_array().unwrap().len(), 1);
}
